//! Autovacuum, where the role may not shorten `deadlock_timeout`: it would hold the fence up for longer than a try waits.
//! While arming it is turned off on the tables that it is likely to visit, which also ends a visit that is under way, and
//! does not make writers wait. What a table had before is kept beside it, in the transaction that changes it.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::{FenceError, FencePlan};
use crate::cutover::SqlFailure;
use crate::model::{Side, TableName};

/// What was changed, with what was there before; NULL: nothing.
const OBJECTS: &str = "\
BEGIN;
DO $$ BEGIN
  IF to_regnamespace('pgsluice') IS NULL THEN CREATE SCHEMA pgsluice; END IF;
END $$;
CREATE TABLE IF NOT EXISTS pgsluice.changed_setting (
  schema_name text, table_name text, before text, PRIMARY KEY (schema_name, table_name)
);
COMMIT";

/// Longer than `deadlock_timeout`, after which the server tells an autovacuum that is in the way to stop.
const LOCK_TRY: Duration = Duration::from_secs(3);

/// Whether an autovacuum could hold up the fence of `session`, because that may not shorten its `deadlock_timeout`.
pub async fn is_autovacuum_in_the_way(session: &Client) -> bool {
    // A superuser may, or a role with GRANT SET ON PARAMETER from version 15.
    session.batch_execute("BEGIN; SET LOCAL deadlock_timeout = 20; ROLLBACK").await.is_err()
        && session.batch_execute("ROLLBACK").await.is_ok()
}

/// Turns autovacuum off on the busy tables of `plan`. Repeating it changes nothing. A table that cannot be had is left as it
/// is: the fence will try.
///
/// # Errors
/// A statement fails for another reason than a lock.
pub async fn quiet(source: &Client, plan: &FencePlan) -> Result<(), FenceError> {
    let failed = SqlFailure::of(Side::Source, "turn autovacuum off for the cutover");
    let oids: Vec<u32> = plan.tables.iter().map(|table| table.oid).collect();
    let busy = source
        .query_typed(
            "SELECT n.nspname::text, c.relname::text
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
              WHERE c.oid = ANY ($1) AND c.relkind = 'r'
                AND (s.n_dead_tup > 0 OR s.n_mod_since_analyze > 0 OR s.n_ins_since_vacuum > 0
                     OR EXISTS (SELECT FROM pg_locks l WHERE l.relation = c.oid AND l.mode = 'ShareUpdateExclusiveLock'))",
            &[(&oids, Type::OID_ARRAY)],
        )
        .await
        .map_err(&failed)?;
    if busy.is_empty() {
        return Ok(());
    }
    source.batch_execute(OBJECTS).await.map_err(&failed)?;
    for row in &busy {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let name = pgsluice_proto::command::quote_literal(&table.to_string());
        let statements = format!(
            "INSERT INTO pgsluice.changed_setting
             SELECT n.nspname, c.relname,
                    (SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_enabled')
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {name}::regclass
             ON CONFLICT DO NOTHING; ALTER TABLE {table} SET (autovacuum_enabled = off)"
        );
        if !under_lock(source, &statements).await? {
            tracing::info!(table = %table.plain(), "autovacuum could not be turned off; the cutover tries all the same");
        }
    }
    Ok(())
}

/// Puts back what [`quiet`] changed. Repeating it changes nothing.
///
/// # Errors
/// A statement fails, or a table cannot be had; what is left is kept for the next time.
pub async fn restore(side: &Client) -> Result<(), FenceError> {
    let failed = SqlFailure::of(Side::Source, "turn autovacuum on again");
    let known = side
        .query_typed_one("SELECT to_regclass('pgsluice.changed_setting') IS NOT NULL", &[])
        .await
        .map_err(&failed)?;
    if !known.get::<_, bool>(0) {
        return Ok(());
    }
    let rows = side
        .query_typed(
            "SELECT schema_name, table_name, before,
                    to_regclass(format('%I.%I', schema_name, table_name)) IS NOT NULL
               FROM pgsluice.changed_setting",
            &[],
        )
        .await
        .map_err(&failed)?;
    for row in &rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let change = match (row.get::<_, bool>(3), row.get::<_, Option<&str>>(2)) {
            (false, _) => String::new(),
            (true, None) => format!("ALTER TABLE {table} RESET (autovacuum_enabled);"),
            (true, Some(before)) => {
                let before = pgsluice_proto::command::quote_literal(before);
                format!("ALTER TABLE {table} SET (autovacuum_enabled = {before});")
            }
        };
        let forget = format!(
            "DELETE FROM pgsluice.changed_setting WHERE schema_name = {} AND table_name = {}",
            pgsluice_proto::command::quote_literal(&table.schema),
            pgsluice_proto::command::quote_literal(&table.name)
        );
        if !under_lock(side, &format!("{change} {forget}")).await? {
            tracing::warn!(table = %table.plain(), "autovacuum stays off for now; the next start or `pgsluice cleanup` turns it on");
        }
    }
    Ok(())
}

/// Whether the statements were done; not if a lock was not to be had.
async fn under_lock(session: &Client, statements: &str) -> Result<bool, FenceError> {
    let batch = format!("BEGIN; SET LOCAL lock_timeout = {}; {statements}; COMMIT", LOCK_TRY.as_millis());
    let Err(error) = session.batch_execute(&batch).await else { return Ok(true) };
    // If the connection is lost, the error says so and there is nothing to roll back.
    let _ = session.batch_execute("ROLLBACK").await;
    match error.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED) => Ok(false),
        _ => Err(SqlFailure::of(Side::Source, "change a table's autovacuum setting")(error).into()),
    }
}
