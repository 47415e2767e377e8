//! The turnstile: what every writing transaction passes once a cutover is armed, and what the fence closes. The deny triggers
//! take a weak lock on an empty table before the first row is written; like every lock it is held to the end of the
//! transaction. Whoever gets the conflicting lock therefore knows, without looking at any table, that no transaction which
//! has written to one is still under way, and whoever comes later waits before it has written anything. So the order in which
//! writers take their tables does not matter, nor how many tables there are.
//!
//! A writer that waited goes on inside the trigger's function. It then asks [`verdict`]: a function of its own, because
//! a call looks its definition up anew whatever the snapshot of the transaction is, so that the fence's COMMIT is seen by
//! serializable transactions too.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use pgsluice_proto::command::quote_literal;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::arm::{ArmBound, PATIENCE};
use super::obstacle::{self, Obstacle};
use super::{FenceError, FencePlan, FenceTerms, PASS_SETTING};
use crate::config::OnWriters;
use crate::cutover::SqlFailure;
use crate::model::Side;
use crate::runtime::Backoff;

/// Closes it: conflicts with the writers' lock, not with somebody who only reads (a `pg_dump`, say).
pub(super) const CLOSE: &str = "LOCK TABLE pgsluice.turnstile IN EXCLUSIVE MODE";

/// What the triggers ask while nothing is armed. Without a `$` in it: it stands inside a DO block, too. Without settings of
/// its own, because every statement of a writer calls it.
pub(super) const OUT_OF_THE_WAY: &str = "CREATE OR REPLACE FUNCTION pgsluice.deny_write() RETURNS trigger LANGUAGE plpgsql \
     AS 'BEGIN RETURN NULL; END'";

/// What they ask from arming on. As its owner, because writers need no rights in our schema; every name is qualified.
const IN_THE_WAY: &str = "CREATE OR REPLACE FUNCTION pgsluice.deny_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
     AS 'BEGIN PERFORM FROM pgsluice.turnstile FOR KEY SHARE; PERFORM pgsluice.verdict(); RETURN NULL; END'";

/// Lets everybody pass. Without a `$`, as above.
pub(super) const PASS: &str =
    "CREATE OR REPLACE FUNCTION pgsluice.verdict() RETURNS void LANGUAGE plpgsql AS 'BEGIN RETURN; END'";

/// The verdict under the fence. The error's text is part of the function, so that raising it reads nothing. Who carries
/// the fence's nonce passes: the sessions that keep this side current.
pub(super) fn verdict(terms: &FenceTerms) -> String {
    let message = quote_literal(&format!("pgsluice: this database has moved to {}", terms.moved_to));
    let hint =
        quote_literal("Connect there and repeat the transaction: nothing of it has been written here.");
    let nonce = quote_literal(terms.nonce.as_str());
    let body = quote_literal(&format!(
        "BEGIN IF current_setting('{PASS_SETTING}', true) = {nonce} THEN RETURN; END IF; \
         RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = {message}, HINT = {hint}; END"
    ));
    format!(
        "CREATE OR REPLACE FUNCTION pgsluice.verdict() RETURNS void LANGUAGE plpgsql \
         SET search_path = pg_catalog, pg_temp AS {body}"
    )
}

/// Puts it in the writers' way, and waits until everybody who wrote without passing it has ended: from then on, whoever has
/// written holds it. Writers do not notice. Repeating it changes nothing.
///
/// # Errors
/// Somebody has not ended within `bound`, or a statement fails.
pub(super) async fn install(
    source: &Client,
    plan: &FencePlan,
    on_writers: OnWriters,
    bound: ArmBound,
) -> Result<(), FenceError> {
    let failed = SqlFailure::of(Side::Source, "put the fence's turnstile in place");
    source.batch_execute(IN_THE_WAY).await.map_err(&failed)?;
    // Who asks for a table's lock from now on learns of the new function; who has one may still be using the old one.
    let tables: Vec<u32> = plan.tables.iter().map(|table| table.oid).collect();
    let mut earlier: HashSet<String> = writing(source, &tables).await?.into_keys().collect();
    let mut backoff = Backoff::new(super::arm::BACKOFF_FIRST, super::arm::BACKOFF_LONGEST);
    let started = Instant::now();
    let mut is_told = false;
    while !earlier.is_empty() {
        let now = writing(source, &tables).await?;
        earlier.retain(|transaction| now.contains_key(transaction));
        let mut left = now.into_iter().filter(|(transaction, _)| earlier.contains(transaction));
        let Some((_, first)) = left.next() else { break };
        if !is_told && started.elapsed() >= PATIENCE {
            tracing::info!(%first, "arming waits for a transaction that has written already; nobody else waits");
            is_told = true;
        }
        if on_writers == OnWriters::Terminate && started.elapsed() >= PATIENCE {
            let all: Vec<Obstacle> = std::iter::once(first).chain(left.map(|(_, other)| other)).collect();
            obstacle::terminate(source, &all).await?;
        } else if started.elapsed() >= bound.0 {
            return Err(FenceError::OlderWriter {
                bound_seconds: bound.0.as_secs(),
                obstacle: Box::new(first),
            });
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
    Ok(())
}

/// Whether the triggers ask for it now; asked with the fence's own table locked, so that nobody
/// [takes it out of the way](stand_down) afterwards.
pub(super) async fn is_in_the_way(session: &Client) -> Result<bool, FenceError> {
    let sql = "SELECT coalesce((SELECT prosecdef AND prosrc LIKE '%pgsluice.turnstile%' AND prosrc LIKE '%pgsluice.verdict()%'
                FROM pg_proc WHERE oid = to_regproc('pgsluice.deny_write')), false)";
    let row = session
        .query_typed_one(sql, &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "look whether the fence's turnstile is in place"))?;
    Ok(row.get(0))
}

