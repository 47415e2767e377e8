//! The life of a chunk, and what it means for a change that the stream brings while tables are being copied: discarded
//! (a snapshot has it, or will have it), held (that is not known yet), or applied. Pure. Decided by transaction ids
//! alone; what makes discarding before a snapshot safe is checked when the snapshot is taken ([`super::board`]).

use std::sync::Arc;

use super::key::{Key, KeyRange};
use super::visibility::Snapshot;
use crate::model::Xid;

/// Where a chunk is. Set by the copy, but for [`Condemned`](Self::Condemned), which the stream sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// Nothing of it counts: its snapshot is still to be taken. What the target may have of it goes first. Recorded.
    Pending,
    /// The stream has made it worthless: it is pending as soon as that is committed on the target. Recorded as pending.
    Condemned,
    /// Its snapshot is being taken. Not recorded.
    Snapshotting,
    /// Its rows are on their way. Not recorded.
    Copying(Arc<Snapshot>),
    /// Its rows are committed on the target, as of this snapshot. Recorded in the transaction that copies it.
    Joined(Arc<Snapshot>),
}

/// What becomes of a change to a chunk's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The chunk's snapshot contains it, or will contain it.
    Discard,
    /// It waits until the chunk is in.
    Hold,
    /// It is made on the target.
    Apply,
}

impl ChunkState {
    /// What becomes of a change of this transaction.
    #[must_use]
    pub fn verdict(&self, xid: Xid) -> Verdict {
        match self {
            Self::Pending | Self::Condemned => Verdict::Discard,
            Self::Snapshotting => Verdict::Hold,
            Self::Copying(snapshot) | Self::Joined(snapshot) if snapshot.contains(xid) => Verdict::Discard,
            Self::Copying(_) => Verdict::Hold,
            Self::Joined(_) => Verdict::Apply,
        }
    }

    /// Whether a discarded change relies on a snapshot that is still to be taken.
    #[must_use]
    pub const fn is_yet_to_be_taken(&self) -> bool {
        matches!(self, Self::Pending | Self::Condemned)
    }
}

/// A table that is being copied: its chunks in the order of their keys, which cover every key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableCopy {
    chunks: Vec<(KeyRange, ChunkState)>,
}

/// The keys of a change: of the row before it and after it, as far as there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// A new row, or one gone, or one whose key stays.
    One(Option<Key>),
    /// A row whose key may have changed, from the first to the second.
    Moved(Option<Key>, Option<Key>),
}

/// What becomes of a change to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: the copy has it, or will have it. `relies_on_later`: on a snapshot that is still to be taken.
    Discard {
        /// Whether such a snapshot must contain the transaction.
        relies_on_later: bool,
    },
    /// It waits.
    Hold,
    /// It is made on the target as it is.
    Apply,
    /// The row has left a chunk that is in; where it went, the copy brings it.
    RowGone {
        /// Whether a later snapshot must contain the transaction.
        relies_on_later: bool,
    },
    /// The row has come from where the copy does not find it any more, into a chunk (of this number) that is in: it is
    /// new there.
    RowNew {
        /// The chunk.
        chunk: usize,
        /// Whether a later snapshot must contain the transaction: one that does not would bring the row as it was before, too.
        relies_on_later: bool,
    },
    /// These chunks can only be copied again.
    Condemn(Vec<usize>),
}

impl TableCopy {
    /// A table of these chunks, in the order of their keys.
    #[must_use]
    pub const fn new(chunks: Vec<(KeyRange, ChunkState)>) -> Self {
        Self { chunks }
    }

    /// The state of a chunk.
    #[must_use]
    pub fn state(&self, chunk: usize) -> Option<&ChunkState> {
        self.chunks.get(chunk).map(|(_, state)| state)
    }

    /// Moves a chunk to another state.
    pub fn enter(&mut self, chunk: usize, state: ChunkState) {
        if let Some((_, known)) = self.chunks.get_mut(chunk) {
            *known = state;
        }
    }

    /// The number of chunks.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none; a table always has one.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Which chunk a row belongs to; `None` when its key is not known and there is more than one.
    #[must_use]
    pub fn chunk_of(&self, key: Option<Key>) -> Option<usize> {
        match (key, self.chunks.len()) {
            (_, 1) => Some(0),
            (Some(key), _) => {
                // The first chunk has no lower bound.
                let after =
                    self.chunks.partition_point(|(range, _)| range.first.is_none_or(|first| first <= key));
                after.checked_sub(1)
            }
            (None, _) => None,
        }
    }

    /// What becomes of a change of transaction `xid`; `None` when it cannot be told which chunk it belongs to.
    #[must_use]
    pub fn effect(&self, touched: Touched, xid: Xid) -> Option<Effect> {
        let (from, to) = match touched {
            Touched::One(key) => (self.chunk_of(key)?, None),
            Touched::Moved(from, to) => (self.chunk_of(from)?, Some(self.chunk_of(to)?)),
        };
        let at = |chunk: usize| self.chunks.get(chunk).map(|(_, state)| (state.verdict(xid), state));
        let (verdict, state) = at(from)?;
        let later = state.is_yet_to_be_taken();
        let Some((to, (arrives, there))) = to.filter(|to| *to != from).and_then(|to| Some((to, at(to)?)))
        else {
            return Some(match verdict {
                Verdict::Discard => Effect::Discard { relies_on_later: later },
                Verdict::Hold => Effect::Hold,
                Verdict::Apply => Effect::Apply,
            });
        };
        let later_there = there.is_yet_to_be_taken();
        Some(match (verdict, arrives) {
            (Verdict::Hold, _) | (_, Verdict::Hold) => Effect::Hold,
            (Verdict::Apply, Verdict::Apply) => Effect::Apply,
            (Verdict::Discard, Verdict::Discard) => Effect::Discard { relies_on_later: later || later_there },
            (Verdict::Apply, Verdict::Discard) => Effect::RowGone { relies_on_later: later_there },
            (Verdict::Discard, Verdict::Apply) => Effect::RowNew { chunk: to, relies_on_later: later },
        })
    }

    /// What becomes of the table's being emptied by transaction `xid`.
    #[must_use]
    pub fn truncated(&self, xid: Xid) -> Effect {
        let verdicts: Vec<Verdict> = self.chunks.iter().map(|(_, state)| state.verdict(xid)).collect();
        let later = self.chunks.iter().any(|(_, state)| state.is_yet_to_be_taken());
        let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        if count(Verdict::Hold) > 0 {
            Effect::Hold
        } else if count(Verdict::Apply) == verdicts.len() {
            Effect::Apply
        } else if count(Verdict::Apply) == 0 {
            Effect::Discard { relies_on_later: later }
        } else {
            let applies = |(_, verdict): &(usize, &Verdict)| **verdict == Verdict::Apply;
            Effect::Condemn(verdicts.iter().enumerate().filter(applies).map(|(chunk, _)| chunk).collect())
        }
    }

    /// Whether every chunk is in.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.chunks.iter().all(|(_, state)| matches!(state, ChunkState::Joined(_)))
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
