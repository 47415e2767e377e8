//! The target's standbys: what a change waits for before it is confirmed to the source, and what a failover would fall back to.

use prometheus::core::{AtomicI64, GenericGaugeVec};

use super::super::registrar::{OptionalGauge, Registrar};
use super::saturating;
use crate::migration::Status;

/// Copied from the published status.
pub(super) struct StandbyMetrics {
    standbys: GenericGaugeVec<AtomicI64>,
    lag_bytes: OptionalGauge<AtomicI64>,
}

impl StandbyMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        Ok(Self {
            standbys: registrar.labelled_gauge(
                "pgsluice_target_standbys",
                "Standbys of the target: connected (absent where the role may not see them), and wanted before a change is confirmed to the source.",
                &["state"],
            )?,
            lag_bytes: registrar.optional_gauge(
                "pgsluice_target_standby_lag_bytes",
                "Bytes of the target's WAL that the connected standby furthest behind has not flushed.",
            )?,
        })
    }

    pub(super) fn publish(&self, status: &Status) {
        let seen = status.standbys;
        self.set("wanted", seen.map(|standbys| standbys.wanted));
        self.set("connected", seen.and_then(|standbys| standbys.connected));
        self.lag_bytes.set(seen.and_then(|standbys| standbys.lag_bytes).map(saturating));
    }

    fn set(&self, state: &str, standbys: Option<u32>) {
        match standbys {
            Some(standbys) => self.standbys.with_label_values(&[state]).set(i64::from(standbys)),
            // It is absent already where it was never known.
            None => drop(self.standbys.remove_label_values(&[state])),
        }
    }
}
