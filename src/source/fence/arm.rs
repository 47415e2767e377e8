//! Arming: the fence's schema, state table, [turnstile](super::turnstile), functions and, on every published table, its
//! trigger, which lets everybody pass until the fence changes the verdict: one statement however many tables there are. Nothing
//! of it is felt by writers except that creating a trigger needs, for a moment, a lock that they need, too;
//! so each table is armed in a transaction of its own that gives up quickly and tries again.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::ddl::{self, DDL_TRIGGER};
use super::lockout::LET_IN;
use super::obstacle::{lock_holders, terminate};
use super::{
    DENY_TRIGGER, ENABLED, FenceError, FencePlan, FenceTerms, FencedTable, SCHEMA, lockout, turnstile,
};
use crate::config::OnWriters;
use crate::cutover::SqlFailure;
use crate::model::{Side, TableName};
use crate::runtime::Backoff;

/// How long one try may wait for a table's lock, and with it stall the table's writers. Below the default
/// `deadlock_timeout` of one second, so that no application sees a deadlock because of us.
const LOCK_TRY: Duration = Duration::from_millis(100);
/// How long one try may wait for a lock that is in no writer's way, but in that of vacuum and definitions: longer than the
/// default `deadlock_timeout`, after which the server tells an autovacuum that is in the way to stop.
pub(super) const DEFINITION_TRY: Duration = Duration::from_secs(5);
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(50);
pub(super) const BACKOFF_LONGEST: Duration = Duration::from_secs(1);

/// How long those in the way have before they are terminated, where the operator allows that.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

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
    ddl::arm(source).await?;
    if terms.lock_out {
        lockout::arm(source).await?;
    }
    turnstile::install(source, plan, terms.on_writers, bound).await
}

/// ALWAYS: `session_replication_role = replica` does not pass it.
fn enable(table: &TableName) -> String {
    format!("ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {DENY_TRIGGER}")
}

/// Schema, state table, turnstile, and the functions: they let everybody pass until the fence changes the verdict.
fn objects() -> String {
    format!(
        "BEGIN;
         DO $$ BEGIN
           IF to_regnamespace('{SCHEMA}') IS NULL THEN CREATE SCHEMA {SCHEMA}; END IF;
         END $$;
         CREATE TABLE IF NOT EXISTS {SCHEMA}.turnstile ();
         COMMENT ON TABLE {SCHEMA}.turnstile IS 'Empty. Whoever writes to a published table while a cutover is armed \
           holds a weak lock on it.';
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
         DO $$ BEGIN
           IF to_regproc('{SCHEMA}.deny_write') IS NULL THEN {}; END IF;
           IF NOT EXISTS (SELECT FROM {SCHEMA}.fence) THEN {}; END IF;
         END $$;
         COMMIT",
        turnstile::OUT_OF_THE_WAY,
        turnstile::PASS
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
        let contended = is_contended(&error);
        // If the connection is lost, the error says so and there is nothing to roll back.
        let _ = source.batch_execute("ROLLBACK").await;
        if !contended {
            return Err(SqlFailure::of(Side::Source, "create the deny trigger of a table")(error).into());
        }
        let holders = lock_holders(source, table.oid, 0).await?;
        end_vacuum(source, table).await?;
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

/// Waits with a lock that is in no writer's way, and holds nothing else, until the server has ended an autovacuum's visit.
async fn end_vacuum(source: &Client, table: &FencedTable) -> Result<(), FenceError> {
    let batch = format!(
        "BEGIN; SET LOCAL lock_timeout = {}; {}; COMMIT",
        DEFINITION_TRY.as_millis(),
        definition_lock(table)
    );
    match source.batch_execute(&batch).await {
        Ok(()) => Ok(()),
        Err(error) if is_contended(&error) => {
            // If the connection is lost, the next statement says so.
            let _ = source.batch_execute("ROLLBACK").await;
            Ok(())
        }
        Err(error) => Err(SqlFailure::of(Side::Source, "wait for a table's definition")(error).into()),
    }
}

/// Nobody who reads or writes waits for it.
pub(super) fn definition_lock(table: &FencedTable) -> String {
    format!("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE", table.name)
}

/// A lock was not to be had in time, or not without a deadlock.
pub(super) fn is_contended(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED))
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

/// Removes every trace of the fence from the source: triggers, function, state table, lockout, and the schema if it is
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
        .batch_execute(&format!(
            "DO $$ BEGIN
               IF to_regnamespace('pgsluice') IS NULL THEN RETURN; END IF;
               {LET_IN};
               DROP FUNCTION IF EXISTS pgsluice.deny_write(), pgsluice.deny_ddl(), pgsluice.verdict();
               DROP TABLE IF EXISTS pgsluice.fence, pgsluice.turnstile, pgsluice.locked_out;
               IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('pgsluice'))
                  AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace('pgsluice')) THEN
                 DROP SCHEMA pgsluice;
               END IF;
             END $$"
        ))
        .await
        .map_err(SqlFailure::of(Side::Source, "remove the fence"))?;
    Ok(())
}
