//! The fenced switchover of `docs/cutover.md`: one source transaction is the fence, its COMMIT the point of no
//! return. A pure state machine decides, a journal on the target remembers, a driver acts.

mod report;

pub use report::{CutoverReport, Outcome, StepOutcome, StepReport};
