//! What the target remembers of the migration's own copy: the plan, and which chunks are in, as of which snapshot. Written
//! when the plan is made, in the transaction that copies a chunk, and in the one that makes it worthless; read whenever
//! something begins.

use std::collections::HashMap;
use std::sync::Arc;

use pgsluice_proto::command::quote_literal;
use tokio_postgres::Transaction;

use super::SnapshotError;
use super::board::{ChunkId, RangedBy};
use super::key::{Key, KeyRange};
use super::layout::PlannedTable;
use super::lifecycle::ChunkState;
use super::records;
use super::visibility::Snapshot;
use crate::connection::SqlSession;
use crate::model::{Lsn, Oid, TableName};

/// Rows of one INSERT: a plan may have millions of chunks.
const CHUNKS_PER_INSERT: usize = 10_000;

/// A table as recorded.
#[derive(Clone, Debug)]
pub(super) struct RecordedPlan {
    /// The plan.
    pub(super) table: PlannedTable,
    /// State of each chunk.
    pub(super) states: Vec<ChunkState>,
    /// Rows and bytes of COPY data of the chunks that are in.
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// The stream has passed it.
    pub(super) is_passed: bool,
    /// Its indexes are built.
    pub(super) is_finished: bool,
}

/// Records the plan in one transaction that also sees every table empty, and runs `extra_sql` in it.
pub(super) async fn register(
    target: &mut SqlSession,
    plan: &[PlannedTable],
    extra_sql: &str,
) -> Result<(), SnapshotError> {
    let names: Vec<TableName> = plan.iter().map(|planned| planned.name.clone()).collect();
    let transaction = records::begin_registration(target, &names).await?;
    insert(&transaction, plan).await?;
    transaction.batch_execute(extra_sql).await.map_err(SnapshotError::target)?;
    transaction.commit().await.map_err(SnapshotError::target)
}

async fn insert(transaction: &Transaction<'_>, plan: &[PlannedTable]) -> Result<(), SnapshotError> {
    let schemas: Vec<&str> = plan.iter().map(|planned| planned.name.schema.as_str()).collect();
    let names: Vec<&str> = plan.iter().map(|planned| planned.name.name.as_str()).collect();
    let oids: Vec<u32> = plan.iter().map(|planned| planned.oid.0).collect();
    let columns: Vec<Option<&str>> =
        plan.iter().map(|planned| planned.ranged_by.as_ref().map(|by| by.column.as_str())).collect();
    transaction
        .execute(
            "INSERT INTO pgsluice.copy_table (schema_name, table_name, source_oid, key_column, state)
             SELECT *, 'pending' FROM unnest($1::text[], $2::text[], $3::oid[], $4::text[])",
            &[&schemas, &names, &oids, &columns],
        )
        .await
        .map_err(SnapshotError::target)?;
    let chunks: Vec<(&PlannedTable, usize)> = plan
        .iter()
        .flat_map(|planned| (0..planned.ranges.len()).map(move |number| (planned, number)))
        .collect();
    for chunks in chunks.chunks(CHUNKS_PER_INSERT) {
        let range = |(planned, number): &(&PlannedTable, usize)| planned.ranges.get(*number).copied();
        let schemas: Vec<&str> = chunks.iter().map(|(planned, _)| planned.name.schema.as_str()).collect();
        let names: Vec<&str> = chunks.iter().map(|(planned, _)| planned.name.name.as_str()).collect();
        let numbers: Vec<i32> =
            chunks.iter().map(|(_, number)| i32::try_from(*number).unwrap_or(i32::MAX)).collect();
        let firsts: Vec<Option<String>> =
            chunks.iter().map(|chunk| text(range(chunk).and_then(|range| range.first))).collect();
        let ends: Vec<Option<String>> =
            chunks.iter().map(|chunk| text(range(chunk).and_then(|range| range.end))).collect();
        transaction
            .execute(
                "INSERT INTO pgsluice.copy_chunk (schema_name, table_name, chunk, first_key, end_key, state)
                 SELECT *, 'pending' FROM unnest($1::text[], $2::text[], $3::int4[], $4::text[], $5::text[])",
                &[&schemas, &names, &numbers, &firsts, &ends],
            )
            .await
            .map_err(SnapshotError::target)?;
    }
    Ok(())
}

