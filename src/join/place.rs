//! What is still to be done for a table that joins, beyond its rows: `pgsluice.join_table` on the target. Kept in the
//! transaction that makes it true, so that a join that was interrupted goes on where it was.

use std::collections::BTreeMap;

use super::JoinError;
use crate::connection::SqlSession;
use crate::model::Oid;

pub(super) const ENSURE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.join_table (
    source_oid oid PRIMARY KEY,
    indexes_due boolean NOT NULL,
    foreign_keys_due boolean NOT NULL
);";

/// What is still to be done for one table whose definition we brought over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Indexes, constraints and triggers, after the copy.
    pub(super) indexes_due: bool,
    /// Foreign keys, once the stream is past the copy's snapshot.
    pub(super) foreign_keys_due: bool,
}

/// Reads all of them; none where no table was ever added.
pub(super) async fn read(target: &SqlSession) -> Result<BTreeMap<Oid, Place>, JoinError> {
    let known = target
        .query_one("SELECT to_regclass('pgsluice.join_table') IS NOT NULL", &[])
        .await
        .map_err(JoinError::target)?;
    if !known.get::<_, bool>(0) {
        return Ok(BTreeMap::new());
    }
    let rows = target
        .query("SELECT source_oid, indexes_due, foreign_keys_due FROM pgsluice.join_table", &[])
        .await
        .map_err(JoinError::target)?;
    let decode = |row: &tokio_postgres::Row| {
        (Oid(row.get(0)), Place { indexes_due: row.get(1), foreign_keys_due: row.get(2) })
    };
    Ok(rows.iter().map(decode).collect())
}

/// SQL for the transaction that defines a table: all the rest is due.
pub(super) fn defined_sql(tables: &[Oid]) -> String {
    let rows: Vec<String> = tables.iter().map(|oid| format!("({}, true, true)", oid.0)).collect();
    format!(
        "{ENSURE} INSERT INTO pgsluice.join_table VALUES {} ON CONFLICT (source_oid) DO UPDATE
         SET indexes_due = true, foreign_keys_due = true;",
        rows.join(", ")
    )
}

/// SQL for the transaction that builds the indexes.
pub(super) fn indexed_sql(tables: &[Oid]) -> String {
    format!("UPDATE pgsluice.join_table SET indexes_due = false WHERE source_oid IN ({});", list(tables))
}

/// SQL that says that nothing is left to do.
pub(super) fn finished_sql(tables: &[Oid]) -> String {
    format!("DELETE FROM pgsluice.join_table WHERE source_oid IN ({})", list(tables))
}

fn list(tables: &[Oid]) -> String {
    tables.iter().map(|oid| oid.0.to_string()).collect::<Vec<_>>().join(", ")
}
