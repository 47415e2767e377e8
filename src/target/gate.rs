//! The target's gate: closed to applications until the source's fence is committed (INV-8). While it is closed, a
//! statement trigger on every migrated table refuses writes; it is an ordinary one, so that our own sessions,
//! which run with `session_replication_role = replica`, pass. Opening is one UPDATE; the triggers go later.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::cutover::SqlFailure;
use crate::model::{Side, TableName};
use crate::runtime::Backoff;

/// The trigger's name on every table.
pub const GATE_TRIGGER: &str = "pgsluice_gate";
/// How long one try may wait for a table's lock; the apply session waits behind it.
const LOCK_TRY: Duration = Duration::from_millis(100);
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_LONGEST: Duration = Duration::from_secs(1);
/// How many tables get or lose their trigger in one transaction.
const TABLES_PER_TRANSACTION: usize = 16;

/// The gate could not be closed, opened or removed.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] SqlFailure),
    /// Tables that the target does not have.
    #[error("the target has no table {}", .0.iter().map(TableName::plain).collect::<Vec<_>>().join(", "))]
    Missing(Vec<TableName>),
    /// A table's lock was not to be had.
    #[error("the lock of {table} on the target was not to be had within {bound_seconds} s")]
    Blocked {
        /// The table.
        table: TableName,
        /// How long it was tried.
        bound_seconds: u64,
    },
}

impl GateError {
    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Sql(failure) => failure.remedy(),
            Self::Missing(_) => "Create it on the target with the source's definition, or exclude it with \
                 `source.tables.exclude`."
                .into(),
            Self::Blocked { .. } => {
                "Look on the target for a session that holds the table (pg_locks), end it, and try again."
                    .into()
            }
        }
    }
}

/// State row, function and their comment. The function runs as its owner with a pinned search path, so that
/// applications need no privilege on the schema; without the row it refuses too.
const OBJECTS: &str = "\
BEGIN;
DO $$ BEGIN
  IF to_regnamespace('pgsluice') IS NULL THEN CREATE SCHEMA pgsluice; END IF;
END $$;
CREATE TABLE IF NOT EXISTS pgsluice.gate (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  is_open boolean NOT NULL,
  epoch bigint,
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE OR REPLACE FUNCTION pgsluice.refuse_until_open() RETURNS trigger LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM pgsluice.gate WHERE is_open) THEN RETURN NULL; END IF;
  RAISE EXCEPTION USING ERRCODE = '25006',
    MESSAGE = 'pgsluice: this database is the target of a migration that is not finished',
    HINT = 'Write to the source until the cutover is completed; nothing of this transaction has been written here.';
END $$;
INSERT INTO pgsluice.gate (is_open) VALUES (false) ON CONFLICT DO NOTHING;
COMMIT";

/// Closes the target to applications: every table of `tables` gets its trigger. A gate that was opened by a
/// committed cutover is not closed again. Repeating it changes nothing.
///
/// # Errors
/// A table is missing, a lock cannot be had within `bound`, or a statement fails; what was done stays.
pub async fn close(target: &Client, tables: &[TableName], bound: Duration) -> Result<(), GateError> {
    let failed = SqlFailure::of(Side::Target, "close the gate");
    target.batch_execute(OBJECTS).await.map_err(&failed)?;
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|table| (table.schema.as_str(), table.name.as_str())).unzip();
    let sql = "SELECT w.schema, w.name, c.oid IS NULL
        FROM unnest($1, $2) AS w (schema, name)
        LEFT JOIN pg_namespace n ON n.nspname = w.schema
        LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
        LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'pgsluice_gate'
        WHERE t.oid IS NULL";
    let rows = target
        .query_typed(sql, &[(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)])
        .await
        .map_err(&failed)?;
    let missing: Vec<TableName> = rows.iter().filter(|row| row.get(2)).map(table_name).collect();
    if !missing.is_empty() {
        return Err(GateError::Missing(missing));
    }
    let open: Vec<TableName> = rows.iter().map(table_name).collect();
    each_under_short_lock(target, &open, bound, |table| {
        format!(
            "CREATE TRIGGER {GATE_TRIGGER} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} \
             FOR EACH STATEMENT EXECUTE FUNCTION pgsluice.refuse_until_open()"
        )
    })
    .await
}

fn table_name(row: &Row) -> TableName {
    TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))
}

/// SQL that opens the gate, for the transaction that opens the target, only after the source's fence is known to be committed
/// (INV-8). Repeating it changes nothing. A target that never had a gate is left alone: another fence may have closed it.
#[must_use]
pub fn open_sql(epoch: i64) -> String {
    format!(
        "DO $$ BEGIN IF to_regclass('pgsluice.gate') IS NOT NULL THEN \
           UPDATE pgsluice.gate SET is_open = true, epoch = {epoch}, changed_at = clock_timestamp() WHERE NOT is_open; \
         END IF; END $$"
    )
}

