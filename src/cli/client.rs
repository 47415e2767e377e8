//! Commands that talk to a running instance over its HTTP API: start an operation, follow it, and end with its
//! outcome. They hold no state: a command that is interrupted changes nothing about the operation.

mod command;
mod error;
mod http;
mod verification;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::Method;
use serde::Serialize;

use self::http::{Http, NO_BODY};
use super::forecast::Forecast;
use super::render::{ending, progress_line, step_line};
use super::watch::{CLEAR, Size, Watched};
use super::{Exit, OutputFormat, status_text, tables_text};
use crate::connection::Secret;
use crate::control::dto::{
    AddTablesRecord, CutoverModeRecord, CutoverRecord, CutoverRequestRecord, StatusRecord,
    TableStandingRecord, TablesRecord,
};
use crate::model::Direction;

pub use command::{ClientCommand, Rows, Schedule, StatusView, Wait};
pub use error::ClientError;
pub use verification::VerificationAsked;

/// How often an operation is looked at while it is followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// An instance that does not answer while an operation is followed may be restarting: it is waited for this long.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// A running instance, and how results are printed.
#[derive(Clone, Debug)]
pub struct ApiClient {
    http: Http,
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
        Ok(Self { http: Http::new(authority, address, token)?, output })
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
            ClientCommand::Cutover { max_pause, rows } => {
                let request = CutoverRequestRecord {
                    unverified: rows == Rows::Unverified,
                    ..request(CutoverModeRecord::Cutover, max_pause)
                };
                self.start("v1/cutover", request, out).await
            }
            ClientCommand::Rehearse { schedule: Schedule { times: 1, .. }, max_pause } => {
                self.start("v1/cutover", request(CutoverModeRecord::Rehearsal, max_pause), out).await
            }
            ClientCommand::Rehearse { schedule, max_pause } => self.rehearse(schedule, max_pause, out).await,
            ClientCommand::Rollback { mode, max_pause } => {
                let mode = CutoverModeRecord::from((mode, Direction::Back));
                self.start("v1/rollback", request(mode, max_pause), out).await
            }
            ClientCommand::Abort => {
                let accepted: CutoverRecord =
                    self.http.ask(Method::POST, "v1/cutover/abort", NO_BODY).await?;
                // Asked to roll back, having rolled back is success, and having cut over is news.
                match self.follow(accepted.epoch, out).await?.outcome.as_str() {
                    "aborted" => Ok(Exit::Success),
                    _ => Ok(Exit::Decision),
                }
            }
            ClientCommand::Confirm => {
                let accepted: CutoverRecord =
                    self.http.ask(Method::POST, "v1/cutover/confirm", NO_BODY).await?;
                Ok(exit_of(&self.follow(accepted.epoch, out).await?))
            }
            ClientCommand::Tables => {
                let tables: TablesRecord = self.http.ask(Method::GET, "v1/tables", NO_BODY).await?;
                self.print_tables(&tables, out)?;
                Ok(Exit::Success)
            }
            ClientCommand::AddTables { tables, wait } => self.add_tables(tables, wait, out).await,
            ClientCommand::Verify(asked) => self.verify(asked, out).await,
        }
    }

    async fn status(&self, view: StatusView, out: &mut (dyn Write + Send)) -> Result<Exit, ClientError> {
        if (self.output, view) == (OutputFormat::Table, StatusView::Live) {
            return self.watch_live(out).await;
        }
        let mut printed = None;
        loop {
            let status: StatusRecord = self.http.ask(Method::GET, "v1/status", NO_BODY).await?;
            match (self.output, view) {
                (OutputFormat::Json, StatusView::Once) => writeln!(out, "{:#}", json(&status)?)?,
                (OutputFormat::Json, StatusView::Watch | StatusView::Live) => {
                    if printed.as_ref() != Some(&status) {
                        writeln!(out, "{}", json(&status)?)?;
                    }
                    printed = Some(status);
                }
                (OutputFormat::Table, StatusView::Once) => {
                    write!(out, "{}", status_text(&status, Timestamp::now()))?
                }
                (OutputFormat::Table, StatusView::Watch | StatusView::Live) => {
                    writeln!(out, "{}", status_text(&status, Timestamp::now()))?
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
        let mut watched = Watched::new(self.http.address());
        write!(out, "{CLEAR}")?;
        loop {
            // Every second, of thousands of tables: only those that there is something to draw of.
            let path = "v1/status?tables=under_way";
            match self.http.ask::<StatusRecord>(Method::GET, path, NO_BODY).await {
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
        let accepted: TablesRecord = self.http.ask(Method::POST, "v1/tables", Some(&request)).await?;
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
            match self.http.ask::<TablesRecord>(Method::GET, "v1/tables", NO_BODY).await {
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
        request: CutoverRequestRecord,
        out: &mut (dyn Write + Send),
    ) -> Result<Exit, ClientError> {
        let accepted: CutoverRecord = self.http.ask(Method::POST, route, Some(&request)).await?;
        if let Some(mode) = request.mode.filter(|mode| *mode != accepted.mode) {
            let (asked, got) = (mode.as_str(), accepted.mode.as_str());
            return Err(ClientError::AnotherOperation { address: self.http.address(), asked, got });
        }
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
        let request = request(CutoverModeRecord::Rehearsal, max_pause);
        let mut forecast = Forecast::default();
        for number in 1..=schedule.times {
            if number > 1 {
                tokio::time::sleep(schedule.every).await;
            }
            let accepted: CutoverRecord = self.http.ask(Method::POST, "v1/cutover", Some(&request)).await?;
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
            match self.http.ask::<CutoverRecord>(Method::GET, "v1/cutover", NO_BODY).await {
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
}

fn request(mode: CutoverModeRecord, max_pause: Option<Duration>) -> CutoverRequestRecord {
    let max_pause_ms = max_pause.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
    CutoverRequestRecord { mode: Some(mode), max_pause_ms, unverified: false }
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
