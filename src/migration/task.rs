//! The migration itself: finds out where an earlier run stopped, walks the remaining phases, and then keeps the
//! stream going and takes commands. Every phase is recorded on the target in the transaction that completes it, so
//! that a crash anywhere is followed by a correct restart.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::cutover::{self, CutoverContext, RunningCutover};
use crate::model::Side;
use crate::preflight::{self, Finding, Severity, Stage};
use crate::runtime::{Backoff, Shutdown};
use crate::stream::{StreamHandle, StreamPublisher};
use crate::target::records::{self, MigrationIdentity, MigrationRecord, RecordedPhase};
use crate::target::{gate, lock};
use crate::telemetry::Metrics;

use super::command::{Command, Refusal};
use super::error::MigrationError;
use super::operation::Operation;
use super::setup::Setup;
use super::status::{Phase, StatusBoard};

/// How long removing the open gate's triggers may wait for locks: clients are at work on the target by then.
const GATE_REMOVAL_WAIT: Duration = Duration::from_secs(5);

/// How long setting up may take to clean up after itself when the program is stopped.
const CLEAN_UP_GRACE: Duration = Duration::from_secs(4);
/// Delays between tries of what must be recorded in the end.
const RECORD_RETRY_FIRST: Duration = Duration::from_millis(200);
const RECORD_RETRY_LONGEST: Duration = Duration::from_secs(10);

/// What a migration needs.
#[derive(Debug)]
pub struct Migration {
    /// The operator's configuration.
    pub config: Arc<Config>,
    /// Where it says what it is doing.
    pub board: StatusBoard,
    /// Where work is counted.
    pub metrics: Arc<Metrics>,
    /// The stream's writing end.
    pub publisher: StreamPublisher,
    /// The stream's reading end.
    pub stream: StreamHandle,
    /// The signal to stop.
    pub shutdown: Shutdown,
}

impl Migration {
    /// Runs until shutdown, through all phases.
    ///
    /// # Errors
    /// [`MigrationError`]: its exit code says whether a person has to decide something.
    pub async fn run(self, mut commands: mpsc::Receiver<Command>) -> Result<(), MigrationError> {
        let prepared = {
            let prepare = self.prepare();
            tokio::pin!(prepare);
            loop {
                tokio::select! {
                    prepared = &mut prepare => break prepared?,
                    () = self.shutdown.requested() => {
                        // What is under way cleans up after itself: no slot and no statement may outlive us unread.
                        let _ = tokio::time::timeout(CLEAN_UP_GRACE, &mut prepare).await;
                        return Ok(());
                    }
                    Some(command) = commands.recv() => refuse(command, &self.board),
                }
            }
        };
        match prepared {
            Prepared::Streaming(record) => Operation::new(self, record).run(commands).await,
            Prepared::CutOver(finishing) => self.serve_cut_over(commands, Some(finishing)).await,
        }
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
        let identity = identify(&self.config, &source, &target).await?;
        let record = match records::read(&target).await? {
            Some(record) if record.identity == identity => record,
            Some(record) => return Err(MigrationError::other_migration(&record.identity, &identity)),
            None => self.begin(&source, &mut target, &identity).await?,
        };
        tracing::info!(phase = record.phase.as_str(), "migration found");
        match self.recover_cutover(&record).await? {
            (_, Some(finishing)) => Ok(Prepared::CutOver(finishing)),
            (phase, None) => self.set_up(record, phase, source, target).await,
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
        let findings = preflight::run(&self.config, source, target, Stage::Fresh).await?;
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
            metrics: &self.metrics,
            shutdown: &self.shutdown,
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
        super::operation::adopt_recovered(recovered, record.phase)
    }

    async fn connect(&self, side: Side) -> Result<SqlSession, MigrationError> {
        let settings = match side {
            Side::Source => &self.config.source.connection,
            Side::Target => &self.config.target.connection,
        };
        Ok(connect_sql(settings, side, "control").await?)
    }

    /// What a cutover needs of this migration.
    pub(super) fn cutover_context(&self) -> CutoverContext {
        CutoverContext {
            config: Arc::clone(&self.config),
            stream: self.stream.clone(),
            board: self.board.clone(),
            shutdown: self.shutdown.clone(),
        }
    }

    /// The migration is over: the status stays readable until somebody stops the process.
    /// `finishing` is the operation that opens the target and moves the clients, if that was interrupted.
    pub(super) async fn serve_cut_over(
        &self,
        mut commands: mpsc::Receiver<Command>,
        mut finishing: Option<RunningCutover>,
    ) -> Result<(), MigrationError> {
        self.board.enter(Phase::CutOver);
        loop {
            let finished = async {
                match &mut finishing {
                    Some(running) => running.finished().await,
                    None => pending().await,
                }
            };
            let command = tokio::select! {
                () = self.shutdown.requested() => return Ok(()),
                report = finished => {
                    tracing::info!(epoch = report.epoch, outcome = report.outcome.as_str(), "cutover finished");
                    None
                }
                Some(command) = commands.recv() => Some(command),
            };
            match command {
                Some(command) => super::operation::answer_cut_over(command, &self.board, finishing.as_ref()),
                None => {
                    finishing = None;
                    self.record_cut_over().await;
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
        records::enter(&target, RecordedPhase::CutOver).await?;
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
pub async fn check(config: &Config) -> Result<Vec<Finding>, MigrationError> {
    let source = connect_sql(&config.source.connection, Side::Source, "check").await?;
    let target = connect_sql(&config.target.connection, Side::Target, "check").await?;
    let stage = if records::read(&target).await?.is_some() { Stage::Resuming } else { Stage::Fresh };
    Ok(preflight::run(config, &source, &target, stage).await?)
}

enum Prepared {
    Streaming(MigrationRecord),
    CutOver(RunningCutover),
}

/// Which two databases these are.
async fn identify(
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
) -> Result<MigrationIdentity, MigrationError> {
    let sql = "SELECT system_identifier::text, current_database()::text FROM pg_control_system()";
    let source_row =
        source.query_one(sql, &[]).await.map_err(|error| MigrationError::sql(Side::Source, error))?;
    let target_row =
        target.query_one(sql, &[]).await.map_err(|error| MigrationError::sql(Side::Target, error))?;
    Ok(MigrationIdentity {
        source_system_id: source_row.get(0),
        source_database: source_row.get(1),
        target_system_id: target_row.get(0),
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
