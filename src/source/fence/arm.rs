//! Arming: the fence's schema, state table, function and, on every published table, its trigger, which lets everybody pass
//! until the fence changes what it asks: one statement however many tables there are. Nothing
//! of it is felt by writers except that creating a trigger needs, for a moment, the lock that the fence needs;
//! so each table is armed in a transaction of its own that gives up quickly and tries again.

use std::time::{Duration, Instant};

use pgsluice_proto::command::quote_literal;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::ddl::{self, DDL_TRIGGER};
use super::obstacle::{lock_holders, terminate};
use super::{DENY_TRIGGER, ENABLED, FenceError, FencePlan, FenceTerms, FencedTable, PASS_SETTING, SCHEMA};
use crate::config::OnWriters;
use crate::cutover::SqlFailure;
use crate::model::{Side, TableName};
use crate::runtime::Backoff;

/// How long one try may wait for a table's lock, and with it stall the table's writers. Below the default
/// `deadlock_timeout` of one second, so that no application sees a deadlock because of us.
const LOCK_TRY: Duration = Duration::from_millis(100);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LONGEST: Duration = Duration::from_secs(1);

/// How long those in the way have before they are terminated, where the operator allows that.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long arming may try for one table, over all tries.
#[derive(Clone, Copy, Debug)]
pub struct ArmBound(pub Duration);

