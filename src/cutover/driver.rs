//! Starts operations and hands out what the migration keeps of them. Here are the refusals (nothing changed yet),
//! the abort that races with the commit, and the task that owns the operation; what an operation does is in
//! [`operation`](super::operation).

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::arm::{definitions_followed, nothing_left_behind};
use super::journal::{self, JournalWriter};
use super::log::OperationLog;
use super::operation::{Operation, Purpose};
use super::report::{CutoverReport, Outcome};
use super::state::{Action, Cutover, State};
use super::unfenced::no_subscription;
use super::{CutoverError, Nonce, Probe, SqlFailure};
use crate::config::{Config, OnWriters, TrafficConfig};
use crate::connection::{ConnectionSettings, SqlSession, connect_sql};
use crate::kubernetes::cnpg::ClusterWatch;
use crate::migration::{Blocking, CutoverMode, CutoverRequest, Phase, Refusal, StatusBoard};
use crate::model::{Direction, Side};
use crate::runtime::Shutdown;
use crate::source::fence::{self, FencePlan};
use crate::stream::StreamHandle;
use crate::traffic::{Endpoint, OperatorsWord, Traffic, TrafficContext};

/// How long the fence row may take to be read before an operation is accepted.
const TRUTH_BOUND: std::time::Duration = std::time::Duration::from_secs(1);

/// What an operation works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CutoverContext {
    /// What the operator decided, in the direction of this operation.
    pub config: Arc<Config>,
    /// The same in the other direction, if the side that is left is to be kept current.
    pub way_back: Option<Arc<Config>>,
    /// Who is told of every action; nobody, but in tests.
    pub probe: Option<Arc<dyn Probe>>,
    /// The stream of changes.
    pub stream: StreamHandle,
    /// Where it is told how the operation goes.
    pub board: StatusBoard,
    /// The cluster that is moved into, as its operator sees it, if that is told.
    pub cluster: Option<ClusterWatch>,
    /// Ends an operation in order: rolled back before the point of no return, left to the next start after it.
    pub shutdown: Shutdown,
}

/// Who comes first, the abort or the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Neither yet.
    Free,
    /// The operator: the commit will not happen.
    Aborted,
    /// The commit: too late to abort.
    Committing,
}

/// A running operation. Dropping it ends its task and with it the fence transaction: a rollback, unless COMMIT is
/// on its way.
#[derive(Debug)]
pub struct RunningCutover {
    report: watch::Receiver<CutoverReport>,
    claim: Arc<watch::Sender<Claim>>,
    word: OperatorsWord,
    awaits_word: bool,
    _task: JoinSet<()>,
}

impl RunningCutover {
    /// How it stands.
    #[must_use]
    pub fn report(&self) -> CutoverReport {
        self.report.borrow().clone()
    }

    /// Has it rolled back. Returns at once; when this is `Ok`, the fence will not be committed.
    ///
    /// # Errors
    /// It has ended, or is past the point of no return.
    pub fn abort(&self) -> Result<(), Refusal> {
        let report = self.report();
        if report.mode == CutoverMode::Cutover && report.outcome == Outcome::Completed {
            return Err(Refusal::PastThePointOfNoReturn {
                message: "The operation is completed: the target is the primary.".into(),
                remedy: "Nothing can be aborted any more; see `pgsluice status`.".into(),
            });
        }
        if report.ended_at.is_some() {
            return Err(Refusal::Conflict {
                message: "The operation has ended already.".into(),
                remedy: "Nothing is running that could be aborted; see `pgsluice status`.".into(),
            });
        }
        self.claim.send_if_modified(|claim| {
            let free = *claim == Claim::Free;
            if free {
                *claim = Claim::Aborted;
            }
            free
        });
        if *self.claim.borrow() == Claim::Aborted {
            return Ok(());
        }
        Err(Refusal::PastThePointOfNoReturn {
            message: "The operation is past the point of no return: the fence is committed, or about to be."
                .into(),
            remedy: "Let it finish; the target becomes the primary.".into(),
        })
    }

    /// Gives the operator's word that a `manual` traffic adapter waits for.
    ///
    /// # Errors
    /// Nobody waits for it.
    pub fn confirm(&self) -> Result<(), Refusal> {
        let retargeting = self.report.borrow().state == State::Retargeting.as_str();
        if self.awaits_word && retargeting {
            self.word.give();
            return Ok(());
        }
        Err(Refusal::Conflict {
            message: "No `manual` traffic adapter waits for the operator's word now.".into(),
            remedy:
                "It is waited for once the fence is committed and the target is open (state `retargeting`)."
                    .into(),
        })
    }

