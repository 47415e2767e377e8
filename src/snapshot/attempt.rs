//! One attempt at what is left of the copy: reads what the target has recorded and what the source's tables are now, lets workers
//! copy and build, and keeps account. Ends when every table is copied and has its indexes, or with the first error; then all of
//! its sessions end, and the next attempt begins with what is recorded.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::SnapshotError;
use super::board::{ChunkId, CopyBoard};
use super::building::{Build, Builder, RETRY_AFTER};
use super::chunk::{CopyStatements, Relayed, read_target_columns};
use super::copying::CopyContext;
use super::governor::Governor;
use super::layout::{PlannedTable, chunks_wanted};
use super::lifecycle::ChunkState;
use super::plan_records::{self, JoinedChunk, Milestone, RecordedPlan};
use super::progress::CopyProgress;
use super::rate::RateLimit;
use super::schedule::{Outstanding, Queue, Work, order};
use super::take::{ShapedTable, Shapes, read_snapshot, wait_for_commits_in_doubt};
use super::worker::{Worker, connect_target};
use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::migration::{Blocking, Phase, Problem};
use crate::model::{Lsn, Oid, Side, TableName};
use crate::runtime::Shutdown;
use crate::source::{SourceTable, TableKind, catalog};
use crate::target::schema::{Division, IndexBuild, existing_indexes};

/// How often it is looked whether the stream has passed tables; many are then recorded at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A source that stands still is written to at most this often.
const NUDGE_INTERVAL: Duration = Duration::from_secs(1);

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
    others_due: Vec<Arc<IndexBuild>>,
    /// Foreign keys of other tables refer to it on the target, which keeps it from being truncated.
    pub(super) is_referenced: bool,
    is_passed: bool,
    rows: u64,
    bytes: u64,
    states: Vec<ChunkState>,
    passed_at: Lsn,
}

/// What a worker tells.
#[derive(Debug)]
pub(super) enum Event {
    /// A chunk is in, whose snapshot the stream has passed at this position.
    Joined { table: Oid, lsn: Lsn },
    /// An index is there.
    Built { table: Oid, index: TableName },
    /// An index could not be built; it is tried again.
    NotBuilt { index: TableName, message: String, remedy: String },
    /// Indexes and statistics are there.
    Finished(Oid),
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

    /// A partition's statistics are gathered with those of its root.
    pub(super) const fn is_analyzed_alone(&self) -> bool {
        matches!(self.shaped.table.kind, TableKind::Ordinary)
    }

    fn outstanding(&self, chunk_bytes: u64) -> Outstanding {
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
) -> Result<(), SnapshotError> {
    let config = &context.config;
    wait_for_commits_in_doubt(source).await?;
    let recorded = read_settled(context, target).await?;
    let (events, events_taken) = mpsc::unbounded_channel();
    let mut attempt = Attempt {
        config: Arc::clone(config),
        board: context.copy.clone(),
        progress: Arc::clone(progress),
        governor: Arc::clone(governor),
        rate: Arc::clone(&context.rate),
        shutdown: context.shutdown.clone(),
        tables: tables(source, target, division.as_deref(), recorded, config).await?,
        division,
        queue: Queue::new([]),
        builds: Queue::new([]),
        events,
    };
    load_board(context, &attempt);
    build_keys_of_cut_tables(&mut attempt).await?;
    let account = Account::new(&attempt);
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
        Some(ended) = workers.join_next() => ended.map_err(|_| SnapshotError::WorkerLost)?,
        error = governor.watch(source) => Err(error),
        () = progress.keep_published() => Ok(()),
        () = distrusted(&context.copy) => Err(SnapshotError::TargetLost),
        () = context.shutdown.requested() => Err(SnapshotError::Stopped),
    }
}

async fn distrusted(board: &CopyBoard) {
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

/// The tables whose copy is not over, as both sides have them now. Those that the source does not have any more are forgotten.
async fn tables(
    source: &SqlSession,
    target: &SqlSession,
    division: Option<&Division>,
    recorded: Vec<RecordedPlan>,
    config: &Config,
) -> Result<HashMap<Oid, CopyTable>, SnapshotError> {
    let left: Vec<RecordedPlan> = recorded.into_iter().filter(|plan| !plan.is_finished).collect();
    let oids: Vec<Oid> = left.iter().map(|plan| plan.table.oid).collect();
    source
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(SnapshotError::source)?;
    let found = catalog::read_tables(source, &config.source.tables).await?;
    let shapes = Shapes::read(source, &oids).await?;
    source.batch_execute("COMMIT").await.map_err(SnapshotError::source)?;
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
            gone.push(plan.table.oid);
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
            shaped: ShapedTable { is_heap: shapes.is_heap(table.oid), shape: shape.to_owned(), table },
            is_passed: plan.is_passed,
            rows: plan.rows,
            bytes: plan.bytes,
            passed_at: plan.passed_at,
            states: plan.states,
            plan: plan.table,
        };
        tables.insert(copy.plan.oid, copy);
    }
    if !gone.is_empty() {
        plan_records::forget(target, &gone).await?;
    }
    Ok(tables)
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
    context.copy.load(entries.collect(), context.slot_snapshot.clone());
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
            session.batch_execute(&key.sql).await.map_err(|error| SnapshotError::Index {
                table: table.plan.name.clone(),
                object: format!("index {}", key.index.plain()),
                error: error.into(),
                statement: key.sql.clone(),
            })?;
            attempt.progress.index_built(&table.plan.name);
        }
    }
    attempt.tables = tables;
    Ok(())
}

