//! An SQL error that is safe to print. tokio-postgres prints "db error" alone, and through the chain of causes the
//! server's `DETAIL`, which quotes row values; this wrapper prints primary message and SQLSTATE, and offers no way to
//! the rest (INV-10).

use std::fmt;

use tokio_postgres::error::SqlState;

use super::{ServerMessage, disposition_of};
use crate::model::Disposition;

/// An error of a statement, or of the session it was sent through.
pub struct SqlError(Box<tokio_postgres::Error>);

impl SqlError {
    /// The server's SQLSTATE; `None` when it was not the server that failed.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.0.code()
    }

    /// What to do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        disposition_of(&self.0)
    }
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_db_error() {
            Some(error) => fmt::Display::fmt(&ServerMessage::from(error), f),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl fmt::Debug for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlError({self})")
    }
}

/// No `source()`: what prints a chain of errors would print the detail.
impl std::error::Error for SqlError {}
