//! A side that was fenced: who may write there nevertheless, and how it is opened again once the other side is fenced
//! in turn. Lifting is one small transaction, however many tables there are: the triggers stay as they are, and what they
//! ask lets everybody pass.

use std::collections::BTreeSet;

use tokio_postgres::{Client, GenericClient};

use super::arm::{armed_tables, is_armed};
use super::turnstile::{OUT_OF_THE_WAY, PASS};
use super::{ENABLED, FenceError, PASS_SETTING, ddl};
use crate::cutover::SqlFailure;
use crate::model::{Side, TableName};

/// Lets the deny triggers of a fenced side pass `session`, for as long as it lives: what it writes was written on the other
/// side first. A side that is not fenced is left alone.
///
/// # Errors
/// What the server answered.
pub async fn pass(session: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
    let exists = session.query_one("SELECT to_regclass('pgsluice.fence') IS NOT NULL", &[]).await?;
    if exists.get(0) {
        session
            .execute(
                "SELECT set_config($1, nonce, false) FROM pgsluice.fence ORDER BY epoch DESC LIMIT 1",
                &[&PASS_SETTING],
            )
            .await?;
    }
    Ok(())
}

/// The tables that a committed fence keeps closed; none where the side is not fenced.
///
/// # Errors
/// The catalog cannot be read.
pub async fn closed_tables(session: &Client) -> Result<BTreeSet<TableName>, FenceError> {
    if !is_armed(session).await? {
        return Ok(BTreeSet::new());
    }
    let row = session
        .query_typed_one("SELECT EXISTS (SELECT FROM pgsluice.fence)", &[])
        .await
        .map_err(SqlFailure::of(Side::Target, "look whether the side is fenced"))?;
    if !row.get::<_, bool>(0) {
        return Ok(BTreeSet::new());
    }
    let armed = armed_tables(session).await?;
    Ok(armed
        .into_iter()
        .filter(|table| table.deny_trigger == Some(ENABLED))
        .map(|table| table.name)
        .collect())
}

/// Opens a fenced side: durable when it returns. Only after the other side's fence is known to be committed (INV-8).
/// Repeating it changes nothing; a side that was never fenced is left alone.
///
/// # Errors
/// A statement fails; the side is as closed as before then.
pub async fn lift(session: &Client, side: Side) -> Result<(), FenceError> {
    let failed = SqlFailure::of(side, "lift the fence");
    let lifting = format!(
        "BEGIN; SET LOCAL synchronous_commit = on; \
         DO $$ BEGIN \
           IF to_regclass('pgsluice.fence') IS NULL THEN RETURN; END IF; \
           PERFORM set_config('{PASS_SETTING}', nonce, true) FROM pgsluice.fence ORDER BY epoch DESC LIMIT 1; \
           DELETE FROM pgsluice.fence; \
           IF FOUND THEN {}; {PASS}; {OUT_OF_THE_WAY}; END IF; \
         END $$; \
         COMMIT",
        ddl::lift()
    );
    if let Err(error) = session.batch_execute(&lifting).await {
        // If the connection is lost, the error says so and there is nothing to roll back.
        let _ = session.batch_execute("ROLLBACK").await;
        return Err(failed(error).into());
    }
    Ok(())
}