fn text(key: Option<Key>) -> Option<String> {
    key.map(|key| key.to_string())
}

/// Reads all of it; tables that are copied together for a join are left out. `kind_of` says by which type's order a table's key is
/// compared: a bound that is none of it makes the plan worthless.
pub(super) async fn read(target: &SqlSession) -> Result<Vec<RecordedPlan>, SnapshotError> {
    let tables = target
        .query(
            "SELECT schema_name, table_name, source_oid, key_column, is_passed, is_finished, rows_copied, bytes_copied
               FROM pgsluice.copy_table WHERE source_oid IS NOT NULL",
            &[],
        )
        .await
        .map_err(SnapshotError::target)?;
    let chunks = target
        .query(
            "SELECT c.schema_name, c.table_name, first_key, end_key, c.state = 'joined', c.snapshot
               FROM pgsluice.copy_chunk c JOIN pgsluice.copy_table t USING (schema_name, table_name)
              WHERE t.source_oid IS NOT NULL ORDER BY c.schema_name, c.table_name, c.chunk",
            &[],
        )
        .await
        .map_err(SnapshotError::target)?;
    let mut plans = HashMap::with_capacity(tables.len());
    for row in &tables {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let column: Option<String> = row.get(3);
        let plan = RecordedPlan {
            table: PlannedTable {
                oid: Oid(row.get(2)),
                name: name.clone(),
                // The kind follows from the bounds.
                ranged_by: column.map(|column| RangedBy { column, kind: super::key::KeyKind::Integer }),
                ranges: Vec::new(),
            },
            states: Vec::new(),
            rows: records::unsigned(row.get(6)),
            bytes: records::unsigned(row.get(7)),
            is_passed: row.get(4),
            is_finished: row.get(5),
        };
        plans.insert(name, plan);
    }
    for row in &chunks {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        if let Some(plan) = plans.get_mut(&name) {
            add_chunk(plan, row)?;
        }
    }
    let mut plans: Vec<RecordedPlan> = plans.into_values().collect();
    for plan in &mut plans {
        // A chunk may have been condemned in the moment in which that was recorded.
        plan.is_passed &= plan.states.iter().all(|state| matches!(state, ChunkState::Joined(_)));
        plan.is_finished &= plan.is_passed;
    }
    Ok(plans)
}

fn add_chunk(plan: &mut RecordedPlan, row: &tokio_postgres::Row) -> Result<(), SnapshotError> {
    let unreadable = || SnapshotError::PlanUnreadable { table: plan.table.name.clone() };
    let key = |text: Option<String>| -> Result<Option<Key>, SnapshotError> {
        text.map(|text| Key::parse(&text).ok_or_else(unreadable)).transpose()
    };
    let range = KeyRange { first: key(row.get(2))?, end: key(row.get(3))? };
    let snapshot: Option<String> = row.get(5);
    let state = match (row.get(4), snapshot) {
        (true, Some(snapshot)) => ChunkState::Joined(Arc::new(snapshot.parse().map_err(|_| unreadable())?)),
        (true, None) => return Err(unreadable()),
        (false, _) => ChunkState::Pending,
    };
    if let (Some(by), Some(bound)) = (&mut plan.table.ranged_by, range.first.or(range.end)) {
        by.kind = bound.kind();
    }
    plan.table.ranges.push(range);
    plan.states.push(state);
    Ok(())
}

