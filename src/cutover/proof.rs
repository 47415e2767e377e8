//! Proof values: what must be known before the fence may be committed. Each can be made in one place only, from
//! what a server has just answered, and all of one attempt carry the same nonce. They are never loaded from the
//! journal: after a restart they are derived again or the attempt is given up.

use std::fmt;
use std::sync::Arc;

use rand::RngExt as _;

use crate::model::{Lsn, SequenceName, TableName};
use crate::stream::AppliedMarker;
use crate::target::{CommitReceipt, DurableLsn};

/// Identity of one attempt: 128 random bits in hexadecimal. It is in the fence row, in the marker and in every
/// proof, so that nothing of one attempt can be taken for another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(String);

impl Nonce {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::rng().random::<u128>()))
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Nonce {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Every published table of the source is locked against writes, the locked set is the catalog's, and no other
/// transaction of that database has a transaction id, prepared ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFenced {
    nonce: Nonce,
    tables: Arc<[TableName]>,
}

impl SourceFenced {
    /// Only for the fence, which has just seen all of it (`source/fence`).
    pub(crate) fn proven(nonce: Nonce, tables: Arc<[TableName]>) -> Self {
        Self { nonce, tables }
    }

    /// The attempt it belongs to.
    #[must_use]
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The tables that are locked, partitions and their parents included.
    #[must_use]
    pub fn tables(&self) -> &[TableName] {
        &self.tables
    }
}

/// The marker that was written under the fence has been applied: everything the source committed before it is
/// committed on the target, because decoding follows commit order (INV-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaughtUp {
    nonce: Nonce,
    marker_lsn: Lsn,
    receipt: CommitReceipt,
}

impl CaughtUp {
    /// From the stream's word that it applied the marker, which was written at `marker_lsn` after `fenced` was
    /// proven. `None` if the marker is another attempt's.
    pub(crate) fn of_marker(fenced: &SourceFenced, marker: &AppliedMarker, marker_lsn: Lsn) -> Option<Self> {
        let ours = marker.nonce == fenced.nonce.0 && marker.receipt.source_lsn() >= marker_lsn;
        ours.then(|| Self { nonce: fenced.nonce.clone(), marker_lsn, receipt: marker.receipt })
    }

    /// Where the marker is in the source's WAL.
    #[must_use]
    pub const fn marker_lsn(&self) -> Lsn {
        self.marker_lsn
    }

    /// The target transaction that covers it.
    #[must_use]
    pub const fn receipt(&self) -> CommitReceipt {
        self.receipt
    }
}

/// Where a sequence stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceValue {
    /// Which one.
    pub name: SequenceName,
    /// `last_value`.
    pub last_value: i64,
    /// `is_called`: whether `last_value` has been handed out already.
    pub is_called: bool,
}

/// Every sequence of the target stands exactly where the source's stands under the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequencesAligned {
    nonce: Nonce,
    values: Arc<[SequenceValue]>,
}

impl SequencesAligned {
    /// From what was read on the source under `fenced` and read back from the target after setting it, both in
    /// the same order. `None` if anything differs.
    pub(crate) fn verified(
        fenced: &SourceFenced,
        source: Vec<SequenceValue>,
        target: &[SequenceValue],
    ) -> Option<Self> {
        (source == target).then(|| Self { nonce: fenced.nonce.clone(), values: source.into() })
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &[SequenceValue] {
        &self.values
    }
}

/// What the target has applied is durable there, up to and including the marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetDurable {
    nonce: Nonce,
    durable: DurableLsn,
}

impl TargetDurable {
    /// From the durability watch. `None` if it does not reach the marker's transaction yet (INV-3).
    pub(crate) fn covering(caught_up: &CaughtUp, durable: DurableLsn) -> Option<Self> {
        let covers = durable.lsn() >= caught_up.receipt.source_lsn();
        covers.then(|| Self { nonce: caught_up.nonce.clone(), durable })
    }

    /// Up to here, in the source's WAL.
    #[must_use]
    pub const fn durable(&self) -> DurableLsn {
        self.durable
    }
}

