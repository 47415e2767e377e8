//! What is told about a cutover or rehearsal, while it runs and afterwards.

use std::time::Duration;

use jiff::Timestamp;

use crate::migration::CutoverMode;
use crate::model::Direction;

/// How the operation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Still running.
    Running,
    /// The target is the primary (a rehearsal: the forecast was measured and the source is as before).
    Completed,
    /// Rolled back: the source is as before.
    Aborted {
        /// Why.
        reason: String,
        /// What to do before trying again.
        remedy: String,
    },
    /// The source did not say whether the fence was committed: neither side is opened until it does.
    InDoubt {
        /// What is known.
        reason: String,
        /// What resolves it.
        remedy: String,
    },
}

impl Outcome {
    /// The name in the API and in the metric `pgsluice_cutover_state{state}`'s final states.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Aborted { .. } => "aborted",
            Self::InDoubt { .. } => "in_doubt",
        }
    }
}

/// How one step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Running now.
    Running,
    /// Done.
    Done,
    /// Failed; the operation's outcome says what that meant.
    Failed,
    /// Undone while rolling back.
    Undone,
}

/// One step of the operation.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Its name, e.g. `fence_source`.
    pub name: &'static str,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took, or has taken so far.
    pub duration: Duration,
    /// Whether writers waited while it ran.
    pub in_pause: bool,
    /// How it went.
    pub outcome: StepOutcome,
    /// More for a person, e.g. `37 tables`.
    pub detail: Option<String>,
}

/// One cutover or rehearsal.
#[derive(Clone, Debug, PartialEq)]
pub struct CutoverReport {
    /// Identity of the operation: counts up with each one, kept in the journal.
    pub epoch: i64,
    /// Real or rehearsal.
    pub mode: CutoverMode,
    /// Forward: a cutover. Back: a rollback.
    pub direction: Direction,
    /// The client's `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// State of the state machine, e.g. `arming`, `fencing`, `completed`.
    pub state: &'static str,
    /// How it stands.
    pub outcome: Outcome,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The steps so far.
    pub steps: Vec<StepReport>,
    /// How long writers waited: from the first lock asked for to clients being let go on; `None` until measured.
    pub pause: Option<Duration>,
    /// The evidence that nothing was lost, once completed (a JSON document).
    pub certificate: Option<serde_json::Value>,
}
