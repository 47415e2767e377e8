//! One attempt at what is left of the copy: reads what the target has recorded and what the source's tables are now, lets workers
//! copy and build, and keeps account. Ends when every table is copied and has its indexes, or with the first error; then all of
//! its sessions end, and the next attempt begins with what is recorded.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::SnapshotError;
use super::account::Account;
use super::board::{ChunkId, CopyBoard};
use super::building::{Build, Builder, build_key};
use super::chunk::{CopyStatements, Relayed, read_target_columns};
use super::copying::CopyContext;
use super::governor::Governor;
use super::guard::import_snapshot;
use super::layout::{PlannedTable, chunks_wanted};
use super::lifecycle::ChunkState;
use super::plan_records::{self, JoinedChunk, RecordedPlan};
use super::progress::CopyProgress;
use super::rate::RateLimit;
use super::schedule::{Outstanding, Queue, Work, order};
use super::take::{ShapedTable, Shapes, read_snapshot, wait_for_commits_in_doubt};
use super::worker::{Worker, connect_target};
use crate::config::{Config, TableFilter};
use crate::connection::{Incumbent, SqlSession, connect_sql};
use crate::model::{Lsn, Oid, Side, TableName};
use crate::runtime::Shutdown;
use crate::source::{SourceTable, catalog};
use crate::target::lock;
use crate::target::same_server::SessionMark;
use crate::target::schema::{Division, IndexBuild, existing_indexes};

/// How often it is looked whether the stream has passed tables; many are then recorded at once.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long the stream may be between two servers.
const REPLICATOR_WAIT: Duration = Duration::from_secs(30);

/// What the workers of an attempt share.
pub(super) struct Attempt {
    pub(super) config: Arc<Config>,
    pub(super) board: CopyBoard,
    pub(super) progress: Arc<CopyProgress>,
    pub(super) governor: Arc<Governor>,
    pub(super) rate: Arc<RateLimit>,
    pub(super) shutdown: Shutdown,
    /// `None` where the target's schema is taken as it is.
    pub(super) division: Option<Arc<Division>>,
    pub(super) tables: HashMap<Oid, CopyTable>,
    /// Tables that the source does not have any more. Changes from before are passed over until the stream has passed the
    /// position at which that was seen.
    pub(super) gone: Vec<RecordedPlan>,
    pub(super) gone_seen_at: Lsn,
    /// Of the session that keeps the records: all others have to be on the same server.
    pub(super) home: SessionMark,
    pub(super) queue: Queue<Work>,
    pub(super) builds: Queue<Build>,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// A table whose copy is not over.
pub(super) struct CopyTable {
    pub(super) plan: PlannedTable,
    /// On the source.
    pub(super) shaped: ShapedTable,
    pub(super) statements: CopyStatements,
    /// What the stream finds rows by, and the target lacks.
    pub(super) keys_due: Vec<IndexBuild>,
    /// Other indexes that it lacks.
    pub(super) others_due: Vec<Arc<IndexBuild>>,
    /// Foreign keys of other tables refer to it on the target, which keeps it from being truncated.
    pub(super) is_referenced: bool,
    /// An index has columns of varying length, or may have: the target's are not looked at where they are taken as they are.
    pub(super) has_long_index_entries: bool,
    pub(super) is_passed: bool,
    rows: u64,
    bytes: u64,
    states: Vec<ChunkState>,
}

/// What a worker tells.
#[derive(Debug)]
pub(super) enum Event {
    /// A chunk of a table is in.
    Joined(Oid),
    /// An index is there.
    Built { table: Oid, index: TableName },
    /// An index could not be built; it is tried again.
    NotBuilt { index: TableName, message: String, remedy: String },
}

impl CopyTable {
    pub(super) const fn chunk(&self, number: usize) -> ChunkId {
        ChunkId { table: self.plan.oid, number }
    }

    /// The condition that selects a chunk's rows.
    pub(super) fn condition(&self, number: usize) -> String {
        match (&self.plan.ranged_by, self.plan.ranges.get(number)) {
            (Some(by), Some(range)) => range.condition(&by.column),
            _ => String::new(),
        }
    }

