//! `manual`: waits for the operator's word when clients are to be moved. The wait comes after the point of no
//! return, so it does not count against `max_pause_ms`; the source refuses writes and the target takes them
//! meanwhile.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Notes, Step, TrafficAdapter, TrafficContext, TrafficError, too_late};

/// What `pgsluice confirm` gives: said once, heard by every `manual` adapter of the operation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OperatorsWord(Arc<watch::Sender<bool>>);

impl Default for OperatorsWord {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl OperatorsWord {
    /// Says it.
    pub fn give(&self) {
        self.0.send_replace(true);
    }

    /// Waits for it. Cancel safe.
    async fn given(&self) {
        // The sender lives in `self`, so this never fails.
        let _ = self.0.subscribe().wait_for(|given| *given).await;
    }
}

/// The adapter.
#[derive(Debug)]
pub(super) struct Manual {
    instruction: String,
    bound: Duration,
    word: OperatorsWord,
}

impl Manual {
    pub(super) const fn new(instruction: String, bound: Duration, word: OperatorsWord) -> Self {
        Self { instruction, bound, word }
    }
}

#[async_trait]
impl TrafficAdapter for Manual {
    fn name(&self) -> String {
        "manual".into()
    }

    async fn perform(&self, step: Step, _context: &TrafficContext) -> Result<Notes, TrafficError> {
        if step != Step::Retarget {
            return Ok(Notes::new());
        }
        tracing::info!(instruction = %self.instruction, "waiting for the operator's word: `pgsluice confirm`");
        match tokio::time::timeout(self.bound, self.word.given()).await {
            Ok(()) => Ok(Notes::new()),
            Err(_) => Err(TrafficError {
                remedy: format!("{} Then say so with `pgsluice confirm`.", self.instruction),
                ..too_late(self.name(), step, self.bound)
            }),
        }
    }
}