impl Default for ArmBound {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

/// Creates what the fence will need, as far as it is missing. Repeating it changes nothing.
///
/// # Errors
/// A statement fails, or a table's lock cannot be had within `bound`; what was created so far stays, and lets
/// everybody pass, until the next try or [`disarm`].
pub async fn arm(
    source: &Client,
    plan: &FencePlan,
    terms: &FenceTerms,
    bound: ArmBound,
) -> Result<(), FenceError> {
    let failed = SqlFailure::of(Side::Source, "prepare the fence");
    source.batch_execute(&objects()).await.map_err(&failed)?;
    for table in &plan.tables {
        let statements = match table.deny_trigger {
            Some(ENABLED) => continue,
            Some(_) => enable(&table.name),
            None => format!(
                "CREATE TRIGGER {DENY_TRIGGER} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} \
                 FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.deny_write(); {}",
                table.name,
                enable(&table.name)
            ),
        };
        under_short_lock(source, table, &statements, terms.on_writers, bound).await?;
    }
    ddl::arm(source).await
}

/// ALWAYS: `session_replication_role = replica` does not pass it.
fn enable(table: &TableName) -> String {
    format!("ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {DENY_TRIGGER}")
}

/// Schema, state table, and the function: it lets everybody pass until the fence changes it.
fn objects() -> String {
    format!(
        "BEGIN;
         DO $$ BEGIN
           IF to_regnamespace('{SCHEMA}') IS NULL THEN CREATE SCHEMA {SCHEMA}; END IF;
           {PASS_FUNCTION};
         END $$;
         CREATE TABLE IF NOT EXISTS {SCHEMA}.fence (
           epoch bigint PRIMARY KEY,
           nonce text NOT NULL,
           moved_to text NOT NULL,
           marker_lsn pg_lsn,
           fenced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
           committed_at timestamptz
         );
         COMMENT ON TABLE {SCHEMA}.fence IS 'A row here means: this database has moved. Written by the transaction \
           that fences it, so that it is there exactly when that was committed.';
         COMMIT"
    )
}

/// What the triggers ask unless the side is fenced. Without a `$` in it: it stands inside a DO block, too. Without settings
/// of its own, because every statement of a writer calls it.
pub(super) const PASS_FUNCTION: &str = "CREATE OR REPLACE FUNCTION pgsluice.deny_write() RETURNS trigger LANGUAGE plpgsql \
     AS 'BEGIN RETURN NULL; END'";

/// What the triggers ask under the fence. The error's text is part of the function, so that raising it reads nothing and
/// needs no privilege of whoever writes. Who carries the fence's nonce passes: the sessions that keep this side current.
pub(super) fn deny_function(terms: &FenceTerms) -> String {
    let message = quote_literal(&format!("pgsluice: this database has moved to {}", terms.moved_to));
    let hint =
        quote_literal("Connect there and repeat the transaction: nothing of it has been written here.");
    let nonce = quote_literal(terms.nonce.as_str());
    let body = quote_literal(&format!(
        "BEGIN IF current_setting('{PASS_SETTING}', true) = {nonce} THEN RETURN NULL; END IF; \
         RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = {message}, HINT = {hint}; END"
    ));
    format!(
        "CREATE OR REPLACE FUNCTION {SCHEMA}.deny_write() RETURNS trigger LANGUAGE plpgsql \
         SET search_path = pg_catalog, pg_temp AS {body}"
    )
}

/// Runs `statements` in a transaction that waits for locks only briefly, again and again within `bound`.
async fn under_short_lock(
    source: &Client,
    table: &FencedTable,
    statements: &str,
    on_writers: OnWriters,
    bound: ArmBound,
) -> Result<(), FenceError> {
    let batch = format!("BEGIN; SET LOCAL lock_timeout = {}; {statements}; COMMIT", LOCK_TRY.as_millis());
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
    let started = Instant::now();
    loop {
        let Err(error) = source.batch_execute(&batch).await else { return Ok(()) };
        let contended =
            matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED));
        // If the connection is lost, the error says so and there is nothing to roll back.
        let _ = source.batch_execute("ROLLBACK").await;
        if !contended {
            return Err(SqlFailure::of(Side::Source, "create the deny trigger of a table")(error).into());
        }
        let holders = lock_holders(source, table.oid, 0).await?;
        if on_writers == OnWriters::Terminate && started.elapsed() >= PATIENCE {
            terminate(source, &holders).await?;
        }
        if started.elapsed() >= bound.0 {
            let obstacle = holders.into_iter().next().map(Box::new);
            let bound_seconds = bound.0.as_secs();
            return Err(FenceError::ArmBlocked { table: table.name.clone(), bound_seconds, obstacle });
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Whether anything of the fence is on the source.
///
/// # Errors
/// The catalog cannot be read.
pub async fn is_armed(source: &Client) -> Result<bool, FenceError> {
    let row = source
        .query_typed_one("SELECT to_regclass('pgsluice.fence') IS NOT NULL", &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for the fence"))?;
    Ok(row.get(0))
}

/// The tables that carry a deny trigger, whatever publication they are in now.
pub(crate) async fn armed_tables(source: &Client) -> Result<Vec<FencedTable>, FenceError> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, t.tgenabled
         FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
         WHERE t.tgname = 'pgsluice_deny' AND f.nspname = 'pgsluice' AND NOT t.tgisinternal
         ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\"";
    let rows =
        source.query_typed(sql, &[]).await.map_err(SqlFailure::of(Side::Source, "look for deny triggers"))?;
    let table = |row: &tokio_postgres::Row| FencedTable {
        oid: row.get(0),
        name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        membership: String::new(),
        deny_trigger: Some(row.get::<_, i8>(3).cast_unsigned()),
    };
    Ok(rows.iter().map(table).collect())
}

/// Removes every trace of the fence from the source: triggers, function, state table, and the schema if it is
/// empty then. After a committed fence this makes the source writable again: the caller decides that.
/// Repeating it changes nothing.
///
/// # Errors
/// A statement fails, or a table's lock cannot be had within `bound`; the rest stays and can be removed later.
pub async fn disarm(source: &Client, bound: ArmBound) -> Result<(), FenceError> {
    // First: it would refuse the rest.
    source
        .batch_execute(&format!("DROP EVENT TRIGGER IF EXISTS {DDL_TRIGGER}"))
        .await
        .map_err(SqlFailure::of(Side::Source, "remove the fence's event trigger"))?;
    for table in armed_tables(source).await? {
        let drop = format!("DROP TRIGGER IF EXISTS {DENY_TRIGGER} ON {}", table.name);
        under_short_lock(source, &table, &drop, OnWriters::Wait, bound).await?;
    }
    source
        .batch_execute(
            "DO $$ BEGIN
               IF to_regnamespace('pgsluice') IS NULL THEN RETURN; END IF;
               DROP FUNCTION IF EXISTS pgsluice.deny_write(), pgsluice.deny_ddl();
               DROP TABLE IF EXISTS pgsluice.fence;
               IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('pgsluice'))
                  AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('pgsluice')) THEN
                 DROP SCHEMA pgsluice;
               END IF;
             END $$",
        )
        .await
        .map_err(SqlFailure::of(Side::Source, "remove the fence"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cutover::Nonce;

    #[test]
    fn the_place_it_moved_to_cannot_end_the_literal() {
        let sql = deny_function(&FenceTerms {
            epoch: 1,
            nonce: Nonce::random(),
            publication: "p".into(),
            moved_to: "o'brien $$ \\ %".into(),
            max_pause: Duration::from_secs(1),
            on_writers: OnWriters::Wait,
        });
        // Quoted twice: once as the message, once within the function's body.
        assert!(sql.contains("o''''brien"), "{sql}");
    }
}