/// All four proofs of one attempt: what the fence's COMMIT needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proofs {
    /// The source is fenced.
    pub fenced: SourceFenced,
    /// The target has everything.
    pub caught_up: CaughtUp,
    /// Sequences too.
    pub aligned: SequencesAligned,
    /// And will not forget it.
    pub durable: TargetDurable,
}

impl Proofs {
    /// The four together; `None` if they are not all of the same attempt.
    #[must_use]
    pub fn of_one_attempt(
        fenced: SourceFenced,
        caught_up: CaughtUp,
        aligned: SequencesAligned,
        durable: TargetDurable,
    ) -> Option<Self> {
        let nonce = &fenced.nonce;
        let same = *nonce == caught_up.nonce && *nonce == aligned.nonce && *nonce == durable.nonce;
        same.then_some(Self { fenced, caught_up, aligned, durable })
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Proofs as a server would have given them, for tests of what uses them.

    use super::*;

    pub(crate) fn fenced(nonce: &str) -> SourceFenced {
        SourceFenced::proven(Nonce::from(nonce.to_owned()), vec![TableName::new("public", "orders")].into())
    }

    pub(crate) fn receipt(source_lsn: u64) -> CommitReceipt {
        CommitReceipt::of_commit(Lsn::new(source_lsn), Lsn::new(9_000))
    }

    pub(crate) fn durable(source_lsn: u64) -> DurableLsn {
        DurableLsn::confirmed_by(receipt(source_lsn), Lsn::new(9_000)).expect("flushed")
    }

    pub(crate) fn proofs(nonce: &str) -> Proofs {
        let fenced = fenced(nonce);
        let marker = AppliedMarker { nonce: nonce.to_owned(), receipt: receipt(120) };
        let caught_up = CaughtUp::of_marker(&fenced, &marker, Lsn::new(100)).expect("our marker");
        let aligned = SequencesAligned::verified(&fenced, Vec::new(), &[]).expect("nothing differs");
        let durable = TargetDurable::covering(&caught_up, durable(120)).expect("covers");
        Proofs { fenced, caught_up, aligned, durable }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{durable, fenced, proofs, receipt};
    use super::*;

    #[test]
    fn another_attempts_marker_proves_nothing() {
        let marker = AppliedMarker { nonce: "other".into(), receipt: receipt(120) };
        assert_eq!(CaughtUp::of_marker(&fenced("ours"), &marker, Lsn::new(100)), None);
    }

    #[test]
    fn a_marker_applied_before_it_was_written_proves_nothing() {
        let marker = AppliedMarker { nonce: "ours".into(), receipt: receipt(99) };
        assert_eq!(CaughtUp::of_marker(&fenced("ours"), &marker, Lsn::new(100)), None);
    }

    #[test]
    fn durability_short_of_the_marker_is_no_proof() {
        let caught_up = proofs("ours").caught_up;
        assert_eq!(TargetDurable::covering(&caught_up, durable(119)), None);
        assert!(TargetDurable::covering(&caught_up, durable(120)).is_some());
    }

    #[test]
    fn a_sequence_that_reads_back_otherwise_is_no_proof() {
        let value =
            |is_called| SequenceValue { name: TableName::new("public", "s"), last_value: 7, is_called };
        assert_eq!(SequencesAligned::verified(&fenced("ours"), vec![value(true)], &[value(false)]), None);
        assert_eq!(SequencesAligned::verified(&fenced("ours"), vec![value(true)], &[]), None);
    }

    #[test]
    fn proofs_of_two_attempts_do_not_add_up() {
        let (ours, other) = (proofs("ours"), proofs("other"));
        let mixed = Proofs::of_one_attempt(ours.fenced, ours.caught_up, other.aligned, ours.durable);
        assert_eq!(mixed, None);
    }

    #[test]
    fn nonces_do_not_repeat() {
        assert_ne!(Nonce::random(), Nonce::random());
        assert_eq!(Nonce::random().as_str().len(), 32);
    }
}
