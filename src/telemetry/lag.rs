//! How far the target is behind, computed from two observations: where the source's WAL ends, and up to where it is
//! applied. Pure: no clock and no IO, the caller passes the time. Only this process's monotonic clock is used, so
//! a difference between the clocks of the two servers cannot show up as lag.
//!
//! Bytes are exact as of the last observation. Seconds are the age of the oldest piece of WAL that is not yet applied,
//! so they grow while apply is stalled, and also while the source cannot be asked, and are zero when caught up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::migration::LagView;
use crate::model::Lsn;

/// Pieces of WAL remembered. Beyond that neighbours are merged (INV-11, INV-12).
const SEGMENTS_MAX: usize = 1024;
/// Below this many pieces, they may become shorter again.
const SEGMENTS_FEW: usize = SEGMENTS_MAX / 4;
/// When the source was not heard of for this long, what it wrote meanwhile is taken for unapplied.
const SOURCE_STALE_AFTER: Duration = Duration::from_secs(5);

/// How far the target is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Bytes of the source's WAL not yet applied, as of the last observation of the source.
    pub bytes: u64,
    /// Age of the oldest WAL not yet applied. Never less than its real age since it was first seen; more by at most
    /// the length of a remembered piece, which is 1/512 of the longest lag remembered.
    pub age: Duration,
}

impl From<Lag> for LagView {
    fn from(lag: Lag) -> Self {
        Self { bytes: Some(lag.bytes), seconds: Some(lag.age.as_secs_f64()) }
    }
}

/// A piece of the source's WAL: from the end of the piece before it up to `end`.
#[derive(Clone, Copy, Debug)]
struct Segment {
    end: Lsn,
    first_seen: Instant,
}

/// The latest sight of the source.
#[derive(Clone, Copy, Debug)]
struct Observation {
    end: Lsn,
    at: Instant,
}

/// Remembers when which part of the source's WAL was first seen, for as long as it is not applied.
///
/// `observe_source` is to be called a few times a second while the source answers. Both positions must be of the
/// same WAL: `observe_applied` takes commit positions that were applied, and, while nothing is outstanding, the
/// position that the walsender has processed, so that WAL of other databases is not counted as unapplied changes.
#[derive(Clone, Debug, Default)]
pub struct LagTracker {
    /// Not yet applied, oldest first; `end` and `first_seen` both increase.
    segments: VecDeque<Segment>,
    /// WAL seen within this time of a piece's first sight is added to that piece.
    segment_length: Duration,
    source: Option<Observation>,
    applied: Option<Lsn>,
}

impl LagTracker {
    /// A tracker that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The source's WAL ended at `end` when it was asked, and the answer came at `now`.
    pub fn observe_source(&mut self, end: Lsn, now: Instant) {
        let furthest = self.source.map_or(end, |known| known.end.max(end));
        let grew = self.source.is_none_or(|known| end > known.end);
        self.source = Some(Observation { end: furthest, at: now });
        if !grew || self.applied.is_some_and(|applied| end <= applied) {
            return;
        }
        match self.segments.back_mut() {
            Some(last) if now.saturating_duration_since(last.first_seen) < self.segment_length => {
                last.end = end
            }
            _ => self.segments.push_back(Segment { end, first_seen: now }),
        }
        self.keep_bounded(now);
    }

    /// Everything up to `lsn` is applied. Positions never move backwards; an earlier one is ignored.
    pub fn observe_applied(&mut self, lsn: Lsn) {
        let applied = self.applied.map_or(lsn, |known| known.max(lsn));
        self.applied = Some(applied);
        while self.segments.front().is_some_and(|oldest| oldest.end <= applied) {
            self.segments.pop_front();
        }
    }

    /// The lag at `now`; `None` until both positions are known.
    #[must_use]
    pub fn lag(&self, now: Instant) -> Option<Lag> {
        let source = self.source?;
        let bytes = source.end.distance_from(self.applied?);
        let oldest = self.segments.front();
        let unapplied =
            oldest.map_or(Duration::ZERO, |segment| now.saturating_duration_since(segment.first_seen));
        let silence = now.saturating_duration_since(source.at);
        let age = if silence > SOURCE_STALE_AFTER { unapplied.max(silence) } else { unapplied };
        Some(Lag { bytes, age })
    }

