//! Commands that talk to a running instance over its HTTP API: start an operation, follow it, and end with its
//! outcome. They hold no state: a command that is interrupted changes nothing about the operation.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode, Url};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::forecast::Forecast;
use super::render::{ending, progress_line, step_line};
use super::watch::{CLEAR, Size, Watched};
use super::{Exit, Failure, OutputFormat, status_text, tables_text};
use crate::connection::{Secret, TlsError, https_client_config};
use crate::control::ProblemRecord;
use crate::control::dto::{
    AddTablesRecord, CutoverModeRecord, CutoverRecord, CutoverRequestRecord, StatusRecord,
    TableStandingRecord, TablesRecord,
};
use crate::migration::CutoverMode;
use crate::model::Direction;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);
/// How often an operation is looked at while it is followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// An instance that does not answer while an operation is followed may be restarting: it is waited for this long.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// A request without body.
const NO_BODY: Option<&()> = None;

/// What is asked of the running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    /// Show the status.
    Status(StatusView),
    /// Cut over, and follow.
    Cutover {
        /// The longest write pause; `None`: as configured there.
        max_pause: Option<Duration>,
    },
    /// Rehearse, and follow.
    Rehearse {
        /// How often.
        schedule: Schedule,
        /// The longest write pause; `None`: as configured there.
        max_pause: Option<Duration>,
    },
    /// Move the primary back to the source, or rehearse that, and follow.
    Rollback {
        /// Real or rehearsal.
        mode: CutoverMode,
        /// The longest write pause; `None`: as configured there.
        max_pause: Option<Duration>,
    },
    /// Roll the running operation back, and follow.
    Abort,
    /// Give the word that a `manual` traffic adapter waits for, and follow.
    Confirm,
    /// Show where every table stands.
    Tables,
    /// Take tables into the running migration.
    AddTables {
        /// As the operator names them.
        tables: Vec<String>,
        /// Whether they are followed.
        wait: Wait,
    },
    /// Not in this version.
    Verify,
}

/// Whether the status is shown once or again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusView {
    /// Once.
    Once,
    /// Every second, until interrupted.
    Watch,
    /// The same, drawn over again on a terminal.
    Live,
}

/// How often something is done, and how long it waits in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// At least once.
    pub times: u32,
    /// From the end of one to the beginning of the next.
    pub every: Duration,
}

/// Whether a command follows what it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until the tables have joined, or a try has failed.
    UntilJoined,
    /// Only until it is accepted.
    No,
}

