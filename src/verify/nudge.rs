//! Has the source flush its WAL. What is written without a commit (pages that reading has pruned, say) stays in memory until something
//! commits, and where nothing does, the stream cannot come as far as a snapshot. A message of no content, which changes nothing, is
//! committed then.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::error::VerifyError;
use crate::config::Config;
use crate::connection::{SqlSession, TextQuery, connect_sql};
use crate::model::Side;

const NUDGE: &str = "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'pgsluice.nudge', '')";

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

    /// Everything that the source has written so far is flushed.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub(super) async fn source(&self) -> Result<(), VerifyError> {
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
