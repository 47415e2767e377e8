//! The one long-running task: walks the phases (preflight, schema, slot, copy, indexes, streaming), takes the
//! commands of the API, and publishes what it is doing as a [`Status`] that everybody else only reads.

mod command;
//TMPmod error;
pub mod monitor;
//TMPmod operation;
//TMPmod setup;
mod status;
//TMPmod task;

pub use command::{Command, CutoverMode, CutoverRequest, Refusal};
//TMPpub use error::MigrationError;
pub use status::{
    Blocking, LagView, Phase, Positions, Problem, Status, StatusBoard, TableProgress, TableState, Throughput,
};
//TMPpub use task::Migration;
