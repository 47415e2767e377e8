//! Verifications: what they have compared, and how the current or last one stands.

use prometheus::core::{AtomicF64, AtomicI64};
use prometheus::{IntCounter, IntGaugeVec};

use super::super::registrar::{OptionalGauge, Registrar};
use super::saturating;
use crate::migration::{Status, Vouched};

/// The value of `outcome` while none was ever asked for.
const NONE: &str = "none";
const OUTCOMES: [&str; 4] = ["running", "clean", "differences", "incomplete"];

/// Fed by the verification, and copied from the published status.
pub(super) struct VerificationMetrics {
    pub(super) rows: IntCounter,
    pub(super) bytes: IntCounter,
    differences: OptionalGauge<AtomicI64>,
    structural_differences: OptionalGauge<AtomicI64>,
    outcome: IntGaugeVec,
    ended: OptionalGauge<AtomicI64>,
    valid_until: OptionalGauge<AtomicI64>,
    longest_snapshot: OptionalGauge<AtomicF64>,
}

impl VerificationMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        Ok(Self {
            rows: registrar.counter(
                "pgsluice_verify_rows_compared_total",
                "Rows of the source that were compared with the target by verifications of this process.",
            )?,
            bytes: registrar.counter(
                "pgsluice_verify_bytes_compared_total",
                "Size in bytes on the source, with TOAST, of what verifications of this process have compared.",
            )?,
            differences: registrar.optional_gauge(
                "pgsluice_verify_differences",
                "Rows that the current or last verification has found not to be the same on both sides.",
            )?,
            structural_differences: registrar.optional_gauge(
                "pgsluice_verify_structural_differences",
                "Objects of the schema that the current or last verification has found not to be the same on both sides.",
            )?,
            outcome: registrar.labelled_gauge(
                "pgsluice_verify_outcome",
                "1 for how the current or last verification stands, 0 for the others.",
                &["outcome"],
            )?,
            ended: registrar.optional_gauge(
                "pgsluice_verify_ended_timestamp_seconds",
                "When the last verification ended, in seconds since 1970; absent while one runs.",
            )?,
            valid_until: registrar.optional_gauge(
                "pgsluice_verify_valid_until_timestamp_seconds",
                "Until when the last verification lets a cutover begin, in seconds since 1970; 0 if it does not; absent if none needs to.",
            )?,
            longest_snapshot: registrar.optional_gauge(
                "pgsluice_verify_longest_snapshot_seconds",
                "The longest time in seconds that the current or last verification held a pair of snapshots.",
            )?,
        })
    }

    pub(super) fn publish(&self, status: &Status) {
        let report = status.verification.as_ref();
        let current = report.map_or(NONE, |report| report.outcome.as_str());
        for outcome in std::iter::once(NONE).chain(OUTCOMES) {
            self.outcome.with_label_values(&[outcome]).set(i64::from(outcome == current));
        }
        self.differences.set(report.map(|report| saturating(report.differences)));
        let has_structure = report.filter(|report| report.structure.is_some());
        self.structural_differences
            .set(has_structure.map(|report| saturating(report.structural_differences())));
        self.ended.set(report.and_then(|report| report.ended_at).map(|at| at.as_second()));
        self.valid_until.set(match status.vouched {
            Vouched::NotNeeded => None,
            Vouched::No => Some(0),
            Vouched::Until(until) => Some(until.as_second()),
        });
        self.longest_snapshot.set(report.map(|report| report.longest_snapshot.as_secs_f64()));
    }
}
