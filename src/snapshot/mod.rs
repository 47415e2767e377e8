//! The initial copy: every selected table under the slot's exported snapshot, by several connections at once,
//! relayed as COPY data without ever being parsed or held. What is done is recorded on the target in the
//! transaction that does it. A copy is finished or it is started over ([`reset`]); it never resumes half a table
//! under another snapshot.

mod board;
mod chunk;
mod error;
mod governor;
mod guard;
mod key;
mod layout;
mod lifecycle;
mod plan;
mod plan_records;
mod progress;
mod rate;
mod records;
mod reliance;
mod tally;
mod visibility;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

pub use error::SnapshotError;
pub use governor::{Governor, Limits, Pressure, Reason, StandbyBehind, Verdict, judge, look};
pub(crate) use guard::import_snapshot;
pub use plan::{BlockRange, Chunk, Storage, TableSize, plan};
pub use progress::{Beginning, CopyProgress};
pub use rate::RateLimit;
pub use records::{RecordedTable, read as read_records, reset, reset_tables};
pub use visibility::{InvalidSnapshot, Snapshot};

use self::chunk::ChunkCopier;
use self::guard::SnapshotGuard;
use crate::config::SnapshotConfig;
use crate::connection::{ConnectionSettings, SqlSession, connect_sql};
use crate::migration::StatusBoard;
use crate::model::{Side, TableName};
use crate::runtime::Shutdown;
use crate::source::{SourceTable, fence, slot};
use crate::target::lock;
use crate::telemetry::Metrics;

/// How often the WAL that the slot retains is looked at.
const RETENTION_POLL: Duration = Duration::from_secs(5);

/// What a copy needs.
#[derive(Clone, Debug)]
pub struct SnapshotContext<'a> {
    /// Where rows come from.
    pub source: &'a ConnectionSettings,
    /// Where they go.
    pub target: &'a ConnectionSettings,
    /// [`slot::ExportedSlot::snapshot_name`]; the slot's value must live until the copy ends.
    pub snapshot_name: &'a str,
    /// The slot, whose retained WAL is watched.
    pub slot: &'a str,
    /// What to copy, as the target's schema was made from it. Partitioned parents and unlogged tables are passed
    /// over.
    pub tables: &'a [SourceTable],
    /// Jobs, chunk size, limits.
    pub config: &'a SnapshotConfig,
    /// Where progress is published.
    pub board: &'a StatusBoard,
    /// Counts rows and bytes.
    pub metrics: &'a Arc<Metrics>,
    /// Ends the copy.
    pub shutdown: &'a Shutdown,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// Rows, as the target counted them.
    pub rows: u64,
    /// Bytes of COPY data.
    pub bytes: u64,
}

/// Copies all tables. Each chunk is a transaction on the target; every registered table was seen empty first.
///
/// Cancel safe in that nothing is lost: what was committed is recorded, and [`reset`] undoes it.
///
/// # Errors
/// The first [`SnapshotError`] of any connection; all others are stopped. Start over with [`reset`], a new slot and
/// a new snapshot.
pub async fn copy_all(context: SnapshotContext<'_>) -> Result<SnapshotSummary, SnapshotError> {
    let tables: Vec<SourceTable> =
        context.tables.iter().filter(|table| table.holds_rows() && table.is_logged()).cloned().collect();
    if tables.is_empty() {
        return Ok(SnapshotSummary::default());
    }
    tokio::select! {
        outcome = copy_tables(&context, &tables) => outcome,
        () = context.shutdown.requested() => Err(SnapshotError::Stopped),
    }
}