/// What became of each table.
struct Account {
    open: HashMap<Oid, Standing>,
    /// Indexes that could not be built, and why.
    refused: HashMap<TableName, (String, String)>,
    told: Option<String>,
    /// How far the stream was at the last look.
    applied_before: Option<Lsn>,
    nudged_at: Option<Instant>,
}

/// A table whose copy is not over.
struct Standing {
    passed_at: Lsn,
    is_passed: bool,
    /// Indexes that are not there yet; `None` until they are being built.
    building: Option<HashSet<TableName>>,
    is_finished: bool,
}

impl Account {
    fn new(attempt: &Attempt) -> Self {
        let standing = |table: &CopyTable| Standing {
            passed_at: table.passed_at,
            is_passed: table.is_passed,
            building: None,
            is_finished: false,
        };
        Self {
            open: attempt.tables.iter().map(|(oid, table)| (*oid, standing(table))).collect(),
            refused: HashMap::new(),
            told: None,
            applied_before: None,
            nudged_at: None,
        }
    }

    /// Keeps account until everything is over.
    async fn keep(
        mut self,
        attempt: &Attempt,
        context: &CopyContext,
        (source, target): (&SqlSession, &SqlSession),
        mut events: mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), SnapshotError> {
        let mut enters_indexes = true;
        let mut looked_at: Option<Instant> = None;
        while !self.open.is_empty() {
            if looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
                looked_at = Some(Instant::now());
                self.copy_again(attempt);
                self.pass(attempt, context, target).await?;
                self.nudge(attempt, context, source).await?;
                self.build(attempt);
                self.finish(target).await?;
                let is_copied = || self.open.keys().all(|table| attempt.board.is_joined(*table));
                if enters_indexes && is_copied() {
                    enters_indexes = false;
                    context.status.enter(Phase::Indexes);
                }
            }
            match tokio::time::timeout(LOOK_INTERVAL, events.recv()).await {
                Ok(Some(event)) => self.take(attempt, context, event),
                Ok(None) => return Err(SnapshotError::WorkerLost),
                Err(_) => {}
            }
        }
        self.tell(context);
        Ok(())
    }

    fn take(&mut self, attempt: &Attempt, context: &CopyContext, event: Event) {
        match event {
            Event::Joined { table, lsn } => {
                if let Some(standing) = self.open.get_mut(&table) {
                    standing.passed_at = standing.passed_at.max(lsn);
                }
            }
            Event::Built { table, index } => {
                self.refused.remove(&index);
                self.tell(context);
                if let Some(building) =
                    self.open.get_mut(&table).and_then(|standing| standing.building.as_mut())
                {
                    building.remove(&index);
                    if building.is_empty() {
                        attempt.builds.push([Build::Statistics(table)]);
                    }
                }
            }
            Event::NotBuilt { index, message, remedy } => {
                self.refused.insert(index, (message, remedy));
                self.tell(context);
            }
            Event::Finished(table) => {
                if let Some(standing) = self.open.get_mut(&table) {
                    standing.is_finished = true;
                }
            }
        }
    }

    /// What the stream has made worthless.
    fn copy_again(&mut self, attempt: &Attempt) {
        for chunk in attempt.board.take_again() {
            let Some(table) = attempt.tables.get(&chunk.table) else { continue };
            let outstanding = table.outstanding(attempt.config.snapshot.chunk_bytes);
            let work = match outstanding.ranges {
                Some(_) => vec![Work::Range(chunk)],
                None => order(vec![outstanding]),
            };
            tracing::info!(table = %table.plan.name.plain(), chunk = chunk.number, "a chunk is copied again");
            attempt.queue.push(work);
        }
    }

    /// Tables whose every snapshot the stream has passed: what comes of them now is in none.
    async fn pass(
        &mut self,
        attempt: &Attempt,
        context: &CopyContext,
        target: &SqlSession,
    ) -> Result<(), SnapshotError> {
        let Some(applied) = context.stream.applied_lsn() else { return Ok(()) };
        let is_due = |(table, standing): &(&Oid, &Standing)| {
            !standing.is_passed && applied >= standing.passed_at && attempt.board.is_joined(**table)
        };
        let due: Vec<Oid> = self.open.iter().filter(is_due).map(|(table, _)| *table).collect();
        if due.is_empty() {
            return Ok(());
        }
        // Where there is nothing to apply, the stream is further than its record: after a crash it goes on from there, and meets
        // changes again that the snapshots contain.
        let recorded = plan_records::read_progress(target).await?;
        let due: Vec<Oid> = due
            .into_iter()
            .filter(|table| self.open.get(table).is_some_and(|standing| recorded >= Some(standing.passed_at)))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        plan_records::record(target, Milestone::Passed, &due).await?;
        for table in due {
            attempt.board.forget(table);
            if let Some(standing) = self.open.get_mut(&table) {
                standing.is_passed = true;
            }
        }
        Ok(())
    }

    /// A source on which nothing happens writes no WAL, and without it the stream does not pass a position that is just ahead
    /// of it: something is written that means nothing to anybody.
    async fn nudge(
        &mut self,
        attempt: &Attempt,
        context: &CopyContext,
        source: &SqlSession,
    ) -> Result<(), SnapshotError> {
        let applied = context.stream.applied_lsn();
        let waits =
            |(table, standing): (&Oid, &Standing)| !standing.is_passed && attempt.board.is_joined(*table);
        let stands = applied.is_some() && applied == self.applied_before;
        self.applied_before = applied;
        if stands
            && self.open.iter().any(waits)
            && self.nudged_at.is_none_or(|at| at.elapsed() >= NUDGE_INTERVAL)
        {
            self.nudged_at = Some(Instant::now());
            source
                .batch_execute("SELECT pg_logical_emit_message(true, 'pgsluice', '')")
                .await
                .map_err(SnapshotError::source)?;
        }
        Ok(())
    }

    /// A table under one snapshot is consistent as soon as it is in. One whose chunks have several is only when the stream has
    /// passed them all: until then, two rows may have what is unique.
    fn build(&mut self, attempt: &Attempt) {
        for (oid, standing) in &mut self.open {
            let Some(table) = attempt.tables.get(oid) else { continue };
            let is_consistent =
                standing.is_passed || (table.plan.ranges.len() == 1 && attempt.board.is_joined(*oid));
            if standing.building.is_some() || !is_consistent {
                continue;
            }
            standing.building = Some(table.others_due.iter().map(|build| build.index.clone()).collect());
            for _ in &table.keys_due {
                attempt.progress.index_built(&table.plan.name);
            }
            if table.others_due.is_empty() {
                attempt.builds.push([Build::Statistics(*oid)]);
            } else {
                attempt
                    .builds
                    .push(table.others_due.iter().map(|build| Build::Index(Arc::clone(build), *oid)));
            }
        }
    }

    async fn finish(&mut self, target: &SqlSession) -> Result<(), SnapshotError> {
        let is_over = |standing: &Standing| standing.is_passed && standing.is_finished;
        let over: Vec<Oid> =
            self.open.iter().filter(|(_, standing)| is_over(standing)).map(|(table, _)| *table).collect();
        if !over.is_empty() {
            plan_records::record(target, Milestone::Finished, &over).await?;
            self.open.retain(|_, standing| !is_over(standing));
        }
        Ok(())
    }

    /// Says which indexes could not be built, or takes it back.
    fn tell(&mut self, context: &CopyContext) {
        let Some((message, remedy)) = self.refused.values().next() else {
            if let Some(told) = self.told.take() {
                context.status.update(|status| {
                    if status.problem.as_ref().is_some_and(|problem| problem.message == told) {
                        status.problem = None;
                    }
                });
            }
            return;
        };
        let others = self.refused.len() - 1;
        let message = if others == 0 { message.clone() } else { format!("{message} (and {others} more)") };
        if self.told.as_ref() != Some(&message) {
            tracing::error!(problem = %message, %remedy, retry_after = ?RETRY_AFTER, "an index could not be built");
            self.told = Some(message.clone());
        }
        let (at, blocking) = (Timestamp::now(), Blocking::WaitingForOperator);
        let problem = Problem { message, remedy: remedy.clone(), at, blocking };
        context.status.update(|status| status.problem = Some(problem));
    }
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
    super::import_snapshot(&session, snapshot_name).await?;
    let snapshot = read_snapshot(&session).await?;
    session.close().await;
    Ok(snapshot)
}
