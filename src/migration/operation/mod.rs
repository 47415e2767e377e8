//! The long phase: the stream runs, commands are answered, a cutover may run beside it. One task owns all of it, so
//! that no two cutovers can ever run at once.

mod answers;

use std::future::pending;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::cutover::{CutoverReport, Outcome, RunningCutover};
use crate::join::Wanted;
use crate::model::Direction;
use crate::runtime::{Shutdown, Supervisor};
use crate::snapshot::{self, CopyBoard, CopyContext, CopyHalted, RateLimit, Statistics};
use crate::stream::{self, StreamContext, StreamHalted};
use crate::target::records::{MigrationRecord, RecordedPhase};
use crate::verify::Meeting;

use super::command::{Command, CutoverMode, Refusal};
use super::error::MigrationError;
use super::joining::Joining;
use super::status::{Blocking, Phase, Problem};
use super::task::{LegEnd, Migration};
use super::verifying::{Happens, Verifying};

/// After what should not happen.
const RESTART: &str =
    "Start pgsluice again: it goes on where the target's record is. Please report this with its log.";
/// How long the copy gets to end: what it is building is cancelled on the server.
const COPY_GRACE: std::time::Duration = std::time::Duration::from_secs(4);
/// How long a verification gets to be recorded.
const VERIFICATION_GRACE: std::time::Duration = std::time::Duration::from_secs(2);
/// How long the stream gets to end.
const STREAM_GRACE: std::time::Duration = std::time::Duration::from_secs(3);

/// The streaming migration.
pub(super) struct Operation {
    migration: Migration,
    record: MigrationRecord,
    running: Option<RunningCutover>,
    joining: Joining,
    /// Where the initial copy and the stream meet.
    copy: CopyBoard,
    /// Gathered after the copy.
    statistics: Statistics,
    /// Where verification and the stream meet.
    meeting: Meeting,
    verifying: Verifying,
}

enum Happened {
    Shutdown,
    StreamEnded(Option<StreamHalted>),
    Command(Command),
    CutoverEnded(CutoverReport),
    /// The tables were looked at, or a join has ended.
    Tables,
    /// A verification has ended, or is due.
    Verification(Happens),
    /// The initial copy has ended, statistics included, or a start has found none missing; without a reason if it broke down.
    Copied(Result<(), Option<CopyHalted>>),
}

impl Operation {
    /// An operation whose stream has not begun.
    #[must_use]
    pub(super) fn new(migration: Migration, record: MigrationRecord) -> Self {
        let is_copying = record.phase == RecordedPhase::Copying;
        let copy = if is_copying { CopyBoard::copying() } else { CopyBoard::idle() };
        let joining = Joining::new(&migration, copy.clone());
        let statistics = Statistics::new(Arc::clone(&migration.config), is_copying);
        let meeting = Meeting::default();
        let verifying = Verifying::new(&migration, meeting.clone());
        Self { migration, record, running: None, joining, copy, statistics, meeting, verifying }
    }

