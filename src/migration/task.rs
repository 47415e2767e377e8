//! The migration itself: finds out where an earlier run stopped, walks the remaining phases, and then keeps the
//! stream going and takes commands. Every phase is recorded on the target in the transaction that completes it, so
//! that a crash anywhere is followed by a correct restart.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::connection::{SqlSession, connect_sql, system_identity};
use crate::cutover::{self, CutoverContext, CutoverError, Probe, RunningCutover};
use crate::kubernetes::cnpg::{ClusterWatch, Sight};
use crate::model::{Direction, Side};
use crate::preflight::{self, Finding, Severity, Stage};
use crate::runtime::{Backoff, Shutdown};
use crate::snapshot::PostDataAhead;
use crate::source::fence;
use crate::source::slot::{self, DroppedSlot, WhenActive};
use crate::stream::{StreamHandle, StreamPublisher};
use crate::target::records::{self, MigrationIdentity, MigrationRecord, RecordedPhase};
use crate::target::{gate, lock};
use crate::telemetry::Metrics;

use super::command::{Command, Refusal};
use super::error::MigrationError;
use super::operation::Operation;
use super::setup::{COPY_TRIES_MAX, Setup};
use super::status::{Blocking, Phase, Problem, StatusBoard};

/// How long removing the open gate's triggers may wait for locks: clients are at work on the target by then.
const GATE_REMOVAL_WAIT: Duration = Duration::from_secs(5);

/// How long the fence transaction of a process that is gone may take to end.
const TRUTH_BOUND: Duration = Duration::from_secs(15);
/// How long setting up may take to clean up after itself when the program is stopped.
const CLEAN_UP_GRACE: Duration = Duration::from_secs(4);
/// Delays between tries of what must be recorded in the end.
const RECORD_RETRY_FIRST: Duration = Duration::from_millis(200);
const RECORD_RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Delays between tries while a server is away that is copied from or to.
const OUTAGE_RETRY_FIRST: Duration = Duration::from_millis(200);
const OUTAGE_RETRY_LONGEST: Duration = Duration::from_secs(10);

/// What a migration in one direction needs.
#[derive(Debug)]
pub(super) struct Migration {
    /// The operator's configuration, in this direction.
    pub(super) config: Arc<Config>,
    /// The same in the other direction.
    pub(super) other: Arc<Config>,
    /// Who is told of every action of a cutover; nobody, but in tests.
    pub(super) probe: Option<Arc<dyn Probe>>,
    /// Where it says what it is doing.
    pub(super) board: StatusBoard,
    /// Where work is counted.
    pub(super) metrics: Arc<Metrics>,
    /// The stream's writing end.
    pub(super) publisher: StreamPublisher,
    /// The stream's reading end.
    pub(super) stream: StreamHandle,
    /// What the copy finds read already.
    pub(super) post_data: PostDataAhead,
    /// The cluster that is moved into, as its operator sees it, if that is told.
    pub(super) cluster: Option<ClusterWatch>,
    /// The signal to stop.
    pub(super) shutdown: Shutdown,
}

/// How a migration in one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegEnd {
    /// On request.
    Stopped,
    /// Its cutover is completed: what is to be streamed now goes the other way.
    Turned,
    /// It is a way back, and there is none.
    NoWayBack,
}

impl Migration {
    /// Runs until shutdown, through all phases.
    ///
    /// # Errors
    /// [`MigrationError`]: its exit code says whether a person has to decide something.
    pub(super) async fn run(self, commands: &mut mpsc::Receiver<Command>) -> Result<LegEnd, MigrationError> {
        let prepared = {
            let prepare = self.prepare_through_outages();
            tokio::pin!(prepare);
            loop {
                tokio::select! {
                    prepared = &mut prepare => break prepared?,
                    () = self.shutdown.requested() => {
                        // What is under way cleans up after itself: no slot and no statement may outlive us unread.
                        let _ = tokio::time::timeout(CLEAN_UP_GRACE, &mut prepare).await;
                        return Ok(LegEnd::Stopped);
                    }
                    Some(command) = commands.recv() => refuse(command, &self.board),
                }
            }
        };
        match prepared {
            Prepared::Streaming(record) => Operation::new(self, record).run(commands).await,
            Prepared::CutOver(finishing) => self.serve_cut_over(commands, finishing).await,
            Prepared::Ended(end) => Ok(end),
        }
    }