/// What a stream that begins has to know: every chunk of the tables it has not passed, with the snapshot of those that are in.
///
/// # Errors
/// [`SnapshotError::Target`].
pub async fn read_unpassed(
    target: &SqlSession,
) -> Result<HashMap<ChunkId, Option<Arc<Snapshot>>>, SnapshotError> {
    let mut chunks = HashMap::new();
    for plan in read(target).await?.into_iter().filter(|plan| !plan.is_passed) {
        for (number, state) in plan.states.iter().enumerate() {
            let snapshot = match state {
                ChunkState::Joined(snapshot) => Some(Arc::clone(snapshot)),
                _ => None,
            };
            chunks.insert(ChunkId { table: plan.table.oid, number }, snapshot);
        }
    }
    Ok(chunks)
}

/// SQL that records that chunks are to be copied again, for the transaction that makes them worthless.
#[must_use]
pub fn pending_again_sql(table: Oid, chunks: &[usize]) -> String {
    let list: Vec<String> = chunks.iter().map(usize::to_string).collect();
    let list = list.join(", ");
    format!(
        "WITH gone AS (
             UPDATE pgsluice.copy_chunk c SET state = 'pending', snapshot = NULL, snapshot_lsn = NULL,
                    rows_copied = NULL, bytes_copied = NULL
               FROM pgsluice.copy_table t
              WHERE t.source_oid = {oid} AND c.schema_name = t.schema_name AND c.table_name = t.table_name
                AND c.chunk IN ({list})
             RETURNING 1)
         UPDATE pgsluice.copy_table t SET state = 'copying', is_passed = false, is_finished = false,
                rows_copied = coalesce((SELECT sum(c.rows_copied) FROM pgsluice.copy_chunk c
                    WHERE c.schema_name = t.schema_name AND c.table_name = t.table_name AND c.chunk NOT IN ({list})), 0),
                bytes_copied = coalesce((SELECT sum(c.bytes_copied) FROM pgsluice.copy_chunk c
                    WHERE c.schema_name = t.schema_name AND c.table_name = t.table_name AND c.chunk NOT IN ({list})), 0)
          WHERE t.source_oid = {oid}",
        oid = table.0,
    )
}

/// A chunk that is in, for [`joined_sql`].
#[derive(Clone, Debug)]
pub(super) struct JoinedChunk<'a> {
    pub(super) table: &'a TableName,
    pub(super) number: usize,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// SQL that completes chunks of one snapshot inside the transaction that copied them, and each table with its last one. The
