//! A check could not be made. That says nothing about what it would have found.

use crate::connection::SqlError;
use crate::model::{Disposition, Side};
use crate::source::CatalogError;
use crate::target::schema::SchemaError;

/// A check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// A query failed.
    #[error("check {check} cannot be made: the {side} reports: {error}")]
    Sql {
        /// The finding's id it would have led to.
        check: &'static str,
        /// Which side was asked.
        side: Side,
        /// As the server said.
        error: SqlError,
    },
    /// The source's tables cannot be listed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The target's tables cannot be compared.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl PreflightError {
    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Sql { side, .. } => {
                format!(
                    "Check that the {side} answers and that its role may read pg_catalog. Nothing was changed."
                )
            }
            Self::Catalog(error) => error.remedy(),
            Self::Schema(error) => error.remedy(),
        }
    }

    /// What the program does about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Sql { error, .. } => error.disposition(),
            Self::Catalog(error) => error.disposition(),
            Self::Schema(error) => error.disposition(),
        }
    }

    /// For a query on one side, made for one check.
    pub(super) fn sql(check: &'static str, side: Side) -> impl Fn(tokio_postgres::Error) -> Self {
        move |error| Self::Sql { check, side, error: error.into() }
    }
}