async fn copy_tables(
    context: &SnapshotContext<'_>,
    tables: &[SourceTable],
) -> Result<SnapshotSummary, SnapshotError> {
    let progress = Arc::new(CopyProgress::new(context.board.clone(), Arc::clone(context.metrics), tables));
    let guard = SnapshotGuard::take(context.source, context.snapshot_name, tables).await?;
    let chunks = plan(&guard.sizes, context.config.chunk_bytes, guard.block_bytes);
    progress.planned(&chunks);
    let mut target = connect_sql(context.target, Side::Target, "copy records").await?;
    let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
    records::register(&mut target, &names, &chunks, &guard.snapshot_text).await?;
    let copiers = chunk::prepare(&target, tables).await?;
    let queue = Arc::new(Mutex::new(chunks.into_iter()));
    let mut workers = JoinSet::new();
    for _ in 0..context.config.jobs.max(1) {
        let connections = Connections {
            source: context.source.clone(),
            target: context.target.clone(),
            snapshot_name: context.snapshot_name.to_owned(),
        };
        workers.spawn(work(connections, Arc::clone(&queue), Arc::clone(&copiers), Arc::clone(&progress)));
    }
    // Whichever ends first, dropping the set aborts the workers: their sessions end and the servers roll back.
    tokio::select! {
        outcome = all_end(&mut workers) => outcome?,
        outcome = watch_retention(guard.session(), context.slot, context.config.max_wal_retained_bytes) => outcome?,
        () = progress.keep_published() => {}
        () = guard.session().closed() => return Err(SnapshotError::SnapshotGone),
    }
    guard.release().await?;
    Ok(progress.summary())
}

/// What a worker needs to connect.
struct Connections {
    source: ConnectionSettings,
    target: ConnectionSettings,
    snapshot_name: String,
}

type Queue = Arc<Mutex<std::vec::IntoIter<Chunk>>>;

/// Copies chunks until there are none left.
async fn work(
    connections: Connections,
    queue: Queue,
    copiers: Arc<ChunkCopier>,
    progress: Arc<CopyProgress>,
) -> Result<(), SnapshotError> {
    let source = connect_sql(&connections.source, Side::Source, "copy").await?;
    import_snapshot(&source, &connections.snapshot_name).await?;
    let mut target = connect_sql(&connections.target, Side::Target, "copy").await?;
    // A successor of a killed run must not look at the target while this session may still commit.
    lock::join_writers(&target).await.map_err(SnapshotError::target)?;
    target.batch_execute("SET session_replication_role = replica").await.map_err(SnapshotError::target)?;
    fence::pass(&*target).await.map_err(SnapshotError::target)?;
    loop {
        let Some(chunk) = queue.lock().await.next() else { return Ok(()) };
        copiers.copy(&source, &mut target, &chunk, &progress).await?;
    }
}

async fn all_end(workers: &mut JoinSet<Result<(), SnapshotError>>) -> Result<(), SnapshotError> {
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|_| SnapshotError::WorkerLost)??;
    }
    Ok(())
}

/// Ends only with an error: when the slot keeps more WAL on the source than the operator allows.
async fn watch_retention(
    session: &SqlSession,
    slot: &str,
    limit_bytes: Option<u64>,
) -> Result<(), SnapshotError> {
    let Some(limit_bytes) = limit_bytes else { return std::future::pending().await };
    loop {
        let state = slot::inspect(session, slot).await.map_err(SnapshotError::slot)?;
        let retained_bytes = state.and_then(|state| state.retained_bytes).unwrap_or_default();
        if retained_bytes > limit_bytes {
            return Err(SnapshotError::WalRetained { retained_bytes, limit_bytes });
        }
        tokio::time::sleep(RETENTION_POLL).await;
    }
}

/// Refreshes the planner's statistics of the copied tables, which a copy does not bring along. Tables that are not
/// on the target are passed over.
///
/// # Errors
/// [`SnapshotError::Target`].
pub async fn analyze(target: &SqlSession, tables: &[SourceTable]) -> Result<(), SnapshotError> {
    let roots = tables.iter().filter(|table| table.is_root() && table.is_logged());
    let names: Vec<String> = roots.map(|table| table.name.to_string()).collect();
    let rows = target
        .query("SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL", &[&names])
        .await
        .map_err(SnapshotError::target)?;
    for row in rows {
        let name: String = row.get(0);
        target.batch_execute(&format!("ANALYZE {name}")).await.map_err(SnapshotError::target)?;
    }
    Ok(())
}