/// Why a command could not be carried out. What it says is for a person; [`ClientError::exit`] for the shell.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address.
    #[error("\"{given}\" is not the address of an API: {reason}")]
    Address {
        /// As given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up on this machine.
    #[error("TLS cannot be set up here: {0}")]
    Tls(String),
    /// `--ca-file` cannot be used.
    #[error("{0}")]
    Authority(#[from] TlsError),
    /// The instance's certificate does not prove that it is the one that is meant.
    #[error("the certificate of {address} is not trusted: {reason}. Nothing was sent")]
    Untrusted {
        /// Where.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing answers.
    #[error("no pgsluice answers at {address}: {reason}. Nothing was changed")]
    Unreachable {
        /// Where.
        address: String,
        /// What the connection said.
        reason: String,
    },
    /// The command was sent, and no answer came.
    #[error("{address} took the command and did not answer: {reason}. It may be carried out all the same")]
    NoAnswer {
        /// Where.
        address: String,
        /// What the connection said.
        reason: String,
    },
    /// The instance refused.
    #[error("{}", .0.detail)]
    Refused(Box<ProblemRecord>),
    /// Something answers, but not as a pgsluice of this version does.
    #[error("{address} answered with status {status} and not as this version of pgsluice does ({reason})")]
    Unexpected {
        /// Where.
        address: String,
        /// HTTP status.
        status: StatusCode,
        /// What does not fit.
        reason: String,
    },
    /// The operation was accepted, and then nothing more was heard of it.
    #[error(
        "operation {epoch} was accepted, and its end is not known: {reason}. The instance rolls back or finishes it by \
         itself when it starts again"
    )]
    LostSight {
        /// The operation.
        epoch: i64,
        /// What happened.
        reason: String,
    },
    /// Standard output is closed.
    #[error("the result cannot be printed: {0}")]
    Output(#[from] std::io::Error),
}

impl ClientError {
    /// How the program ends because of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            // Exit 1 says that the source is still primary, which nobody knows here.
            Self::Refused(problem)
                if problem.is(ProblemRecord::PAST_THE_POINT_OF_NO_RETURN)
                    || problem.is(ProblemRecord::UNRESPONSIVE) =>
            {
                Exit::Decision
            }
            Self::Refused(problem) if matches!(problem.status, 404 | 409 | 503) => Exit::Failed,
            Self::LostSight { .. } | Self::NoAnswer { .. } => Exit::Decision,
            Self::Output(_) => Exit::Failed,
            Self::Refused(_)
            | Self::Address { .. }
            | Self::Tls(_)
            | Self::Authority(_)
            | Self::Untrusted { .. }
            | Self::Unreachable { .. }
            | Self::Unexpected { .. } => Exit::Usage,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Address { .. } => "Use a URL such as http://127.0.0.1:8080.",
            Self::Tls(_) => "Check the certificates of this machine.",
            Self::Authority(_) => {
                "Check --ca-file (PGSLUICE_CA_FILE): it names a file with certificates in PEM format."
            }
            Self::Untrusted { .. } => {
                "Pass --ca-file (or PGSLUICE_CA_FILE) with the certificate authority that signed it (in Kubernetes `ca.crt` of its \
                 Secret), or with the certificate itself if it is self-signed; and let --api name the host by a name that the \
                 certificate is made out to."
            }
            Self::Unreachable { .. } => {
                "Check that `pgsluice run` is running and that --api names the address it listens on (api.listen)."
            }
            Self::NoAnswer { .. } => "Look with `pgsluice status` before repeating it.",
            Self::Refused(problem) => &problem.remedy,
            Self::Unexpected { .. } => "Check --api, and that both are of the same version.",
            Self::LostSight { .. } => "Look with `pgsluice status` before doing anything else.",
            Self::Output(_) => "Look with `pgsluice status`: only what it says is lost.",
        }
        .to_owned()
    }

    /// What is told of it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::new(self.exit(), self, self.remedy())
    }
}

/// A running instance, and how results are printed.
#[derive(Clone, Debug)]
pub struct ApiClient {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret>,
    output: OutputFormat,
}

impl ApiClient {
    /// A client for the instance at `address`, a URL or `host:port`. Connects only when asked something.
    ///
    /// # Errors
    /// When the address is not one, or TLS cannot be set up.
    pub fn new(address: &str, token: Option<Secret>, output: OutputFormat) -> Result<Self, ClientError> {
        Self::trusting(None, address, token, output)
    }