    /// Merges neighbours when there are too many pieces, and lets pieces be shorter again when there are few.
    fn keep_bounded(&mut self, now: Instant) {
        if self.segments.len() < SEGMENTS_FEW {
            self.segment_length /= 2;
        }
        if self.segments.len() < SEGMENTS_MAX {
            return;
        }
        // A merged piece has the first sight of its older half: lag may be overstated, never understated.
        let mut merged: VecDeque<Segment> = VecDeque::with_capacity(SEGMENTS_MAX);
        for (index, segment) in self.segments.iter().enumerate() {
            match merged.back_mut() {
                Some(older) if index % 2 == 1 => older.end = segment.end,
                _ => merged.push_back(*segment),
            }
        }
        self.segments = merged;
        let remembered = self
            .segments
            .front()
            .map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest.first_seen));
        self.segment_length = remembered / (SEGMENTS_MAX as u32 / 2);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(500);

    #[test]
    fn nothing_is_claimed_before_both_positions_are_known() {
        let start = Instant::now();
        let mut tracker = LagTracker::new();
        assert_eq!(tracker.lag(start), None);
        tracker.observe_source(Lsn::new(100), start);
        assert_eq!(tracker.lag(start), None);
        tracker.observe_applied(Lsn::new(40));
        assert_eq!(tracker.lag(start), Some(Lag { bytes: 60, age: Duration::ZERO }));
    }

    #[test]
    fn the_age_is_that_of_the_oldest_wal_not_applied_and_zero_when_caught_up() {
        let start = Instant::now();
        let mut tracker = LagTracker::new();
        tracker.observe_applied(Lsn::new(0));
        for tick in 1..=8_u32 {
            tracker.observe_source(Lsn::new(u64::from(tick) * 100), start + TICK * tick);
        }
        let now = start + TICK * 8;
        assert_eq!(tracker.lag(now), Some(Lag { bytes: 800, age: TICK * 7 }));
        tracker.observe_applied(Lsn::new(350));
        assert_eq!(tracker.lag(now), Some(Lag { bytes: 450, age: TICK * 4 }));
        tracker.observe_applied(Lsn::new(800));
        assert_eq!(tracker.lag(now), Some(Lag { bytes: 0, age: Duration::ZERO }));
    }

    #[test]
    fn applied_beyond_the_last_sight_of_the_source_is_no_lag() {
        let start = Instant::now();
        let mut tracker = LagTracker::new();
        tracker.observe_source(Lsn::new(100), start);
        tracker.observe_applied(Lsn::new(500));
        tracker.observe_source(Lsn::new(300), start + TICK);
        assert_eq!(tracker.lag(start + TICK), Some(Lag { bytes: 0, age: Duration::ZERO }));
    }

    #[test]
    fn a_source_that_is_not_heard_of_counts_as_lag() {
        let start = Instant::now();
        let mut tracker = LagTracker::new();
        tracker.observe_source(Lsn::new(100), start);
        tracker.observe_applied(Lsn::new(100));
        assert_eq!(tracker.lag(start + TICK).map(|lag| lag.age), Some(Duration::ZERO));
        let later = start + Duration::from_secs(60);
        assert_eq!(tracker.lag(later).map(|lag| lag.age), Some(Duration::from_secs(60)));
        tracker.observe_source(Lsn::new(100), later);
        assert_eq!(tracker.lag(later).map(|lag| lag.age), Some(Duration::ZERO));
    }

    #[test]
    fn a_week_of_stalled_apply_fits_into_the_bound_and_stays_precise() {
        let start = Instant::now();
        let mut tracker = LagTracker::new();
        tracker.observe_applied(Lsn::new(0));
        let ticks = 7 * 24 * 3600 * 2_u32;
        for tick in 1..=ticks {
            tracker.observe_source(Lsn::new(u64::from(tick)), start + TICK * tick);
            assert!(tracker.segments.len() <= SEGMENTS_MAX);
        }
        let now = start + TICK * ticks;
        assert_eq!(tracker.lag(now).map(|lag| lag.age), Some(TICK * (ticks - 1)));
        tracker.observe_applied(Lsn::new(u64::from(ticks) / 2));
        let age = tracker.lag(now).map(|lag| lag.age).expect("lag");
        let exact = TICK * (ticks - ticks / 2 - 1);
        assert!(age >= exact && age <= exact + TICK * ticks / 256, "{age:?} for {exact:?}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Source { grows: u64, after_ms: u64 },
        Applied { behind: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..1000_u64, 1..2000_u64).prop_map(|(grows, after_ms)| Step::Source { grows, after_ms }),
            1 => (0..5000_u64).prop_map(|behind| Step::Applied { behind }),
        ]
    }

    proptest! {
        /// Against a model that remembers everything.
        #[test]
        fn the_age_is_never_understated_and_overstated_by_little(steps in prop::collection::vec(step(), 1..4000)) {
            let start = Instant::now();
            let (mut now, mut end, mut applied, mut stalled_max) = (start, 1_u64, 0_u64, Duration::ZERO);
            let mut history: VecDeque<(u64, Instant)> = VecDeque::from([(end, now)]);
            let mut tracker = LagTracker::new();
            tracker.observe_applied(Lsn::new(applied));
            tracker.observe_source(Lsn::new(end), now);
            for step in steps {
                match step {
                    Step::Source { grows, after_ms } => {
                        now += Duration::from_millis(after_ms);
                        end += grows;
                        tracker.observe_source(Lsn::new(end), now);
                        if grows > 0 {
                            history.push_back((end, now));
                        }
                    }
                    Step::Applied { behind } => {
                        applied = applied.max(end.saturating_sub(behind));
                        tracker.observe_applied(Lsn::new(applied));
                    }
                }
                while history.front().is_some_and(|(lsn, _)| *lsn <= applied) {
                    history.pop_front();
                }
                let exact = history.front().map_or(Duration::ZERO, |(_, seen)| now - *seen);
                stalled_max = stalled_max.max(exact);
                let lag = tracker.lag(now).expect("both positions are known");
                prop_assert_eq!(lag.bytes, end - applied);
                prop_assert!(lag.age >= exact);
                prop_assert!(lag.age <= exact + stalled_max / 100 + Duration::from_millis(4), "{:?} {exact:?}", lag.age);
                prop_assert!(!history.is_empty() || lag.age.is_zero(), "caught up");
                prop_assert!(tracker.segments.len() <= SEGMENTS_MAX);
            }
        }
    }
}
