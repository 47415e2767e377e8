//! The current or last cutover or rehearsal.

use prometheus::IntGaugeVec;
use prometheus::core::AtomicF64;

use super::super::registrar::{OptionalGauge, Registrar};
use crate::cutover::State;
use crate::migration::Status;

/// The value of `state` while no cutover or rehearsal was ever asked for.
const NO_CUTOVER: &str = "idle";

/// The current or last cutover or rehearsal.
pub(super) struct CutoverMetrics {
    pub(super) state: IntGaugeVec,
    pub(super) pause_seconds: OptionalGauge<AtomicF64>,
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
        })
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
