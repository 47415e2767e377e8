//! The current or last cutover or rehearsal, and its configured bounds.

use std::time::Duration;

use prometheus::IntGaugeVec;
use prometheus::core::{AtomicF64, AtomicI64};

use super::super::registrar::{OptionalGauge, Registrar};
use super::saturating;
use crate::cutover::State;
use crate::migration::Status;

/// The value of `state` while no cutover or rehearsal was ever asked for.
const NO_CUTOVER: &str = "idle";

/// The current or last cutover or rehearsal.
pub(super) struct CutoverMetrics {
    pub(super) state: IntGaugeVec,
    pub(super) pause_seconds: OptionalGauge<AtomicF64>,
    pub(super) max_pause_seconds: OptionalGauge<AtomicF64>,
    pub(super) max_lag_bytes: OptionalGauge<AtomicI64>,
}

impl CutoverMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        Ok(Self {
            state: registrar.labelled_gauge(
                "pgsluice_cutover_state",
                "1 for the state of the current or last cutover or rehearsal, 0 for the others.",
                &["state"],
            )?,
            pause_seconds: registrar.optional_gauge(
                "pgsluice_cutover_pause_seconds",
                "Seconds that writers waited in the last cutover or rehearsal.",
            )?,
            max_pause_seconds: registrar.optional_gauge(
                "pgsluice_cutover_max_pause_seconds",
                "The longest write pause in seconds that is configured: a cutover that needs more rolls back.",
            )?,
            max_lag_bytes: registrar.optional_gauge(
                "pgsluice_cutover_max_lag_bytes",
                "The lag in bytes above which a cutover does not begin, as configured.",
            )?,
        })
    }

    pub(super) fn set_bounds(&self, max_pause: Duration, max_lag_bytes: u64) {
        self.max_pause_seconds.set(Some(max_pause.as_secs_f64()));
        self.max_lag_bytes.set(Some(saturating(max_lag_bytes)));
    }

    pub(super) fn publish(&self, status: &Status) {
        let cutover = status.cutover.as_ref();
        let current = cutover.map_or(NO_CUTOVER, |report| report.state);
        for state in std::iter::once(NO_CUTOVER).chain(State::NAMES) {
            self.state.with_label_values(&[state]).set(i64::from(state == current));
        }
        let pause = cutover.and_then(|report| report.pause);
        self.pause_seconds.set(pause.map(|pause| pause.as_secs_f64()));
    }
}
