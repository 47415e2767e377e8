//! What the target remembers of the copy: `pgsluice.copy_table` and `pgsluice.copy_chunk`. A table is registered
//! only after it was seen empty, in the same transaction, and only registered tables are ever emptied again. A
//! chunk's completion is recorded in the transaction that copies it (trap 13).

use std::collections::BTreeMap;
use std::time::Duration;

use pgsluice_proto::command::quote_literal;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::SnapshotError;
use super::plan::Chunk;
use crate::connection::SqlSession;
use crate::migration::TableState;
use crate::model::TableName;
use crate::source::fence;

/// Tables that one statement looks at.
const TABLES_PER_STATEMENT: usize = 200;
/// How long somebody else's lock on a target table may hold us up before the step is tried anew.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// `source_oid`: of the tables of the migration's own copy, whose chunks have snapshots of their own; NULL for those that are
/// copied together under one. `is_passed`: the stream has passed every snapshot of the table. `is_finished`: its indexes are
/// built. `first_key` and `end_key`: NULL without bound; `first_block`, `end_block` for tables that are copied together.
/// `snapshot`: as `pg_current_snapshot()` of the source prints it; `snapshot_lsn`: a position of the source's WAL after every
/// commit that it contains.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.copy_table (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    source_oid oid,
    key_column text,
    state text NOT NULL CHECK (state IN ('pending', 'snapshotting', 'copying', 'joined')),
    is_passed boolean NOT NULL DEFAULT false,
    is_finished boolean NOT NULL DEFAULT false,
    rows_copied bigint NOT NULL DEFAULT 0,
    bytes_copied bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (schema_name, table_name)
);
CREATE TABLE IF NOT EXISTS pgsluice.copy_chunk (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    chunk integer NOT NULL,
    first_block bigint,
    end_block bigint,
    first_key text,
    end_key text,
    state text NOT NULL CHECK (state IN ('pending', 'snapshotting', 'copying', 'joined')),
    snapshot text,
    snapshot_lsn pg_lsn,
    rows_copied bigint,
    bytes_copied bigint,
    begun_at timestamptz,
    joined_at timestamptz,
    PRIMARY KEY (schema_name, table_name, chunk)
);";

/// A table as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedTable {
    /// How far it is.
    pub state: TableState,
    /// Rows copied.
    pub rows_copied: u64,
    /// Bytes of COPY data relayed.
    pub bytes_copied: u64,
}

/// Reads the recorded tables; empty when no copy was ever begun.
///
/// # Errors
/// [`SnapshotError::Target`].
pub async fn read(target: &SqlSession) -> Result<BTreeMap<TableName, RecordedTable>, SnapshotError> {
    if !exists(target).await? {
        return Ok(BTreeMap::new());
    }
    let rows = target
        .query(
            "SELECT schema_name, table_name, state, rows_copied, bytes_copied FROM pgsluice.copy_table",
            &[],
        )
        .await
        .map_err(SnapshotError::target)?;
    let decode = |row: &tokio_postgres::Row| {
        let state: String = row.get(2);
        let known = TableState::ALL.into_iter().find(|known| known.as_str() == state);
        RecordedTable {
            // What a later version may have added was not finished by this one.
            state: known.unwrap_or(TableState::Pending),
            rows_copied: unsigned(row.get(3)),
            bytes_copied: unsigned(row.get(4)),
        }
    };
    Ok(rows
        .iter()
        .map(|row| (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), decode(row)))
        .collect())
}

/// Registers tables and chunks in one transaction that also sees every table empty.
///
/// # Errors
/// [`SnapshotError::TargetNotEmpty`], [`SnapshotError::TargetTableMissing`], [`SnapshotError::Target`]; nothing is
/// recorded then.
pub(super) async fn register(
    target: &mut SqlSession,
    tables: &[TableName],
    chunks: &[Chunk],
    snapshot: &str,
) -> Result<(), SnapshotError> {
    let transaction = begin_registration(target, tables).await?;
    insert_tables(&transaction, tables).await?;
    insert_chunks(&transaction, chunks, snapshot).await?;
    transaction.commit().await.map_err(SnapshotError::target)
}

/// A transaction that has the records' tables, and these tables locked and seen empty.
pub(super) async fn begin_registration<'a>(
    target: &'a mut SqlSession,
    tables: &[TableName],
) -> Result<Transaction<'a>, SnapshotError> {
    let schema_exists = schema_exists(target).await?;
    let transaction = target.transaction().await.map_err(SnapshotError::target)?;
    if !schema_exists {
        transaction.batch_execute("CREATE SCHEMA pgsluice").await.map_err(SnapshotError::target)?;
    }
    transaction.batch_execute(TABLES).await.map_err(SnapshotError::target)?;
    refuse_missing(&transaction, tables).await?;
    let list: Vec<String> = tables.iter().map(|table| format!("ONLY {table}")).collect();
    if tables.is_empty() {
        return Ok(transaction);
    }
    // Readers may go on; nobody writes between the look and the record.
    transaction
        .batch_execute(&format!(
            "{}; LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
            lock_timeout(),
            list.join(", ")
        ))
        .await
        .map_err(SnapshotError::target)?;
    for some in tables.chunks(TABLES_PER_STATEMENT) {
        refuse_rows(&transaction, some).await?;
    }
    Ok(transaction)
}

