//! Keeps the stream going: one attempt after another, each from the progress record, with backoff between them, until
//! shutdown or until an operator has to decide. An attempt is three tasks: the reader owns the walsender's socket, the
//! applier owns the target's session, the durability watch owns a second one. When one ends, all do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::connection::{Incumbent, SqlSession, connect_sql, timeline};
use crate::migration::{Blocking, Problem, StatusBoard};
use crate::model::{Direction, Disposition, Lsn, Side};
use crate::runtime::{Backoff, ByteBudget, Shutdown, Supervisor, TaskEnd};
use crate::snapshot::{CopyBoard, read_unpassed};
use crate::source::fence;
use crate::target::lock;
use crate::target::progress::{self, Progress};
use crate::target::records::{self, MigrationRecord, RecordedPhase};
use crate::target::same_server::same_server;
use crate::target::{CommitReceipt, DurabilityNews, DurabilityWatch};
use crate::telemetry::Metrics;
use crate::verify::Meeting;

use super::batch::Way;
use super::error::StreamError;
use super::executor::{Executor, ExecutorSetup};
use super::gather::{Gatherer, GathererSetup};
use super::gather_loop::GatherLoop;
use super::handle::StreamPublisher;
use super::hold::{HoldBefore, Holding, SourceView};
use super::intake::Intake;
use super::lanes::{BATCHES_QUEUED_MAX, Lane, Positions, Stage};
use super::options::{Lesson, Withdrawn};
use super::reader::{Feed, Outlet, Withheld};
use super::resume::ResumeRefused;
use super::standby_wait::StandbyWait;
use super::walsender;

/// Delays between attempts.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(10);
/// An attempt that lasted this long was a good one: the next failure is a new one.
const GOOD_ATTEMPT: Duration = Duration::from_secs(10);
/// How often it is tried again while an operator is waited for.
const OPERATOR_INTERVAL: Duration = Duration::from_secs(2);
/// Changes were made once already, triggers and all; a commit is waited for elsewhere.
const ROLE: &str = "SET session_replication_role = replica; SET synchronous_commit = off";
/// A session that waits for a lock would otherwise not notice that its client is gone.
const NOTICE_LOST_CLIENT: &str = "SET client_connection_check_interval = '2s'";
/// Sessions of ours may wait for one another by way of this process, which the server cannot see and would never end.
const NEVER_WAIT_FOR_EACH_OTHER: &str = "SET lock_timeout = '30s'";
/// How often it is looked whether the target's operator has another primary.
const INCUMBENT_POLL: Duration = Duration::from_millis(250);
/// How often it is looked whether the target is still there, while the copy reads its records.
const TRUST_POLL: Duration = Duration::from_secs(1);
/// A way back that halts is no harm to the primary; remedies that start the migration over would be.
const NO_WAY_BACK: &str = "The configured target is the primary, works, and has everything: do not empty it. The side that was left is \
     not current any more. End the way back: stop pgsluice, then `pgsluice cleanup`.";
/// Receipts between apply and the durability watch.
const RECEIPTS_QUEUED_MAX: usize = 64;
/// Bytes read ahead of what is gathered.
const READ_AHEAD_BYTES_MAX: u32 = 2 * 1_024 * 1_024;
/// How long the tasks of an attempt get to end.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// What the stream needs.
#[derive(Clone, Debug)]
pub struct StreamContext {
    /// The operator's configuration.
    pub config: Arc<Config>,
    /// Which migration this is.
    pub record: MigrationRecord,
    /// Where progress is published.
    pub publisher: StreamPublisher,
    /// Where problems are published.
    pub board: StatusBoard,
    /// Where work is counted.
    pub metrics: Arc<Metrics>,
    /// Which tables are being copied beside it.
    pub copy: CopyBoard,
    /// Where it meets verification.
    pub meeting: Meeting,
}

/// The stream ended because an operator has to decide something.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct StreamHalted {
    /// What happened.
    #[source]
    pub error: StreamError,
    /// What is to be decided.
    pub remedy: String,
}

