//! Where the stream is: lag, positions, the slot, how the source is read. Positions, lag and phase are copied from the
//! published status; the rest is fed by the stream.

use prometheus::core::{AtomicF64, AtomicI64};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::super::registrar::{OptionalGauge, Registrar};
use super::saturating;
use crate::migration::{Phase, Status};
use crate::model::Lsn;

/// Where the stream is.
pub(super) struct StreamMetrics {
    pub(super) lag_bytes: OptionalGauge<AtomicI64>,
    pub(super) lag_seconds: OptionalGauge<AtomicF64>,
    pub(super) slot_retained_wal_bytes: OptionalGauge<AtomicI64>,
    pub(super) slot_safe_wal_bytes: OptionalGauge<AtomicI64>,
    pub(super) slot_xmin_age_transactions: OptionalGauge<AtomicI64>,
    pub(super) received_lsn: OptionalGauge<AtomicI64>,
    pub(super) applied_lsn: OptionalGauge<AtomicI64>,
    pub(super) durable_lsn: OptionalGauge<AtomicI64>,
    pub(super) queue_bytes: IntGauge,
    pub(super) held: IntGauge,
    pub(super) phase: IntGaugeVec,
    pub(super) reading: IntGaugeVec,
    pub(super) bulk_pieces: IntCounter,
    pub(super) bulk_changes: IntCounter,
    pub(super) bulk_ends: IntCounterVec,
}

impl StreamMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        Ok(Self {
            lag_bytes: registrar.optional_gauge(
                "pgsluice_lag_bytes",
                "Bytes of the source's WAL whose changes are not yet applied to the target.",
            )?,
            lag_seconds: registrar.optional_gauge(
                "pgsluice_lag_seconds",
                "Age in seconds of the oldest position of the source's WAL that is not yet applied to the target.",
            )?,
            slot_retained_wal_bytes: registrar.optional_gauge(
                "pgsluice_slot_retained_wal_bytes",
                "Bytes of WAL that the replication slot keeps on the source's disk.",
            )?,
            slot_safe_wal_bytes: registrar.optional_gauge(
                "pgsluice_slot_safe_wal_bytes",
                "Bytes of WAL that may still be written before the source gives the slot up; absent where it sets no limit.",
            )?,
            slot_xmin_age_transactions: registrar.optional_gauge(
                "pgsluice_slot_xmin_age_transactions",
                "Age in transactions of the oldest row versions of the source's catalogs that the slot keeps from vacuum.",
            )?,
            received_lsn: registrar.optional_gauge(
                "pgsluice_received_lsn",
                "Position in the source's WAL, in bytes, up to which the stream was received.",
            )?,
            applied_lsn: registrar.optional_gauge(
                "pgsluice_applied_lsn",
                "Position in the source's WAL, in bytes, up to which every commit is applied to the target.",
            )?,
            durable_lsn: registrar.optional_gauge(
                "pgsluice_durable_lsn",
                "Position in the source's WAL, in bytes, up to which the target has everything on disk.",
            )?,
            queue_bytes: registrar.gauge(
                "pgsluice_queue_bytes",
                "Bytes of changes received and not yet applied, held in memory.",
            )?,
            held: registrar.gauge(
                "pgsluice_stream_held",
                "1 while the stream is held at a change that waits for a schema change on the target or for a copy, else 0.",
            )?,
            phase: registrar.labelled_gauge(
                "pgsluice_phase",
                "1 for the phase the migration is in, 0 for the others.",
                &["phase"],
            )?,
            reading: registrar.labelled_gauge(
                "pgsluice_reading",
                "1 for the way in which changes are read from the source (streaming, or bulk for a backlog), 0 for the other.",
                &["way"],
            )?,
            bulk_pieces: registrar.counter(
                "pgsluice_bulk_pieces_total",
                "Pieces of backlogs read in bulk.",
            )?,
            bulk_changes: registrar.counter(
                "pgsluice_bulk_changes_total",
                "Messages read in bulk.",
            )?,
            bulk_ends: registrar.labelled_counter(
                "pgsluice_bulk_ends_total",
                "Times reading in bulk ended and streaming began, by reason.",
                &["reason"],
            )?,
        })
    }

    pub(super) fn publish(&self, status: &Status) {
        self.lag_bytes.set(status.lag.bytes.map(saturating));
        self.lag_seconds.set(status.lag.seconds);
        self.slot_retained_wal_bytes.set(status.slot.retained_wal_bytes.map(saturating));
        self.slot_safe_wal_bytes.set(status.slot.safe_wal_bytes.map(saturating));
        self.slot_xmin_age_transactions.set(status.slot.xmin_age_transactions.map(saturating));
        self.received_lsn.set(status.positions.received.map(position));
        self.applied_lsn.set(status.positions.applied.map(position));
        self.durable_lsn.set(status.positions.durable.map(position));
        for phase in Phase::ALL {
            self.phase.with_label_values(&[phase.as_str()]).set(i64::from(phase == status.phase));
        }
    }
}

fn position(lsn: Lsn) -> i64 {
    saturating(lsn.as_u64())
}
