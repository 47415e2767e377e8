//! The initial copy, and tables that are not in the migration.

use prometheus::{IntCounter, IntGaugeVec};

use super::super::registrar::Registrar;
use crate::join::{OutsideReason, TableStanding};
use crate::migration::{Status, TableState};

/// The initial copy.
pub(super) struct SnapshotMetrics {
    pub(super) rows_copied: IntCounter,
    pub(super) bytes_copied: IntCounter,
    pub(super) tables: IntGaugeVec,
    pub(super) outside: IntGaugeVec,
}

impl SnapshotMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        Ok(Self {
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
            outside: registrar.labelled_gauge(
                "pgsluice_tables_outside",
                "Tables that are not, or not yet, in the migration with all of their changes, by reason.",
                &["reason"],
            )?,
        })
    }

    pub(super) fn publish(&self, status: &Status) {
        for state in TableState::ALL {
            let tables = status.tables.values().filter(|table| table.state == state).count();
            self.tables.with_label_values(&[state.as_str()]).set(count(tables));
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
