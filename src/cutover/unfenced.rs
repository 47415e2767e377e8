//! What no fence refuses, because no trigger sees it: what a subscription's apply worker writes, and large objects. Both are
//! looked for up to the commit. What comes after it is kept out by the lockout, where the operator asked for that: those who
//! may not connect to the side that was left any more have their sessions ended here.

use std::sync::Arc;
use std::time::Duration;

use super::operation::Operation;
use super::{CutoverError, SqlFailure};
use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::model::Side;
use crate::source::fence::{self, TurnedOut};

/// The finding by whose waiver large objects are left to the operator.
const LARGE_OBJECTS: &str = "source.large_objects";
const NOT_TURNED_OUT: &str =
    "sessions of clients that are locked out may still be open on the side that was left, end them there";
/// How long ending the sessions of those who are locked out may take: the target is opened, and clients are moved, meanwhile.
const TURN_OUT_BOUND: Duration = Duration::from_secs(1);

/// What an apply worker writes passes every fence.
pub(super) async fn no_subscription(source: &SqlSession) -> Result<(), CutoverError> {
    match fence::subscriptions(source).await?.first() {
        None => Ok(()),
        Some(first) => Err(CutoverError::refuted(
            format!(
                "the subscription {first} is enabled on the side that is left: what its apply worker writes passes every fence"
            ),
            format!(
                "ALTER SUBSCRIPTION {} DISABLE; there, then start the cutover again.",
                pgsluice_proto::command::quote_ident(first)
            ),
        )),
    }
}

/// Large objects are not in the stream, and no trigger refuses them: those that came since the migration began would be
/// left behind.
pub(super) async fn no_large_objects(source: &SqlSession, config: &Config) -> Result<(), CutoverError> {
    match large_objects(source, config).await? {
        0 => Ok(()),
        count => Err(CutoverError::refuted(
            format!(
                "the source has {count} large objects, which are not migrated: they would be left behind"
            ),
            format!(
                "Move them into a bytea column, or copy them yourself and waive this: preflight.waive = [\"{LARGE_OBJECTS}\"]."
            ),
        )),
    }
}

/// How many there are, unless they are left to the operator.
async fn large_objects(source: &SqlSession, config: &Config) -> Result<i64, CutoverError> {
    if config.preflight.waive.iter().any(|waived| waived == LARGE_OBJECTS) {
        return Ok(0);
    }
    let row = source
        .query_typed_one("SELECT count(*) FROM pg_largeobject_metadata", &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for large objects"))?;
    Ok(row.get(0))
}

impl Operation {
    /// Performs what follows the commit, and meanwhile ends the sessions of those who are locked out. The commit stands, whatever
    /// becomes of that, so it is tried for a moment at each of the two steps that clients wait for; the second time as well for
    /// somebody who was being let in during the first.
    pub(super) async fn while_clients_are_turned_out<T>(
        &mut self,
        step: impl AsyncFnOnce(&mut Self) -> T,
    ) -> T {
        let config = Arc::clone(&self.ctx.config);
        let control = self.control.take();
        let turned_out = async {
            if !config.cutover.lock_out {
                return None;
            }
            match tokio::time::timeout(TURN_OUT_BOUND, turn_out(&config, control)).await {
                Ok(Ok(told)) => told,
                Ok(Err(error)) => Some(format!("{NOT_TURNED_OUT}: {error}")),
                Err(_) => Some(format!("{NOT_TURNED_OUT}: it did not answer in time")),
            }
        };
        let (done, told) = futures_util::join!(step(self), turned_out);
        if let Some(told) = &told {
            tracing::info!(%told, "clients are locked out");
        }
        self.turned_out = told;
        done
    }
}

/// A few words about what was done, if anything was.
async fn turn_out(config: &Config, control: Option<SqlSession>) -> Result<Option<String>, CutoverError> {
    let source = match control {
        Some(session) if !session.is_closed() => session,
        _ => connect_sql(&config.source.connection, Side::Source, "cutover lockout").await?,
    };
    let TurnedOut { ended, left } = fence::turn_out(&source).await?;
    let mut told = Vec::new();
    if ended > 0 {
        told.push(format!("{ended} sessions of clients that are locked out were ended"));
    }
    if !left.is_empty() {
        told.push(format!(
            "sessions of {} are left, because ending them needs membership in pg_signal_backend",
            left.join(", ")
        ));
    }
    // Written between the last look before the commit and now.
    match large_objects(&source, config).await? {
        0 => {}
        count => told.push(format!(
            "{count} large objects were written in the moment of the commit and are only on the side that was left: copy them \
             (pg_dump --large-objects)"
        )),
    }
    Ok((!told.is_empty()).then(|| told.join("; ")))
}
