//! The copy's rate limit: all connections draw on one bucket of bytes, so that the source is read no faster than the
//! operator allows. The bucket is pure, its clock injected; without a limit there is no bucket, and nothing to pay.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may pass at once after a pause: as much as passes in this time.
const BURST: Duration = Duration::from_millis(250);
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Shared by all that relay.
#[derive(Debug, Default)]
pub struct RateLimit {
    bucket: Option<Mutex<TokenBucket>>,
}

impl RateLimit {
    /// With `None`, no limit.
    #[must_use]
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        let bucket = bytes_per_second.map(|rate| Mutex::new(TokenBucket::full(rate, Instant::now())));
        Self { bucket }
    }

    /// Returns when so many bytes may pass. They count from the call on: whoever gives up waiting has spent them.
    pub async fn pass(&self, bytes: u64) {
        let Some(bucket) = &self.bucket else { return };
        let wait = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Bytes are taken at once and paid for by time: who takes more than there is waits until the debt is settled, and
/// who comes later waits behind them.
#[derive(Debug)]
struct TokenBucket {
    bytes_per_second: NonZeroU64,
    /// When everything taken so far is paid for. In the past: there is credit since then, [`BURST`] at most.
    settled: Instant,
}

impl TokenBucket {
    fn full(bytes_per_second: NonZeroU64, now: Instant) -> Self {
        Self { bytes_per_second, settled: now.checked_sub(BURST).unwrap_or(now) }
    }

    /// How long to wait before the bytes may pass.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let nanos = u128::from(bytes) * NANOS_PER_SECOND / u128::from(self.bytes_per_second.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let begin = self.settled.max(earliest);
        // Beyond what a clock can say (centuries) there is nothing to wait for.
        self.settled = begin.checked_add(cost).unwrap_or(begin);
        self.settled.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 1_000_000;

    fn bucket(now: Instant) -> TokenBucket {
        TokenBucket::full(NonZeroU64::new(RATE).expect("not zero"), now)
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_waits_its_time() {
        let now = Instant::now();
        let mut bucket = bucket(now);
        assert_eq!(bucket.take(RATE / 4, now), Duration::ZERO);
        assert_eq!(bucket.take(RATE, now), Duration::from_secs(1));
        assert_eq!(bucket.take(RATE, now), Duration::from_secs(2), "behind the one before");
        assert_eq!(bucket.take(0, now + Duration::from_secs(2)), Duration::ZERO);
    }

    #[test]
    fn idle_time_is_not_saved_up_beyond_the_burst() {
        let now = Instant::now();
        let mut bucket = bucket(now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(bucket.take(RATE, later), Duration::from_millis(750));
    }

    #[test]
    fn a_row_larger_than_a_second_of_the_rate_passes_after_its_time() {
        let now = Instant::now();
        let mut bucket = bucket(now);
        assert_eq!(bucket.take(10 * RATE, now), Duration::from_millis(9_750));
        bucket.take(u64::MAX, now);
    }

    proptest! {
        /// Whatever is taken, by whom and when: in no time more passes than the rate and one burst.
        #[test]
        fn no_more_passes_than_the_rate_and_one_burst(
            takes in prop::collection::vec((0_u64..2 * RATE, 0_u64..2_000), 1..50),
        ) {
            let start = Instant::now();
            let mut bucket = bucket(start);
            let (mut now, mut passed) = (start, 0);
            for (bytes, pause_ms) in takes {
                now += Duration::from_millis(pause_ms);
                let wait = bucket.take(bytes, now);
                passed += bytes;
                let at = (now + wait).duration_since(start) + BURST;
                let allowed = at.as_nanos() * u128::from(RATE) / NANOS_PER_SECOND + 50;
                prop_assert!(u128::from(passed) <= allowed, "{passed} by {at:?}");
            }
        }
    }

    #[tokio::test]
    async fn without_a_limit_everything_passes_and_with_one_it_takes_its_time() {
        RateLimit::new(None).pass(u64::MAX).await;
        let limit = RateLimit::new(NonZeroU64::new(RATE));
        let begun = Instant::now();
        tokio::join!(limit.pass(RATE / 5), limit.pass(RATE / 5), limit.pass(RATE / 20));
        assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
    }
}
