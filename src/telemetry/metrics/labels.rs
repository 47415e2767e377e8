//! The closed sets of words that labels of metrics take.

use crate::model::Side;

/// The kinds of row changes that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOperation {
    /// A row inserted.
    Insert,
    /// A row updated.
    Update,
    /// A row deleted.
    Delete,
    /// A table truncated: counts one for each table.
    Truncate,
}

impl RowOperation {
    /// Every operation.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Delete, Self::Truncate];

    /// The value of the label `op`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        }
    }
}

/// How the source's changes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadingWay {
    /// From the walsender, as they are committed.
    Streaming,
    /// Pieces of a backlog.
    Bulk,
}

impl ReadingWay {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Streaming, Self::Bulk];

    /// The value of the label `way`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Bulk => "bulk",
        }
    }
}

/// Why no further chunk of the initial copy is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyPause {
    /// The slot keeps too much WAL on the source.
    WalRetained,
    /// A standby of the source is too far behind.
    StandbyLag,
}

impl CopyPause {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::WalRetained, Self::StandbyLag];

    /// The value of the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WalRetained => "wal_retained",
            Self::StandbyLag => "standby_lag",
        }
    }
}

/// Why reading in bulk ended, and streaming began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkEnd {
    /// As it should: the backlog is read.
    NearTheEnd,
    /// The source has no replication slot left for the copy.
    NoFreeSlot,
    /// The source's role may not do it.
    NotAllowed,
    /// The source refused for another reason.
    Refused,
    /// The source takes too long to decode a piece.
    TooSlow,
    /// The target took nothing for too long.
    Blocked,
    /// The source refused a piece, or stopped in the middle of it.
    Interrupted,
}

impl BulkEnd {
    /// The value of the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NearTheEnd => "near_the_end",
            Self::NoFreeSlot => "no_free_slot",
            Self::NotAllowed => "not_allowed",
            Self::Refused => "refused",
            Self::TooSlow => "too_slow",
            Self::Blocked => "blocked",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Whose certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateOf {
    /// The HTTP API's own.
    Api,
    /// What a server showed when it was connected to last: of `source.url` or `target.url`, whichever way changes go.
    Server(Side),
}

impl CertificateOf {
    /// The value of the label `certificate`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Server(side) => side.as_str(),
        }
    }
}
