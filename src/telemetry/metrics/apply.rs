//! What was applied to the target, and how. Fed by the executor when a batch is committed.

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::super::registrar::Registrar;
use super::labels::RowOperation;

/// What was applied.
pub(super) struct ApplyMetrics {
    pub(super) transactions: IntCounter,
    pub(super) rows: RowCounters,
    pub(super) batch_rows: Histogram,
    pub(super) batch_seconds: Histogram,
    pub(super) written: IntCounterVec,
    pub(super) fallbacks: IntCounterVec,
}

impl ApplyMetrics {
    pub(super) fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        let rows = registrar.labelled_counter(
            "pgsluice_applied_rows_total",
            "Row changes applied to the target and committed.",
            &["op"],
        )?;
        Ok(Self {
            transactions: registrar.counter(
                "pgsluice_applied_transactions_total",
                "Source transactions applied to the target and committed.",
            )?,
            rows: RowCounters::of(&rows),
            batch_rows: registrar.histogram(
                "pgsluice_apply_batch_rows",
                "Row changes in one batch, that is in one target transaction.",
                prometheus::exponential_buckets(1.0, 4.0, 11)?,
            )?,
            batch_seconds: registrar.histogram(
                "pgsluice_apply_batch_seconds",
                "Seconds from the first statement of a batch to its commit on the target.",
                prometheus::exponential_buckets(0.0005, 2.5, 12)?,
            )?,
            written: registrar.labelled_counter(
                "pgsluice_apply_written_rows_total",
                "Rows written to the target by what is applied, by the way they were written: copy, set or row.",
                &["way"],
            )?,
            fallbacks: registrar.labelled_counter(
                "pgsluice_apply_fallbacks_total",
                "Times changes were applied row by row instead of in sets, by reason.",
                &["reason"],
            )?,
        })
    }
}

/// Row counts by operation, resolved once because they are fed in the hot path.
pub(super) struct RowCounters {
    pub(super) insert: IntCounter,
    pub(super) update: IntCounter,
    pub(super) delete: IntCounter,
    pub(super) truncate: IntCounter,
}

impl RowCounters {
    pub(super) fn of(rows: &IntCounterVec) -> Self {
        let counter = |operation: RowOperation| rows.with_label_values(&[operation.as_str()]);
        Self {
            insert: counter(RowOperation::Insert),
            update: counter(RowOperation::Update),
            delete: counter(RowOperation::Delete),
            truncate: counter(RowOperation::Truncate),
        }
    }
}