async fn refuse_missing(transaction: &Transaction<'_>, tables: &[TableName]) -> Result<(), SnapshotError> {
    let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
    let missing = transaction
        .query_opt(
            "SELECT position FROM unnest($1::text[]) WITH ORDINALITY AS named (name, position)
              WHERE to_regclass(name) IS NULL ORDER BY position LIMIT 1",
            &[&names],
        )
        .await
        .map_err(SnapshotError::target)?;
    let index = missing.and_then(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok());
    match index.and_then(|index| tables.get(index)) {
        Some(table) => Err(SnapshotError::TargetTableMissing { table: table.clone() }),
        None => Ok(()),
    }
}

async fn refuse_rows(transaction: &Transaction<'_>, tables: &[TableName]) -> Result<(), SnapshotError> {
    let looks: Vec<String> = tables
        .iter()
        .enumerate()
        .map(|(place, table)| format!("(SELECT {place} FROM ONLY {table} LIMIT 1)"))
        .collect();
    let found = transaction
        .query_opt(&format!("SELECT * FROM ({}) AS found LIMIT 1", looks.join(" UNION ALL ")), &[])
        .await;
    let place =
        found.map_err(SnapshotError::target)?.and_then(|row| usize::try_from(row.get::<_, i32>(0)).ok());
    match place.and_then(|place| tables.get(place)) {
        Some(table) => Err(SnapshotError::TargetNotEmpty { table: table.clone() }),
        None => Ok(()),
    }
}

async fn insert_tables(transaction: &Transaction<'_>, tables: &[TableName]) -> Result<(), SnapshotError> {
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    transaction
        .execute(
            "INSERT INTO pgsluice.copy_table (schema_name, table_name, state)
             SELECT *, 'pending' FROM unnest($1::text[], $2::text[])",
            &[&schemas, &names],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(())
}

async fn insert_chunks(
    transaction: &Transaction<'_>,
    chunks: &[Chunk],
    snapshot: &str,
) -> Result<(), SnapshotError> {
    let schemas: Vec<&str> = chunks.iter().map(|chunk| chunk.table.schema.as_str()).collect();
    let names: Vec<&str> = chunks.iter().map(|chunk| chunk.table.name.as_str()).collect();
    let numbers: Vec<i64> = chunks.iter().map(|chunk| i64::from(chunk.number)).collect();
    let firsts: Vec<i64> = chunks.iter().map(|chunk| i64::from(chunk.blocks.first)).collect();
    let ends: Vec<Option<i64>> = chunks.iter().map(|chunk| chunk.blocks.end.map(i64::from)).collect();
    transaction
        .execute(
            "INSERT INTO pgsluice.copy_chunk
                 (schema_name, table_name, chunk, first_block, end_block, state, snapshot)
             SELECT *, 'pending', $6
               FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])",
            &[&schemas, &names, &numbers, &firsts, &ends, &snapshot],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(())
}