    /// Waits for the end and returns the last report. Its outcome is still running (or in doubt) if the operation
    /// was past the point of no return when this process was told to stop: the next start goes on with it.
    /// Cancel safe.
    pub async fn finished(&mut self) -> CutoverReport {
        // An error means that the task has ended, and with it all news.
        let _ = self.report.wait_for(|report| report.ended_at.is_some()).await;
        self.report.borrow().clone()
    }
}

/// Starts a cutover or rehearsal. Returns as soon as it is accepted and recorded; the same `Idempotency-Key` again
/// returns the operation it started.
///
/// # Errors
/// The [`Refusal`] says what is missing; nothing is changed on the source, and on the target nothing but the
/// journal's tables.
pub async fn start(
    ctx: CutoverContext,
    request: CutoverRequest,
) -> Result<(CutoverReport, RunningCutover), Refusal> {
    let target = connect(&ctx, Side::Target, "cutover").await?;
    let journal_session = connect(&ctx, Side::Target, "cutover journal").await?;
    journal::prepare(&target).await.map_err(CutoverError::from)?;
    if let Some(key) = &request.idempotency_key
        && let Some(known) =
            journal::by_key(&target, ctx.config.direction, key).await.map_err(CutoverError::from)?
    {
        return Ok((known.report.clone(), ended(known.report)));
    }
    let max_pause = request.max_pause.unwrap_or(ctx.config.cutover.max_pause);
    streaming_closely(&ctx)?;
    cluster_is_ready(&ctx, request.mode)?;
    let control = connect(&ctx, Side::Source, "cutover control").await?;
    nobody_in_the_way(&ctx, &control, &target, max_pause).await?;
    definitions_followed(&control, &target, &ctx.config).await?;
    let word = OperatorsWord::default();
    let traffic = Traffic::new(&ctx.config.traffic, &word).map_err(CutoverError::from)?;

    let nonce = Nonce::random();
    let started_at = Timestamp::now();
    let key = request.idempotency_key.as_deref();
    let before = journal::highest_epoch(&control, Side::Source)
        .await
        .map_err(CutoverError::from)?
        .max(journal::highest_epoch(&target, Side::Target).await.map_err(CutoverError::from)?);
    let epoch = journal::open_operation(&target, request.mode, &nonce, key, started_at, before)
        .await
        .map_err(CutoverError::from)?;
    let report = CutoverReport {
        epoch,
        mode: request.mode,
        direction: ctx.config.direction,
        idempotency_key: request.idempotency_key,
        state: State::Arming.as_str(),
        outcome: Outcome::Running,
        started_at,
        ended_at: None,
        steps: Vec::new(),
        pause: None,
        certificate: None,
    };
    let purpose = Purpose {
        nonce,
        max_pause,
        traffic,
        is_resumed: false,
        evidence: serde_json::json!({ "verification": request.verification }),
        marker_lsn: None,
        control: Some(control),
        target: Some(target),
    };
    let begun = Cutover::begin(request.mode);
    Ok(launch(ctx, report, purpose, word, journal_session, begun))
}

/// Puts an operation on its way in a task of its own.
pub(super) fn launch(
    ctx: CutoverContext,
    report: CutoverReport,
    purpose: Purpose,
    word: OperatorsWord,
    journal_session: SqlSession,
    begun: (Cutover, Vec<Action>),
) -> (CutoverReport, RunningCutover) {
    let (publisher, receiver) = watch::channel(report.clone());
    let claim = Arc::new(watch::Sender::new(Claim::Free));
    let (queue, writer) = journal::queue();
    let awaits_word = ctx.config.traffic.iter().any(|each| matches!(each, TrafficConfig::Manual { .. }));
    let context = TrafficContext {
        epoch: report.epoch,
        mode: report.mode,
        direction: ctx.config.direction,
        nonce: purpose.nonce.to_string(),
        source: Endpoint::from(&ctx.config.source.connection),
        target: Endpoint::from(&ctx.config.target.connection),
    };
    let log = OperationLog::new(publisher, ctx.board.clone(), queue);
    let operation = Operation::new(ctx, log, Arc::clone(&claim), purpose, context);
    let mut task = JoinSet::new();
    task.spawn(beside_its_journal(operation, begun, writer, journal_session));
    (report, RunningCutover { report: receiver, claim, word, awaits_word, _task: task })
}

