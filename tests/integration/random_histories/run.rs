//! Runs a history against real servers: the sessions on the source, the program between the servers, the faults. In the
//! end the oracle compares both sides. Every wait is bounded.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::demo::cluster::{LocalCluster, StopMode};
use pgsluice::demo::compare::{ComparedSide, compare_selected};
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use tempfile::TempDir;
use tokio_postgres::Client;

use super::decoding;
use super::held::Held;
use super::history::{Fault, History, Step};
use super::session::{Session, Tally};
use super::ways::Ways;
use crate::harness::clusters::{connect, installation, options, start_with};

/// Another build of the program, for instance one that was broken to see whether that is found.
const PROGRAM_VARIABLE: &str = "PGSLUICE_SOAK_PROGRAM";
/// Exit codes of what another start can put right: a lost connection, a server that is not up.
const START_AGAIN: [i32; 2] = [1, 2];
/// Longest way to where it streams, and from there to the end of what there is.
const CATCH_UP_WAIT: Duration = Duration::from_secs(60);
/// As long as something is open on the source, the program may have to wait for it.
const OPEN_WAIT: Duration = Duration::from_millis(250);
/// A stopped program ends within this, and a slot becomes free.
const END_WAIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// Lines of the program's log that a failure shows.
const LOG_LINES: usize = 25;

/// What became of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    /// It could not be run, which says nothing about the program.
    Invalid(String),
    /// The source cannot decode it, as it says itself: nothing about the program either.
    Undecodable(String),
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// Both sides do not hold the same rows.
    Differs,
    /// The program ended by itself, with this exit code if not by a signal.
    Ended(Option<i32>),
    /// It did not get there in time.
    TooLate,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) tally: Tally,
    pub(super) restarts: u64,
    pub(super) faults: u64,
    pub(super) rows: u64,
    pub(super) ways: Ways,
}

/// A source and a target that many histories are run on, one after the other.
pub(super) struct Servers {
    source: LocalCluster,
    target: LocalCluster,
    target_major: u32,
}

impl Servers {
    pub(super) async fn start(source: u32, target: u32) -> Self {
        let options = || options().setting("max_prepared_transactions", "50");
        let (source, target_server) =
            tokio::join!(start_with(source, options()), start_with(target, options()));
        Self { source, target: target_server, target_major: target }
    }

    /// Runs a history in databases of its own.
    pub(super) async fn run(&mut self, history: &History) -> Outcome {
        let mut run = Run {
            servers: self,
            directory: tempfile::tempdir().expect("folder"),
            configuration: history.configuration.join("\n"),
            replicator: None,
            sessions: Vec::new(),
            held: Held::default(),
            excuses: 0,
            log_bytes: 0,
            outcome: Outcome {
                verdict: Verdict::Same,
                tally: Tally::default(),
                restarts: 0,
                faults: 0,
                rows: 0,
                ways: Ways::default(),
            },
        };
        let stopped = match run.create(history).await {
            Ok(()) => run.steps(history).await.err(),
            Err(invalid) => Some(Verdict::Invalid(invalid)),
        };
        let Run { mut outcome, replicator, sessions, .. } = run;
        drop(replicator);
        for session in sessions {
            session.abandon();
        }
        outcome.verdict = match stopped {
            None => Verdict::Same,
            Some(Verdict::Failed(failure)) if failure.kind != FailureKind::Differs => {
                match decoding::internal_error(&self.source).await {
                    Some(error) => Verdict::Undecodable(error),
                    None => Verdict::Failed(failure),
                }
            }
            Some(verdict) => verdict,
        };
        self.clear().await;
        outcome
    }

    /// Nothing of a history is left for the next.
    async fn clear(&mut self) {
        let source = connect(&self.source.url("postgres")).await;
        let gone = "SELECT count(*) FROM pg_replication_slots WHERE database = 'app'";
        let free = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = 'app' AND active;
                    SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = 'app' AND NOT active";
        let deadline = Instant::now() + END_WAIT;
        while number(&source, gone).await != 0 {
            // Between the look and the drop somebody may have taken it.
            let _ = source.batch_execute(free).await;
            assert!(Instant::now() < deadline, "the slot of the last history cannot be dropped");
            tokio::time::sleep(POLL).await;
        }
        end_prepared(&connect_to_app(&self.source).await).await;
        for server in [&self.source, &self.target] {
            let client = connect(&server.url("postgres")).await;
            client.batch_execute("DROP DATABASE IF EXISTS app WITH (FORCE)").await.expect("drop");
        }
    }
}

struct Run<'a> {
    servers: &'a mut Servers,
    directory: TempDir,
    configuration: String,
    replicator: Option<Replicator>,
    sessions: Vec<Session>,
    /// What stands still until it is told to go on.
    held: Held,
    /// How often it may still end and ask to be started again.
    excuses: u32,
    /// Length of its log when it was started last.
    log_bytes: usize,
    outcome: Outcome,
}

