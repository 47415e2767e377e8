//! Holds a copy's ground still: a session under the slot's snapshot that keeps ACCESS SHARE on every table, so that
//! nothing can move rows under a ctid plan (VACUUM FULL, CLUSTER, TRUNCATE, DDL), and finds out what changed before
//! it had the locks. Writes of applications do not conflict with it.

use std::collections::BTreeMap;
use std::time::Duration;

use pgsluice_proto::command::quote_literal;
use tokio_postgres::error::SqlState;

use super::SnapshotError;
use super::plan::{Storage, TableSize};
use crate::config::TableFilter;
use crate::connection::{ConnectionSettings, SqlSession, TextQuery, connect_sql};
use crate::model::{Oid, Side};
use crate::source::SourceTable;
use crate::source::catalog;

/// How long DDL that is under way may hold a table before the copy is begun anew.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// The session with the locks, and what it saw under them.
pub(super) struct SnapshotGuard {
    /// Its transaction holds the locks.
    session: SqlSession,
    /// Sizes of all tables.
    pub(super) sizes: Vec<TableSize>,
    /// `block_size` of the source.
    pub(super) block_bytes: u64,
    /// `pg_current_snapshot()`.
    pub(super) snapshot_text: String,
}

impl SnapshotGuard {
    /// Takes snapshot and locks, and checks that every table still is what `tables` says.
    pub(super) async fn take(
        source: &ConnectionSettings,
        snapshot_name: &str,
        tables: &[SourceTable],
    ) -> Result<Self, SnapshotError> {
        let session = connect_sql(source, Side::Source, "copy guard").await?;
        import_snapshot(&session, snapshot_name).await?;
        let names: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.name)).collect();
        session
            .batch_execute(&format!(
                "SET LOCAL lock_timeout = '{}s'; LOCK TABLE {} IN ACCESS SHARE MODE",
                LOCK_TIMEOUT.as_secs(),
                names.join(", ")
            ))
            .await
            .map_err(SnapshotError::source)?;
        refuse_rewritten(&session, tables).await?;
        refuse_altered(&session, tables).await?;
        let sizes = read_sizes(&session, tables).await?;
        let row = session
            .query_one("SELECT current_setting('block_size')::int8, pg_current_snapshot()::text", &[])
            .await
            .map_err(SnapshotError::source)?;
        let block_bytes = u64::try_from(row.get::<_, i64>(0)).unwrap_or(8192);
        Ok(Self { session, sizes, block_bytes, snapshot_text: row.get(1) })
    }

    /// For other queries under the locks.
    pub(super) const fn session(&self) -> &SqlSession {
        &self.session
    }

    /// Gives the locks up. That the transaction can still be ended proves that they were held all along: a lost
    /// connection may go unnoticed for a while, and with it VACUUM FULL may have passed under the plan.
    pub(super) async fn release(self) -> Result<(), SnapshotError> {
        self.session.batch_execute("COMMIT").await.map_err(|_| SnapshotError::SnapshotGone)?;
        self.session.close().await;
        Ok(())
    }
}

/// Begins the transaction in which the session sees what the slot's snapshot sees, until it ends.
pub(crate) async fn import_snapshot(
    session: impl TextQuery,
    snapshot_name: &str,
) -> Result<(), SnapshotError> {
    let import = format!("SET TRANSACTION SNAPSHOT {}", quote_literal(snapshot_name));
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {import}");
    match session.rows(&begin).await {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.sqlstate() {
            Some(&(SqlState::UNDEFINED_OBJECT | SqlState::INVALID_PARAMETER_VALUE)) => {
                SnapshotError::SnapshotGone
            }
            _ => SnapshotError::source(error),
        }),
    }
}

/// A rewrite by TRUNCATE or ALTER TABLE is not visible through an older snapshot: rows the stream will update would
/// be missing in the copy. The catalog row is read under the snapshot, the function reads the present.
async fn refuse_rewritten(session: &SqlSession, tables: &[SourceTable]) -> Result<(), SnapshotError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid.0).collect();
    let rewritten = session
        .query_opt(
            "SELECT oid FROM pg_class
              WHERE oid = ANY ($1) AND relfilenode IS DISTINCT FROM pg_relation_filenode(oid) LIMIT 1",
            &[&oids],
        )
        .await
        .map_err(SnapshotError::source)?;
    match rewritten.and_then(|row| find(tables, row.get(0))) {
        Some(table) => Err(SnapshotError::TableRewritten { table: table.name.clone() }),
        None => Ok(()),
    }
}

/// The target's tables were made before the snapshot was taken; columns must not have changed in between.
async fn refuse_altered(session: &SqlSession, tables: &[SourceTable]) -> Result<(), SnapshotError> {
    let now = catalog::read_tables(session, &TableFilter::default()).await?;
    let now: BTreeMap<u32, &SourceTable> = now.iter().map(|table| (table.oid.0, table)).collect();
    let is_same = |table: &&SourceTable| {
        now.get(&table.oid.0).is_some_and(|now| now.name == table.name && now.columns == table.columns)
    };
    match tables.iter().find(|table| !is_same(table)) {
        Some(table) => Err(SnapshotError::TableAltered { table: table.name.clone() }),
        None => Ok(()),
    }
}

async fn read_sizes(session: &SqlSession, tables: &[SourceTable]) -> Result<Vec<TableSize>, SnapshotError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid.0).collect();
    let rows = session
        .query(
            "SELECT c.oid, pg_relation_size(c.oid) / current_setting('block_size')::int8, m.amname = 'heap'
               FROM pg_class c JOIN pg_am m ON m.oid = c.relam WHERE c.oid = ANY ($1)",
            &[&oids],
        )
        .await
        .map_err(SnapshotError::source)?;
    let mut sizes: BTreeMap<u32, (i64, bool)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let size = |table: &SourceTable| {
        let altered = || SnapshotError::TableAltered { table: table.name.clone() };
        let (blocks, is_heap) = sizes.remove(&table.oid.0).ok_or_else(altered)?;
        Ok(TableSize {
            table: table.name.clone(),
            heap_blocks: u64::try_from(blocks).unwrap_or_default(),
            storage: if is_heap { Storage::Heap } else { Storage::Other },
        })
    };
    tables.iter().map(size).collect()
}

fn find(tables: &[SourceTable], oid: u32) -> Option<&SourceTable> {
    tables.iter().find(|table| table.oid == Oid(oid))
}
