//! A side that was fenced: who may write there nevertheless, and how it is opened again once the other side is fenced
//! in turn. Lifting is one small transaction, however many tables there are: the triggers stay as they are, and what they
//! ask lets everybody pass.

use std::collections::BTreeSet;

use tokio_postgres::{Client, GenericClient};

use super::arm::{armed_tables, is_armed};
use super::lockout::LET_IN;
use super::turnstile::PASS;
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

/// SQL that opens a fenced side, for the transaction that opens it, only after the other side's fence is known to be committed
/// (INV-8). Repeating it changes nothing; a side that was never fenced is left alone. The turnstile stays in the writers' way
/// until [`stand_down`](super::stand_down): with every function that is changed here, opening takes longer.
#[must_use]
pub fn lift_sql() -> String {
    format!(
        "DO $$ BEGIN \
           {LET_IN}; \
           IF to_regclass('pgsluice.fence') IS NULL THEN RETURN; END IF; \
           PERFORM set_config('{PASS_SETTING}', nonce, true) FROM pgsluice.fence ORDER BY epoch DESC LIMIT 1; \
           DELETE FROM pgsluice.fence; \
           IF FOUND THEN {}; {PASS}; END IF; \
         END $$",
        ddl::lift()
    )
}