    pub(super) const fn joined(&self, number: usize, relayed: Relayed) -> JoinedChunk<'_> {
        JoinedChunk { table: &self.plan.name, number, rows: relayed.rows, bytes: relayed.bytes }
    }

    pub(super) fn outstanding(&self, chunk_bytes: u64) -> Outstanding {
        let pending = |(number, state): (usize, &ChunkState)| {
            (!matches!(state, ChunkState::Joined(_))).then_some(number)
        };
        let bytes = self.shaped.table.total_bytes;
        let is_cut = self.plan.ranges.len() > 1;
        Outstanding {
            table: self.plan.oid,
            bytes,
            ranges: is_cut.then(|| self.states.iter().enumerate().filter_map(pending).collect()),
            is_spread: !is_cut && chunks_wanted(bytes, chunk_bytes) > 1 && self.shaped.is_heap,
        }
    }
}

/// Copies and builds what is left.
pub(super) async fn run(
    context: &CopyContext,
    (source, target): (&SqlSession, &SqlSession),
    governor: &Arc<Governor>,
    progress: &Arc<CopyProgress>,
    division: Option<Arc<Division>>,
    begun: impl FnOnce(),
) -> Result<(), SnapshotError> {
    let config = &context.config;
    wait_for_commits_in_doubt(source).await?;
    wait_for_the_replicator(target).await?;
    let incumbent = config.target.connection.turnover().incumbent();
    let home = SessionMark::of(target).await.map_err(SnapshotError::target)?;
    let recorded = read_settled(context, target).await?;
    let Found { tables, gone, seen_at } = find(source, target, division.as_deref(), recorded).await?;
    let (events, events_taken) = mpsc::unbounded_channel();
    let mut attempt = Attempt {
        config: Arc::clone(config),
        board: context.copy.clone(),
        progress: Arc::clone(progress),
        governor: Arc::clone(governor),
        rate: Arc::clone(&context.rate),
        shutdown: context.shutdown.clone(),
        tables,
        gone,
        gone_seen_at: seen_at,
        home,
        division,
        queue: Queue::new([]),
        builds: Queue::new([]),
        events,
    };
    load_board(context, &attempt);
    build_keys_of_cut_tables(&mut attempt).await?;
    let account = Account::new(&attempt);
    begun();
    let attempt = Arc::new(attempt);
    let outstanding = attempt
        .tables
        .values()
        .filter(|table| !attempt.board.is_joined(table.plan.oid))
        .map(|table| table.outstanding(config.snapshot.chunk_bytes));
    attempt.queue.push(order(outstanding.collect()));
    let mut workers = JoinSet::new();
    for _ in 0..config.snapshot.jobs.max(1) {
        let attempt = Arc::clone(&attempt);
        workers.spawn(async move { Box::pin(Worker::connect(attempt).await?.run()).await });
    }
    for _ in 0..config.snapshot.index_jobs.max(1) {
        let attempt = Arc::clone(&attempt);
        workers.spawn(async move { Builder::connect(attempt).await?.run().await });
    }
    // Whichever ends first, dropping the set aborts the workers: their sessions end and the servers roll back.
    tokio::select! {
        outcome = account.keep(&attempt, context, (source, target), events_taken) => outcome,
        Some(ended) = workers.join_next() => {
            ended.map_err(|_| SnapshotError::WorkerLost)??;
            Err(SnapshotError::WorkerLost)
        }
        error = governor.watch(source) => Err(error),
        () = progress.keep_published() => Err(SnapshotError::WorkerLost),
        () = distrusted(&context.copy) => Err(SnapshotError::TargetLost),
        () = replaced(&incumbent) => Err(SnapshotError::TargetLost),
        () = context.shutdown.requested() => Err(SnapshotError::Stopped),
    }
}

