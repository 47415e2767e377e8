//! How adapters that do several things in a step fail: a problem with its remedy, and what was waited for when the bound
//! has passed.

use std::sync::Mutex;
use std::time::Duration;

use super::{Step, TrafficError};

/// A step failed.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) problem: String,
    pub(super) remedy: String,
}

/// What a step waits for, in case that its bound passes.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<String>);

impl Trouble {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }

    /// The same once more, for another who is to be told.
    pub(super) fn again(&self) -> Self {
        Self::new(self.problem.clone(), self.remedy.clone())
    }

    /// The bound has passed.
    pub(super) fn too_late(bound: Duration) -> Self {
        Self::new(
            format!("it was not done within {:.1} s", bound.as_secs_f64()),
            "Find out what it was waiting for, or raise this adapter's timeout_ms.",
        )
    }

    /// As the cutover is told.
    pub(super) fn of(self, adapter: String, step: Step) -> TrafficError {
        TrafficError { adapter, step, problem: self.problem, remedy: self.remedy }
    }
}

impl Waiting {
    pub(super) fn is(&self, text: String) {
        if let Ok(mut waiting) = self.0.lock() {
            *waiting = text;
        }
    }
}

/// Does the work of a step within its bound.
pub(super) async fn within<T>(
    bound: Duration,
    work: impl Future<Output = Result<T, Trouble>>,
    waiting: &Waiting,
) -> Result<T, Trouble> {
    if let Ok(outcome) = tokio::time::timeout(bound, work).await {
        return outcome;
    }
    let mut late = Trouble::too_late(bound);
    if let Ok(text) = waiting.0.lock()
        && !text.is_empty()
    {
        late.problem = format!("{}: {text}", late.problem);
    }
    Err(late)
}