/// SQL that closes a gate which was opened, where there is one still: for the transaction that fences its side.
#[must_use]
pub const fn close_again_sql() -> &'static str {
    "DO $$ BEGIN IF to_regclass('pgsluice.gate') IS NOT NULL THEN \
       UPDATE pgsluice.gate SET is_open = false, changed_at = clock_timestamp() WHERE is_open; \
     END IF; END $$"
}

/// Whether the target is open by [`open_sql`]; not if it never had a gate.
///
/// # Errors
/// The row cannot be read.
pub async fn is_open(target: &Client) -> Result<bool, GateError> {
    let failed = SqlFailure::of(Side::Target, "look whether the gate is open");
    let exists = target
        .query_typed_one("SELECT to_regclass('pgsluice.gate') IS NOT NULL", &[])
        .await
        .map_err(&failed)?;
    if !exists.get::<_, bool>(0) {
        return Ok(false);
    }
    let row = target
        .query_typed_one("SELECT EXISTS (SELECT FROM pgsluice.gate WHERE is_open)", &[])
        .await
        .map_err(&failed)?;
    Ok(row.get(0))
}

/// Removes the gate: triggers first, each with a short lock, then function and row. Called once the target has
/// been open for a while, and by `cleanup`. Repeating it changes nothing.
///
/// # Errors
/// A lock cannot be had within `bound`, or a statement fails; the rest stays and can be removed later.
pub async fn remove(target: &Client, bound: Duration) -> Result<(), GateError> {
    let tables = guarded_tables(target).await?;
    each_under_short_lock(target, &tables, bound, |table| {
        format!("DROP TRIGGER IF EXISTS {GATE_TRIGGER} ON {table}")
    })
    .await?;
    target
        .batch_execute(
            "DO $$ BEGIN
               IF to_regnamespace('pgsluice') IS NOT NULL THEN
                 DROP FUNCTION IF EXISTS pgsluice.refuse_until_open();
                 DROP TABLE IF EXISTS pgsluice.gate;
               END IF;
             END $$",
        )
        .await
        .map_err(SqlFailure::of(Side::Target, "remove the gate"))?;
    Ok(())
}

/// The tables that have the gate's trigger.
///
/// # Errors
/// The catalog cannot be read.
pub async fn guarded_tables(target: &Client) -> Result<BTreeSet<TableName>, GateError> {
    let sql = "SELECT n.nspname::text, c.relname::text
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace
        WHERE t.tgname = 'pgsluice_gate' AND f.nspname = 'pgsluice' AND NOT t.tgisinternal";
    let rows =
        target.query_typed(sql, &[]).await.map_err(SqlFailure::of(Side::Target, "look for the gate"))?;
    Ok(rows.iter().map(table_name).collect())
}

/// One statement per table, several tables in a transaction while nobody is in the way, one at a time otherwise.
async fn each_under_short_lock<'a>(
    target: &Client,
    tables: impl IntoIterator<Item = &'a TableName>,
    bound: Duration,
    statement: impl Fn(&TableName) -> String,
) -> Result<(), GateError> {
    let tables: Vec<&TableName> = tables.into_iter().collect();
    let started = Instant::now();
    for group in tables.chunks(TABLES_PER_TRANSACTION) {
        if try_group(target, group, &statement).await? {
            continue;
        }
        for table in group {
            let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
            while !try_group(target, &[table], &statement).await? {
                if started.elapsed() >= bound {
                    let bound_seconds = bound.as_secs();
                    return Err(GateError::Blocked { table: (*table).clone(), bound_seconds });
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
    Ok(())
}

/// Whether the group's statements were done; not if a lock was not to be had quickly.
async fn try_group(
    target: &Client,
    group: &[&TableName],
    statement: impl Fn(&TableName) -> String,
) -> Result<bool, GateError> {
    let statements = group.iter().map(|table| statement(table)).collect::<Vec<_>>().join("; ");
    let batch = format!("BEGIN; SET LOCAL lock_timeout = {}; {statements}; COMMIT", LOCK_TRY.as_millis());
    let Err(error) = target.batch_execute(&batch).await else { return Ok(true) };
    // If the connection is lost, the error says so and there is nothing to roll back.
    let _ = target.batch_execute("ROLLBACK").await;
    match error.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED) => Ok(false),
        _ => Err(SqlFailure::of(Side::Target, "close or remove the gate")(error).into()),
    }
}
