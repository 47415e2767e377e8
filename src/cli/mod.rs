//! The command line: arguments, the commands that talk to a running instance, and how results are shown. Commands
//! that do the work themselves are wired in `app`; nothing here opens a database connection.

mod args;
mod cleanup;
mod client;
#[cfg(test)]
mod client_tests;
mod failure;
mod findings;
mod forecast;
mod help;
mod look;
mod render;
mod verification;
mod watch;

pub use args::{
    AddTablesArguments, ApiArguments, Arguments, CleanupArguments, CliCommand, GlobalArguments,
    PauseArguments, ScopeArgument, TablesArguments, TablesCommand, VerifyArguments, completions,
};
pub use cleanup::{cleanup_json, cleanup_text};
pub use client::{
    ApiClient, ClientCommand, ClientError, Rows, Schedule, StatusView, VerificationAsked, Wait,
};
pub use failure::Failure;
pub use findings::{FindingsSummary, findings_text};
pub use look::{Colours, Look};
pub use render::{Table, cutover_text, status_text, tables_text};

/// How results are printed on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For a person.
    #[default]
    Table,
    /// One JSON document, of a failure too (with `--watch`, one a line for each change).
    Json,
}

/// How the program ends; the numbers are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Success,
    /// 1: the operation failed and the source is still primary.
    Failed,
    /// 2: usage or configuration error, or something cannot be reached.
    Usage,
    /// 3: a check found a blocker, or a verification differences.
    Blocker,
    /// 4: stopped for an operator's decision; nothing is lost, the message says what to decide.
    Decision,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Blocker => 3,
            Self::Decision => 4,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
