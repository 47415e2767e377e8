//! Proof values of what the target keeps. A [`CommitReceipt`] exists only for a committed target transaction, a
//! [`DurableLsn`] only for receipts that the durability watch has seen flushed: the status message to the source
//! accepts nothing else, so acknowledging before it is durable does not compile (INV-3).

use crate::model::Lsn;

/// A target transaction has committed, and with it everything the source committed up to `source_lsn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitReceipt {
    /// Commit end LSN on the source that the progress record now holds.
    source_lsn: Lsn,
    /// A position in the *target's* WAL not before the end of the commit record.
    target_lsn: Lsn,
}

impl CommitReceipt {
    /// Only for the code that has just seen COMMIT succeed on the target.
    pub(crate) const fn of_commit(source_lsn: Lsn, target_lsn: Lsn) -> Self {
        Self { source_lsn, target_lsn }
    }

    /// Everything the source committed up to here is in the committed transaction or an earlier one.
    #[must_use]
    pub const fn source_lsn(self) -> Lsn {
        self.source_lsn
    }

    /// The target's WAL must be flushed to here for the commit to survive.
    #[must_use]
    pub const fn target_lsn(self) -> Lsn {
        self.target_lsn
    }
}

/// A source position up to which everything is durable on the target. What the walsender may be told is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableLsn(Lsn);

impl DurableLsn {
    /// The receipt's position, if the target's WAL is flushed far enough.
    #[must_use]
    pub fn confirmed_by(receipt: CommitReceipt, target_flushed: Lsn) -> Option<Self> {
        (receipt.target_lsn <= target_flushed).then_some(Self(receipt.source_lsn))
    }

    /// The position, in the source's WAL.
    #[must_use]
    pub const fn lsn(self) -> Lsn {
        self.0
    }
}
