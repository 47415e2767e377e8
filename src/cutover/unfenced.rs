//! What no fence refuses, because no trigger sees it: what a subscription's apply worker writes, and large objects. Both are
//! looked for up to the commit. What comes after it is kept out by the lockout, where the operator asked for that: those who
//! may not connect to the side that was left any more have their sessions ended here.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::operation::Operation;
use super::{CutoverError, SqlFailure};
use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::migration::CutoverMode;
use crate::model::{Side, counted};
use crate::source::fence::{self, TurnedOut};

/// The finding by whose waiver large objects are left to the operator.
const LARGE_OBJECTS: &str = "source.large_objects";
/// How long the sessions of those who are locked out may take to end.
const TURN_OUT_BOUND: Duration = Duration::from_secs(1);
/// How long all of that may take; clients go on meanwhile.
const SETTLE_BOUND: Duration = Duration::from_secs(3);

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
                "the source has {}, not migrated, which would be left behind",
                counted(count, "large object", "large objects")
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
    /// Signals the sessions of those who are locked out, as soon after the commit as can be. Nobody waits for that, since the source
    /// may have gone away, but [`settle_lockout`](Self::settle_lockout). Once more, when it was begun already.
    pub(super) fn begin_to_turn_out(&mut self) {
        if !self.terms.lock_out {
            return;
        }
        let (config, control) = (Arc::clone(&self.ctx.config), self.control.take());
        let turning_out = async move {
            let source = left_side(&config, control).await?;
            let found = fence::turn_out(&source, Duration::ZERO).await?;
            Ok((source, found))
        };
        self.turning_out = Some(AbortOnDropHandle::new(tokio::spawn(turning_out)));
    }

    /// When clients go on: waits for the end of the sessions of those who are locked out, and says what is left to be done by
    /// hand. For the certificate. A start that finds the fence committed ends them as well.
    pub(super) async fn settle_lockout(&mut self) -> Option<Value> {
        if !self.terms.lock_out || self.mode() == CutoverMode::Rehearsal {
            return None;
        }
        let config = Arc::clone(&self.ctx.config);
        let begun = self.turning_out.take();
        let settled = async {
            let (control, first) = match begun {
                Some(begun) => match begun.await {
                    Ok(Ok((source, found))) => (Some(source), found),
                    _ => (None, TurnedOut::default()),
                },
                None => (None, TurnedOut::default()),
            };
            let source = left_side(&config, control).await?;
            let mut found = fence::turn_out(&source, TURN_OUT_BOUND).await?;
            found.ended.extend(first.ended);
            // Written between the last look before the commit and the end of the sessions.
            Ok::<_, CutoverError>((found, large_objects(&source, &config).await?))
        };
        let (problem, found, large_objects) = match tokio::time::timeout(SETTLE_BOUND, settled).await {
            Ok(Ok((found, large_objects))) => (None, found, large_objects),
            Ok(Err(error)) => (Some(error.to_string()), TurnedOut::default(), 0),
            Err(_) => (Some("it did not answer in time".to_owned()), TurnedOut::default(), 0),
        };
        if let Some(problem) = &problem {
            tracing::warn!(
                %problem,
                "sessions of clients that are locked out may still be open on the side that was left; the next start ends them"
            );
        }
        if !found.left.is_empty() {
            tracing::warn!(
                roles = found.left.join(", "),
                "sessions of these roles are still open on the side that was left: pgsluice needs pg_signal_backend to end them; end them by hand"
            );
        }
        if !found.bound_by_nothing.is_empty() {
            tracing::warn!(
                roles = found.bound_by_nothing.join(", "),
                "clients of these roles are not locked out of the side that was left, because superusers and the database's owner may always connect"
            );
        }
        if large_objects > 0 {
            tracing::warn!(
                large_objects,
                "large objects were written in the moment of the commit and are only on the side that was left: copy them by hand"
            );
        }
        tracing::info!(
            sessions_ended = found.ended.len(),
            "clients are locked out of the side that was left"
        );
        Some(json!({
            "sessions_ended": found.ended.len(),
            "sessions_left": found.left,
            "roles_not_locked_out": found.bound_by_nothing,
            "large_objects_left_behind": large_objects,
            "problem": problem,
        }))
    }
}

/// Sessions that are being ended, and the session that does it.
pub(super) type TurningOut = AbortOnDropHandle<Result<(SqlSession, TurnedOut), CutoverError>>;

/// A session on the side that was left: the operation's own, if it is still there.
async fn left_side(config: &Config, control: Option<SqlSession>) -> Result<SqlSession, CutoverError> {
    match control {
        Some(session) if !session.is_closed() => Ok(session),
        _ => Ok(connect_sql(&config.source.connection, Side::Source, "cutover lockout").await?),
    }
}

/// What a start finds locked out and still connected: the process that locked them out may have died before it could end their
/// sessions, or have lost sight of the server.
pub(super) async fn turn_out_again(side: Side, session: &SqlSession) {
    let again = async {
        if fence::is_locked_out(session).await? {
            return fence::turn_out(session, Duration::ZERO).await;
        }
        Ok(TurnedOut::default())
    };
    match again.await {
        Ok(found) if found.ended.is_empty() => {}
        Ok(found) => {
            tracing::info!(%side, sessions = found.ended.len(), "sessions of clients that are locked out were ended")
        }
        Err(error) => {
            tracing::warn!(%side, %error, "sessions of clients that are locked out may still be open")
        }
    }
}
