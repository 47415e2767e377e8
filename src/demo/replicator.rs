//! The program itself as a child process, as an operator runs it: a configuration file, `run`, the HTTP API. The demo and
//! the tests look at it only through what operators see: API, metrics, log, exit code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cluster::last_lines;
use super::leash::{self, Leash};
use crate::control::ProblemRecord;
use crate::control::dto::{
    CutoverRecord, CutoverRequestRecord, StatusRecord, VerificationRecord, VerificationRequestRecord,
};

/// Longest wait for one answer of the API.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How often a state is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(20);
/// Lines of the log that an error shows.
const LOG_LINES: usize = 15;

/// What can go wrong with the child process or its API.
#[derive(Debug, thiserror::Error)]
pub enum ReplicatorError {
    /// A file or process operation failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// It ended when it should not have.
    #[error("pgsluice ended with {status} while waiting for {awaited}; the end of its log:\n{log}")]
    Ended {
        /// Its exit status.
        status: ExitStatus,
        /// What was waited for.
        awaited: String,
        /// The last lines of its log.
        log: String,
    },
    /// It runs, and does not get there.
    #[error("pgsluice did not reach {awaited} in {waited:?}; the end of its log:\n{log}")]
    TooLate {
        /// What was waited for.
        awaited: String,
        /// How long.
        waited: Duration,
        /// The last lines of its log.
        log: String,
    },
    /// The API did not answer, or not as expected.
    #[error("the API did not answer {request} as expected: {source}")]
    Api {
        /// Method and path.
        request: String,
        /// What the HTTP client says.
        source: reqwest::Error,
    },
    /// The API refused.
    #[error("{} {}", .0.detail, .0.remedy)]
    Refused(Box<ProblemRecord>),
}

/// How the program is started.
#[derive(Clone, Debug)]
pub struct ReplicatorCommand {
    /// The executable.
    pub binary: PathBuf,
    /// Folder for its configuration, token and log; must exist.
    pub directory: PathBuf,
    /// Connection string of the source.
    pub source_url: String,
    /// Connection string of the target; none if it is empty.
    pub target_url: String,
    /// Folder of `pg_dump` and `psql`.
    pub postgres_bin_dir: PathBuf,
    /// More lines of TOML, after ours: first keys in dotted form (`cutover.max_pause_ms = 500`), then tables.
    pub more_configuration: String,
}

/// A bearer token for one run; the API listens on 127.0.0.1 only.
fn new_token() -> String {
    format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>())
}

impl ReplicatorCommand {
    /// Where the configuration is written.
    #[must_use]
    pub fn configuration_path(&self) -> PathBuf {
        self.directory.join("pgsluice.toml")
    }

    /// Where its log goes.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("pgsluice.log")
    }

    /// Writes configuration and token for an API on `port`.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn write_configuration(&self, port: u16) -> Result<(), ReplicatorError> {
        let token_path = self.directory.join("token");
        if !token_path.exists() {
            write(&token_path, &new_token())?;
        }
        let target = match self.target_url.as_str() {
            "" => String::new(),
            url => format!("target.url = {url:?}\n"),
        };
        let toml = format!(
            "source.url = {:?}\n{target}schema.postgres_bin_dir = {:?}\n\
             api.listen = \"127.0.0.1:{port}\"\napi.token_file = {:?}\n{}\n",
            self.source_url, self.postgres_bin_dir, token_path, self.more_configuration
        );
        write(&self.configuration_path(), &toml)
    }

    /// The program with arguments and a clean environment, for commands that end by themselves (`check`, `cleanup`).
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        clean_environment(&mut command);
        command.args(arguments).arg("--config").arg(self.configuration_path()).current_dir(&self.directory);
        command
    }

    /// Starts `run`; returns at once.
    ///
    /// # Errors
    /// When files or the process cannot be made.
    pub fn start(&self) -> Result<Replicator, ReplicatorError> {
        let port = super::cluster::free_port().map_err(|error| ReplicatorError::Io {
            action: "finding a free port".into(),
            source: std::io::Error::other(error),
        })?;
        self.write_configuration(port)?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .map_err(|source| ReplicatorError::Io { action: "opening the log".into(), source })?;
        let copy = log
            .try_clone()
            .map_err(|source| ReplicatorError::Io { action: "opening the log".into(), source })?;
        let mut shell = Command::new(leash::SHELL);
        clean_environment(&mut shell);
        let mut command = leash::prepare(shell, &self.binary);
        command.arg("run").arg("--config").arg(self.configuration_path());
        command.current_dir(&self.directory).stdout(copy).stderr(log);
        let process = Leash::start(command, Signal::SIGKILL, None).map_err(|source| ReplicatorError::Io {
            action: format!("starting {}", self.binary.display()),
            source,
        })?;
        let token = fs::read_to_string(self.directory.join("token"))
            .map_err(|source| ReplicatorError::Io { action: "reading the token".into(), source })?;
        let api = Api::new(format!("http://127.0.0.1:{port}"), token)?;
        Ok(Replicator { process, api, log_path: self.log_path() })
    }
}