/// Streams until shutdown.
///
/// # Errors
/// [`StreamHalted`]: going on could lose or duplicate data.
pub async fn run(context: StreamContext, shutdown: Shutdown) -> Result<(), StreamHalted> {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
    let mut withdrawn = Withdrawn::default();
    let withheld = Withheld::default();
    let mut hold_before: Option<HoldBefore> = None;
    loop {
        let begun_at = Instant::now();
        let outcome =
            Box::pin(attempt(&context, &shutdown, &mut withdrawn, &withheld, hold_before.clone())).await;
        let Err(error) = outcome else { return Ok(()) };
        if shutdown.is_requested() {
            return Ok(());
        }
        if matches!(error, StreamError::FarBehind) {
            withheld.lift();
            continue;
        }
        context.metrics.reconnecting(error.side());
        if withdrawn.learn(&error) == Lesson::AskForLess {
            continue;
        }
        if let StreamError::Bulk(problem) = &error {
            tracing::warn!(%problem, "the backlog is streamed from here on, which takes longer; nothing is lost");
            context.metrics.bulk_ended(problem.end());
            withheld.for_a_while();
            continue;
        }
        if begun_at.elapsed() >= GOOD_ATTEMPT {
            backoff.reset();
        }
        let held = HoldBefore::after(&error);
        // A transaction that has to be waited for is waited for in the next attempt, which can begin at once.
        let is_first =
            held.as_ref().map(|held| held.commit_lsn) != hold_before.as_ref().map(|held| held.commit_lsn);
        let at_once = held.is_some() && (is_first || begun_at.elapsed() >= OPERATOR_INTERVAL);
        let is_told_later = held.as_ref().is_some_and(HoldBefore::is_of_a_refusal);
        hold_before = held.or(hold_before);
        let delay = match error.disposition() {
            Disposition::Halt { remedy } => {
                let remedy = match context.config.direction {
                    Direction::Forward => remedy,
                    Direction::Back => NO_WAY_BACK.to_owned(),
                };
                return Err(StreamHalted { error, remedy });
            }
            Disposition::WaitForOperator { remedy } => {
                // Why a change was refused is told by the attempt that waits before it: it knows the definitions.
                if !is_told_later {
                    report(&context.board, &error, remedy, Blocking::WaitingForOperator);
                }
                if at_once { BACKOFF_FIRST } else { OPERATOR_INTERVAL }
            }
            Disposition::Retry => {
                let remedy = "Nothing is lost; pgsluice tries again by itself.".to_owned();
                report(&context.board, &error, remedy, Blocking::Retrying);
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

fn report(board: &StatusBoard, error: &StreamError, remedy: String, blocking: Blocking) {
    let message = error.to_string();
    let known =
        board.with(|status| status.problem.as_ref().is_some_and(|problem| problem.message == message));
    if !known {
        match blocking {
            Blocking::Retrying => tracing::warn!(%error, "stream interrupted"),
            _ => tracing::error!(%error, %remedy, "stream waits for an operator"),
        }
    }
    board.update(|status| status.problem = Some(Problem { message, remedy, at: Timestamp::now(), blocking }));
}

/// One attempt: connect, check (INV-4), stream until something ends.
async fn attempt(
    context: &StreamContext,
    shutdown: &Shutdown,
    withdrawn: &mut Withdrawn,
    withheld: &Withheld,
    hold_before: Option<HoldBefore>,
) -> Result<(), StreamError> {
    let config = &context.config;
    context.meeting.stream_begins();
    // Before anything is connected to.
    let incumbent = config.target.connection.turnover().incumbent();
    let first = connect_applier(config).await?;
    tokio::select! {
        () = shutdown.requested() => return Ok(()),
        locked = lock::become_replicator(&first) => locked?,
    }
    tokio::select! {
        () = shutdown.requested() => return Ok(()),
        compared = compare_with_records(&context.copy, &first) => compared?,
    }
    let sessions = async {
        let watch_session = async { beside(&first, connect_target(config, "durability").await?).await };
        let catalog = async { beside(&first, connect_target(config, "catalog").await?).await };
        tokio::try_join!(watch_session, catalog)
    };
    let ((watch_session, catalog), recorded, asked, connection) = tokio::try_join!(
        sessions,
        async { Ok(progress::read(&first).await?) },
        withdrawn.choose(config, &context.record.identity.publication, &first),
        walsender::connect(config),
    )?;
    catalog.batch_execute(NEVER_WAIT_FOR_EACH_OTHER).await?;
    let source = walsender::check(connection, &context.record, recorded.as_ref()).await?;
    let start = source.place.position;
    let recorded = recorded.ok_or(ResumeRefused::NoProgress)?;
    let lanes_recorded = divide(config, &first, &recorded).await?;
    let (values, in_progress) = (asked.format_name(), asked.spool.is_some());
    tracing::info!(start_lsn = %start, values, in_progress, connections = lanes_recorded.len(), "reading changes");
    // What was waited for before may have been applied since.
    let hold_before = hold_before.filter(|hold| hold.commit_lsn >= start);
    if hold_before.is_none() {
        context.board.update(|status| status.problem = None);
    }

    let mut tasks = Supervisor::new(shutdown.child());
    let (queue, chunks) = mpsc::unbounded_channel();
    let (receipts, receipts_taken) = mpsc::channel(RECEIPTS_QUEUED_MAX);
    let (confirmed, durable) = watch::channel(None);
    let (publisher, metrics) = (context.publisher.clone(), Arc::clone(&context.metrics));
    let budget = ByteBudget::new(config.apply.max_batch_bytes.min(READ_AHEAD_BYTES_MAX));
    let feed = Feed {
        slot: source.slot,
        options: asked.plugin_options(&context.record.identity.publication),
        bulk: config.source.bulk,
        withheld: withheld.clone(),
        settings: config.source.connection.clone(),
        durable,
        outlet: Outlet::new(queue, budget, publisher, metrics),
        epoch: Instant::now(),
    };
    let intake = Intake::new(asked.protocol(), asked.spool);
    let metrics = Arc::clone(&context.metrics);
    let _ = receipts.send(CommitReceipt::of_commit(start, recorded.target_wal_end)).await;
    let positions = Positions::new(lanes_recorded.clone(), recorded.target_wal_end);
    let mut lanes = Vec::with_capacity(lanes_recorded.len());
    let more = (1..lanes_recorded.len()).map(|_| async {
        let session = beside(&first, connect_applier(config).await?).await?;
        session.batch_execute(NEVER_WAIT_FOR_EACH_OTHER).await?;
        lock::join_appliers(&session).await?;
        Ok::<_, StreamError>(session)
    });
    let more = futures_util::future::try_join_all(more).await?;
    if !more.is_empty() {
        first.batch_execute(NEVER_WAIT_FOR_EACH_OTHER).await?;
    }
    let sessions = std::iter::once(first).chain(more);
    for (lane, (session, recorded)) in sessions.zip(lanes_recorded).enumerate() {
        let (stage, stage_seen) = watch::channel(Stage::default());
        let setup = ExecutorSetup {
            session,
            lane,
            recorded,
            positions: Arc::clone(&positions),
            receipts: receipts.clone(),
            stage,
            publisher: context.publisher.clone(),
            metrics: Arc::clone(&metrics),
        };
        let (batches, batches_taken) = mpsc::channel(BATCHES_QUEUED_MAX);
        let executor = Executor::new(setup).await?;
        lanes.push(Lane::new(recorded, batches, stage_seen));
        tasks.spawn("apply", executor.run(batches_taken));
    }
    drop(receipts);
    let holding = Holding::new(context.board.clone(), metrics, hold_before.as_ref());
    let setup = GathererSetup {
        catalog,
        way: Way { coalescing: config.apply.coalesce, form: asked.format.form() },
        format: asked.format,
        source: SourceView::new(Arc::clone(config)),
        hold_before,
        publisher: context.publisher.clone(),
        lanes,
        positions,
        // One batch is applied while another is gathered, and what is made of them takes about as much again.
        bytes_max: usize::try_from(config.apply.max_batch_bytes / 3).unwrap_or(usize::MAX),
        batch_delay: config.apply.max_batch_delay,
        copy: context.copy.clone(),
        meeting: context.meeting.clone(),
        start,
    };
    let work = GatherLoop {
        gatherer: Gatherer::new(setup),
        intake,
        max_batch_delay: config.apply.max_batch_delay,
        last_record: Instant::now(),
        holding,
        shutdown: tasks.shutdown().clone(),
    };
    let watch = DurabilityWatch::new(watch_session, config.target.durability, incumbent.clone());
    let (publisher, stopping) = (context.publisher.clone(), tasks.shutdown().clone());
    let mut standby_wait = StandbyWait::new(context.board.clone());
    tasks.spawn("incumbent", leave_when_replaced(incumbent, tasks.shutdown().clone()));
    tasks.spawn("reader", feed.run(source.place, source.source_end, tasks.shutdown().clone()));
    tasks.spawn("gather", work.run(chunks));
    tasks.spawn("durability", async move {
        let tell = |news| match news {
            DurabilityNews::Durable(durable) => {
                publisher.durable(durable);
                confirmed.send_replace(Some(durable));
                standby_wait.over();
            }
            DurabilityNews::Waits(shortage) => standby_wait.for_want_of(shortage),
        };
        Ok(watch.run(receipts_taken, stopping, tell).await?)
    });
    let mut ended = tasks.next_end().await;
    // A task that misses another one may be heard before the one that is missing: that one knows the cause.
    if is_without_its_cause(ended.as_ref())
        && let Ok(Some(cause)) = tokio::time::timeout(DRAIN_GRACE, tasks.next_end()).await
    {
        ended = Some(cause);
    }
    let stubborn = tasks.drain(DRAIN_GRACE).await;
    if !stubborn.is_empty() {
        tracing::debug!(tasks = ?stubborn, "stream tasks were cut off");
    }
    match ended.map(|end| end.outcome) {
        Some(Err(Some(error))) => Err(error),
        Some(Ok(())) if shutdown.is_requested() => Ok(()),
        _ => Err(StreamError::TaskGone("streams")),
    }
}

fn is_without_its_cause(end: Option<&TaskEnd<StreamError>>) -> bool {
    end.is_some_and(|end| matches!(end.outcome, Err(Some(StreamError::TaskGone(_)))))
}

/// Ends the stream once the target's operator has another primary: the old one may still answer, and would be applied to for ever.
async fn leave_when_replaced(incumbent: Incumbent, shutdown: Shutdown) -> Result<(), StreamError> {
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            () = tokio::time::sleep(INCUMBENT_POLL) => {}
        }
        if incumbent.was_replaced() {
            return Err(StreamError::TargetReplaced);
        }
    }
}

/// What this process takes to be copied must be what the target has recorded; if it is not, the copy reads it anew first.
async fn compare_with_records(copy: &CopyBoard, session: &SqlSession) -> Result<(), StreamError> {
    if !copy.is_active() {
        let record = records::read(session).await?;
        let is_copying = record.is_some_and(|record| record.phase < RecordedPhase::Streaming);
        return if is_copying { Err(StreamError::CopyLost) } else { Ok(()) };
    }
    loop {
        let believed = copy.believed();
        let recorded = read_unpassed(session).await.map_err(|error| StreamError::Copy(Box::new(error)))?;
        if copy.compare(&believed, &recorded) {
            break;
        }
    }
    loop {
        tokio::select! {
            () = copy.trusted() => return Ok(()),
            // If the target is gone, the copy waits for another stream, and this one would wait for the copy.
            () = tokio::time::sleep(TRUST_POLL) => session.batch_execute("SELECT 1").await?,
        }
    }
}

/// A session that applies, in the role for replicated changes.
async fn connect_applier(config: &Config) -> Result<SqlSession, StreamError> {
    let session = connect_target(config, "apply").await?;
    // Its address may lead to the old primary for a while after there is a new one.
    if let Some(known) = config.target.connection.turnover().timeline()
        && !session.in_recovery()
        && i64::from(timeline(&session).await?) < i64::from(known)
    {
        return Err(StreamError::TargetReplaced);
    }
    // Should we be gone while a statement waits for a lock, the server ends the session soon, and with it our claim to be
    // the one replicator.
    session.batch_execute(&format!("{ROLE}; {NOTICE_LOST_CLIENT}")).await?;
    fence::pass(&*session).await?;
    Ok(session)
}

/// Where each connection begins, after the records were made to fit their number.
async fn divide(config: &Config, session: &SqlSession, recorded: &Progress) -> Result<Vec<Lsn>, StreamError> {
    let wanted = config.apply.connections;
    let connections = recorded.connections(wanted);
    if connections != wanted {
        tracing::info!(
            connections,
            wanted,
            "the connections of the last run are at different positions: their number is kept until they are not"
        );
    }
    if connections == recorded.lanes.len() {
        return Ok(recorded.lanes.clone());
    }
    // Not in the session's own way of committing: what is begun here must not be lost while one of them is moved.
    session.batch_execute("SET synchronous_commit = on").await?;
    progress::divide(session, connections).await?;
    session.batch_execute("SET synchronous_commit = off").await?;
    Ok(vec![recorded.commit_lsn; connections])
}

/// `session`, if it reached the server that `first` is on. While the target fails over its address may lead to one server and
/// then to another: what one has flushed says nothing of the other (INV-3).
async fn beside(first: &SqlSession, session: SqlSession) -> Result<SqlSession, StreamError> {
    if same_server(first, &session).await? { Ok(session) } else { Err(StreamError::TargetMoves) }
}

async fn connect_target(config: &Config, purpose: &'static str) -> Result<SqlSession, StreamError> {
    connect_sql(&config.target.connection, Side::Target, purpose)
        .await
        .map_err(|error| StreamError::Connect { side: Side::Target, error: Box::new(error) })
}
