//! The fenced switchover of `docs/cutover.md`: one source transaction is the fence, its COMMIT the point of no
//! return. A pure state machine decides, a journal on the target remembers, a driver acts.

mod failure;
mod proof;
mod report;
mod state;

pub use failure::SqlFailure;
pub use proof::{CaughtUp, Nonce, Proofs, SequenceValue, SequencesAligned, SourceFenced, TargetDurable};
pub use report::{CutoverReport, Outcome, StepOutcome, StepReport};
pub use state::{Action, Cutover, Event, IllegalTransition, State, Why};
