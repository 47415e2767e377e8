//! Whether a transaction is contained in a snapshot, decided as PostgreSQL decides it: by transaction ids, never by
//! comparing LSNs, since a commit can be in the WAL before its transaction is visible. Pure.

use std::fmt;
use std::str::FromStr;

use crate::model::Xid;

/// What `pg_current_snapshot()` returns: `xmin:xmax:in-progress,…`, in 64-bit transaction ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Everything below has ended.
    xmin: u64,
    /// Everything from here on had not begun.
    xmax: u64,
    /// What was running, sorted; each in `xmin..xmax`.
    in_progress: Vec<u64>,
}

/// The text is no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot as pg_current_snapshot() prints it (xmin:xmax:in-progress)")]
pub struct InvalidSnapshot;

impl Snapshot {
    /// A transaction that `other` contains, or would if it committed, and this one does not; `None` if there is none.
    #[must_use]
    pub fn first_lacking_of(&self, other: &Self) -> Option<Xid> {
        let holds = |full: u64| {
            full < other.xmax && (full < other.xmin || other.in_progress.binary_search(&full).is_err())
        };
        let running = self.in_progress.iter().copied();
        running.chain(self.xmax..other.xmax).find(|full| holds(*full)).map(low_half)
    }

    /// Whether everything of this 32-bit id had ended before the snapshot, so that no later snapshot has it running.
    #[must_use]
    pub fn is_after_all_of(&self, xid: Xid) -> bool {
        nearest(xid, self.xmax) < self.xmin
    }

    /// Whether the transaction's effects are in the snapshot (if it committed at all).
    ///
    /// `xid` is the 32-bit id of the stream's BEGIN; it is taken as the one of that value nearest to `xmax`, which
    /// is right as long as fewer than 2^31 transactions pass between snapshot and BEGIN. PostgreSQL itself stops
    /// accepting writes before that.
    #[must_use]
    pub fn contains(&self, xid: Xid) -> bool {
        let full = nearest(xid, self.xmax);
        full < self.xmax && (full < self.xmin || self.in_progress.binary_search(&full).is_err())
    }
}

fn low_half(full: u64) -> Xid {
    Xid(u32::try_from(full & u64::from(u32::MAX)).unwrap_or_default())
}

/// The 64-bit id whose low half is `xid` and that is nearest to `reference`.
fn nearest(xid: Xid, reference: u64) -> u64 {
    const EPOCH: u64 = 1 << 32;
    const HALF: u64 = 1 << 31;
    let full = (reference & !(EPOCH - 1)) | u64::from(xid.0);
    if full >= reference.saturating_add(HALF) {
        full.saturating_sub(EPOCH)
    } else if full.saturating_add(HALF) < reference {
        full.saturating_add(EPOCH)
    } else {
        full
    }
}

/// As `pg_current_snapshot()` prints it.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.in_progress.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = InvalidSnapshot;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshot> {
        let mut parts = text.splitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or(InvalidSnapshot);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().ok_or(InvalidSnapshot)?;
        let running = list.split(',').filter(|item| !item.is_empty()).map(str::parse::<u64>);
        let mut in_progress = running.collect::<Result<Vec<_>, _>>().map_err(|_| InvalidSnapshot)?;
        in_progress.sort_unstable();
        let in_range = in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin <= xmax && in_range { Ok(Self { xmin, xmax, in_progress }) } else { Err(InvalidSnapshot) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_snapshot_contains_what_had_ended_and_nothing_that_ran_or_came_later() {
        let snapshot: Snapshot = "100:110:100,105".parse().unwrap();
        for contained in [3, 99, 101, 104, 109] {
            assert!(snapshot.contains(Xid(contained)), "{contained}");
        }
        for missing in [100, 105, 110, 111, 5000] {
            assert!(!snapshot.contains(Xid(missing)), "{missing}");
        }
    }

    #[test]
    fn ids_are_compared_across_the_32_bit_wraparound() {
        let epoch = 1_u64 << 32;
        let snapshot: Snapshot = format!("{}:{}:{}", epoch - 5, epoch + 5, epoch - 2).parse().unwrap();
        assert!(snapshot.contains(Xid(u32::MAX)), "epoch - 1");
        assert!(!snapshot.contains(Xid(u32::MAX - 1)), "epoch - 2 is in progress");
        assert!(snapshot.contains(Xid(4)), "epoch + 4");
        assert!(!snapshot.contains(Xid(5)), "epoch + 5 had not begun");
    }

    #[test]
    fn malformed_snapshots_are_refused() {
        for text in ["", "1", "1:2", "a:b:", "5:4:", "1:5:7", "1:5:x", "-1:5:"] {
            assert_eq!(text.parse::<Snapshot>(), Err(InvalidSnapshot), "{text}");
        }
    }

    proptest! {
        #[test]
        fn truncated_ids_are_judged_as_the_full_ids_they_came_from(
            xmin in 3_u64..(1 << 40),
            width in 0_u64..100,
            picks in proptest::collection::btree_set(0_u64..100, 0..20),
            distance in -(1_i64 << 30)..(1_i64 << 30),
        ) {
            let xmax = xmin + width;
            let running: Vec<u64> = picks.into_iter().map(|pick| xmin + pick).filter(|xid| *xid < xmax).collect();
            let list: Vec<String> = running.iter().map(u64::to_string).collect();
            let snapshot: Snapshot = format!("{xmin}:{xmax}:{}", list.join(",")).parse().unwrap();
            let full = xmax.saturating_add_signed(distance);
            let expected = full < xmin || (full < xmax && !running.contains(&full));
            let low = u32::try_from(full % (1 << 32)).unwrap();
            prop_assert_eq!(snapshot.contains(Xid(low)), expected);
            prop_assert_eq!(snapshot.to_string().parse(), Ok(snapshot));
        }
    }
}
