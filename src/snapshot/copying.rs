//! The migration's own copy, from its plan to the last index, while the stream runs beside it: tries again whatever may pass,
//! and waits for the operator where it may not. What is done is recorded on the target, so that a restart costs the chunks
//! that were under way and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::SnapshotError;
use super::ahead::PostDataAhead;
use super::attempt;
use super::board::CopyBoard;
use super::governor::Governor;
use super::plan_records;
use super::progress::CopyProgress;
use super::rate::RateLimit;
use super::visibility::Snapshot;
use crate::config::{Config, SchemaMode};
use crate::connection::{SqlSession, connect_sql};
use crate::migration::{Blocking, Phase, Problem, StatusBoard};
use crate::model::{Disposition, Side};
use crate::runtime::{Backoff, Shutdown};
use crate::source::{SourceTable, catalog, fence};
use crate::stream::StreamHandle;
use crate::target::lock;
use crate::target::records::RecordedPhase;
use crate::target::schema::{self, Division};
use crate::telemetry::Metrics;

/// Delays between attempts.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LONGEST: Duration = Duration::from_secs(10);
/// An attempt that lasted so long was a good one: the next failure is a new one.
const GOOD_ATTEMPT: Duration = Duration::from_secs(30);
/// What took longer than this is tried again after this.
const RETRY_AFTER_LONG: Duration = Duration::from_secs(10);
/// How long an attempt may take to end.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// How often it is tried again while an operator is waited for.
const OPERATOR_INTERVAL: Duration = Duration::from_secs(2);

/// What the copy needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CopyContext {
    /// The operator's configuration.
    pub config: Arc<Config>,
    /// What the slot's snapshot contains: its transactions are not in the stream.
    pub slot_snapshot: Snapshot,
    /// Where copy and stream meet.
    pub copy: CopyBoard,
    /// What was read while slot and plan were made.
    pub post_data: PostDataAhead,
    /// How far the stream is.
    pub stream: StreamHandle,
    /// Where progress and problems are published.
    pub status: StatusBoard,
    /// Counts rows and bytes.
    pub metrics: Arc<Metrics>,
    /// Bytes from the source, of all connections.
    pub rate: Arc<RateLimit>,
    /// Ends the copy; the next start goes on with it.
    pub shutdown: Shutdown,
}

/// The copy ended because an operator has to decide something.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct CopyHalted {
    /// What happened.
    #[source]
    pub error: SnapshotError,
    /// What is to be decided.
    pub remedy: String,
}

