//! The one long-running task: walks the phases (preflight, schema, slot, copy, indexes, streaming), takes the
//! commands of the API, and publishes what it is doing as a [`Status`] that everybody else only reads.

mod command;
mod cut_over;
mod error;
mod joining;
mod lease;
mod legs;
pub mod monitor;
mod operation;
mod setup;
mod standby_monitor;
mod status;
mod task;
mod verifying;

pub use command::{Command, CutoverMode, CutoverRequest, Refusal, VerificationRequest};
pub use error::MigrationError;
pub use lease::{LeaseKeeper, LeaseLost, await_turn};
pub use legs::{Leg, Legs};
pub use status::{
    Blocking, CopyView, JoinNote, LagView, Phase, Positions, Problem, SlotView, StandbyView, Status,
    StatusBoard, TableProgress, TableState, Throughput, Vouched,
};
pub use task::check;
