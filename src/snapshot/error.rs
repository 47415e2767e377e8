//! Why a copy failed, and what that means: nothing half-copied is ever kept.

use pgsluice_proto::command::quote_ident;

use crate::connection::{ConnectError, SqlError};
use crate::model::{Disposition, Side, TableName};
use crate::source::CatalogError;
use crate::source::slot::SlotError;
use crate::target::schema::SchemaError;

/// Why a copy failed. What was copied is recorded on the target, and emptied before the next try.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement or COPY failed on the source.
    #[error("the copy failed on the source{}: {error}", of(.table))]
    Source {
        /// Which table was copied.
        table: Option<TableName>,
        /// As the server said, without values.
        error: SqlError,
    },
    /// A statement or COPY failed on the target.
    #[error("the copy failed on the target{}: {error}", of(.table))]
    Target {
        /// Which table was copied.
        table: Option<TableName>,
        /// As the server said, without values.
        error: SqlError,
    },
    /// The catalog could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The slot could not be looked at.
    #[error(transparent)]
    Slot(Box<SlotError>),
    /// The exported snapshot is gone, with the connection that exported it.
    #[error("the snapshot of the replication slot is gone: the connection that held it was lost")]
    SnapshotGone,
    /// TRUNCATE, VACUUM FULL, CLUSTER or a rewriting ALTER TABLE came between the snapshot and the copy's lock.
    #[error("table {} of the source was rewritten or emptied while the copy began", .table.plain())]
    TableRewritten {
        /// Which.
        table: TableName,
    },
    /// Columns were added, dropped or altered after the target's schema was made.
    #[error("table {} of the source was altered after its definition was copied", .table.plain())]
    TableAltered {
        /// Which.
        table: TableName,
    },
    /// Its definition is not there.
    #[error("table {} does not exist on the target", .table.plain())]
    TargetTableMissing {
        /// Which.
        table: TableName,
    },
    /// `pg_current_snapshot()` printed something else.
    #[error("the source's snapshot cannot be read: another form was expected")]
    SnapshotUnreadable,
    /// The target does not have any more what it had recorded: it failed over, or was restored.
    #[error("the target has lost the last part of what was copied to it")]
    TargetLost,
    /// The record of the plan holds something this version does not know.
    #[error("what the target has recorded of the copy of table {} cannot be read", .table.plain())]
    PlanUnreadable {
        /// Which.
        table: TableName,
    },
    /// A column of the source's table is not there.
    #[error("table {} on the target has no column {column}", .table.plain())]
    TargetColumnMissing {
        /// Which table.
        table: TableName,
        /// Its column.
        column: String,
        /// As the source has it.
        type_name: String,
    },
    /// An index or a constraint could not be built.
    #[error("{object} of table {} could not be built on the target: {error}", .table.plain())]
    Index {
        /// Of which table.
        table: TableName,
        /// What was built.
        object: String,
        /// As the server said, without values.
        error: SqlError,
        /// What builds it.
        statement: String,
    },
    /// The rest of the schema, or reading it, failed.
    #[error(transparent)]
    Schema(Box<SchemaError>),
    /// Copying into it would mix rows.
    #[error("table {} on the target has rows that this program did not copy", .table.plain())]
    TargetNotEmpty {
        /// Which.
        table: TableName,
    },
    /// A copying task ended without saying why.
    #[error("a copying task ended unexpectedly")]
    WorkerLost,
    /// The program is asked to stop.
    #[error("stopped while copying; the next start goes on with the chunks that are left")]
    Stopped,
}

fn of(table: &Option<TableName>) -> String {
    table.as_ref().map(|table| format!(" (table {})", table.plain())).unwrap_or_default()
}

impl SnapshotError {
    pub(super) fn source(error: impl Into<SqlError>) -> Self {
        Self::Source { table: None, error: error.into() }
    }

    pub(super) fn target(error: tokio_postgres::Error) -> Self {
        Self::Target { table: None, error: error.into() }
    }

