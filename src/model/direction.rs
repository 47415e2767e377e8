//! Which way a database moves.

use std::fmt;

/// Which of the two configured databases is left, and which is reached. Everything that applies changes or moves a
/// primary knows only a source and a target; this says which of the configured ones they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the configured source to the configured target: the migration.
    Forward,
    /// From the configured target back to the configured source: what keeps the old side current after a cutover,
    /// and the rollback.
    Back,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Back];

    /// `forward` or `back`: in logs, metrics and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Back => "back",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Back,
            Self::Back => Self::Forward,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
