//! The initial copy, and tables that are not in the migration.

use prometheus::core::AtomicI64;
use prometheus::{IntCounter, IntGauge, IntGaugeVec};

use super::super::registrar::{OptionalGauge, Registrar};
use super::CopyPause;
use super::saturating;
use crate::join::{OutsideReason, TableStanding};
use crate::migration::{Status, TableState};

/// The initial copy.
pub(super) struct SnapshotMetrics {
    pub(super) rows_copied: IntCounter,
    pub(super) bytes_copied: IntCounter,
    pub(super) tables: IntGaugeVec,
    pub(super) estimated_bytes: IntGauge,
    pub(super) eta_seconds: OptionalGauge<AtomicI64>,
    pub(super) indexes: IntGaugeVec,
    pub(super) paused: IntGaugeVec,
    pub(super) outside: IntGaugeVec,
}

impl SnapshotMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            rows_copied: registrar.counter(
                "pgsluice_snapshot_rows_copied_total",
                "Rows copied to the target by the initial copy.",
            )?,
            bytes_copied: registrar.counter(
                "pgsluice_snapshot_bytes_copied_total",
                "Bytes of COPY data relayed to the target by the initial copy.",
            )?,
            tables: registrar.labelled_gauge(
                "pgsluice_snapshot_tables",
                "Tables by the state of their initial copy.",
                &["state"],
            )?,
            estimated_bytes: registrar.gauge(
                "pgsluice_snapshot_estimated_bytes",
                "Size on the source, in bytes, of the tables of the initial copy, with TOAST and without indexes.",
            )?,
            eta_seconds: registrar.optional_gauge(
                "pgsluice_snapshot_eta_seconds",
                "Seconds that the rest of the initial copy takes at its present rate; absent while it has none, and when it is done.",
            )?,
            indexes: registrar.labelled_gauge(
                "pgsluice_snapshot_indexes",
                "Indexes that are built on the target after their table's copy, by state (built, or pending).",
                &["state"],
            )?,
            paused: registrar.labelled_gauge(
                "pgsluice_snapshot_paused",
                "1 while no further chunk of the initial copy is begun, to spare the source, by reason, else 0.",
                &["reason"],
            )?,
            outside: registrar.labelled_gauge(
                "pgsluice_tables_outside",
                "Tables that are not, or not yet, in the migration with all of their changes, by reason.",
                &["reason"],
            )?,
        };
        metrics.pauses(None);
        Ok(metrics)
    }

    pub(super) fn pauses(&self, now: Option<CopyPause>) {
        for reason in CopyPause::ALL {
            self.paused.with_label_values(&[reason.as_str()]).set(i64::from(now == Some(reason)));
        }
    }

    pub(super) fn publish(&self, status: &Status) {
        for state in TableState::ALL {
            let tables = status.tables.values().filter(|table| table.state == state).count();
            self.tables.with_label_values(&[state.as_str()]).set(count(tables));
        }
        let bytes_estimated = status.tables.values().map(|table| table.bytes_estimated).sum();
        self.estimated_bytes.set(saturating(bytes_estimated));
        let copy = status.copy.unwrap_or_default();
        self.eta_seconds.set(copy.eta_seconds.map(saturating));
        let pending = copy.indexes_total.saturating_sub(copy.indexes_built);
        for (state, indexes) in [("built", copy.indexes_built), ("pending", pending)] {
            self.indexes.with_label_values(&[state]).set(saturating(indexes));
        }
        for reason in OutsideReason::ALL {
            let is_it = |table: &&TableStanding| {
                table.outside.as_ref().is_some_and(|outside| outside.reason == reason)
            };
            let tables = status.standings.iter().filter(is_it).count();
            self.outside.with_label_values(&[reason.as_str()]).set(count(tables));
        }
    }
}

fn count(tables: usize) -> i64 {
    i64::try_from(tables).unwrap_or(i64::MAX)
}
