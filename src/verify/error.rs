//! Why a comparison could not be made, and whether another try may. What could not be compared is never taken for equal.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::meeting::Interrupted;
use super::structure::StructureError;
use crate::connection::{ConnectError, SqlError};
use crate::model::{Disposition, Side};
use crate::snapshot::SnapshotError;
use crate::target::records::RecordError;

/// Why a comparison failed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error("comparing failed on the {side}: {error}")]
    Sql {
        /// Where.
        side: Side,
        /// As the server said, without values.
        error: SqlError,
    },
    /// The target's records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The source's snapshot cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The structures cannot be compared.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// The stream broke off while a pair of snapshots was taken.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The stream did not come as far as the source's snapshot in time.
    #[error("the stream did not come as far as the source within {} s", .waited.as_secs())]
    Behind {
        /// How long was waited.
        waited: Duration,
    },
    /// A table has another name than when the tables were read.
    #[error("a table of the {side} was renamed meanwhile")]
    Renamed {
        /// Where.
        side: Side,
    },
    /// A table's rows are being copied again.
    #[error("a table's rows are being copied again")]
    CopiedAgain,
    /// Commits in doubt cannot be seen.
    #[error("commits of the source that wait for its synchronous standby cannot be seen")]
    CommitsUnseen,
    /// What was asked took longer than a snapshot may be held.
    #[error("a statement on the {side} was cancelled, or took longer than a snapshot may be held")]
    TooLong {
        /// Where.
        side: Side,
    },
    /// A server answered in a form that this version does not know.
    #[error("the {side} answered in an unexpected form")]
    Unreadable {
        /// Which.
        side: Side,
    },
}

impl VerifyError {
    pub(super) fn sql(side: Side) -> impl Fn(SqlError) -> Self {
        move |error| match error.sqlstate() {
            Some(&SqlState::QUERY_CANCELED) => Self::TooLong { side },
            _ => Self::Sql { side, error },
        }
    }

    pub(super) fn source(error: impl Into<SqlError>) -> Self {
        Self::sql(Side::Source)(error.into())
    }

    pub(super) fn target(error: impl Into<SqlError>) -> Self {
        Self::sql(Side::Target)(error.into())
    }

    /// Whether another try may help.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Connect(error) => matches!(error.disposition(), Disposition::Retry),
            Self::Sql { error, .. } => matches!(error.disposition(), Disposition::Retry),
            Self::Structure(error) => matches!(error.disposition(), Disposition::Retry),
            Self::Snapshot(error) => matches!(error.disposition(), Disposition::Retry),
            Self::Interrupted(_) | Self::Behind { .. } => true,
            Self::Records(_)
            | Self::TooLong { .. }
            | Self::Renamed { .. }
            | Self::CopiedAgain
            | Self::CommitsUnseen
            | Self::Unreadable { .. } => false,
        }
    }

    /// Whether it is about the tables that were to be compared: something that was there is not any more, or somebody holds one.
    #[must_use]
    pub fn is_about_tables(&self) -> bool {
        match self {
            Self::TooLong { .. } | Self::Renamed { .. } | Self::CopiedAgain => true,
            // Not what the server lacks or is ordered to do, nor a connection that is lost.
            Self::Sql { error, .. } => error
                .sqlstate()
                .is_some_and(|state| !["08", "53", "57"].iter().any(|class| state.code().starts_with(class))),
            _ => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Connect(error) => error.remedy(),
            Self::Structure(error) => error.remedy(),
            Self::Sql { error, .. } => match error.disposition() {
                Disposition::WaitForOperator { remedy } | Disposition::Halt { remedy } => remedy,
                Disposition::Retry => "Start the verification again.".into(),
            },
            Self::TooLong { .. } => "Raise verify.max_snapshot_seconds, then start the verification again.".into(),
            Self::Behind { .. } => "Wait until the lag is small, then start the verification again.".into(),
            Self::Renamed { .. } => "Start the verification again: it reads the tables anew.".into(),
            Self::CopiedAgain => "Wait until `pgsluice tables` says that every table is joined, then start the verification again.".into(),
            Self::CommitsUnseen => "On the source: GRANT pg_read_all_stats to the user that pgsluice connects as. Then start the verification again.".into(),
            Self::Interrupted(_) | Self::Records(_) | Self::Snapshot(_) | Self::Unreadable { .. } => {
                "Start the verification again once pgsluice streams; GET /v1/status says what is in the way.".into()
            }
        }
    }
}
