//! What a check has to say.

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// The migration can go on; something is not moved or not protected.
    Warning,
    /// The migration cannot go on (exit code 3).
    Blocker,
}

impl Severity {
    /// The name in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Blocker => "blocker",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable id, e.g. `source.wal_level`.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, e.g. a table, or the side.
    pub subject: String,
    /// What was found and what it means, as a sentence.
    pub finding: String,
    /// What fixes it: sentences, and lines to be pasted (SQL, a key of the configuration, a command), each on a line of its own.
    /// What is pasted whole must not do harm: what needs a decision is a comment, or comes after a sentence that says so.
    pub remedy: String,
}

impl Finding {
    pub(super) fn blocker(
        id: &'static str,
        subject: impl Into<String>,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Blocker, id, subject, finding, remedy)
    }

    pub(super) fn warning(
        id: &'static str,
        subject: impl Into<String>,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Warning, id, subject, finding, remedy)
    }

    fn new(
        severity: Severity,
        id: &'static str,
        subject: impl Into<String>,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { id, severity, subject: subject.into(), finding: finding.into(), remedy: remedy.into() }
    }
}