    /// Streams and answers until shutdown, or until the migration is cut over and stopped.
    ///
    /// # Errors
    /// [`MigrationError::Halted`] when an operator has to decide.
    pub(super) async fn run(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<LegEnd, MigrationError> {
        self.migration.board.enter(match self.migration.config.direction {
            Direction::Forward if self.copy.is_active() => Phase::Snapshot,
            Direction::Forward => Phase::Streaming,
            Direction::Back => Phase::RollbackWindow,
        });
        let mut copying = self.start_copy()?;
        // What was detached and attached while nobody looked must not be applied as if nothing were missing.
        self.joining.correct_records().await;
        let mut tasks = self.start_stream();
        self.verifying.begin().await;
        loop {
            match self.next(&mut tasks, &mut copying, commands).await {
                // It may have been asked to stop, and then it is not over.
                Happened::Copied(Ok(())) if self.copy.is_active() => {}
                Happened::Copied(Ok(())) => {
                    self.record.phase = RecordedPhase::Streaming;
                    // After a start that looked for statistics it streams already, or does more.
                    if self
                        .migration
                        .board
                        .with(|status| matches!(status.phase, Phase::Snapshot | Phase::Indexes))
                    {
                        self.migration.board.enter(Phase::Streaming);
                    }
                }
                Happened::Copied(Err(halted)) => {
                    tasks.drain(STREAM_GRACE).await;
                    self.joining.stop().await;
                    let (message, remedy) = match halted {
                        Some(halted) => (halted.to_string(), halted.remedy),
                        None => ("the initial copy broke down".to_owned(), RESTART.to_owned()),
                    };
                    return Err(self.halt(message, remedy));
                }
                Happened::Shutdown => {
                    tokio::join!(
                        finish_cutover(self.running.as_mut()),
                        self.joining.stop(),
                        self.verifying.end(VERIFICATION_GRACE),
                        copying.drain(COPY_GRACE)
                    );
                    tasks.drain(STREAM_GRACE).await;
                    return Ok(LegEnd::Stopped);
                }
                Happened::Tables => {
                    if self.running.is_none() {
                        if self.joining.needs_stream_to_stop() {
                            let _ = self.restart_stream(&mut tasks, &[]).await;
                        }
                        self.joining.go_on();
                    }
                }
                Happened::Verification(Happens::Due) if !self.can_be_verified() => self.verifying.put_off(),
                Happened::Verification(happened) => self.verifying.account_for(happened).await,
                Happened::StreamEnded(Some(_))
                    if self.running.is_none() && self.joining.explains_the_halt().await =>
                {
                    tracing::warn!(
                        "the stream met changes of a table that was attached again; it is copied again"
                    );
                    tasks = self.start_stream();
                }
                Happened::StreamEnded(halted) => {
                    if let Some(committed) = self.end_cutover_without_stream().await {
                        self.joining.stop().await;
                        return self.migration.serve_cut_over(commands, committed).await;
                    }
                    copying.drain(COPY_GRACE).await;
                    return halted.map_or(Ok(LegEnd::Stopped), |halted| {
                        Err(self.halt(halted.to_string(), halted.remedy))
                    });
                }
                Happened::Command(Command::AddTables { tables, reply }) => {
                    let _ = reply.send(self.add_tables(&mut tasks, &tables).await);
                }
                Happened::Command(command) => self.answer(command).await,
                Happened::CutoverEnded(report) => {
                    self.running = None;
                    if report.mode == CutoverMode::Cutover && report.outcome == Outcome::Completed {
                        self.migration.board.enter(Phase::CutOver);
                        tasks.drain(STREAM_GRACE).await;
                        self.joining.stop().await;
                        self.migration.record_cut_over().await;
                        return Ok(self.migration.after_cut_over());
                    }
                }
            }
        }
    }

    fn start_stream(&self) -> Supervisor<StreamHalted> {
        let mut tasks = Supervisor::new(self.migration.shutdown.child());
        let context = StreamContext {
            config: self.migration.config.clone(),
            record: self.record.clone(),
            publisher: self.migration.publisher.clone(),
            board: self.migration.board.clone(),
            metrics: self.migration.metrics.clone(),
            copy: self.copy.clone(),
            meeting: self.meeting.clone(),
        };
        let shutdown: Shutdown = tasks.shutdown().clone();
        tasks.spawn("stream", stream::run(context, shutdown));
        tasks
    }

    /// Goes on with the initial copy, if it is not over, and with what comes after it.
    fn start_copy(&self) -> Result<Supervisor<CopyHalted>, MigrationError> {
        let mut tasks = Supervisor::new(self.migration.shutdown.child());
        let (statistics, shutdown) = (self.statistics.clone(), tasks.shutdown().clone());
        if !self.copy.is_active() {
            if self.migration.config.direction == Direction::Forward {
                tasks.spawn("statistics", async move {
                    statistics.gather(&shutdown).await;
                    Ok(())
                });
            }
            return Ok(tasks);
        }
        let slot_snapshot = self.record.slot_snapshot.as_deref().and_then(|text| text.parse().ok());
        let config = &self.migration.config;
        let context = CopyContext {
            config: Arc::clone(config),
            slot_snapshot: slot_snapshot.ok_or(MigrationError::RecordVanished)?,
            copy: self.copy.clone(),
            post_data: self.migration.post_data.clone(),
            stream: self.migration.stream.clone(),
            status: self.migration.board.clone(),
            metrics: Arc::clone(&self.migration.metrics),
            rate: Arc::new(RateLimit::new(config.snapshot.max_bytes_per_second)),
            shutdown: tasks.shutdown().clone(),
        };
        tasks.spawn("copy", async move {
            snapshot::run(context).await?;
            statistics.gather(&shutdown).await;
            Ok(())
        });
        Ok(tasks)
    }

    /// Ends the stream's tasks, changes the records that the next ones go by, and starts those.
    async fn restart_stream(
        &mut self,
        tasks: &mut Supervisor<StreamHalted>,
        wanted: &[Wanted],
    ) -> Result<(), Refusal> {
        tracing::info!("the stream pauses for a moment: tables are to be copied again");
        let ended = std::mem::replace(tasks, Supervisor::new(self.migration.shutdown.child()));
        ended.drain(STREAM_GRACE).await;
        self.joining.correct_records().await;
        let recorded = self.joining.record(wanted).await;
        *tasks = self.start_stream();
        recorded
    }

    async fn next(
        &mut self,
        tasks: &mut Supervisor<StreamHalted>,
        copying: &mut Supervisor<CopyHalted>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Happened {
        let shutdown = self.migration.shutdown.clone();
        let finished = async {
            match &mut self.running {
                Some(running) => running.finished().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = shutdown.requested() => Happened::Shutdown,
            Some(end) = copying.next_end() => Happened::Copied(end.outcome),
            end = tasks.next_end() => Happened::StreamEnded(end.and_then(|end| end.outcome.err().flatten())),
            report = finished => Happened::CutoverEnded(report),
            () = self.joining.happens() => Happened::Tables,
            happened = self.verifying.happens() => Happened::Verification(happened),
            Some(command) = commands.recv() => Happened::Command(command),
        }
    }

    /// Whether one may begin by itself: every table is copied, and no clients are about to be moved.
    fn can_be_verified(&self) -> bool {
        !self.copy.is_active() && self.running.is_none() && !self.verifying.is_running()
    }

    /// Without a stream a cutover cannot prove anything: it is rolled back, and its clients are let go on, however long
    /// their adapters take. Past the point of no return it needs no stream, and comes back to be finished.
    async fn end_cutover_without_stream(&mut self) -> Option<RunningCutover> {
        let mut running = self.running.take()?;
        if running.abort().is_err() && running.report().outcome == Outcome::Running {
            return Some(running);
        }
        tokio::select! {
            _ = running.finished() => {}
            () = self.migration.shutdown.requested() => {
                let _ = tokio::time::timeout(STREAM_GRACE, running.finished()).await;
            }
        }
        None
    }

    fn halt(&self, message: String, remedy: String) -> MigrationError {
        let problem = Problem {
            message: message.clone(),
            remedy: remedy.clone(),
            at: Timestamp::now(),
            blocking: Blocking::Halted,
        };
        self.migration.board.update(|status| status.problem = Some(problem));
        self.migration.board.enter(Phase::Halted);
        MigrationError::Halted { message, remedy }
    }
}

/// A cutover that is under way ends by itself when shutdown is requested: rolled back before the point of no
/// return, left to the next start after it.
async fn finish_cutover(running: Option<&mut RunningCutover>) {
    if let Some(running) = running {
        let _ = tokio::time::timeout(STREAM_GRACE, running.finished()).await;
    }
}
