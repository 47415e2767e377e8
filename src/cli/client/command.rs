//! What is asked of a running instance, as the command line says it.

use std::time::Duration;

use super::verification::VerificationAsked;
use crate::migration::CutoverMode;

/// What is asked of the running instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    /// Show the status.
    Status(StatusView),
    /// Cut over, and follow.
    Cutover {
        /// The longest write pause; `None`: as configured there.
        max_pause: Option<Duration>,
        /// Whether a verification must vouch for the rows.
        rows: Rows,
    },
    /// Rehearse, and follow.
    Rehearse {
        /// How often.
        schedule: Schedule,
        /// The longest write pause; `None`: as configured there.
        max_pause: Option<Duration>,
    },
    /// Move the primary back to the source, or rehearse that, and follow.
    Rollback {
        /// Real or rehearsal.
        mode: CutoverMode,
        /// The longest write pause; `None`: as configured there.
        max_pause: Option<Duration>,
    },
    /// Roll the running operation back, and follow.
    Abort,
    /// Give the word that a `manual` traffic adapter waits for, and follow.
    Confirm,
    /// Show where every table stands.
    Tables,
    /// Take tables into the running migration.
    AddTables {
        /// As the operator names them.
        tables: Vec<String>,
        /// Whether they are followed.
        wait: Wait,
    },
    /// Start, show or stop a verification.
    Verify(VerificationAsked),
}

/// Whether a cutover needs a verification that vouches for the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// As `verify.max_age_hours` of the running instance says.
    Verified,
    /// The operator takes it upon himself.
    Unverified,
}

/// Whether the status is shown once or again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusView {
    /// Once.
    Once,
    /// Every second, until interrupted.
    Watch,
    /// The same, drawn over again on a terminal.
    Live,
}

/// How often something is done, and how long it waits in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// At least once.
    pub times: u32,
    /// From the end of one to the beginning of the next.
    pub every: Duration,
}

/// Whether a command follows what it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until the tables have joined, or a try has failed.
    UntilJoined,
    /// Only until it is accepted.
    No,
}
