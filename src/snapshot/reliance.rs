//! Which transactions every later snapshot must contain, because their changes were passed over in reliance on it. A commit
//! can be in the WAL, and streamed, before its transaction is visible (it waits for a synchronous standby, or for a
//! processor): a snapshot taken in that moment does not have it, and must not be used. Pure.

use std::collections::HashSet;

use super::visibility::Snapshot;
use crate::model::Xid;

/// What is relied on.
#[derive(Clone, Debug)]
pub(super) struct Reliance {
    /// What the slot's snapshot contains is not in the stream.
    pub(super) slot: Snapshot,
    /// Streamed since, with a change that was discarded for a chunk whose snapshot is still to be taken.
    pub(super) streamed: HashSet<Xid>,
    /// The last one added: a transaction's changes come one after the other.
    pub(super) last: Option<Xid>,
}

impl Reliance {
    /// At the beginning of a stream from a slot with this snapshot.
    #[must_use]
    pub(super) fn new(slot: Snapshot) -> Self {
        Self { slot, streamed: HashSet::new(), last: None }
    }

    /// A change of this transaction was discarded for a later snapshot to bring.
    pub(super) fn on(&mut self, xid: Xid) {
        if self.last != Some(xid) {
            self.last = Some(xid);
            self.streamed.insert(xid);
        }
    }

    /// A transaction that the snapshot lacks and must have; `None` if it may be used.
    #[must_use]
    pub(super) fn lacking_in(&self, snapshot: &Snapshot) -> Option<Xid> {
        let streamed = self.streamed.iter().copied().find(|xid| !snapshot.contains(*xid));
        streamed.or_else(|| snapshot.first_lacking_of(&self.slot))
    }

    /// Forgets what no later snapshot can lack.
    pub(super) fn seen(&mut self, snapshot: &Snapshot) {
        self.last = None;
        self.streamed.retain(|xid| !snapshot.is_after_all_of(*xid));
    }

    /// How many are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.streamed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_snapshot_must_have_what_was_streamed_and_what_the_slot_has() {
        let mut reliance = Reliance::new(snapshot("100:120:110"));
        assert_eq!(reliance.lacking_in(&snapshot("100:120:110")), None);
        assert_eq!(reliance.lacking_in(&snapshot("115:121:115")), Some(Xid(115)), "the slot has it");
        assert_eq!(reliance.lacking_in(&snapshot("110:119:110")), Some(Xid(119)), "it is not visible yet");
        reliance.on(Xid(110));
        reliance.on(Xid(130));
        assert_eq!(reliance.lacking_in(&snapshot("110:131:110")), Some(Xid(110)));
        assert_eq!(
            reliance.lacking_in(&snapshot("111:130:")),
            Some(Xid(130)),
            "its id is not below xmax yet"
        );
        assert_eq!(reliance.lacking_in(&snapshot("131:131:")), None);
    }

    #[test]
    fn what_had_ended_before_a_snapshot_is_forgotten_and_what_had_not_is_kept() {
        let mut reliance = Reliance::new(snapshot("100:100:"));
        for xid in [100, 101, 105, 110] {
            reliance.on(Xid(xid));
        }
        reliance.seen(&snapshot("105:111:105"));
        assert_eq!(reliance.remembered(), 2);
        assert_eq!(reliance.lacking_in(&snapshot("105:112:105")), Some(Xid(105)));
    }
}