/// Transactions that may write to one of `tables`, by their virtual transaction id.
async fn writing(source: &Client, tables: &[u32]) -> Result<HashMap<String, Obstacle>, FenceError> {
    let sql = format!(
        "SELECT DISTINCT {}, l.virtualtransaction
           FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
          WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1) AND a.pid <> pg_backend_pid()
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')",
        obstacle::SESSION
    );
    let rows = source
        .query_typed(&sql, &[(&tables, Type::OID_ARRAY)])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for transactions that write"))?;
    Ok(rows.iter().map(|row| (row.get(5), obstacle::session(row))).collect())
}

/// Who has passed it, by virtual transaction id: those the fence waits for. Somebody who only reads it is not in the way.
pub(super) async fn inside(
    control: &Client,
    fence_pid: i32,
) -> Result<HashMap<String, Obstacle>, FenceError> {
    let sql = format!(
        "SELECT DISTINCT {}, l.virtualtransaction
           FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
          WHERE l.locktype = 'relation' AND l.granted AND l.mode <> 'AccessShareLock' AND a.pid <> $1
            AND l.relation = to_regclass('pgsluice.turnstile')
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        obstacle::SESSION
    );
    let rows = control
        .query_typed(&sql, &[(&fence_pid, Type::INT4)])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for who is still writing"))?;
    Ok(rows.iter().map(|row| (row.get(5), obstacle::session(row))).collect())
}

/// Takes it out of the writers' way again, unless the side is fenced: what stays of an armed cutover costs them next to nothing.
/// Repeating it changes nothing; a side that was never armed is left alone.
///
/// # Errors
/// A statement fails; writers pass it then, as before.
pub async fn stand_down(source: &Client) -> Result<(), FenceError> {
    let failed = SqlFailure::of(Side::Source, "take the fence's turnstile out of the way");
    let exists = source
        .query_typed_one("SELECT to_regclass('pgsluice.turnstile') IS NOT NULL", &[])
        .await
        .map_err(&failed)?;
    if !exists.get::<_, bool>(0) || !is_in_the_way(source).await? {
        return Ok(());
    }
    // The lock waits for a fence transaction that has not ended; its row decides.
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = 2000; SET LOCAL synchronous_commit = local; LOCK TABLE pgsluice.fence IN EXCLUSIVE MODE; \
         DO $$ BEGIN IF NOT EXISTS (SELECT FROM pgsluice.fence) THEN {OUT_OF_THE_WAY}; END IF; END $$; COMMIT"
    );
    if let Err(error) = source.batch_execute(&sql).await {
        // If the connection is lost, the error says so and there is nothing to roll back.
        let _ = source.batch_execute("ROLLBACK").await;
        return Err(failed(error).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cutover::Nonce;

    #[test]
    fn the_place_it_moved_to_cannot_end_the_literal() {
        let sql = verdict(&FenceTerms {
            epoch: 1,
            nonce: Nonce::random(),
            publication: "p".into(),
            moved_to: "o'brien $$ \\ %".into(),
            max_pause: Duration::from_secs(1),
            on_writers: OnWriters::Wait,
            lock_out: false,
        });
        // Quoted twice: once as the message, once within the function's body.
        assert!(sql.contains("o''''brien"), "{sql}");
    }
}
