//! A statement of the cutover that a server refused, or a connection that ended under it: which step it was, on
//! which side, what the server said, and what to do about it. Never the server's detail or context, which can
//! hold row values (INV-10).

use std::fmt;

use crate::connection::{ServerMessage, disposition_of};
use crate::model::{Disposition, Side};

/// A statement failed.
#[derive(Debug)]
pub struct SqlFailure {
    side: Side,
    step: &'static str,
    source: tokio_postgres::Error,
}

impl SqlFailure {
    /// For `map_err`: what was being done, as in "cannot …".
    pub fn of(side: Side, step: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        move |source| Self { side, step, source }
    }

    /// The server's SQLSTATE, if it was the server that reported it.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.source.code().map(tokio_postgres::error::SqlState::code)
    }

    /// What to do about it while the program runs.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        disposition_of(&self.source)
    }

    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        let side = self.side;
        match self.sqlstate() {
            Some("42501") => format!(
                "The role in `{side}.url` needs to own the migrated tables and sequences, and CREATE on the database."
            ),
            Some("25006") => format!("`{side}.url` must lead to the primary: this server is read only."),
            Some("57P01" | "57P02" | "57P03") | None => {
                format!("Check that the {side} is up and reachable, then try again.")
            }
            Some(_) => match self.disposition() {
                Disposition::Retry => "Try again; it is a passing condition.".into(),
                Disposition::WaitForOperator { remedy } | Disposition::Halt { remedy } => remedy,
            },
        }
    }
}

impl fmt::Display for SqlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} on the {}: ", self.step, self.side)?;
        match self.source.as_db_error() {
            Some(error) => ServerMessage::from(error).fmt(f),
            None => self.source.fmt(f),
        }
    }
}

impl std::error::Error for SqlFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
