//! Takes the snapshot of a chunk: its tables are locked against DDL and TRUNCATE first, then the stream is made to hold their
//! changes, then the snapshot is taken, and it is used only if it has everything that was passed over in reliance on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::SnapshotError;
use super::board::{ChunkId, CopyBoard};
use super::lifecycle::ChunkState;
use super::visibility::Snapshot;
use crate::connection::{SqlSession, TextQuery, TextRow, WireConnection};
use crate::model::{Lsn, Oid};
use crate::source::SourceTable;

/// How long DDL that is under way may hold a table before everything is begun anew.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two tries to get a snapshot that has everything.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// After so long it is said whom the snapshot waits for.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// A snapshot under which a session copies, until its transaction ends.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// What it contains.
    pub(super) snapshot: Arc<Snapshot>,
    /// A position of the source's WAL after every commit that it contains.
    pub(super) lsn: Lsn,
}

/// Begins the transaction under whose snapshot these chunks are copied. From here on the stream holds their changes.
///
/// # Errors
/// [`SnapshotError::TableAltered`] when a table is not any more what `tables` says, by name or columns.
pub(super) async fn take(
    source: &mut WireConnection,
    board: &CopyBoard,
    chunks: &[ChunkId],
    tables: &[&ShapedTable],
) -> Result<Taken, SnapshotError> {
    let names: Vec<String> = tables.iter().map(|each| format!("ONLY {}", each.table.name)).collect();
    let lock = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '{}s'; LOCK TABLE {} IN ACCESS SHARE MODE",
        LOCK_TIMEOUT.as_secs(),
        names.join(", ")
    );
    let begun_at = Instant::now();
    let mut is_told = false;
    loop {
        // Before the snapshot: whatever empties or rewrites a table has ended by then, and is in it.
        source.rows(&lock).await.map_err(|error| match (error.sqlstate(), tables) {
            // Dropped or renamed: what there is now is read anew.
            (Some(&(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME)), [first, ..]) => {
                SnapshotError::TableAltered { table: first.table.name.clone() }
            }
            _ => SnapshotError::source(error),
        })?;
        for chunk in chunks {
            board.enter(*chunk, ChunkState::Snapshotting);
        }
        let snapshot = Arc::new(read_snapshot(&mut *source).await?);
        let oids: Vec<Oid> = tables.iter().map(|each| each.table.oid).collect();
        let seen = Shapes::read(&mut *source, &oids).await?;
        if let Some(altered) = tables.iter().find(|each| seen.of(each.table.oid) != Some(each.shape.as_str()))
        {
            return Err(SnapshotError::TableAltered { table: altered.table.name.clone() });
        }
        match board.snapshot_taken(chunks, &snapshot) {
            Ok(()) => return Ok(Taken { snapshot, lsn: seen.lsn }),
            Err(xid) => {
                if !is_told && begun_at.elapsed() >= TOLD_AFTER {
                    is_told = true;
                    tracing::warn!(
                        xid = xid.0,
                        "a chunk waits for a transaction of the source that is committed and not visible yet: a synchronous standby of the source may not answer"
                    );
                }
            }
        }
        // It may take long, and the stream need not wait for it.
        for chunk in chunks {
            board.enter(*chunk, ChunkState::Pending);
        }
        source.simple_query("ROLLBACK").await.map_err(SnapshotError::source)?;
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// The snapshot of the session's transaction.
///
/// # Errors
/// [`SnapshotError::Source`].
pub async fn read_snapshot(source: impl TextQuery) -> Result<Snapshot, SnapshotError> {
    let rows =
        source.rows("SELECT pg_current_snapshot() AS snapshot").await.map_err(SnapshotError::source)?;
    let text = rows.first().and_then(|row| row.get("snapshot")).ok_or(SnapshotError::SnapshotUnreadable)?;
    text.parse().map_err(|_| SnapshotError::SnapshotUnreadable)
}

/// Waits until every commit of the source is visible that is in its WAL now and waits for a synchronous standby: an earlier
/// process may have been streamed it, which nobody knows any more.
///
/// # Errors
/// [`SnapshotError::Source`].
pub async fn wait_for_commits_in_doubt(source: &SqlSession) -> Result<(), SnapshotError> {
    let in_doubt = commits_that_wait(source).await?;
    let begun_at = Instant::now();
    let mut is_told = false;
    loop {
        let waiting = commits_that_wait(source).await?;
        let Some((pid, _)) = waiting.iter().find(|session| in_doubt.contains(session)) else { return Ok(()) };
        if !is_told && begun_at.elapsed() >= TOLD_AFTER {
            is_told = true;
            tracing::warn!(
                pid,
                sessions = waiting.len(),
                "sessions of the source whose commit waits for a synchronous standby are waited for"
            );
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Sessions by pid, each with the beginning of its statement. Also of COMMIT PREPARED, which is of no transaction of its own.
async fn commits_that_wait(source: &SqlSession) -> Result<Vec<(i32, String)>, SnapshotError> {
    let rows = source
        .query(
            "SELECT pid, coalesce(query_start::text, '') FROM pg_stat_activity WHERE wait_event = 'SyncRep' ORDER BY 1",
            &[],
        )
        .await
        .map_err(SnapshotError::source)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A table, and its [shape](Shapes) at the moment it was read.
#[derive(Clone, Debug)]
pub(super) struct ShapedTable {
    pub(super) table: SourceTable,
    pub(super) shape: String,
    /// Whether its rows have positions that can be ranged over.
    pub(super) is_heap: bool,
}

/// Name and columns of tables, as text that is equal only if they are.
#[derive(Debug)]
pub(super) struct Shapes {
    shapes: HashMap<Oid, (String, bool)>,
    /// A position of the WAL after every commit that is visible to the reading.
    pub(super) lsn: Lsn,
}

impl Shapes {
    /// Reads those of these tables that are there.
    pub(super) async fn read(source: impl TextQuery, tables: &[Oid]) -> Result<Self, SnapshotError> {
        let oids: Vec<String> = tables.iter().map(|table| table.0.to_string()).collect();
        let rows = source
            .rows(&format!(
                "SELECT c.oid, format('%I.%I (%s)', n.nspname, c.relname,
                        (SELECT string_agg(format('%s %I %s %s %s', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated),
                                           ', ' ORDER BY a.attnum)
                           FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS shape,
                        pg_current_wal_insert_lsn() AS lsn, m.amname = 'heap' AS is_heap
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am m ON m.oid = c.relam
                  WHERE c.oid = ANY ('{{{}}}'::oid[])",
                oids.join(",")
            ))
            .await
            .map_err(SnapshotError::source)?;
        let lsn = rows.first().and_then(|row| row.get("lsn")?.parse().ok());
        let shape = |row: &TextRow| {
            let oid = Oid(row.get("oid")?.parse().ok()?);
            Some((oid, (row.get("shape")?.to_owned(), row.get("is_heap")? == "t")))
        };
        Ok(Self { shapes: rows.iter().filter_map(shape).collect(), lsn: lsn.unwrap_or(Lsn::new(u64::MAX)) })
    }

    /// The shape of a table; `None` if it is gone.
    pub(super) fn of(&self, table: Oid) -> Option<&str> {
        self.shapes.get(&table).map(|(shape, _)| shape.as_str())
    }

    /// Whether its rows have positions that can be ranged over.
    pub(super) fn is_heap(&self, table: Oid) -> bool {
        self.shapes.get(&table).is_some_and(|(_, is_heap)| *is_heap)
    }
}
