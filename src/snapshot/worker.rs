//! A session on the source and one on the target that copy what the queue has for them. Whatever a chunk comes to is in one
//! target transaction, which also records it (trap 13); if it cannot be known whether that was committed, everything is
//! read anew.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::SnapshotError;
use super::attempt::{Attempt, CopyTable, Event};
use super::board::ChunkId;
use super::building::build_key;
use super::chunk::{Relayed, UnderWay, relay};
use super::guard::import_snapshot;
use super::lifecycle::ChunkState;
use super::plan::BlockRange;
use super::plan_records::{JoinedChunk, joined_sql};
use super::schedule::Work;
use super::spread::Spread;
use super::take::{ShapedTable, Taken, take};
use crate::connection::{SqlSession, WireConnection, connect_sql};
use crate::model::{Oid, Side};
use crate::source::fence;
use crate::target::lock;
use crate::target::schema::IndexBuild;

/// From this size on, a table is emptied by TRUNCATE, so that its rows can be written frozen: nothing has to visit them again
/// soon. Of a smaller one it would cost more than it saves.
const FROZEN_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Whether long values can be compressed by lz4, and nobody has said that they should not be: what the operator has set for the server,
/// the database or the role holds, and so does what a column says of itself. It takes a fraction of the time that pglz takes, now and
/// whenever they are read, and PostgreSQL makes it the default from version 19 on.
const HAS_LZ4: &str = "SELECT count(*) > 0 FROM pg_settings
     WHERE name = 'default_toast_compression' AND source = 'default' AND 'lz4' = ANY (enumvals)";

pub(super) struct Worker {
    attempt: Arc<Attempt>,
    source: WireConnection,
    target: SqlSession,
    has_lz4: bool,
}

/// A session that writes copied rows.
pub(super) async fn connect_target(
    attempt: &Attempt,
    purpose: &'static str,
) -> Result<SqlSession, SnapshotError> {
    let target = connect_sql(&attempt.config.target.connection, Side::Target, purpose).await?;
    if !attempt.home.is_seen_by(&target).await.map_err(SnapshotError::target)? {
        return Err(SnapshotError::TargetLost);
    }
    // A successor of a killed run must not look at the target while this session may still commit.
    lock::join_writers(&target).await.map_err(SnapshotError::target)?;
    // A chunk and its record are lost together, or not at all: nobody needs to wait for the disk. Should we be gone while an index
    // is being built, the server ends that soon.
    target
        .batch_execute(
            "SET session_replication_role = replica; SET synchronous_commit = off; SET client_connection_check_interval = '2s'",
        )
        .await
        .map_err(SnapshotError::target)?;
    if let Some(division) = &attempt.division {
        target.batch_execute(&division.session_sql()).await.map_err(SnapshotError::target)?;
    }
    fence::pass(&*target).await.map_err(SnapshotError::target)?;
    Ok(target)
}

impl Worker {
    pub(super) async fn connect(attempt: Arc<Attempt>) -> Result<Self, SnapshotError> {
        let settings = &attempt.config.source.connection;
        let mut source = WireConnection::connect_backend(settings, Side::Source, "copy").await?;
        // A range is read by the index of its key, whatever the source's statistics say; one core of the source is enough.
        let plans = "SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0";
        source.simple_query(plans).await.map_err(SnapshotError::source)?;
        let target = connect_target(&attempt, "copy").await?;
        let has_lz4 = target.query_one(HAS_LZ4, &[]).await.map_err(SnapshotError::target)?.get(0);
        Ok(Self { attempt, source, target, has_lz4 })
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self) -> Result<(), SnapshotError> {
        loop {
            let work = self.attempt.queue.next().await;
            if !matches!(work, Work::Part(..)) {
                self.attempt.governor.may_begin().await;
            }
            match work {
                Work::Whole(tables) => self.copy_whole(&tables).await?,
                Work::Range(chunk) => self.copy_range(chunk).await?,
                Work::Spread(table) => self.begin_spread(table).await?,
                Work::Part(spread, blocks) => self.copy_part(&spread, blocks).await?,
            }
        }
    }

