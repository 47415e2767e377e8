//! Tables that are copied together under one exported snapshot, by several connections at once: those that join a running
//! migration, whose changes wait meanwhile. Such a copy is finished or it is started over ([`super::reset_tables`]).

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::chunk::{self, ChunkCopier};
use super::governor::Governor;
use super::guard::{SnapshotGuard, import_snapshot};
use super::plan::{Chunk, plan};
use super::progress::CopyProgress;
use super::rate::RateLimit;
use super::{SnapshotError, SnapshotSummary, records};
use crate::config::SnapshotConfig;
use crate::connection::{ConnectionSettings, WireConnection, connect_sql};
use crate::migration::StatusBoard;
use crate::model::{Side, TableName};
use crate::runtime::Shutdown;
use crate::source::{SourceTable, fence};
use crate::target::lock;
use crate::telemetry::Metrics;

/// What a copy needs.
#[derive(Clone, Debug)]
pub struct SnapshotContext<'a> {
    /// Where rows come from.
    pub source: &'a ConnectionSettings,
    /// Where they go.
    pub target: &'a ConnectionSettings,
    /// [`slot::ExportedSlot::snapshot_name`]; the slot's value must live until the copy ends.
    pub snapshot_name: &'a str,
    /// The slot of the stream.
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

/// Copies all tables. Each chunk is a transaction on the target; every registered table was seen empty first.
///
/// Cancel safe in that nothing is lost: what was committed is recorded, and [`reset`] undoes it.
///
/// # Errors
/// The first [`SnapshotError`] of any connection; all others are stopped. Start over with [`reset`], a new slot and
/// a new snapshot.
pub async fn copy_all(context: SnapshotContext<'_>) -> Result<SnapshotSummary, SnapshotError> {
    let tables: Vec<SourceTable> = context.tables.iter().filter(|table| table.is_copied()).cloned().collect();
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
    let copiers =
        chunk::prepare(&target, tables, RateLimit::new(context.config.max_bytes_per_second)).await?;
    let queue = Arc::new(Mutex::new(chunks.into_iter()));
    // The stream waits for these tables: a pause until it has gone on would have no end.
    let limits = SnapshotConfig { max_wal_retained_bytes: None, ..context.config.clone() };
    let (board, metrics) = (context.board.clone(), Arc::clone(context.metrics));
    let governor = Arc::new(Governor::new(&limits, context.slot, board, metrics));
    let mut workers = JoinSet::new();
    for _ in 0..context.config.jobs.max(1) {
        let connections = Connections {
            source: context.source.clone(),
            target: context.target.clone(),
            snapshot_name: context.snapshot_name.to_owned(),
        };
        let (queue, governor) = (Arc::clone(&queue), Arc::clone(&governor));
        workers.spawn(work(connections, queue, governor, Arc::clone(&copiers), Arc::clone(&progress)));
    }
    // Whichever ends first, dropping the set aborts the workers: their sessions end and the servers roll back.
    tokio::select! {
        outcome = all_end(&mut workers) => outcome?,
        error = governor.watch(guard.session()) => return Err(error),
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
    governor: Arc<Governor>,
    copiers: Arc<ChunkCopier>,
    progress: Arc<CopyProgress>,
) -> Result<(), SnapshotError> {
    let mut source = WireConnection::connect_backend(&connections.source, Side::Source, "copy").await?;
    import_snapshot(&mut source, &connections.snapshot_name).await?;
    let mut target = connect_sql(&connections.target, Side::Target, "copy").await?;
    // A successor of a killed run must not look at the target while this session may still commit.
    lock::join_writers(&target).await.map_err(SnapshotError::target)?;
    target.batch_execute("SET session_replication_role = replica").await.map_err(SnapshotError::target)?;
    fence::pass(&*target).await.map_err(SnapshotError::target)?;
    loop {
        governor.may_begin().await;
        let Some(chunk) = queue.lock().await.next() else { return Ok(()) };
        copiers.copy(&mut source, &mut target, &chunk, &progress).await?;
    }
}

async fn all_end(workers: &mut JoinSet<Result<(), SnapshotError>>) -> Result<(), SnapshotError> {
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|_| SnapshotError::WorkerLost)??;
    }
    Ok(())
}