/// UPDATE of the table comes first, so that of two last chunks the later one sees the other.
pub(super) fn joined_sql(chunks: &[JoinedChunk<'_>], snapshot: &Snapshot, lsn: Lsn) -> String {
    let rows: Vec<String> = chunks
        .iter()
        .map(|chunk| {
            format!(
                "({}, {}, {}, {}::bigint, {}::bigint)",
                quote_literal(&chunk.table.schema),
                quote_literal(&chunk.table.name),
                chunk.number,
                chunk.rows,
                chunk.bytes
            )
        })
        .collect();
    let list = format!("(VALUES {}) AS d (schema_name, table_name, chunk, rows, bytes)", rows.join(", "));
    format!(
        "UPDATE pgsluice.copy_table t SET rows_copied = rows_copied + d.rows, bytes_copied = bytes_copied + d.bytes,
                state = CASE WHEN state = 'pending' THEN 'copying' ELSE state END
           FROM {list} WHERE t.schema_name = d.schema_name AND t.table_name = d.table_name;
         UPDATE pgsluice.copy_chunk c SET state = 'joined', snapshot = '{snapshot}', snapshot_lsn = '{lsn}',
                rows_copied = d.rows, bytes_copied = d.bytes, begun_at = now(), joined_at = clock_timestamp()
           FROM {list} WHERE c.schema_name = d.schema_name AND c.table_name = d.table_name AND c.chunk = d.chunk;
         UPDATE pgsluice.copy_table t SET state = 'joined'
           FROM {list} WHERE t.schema_name = d.schema_name AND t.table_name = d.table_name
            AND NOT EXISTS (SELECT FROM pgsluice.copy_chunk c WHERE c.schema_name = t.schema_name
                             AND c.table_name = t.table_name AND c.state <> 'joined')"
    )
}

/// Whether a chunk is recorded as joined. Waits for a transaction that is about to record it.
pub(super) async fn is_joined(
    target: &SqlSession,
    table: &TableName,
    number: usize,
) -> Result<bool, SnapshotError> {
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    let row = target
        .query_opt(
            "SELECT state = 'joined' FROM pgsluice.copy_chunk
              WHERE schema_name = $1 AND table_name = $2 AND chunk = $3 FOR UPDATE",
            &[&table.schema, &table.name, &number],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Records of those of these tables whose chunks are all in that the stream has passed every snapshot, and returns them. Decided by
/// what the target has: where the stream goes on after it broke off, which is not what it has applied in memory.
pub(super) async fn pass(target: &SqlSession, tables: &[Oid]) -> Result<Vec<Oid>, SnapshotError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.0).collect();
    let rows = target
        .query(
            "UPDATE pgsluice.copy_table t SET is_passed = true
              WHERE source_oid = ANY ($1) AND NOT is_passed
                AND NOT EXISTS (SELECT FROM pgsluice.copy_chunk c
                                 WHERE c.schema_name = t.schema_name AND c.table_name = t.table_name
                                   AND (c.state <> 'joined' OR c.snapshot_lsn IS NULL
                                        OR c.snapshot_lsn > (SELECT min(commit_lsn) FROM pgsluice.progress)))
             RETURNING source_oid",
            &[&oids],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(rows.iter().map(|row| Oid(row.get(0))).collect())
}

/// Takes it back of a table of which a chunk was condemned in that moment.
pub(super) async fn not_passed(target: &SqlSession, table: Oid) -> Result<(), SnapshotError> {
    target
        .execute("UPDATE pgsluice.copy_table SET is_passed = false WHERE source_oid = $1", &[&table.0])
        .await
        .map_err(SnapshotError::target)?;
    Ok(())
}

/// Records that the copy of these tables is over: their indexes are built, too.
pub(super) async fn finish(target: &SqlSession, tables: &[Oid]) -> Result<(), SnapshotError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.0).collect();
    target
        .execute(
            "UPDATE pgsluice.copy_table SET is_finished = true WHERE source_oid = ANY ($1) AND is_passed",
            &[&oids],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(())
}

/// SQL that fails unless the copy of every table is over, for the transaction that records that.
pub(super) const ALL_FINISHED: &str = "DO $$ BEGIN
    IF EXISTS (SELECT FROM pgsluice.copy_table WHERE source_oid IS NOT NULL AND NOT (is_passed AND is_finished)) THEN
        RAISE EXCEPTION 'pgsluice: the target has lost the last part of what was copied to it';
    END IF;
END $$";

/// Forgets tables that the source does not have any more, once the stream has passed the moment in which that was seen: changes
/// from before are passed over until then. Returns what was forgotten.
pub(super) async fn forget(
    target: &SqlSession,
    gone: &[Oid],
    seen_at: Lsn,
) -> Result<Vec<Oid>, SnapshotError> {
    let oids: Vec<u32> = gone.iter().map(|table| table.0).collect();
    let rows = target
        .query(
            "WITH gone AS (
                 DELETE FROM pgsluice.copy_table WHERE source_oid = ANY ($1)
                    AND (SELECT min(commit_lsn) FROM pgsluice.progress) >= $2::text::pg_lsn
                 RETURNING schema_name, table_name, source_oid),
             chunks AS (DELETE FROM pgsluice.copy_chunk
                         WHERE (schema_name, table_name) IN (SELECT schema_name, table_name FROM gone))
             SELECT source_oid FROM gone",
            &[&oids, &seen_at.to_string()],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(rows.iter().map(|row| Oid(row.get(0))).collect())
}
