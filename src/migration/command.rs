//! What the API may ask of the migration task.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::cutover::CutoverReport;
use crate::model::{Direction, TableName};
use crate::verify::{Scope, SharePercent, VerificationReport};

/// Whether the fence is committed at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutoverMode {
    /// The real one.
    Cutover,
    /// Everything except the commit, traffic and opening: a measured forecast of the pause.
    Rehearsal,
}

/// A cutover or rehearsal as asked for.
#[derive(Clone, Debug)]
pub struct CutoverRequest {
    /// Real or rehearsal.
    pub mode: CutoverMode,
    /// Forward: a cutover. Back: a rollback.
    pub direction: Direction,
    /// The longest write pause; `None`: as configured.
    pub max_pause: Option<Duration>,
    /// The client's `Idempotency-Key`: the same key again names the same operation.
    pub idempotency_key: Option<String>,
    /// The operator takes it upon himself that no verification vouches for the rows.
    pub unverified: bool,
    /// What vouches for the rows, for the certificate; filled in by the migration task.
    pub verification: Option<serde_json::Value>,
}

/// A verification as asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerificationRequest {
    /// What is compared.
    pub scope: Scope,
    /// How much of the servers' time it takes; `None`: as configured.
    pub share: Option<SharePercent>,
    /// Sessions on each side that compare at the same time; `None`: as configured.
    pub jobs: Option<usize>,
    /// Whether the rows that the last one has found different are repaired first.
    pub repair: bool,
}

/// Why a command was refused; nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Another operation runs, or none does that the command could be for (HTTP 409).
    #[error("{message}")]
    Conflict {
        /// What is in the way.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// The fence is committed, or about to be: the source is no longer known to be the primary (HTTP 409).
    #[error("{message}")]
    PastThePointOfNoReturn {
        /// Where it stands.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// A table cannot be what it is asked to be (HTTP 409): the remedy makes it so.
    #[error("{message}")]
    Unsuitable {
        /// What is in the way.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// The migration is not in a state in which this can be done (HTTP 409), e.g. not streaming yet.
    #[error("{message}")]
    NotReady {
        /// What is missing.
        message: String,
        /// What to do.
        remedy: String,
    },
}

/// A message to the migration task; each is answered at once, the work goes on in the background.
#[derive(Debug)]
pub enum Command {
    /// Start a cutover or rehearsal.
    StartCutover {
        /// As asked for.
        request: CutoverRequest,
        /// The operation as it was accepted (or as it is already known by its idempotency key).
        reply: oneshot::Sender<Result<CutoverReport, Refusal>>,
    },
    /// Roll the running operation back, if it is before the point of no return.
    AbortCutover {
        /// The operation that is being aborted.
        reply: oneshot::Sender<Result<CutoverReport, Refusal>>,
    },
    /// Take tables into the running migration. Asking for one that is in it, or on its way, changes nothing.
    AddTables {
        /// As the operator names them.
        tables: Vec<String>,
        /// Their names, once the wish is recorded; the status says how far they are.
        reply: oneshot::Sender<Result<Vec<TableName>, Refusal>>,
    },
    /// Start a verification.
    StartVerification {
        /// As asked for.
        request: VerificationRequest,
        /// The verification as it was accepted.
        reply: oneshot::Sender<Result<VerificationReport, Refusal>>,
    },
    /// Stop the verification that runs.
    StopVerification {
        /// The verification that is being stopped.
        reply: oneshot::Sender<Result<VerificationReport, Refusal>>,
    },
    /// The operator's word that a `manual` traffic adapter waits for.
    ConfirmTraffic {
        /// The operation that goes on.
        reply: oneshot::Sender<Result<CutoverReport, Refusal>>,
    },
}

impl Command {
    /// Answers a command with a refusal. Nobody listening any more is no error.
    pub fn refuse(self, refusal: Refusal) {
        match self {
            Self::StartCutover { reply, .. }
            | Self::AbortCutover { reply }
            | Self::ConfirmTraffic { reply } => {
                let _ = reply.send(Err(refusal));
            }
            Self::AddTables { reply, .. } => {
                let _ = reply.send(Err(refusal));
            }
            Self::StartVerification { reply, .. } | Self::StopVerification { reply } => {
                let _ = reply.send(Err(refusal));
            }
        }
    }
}
