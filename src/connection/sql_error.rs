//! An SQL error that is safe to print. tokio-postgres prints "db error" alone, and through the chain of causes the
//! server's `DETAIL`, which quotes row values; this wrapper prints primary message and SQLSTATE, and offers no way to
//! the rest (INV-10). It does not matter which kind of session it was.

use std::fmt;

use tokio_postgres::error::SqlState;

use super::{ServerMessage, WireError, disposition_of, disposition_of_sqlstate};
use crate::model::Disposition;

/// An error of a statement, or of the session it was sent through.
pub struct SqlError(Box<Kind>);

enum Kind {
    /// Of an SQL session.
    Client(tokio_postgres::Error),
    /// What the server reported to a connection of our own framing.
    Server { message: ServerMessage, sqlstate: SqlState },
    /// Of such a connection itself.
    Wire(WireError),
}

impl SqlError {
    /// The server's SQLSTATE; `None` when it was not the server that failed.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match &*self.0 {
            Kind::Client(error) => error.code(),
            Kind::Server { sqlstate, .. } => Some(sqlstate),
            Kind::Wire(_) => None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match &*self.0 {
            Kind::Client(error) => disposition_of(error),
            Kind::Server { message, .. } => disposition_of_sqlstate(&message.sqlstate),
            Kind::Wire(error) => error.disposition(),
        }
    }
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(Box::new(Kind::Client(error)))
    }
}

impl From<WireError> for SqlError {
    fn from(error: WireError) -> Self {
        Self(Box::new(match error {
            WireError::Server(message) | WireError::Ended(message) => {
                Kind::Server { sqlstate: SqlState::from_code(&message.sqlstate), message }
            }
            error => Kind::Wire(error),
        }))
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Client(error) => match error.as_db_error() {
                Some(error) => fmt::Display::fmt(&ServerMessage::from(error), f),
                None => fmt::Display::fmt(error, f),
            },
            Kind::Server { message, .. } => fmt::Display::fmt(message, f),
            Kind::Wire(error) => fmt::Display::fmt(error, f),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_server_is_the_same_on_either_kind_of_session() {
        let message = || ServerMessage { sqlstate: "42501".into(), message: "permission denied".into() };
        for error in [WireError::Server(message()), WireError::Ended(message())] {
            let error = SqlError::from(error);
            assert_eq!(error.sqlstate(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
            assert_eq!(error.to_string(), "permission denied (SQLSTATE 42501)");
            assert!(matches!(error.disposition(), Disposition::WaitForOperator { .. }));
        }
        let lost = SqlError::from(WireError::Lost(std::io::ErrorKind::UnexpectedEof.into()));
        assert_eq!((lost.sqlstate(), lost.disposition()), (None, Disposition::Retry));
    }
}