    /// Small tables under one snapshot, or a larger one alone, with the index that finds rows.
    async fn copy_whole(&mut self, tables: &[Oid]) -> Result<(), SnapshotError> {
        let attempt = Arc::clone(&self.attempt);
        let tables: Vec<&CopyTable> = tables.iter().filter_map(|table| attempt.tables.get(table)).collect();
        let chunks: Vec<ChunkId> = tables.iter().map(|table| table.chunk(0)).collect();
        let taken = self.take(&chunks, &tables).await?;
        let transaction = self.target.transaction().await.map_err(SnapshotError::target)?;
        choose_compression(self.has_lz4, &transaction, &tables).await?;
        let way = empty(&transaction, &tables).await?;
        let mut joined = Vec::with_capacity(tables.len());
        for table in &tables {
            let source = &mut self.source;
            let copy = Copy { attempt: &attempt, source, transaction: &transaction, table };
            let (under_way, relayed) = copy.relay("", way.options()).await?;
            joined.push((under_way, relayed));
        }
        // The snapshot is of no more use.
        self.source.simple_query("COMMIT").await.map_err(SnapshotError::source)?;
        build_keys(&transaction, &tables).await?;
        let records: Vec<JoinedChunk<'_>> =
            tables.iter().zip(&joined).map(|(table, (_, relayed))| table.joined(0, *relayed)).collect();
        commit(transaction, &records, &taken).await?;
        for ((under_way, relayed), chunk) in joined.into_iter().zip(chunks) {
            under_way.joined(relayed.rows);
            attempt.joined(chunk, &taken);
        }
        Ok(())
    }

    async fn copy_range(&mut self, chunk: ChunkId) -> Result<(), SnapshotError> {
        let attempt = Arc::clone(&self.attempt);
        let Some(table) = attempt.tables.get(&chunk.table) else { return Ok(()) };
        let condition = table.condition(chunk.number);
        let taken = self.take(&[chunk], &[table]).await?;
        let transaction = self.target.transaction().await.map_err(SnapshotError::target)?;
        choose_compression(self.has_lz4, &transaction, &[table]).await?;
        // What an earlier copy of this range has left that was made worthless.
        transaction
            .batch_execute(&format!("DELETE FROM ONLY {}{condition}", table.plan.name))
            .await
            .map_err(SnapshotError::copying(Side::Target, &table.plan.name))?;
        let source = &mut self.source;
        let copy = Copy { attempt: &attempt, source, transaction: &transaction, table };
        let (under_way, relayed) = copy.relay(&condition, "").await?;
        self.source.simple_query("COMMIT").await.map_err(SnapshotError::source)?;
        commit(transaction, &[table.joined(chunk.number, relayed)], &taken).await?;
        under_way.joined(relayed.rows);
        attempt.joined(chunk, &taken);
        Ok(())
    }

    /// Takes the snapshot of a table that several sessions copy, and lets them.
    async fn begin_spread(&mut self, table: Oid) -> Result<(), SnapshotError> {
        let attempt = Arc::clone(&self.attempt);
        let Some(table) = attempt.tables.get(&table) else { return Ok(()) };
        let transaction = self.target.transaction().await.map_err(SnapshotError::target)?;
        empty(&transaction, &[table]).await?;
        transaction.commit().await.map_err(SnapshotError::target)?;
        attempt.progress.begin(&table.plan.name);
        let settings = &attempt.config.source.connection;
        let holder = WireConnection::connect_backend(settings, Side::Source, "copy guard").await?;
        let chunk_bytes = attempt.config.snapshot.chunk_bytes;
        let begun = Spread::begin(holder, &attempt.board, table.chunk(0), &table.shaped, chunk_bytes).await?;
        let (spread, parts) = (Arc::new(begun.0), begun.1);
        attempt.queue.push_first(parts.into_iter().map(|blocks| Work::Part(Arc::clone(&spread), blocks)));
        Ok(())
    }

    async fn copy_part(&mut self, spread: &Spread, blocks: BlockRange) -> Result<(), SnapshotError> {
        let attempt = Arc::clone(&self.attempt);
        let Some(table) = attempt.tables.get(&spread.chunk.table) else { return Ok(()) };
        import_snapshot(&mut self.source, &spread.snapshot_name).await?;
        let transaction = self.target.transaction().await.map_err(SnapshotError::target)?;
        choose_compression(self.has_lz4, &transaction, &[table]).await?;
        let source = &mut self.source;
        let copy = Copy { attempt: &attempt, source, transaction: &transaction, table };
        let (under_way, relayed) = copy.relay(&blocks.condition(), "").await?;
        self.source.simple_query("COMMIT").await.map_err(SnapshotError::source)?;
        transaction.commit().await.map_err(SnapshotError::target)?;
        under_way.committed_part();
        let Some(all) = spread.part_committed(relayed).await? else { return Ok(()) };
        let transaction = self.target.transaction().await.map_err(SnapshotError::target)?;
        build_keys(&transaction, &[table]).await?;
        commit(transaction, &[table.joined(0, all)], &spread.taken).await?;
        attempt.progress.joined(&table.plan.name, all.rows, 0);
        attempt.joined(spread.chunk, &spread.taken);
        Ok(())
    }

    async fn take(&mut self, chunks: &[ChunkId], tables: &[&CopyTable]) -> Result<Taken, SnapshotError> {
        for table in tables {
            self.attempt.progress.begin(&table.plan.name);
        }
        let shaped: Vec<&ShapedTable> = tables.iter().map(|table| &table.shaped).collect();
        take(&mut self.source, &self.attempt.board, chunks, &shaped).await
    }
}

