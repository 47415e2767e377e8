//! Has the source flush its WAL. What is written without a commit (pages that reading has pruned, say) stays in memory until something
//! commits, and where nothing does, the stream cannot come as far as a snapshot. A message of no content, which changes nothing, is
//! committed then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::error::VerifyError;
use crate::config::Config;
use crate::connection::{SqlSession, TextQuery, connect_sql};
use crate::model::Side;

/// A stream that has not come as far as the snapshot by then may wait for a flush.
const AFTER: Duration = Duration::from_millis(25);
/// Flushed here: a standby that does not answer need not be waited for.
const NUDGE: &str =
    "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'pgsluice.nudge', '')";

/// A session that is made when it is first needed.
#[derive(Debug)]
pub(super) struct Nudge {
    config: Arc<Config>,
    session: Mutex<Option<SqlSession>>,
}

impl Nudge {
    pub(super) fn new(config: &Arc<Config>) -> Self {
        Self { config: Arc::clone(config), session: Mutex::default() }
    }

    /// Waits for the stream, and has the source flush if that takes long.
    ///
    /// # Errors
    /// Those of `reached`.
    pub(super) async fn until<T>(
        &self,
        reached: impl Future<Output = Result<T, VerifyError>>,
    ) -> Result<T, VerifyError> {
        tokio::pin!(reached);
        tokio::select! {
            reached = &mut reached => return reached,
            () = tokio::time::sleep(AFTER) => {}
        }
        tokio::select! {
            reached = &mut reached => return reached,
            flushed = self.flush() => if let Err(error) = flushed {
                tracing::debug!(%error, "the source could not be made to flush; something else will");
            },
        }
        reached.await
    }

    async fn flush(&self) -> Result<(), VerifyError> {
        let mut kept = self.session.lock().await;
        let session = match kept.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => connect_sql(&self.config.source.connection, Side::Source, "verify").await?,
        };
        session.rows(NUDGE).await.map_err(VerifyError::source)?;
        *kept = Some(session);
        Ok(())
    }
}
