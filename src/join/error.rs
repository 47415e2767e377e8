//! Why a table could not join, in words for a person. The stream of all other tables is not touched by it.

use crate::connection::{ConnectError, SqlError};
use crate::model::{Side, TableName};
use crate::snapshot::SnapshotError;
use crate::source::CatalogError;
use crate::source::publication::PublicationError;
use crate::source::slot::SlotError;
use crate::target::gate::GateError;
use crate::target::lock::LockError;
use crate::target::records::RecordError;
use crate::target::schema::SchemaError;

/// Why a join failed, or the tables could not be looked at. What it had begun is begun again by the next try.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A table cannot join as it is.
    #[error("table {} cannot join the migration: {problem}", .table.plain())]
    Unsuitable {
        /// Which.
        table: TableName,
        /// What is in the way, and what it means.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Detached, taken out of the publication or put back while it joined.
    #[error("the tables' place in the publication kept changing while they joined")]
    Unsteady,
    /// A server refused a statement.
    #[error("the {side} answered: {error}")]
    Sql {
        /// Which one.
        side: Side,
        /// What it answered.
        error: SqlError,
    },
    /// The definition could not be brought over.
    #[error("the definition could not be brought over to the target: {0}")]
    Definition(SchemaError),
    /// A foreign key could not be built.
    #[error("foreign key {constraint} of table {} could not be built on the target: {error}", .table.plain())]
    ForeignKey {
        /// Its name.
        constraint: String,
        /// Whose it is.
        table: TableName,
        /// What the target answered.
        error: SqlError,
    },
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The source's catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The publication.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// The temporary slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The copy.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The target's gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The target's records.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The target's other replicator.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The program is asked to stop.
    #[error("stopped while tables joined; the next start goes on with them")]
    Stopped,
}

impl JoinError {
    pub(super) fn source(error: tokio_postgres::Error) -> Self {
        Self::Sql { side: Side::Source, error: error.into() }
    }

    pub(super) fn target(error: tokio_postgres::Error) -> Self {
        Self::Sql { side: Side::Target, error: error.into() }
    }

    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Unsuitable { remedy, .. } => remedy.clone(),
            Self::Unsteady => "Avoid ATTACH, DETACH and ALTER PUBLICATION of them for a moment; it is tried again.".into(),
            Self::Sql { side, .. } => {
                format!("Read the {side}'s message; it is tried again by itself. Nothing is lost meanwhile.")
            }
            Self::Definition(SchemaError::Failed { .. }) => {
                "Create what it needs on the target (schema, types, functions, sequences, roles), as it is on the source, or \
                 the table itself; it is tried again by itself. It was one transaction: nothing was created."
                    .into()
            }
            Self::Definition(error) => error.remedy(),
            Self::ForeignKey { .. } => {
                "Build it on the target yourself, or correct what is in its way; it is tried again by itself.".into()
            }
            Self::Connect(error) => error.remedy(),
            Self::Catalog(error) => error.remedy(),
            Self::Publication(error) => error.remedy(),
            Self::Slot(SlotError::NoneFree) => {
                "A join needs one replication slot more while it runs: drop one that nobody reads, or raise \
                 max_replication_slots and restart the source. It is tried again by itself."
                    .into()
            }
            Self::Slot(error) => error.remedy(),
            Self::Snapshot(error) => error.remedy(),
            Self::Gate(error) => error.remedy(),
            Self::Record(_) => "Check the target's log; it is tried again by itself.".into(),
            Self::Lock(error) => error.remedy(),
            Self::Stopped => "Start pgsluice again: it goes on with them.".into(),
        }
    }
}