/// Chooses for the transaction how long values are compressed. An index entry is what the row's value was compressed to, and may be
/// of 2,700 bytes at most: what fitted on the source by pglz may not fit by lz4. Tables of a batch are all treated alike.
async fn choose_compression(
    has_lz4: bool,
    transaction: &Transaction<'_>,
    tables: &[&CopyTable],
) -> Result<(), SnapshotError> {
    if !has_lz4 || tables.iter().any(|table| table.has_long_index_entries) {
        return Ok(());
    }
    let lz4 = "SET LOCAL default_toast_compression = 'lz4'";
    transaction.batch_execute(lz4).await.map_err(SnapshotError::target)
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As visible to everybody from the first moment on.
    Frozen,
    Plain,
}

impl Way {
    const fn options(self) -> &'static str {
        match self {
            Self::Frozen => ", FREEZE true",
            Self::Plain => "",
        }
    }
}

/// Empties tables that are to be copied as a whole. There are rows only if an earlier copy of them was made worthless; they were
/// seen empty when the plan was made.
async fn empty(transaction: &Transaction<'_>, tables: &[&CopyTable]) -> Result<Way, SnapshotError> {
    let is_frozen =
        |table: &CopyTable| table.shaped.table.total_bytes >= FROZEN_BYTES_MIN && !table.is_referenced;
    if let [table] = tables
        && is_frozen(table)
    {
        let name = &table.plan.name;
        let emptied = transaction.batch_execute(&format!("TRUNCATE ONLY {name}")).await;
        return match emptied {
            Ok(()) => Ok(Way::Frozen),
            // A table that joined meanwhile refers to it: the next attempt knows.
            Err(error) if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
                Err(SnapshotError::TableAltered { table: name.clone() })
            }
            Err(error) => Err(SnapshotError::copying(Side::Target, name)(error)),
        };
    }
    // The lock waits for a session of an earlier attempt whose COMMIT may still be under way.
    let names: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.plan.name)).collect();
    let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", names.join(", "));
    let deletes = names.iter().map(|name| format!("; DELETE FROM {name}"));
    let statements: String = std::iter::once(lock).chain(deletes).collect();
    transaction.batch_execute(&statements).await.map_err(SnapshotError::target)?;
    Ok(Way::Plain)
}

/// Builds what the stream finds rows by, where it is not there yet: it is if the table is copied again.
async fn build_keys(transaction: &Transaction<'_>, tables: &[&CopyTable]) -> Result<(), SnapshotError> {
    let due: Vec<(&CopyTable, &IndexBuild)> =
        tables.iter().flat_map(|table| table.keys_due.iter().map(|key| (*table, key))).collect();
    let names: Vec<String> = due.iter().map(|(_, key)| key.index.to_string()).collect();
    let missing = transaction
        .query("SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL", &[&names])
        .await
        .map_err(SnapshotError::target)?;
    let missing: HashSet<String> = missing.iter().map(|row| row.get(0)).collect();
    for ((table, key), _) in due.iter().zip(&names).filter(|(_, name)| missing.contains(*name)) {
        build_key(transaction, &table.plan.name, key).await?;
    }
    Ok(())
}

/// Records chunks, then commits: each waits for its answer, so that a commit in doubt is one whose record is locked.
async fn commit(
    transaction: Transaction<'_>,
    chunks: &[JoinedChunk<'_>],
    taken: &Taken,
) -> Result<(), SnapshotError> {
    let record = joined_sql(chunks, &taken.snapshot, taken.lsn);
    transaction.batch_execute(&record).await.map_err(SnapshotError::target)?;
    transaction.commit().await.map_err(SnapshotError::target)
}

/// One COPY.
struct Copy<'a, 't> {
    attempt: &'a Attempt,
    source: &'t mut WireConnection,
    transaction: &'t Transaction<'t>,
    table: &'a CopyTable,
}

impl<'a> Copy<'a, '_> {
    async fn relay(self, condition: &str, options: &str) -> Result<(UnderWay<'a>, Relayed), SnapshotError> {
        let Self { attempt, source, transaction, table } = self;
        let name = &table.plan.name;
        let into = table.statements.copy_in(options);
        let mut under_way = UnderWay::new(name, &attempt.progress, &attempt.rate);
        let relayed = relay(
            (source, &table.statements.copy_out(condition)),
            transaction.copy_in(&into),
            &mut under_way,
        )
        .await?;
        Ok((under_way, relayed))
    }
}

impl Attempt {
    /// A chunk is committed: its changes are applied from now on, those that its snapshot does not contain.
    fn joined(&self, chunk: ChunkId, taken: &Taken) {
        self.board.enter(chunk, ChunkState::Joined(Arc::clone(&taken.snapshot)));
        let _ = self.events.send(Event::Joined(chunk.table));
    }
}
