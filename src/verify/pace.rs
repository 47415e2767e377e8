//! How much of the servers' time a verification takes: after each piece it rests for as long as keeps its share. Pure.

use std::time::Duration;

/// The part of the time in which one statement of a verification may run on each server, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharePercent(u8);

/// The size of a piece that is compared without rests, and the least size of any: what a core hashes in seconds, and in a tenth of one.
const PIECE_BYTES_MAX: u64 = 1 << 30;
const PIECE_BYTES_MIN: u64 = 16 << 20;

impl SharePercent {
    /// All the time, in as many sessions as there are.
    pub const ALL: Self = Self(100);

    /// From 1 to 100.
    #[must_use]
    pub fn new(percent: u8) -> Option<Self> {
        (1..=100).contains(&percent).then_some(Self(percent))
    }

    /// As a number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// How long one of so many workers rests after having been busy.
    #[must_use]
    pub fn rest_after(self, busy: Duration, workers: usize) -> Duration {
        if self == Self::ALL {
            return Duration::ZERO;
        }
        let whole = busy.saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX)) * 100 / u32::from(self.0);
        whole.saturating_sub(busy)
    }

    /// How large a piece should be: the less time there is, the shorter the statements.
    #[must_use]
    pub fn piece_bytes(self) -> u64 {
        (PIECE_BYTES_MAX / 100 * u64::from(self.0)).max(PIECE_BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_keep_the_share_of_all_workers_together() {
        let five = SharePercent::new(5).unwrap();
        assert_eq!(five.rest_after(Duration::from_millis(100), 1), Duration::from_millis(1_900));
        assert_eq!(five.rest_after(Duration::from_millis(100), 2), Duration::from_millis(3_900));
        assert_eq!(SharePercent::ALL.rest_after(Duration::from_secs(9), 4), Duration::ZERO);
        assert_eq!((SharePercent::new(0), SharePercent::new(101)), (None, None));
    }

    #[test]
    fn pieces_are_smaller_the_less_time_there_is() {
        assert_eq!(SharePercent::new(1).unwrap().piece_bytes(), 16 << 20);
        assert!(SharePercent::new(5).unwrap().piece_bytes() < 60 << 20);
        assert!(SharePercent::ALL.piece_bytes() > 1_000_000_000);
    }
}