    /// The same; at an https address, only what is in the file `authority` is trusted, if one is named.
    ///
    /// # Errors
    /// As [`Self::new`]; the file cannot be used.
    pub fn trusting(
        authority: Option<&Path>,
        address: &str,
        token: Option<Secret>,
        output: OutputFormat,
    ) -> Result<Self, ClientError> {
        let base = parse_address(address)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&base, authority)?)
            .no_proxy()
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(REQUEST_TIME_MAX)
            .build()
            .map_err(|error| ClientError::Tls(innermost(&error)))?;
        Ok(Self { http, base, token, output })
    }

    /// Carries out a command, printing to `out` as it goes.
    ///
    /// # Errors
    /// When the instance cannot be reached, refuses, or is lost sight of.
    pub async fn run(
        &self,
        command: ClientCommand,
        out: &mut (dyn Write + Send),
    ) -> Result<Exit, ClientError> {
        match command {
            ClientCommand::Status(view) => self.status(view, out).await,
            ClientCommand::Cutover { max_pause } => {
                self.start("v1/cutover", CutoverModeRecord::Cutover, max_pause, out).await
            }
            ClientCommand::Rehearse { schedule: Schedule { times: 1, .. }, max_pause } => {
                self.start("v1/cutover", CutoverModeRecord::Rehearsal, max_pause, out).await
            }
            ClientCommand::Rehearse { schedule, max_pause } => self.rehearse(schedule, max_pause, out).await,
            ClientCommand::Rollback { mode, max_pause } => {
                let mode = CutoverModeRecord::from((mode, Direction::Back));
                self.start("v1/rollback", mode, max_pause, out).await
            }
            ClientCommand::Abort => {
                let accepted: CutoverRecord = self.ask(Method::POST, "v1/cutover/abort", NO_BODY).await?;
                // Asked to roll back, having rolled back is success, and having cut over is news.
                match self.follow(accepted.epoch, out).await?.outcome.as_str() {
                    "aborted" => Ok(Exit::Success),
                    _ => Ok(Exit::Decision),
                }
            }
            ClientCommand::Confirm => {
                let accepted: CutoverRecord = self.ask(Method::POST, "v1/cutover/confirm", NO_BODY).await?;
                Ok(exit_of(&self.follow(accepted.epoch, out).await?))
            }
            ClientCommand::Tables => {
                let tables: TablesRecord = self.ask(Method::GET, "v1/tables", NO_BODY).await?;
                self.print_tables(&tables, out)?;
                Ok(Exit::Success)
            }
            ClientCommand::AddTables { tables, wait } => self.add_tables(tables, wait, out).await,
            ClientCommand::Verify => {
                self.ask::<serde_json::Value>(Method::POST, "v1/verify", NO_BODY).await.map(|_| Exit::Success)
            }
        }
    }

    async fn status(&self, view: StatusView, out: &mut (dyn Write + Send)) -> Result<Exit, ClientError> {
        if (self.output, view) == (OutputFormat::Table, StatusView::Live) {
            return self.watch_live(out).await;
        }
        let mut printed = None;
        loop {
            let status: StatusRecord = self.ask(Method::GET, "v1/status", NO_BODY).await?;
            match (self.output, view) {
                (OutputFormat::Json, StatusView::Once) => writeln!(out, "{:#}", json(&status)?)?,
                (OutputFormat::Json, StatusView::Watch | StatusView::Live) => {
                    if printed.as_ref() != Some(&status) {
                        writeln!(out, "{}", json(&status)?)?;
                    }
                    printed = Some(status);
                }
                (OutputFormat::Table, StatusView::Once) => write!(out, "{}", status_text(&status))?,
                (OutputFormat::Table, StatusView::Watch | StatusView::Live) => {
                    writeln!(out, "{}", status_text(&status))?
                }
            }
            out.flush()?;
            if view == StatusView::Once {
                return Ok(Exit::Success);
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }

    /// An instance that is away for a while, because it is restarted, say, is waited for; one that refuses is not.
    async fn watch_live(&self, out: &mut (dyn Write + Send)) -> Result<Exit, ClientError> {
        let mut watched = Watched::new(self.base.to_string());
        write!(out, "{CLEAR}")?;
        loop {
            match self.ask::<StatusRecord>(Method::GET, "v1/status", NO_BODY).await {
                Ok(status) => watched.heard(status),
                Err(ClientError::Unreachable { reason, .. } | ClientError::NoAnswer { reason, .. }) => {
                    watched.silent(reason);
                }
                Err(error) => return Err(error),
            }
            let (rows, columns) = console::Term::stdout().size();
            write!(out, "{}", watched.frame(Size { rows: rows.into(), columns: columns.into() }))?;
            out.flush()?;
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }

    async fn add_tables(
        &self,
        tables: Vec<String>,
        wait: Wait,
        out: &mut (dyn Write + Send),
    ) -> Result<Exit, ClientError> {
        let request = AddTablesRecord { tables };
        let accepted: TablesRecord = self.ask(Method::POST, "v1/tables", Some(&request)).await?;
        let ours = |table: &TableStandingRecord| {
            accepted.tables.iter().any(|known| known.schema == table.schema && known.name == table.name)
        };
        if wait == Wait::No {
            self.print_tables(&accepted, out)?;
            return Ok(Exit::Success);
        }
        let mut printed = String::new();
        let mut last_heard = Instant::now();
        loop {
            match self.ask::<TablesRecord>(Method::GET, "v1/tables", NO_BODY).await {
                Ok(mut seen) => {
                    last_heard = Instant::now();
                    seen.tables.retain(ours);
                    let failing = seen.tables.iter().any(|table| table.failing);
                    if failing || seen.tables.iter().all(|table| table.reason.is_none()) {
                        self.print_tables(&seen, out)?;
                        return Ok(if failing { Exit::Failed } else { Exit::Success });
                    }
                    self.print_progress(&seen, &mut printed, out)?;
                }
                // A restarted instance goes on with them.
                Err(ClientError::Unreachable { .. } | ClientError::NoAnswer { .. })
                    if last_heard.elapsed() < SILENCE_MAX => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }

    /// A line for each table whenever something has changed, for a person.
    fn print_progress(
        &self,
        seen: &TablesRecord,
        printed: &mut String,
        out: &mut (dyn Write + Send),
    ) -> Result<(), ClientError> {
        let lines: String = seen.tables.iter().map(progress_line).collect();
        if self.output == OutputFormat::Table && lines != *printed {
            write!(out, "{lines}")?;
            out.flush()?;
            *printed = lines;
        }
        Ok(())
    }

    fn print_tables(&self, tables: &TablesRecord, out: &mut (dyn Write + Send)) -> Result<(), ClientError> {
        match self.output {
            OutputFormat::Table => write!(out, "{}", tables_text(tables))?,
            OutputFormat::Json => writeln!(out, "{:#}", json(tables)?)?,
        }
        Ok(out.flush()?)
    }

    async fn start(
        &self,
        route: &str,
        mode: CutoverModeRecord,
        max_pause: Option<Duration>,
        out: &mut (dyn Write + Send),
    ) -> Result<Exit, ClientError> {
        let max_pause_ms = max_pause.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let request = CutoverRequestRecord { mode: Some(mode), max_pause_ms };
        let accepted: CutoverRecord = self.ask(Method::POST, route, Some(&request)).await?;
        if self.output == OutputFormat::Table {
            writeln!(out, "{} {} accepted", accepted.mode.as_str(), accepted.epoch)?;
        }
        Ok(exit_of(&self.follow(accepted.epoch, out).await?))
    }

    /// Several rehearsals, a line for each, and what they say together.
    async fn rehearse(
        &self,
        schedule: Schedule,
        max_pause: Option<Duration>,
        out: &mut (dyn Write + Send),
    ) -> Result<Exit, ClientError> {
        let max_pause_ms = max_pause.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let request = CutoverRequestRecord { mode: Some(CutoverModeRecord::Rehearsal), max_pause_ms };
        let mut forecast = Forecast::default();
        for number in 1..=schedule.times {
            if number > 1 {
                tokio::time::sleep(schedule.every).await;
            }
            let accepted: CutoverRecord = self.ask(Method::POST, "v1/cutover", Some(&request)).await?;
            let ended = self.follow(accepted.epoch, &mut std::io::sink()).await?;
            if self.output == OutputFormat::Table {
                let pause = ended.pause_ms.map_or_else(|| "-".to_owned(), |pause| format!("{pause:.1} ms"));
                writeln!(out, "{number:>4} of {}  {:<10} {pause}", schedule.times, ended.outcome)?;
                out.flush()?;
            }
            forecast.add(&ended);
        }
        match self.output {
            OutputFormat::Table => write!(out, "{}", forecast.text())?,
            OutputFormat::Json => writeln!(out, "{:#}", forecast.json())?,
        }
        out.flush()?;
        Ok(if forecast.all_completed() { Exit::Success } else { Exit::Failed })
    }

    /// Prints steps as they end, until the operation has ended.
    async fn follow(&self, epoch: i64, out: &mut (dyn Write + Send)) -> Result<CutoverRecord, ClientError> {
        let mut steps_printed = 0;
        let mut last_heard = Instant::now();
        loop {
            match self.ask::<CutoverRecord>(Method::GET, "v1/cutover", NO_BODY).await {
                Ok(seen) if seen.epoch > epoch => {
                    let reason = format!("operation {} has begun meanwhile", seen.epoch);
                    return Err(ClientError::LostSight { epoch, reason });
                }
                Ok(seen) if seen.epoch == epoch => {
                    last_heard = Instant::now();
                    steps_printed = self.print_steps(&seen, steps_printed, out)?;
                    if seen.outcome != "running" {
                        self.print_end(&seen, out)?;
                        return Ok(seen);
                    }
                }
                // The operation is not published yet, or a restarted instance has not read its journal yet.
                Ok(_) => {}
                Err(ClientError::Refused(problem)) if matches!(problem.status, 404 | 503) => {}
                Err(ClientError::Unreachable { .. }) => {}
                Err(error) => return Err(ClientError::LostSight { epoch, reason: error.to_string() }),
            }
            if last_heard.elapsed() > SILENCE_MAX {
                let reason = format!("nothing was heard of it for {} s", SILENCE_MAX.as_secs());
                return Err(ClientError::LostSight { epoch, reason });
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }

    fn print_steps(
        &self,
        seen: &CutoverRecord,
        printed: usize,
        out: &mut (dyn Write + Send),
    ) -> Result<usize, ClientError> {
        let ended = seen.steps.iter().take_while(|step| step.outcome != "running").count();
        if self.output == OutputFormat::Table {
            for step in seen.steps.iter().take(ended).skip(printed) {
                write!(out, "{}", step_line(step))?;
            }
            out.flush()?;
        }
        Ok(ended.max(printed))
    }

    fn print_end(&self, ended: &CutoverRecord, out: &mut (dyn Write + Send)) -> Result<(), ClientError> {
        match self.output {
            OutputFormat::Table => write!(out, "{}", ending(ended))?,
            OutputFormat::Json => writeln!(out, "{:#}", json(ended)?)?,
        }
        Ok(out.flush()?)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync + ?Sized)>,
    ) -> Result<T, ClientError> {
        let url = self.base.join(path).map_err(|error| self.bad_address(&error.to_string()))?;
        let mut request = self.http.request(method.clone(), url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.current());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.silent(&method, &error))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.silent(&method, &error))?;
        let unexpected = |error: serde_json::Error| ClientError::Unexpected {
            address: self.base.to_string(),
            status,
            reason: error.to_string(),
        };
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(unexpected);
        }
        let problem: ProblemRecord = serde_json::from_slice(&bytes).map_err(unexpected)?;
        Err(ClientError::Refused(Box::new(problem)))
    }

    /// What was never sent has changed nothing; what was sent may have.
    fn silent(&self, method: &Method, error: &reqwest::Error) -> ClientError {
        let (address, reason) = (self.base.to_string(), innermost(error));
        if let Some(reason) = refused_certificate(error) {
            return ClientError::Untrusted { address, reason };
        }
        if error.is_connect() || method == Method::GET {
            ClientError::Unreachable { address, reason }
        } else {
            ClientError::NoAnswer { address, reason }
        }
    }

    fn bad_address(&self, reason: &str) -> ClientError {
        ClientError::Address { given: self.base.to_string(), reason: reason.to_owned() }
    }
}

fn exit_of(ended: &CutoverRecord) -> Exit {
    match ended.outcome.as_str() {
        "completed" => Exit::Success,
        "aborted" => Exit::Failed,
        _ => Exit::Decision,
    }
}

fn json<T: Serialize>(record: &T) -> Result<serde_json::Value, ClientError> {
    serde_json::to_value(record).map_err(|error| ClientError::Output(error.into()))
}

/// A URL, or `host:port`; always ending in a slash, so that routes are joined below its path.
fn parse_address(given: &str) -> Result<Url, ClientError> {
    let with_scheme = if given.contains("://") { given.to_owned() } else { format!("http://{given}") };
    let wrong = |reason: String| ClientError::Address { given: given.to_owned(), reason };
    let mut url = Url::parse(&format!("{}/", with_scheme.trim_end_matches('/')))
        .map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(format!("{} is not http or https", url.scheme())));
    }
    if url.password().is_some() || !url.username().is_empty() {
        let _ = url.set_password(None);
        return Err(ClientError::Address {
            given: url.host_str().unwrap_or_default().to_owned(),
            reason: "it contains a user name; give the token with --token-file".to_owned(),
        });
    }
    Ok(url)
}

/// Root certificates are read only where they are needed: most instances are on the same machine.
fn tls(base: &Url, authority: Option<&Path>) -> Result<ClientConfig, ClientError> {
    if let Some(authority) = authority.filter(|_| base.scheme() == "https") {
        return Ok(https_client_config(authority)?);
    }
    let mut roots = RootCertStore::empty();
    if base.scheme() == "https" {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// What is wrong with the server's certificate, if that is why nothing was sent.
fn refused_certificate(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
            return Some(problem.to_string());
        }
        // An IO error passes over what it wraps when it is asked for its cause.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// The innermost cause says what happened (`Connection refused`); the outer ones that sending failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