/// Records that a table's first chunk has begun.
pub(super) async fn mark_copying(target: &SqlSession, table: &TableName) -> Result<(), SnapshotError> {
    target
        .execute(
            "UPDATE pgsluice.copy_table SET state = 'copying'
              WHERE schema_name = $1 AND table_name = $2 AND state = 'pending'",
            &[&table.schema, &table.name],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(())
}

/// SQL that completes a chunk inside the transaction that copied it, and the table with its last chunk. The first
/// UPDATE takes the table's row, so that of two last chunks the later one sees the other.
pub(super) fn join_chunk_sql(chunk: &Chunk, rows: u64, bytes: u64) -> String {
    let table = format!(
        "schema_name = {} AND table_name = {}",
        quote_literal(&chunk.table.schema),
        quote_literal(&chunk.table.name)
    );
    format!(
        "UPDATE pgsluice.copy_table SET rows_copied = rows_copied + {rows}, bytes_copied = bytes_copied + {bytes}
          WHERE {table};
         UPDATE pgsluice.copy_chunk SET state = 'joined', rows_copied = {rows}, bytes_copied = {bytes},
                joined_at = clock_timestamp()
          WHERE {table} AND chunk = {number};
         UPDATE pgsluice.copy_table SET state = 'joined'
          WHERE {table} AND NOT EXISTS (SELECT FROM pgsluice.copy_chunk WHERE {table} AND state <> 'joined');",
        number = chunk.number,
    )
}

/// Undoes a copy that cannot be continued, because its snapshot is gone with the process that held it: empties
/// exactly the registered tables and forgets them, in one transaction. A table that was never registered, and so
/// never seen empty by us, is not touched. Returns the tables emptied.
///
/// # Errors
/// [`SnapshotError::Target`]; nothing is changed then.
pub async fn reset(target: &mut SqlSession) -> Result<Vec<TableName>, SnapshotError> {
    if !exists(target).await? {
        return Ok(Vec::new());
    }
    let mut transaction = target.transaction().await.map_err(SnapshotError::target)?;
    transaction
        .batch_execute(&format!("SET LOCAL session_replication_role = replica; {}", lock_timeout()))
        .await
        .map_err(SnapshotError::target)?;
    fence::pass(&transaction).await.map_err(SnapshotError::target)?;
    let rows = transaction
        .query(
            "SELECT schema_name, table_name FROM pgsluice.copy_table
              WHERE to_regclass(quote_ident(schema_name) || '.' || quote_ident(table_name)) IS NOT NULL
              ORDER BY schema_name, table_name",
            &[],
        )
        .await
        .map_err(SnapshotError::target)?;
    let tables: Vec<TableName> =
        rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect();
    if !tables.is_empty() {
        empty(&mut transaction, &tables).await?;
    }
    // Both by name: as a replica, foreign keys do not cascade.
    transaction
        .batch_execute("DELETE FROM pgsluice.copy_chunk; DELETE FROM pgsluice.copy_table")
        .await
        .map_err(SnapshotError::target)?;
    transaction.commit().await.map_err(SnapshotError::target)?;
    Ok(tables)
}

/// The same for some tables alone, which are to be copied anew while the others go on: those of them that are
/// registered are emptied, and forgotten. Returns the tables emptied.
///
/// # Errors
/// [`SnapshotError::Target`]; nothing is changed then.
pub async fn reset_tables(
    target: &mut SqlSession,
    tables: &[TableName],
) -> Result<Vec<TableName>, SnapshotError> {
    let registered = read(target).await?;
    let known: Vec<TableName> =
        tables.iter().filter(|table| registered.contains_key(table)).cloned().collect();
    if known.is_empty() {
        return Ok(known);
    }
    let mut transaction = target.transaction().await.map_err(SnapshotError::target)?;
    transaction
        .batch_execute(&format!("SET LOCAL session_replication_role = replica; {}", lock_timeout()))
        .await
        .map_err(SnapshotError::target)?;
    fence::pass(&transaction).await.map_err(SnapshotError::target)?;
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        known.iter().map(|table| (table.schema.as_str(), table.name.as_str())).unzip();
    let rows = transaction
        .query(
            "SELECT w.schema, w.name FROM unnest($1::text[], $2::text[]) AS w (schema, name)
              WHERE to_regclass(quote_ident(w.schema) || '.' || quote_ident(w.name)) IS NOT NULL",
            &[&schemas, &names],
        )
        .await
        .map_err(SnapshotError::target)?;
    let there: Vec<TableName> =
        rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect();
    if !there.is_empty() {
        empty(&mut transaction, &there).await?;
    }
    for record in ["copy_chunk", "copy_table"] {
        transaction
            .execute(
                &format!(
                    "DELETE FROM pgsluice.{record}
                      WHERE (schema_name, table_name) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
                ),
                &[&schemas, &names],
            )
            .await
            .map_err(SnapshotError::target)?;
    }
    transaction.commit().await.map_err(SnapshotError::target)?;
    Ok(there)
}

/// TRUNCATE wants every table with a foreign key to an emptied one to be emptied too, and of a partitioned one only
/// the partitions are ours to name: then rows are deleted, which takes longer. No row outside of the copy can refer
/// to them, because the tables were empty before it.
async fn empty(transaction: &mut Transaction<'_>, tables: &[TableName]) -> Result<(), SnapshotError> {
    let list: Vec<String> = tables.iter().map(|table| format!("ONLY {table}")).collect();
    let attempt = transaction.savepoint("emptying").await.map_err(SnapshotError::target)?;
    match attempt.batch_execute(&format!("TRUNCATE {}", list.join(", "))).await {
        Ok(()) => return attempt.commit().await.map_err(SnapshotError::target),
        Err(error) if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
            attempt.rollback().await.map_err(SnapshotError::target)?;
        }
        Err(error) => return Err(SnapshotError::target(error)),
    }
    for table in list {
        transaction.batch_execute(&format!("DELETE FROM {table}")).await.map_err(SnapshotError::target)?;
    }
    Ok(())
}

fn lock_timeout() -> String {
    format!("SET LOCAL lock_timeout = '{}s'", LOCK_TIMEOUT.as_secs())
}

async fn exists(target: &SqlSession) -> Result<bool, SnapshotError> {
    let row = target
        .query_one("SELECT to_regclass('pgsluice.copy_table') IS NOT NULL", &[])
        .await
        .map_err(SnapshotError::target)?;
    Ok(row.get(0))
}

/// `CREATE SCHEMA IF NOT EXISTS` asks for the right to create even where the schema exists.
async fn schema_exists(target: &SqlSession) -> Result<bool, SnapshotError> {
    let row = target
        .query_one("SELECT to_regnamespace('pgsluice') IS NOT NULL", &[])
        .await
        .map_err(SnapshotError::target)?;
    Ok(row.get(0))
}

/// Counts are never negative; the protocol has no unsigned type.
pub(super) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}