    pub(super) fn slot(error: SlotError) -> Self {
        Self::Slot(Box::new(error))
    }

    pub(super) fn schema(error: SchemaError) -> Self {
        Self::Schema(Box::new(error))
    }

    /// On one side, while copying a table.
    pub(super) fn copying<E: Into<SqlError>>(side: Side, table: &TableName) -> impl Fn(E) -> Self {
        let table = Some(table.clone());
        move |error| {
            let (table, error) = (table.clone(), error.into());
            match side {
                Side::Source => Self::Source { table, error },
                Side::Target => Self::Target { table, error },
            }
        }
    }

    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Connect(error) => error.remedy(),
            Self::Catalog(error) => error.remedy(),
            Self::Slot(error) => error.remedy(),
            Self::Source { .. } => "Read the source's message above; its role needs SELECT on every table. The source was only read.".to_owned(),
            Self::Target { .. } => "Read the target's message above. What is copied is kept; the source was only read.".to_owned(),
            Self::PlanUnreadable { .. } => "An other version of pgsluice has made this plan. Go on with that one, or begin anew: `pgsluice cleanup`, and empty the target's tables.".to_owned(),
            Self::TargetColumnMissing { table, column, type_name } => format!(
                "ALTER TABLE {table} ADD COLUMN {} {type_name}; on the target, as the source has it: the copy goes on by itself.",
                quote_ident(column)
            ),
            Self::Index { statement, .. } => format!(
                "Nothing is copied again: it is tried again every few seconds, and with every start. Remove the cause, or build it by hand under the same name:\n{statement}"
            ),
            Self::Schema(error) => error.remedy(),
            Self::SnapshotGone
            | Self::TableRewritten { .. }
            | Self::WorkerLost
            | Self::Stopped
            | Self::SnapshotUnreadable
            | Self::TargetLost => {
                "Nothing: what is copied and recorded is kept, and the rest is tried again. The source was only read.".to_owned()
            }
            Self::TableAltered { .. } => "Nothing at once: its definition is read anew. Avoid DDL until the copy is done; what the target lacks of it is told.".to_owned(),
            Self::TargetTableMissing { table } => format!(
                "Create table {} on the target as it is on the source, set schema.mode = \"copy\", or leave the table out with source.tables.exclude.",
                table.plain()
            ),
            Self::TargetNotEmpty { table } => format!(
                "If those rows are not needed, TRUNCATE {table} on the target; otherwise leave the table out with source.tables.exclude."
            ),
        }
    }

    /// What the program does about it. Retry means: [`reset`](super::reset), and a new slot.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Connect(error) => error.disposition(),
            Self::Catalog(error) => error.disposition(),
            Self::Slot(error) => error.disposition(),
            Self::Source { error, .. } | Self::Target { error, .. } => error.disposition(),
            Self::SnapshotGone
            | Self::TableRewritten { .. }
            | Self::WorkerLost
            | Self::Stopped
            | Self::SnapshotUnreadable
            | Self::TableAltered { .. }
            | Self::TargetLost => Disposition::Retry,
            Self::Schema(error) => match error.disposition() {
                Disposition::Retry => Disposition::Retry,
                Disposition::WaitForOperator { remedy } | Disposition::Halt { remedy } => {
                    Disposition::WaitForOperator { remedy }
                }
            },
            Self::Index { error, .. } if matches!(error.disposition(), Disposition::Retry) => {
                Disposition::Retry
            }
            Self::PlanUnreadable { .. } => Disposition::Halt { remedy: self.remedy() },
            Self::Index { .. } | Self::TargetColumnMissing { .. } => {
                Disposition::WaitForOperator { remedy: self.remedy() }
            }
            Self::TargetTableMissing { .. } => Disposition::WaitForOperator { remedy: self.remedy() },
            Self::TargetNotEmpty { .. } => Disposition::Halt { remedy: self.remedy() },
        }
    }
}
