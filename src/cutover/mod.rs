//! The fenced switchover of `docs/cutover.md`: one source transaction is the fence, its COMMIT the point of no
//! return. A pure state machine decides, a journal on the target remembers, a driver acts.

mod actions;
mod arm;
mod certificate;
mod cleanup;
mod driver;
mod error;
mod failure;
mod journal;
mod log;
mod opening;
mod operation;
mod probe;
mod proof;
mod recovery;
mod report;
mod securing;
mod state;
mod undo;
mod unfenced;
mod way_back;

pub use cleanup::{CleanupAction, CleanupError, CleanupOptions, CleanupOutcome, cleanup};
pub use driver::{CutoverContext, RunningCutover, start};
pub use error::CutoverError;
pub use failure::SqlFailure;
pub use probe::{Again, Probe};
pub use proof::{CaughtUp, Nonce, Proofs, SequenceValue, SequencesAligned, SourceFenced, TargetDurable};
pub use recovery::{Recovered, recover};
pub use report::{CutoverReport, Outcome, StepOutcome, StepReport};
pub use state::{Action, Cutover, Event, IllegalTransition, State, Why};

#[cfg(test)]
mod live_tests;
