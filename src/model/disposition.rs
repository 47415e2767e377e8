//! What is to be done about an error: decided once, where the error's kind is known.

/// The one answer every error of this program has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Passing: try again with backoff. Nothing is lost by trying.
    Retry,
    /// A person must change something; the program keeps the slot alive, keeps checking, and goes on by itself.
    WaitForOperator {
        /// What to do, as a sentence or the SQL to run.
        remedy: String,
    },
    /// Going on could lose or duplicate data: stop, and say why (exit code 4).
    Halt {
        /// What the operator has to decide.
        remedy: String,
    },
}
