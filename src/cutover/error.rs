//! What goes wrong in a cutover, gathered from the parts it is made of. Each says what to do; whether the
//! operation is rolled back or goes on is decided by where it stands, not by the error.

use super::SqlFailure;
use super::state::Why;
use crate::connection::ConnectError;
use crate::source::fence::FenceError;
use crate::stream::StreamGone;
use crate::target::gate::GateError;
use crate::traffic::TrafficError;

/// Something failed while an operation was prepared, run, recovered or cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum CutoverError {
    /// A connection could not be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] SqlFailure),
    /// The fence.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The target's gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// An adapter.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The stream ended under it.
    #[error(transparent)]
    Stream(#[from] StreamGone),
    /// Something else that a server's answer showed.
    #[error("{problem}")]
    Refuted {
        /// What was found and what it means.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

impl CutoverError {
    pub(super) fn refuted(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refuted { problem: problem.into(), remedy: remedy.into() }
    }

    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Connect(error) => error.remedy(),
            Self::Sql(failure) => failure.remedy(),
            Self::Fence(error) => error.remedy(),
            Self::Gate(error) => error.remedy(),
            Self::Traffic(error) => error.remedy.clone(),
            Self::Stream(_) => "Wait until `pgsluice status` says `streaming` again.".into(),
            Self::Refuted { remedy, .. } => remedy.clone(),
        }
    }
}

impl From<CutoverError> for Why {
    fn from(error: CutoverError) -> Self {
        let mut reason = error.to_string();
        if !reason.ends_with('.') {
            reason.push('.');
        }
        Self::Failed { reason, remedy: error.remedy() }
    }
}
