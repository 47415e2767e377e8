//! Why the structures could not be compared. Nothing is changed by comparing.

use crate::connection::SqlError;
use crate::model::{Disposition, Side};

/// Why the structures could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum StructureError {
    /// A query failed.
    #[error("the structure of the {side} cannot be read: {error}")]
    Sql {
        /// On which side.
        side: Side,
        /// As the server said, without values.
        error: SqlError,
    },
    /// More than can be held.
    #[error(
        "the {side} has more than {objects_max} tables, functions, differing columns and the like: too many to compare"
    )]
    TooMany {
        /// Which side.
        side: Side,
        /// How many can be held.
        objects_max: usize,
    },
}

impl StructureError {
    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Sql { side, error } if error.sqlstate().is_some_and(|state| state.code() == "55P03") => {
                format!(
                    "Somebody holds a table's definition on the {side} (ALTER TABLE, say): let that end, or end it, then compare again."
                )
            }
            Self::Sql { side, .. } => {
                format!("Check that the {side} answers, then compare again. Nothing was changed.")
            }
            Self::TooMany { .. } => {
                "Compare two dumps of the definitions instead (pg_dump --schema-only).".to_owned()
            }
        }
    }

    /// What the program does about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Sql { error, .. } => error.disposition(),
            Self::TooMany { .. } => Disposition::WaitForOperator { remedy: self.remedy() },
        }
    }

    pub(super) fn on(side: Side) -> impl Fn(tokio_postgres::Error) -> Self {
        move |error| Self::Sql { side, error: error.into() }
    }
}
