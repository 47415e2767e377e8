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
use crate::target::progress;

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
    /// A position of the source's WAL after every commit that a snapshot of a chunk contains.
    pub(super) passed_at: Lsn,
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
    for planned in plan {
        let firsts: Vec<Option<String>> = planned.ranges.iter().map(|range| text(range.first)).collect();
        let ends: Vec<Option<String>> = planned.ranges.iter().map(|range| text(range.end)).collect();
        transaction
            .execute(
                "INSERT INTO pgsluice.copy_chunk (schema_name, table_name, chunk, first_key, end_key, state)
                 SELECT $1, $2, place - 1, first_key, end_key, 'pending'
                   FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS each (first_key, end_key, place)",
                &[&planned.name.schema, &planned.name.name, &firsts, &ends],
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
            "SELECT c.schema_name, c.table_name, first_key, end_key, c.state = 'joined', c.snapshot, c.snapshot_lsn::text
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
            passed_at: Lsn::new(0),
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
    Ok(plans.into_values().collect())
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
    let lsn: Option<String> = row.get(6);
    if let Some(lsn) = lsn {
        plan.passed_at = plan.passed_at.max(lsn.parse().map_err(|_| unreadable())?);
    }
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
         UPDATE pgsluice.copy_table t SET state = 'copying',
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

/// Where the stream would go on after a crash; `None` while that is not known.
pub(super) async fn read_progress(target: &SqlSession) -> Result<Option<Lsn>, SnapshotError> {
    let query = format!("SELECT ({})::text", progress::APPLIED_BY_ALL);
    let row = target.query_one(&query, &[]).await.map_err(SnapshotError::target)?;
    Ok(row.get::<_, Option<String>>(0).and_then(|lsn| lsn.parse().ok()))
}

/// What of a table's copy is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Milestone {
    /// The stream has passed every snapshot.
    Passed,
    /// And its indexes are built.
    Finished,
}

/// Records it of many tables.
pub(super) async fn record(
    target: &SqlSession,
    milestone: Milestone,
    tables: &[Oid],
) -> Result<(), SnapshotError> {
    let column = match milestone {
        Milestone::Passed => "is_passed = true",
        Milestone::Finished => "is_passed = true, is_finished = true",
    };
    let oids: Vec<u32> = tables.iter().map(|table| table.0).collect();
    target
        .execute(&format!("UPDATE pgsluice.copy_table SET {column} WHERE source_oid = ANY ($1)"), &[&oids])
        .await
        .map_err(SnapshotError::target)?;
    Ok(())
}

/// Forgets tables that the source does not have any more.
pub(super) async fn forget(target: &SqlSession, tables: &[Oid]) -> Result<(), SnapshotError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.0).collect();
    target
        .execute(
            "WITH gone AS (DELETE FROM pgsluice.copy_table WHERE source_oid = ANY ($1) RETURNING schema_name, table_name)
             DELETE FROM pgsluice.copy_chunk WHERE (schema_name, table_name) IN (SELECT * FROM gone)",
            &[&oids],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(())
}