async fn beside_its_journal(
    operation: Operation,
    begun: (Cutover, Vec<Action>),
    writer: JournalWriter,
    session: SqlSession,
) {
    // The writer ends when the operation drops its end of the queue.
    tokio::join!(operation.run(begun), writer.run(session));
}

/// A handle to an operation that has ended.
pub(super) fn ended(report: CutoverReport) -> RunningCutover {
    let (_, receiver) = watch::channel(report);
    RunningCutover {
        report: receiver,
        claim: Arc::new(watch::Sender::new(Claim::Committing)),
        word: OperatorsWord::default(),
        awaits_word: false,
        _task: JoinSet::new(),
    }
}

async fn connect(
    ctx: &CutoverContext,
    side: Side,
    purpose: &'static str,
) -> Result<SqlSession, CutoverError> {
    let settings = match side {
        Side::Source => &ctx.config.source.connection,
        Side::Target => &ctx.config.target.connection,
    };
    let session = connect_sql(settings, side, purpose).await?;
    if side == Side::Target {
        // On the way back it is fenced, and what is made there for this operation has to pass.
        fence::pass(&*session).await.map_err(SqlFailure::of(side, "prepare a session"))?;
    }
    Ok(session)
}

/// The stream runs and is nearly level.
fn streaming_closely(ctx: &CutoverContext) -> Result<(), Refusal> {
    let (phase, lag) = ctx.board.with(|status| (status.phase, status.lag.bytes));
    let streaming = match ctx.config.direction {
        Direction::Forward => Phase::Streaming,
        Direction::Back => Phase::RollbackWindow,
    };
    if phase != streaming {
        return Err(Refusal::NotReady {
            message: format!("The migration is not streaming: it is in phase `{}`.", phase.as_str()),
            remedy: format!("Wait until `pgsluice status` says `{}`.", streaming.as_str()),
        });
    }
    if let Some((message, remedy)) = stream_waits(&ctx.board) {
        return Err(Refusal::NotReady { message, remedy });
    }
    lag_is_small(lag, ctx.config.cutover.max_lag_bytes)
        .map_err(|(message, remedy)| Refusal::NotReady { message, remedy })
}

/// No side is being replaced, and what is cut over to has a backup.
fn cluster_is_ready(ctx: &CutoverContext, mode: CutoverMode) -> Result<(), Refusal> {
    steady(&ctx.config).map_err(|(message, remedy)| Refusal::NotReady { message, remedy })?;
    let is_for_good = mode == CutoverMode::Cutover && ctx.config.direction == Direction::Forward;
    match ctx.cluster.as_ref().filter(|_| is_for_good).and_then(ClusterWatch::lacks_backup) {
        Some((message, remedy)) => Err(Refusal::NotReady { message, remedy }),
        None => Ok(()),
    }
}

/// Neither side is being replaced by another server just now.
pub(super) fn steady(config: &Config) -> Result<(), (String, String)> {
    let sides = [(Side::Source, &config.source.connection), (Side::Target, &config.target.connection)];
    let moving = |(side, settings): (Side, &ConnectionSettings)| {
        settings.turnover().under_way().map(|how| format!("The {side} is being replaced: {how}."))
    };
    match sides.into_iter().find_map(moving) {
        Some(problem) => {
            Err((problem, "Wait until the cluster has its new primary, then start again.".to_owned()))
        }
        None => Ok(()),
    }
}

/// What the stream waits for, if a person has to end that: no marker would come through, however long the pause.
pub(super) fn stream_waits(board: &StatusBoard) -> Option<(String, String)> {
    board.with(|status| {
        let waiting =
            status.problem.as_ref().filter(|problem| problem.blocking == Blocking::WaitingForOperator)?;
        Some((format!("The stream of changes waits: {}.", waiting.message), waiting.remedy.clone()))
    })
}

/// Whether the lag allows a cutover; if not, a message and its remedy.
pub(super) fn lag_is_small(lag: Option<u64>, max_lag_bytes: u64) -> Result<(), (String, String)> {
    match lag {
        Some(bytes) if bytes <= max_lag_bytes => Ok(()),
        Some(bytes) => Err((
            format!("The target is {bytes} bytes behind; cutover.max_lag_bytes allows {max_lag_bytes}."),
            "Wait until it has caught up, or allow more with PGSLUICE_CUTOVER__MAX_LAG_BYTES (the pause gets longer)."
                .into(),
        )),
        None => Err((
            "The lag is not known yet.".into(),
            "Wait a moment: it is known once the stream has received something.".into(),
        )),
    }
}

