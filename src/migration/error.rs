//! Why a migration ended, and with which exit code.

use crate::cli::{Exit, Look, findings_text};
use crate::connection::{ConnectError, SqlError};
use crate::control::dto::FindingRecord;
use crate::cutover::CutoverError;
use crate::join::JoinError;
use crate::model::{Disposition, Side, counted};
use crate::preflight::{Finding, PreflightError, Severity};
use crate::snapshot::SnapshotError;
use crate::source::catalog::CatalogError;
use crate::source::publication::PublicationError;
use crate::source::slot::SlotError;
use crate::target::gate::GateError;
use crate::target::lock::LockError;
use crate::target::records::{MigrationIdentity, RecordError};
use crate::target::schema::SchemaError;

/// Why a migration ended before anybody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Preflight found something that stops it; nothing was changed.
    #[error("the migration cannot begin: {}; nothing was changed on either side", counted(blocking(.0).count(), "blocker", "blockers"))]
    Blocked(Vec<Finding>),
    /// A server could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The target's records are of another migration.
    #[error("the target belongs to another migration: {difference}")]
    OtherMigration {
        /// What differs.
        difference: String,
    },
    /// The target's record went away while it was used.
    #[error("the record of this migration has vanished from the target")]
    RecordVanished,
    /// The stream halted, or a cutover is in doubt.
    #[error("{message}")]
    Halted {
        /// What happened.
        message: String,
        /// What is to be decided.
        remedy: String,
    },
    /// A server refused a statement.
    #[error("the {side} answered: {error}")]
    Sql {
        /// Which one.
        side: Side,
        /// What it answered.
        #[source]
        error: SqlError,
    },
    /// Preflight itself failed.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The records.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another replicator.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The source's catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The publication.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// The slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The target's gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The copy.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Tables that join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A cutover's remains.
    #[error(transparent)]
    Cutover(#[from] CutoverError),
}

impl MigrationError {
    /// A server's refusal.
    #[must_use]
    pub fn sql(side: Side, error: tokio_postgres::Error) -> Self {
        Self::Sql { side, error: error.into() }
    }

    /// The record on the target is not of these two databases.
    #[must_use]
    pub fn other_migration(recorded: &MigrationIdentity, found: &MigrationIdentity) -> Self {
        let pairs = [
            ("source system identifier", &recorded.source_system_id, &found.source_system_id),
            ("source database", &recorded.source_database, &found.source_database),
            ("target system identifier", &recorded.target_system_id, &found.target_system_id),
            ("slot", &recorded.slot, &found.slot),
            ("publication", &recorded.publication, &found.publication),
        ];
        let differing = pairs.into_iter().filter(|(_, recorded, found)| recorded != found);
        let told: Vec<_> = differing
            .map(|(what, recorded, found)| {
                format!("{what} is \"{recorded}\" in its record and \"{found}\" now")
            })
            .collect();
        Self::OtherMigration { difference: told.join(", ") }
    }

    /// Whether a server is being replaced just now, so that nothing was connected to.
    #[must_use]
    pub fn is_turnover(&self) -> bool {
        let connect = match self {
            Self::Connect(error)
            | Self::Cutover(CutoverError::Connect(error))
            | Self::Slot(SlotError::Connect(error))
            | Self::Snapshot(SnapshotError::Connect(error))
            | Self::Join(JoinError::Connect(error)) => error,
            _ => return false,
        };
        connect.is_turnover()
    }

    /// Whether it passes by itself: a connection was lost, a server restarts or fails over.
    #[must_use]
    pub fn passes(&self) -> bool {
        let disposition = match self {
            Self::Connect(_) => return true,
            Self::Sql { error, .. }
            | Self::Lock(LockError::Sql(error))
            | Self::Record(RecordError::Sql(error)) => error.disposition(),
            Self::Catalog(error) => error.disposition(),
            Self::Slot(error) => error.disposition(),
            Self::Snapshot(error) => error.disposition(),
            Self::Gate(GateError::Sql(failure)) => failure.disposition(),
            _ => return false,
        };
        matches!(disposition, Disposition::Retry)
    }

    /// How the program ends because of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Blocked(_) => Exit::Blocker,
            Self::Connect(_) | Self::OtherMigration { .. } => Exit::Usage,
            Self::Halted { .. } | Self::RecordVanished | Self::Lock(LockError::Taken { .. }) => {
                Exit::Decision
            }
            Self::Sql { .. }
            | Self::Lock(LockError::Sql(_))
            | Self::Preflight(_)
            | Self::Record(_)
            | Self::Catalog(_)
            | Self::Publication(_)
            | Self::Slot(_)
            | Self::Schema(_)
            | Self::Gate(_)
            | Self::Snapshot(_)
            | Self::Join(_)
            | Self::Cutover(_) => Exit::Failed,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Blocked(findings) => {
                let blockers: Vec<FindingRecord> = blocking(findings).map(FindingRecord::from).collect();
                findings_text(&blockers, Look::PLAIN).trim_end().to_owned()
            }
            Self::Connect(error) => error.remedy(),
            Self::OtherMigration { .. } => {
                "Check source.url, target.url, source.slot and source.publication. To give the other migration up, run \
                 `pgsluice cleanup` with its configuration. Nothing was changed."
                    .into()
            }
            Self::RecordVanished => {
                "Somebody removed schema pgsluice from the target while pgsluice was running. Empty the target and start over.".into()
            }
            Self::Halted { remedy, .. } => remedy.clone(),
            Self::Sql { side, .. } => {
                format!("Check the {side}'s log and the role's privileges (`pgsluice check`), then start pgsluice again: it resumes.")
            }
            Self::Preflight(error) => error.remedy(),
            Self::Record(_) => "Check the target's log, then start pgsluice again: it resumes.".into(),
            Self::Lock(error) => error.remedy(),
            Self::Catalog(error) => error.remedy(),
            Self::Publication(error) => error.remedy(),
            Self::Slot(error) => error.remedy(),
            Self::Schema(error) => error.remedy(),
            Self::Gate(error) => error.remedy(),
            Self::Snapshot(error) => error.remedy(),
            Self::Join(error) => error.remedy(),
            Self::Cutover(error) => error.remedy(),
        }
    }
}

fn blocking(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(|finding| finding.severity == Severity::Blocker)
}
