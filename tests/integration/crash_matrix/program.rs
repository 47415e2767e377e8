//! The program without its API, in this process: the same migration and the same cutover, with somebody who is told of every
//! action. Its death is the end of its tasks and with them of all its connections, which is what a server sees of a
//! SIGKILL. It is started again whenever it ends, as Kubernetes does.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgsluice::config::{Config, load};
use pgsluice::cutover::{CutoverReport, Outcome};
use pgsluice::migration::monitor::Monitor;
use pgsluice::migration::{Command, CutoverMode, CutoverRequest, Legs, MigrationError, Phase, StatusBoard};
use pgsluice::model::Direction;
use pgsluice::runtime::Shutdown;
use pgsluice::telemetry::Metrics;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::saboteur::Saboteur;

const MAX_PAUSE: Duration = Duration::from_secs(3);
/// Everything must have ended one way or the other by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// How an operation ended, whoever saw it through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Completed,
    AsBefore,
}

impl Ended {
    pub(super) const fn short(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::AsBefore => "before",
        }
    }
}

struct Running {
    tasks: JoinSet<Result<(), MigrationError>>,
    commands: mpsc::Sender<Command>,
    board: StatusBoard,
}

pub(super) struct Program {
    config: Arc<Config>,
    saboteur: Arc<Saboteur>,
    running: Option<Running>,
    restarts: u32,
    _folder: tempfile::TempDir,
}

impl Program {
    pub(super) fn new(urls: (String, String), tools: &Path, saboteur: Arc<Saboteur>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pgsluice.toml");
        let text = format!(
            "[source]\nurl = {:?}\n[target]\nurl = {:?}\n[schema]\npostgres_bin_dir = {:?}\n\
             [cutover]\nlock_out = true\n\
             [[traffic]]\nadapter = \"exec\"\ncommand = [\"/bin/true\"]\n",
            urls.0,
            urls.1,
            tools.display()
        );
        std::fs::write(&file, text).expect("written");
        let config = load(Some(&file), std::iter::empty()).expect("a configuration");
        Self { config: Arc::new(config), saboteur, running: None, restarts: 0, _folder: folder }
    }

    pub(super) fn start(&mut self) {
        let board = StatusBoard::new(Timestamp::now());
        let metrics = Metrics::new().expect("metrics");
        let shutdown = Shutdown::new();
        let (legs, leg) =
            Legs::new(Arc::clone(&self.config), board.clone(), Arc::clone(&metrics), shutdown.clone());
        let legs = legs.watched_by(Arc::clone(&self.saboteur) as _);
        let (commands, taken) = mpsc::channel(4);
        let mut tasks = JoinSet::new();
        tasks.spawn(legs.run(taken));
        let monitor = Monitor { leg, board: board.clone(), metrics, cluster: None };
        tasks.spawn(async move {
            monitor.run(shutdown).await;
            Ok(())
        });
        self.running = Some(Running { tasks, commands, board });
    }

    pub(super) const fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The operation as the board has it.
    pub(super) fn report(&self) -> Option<CutoverReport> {
        self.running.as_ref().and_then(|running| running.board.with(|status| status.cutover.clone()))
    }

    /// Starts it again if it has ended or is to die.
    async fn stays_alive(&mut self) {
        let dies = tokio::time::timeout(Duration::ZERO, self.saboteur.death.notified()).await.is_ok();
        let Some(running) = &mut self.running else { return };
        if dies {
            // Dropping the tasks drops their connections.
            running.tasks.shutdown().await;
        } else {
            match running.tasks.try_join_next() {
                None => return,
                Some(Ok(Err(
                    error @ (MigrationError::Halted { .. } | MigrationError::OtherMigration { .. }),
                ))) => {
                    panic!("{error}: {}", error.remedy());
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        self.restarts += 1;
        self.start();
    }

    /// Until it streams in one of the directions, with a known lag, and no operation is running.
    pub(super) async fn settles(&mut self) -> Direction {
        let begun = Instant::now();
        loop {
            self.stays_alive().await;
            if tokio::time::timeout(Duration::ZERO, self.saboteur.abort.notified()).await.is_ok() {
                self.abort().await;
            }
            let Some(running) = &self.running else { unreachable!("it is started first") };
            let settled = running.board.with(|status| {
                let is_over = status.cutover.as_ref().is_none_or(|report| report.ended_at.is_some());
                let streams = matches!(status.phase, Phase::Streaming | Phase::RollbackWindow);
                (is_over && streams && status.lag.bytes.is_some() && status.problem.is_none())
                    .then_some(status.direction)
            });
            if let Some(direction) = settled {
                return direction;
            }
            let waited = begun.elapsed();
            assert!(waited < SETTLED_WITHIN, "not settled: {:#?}", running.board.read());
            tokio::time::sleep(POLL).await;
        }
    }

    async fn abort(&self) {
        let Some(running) = &self.running else { return };
        let (reply, answer) = oneshot::channel();
        running.commands.send(Command::AbortCutover { reply }).await.expect("it runs");
        answer.await.expect("an answer").expect("it can be aborted");
    }

    /// An operation in the direction that is possible now, to its end; asked for again while it is refused.
    pub(super) async fn operate(&mut self, mode: CutoverMode) -> Ended {
        let from = self.settles().await;
        let begun = Instant::now();
        loop {
            let Some(running) = &self.running else { unreachable!("it is started first") };
            let request = CutoverRequest {
                mode,
                direction: from,
                max_pause: Some(MAX_PAUSE),
                idempotency_key: None,
                unverified: true,
                verification: None,
            };
            let (reply, answer) = oneshot::channel();
            running.commands.send(Command::StartCutover { request, reply }).await.expect("it runs");
            match answer.await.expect("an answer") {
                Ok(_) => break,
                Err(refusal) => {
                    assert!(begun.elapsed() < SETTLED_WITHIN, "refused again and again: {refusal}");
                    tokio::time::sleep(POLL * 5).await;
                }
            }
        }
        let now = self.settles().await;
        if let Some(Outcome::InDoubt { reason, .. }) = self.report().map(|report| report.outcome) {
            panic!("in doubt: {reason}");
        }
        if now == from { Ended::AsBefore } else { Ended::Completed }
    }
}