/// Nothing writes to the migrated tables past the deny triggers, and the server has locks enough for the fence.
async fn fenceable(ctx: &CutoverContext, control: &SqlSession, plan: &FencePlan) -> Result<(), Refusal> {
    if let Some((child, parent)) = fence::unfenced_parents(control, &ctx.config.source.publication)
        .await
        .map_err(CutoverError::from)?
        .first()
    {
        return Err(Refusal::NotReady {
            message: format!(
                "{} inherits from {}, which is not migrated: statements that name the parent write its rows, and fire none of its \
                 triggers, so they would pass the fence.",
                child.plain(),
                parent.plain()
            ),
            remedy: format!(
                "Take the parent in (source.tables.include, then `pgsluice tables add`), or end it: ALTER TABLE {child} NO INHERIT {parent};"
            ),
        });
    }
    no_subscription(control).await.map_err(|error| match error {
        CutoverError::Refuted { problem, remedy } => Refusal::NotReady { message: problem, remedy },
        other => other.into(),
    })?;
    let (needed, possible) = fence::locks_needed(control, plan).await.map_err(CutoverError::from)?;
    if needed > possible / 2 {
        return Err(Refusal::NotReady {
            message: format!(
                "The fence needs {needed} locks at once, and the server has room for about {possible} of all sessions together: \
                 applications could run out of them."
            ),
            remedy: "Raise max_locks_per_transaction on the side that is left, restart it, and start the cutover again.".into(),
        });
    }
    Ok(())
}

/// No fence, no prepared transaction, and nobody who would hold the fence up for longer than the pause.
async fn nobody_in_the_way(
    ctx: &CutoverContext,
    control: &SqlSession,
    target: &SqlSession,
    max_pause: std::time::Duration,
) -> Result<(), Refusal> {
    if let Some(row) = fence::read_truth(control, TRUTH_BOUND).await.map_err(CutoverError::from)? {
        let already = fence::FenceError::AlreadyCommitted { epoch: row.epoch, moved_to: row.moved_to };
        let (message, remedy) = (already.to_string(), already.remedy());
        return Err(Refusal::PastThePointOfNoReturn { message, remedy });
    }
    let plan = fence::read_plan(control, &ctx.config.source.publication).await.map_err(CutoverError::from)?;
    nothing_left_behind(control, target, &ctx.config).await?;
    let prepared = fence::prepared_transactions(control).await.map_err(CutoverError::from)?;
    if let Some(first) = prepared.first() {
        return Err(Refusal::NotReady {
            message: format!("The source has a transaction that is prepared but not finished: {first}."),
            remedy: "Finish it with COMMIT PREPARED or ROLLBACK PREPARED, then start the cutover again."
                .into(),
        });
    }
    fenceable(ctx, control, &plan).await?;
    let tables: Vec<_> = plan.tables.into_iter().map(|table| (table.oid, table.name)).collect();
    let vacuums = fence::wraparound_vacuums(control, &tables).await.map_err(CutoverError::from)?;
    if let Some((table, pid)) = vacuums.first() {
        return Err(Refusal::NotReady {
            message: format!(
                "An autovacuum to prevent a wraparound of transaction ids is at work on {} (process {pid}): it does not give way.",
                table.plain()
            ),
            remedy: "Wait until it is through (pg_stat_progress_vacuum), or run VACUUM FREEZE on the table some hours before."
                .into(),
        });
    }
    if ctx.config.cutover.on_writers == OnWriters::Terminate {
        return Ok(());
    }
    let long = fence::long_transactions(control, &tables, max_pause).await.map_err(CutoverError::from)?;
    match long.first() {
        None => Ok(()),
        Some(first) => Err(Refusal::NotReady {
            message: format!("A transaction on the source has been writing for longer than the pause allowed: {first}."),
            remedy: "Let it end or end it, then start the cutover again; or set cutover.on_writers = \"terminate\"."
                .into(),
        }),
    }
}

impl From<CutoverError> for Refusal {
    fn from(error: CutoverError) -> Self {
        Self::NotReady { message: error.to_string(), remedy: error.remedy() }
    }
}
