//! What many values amount to, and how long nothing was acknowledged. No IO, no clock.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::statistics::percentile;

/// Of many values: each is one of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Half of the values do not exceed it.
    pub(crate) p50: f64,
    /// 95 of 100 do not exceed it.
    pub(crate) p95: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of no values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let at = |percent| percentile(values, percent);
        Some(Self { p50: at(50), p95: at(95), max: at(100) })
    }
}

/// The longest time between two acknowledgements, of those that had not ended at `from` and had begun at `to`. `sorted` are
/// the moments of the acknowledgements.
pub(crate) fn longest_gap(sorted: &[Instant], from: Instant, to: Instant) -> Option<Duration> {
    let first = sorted.partition_point(|at| *at <= from).saturating_sub(1);
    let end = (sorted.partition_point(|at| *at < to) + 1).min(sorted.len());
    sorted.get(first..end)?.windows(2).map(|pair| pair[1].duration_since(pair[0])).max()
}

/// The longest time between two acknowledgements that are both within `from` and `to`.
pub(crate) fn longest_gap_within(sorted: &[Instant], from: Instant, to: Instant) -> Option<Duration> {
    let (first, end) = (sorted.partition_point(|at| *at < from), sorted.partition_point(|at| *at <= to));
    sorted.get(first..end)?.windows(2).map(|pair| pair[1].duration_since(pair[0])).max()
}
