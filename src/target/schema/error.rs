//! Why the schema could not be brought over. Each section is one transaction: nothing is half made.

use std::io;
use std::path::PathBuf;

use super::process::without_values;
use crate::connection::SqlError;
use crate::model::{Disposition, Side, TableName};

/// Why the schema could not be brought over.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// No usable `pg_dump` and `psql`.
    #[error("no pg_dump and psql of version {oldest} to {newest} were found{}", instead(.found))]
    NoTools {
        /// Not older than the source.
        oldest: u32,
        /// Not newer than the target, which would not know its SET commands.
        newest: u32,
        /// What was found instead: directory and version.
        found: Vec<(PathBuf, u32)>,
    },
    /// A query failed.
    #[error("the {side} cannot be asked for its schema: {error}")]
    Sql {
        /// On which side.
        side: Side,
        /// As the server said.
        error: SqlError,
    },
    /// The scratch directory cannot be used.
    #[error("a scratch file for the schema cannot be written in {}: {error}", .directory.display())]
    Scratch {
        /// Where.
        directory: PathBuf,
        /// As the operating system said.
        error: io::Error,
    },
    /// A tool could not be started.
    #[error("{} cannot be started: {error}", .program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// As the operating system said.
        error: io::Error,
    },
    /// A tool failed.
    #[error("{program} failed: {message}{}", .object.as_ref().map(|object| format!(" (at {object})")).unwrap_or_default())]
    Failed {
        /// `pg_dump` or `psql`.
        program: String,
        /// The first error it printed.
        message: String,
        /// What was being created.
        object: Option<String>,
    },
    /// An index could not be built on the target. What else was copied and built is there.
    #[error("the index {index} cannot be built on the target: {}; the statement is: {statement}", index_failure(.error))]
    Index {
        /// Which.
        index: TableName,
        /// What was sent.
        statement: String,
        /// As the server said.
        error: SqlError,
    },
    /// The program is asked to stop.
    #[error("stopped while the schema was brought over; nothing was created")]
    Stopped,
}

/// An expression that cannot take a row may be told with the row's value (INV-10); the SQLSTATE after it is kept.
fn index_failure(error: &SqlError) -> String {
    let message = error.to_string();
    let safe = without_values(&message);
    match error.sqlstate() {
        Some(state) if safe.len() < message.len() => format!("{safe} (SQLSTATE {})", state.code()),
        _ => message,
    }
}

fn instead(found: &[(PathBuf, u32)]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let list: Vec<String> =
        found.iter().map(|(directory, major)| format!("{major} in {}", directory.display())).collect();
    format!(" (found: {})", list.join(", "))
}

impl SchemaError {
    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::NoTools { newest, .. } => format!(
                "Install the client tools of the target's version (Debian: apt-get install postgresql-client-{newest}) \
                 or name their directory in schema.postgres_bin_dir; or create the schema yourself and set \
                 schema.mode = \"existing\"."
            ),
            Self::Sql { side, .. } => format!("Check that the {side} answers. Nothing was created."),
            Self::Scratch { .. } => "Make the directory writable, or set TMPDIR to one that is.".to_owned(),
            Self::Start { .. } => {
                "Correct schema.postgres_bin_dir, or install the PostgreSQL client tools.".to_owned()
            }
            Self::Failed { program, .. } if program == "pg_dump" => {
                "The source's role needs to read every table's definition (LOCK TABLE … IN ACCESS SHARE MODE). \
                 Nothing was created."
                    .to_owned()
            }
            Self::Failed { .. } => "Correct the cause on the target (missing role, extension, privilege, or an object \
                 that is already there); or create the schema yourself and set schema.mode = \"existing\". It was one \
                 transaction: nothing was created."
                .to_owned(),
            Self::Index { .. } => "Correct the cause on the target (rows that break the index, a missing function, too little \
                 disk space), or run the statement there yourself. Then only this index is built again: no row is \
                 copied again."
                .to_owned(),
            Self::Stopped => "Start again.".to_owned(),
        }
    }

    /// What the program does about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Sql { error, .. } => error.disposition(),
            Self::Index { error, .. } if error.disposition() == Disposition::Retry => Disposition::Retry,
            Self::Stopped => Disposition::Retry,
            Self::NoTools { .. }
            | Self::Scratch { .. }
            | Self::Start { .. }
            | Self::Failed { .. }
            | Self::Index { .. } => Disposition::WaitForOperator { remedy: self.remedy() },
        }
    }

    pub(super) fn on(side: Side) -> impl Fn(tokio_postgres::Error) -> Self {
        move |error| Self::Sql { side, error: error.into() }
    }
}