/// The target's server is the one that the stream applies to: while an old primary still answers, there are two.
async fn wait_for_the_replicator(target: &SqlSession) -> Result<(), SnapshotError> {
    let deadline = Instant::now() + REPLICATOR_WAIT;
    while !lock::is_replicator_here(target).await.map_err(SnapshotError::target)? {
        if Instant::now() >= deadline {
            return Err(SnapshotError::TargetLost);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Resolves once the target's operator has another primary: the old one may still answer, and would be copied to.
async fn replaced(incumbent: &Incumbent) {
    while !incumbent.was_replaced() {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Resolves once the target was found to have something else than the board says.
pub(super) async fn distrusted(board: &CopyBoard) {
    let mut changed = board.watch();
    while !board.is_distrusted() {
        // The sender lives as long as the board does.
        let _ = changed.changed().await;
    }
}

/// What is recorded, when no commit of an earlier attempt of this process is in doubt any more.
async fn read_settled(
    context: &CopyContext,
    target: &SqlSession,
) -> Result<Vec<RecordedPlan>, SnapshotError> {
    let recorded = plan_records::read(target).await?;
    let mut is_in_doubt = false;
    for plan in &recorded {
        for number in 0..plan.states.len() {
            let chunk = ChunkId { table: plan.table.oid, number };
            if let Some(ChunkState::Copying(_)) = context.copy.state(chunk) {
                plan_records::is_joined(target, &plan.table.name, number).await?;
                is_in_doubt = true;
            }
        }
    }
    if is_in_doubt { plan_records::read(target).await } else { Ok(recorded) }
}

/// The tables whose copy is not over.
struct Found {
    /// As both sides have them now.
    tables: HashMap<Oid, CopyTable>,
    /// Those that the source does not have any more.
    gone: Vec<RecordedPlan>,
    /// A position of the source's WAL at which that was so.
    seen_at: Lsn,
}

async fn find(
    source: &SqlSession,
    target: &SqlSession,
    division: Option<&Division>,
    recorded: Vec<RecordedPlan>,
) -> Result<Found, SnapshotError> {
    let left: Vec<RecordedPlan> = recorded.into_iter().filter(|plan| !plan.is_finished).collect();
    let oids: Vec<Oid> = left.iter().map(|plan| plan.table.oid).collect();
    source
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(SnapshotError::source)?;
    let found = catalog::read_tables(source, &TableFilter::default()).await?;
    let shapes = Shapes::read(source, &oids).await?;
    let with_long_entries = read_tables_with_long_index_entries(source, &oids).await?;
    source.batch_execute("COMMIT").await.map_err(SnapshotError::source)?;
    let row = source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
    let seen_at: String = row.map_err(SnapshotError::source)?.get(0);
    let mut found: HashMap<Oid, SourceTable> = found.into_iter().map(|table| (table.oid, table)).collect();
    let names: Vec<&TableName> = left.iter().map(|plan| &plan.table.name).collect();
    let mut columns = read_target_columns(target, &names).await?;
    let referenced = read_referenced(target).await?;
    let schemas: BTreeSet<String> = names.iter().map(|name| name.schema.clone()).collect();
    let existing = existing_indexes(target, &schemas).await.map_err(SnapshotError::schema)?;
    let mut gone = Vec::new();
    let mut tables = HashMap::with_capacity(left.len());
    for plan in left {
        let (Some(table), Some(shape)) = (found.remove(&plan.table.oid), shapes.of(plan.table.oid)) else {
            tracing::warn!(table = %plan.table.name.plain(), "the source does not have this table any more: it is not copied");
            gone.push(plan);
            continue;
        };
        let name = plan.table.name.clone();
        let Some(on_target) = columns.remove(&name) else {
            return Err(SnapshotError::TargetTableMissing { table: name });
        };
        if let Some(missing) = table.copied_columns().find(|column| !on_target.contains_key(&column.name)) {
            return Err(SnapshotError::TargetColumnMissing {
                table: name,
                column: missing.name.clone(),
                type_name: missing.type_name.clone(),
            });
        }
        let due = division.and_then(|division| division.by_table.get(&name)).cloned().unwrap_or_default();
        let is_due = |build: &IndexBuild| !existing.contains(&build.index);
        let keys_due = due.primary_key.into_iter().chain(due.replica_identity).filter(is_due).collect();
        let copy = CopyTable {
            statements: CopyStatements::new(&table, &name, &on_target),
            keys_due,
            others_due: due.others.into_iter().filter(is_due).map(Arc::new).collect(),
            is_referenced: referenced.contains(&name),
            has_long_index_entries: division.is_none() || with_long_entries.contains(&table.oid),
            shaped: ShapedTable { is_heap: shapes.is_heap(table.oid), shape: shape.to_owned(), table },
            is_passed: plan.is_passed,
            rows: plan.rows,
            bytes: plan.bytes,
            states: plan.states,
            plan: plan.table,
        };
        tables.insert(copy.plan.oid, copy);
    }
    Ok(Found { tables, gone, seen_at: seen_at.parse().unwrap_or(Lsn::new(u64::MAX)) })
}

/// Tables of the source with an index that stores values of varying length, as they are stored in the row.
async fn read_tables_with_long_index_entries(
    source: &SqlSession,
    tables: &[Oid],
) -> Result<HashSet<Oid>, SnapshotError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.0).collect();
    let rows = source
        .query(
            "SELECT DISTINCT i.indrelid FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indexrelid
              WHERE i.indrelid = ANY ($1) AND a.attstorage <> 'p'",
            &[&oids],
        )
        .await
        .map_err(SnapshotError::source)?;
    Ok(rows.iter().map(|row| Oid(row.get(0))).collect())
}

/// Tables of the target that foreign keys refer to.
async fn read_referenced(target: &SqlSession) -> Result<HashSet<TableName>, SnapshotError> {
    let rows = target
        .query(
            "SELECT DISTINCT n.nspname::text, c.relname::text
               FROM pg_constraint f JOIN pg_class c ON c.oid = f.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE f.contype = 'f'",
            &[],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

fn load_board(context: &CopyContext, attempt: &Attempt) {
    let on_board = attempt.tables.values().filter(|table| !table.is_passed);
    let entries = on_board.map(|table| {
        let chunks = table.plan.ranges.iter().copied().zip(table.states.iter().cloned()).collect();
        (table.plan.oid, super::board::CopyEntry::new(chunks, table.plan.ranged_by.clone()))
    });
    let pending = |plan: &RecordedPlan| {
        let chunks = plan.table.ranges.iter().map(|range| (*range, ChunkState::Pending)).collect();
        (plan.table.oid, super::board::CopyEntry::new(chunks, plan.table.ranged_by.clone()))
    };
    let entries = entries.chain(attempt.gone.iter().map(pending));
    let planned = attempt.tables.keys().copied().chain(attempt.gone.iter().map(|plan| plan.table.oid));
    context.copy.load(entries.collect(), planned.collect(), context.slot_snapshot.clone());
    for table in attempt.tables.values() {
        let left = table.states.iter().filter(|state| !matches!(state, ChunkState::Joined(_))).count();
        let indexes = table.keys_due.len() + table.others_due.len();
        attempt.progress.resumed(&table.plan.name, table.rows, table.bytes, left as u64);
        attempt.progress.indexes_planned(&table.plan.name, indexes as u64);
    }
}

/// A table that is cut by ranges gets its keys before its rows: the stream finds rows of chunks that are in while others
/// are being copied.
async fn build_keys_of_cut_tables(attempt: &mut Attempt) -> Result<(), SnapshotError> {
    let mut tables = std::mem::take(&mut attempt.tables);
    let due = tables.values_mut().filter(|table| table.plan.ranges.len() > 1 && !table.keys_due.is_empty());
    let mut session = None;
    for table in due {
        if session.is_none() {
            session = Some(connect_target(attempt, "indexes").await?);
        }
        let Some(session) = &session else { continue };
        for key in std::mem::take(&mut table.keys_due) {
            build_key(&**session, &table.plan.name, &key).await?;
            attempt.progress.index_built(&table.plan.name);
        }
    }
    attempt.tables = tables;
    Ok(())
}

/// What the slot's snapshot contains: read once, when the slot is made.
///
/// # Errors
/// [`SnapshotError`].
pub async fn read_slot_snapshot(
    config: &Config,
    snapshot_name: &str,
) -> Result<super::Snapshot, SnapshotError> {
    let session = connect_sql(&config.source.connection, Side::Source, "copy control").await?;
    import_snapshot(&session, snapshot_name).await?;
    let snapshot = read_snapshot(&session).await?;
    session.close().await;
    Ok(snapshot)
}