impl Run<'_> {
    /// Databases, tables and their first rows.
    async fn create(&mut self, history: &History) -> Result<(), String> {
        for server in [&self.servers.source, &self.servers.target] {
            let client = connect(&server.url("postgres")).await;
            client.batch_execute("CREATE DATABASE app").await.expect("database");
        }
        let client = connect_to_app(&self.servers.source).await;
        let settings =
            history.source_settings.iter().map(|setting| format!("ALTER DATABASE app SET {setting}"));
        let definitions = history.setup.iter().cloned();
        let definitions = definitions.chain(history.tables.iter().flat_map(|table| table.definition.clone()));
        for statement in settings.chain(definitions) {
            let made = client.batch_execute(&statement).await;
            made.map_err(|error| format!("{statement}: {error:?}"))?;
        }
        for row in history.tables.iter().flat_map(|table| &table.rows) {
            // A constraint may object; a row that refers to nothing is none.
            let _ = client.batch_execute(row).await;
        }
        Ok(())
    }

    async fn steps(&mut self, history: &History) -> Result<(), Verdict> {
        let url = self.servers.source.url("app");
        let sessions = history.steps.iter().filter_map(|step| match step {
            Step::Statement(statement) => Some(statement.session + 1),
            _ => None,
        });
        self.sessions = (0..sessions.max().unwrap_or(0)).map(|_| Session::start(&url)).collect();
        for step in &history.steps {
            match step {
                Step::Statement(statement) => {
                    self.sessions[statement.session].step(statement.clone()).await;
                }
                Step::Start => self.start(),
                Step::AwaitStreaming => self.await_streaming(Patience::WhileNothingIsOpen).await?,
                Step::Pause(milliseconds) => tokio::time::sleep(Duration::from_millis(*milliseconds)).await,
                Step::StopProgram => self.held.stop_program(self.replicator.as_ref()),
                Step::HoldTarget => self.held.hold_target(connect_to_app(&self.servers.target).await).await,
                Step::GoOn => self.held.go_on(self.replicator.as_ref()),
                Step::Fault(fault) => self.fault(*fault).await?,
            }
        }
        self.end_sessions().await;
        self.held.go_on(self.replicator.as_ref());
        self.await_streaming(Patience::Full).await?;
        self.catch_up().await?;
        if let Some(replicator) = &self.replicator {
            self.outcome.ways.add(Ways::of(replicator).await);
        }
        self.compare().await
    }

    fn start(&mut self) {
        let command = ReplicatorCommand {
            binary: std::env::var_os(PROGRAM_VARIABLE)
                .map_or_else(|| env!("CARGO_BIN_EXE_pgsluice").into(), PathBuf::from),
            directory: self.directory.path().to_owned(),
            source_url: self.servers.source.url("app"),
            target_url: self.servers.target.url("app"),
            postgres_bin_dir: installation(self.servers.target_major).bindir,
            more_configuration: self.configuration.clone(),
        };
        self.log_bytes = std::fs::metadata(command.log_path()).map_or(0, |log| log.len() as usize);
        self.replicator = Some(command.start().expect("the program"));
    }

    async fn fault(&mut self, fault: Fault) -> Result<(), Verdict> {
        self.held.go_on(self.replicator.as_ref());
        self.outcome.faults += 1;
        if matches!(fault, Fault::CutWalsender | Fault::CrashSource | Fault::CrashTarget) {
            self.excuses += 1;
        }
        match fault {
            Fault::Kill => self.restart(Signal::SIGKILL).await?,
            Fault::Terminate => self.restart(Signal::SIGTERM).await?,
            Fault::CutWalsender => {
                cut(&self.servers.source, "backend_type = 'walsender' AND datname = 'app'").await;
            }
            Fault::CutApply => cut(&self.servers.target, "application_name = 'pgsluice apply'").await,
            Fault::CrashSource => crash(&mut self.servers.source).await,
            Fault::CrashTarget => crash(&mut self.servers.target).await,
        }
        Ok(())
    }

    async fn restart(&mut self, signal: Signal) -> Result<(), Verdict> {
        self.still_runs()?;
        let Some(mut replicator) = self.replicator.take() else { return Ok(()) };
        if signal == Signal::SIGTERM {
            self.outcome.ways.add(Ways::of(&replicator).await);
        }
        replicator.signal(signal);
        if let Err(error) = replicator.wait_for_end(END_WAIT).await {
            return Err(failed(FailureKind::TooLate, &error.to_string(), &replicator));
        }
        self.outcome.restarts += 1;
        self.start();
        Ok(())
    }

    /// Before it streams, the program may end with "start it again" when a server or a connection was taken from it;
    /// whoever watches over it does that. Once it streams it has to go on by itself.
    fn still_runs(&mut self) -> Result<(), Verdict> {
        let Some(status) = self.replicator.as_mut().and_then(Replicator::ended) else { return Ok(()) };
        if status.code().is_some_and(|code| START_AGAIN.contains(&code))
            && self.excuses > 0
            && !self.has_streamed()
        {
            self.excuses -= 1;
            self.outcome.restarts += 1;
            self.start();
            return Ok(());
        }
        let detail = format!("the program ended with {status}");
        match &self.replicator {
            Some(replicator) => Err(failed(FailureKind::Ended(status.code()), &detail, replicator)),
            None => Ok(()),
        }
    }

    /// Whether it has streamed since it was started last.
    fn has_streamed(&self) -> bool {
        let log = self.replicator.as_ref().map_or(String::new(), Replicator::log);
        log.get(self.log_bytes..).is_some_and(|log| log.contains("\"message\":\"streaming\""))
    }

    async fn await_streaming(&mut self, patience: Patience) -> Result<(), Verdict> {
        // What stands still does not answer.
        self.held.go_on(self.replicator.as_ref());
        let begun = Instant::now();
        loop {
            self.still_runs()?;
            let Some(replicator) = &self.replicator else {
                return Err(Verdict::Invalid("the program is never started".into()));
            };
            let status = replicator.api().status().await;
            if status.is_ok_and(|status| status.phase == "streaming") {
                return Ok(());
            }
            if patience == Patience::WhileNothingIsOpen
                && begun.elapsed() > OPEN_WAIT
                && self.something_is_open().await
            {
                return Ok(());
            }
            if begun.elapsed() > CATCH_UP_WAIT {
                return Err(failed(FailureKind::TooLate, "it does not stream", replicator));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn something_is_open(&self) -> bool {
        self.sessions.iter().any(Session::is_open)
            || number(&connect_to_app(&self.servers.source).await, "SELECT count(*) FROM pg_prepared_xacts")
                .await
                > 0
    }

    /// Every session runs what it still has to, and rolls back what is then open.
    async fn end_sessions(&mut self) {
        let client = connect_to_app(&self.servers.source).await;
        let mut ending = tokio::task::JoinSet::new();
        for session in self.sessions.drain(..) {
            ending.spawn(session.end());
        }
        loop {
            match tokio::time::timeout(Duration::from_millis(100), ending.join_next()).await {
                Ok(Some(tally)) => self.outcome.tally.add(tally.expect("a session's end")),
                Ok(None) => break,
                // What nobody ends any more may be what a session waits for.
                Err(_) => end_prepared(&client).await,
            }
        }
        end_prepared(&client).await;
    }

    /// Waits until everything that was committed is durable on the target, by what the program has confirmed (INV-3). A copy of the
    /// slot, which reads ahead, says nothing of that.
    async fn catch_up(&mut self) -> Result<(), Verdict> {
        let client = connect_to_app(&self.servers.source).await;
        let end = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.expect("a position");
        let left = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE database = 'app' AND NOT temporary AND confirmed_flush_lsn >= '{}'",
            end.get::<_, String>(0)
        );
        let begun = Instant::now();
        while number(&client, &left).await == 0 {
            self.still_runs()?;
            if begun.elapsed() > CATCH_UP_WAIT
                && let Some(replicator) = &self.replicator
            {
                return Err(failed(FailureKind::TooLate, "it does not catch up", replicator));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn compare(&mut self) -> Result<(), Verdict> {
        let source = ComparedSide::now(self.servers.source.url("app"));
        let target = ComparedSide::now(self.servers.target.url("app"));
        let compared = compare_selected(&source, &target, |table| table.name != "unpublished").await;
        let detail = match compared {
            Ok(comparison) if comparison.row_differences() == 0 => {
                self.outcome.rows = comparison.rows_compared;
                return Ok(());
            }
            Ok(comparison) => format!("{comparison:#?}"),
            Err(error) => error.to_string(),
        };
        let replicator = self.replicator.as_ref().expect("a program that was waited for");
        Err(failed(FailureKind::Differs, &detail, replicator))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    WhileNothingIsOpen,
    Full,
}

fn failed(kind: FailureKind, detail: &str, replicator: &Replicator) -> Verdict {
    let log = replicator.log();
    let lines: Vec<&str> = log.lines().collect();
    let end = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n");
    Verdict::Failed(Failure { kind, detail: format!("{detail}\nthe end of its log:\n{end}") })
}

async fn cut(server: &LocalCluster, which: &str) {
    let client = connect(&server.url("postgres")).await;
    let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which}");
    client.batch_execute(&sql).await.expect("terminate");
}

async fn crash(server: &mut LocalCluster) {
    server.stop(StopMode::Immediate).await.expect("crash");
    server.start_again().await.expect("the server again");
}

async fn connect_to_app(server: &LocalCluster) -> Client {
    connect(&server.url("app")).await
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

async fn end_prepared(client: &Client) {
    let prepared = client
        .query("SELECT 'ROLLBACK PREPARED ' || quote_literal(gid) FROM pg_prepared_xacts WHERE database = current_database()", &[])
        .await
        .expect("prepared transactions");
    for each in prepared {
        // A session may be ending it at this moment.
        let _ = client.batch_execute(&each.get::<_, String>(0)).await;
    }
}