/// Copies, builds and records until everything is there, or until shutdown. When it returns after that, the record is in phase
/// [`RecordedPhase::Streaming`].
///
/// # Errors
/// [`CopyHalted`].
pub async fn run(context: CopyContext) -> Result<(), CopyHalted> {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
    let mut copy = Copying { context, division: None, progress: None, told: None };
    loop {
        let begun_at = Instant::now();
        let shutdown = copy.context.shutdown.clone();
        let outcome = {
            let attempt = copy.attempt();
            tokio::pin!(attempt);
            tokio::select! {
                outcome = &mut attempt => outcome,
                // What is under way is cancelled where it can be.
                () = shutdown.requested() => {
                    let ended = tokio::time::timeout(STOP_GRACE, attempt).await;
                    ended.unwrap_or(Err(SnapshotError::Stopped))
                }
            }
        };
        let Err(error) = outcome else { return Ok(()) };
        if copy.context.shutdown.is_requested() {
            return Ok(());
        }
        if begun_at.elapsed() >= GOOD_ATTEMPT {
            backoff.reset();
            copy.told = None;
        }
        let (delay, remedy, blocking) = match error.disposition() {
            Disposition::Halt { remedy } => return Err(CopyHalted { error, remedy }),
            Disposition::WaitForOperator { remedy } => {
                (OPERATOR_INTERVAL, remedy, Blocking::WaitingForOperator)
            }
            Disposition::Retry => {
                let remedy = "Nothing is lost: what is copied is kept, and pgsluice tries again by itself.";
                (backoff.next_delay(), remedy.to_owned(), Blocking::Retrying)
            }
        };
        // What takes long, and keeps the stream waiting, is not tried again at once.
        let delay = delay.max(begun_at.elapsed().min(RETRY_AFTER_LONG));
        copy.tell(&error, remedy, blocking);
        tokio::select! {
            () = copy.context.shutdown.requested() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// What is kept from one attempt to the next.
struct Copying {
    context: CopyContext,
    division: Option<Arc<Division>>,
    progress: Option<Arc<CopyProgress>>,
    told: Option<String>,
}

impl Copying {
    async fn attempt(&mut self) -> Result<(), SnapshotError> {
        let context = self.context.clone();
        let config = &context.config;
        let source = connect_sql(&config.source.connection, Side::Source, "copy control").await?;
        let target = connect_sql(&config.target.connection, Side::Target, "copy records").await?;
        // A successor of a killed run must not look at the target while this session may still commit.
        lock::join_writers(&target).await.map_err(SnapshotError::target)?;
        fence::pass(&*target).await.map_err(SnapshotError::target)?;
        let tables = catalog::read_tables(&source, &config.source.tables).await?;
        if self.division.is_none() && config.schema.mode == SchemaMode::Copy {
            let read = match context.post_data.take().await {
                Some(ahead) => Ok(ahead),
                None => schema::read_post_data(config, &source, &target, &context.shutdown).await,
            };
            self.division = Some(Arc::new(divide(read.map_err(SnapshotError::schema)?, &tables)));
        }
        let progress = self.progress.get_or_insert_with(|| {
            let copied: Vec<SourceTable> = tables.iter().filter(|table| table.is_copied()).cloned().collect();
            Arc::new(CopyProgress::new(context.status.clone(), Arc::clone(&context.metrics), &copied))
        });
        let (status, metrics) = (context.status.clone(), Arc::clone(&context.metrics));
        let governor = Arc::new(Governor::new(&config.snapshot, &config.source.slot, status, metrics));
        let progress = Arc::clone(progress);
        let over = || self.over();
        attempt::run(&context, (&source, &target), &governor, &progress, self.division.clone(), over).await?;
        progress.summary();
        finish(&context, (&source, &target), &tables, self.division.as_deref()).await
    }

    /// Says what is in the way.
    fn tell(&mut self, error: &SnapshotError, remedy: String, blocking: Blocking) {
        let message = error.to_string();
        if self.told.as_ref() != Some(&message) {
            match blocking {
                Blocking::Retrying => tracing::warn!(%error, "the copy is interrupted"),
                _ => tracing::error!(%error, %remedy, "the copy waits for an operator"),
            }
        }
        self.told = Some(message.clone());
        let problem = Problem { message, remedy, at: Timestamp::now(), blocking };
        self.context.status.update(|status| status.problem = Some(problem));
    }

    /// It goes on: what was told is over.
    fn over(&self) {
        let Some(told) = &self.told else { return };
        self.context.status.update(|status| {
            if status.problem.as_ref().is_some_and(|problem| problem.message == *told) {
                status.problem = None;
            }
        });
    }
}

/// What is left of the post-data now: definitions may have changed while tables were copied, tables may have joined with all that is
/// theirs, and an index may have been added since.
async fn read_rest(
    context: &CopyContext,
    source: &SqlSession,
    target: &SqlSession,
    tables: &[SourceTable],
) -> Result<Division, SnapshotError> {
    let config = &context.config;
    let mut division = schema::read_post_data(config, source, target, &context.shutdown)
        .await
        .map_err(SnapshotError::schema)?;
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    let rows = target
        .query(
            "SELECT place FROM unnest($1::text[]) WITH ORDINALITY AS w (name, place)
              WHERE to_regclass(name) IS NULL
                 OR EXISTS (SELECT FROM pgsluice.relation r
                             WHERE r.join_lsn IS NOT NULL AND r.target_oid = to_regclass(name)::oid)",
            &[&names],
        )
        .await
        .map_err(SnapshotError::target)?;
    let place = |row: &tokio_postgres::Row| usize::try_from(row.get::<_, i64>(0) - 1).ok();
    let left_out = rows.iter().filter_map(place).filter_map(|place| tables.get(place));
    division.leave_out(&left_out.map(|table| table.name.clone()).collect());
    let schemas = tables.iter().map(|table| table.name.schema.clone()).collect();
    let existing = schema::existing_indexes(target, &schemas).await.map_err(SnapshotError::schema)?;
    division.without_existing(&existing);
    Ok(division)
}

/// Only copied tables get their indexes one by one.
fn divide(mut division: Division, tables: &[SourceTable]) -> Division {
    let copied: std::collections::HashSet<_> =
        tables.iter().filter(|table| table.is_copied()).map(|table| &table.name).collect();
    division.retain_tables(|table| copied.contains(table));
    division
}

/// What belongs to no single table: foreign keys, triggers, what partitioned tables have. The stream stands still meanwhile,
/// between two commits of the source, so that both sides of each foreign key are at the same moment.
async fn finish(
    context: &CopyContext,
    (source, target): (&SqlSession, &SqlSession),
    tables: &[SourceTable],
    division: Option<&Division>,
) -> Result<(), SnapshotError> {
    let config = &context.config;
    context
        .status
        .with(|status| status.phase != Phase::Indexes)
        .then(|| context.status.enter(Phase::Indexes));
    let still = context.copy.stand_still();
    tokio::select! {
        () = still.reached() => {}
        () = attempt::distrusted(&context.copy) => return Err(SnapshotError::TargetLost),
        () = context.shutdown.requested() => return Err(SnapshotError::Stopped),
    }
    let done = format!("{}; {}", plan_records::ALL_FINISHED, RecordedPhase::Streaming.record_sql());
    match division {
        Some(_) => {
            let division = read_rest(context, source, target, tables).await?;
            schema::build_rest(config, &division, &done, &context.shutdown)
                .await
                .map_err(SnapshotError::schema)?;
        }
        None => target.batch_execute(&done).await.map_err(SnapshotError::target)?,
    }
    context.copy.end();
    Ok(())
}