    /// Begins anew, as the next start would, when a server restarts or fails over while it is copied. Before that the operator is
    /// told at once, because what cannot be reached then may be a mistake in the configuration.
    async fn prepare_through_outages(&self) -> Result<Prepared, MigrationError> {
        let mut backoff = Backoff::new(OUTAGE_RETRY_FIRST, OUTAGE_RETRY_LONGEST);
        let (mut copies, mut is_told) = (1, false);
        loop {
            let error = match Box::pin(self.prepare()).await {
                Err(error) if error.is_turnover() => error,
                Err(error) if error.passes() && copies < COPY_TRIES_MAX && self.is_copying() => error,
                ended => {
                    if ended.is_ok() && is_told {
                        self.board.update(|status| status.problem = None);
                    }
                    return ended;
                }
            };
            is_told = true;
            // What cannot be connected to costs nothing to try; a copy does.
            if !matches!(error, MigrationError::Connect(_)) {
                copies += 1;
            }
            let message = if self.is_copying() {
                format!("Slot and plan of the copy are made anew as soon as both sides answer: {error}.")
            } else {
                format!("The migration goes on as soon as the cluster has its primary: {error}.")
            };
            tracing::warn!("{message}");
            let problem = Problem {
                message,
                remedy: error.remedy(),
                at: Timestamp::now(),
                blocking: Blocking::Retrying,
            };
            self.board.update(|status| status.problem = Some(problem));
            tokio::select! {
                () = self.shutdown.requested() => return Err(error),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// Whether this process has begun to copy, or to build what comes after it.
    fn is_copying(&self) -> bool {
        let phase = self.board.with(|status| status.phase);
        matches!(phase, Phase::Slot | Phase::Snapshot | Phase::Indexes)
    }

    /// Everything up to the moment in which changes are applied.
    async fn prepare(&self) -> Result<Prepared, MigrationError> {
        let mut target = self.connect(Side::Target).await?;
        lock::become_replicator(&target).await?;
        lock::wait_for_predecessors(&target).await?;
        if let Some(record) = records::read(&target).await?
            && record.phase == RecordedPhase::CutOver
            && let (_, Some(finishing)) = self.recover_cutover(&record).await?
        {
            // The source may have been switched off by now, and is not needed.
            return Ok(Prepared::CutOver(finishing));
        }
        let source = self.connect(Side::Source).await?;
        // Both sides answer: what was told of an outage is over.
        self.board.update(|status| status.problem = None);
        let recorded = records::read(&target).await?;
        let is_back = self.config.direction == Direction::Back;
        if is_back && recorded.is_none() {
            return Ok(Prepared::Ended(LegEnd::NoWayBack));
        }
        if recorded.is_some() && other_leg_is_unfinished(&source, &target).await? {
            return Ok(Prepared::Ended(LegEnd::Turned));
        }
        let identity = identify(&self.config, &source, &target).await?;
        let record = match recorded {
            Some(record) if record.identity == identity => record,
            Some(record) => return Err(MigrationError::other_migration(&record.identity, &identity)),
            None => self.begin(&source, &mut target, &identity).await?,
        };
        tracing::info!(phase = record.phase.as_str(), "migration found");
        match self.recover_cutover(&record).await? {
            (_, Some(finishing)) => Ok(Prepared::CutOver(finishing)),
            (phase, None) => {
                // Of a way back that is over, or of one that was never needed: it would keep WAL for nobody, and bring our own
                // changes round again.
                let slot = &self.other.source.slot;
                if slot::drop_slot(&target, slot, WhenActive::TerminateOurs).await? == DroppedSlot::Dropped {
                    tracing::info!(slot, "the other direction's slot is dropped");
                }
                Box::pin(self.set_up(record, phase, source, target)).await
            }
        }
    }

    /// Checks both sides and, if nothing is in the way, makes the first change.
    async fn begin(
        &self,
        source: &SqlSession,
        target: &mut SqlSession,
        identity: &MigrationIdentity,
    ) -> Result<MigrationRecord, MigrationError> {
        self.board.enter(Phase::Preflight);
        let sight = self.cluster.as_ref().map(ClusterWatch::sight);
        let sides = preflight::Asked { source, target, cluster: sight.as_ref() };
        let findings = preflight::run(&self.config, sides, Stage::Fresh).await?;
        self.board.update(|status| status.findings.clone_from(&findings));
        if findings.iter().any(|finding| finding.severity == Severity::Blocker) {
            return Err(MigrationError::Blocked(findings));
        }
        records::create(target, identity).await?;
        records::read(target).await?.ok_or(MigrationError::RecordVanished)
    }

    async fn set_up(
        &self,
        record: MigrationRecord,
        phase: RecordedPhase,
        source: SqlSession,
        target: SqlSession,
    ) -> Result<Prepared, MigrationError> {
        let mut setup = Setup {
            config: &self.config,
            board: &self.board,
            shutdown: &self.shutdown,
            post_data: &self.post_data,
            identity: &record.identity,
            source,
            target,
        };
        setup.run_from(phase).await?;
        let record = records::read(&setup.target).await?.ok_or(MigrationError::RecordVanished)?;
        // The apply session is the replicator from here on: it takes the lock anew with every connection.
        lock::resign(&setup.target).await.map_err(|error| MigrationError::sql(Side::Target, error))?;
        Ok(Prepared::Streaming(record))
    }

    /// Ends what an earlier process left of a cutover; the phase to go on with comes back.
    async fn recover_cutover(
        &self,
        record: &MigrationRecord,
    ) -> Result<(RecordedPhase, Option<RunningCutover>), MigrationError> {
        if record.phase < RecordedPhase::Streaming {
            return Ok((record.phase, None));
        }
        let recovered = cutover::recover(self.cutover_context()).await?;
        super::cut_over::adopt_recovered(recovered, record.phase)
    }

    async fn connect(&self, side: Side) -> Result<SqlSession, MigrationError> {
        let settings = match side {
            Side::Source => &self.config.source.connection,
            Side::Target => &self.config.target.connection,
        };
        Ok(connect_sql(settings, side, "control").await?)
    }

    /// A rollback always does: the migration goes on after it.
    fn makes_a_way_back(&self) -> bool {
        self.config.cutover.reverse || self.config.direction == Direction::Back
    }

    /// What a cutover needs of this migration.
    pub(super) fn cutover_context(&self) -> CutoverContext {
        CutoverContext {
            config: Arc::clone(&self.config),
            way_back: self.makes_a_way_back().then(|| Arc::clone(&self.other)),
            probe: self.probe.clone(),
            stream: self.stream.clone(),
            board: self.board.clone(),
            cluster: self.cluster.clone(),
            shutdown: self.shutdown.clone(),
        }
    }

    /// The fence is committed. `finishing` is the operation that opens the target and moves the clients, which was
    /// interrupted if it is not over.
    pub(super) async fn serve_cut_over(
        &self,
        commands: &mut mpsc::Receiver<Command>,
        mut finishing: RunningCutover,
    ) -> Result<LegEnd, MigrationError> {
        self.board.enter(Phase::CutOver);
        loop {
            tokio::select! {
                () = self.shutdown.requested() => return Ok(LegEnd::Stopped),
                report = finishing.finished() => {
                    tracing::info!(epoch = report.epoch, outcome = report.outcome.as_str(), "cutover finished");
                    break;
                }
                Some(command) = commands.recv() => {
                    super::cut_over::answer_cut_over(command, &self.board, Some(&finishing));
                }
            }
        }
        self.record_cut_over().await;
        Ok(self.after_cut_over())
    }

    /// The cutover is completed and recorded: what is streamed now goes the other way, if there is a way back.
    pub(super) fn after_cut_over(&self) -> LegEnd {
        if self.shutdown.is_requested() { LegEnd::Stopped } else { LegEnd::Turned }
    }

    /// The migration is over: the status stays readable until somebody stops the process.
    pub(super) async fn serve_without_way_back(
        &self,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<(), MigrationError> {
        self.board.enter(Phase::CutOver);
        loop {
            tokio::select! {
                () = self.shutdown.requested() => return Ok(()),
                Some(command) = commands.recv() => {
                    super::cut_over::answer_cut_over(command, &self.board, None);
                }
            }
        }
    }

    /// Remembers on the target that the migration is over.
    pub(super) async fn record_cut_over(&self) {
        let mut backoff = Backoff::new(RECORD_RETRY_FIRST, RECORD_RETRY_LONGEST);
        while let Err(error) = self.try_to_record_cut_over().await {
            // The cutover stands: the journal says so, and the next start would find it there.
            tracing::warn!(%error, "the target is the primary, and the migration's record does not say so yet");
            tokio::select! {
                () = self.shutdown.requested() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    async fn try_to_record_cut_over(&self) -> Result<(), MigrationError> {
        let target = self.connect(Side::Target).await?;
        // Without progress nothing can be streamed in this direction any more: no change goes round (INV-8).
        records::end_stream(&target).await?;
        // The gate is open; its triggers cost every statement a little until they are gone.
        if let Err(error) = gate::remove(&target, GATE_REMOVAL_WAIT).await {
            tracing::warn!(%error, "the open gate's triggers stay on the target until `pgsluice cleanup` removes them");
        }
        Ok(())
    }
}

/// Preflight alone: what could stop the migration. Changes nothing.
///
/// # Errors
/// [`MigrationError`] when a side cannot be reached or read.
pub async fn check(config: &Config, cluster: Option<&Sight>) -> Result<Vec<Finding>, MigrationError> {
    let source = connect_sql(&config.source.connection, Side::Source, "check").await?;
    let target = connect_sql(&config.target.connection, Side::Target, "check").await?;
    let stage = if records::read(&target).await?.is_some() { Stage::Resuming } else { Stage::Fresh };
    let sides = preflight::Asked { source: &source, target: &target, cluster };
    Ok(preflight::run(config, sides, stage).await?)
}

enum Prepared {
    Streaming(MigrationRecord),
    CutOver(RunningCutover),
    /// There is nothing to do in this direction.
    Ended(LegEnd),
}

/// Whether the last fence that was committed is of the other direction, and its cutover is not recorded as completed.
async fn other_leg_is_unfinished(source: &SqlSession, target: &SqlSession) -> Result<bool, MigrationError> {
    let Some(closed_by) = fence::read_truth(target, TRUTH_BOUND).await.map_err(CutoverError::from)? else {
        return Ok(false);
    };
    let earlier = fence::read_truth(source, TRUTH_BOUND).await.map_err(CutoverError::from)?;
    let is_last = earlier.is_none_or(|earlier| earlier.epoch < closed_by.epoch);
    let of_the_other = records::read(source).await?;
    Ok(is_last && of_the_other.is_some_and(|record| record.phase == RecordedPhase::Streaming))
}

/// Which two databases these are.
async fn identify(
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
) -> Result<MigrationIdentity, MigrationError> {
    let of_source = system_identity(source).await;
    let (source_system_id, source_database) =
        of_source.map_err(|error| MigrationError::sql(Side::Source, error))?;
    let of_target = system_identity(target).await;
    let (target_system_id, _) = of_target.map_err(|error| MigrationError::sql(Side::Target, error))?;
    Ok(MigrationIdentity {
        source_system_id,
        source_database,
        target_system_id,
        slot: config.source.slot.clone(),
        publication: config.source.publication.clone(),
    })
}

/// Commands make sense only once changes are applied.
fn refuse(command: Command, board: &StatusBoard) {
    let phase = board.with(|status| status.phase);
    let refusal = Refusal::NotReady {
        message: format!("the migration is in phase \"{}\": nothing can be cut over yet", phase.as_str()),
        remedy: "Wait until GET /v1/status shows phase \"streaming\" and a small lag, then try again.".into(),
    };
    command.refuse(refusal);
}