/// A running `pgsluice run`. Dropping it kills it.
pub struct Replicator {
    process: Leash,
    api: Api,
    log_path: PathBuf,
}

impl Replicator {
    /// Its HTTP API.
    #[must_use]
    pub const fn api(&self) -> &Api {
        &self.api
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Everything it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log_path).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Waits until its status satisfies `reached`.
    ///
    /// # Errors
    /// When it ends first, or the time is over.
    pub async fn wait_for_status(
        &mut self,
        awaited: &str,
        longest: Duration,
        reached: impl Fn(&StatusRecord) -> bool,
    ) -> Result<StatusRecord, ReplicatorError> {
        let deadline = Instant::now() + longest;
        loop {
            if let Some(status) = self.ended() {
                return Err(ReplicatorError::Ended { status, awaited: awaited.into(), log: self.log_end() });
            }
            // Not listening yet is not an error while it starts.
            if let Ok(status) = self.api.status().await
                && reached(&status)
            {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(ReplicatorError::TooLate {
                    awaited: awaited.into(),
                    waited: longest,
                    log: self.log_end(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for phase `streaming`.
    ///
    /// # Errors
    /// As [`Self::wait_for_status`].
    pub async fn wait_until_streaming(&mut self, longest: Duration) -> Result<StatusRecord, ReplicatorError> {
        self.wait_for_status("phase streaming", longest, |status| status.phase == "streaming").await
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the time is over.
    pub async fn wait_for_end(&mut self, longest: Duration) -> Result<ExitStatus, ReplicatorError> {
        let deadline = Instant::now() + longest;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let awaited = "its end".into();
                return Err(ReplicatorError::TooLate { awaited, waited: longest, log: self.log_end() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_end(&self) -> String {
        last_lines(&self.log(), LOG_LINES)
    }
}

/// Speaks to the API as a script would.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Api {
    fn new(base: String, token: String) -> Result<Self, ReplicatorError> {
        let broken =
            |source: std::io::Error| ReplicatorError::Io { action: "setting up HTTP".into(), source };
        // Plain HTTP only; the client wants a TLS configuration all the same.
        let tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| broken(std::io::Error::other(error)))?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(ANSWER_WAIT)
            .build()
            .map_err(|source| ReplicatorError::Api { request: "nothing yet".into(), source })?;
        Ok(Self { base, token, http })
    }

    /// The address, e.g. `http://127.0.0.1:23456`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<StatusRecord, ReplicatorError> {
        self.ask(Method::GET, "/v1/status", None::<&()>, None).await
    }

    /// `POST /v1/cutover`.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn start_cutover(
        &self,
        request: CutoverRequestRecord,
        idempotency_key: &str,
    ) -> Result<CutoverRecord, ReplicatorError> {
        self.ask(Method::POST, "/v1/cutover", Some(&request), Some(idempotency_key)).await
    }

    /// `POST /v1/rollback`.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn start_rollback(
        &self,
        request: CutoverRequestRecord,
    ) -> Result<CutoverRecord, ReplicatorError> {
        self.ask(Method::POST, "/v1/rollback", Some(&request), None).await
    }

    /// `GET /v1/cutover`.
    ///
    /// # Errors
    /// When there is none or it does not answer.
    pub async fn cutover(&self) -> Result<CutoverRecord, ReplicatorError> {
        self.ask(Method::GET, "/v1/cutover", None::<&()>, None).await
    }

    /// `POST /v1/cutover/abort`.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn abort_cutover(&self) -> Result<CutoverRecord, ReplicatorError> {
        self.ask(Method::POST, "/v1/cutover/abort", None::<&()>, None).await
    }

    /// `POST /v1/verify`.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub async fn start_verification(
        &self,
        request: VerificationRequestRecord,
    ) -> Result<VerificationRecord, ReplicatorError> {
        self.ask(Method::POST, "/v1/verify", Some(&request), None).await
    }

    /// `POST /v1/verify/stop`.
    ///
    /// # Errors
    /// When none is running or it does not answer.
    pub async fn stop_verification(&self) -> Result<VerificationRecord, ReplicatorError> {
        self.ask(Method::POST, "/v1/verify/stop", None::<&()>, None).await
    }

    /// `GET /v1/verify`.
    ///
    /// # Errors
    /// When there is none or it does not answer.
    pub async fn verification(&self) -> Result<VerificationRecord, ReplicatorError> {
        self.ask(Method::GET, "/v1/verify", None::<&()>, None).await
    }

    /// `GET` of any path: status code and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn get(&self, path: &str) -> Result<(StatusCode, String), ReplicatorError> {
        let failed = |source| ReplicatorError::Api { request: format!("GET {path}"), source };
        let answer = self.http.get(format!("{}{path}", self.base)).send().await.map_err(failed)?;
        Ok((answer.status(), answer.text().await.map_err(failed)?))
    }

    /// One sample of `GET /metrics`, e.g. `pgsluice_applied_transactions_total`; the sum over all labels. `None` when
    /// there is no such metric.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metric(&self, name: &str) -> Result<Option<f64>, ReplicatorError> {
        let (_, text) = self.get("/metrics").await?;
        Ok(sum_of_metric(&text, name))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        idempotency_key: Option<&str>,
    ) -> Result<T, ReplicatorError> {
        let failed = |source| ReplicatorError::Api { request: format!("{method} {path}"), source };
        let mut request =
            self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await.map_err(failed)?;
        if answer.status().is_success() {
            return answer.json().await.map_err(failed);
        }
        Err(ReplicatorError::Refused(answer.json().await.map_err(failed)?))
    }
}

/// Adds up the samples of one metric in Prometheus' text format.
fn sum_of_metric(text: &str, name: &str) -> Option<f64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    samples.fold(None, |sum, sample| Some(sum.unwrap_or(0.0) + sample))
}

/// None of our own variables, nor libpq's: what the child does is to depend on its configuration file alone.
fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
}

fn write(path: &Path, content: &str) -> Result<(), ReplicatorError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |source| ReplicatorError::Io { action: format!("writing {}", path.display()), source };
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(content.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_samples_and_not_of_those_that_begin_alike() {
        let text = "# HELP a_total x\na_total{op=\"i\"} 3\na_total{op=\"u\"} 4\na_total_more 9\nb 1e3\n";
        assert_eq!(sum_of_metric(text, "a_total"), Some(7.0));
        assert_eq!(sum_of_metric(text, "b"), Some(1000.0));
        assert_eq!(sum_of_metric(text, "c"), None);
    }
}
