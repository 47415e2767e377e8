//! Opening the side that is reached, once the fence is committed: tried until it works. While arming the same statements are
//! tried once and rolled back, so that what could be in the way is known before the point of no return, and the server
//! has in memory what they need.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::actions::{RETRY_FIRST, RETRY_LONGEST};
use super::driver::steady;
use super::operation::Operation;
use super::state::Event;
use super::{CutoverError, SqlFailure};
use crate::connection::{SqlSession, connect_sql};
use crate::migration::Blocking;
use crate::model::{Direction, Side};
use crate::runtime::Backoff;
use crate::source::fence;
use crate::target::gate;
use crate::target::progress::APPLIED_BY_ALL;

/// How long one try of opening the target may take.
const OPEN_BOUND: Duration = Duration::from_secs(5);

impl Operation {
    /// Tried until it works: the fence is committed, so the target has to be opened (INV-8 holds meanwhile, with
    /// neither side open).
    pub(super) async fn open_target(&mut self) -> Result<Event, CutoverError> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let opened = match tokio::time::timeout(OPEN_BOUND, self.try_to_open()).await {
                Ok(opened) => opened,
                Err(_) => Err(CutoverError::refuted(
                    "it did not answer in time",
                    "Check that the target is up and reachable; it is tried again.",
                )),
            };
            match opened {
                Ok(()) => {
                    self.log.no_trouble();
                    return Ok(Event::TargetOpened);
                }
                Err(error) => {
                    self.target = None;
                    let message =
                        format!("The fence is committed and the target cannot be opened yet: {error}.");
                    self.log.trouble(&message, &error.remedy(), Blocking::Retrying);
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn try_to_open(&mut self) -> Result<(), CutoverError> {
        let target = match self.target.take() {
            // One that is being replaced is not the one to open.
            Some(session) if !session.is_closed() && steady(&self.ctx.config).is_ok() => session,
            _ => self.reconnected_target().await?,
        };
        let opened = transaction(&target, &statements(self.terms.epoch), "COMMIT").await;
        if opened.is_err() {
            // If the connection is lost, the error says so and there is nothing to roll back.
            let _ = target.batch_execute("ROLLBACK").await;
        }
        opened?;
        self.target = Some(target);
        Ok(())
    }

    /// A new session to the target, if that still has everything the fence covers: what answers now may be a
    /// standby that was promoted before it had received all of it.
    async fn reconnected_target(&self) -> Result<SqlSession, CutoverError> {
        let target = connect_sql(&self.ctx.config.target.connection, Side::Target, "cutover").await?;
        let Some(marker_lsn) = self.marker_lsn else { return Ok(target) };
        let row = target
            .query_typed_opt(
                &format!(
                    "SELECT min >= $1::text::pg_lsn, min::text FROM ({APPLIED_BY_ALL}) AS applied WHERE min IS NOT NULL"
                ),
                &[(&marker_lsn.to_string(), Type::TEXT)],
            )
            .await
            .map_err(SqlFailure::of(Side::Target, "read the progress record"))?;
        match row {
            Some(row) if row.get(0) => Ok(target),
            row => {
                let has = row.map_or_else(
                    || "nothing".to_owned(),
                    |row| format!("everything up to {}", row.get::<_, &str>(1)),
                );
                Err(CutoverError::refuted(
                    format!(
                        "the target has {has}, and the fence was committed at {marker_lsn}: it has lost its last moments"
                    ),
                    lost_side_remedy(self.ctx.config.direction),
                ))
            }
        }
    }
}

/// Opens the side that is reached, and takes it back at once.
///
/// # Errors
/// Opening it would fail.
pub(super) async fn rehearse(target: &SqlSession, epoch: i64) -> Result<(), CutoverError> {
    let tried = transaction(target, &statements(epoch), "ROLLBACK").await;
    if tried.is_err() {
        let _ = target.batch_execute("ROLLBACK").await;
    }
    tried
}

/// Whichever closes it: the gate of a first cutover, the fence of an earlier one.
fn statements(epoch: i64) -> String {
    format!("{}; {}", gate::open_sql(epoch), fence::lift_sql())
}

/// Durable when it returns, if `end` is COMMIT.
async fn transaction(target: &SqlSession, statements: &str, end: &str) -> Result<(), CutoverError> {
    let failed = SqlFailure::of(Side::Target, "open the side that is reached");
    let batch = format!("BEGIN; SET LOCAL synchronous_commit = on; {statements}; {end}");
    Ok(target.batch_execute(&batch).await.map_err(failed)?)
}

/// The side that is reached has lost what it had: the other one, which is fenced, has everything.
pub(super) const fn lost_side_remedy(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => {
            "Bring back the target's primary that has all of it. If it is lost, stop pgsluice, unfence the source with `pgsluice \
             cleanup --unfence-source` (with --without-target if it cannot be reached), and migrate again: the source has everything."
        }
        Direction::Back => {
            "Bring back the source's primary that has all of it. If it is lost, stop pgsluice and open the target again with `pgsluice \
             cleanup --without-source --unfence-target`: the target has everything."
        }
    }
}
