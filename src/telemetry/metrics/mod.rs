//! Every metric of the program, with its help and unit: one file for each theme, and [`Metrics`], through which all of
//! them are fed. Counters and histograms are fed by whoever does the work; gauges are copied from the published [`Status`]
//! by [`Metrics::publish`]. Labels come from closed sets only: never a table's name, never a value of a row (INV-10), so
//! the number of series is bounded (INV-11).
//!
//! Names are a contract with dashboards and alerts outside this repository: add freely, never rename.

mod apply;
mod cluster;
mod copy;
mod cutover;
mod health;
mod labels;
mod standbys;
mod stream;
#[cfg(test)]
mod tests;
mod verification;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntGaugeVec, Registry, TextEncoder};

pub use labels::{BulkEnd, CertificateOf, CopyPause, ReadingWay, RowOperation};

use self::apply::ApplyMetrics;
use self::cluster::ClusterMetrics;
use self::copy::SnapshotMetrics;
use self::cutover::CutoverMetrics;
use self::health::ReconnectMetrics;
use self::standbys::StandbyMetrics;
use self::stream::StreamMetrics;
use self::verification::VerificationMetrics;
use super::process::ProcessCollector;
use super::registrar::{MetricDescription, Registrar};
use crate::migration::Status;
use crate::model::Side;

/// Every metric. Shared by reference; all methods are cheap and none waits for IO.
pub struct Metrics {
    stream: StreamMetrics,
    apply: ApplyMetrics,
    snapshot: SnapshotMetrics,
    standbys: StandbyMetrics,
    cluster: ClusterMetrics,
    reconnects: ReconnectMetrics,
    cutover: CutoverMetrics,
    verification: VerificationMetrics,
    certificates: IntGaugeVec,
    registry: Registry,
    described: Vec<MetricDescription>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("metrics", &self.described.len()).finish_non_exhaustive()
    }
}

impl Metrics {
    /// All metrics, registered in a registry of their own.
    ///
    /// # Errors
    /// Only if a name is not a valid metric name or is used twice, which the tests exclude.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let mut registrar = Registrar::default();
        registrar.collector(ProcessCollector::new()?, &ProcessCollector::described())?;
        health::register_build_info(&mut registrar)?;
        Ok(Arc::new(Self {
            stream: StreamMetrics::register(&mut registrar)?,
            apply: ApplyMetrics::register(&mut registrar)?,
            snapshot: SnapshotMetrics::register(&mut registrar)?,
            standbys: StandbyMetrics::register(&mut registrar)?,
            cluster: ClusterMetrics::register(&mut registrar)?,
            reconnects: ReconnectMetrics::register(&mut registrar)?,
            cutover: CutoverMetrics::register(&mut registrar)?,
            verification: VerificationMetrics::register(&mut registrar)?,
            certificates: health::register_certificates(&mut registrar)?,
            registry: registrar.registry,
            described: registrar.described,
        }))
    }

    /// One batch was committed on the target. `transactions` are source transactions; `elapsed` is the time from
    /// the batch's first statement to its commit; `rows` are the row changes it carried, before coalescing.
    pub fn batch_applied(&self, transactions: u64, rows: u64, elapsed: Duration) {
        self.apply.transactions.inc_by(transactions);
        #[expect(clippy::cast_precision_loss, reason = "a histogram's sum is a float by definition")]
        self.apply.batch_rows.observe(rows as f64);
        self.apply.batch_seconds.observe(elapsed.as_secs_f64());
    }

    /// Row changes of one kind are committed on the target.
    pub fn rows_applied(&self, operation: RowOperation, rows: u64) {
        let counters = &self.apply.rows;
        match operation {
            RowOperation::Insert => counters.insert.inc_by(rows),
            RowOperation::Update => counters.update.inc_by(rows),
            RowOperation::Delete => counters.delete.inc_by(rows),
            RowOperation::Truncate => counters.truncate.inc_by(rows),
        }
    }

    /// Rows were written, in a batch that is committed: by COPY, in a set, or one by one. Fewer than the row changes applied,
    /// where several of one row became one.
    pub fn rows_written(&self, copy: u64, set: u64, row: u64) {
        for (way, rows) in [("copy", copy), ("set", set), ("row", row)] {
            self.apply.written.with_label_values(&[way]).inc_by(rows);
        }
    }

    /// A batch, or a table's part of one, went row by row instead of in sets. `reason` is one of a closed set of
    /// lower-case words.
    pub fn apply_fell_back(&self, reason: &'static str) {
        self.apply.fallbacks.with_label_values(&[reason]).inc();
    }

    /// From now on the source's changes are read in this way.
    pub fn reads(&self, now: ReadingWay) {
        for way in ReadingWay::ALL {
            self.stream.reading.with_label_values(&[way.as_str()]).set(i64::from(way == now));
        }
    }

    /// A piece of a backlog with so many changes was read.
    pub fn bulk_piece(&self, changes: u64) {
        self.stream.bulk_pieces.inc();
        self.stream.bulk_changes.inc_by(changes);
    }

    /// Reading in bulk ended.
    pub fn bulk_ended(&self, end: BulkEnd) {
        self.stream.bulk_ends.with_label_values(&[end.as_str()]).inc();
    }

    /// Rows and bytes of COPY data arrived on the target. Rows of a copy that is later started over are counted
    /// again, because a counter never goes down.
    pub fn snapshot_copied(&self, rows: u64, bytes: u64) {
        self.snapshot.rows_copied.inc_by(rows);
        self.snapshot.bytes_copied.inc_by(bytes);
    }

    /// The initial copy pauses for this reason; `None`: it does not.
    pub fn copy_pauses(&self, reason: Option<CopyPause>) {
        self.snapshot.pauses(reason);
    }

    /// A verification has compared so many more rows, of this size on the source.
    pub fn verified(&self, rows: u64, bytes: u64) {
        self.verification.rows.inc_by(rows);
        self.verification.bytes.inc_by(bytes);
    }

    /// A connection to `side` was lost and is being made again.
    pub fn reconnecting(&self, side: Side) {
        match side {
            Side::Source => self.reconnects.source.inc(),
            Side::Target => self.reconnects.target.inc(),
        }
    }

    /// Bytes of changes received and not yet applied that are held in memory.
    pub fn set_queue_bytes(&self, bytes: usize) {
        self.stream.queue_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Whether the stream is held at one point, by a schema change or a table that is being copied.
    pub fn set_stream_held(&self, held: bool) {
        self.stream.held.set(i64::from(held));
    }

    /// What is configured for a cutover: the same for as long as the process lives.
    pub fn set_cutover_bounds(&self, max_pause: Duration, max_lag_bytes: u64) {
        self.cutover.set_bounds(max_pause, max_lag_bytes);
    }

    /// A certificate is valid until then, in seconds since 1970; `None` where there is no TLS, or nothing was shown yet.
    pub fn certificate_expires(&self, of: CertificateOf, at: Option<i64>) {
        if let Some(at) = at {
            self.certificates.with_label_values(&[of.as_str()]).set(at);
        }
    }

    /// Copies every gauge from the published status. Called at each scrape, and by the monitor.
    pub fn publish(&self, status: &Status) {
        self.stream.publish(status);
        self.snapshot.publish(status);
        self.standbys.publish(status);
        self.cluster.publish(status);
        self.cutover.publish(status);
        self.verification.publish(status);
    }

    /// The Prometheus text exposition (format 0.0.4).
    ///
    /// # Errors
    /// Never for these metrics; the encoder refuses families without samples, which are pruned.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Every metric there is, whether or not it has a value yet.
    #[must_use]
    pub fn described(&self) -> &[MetricDescription] {
        &self.described
    }
}

/// Bytes as the signed number that a gauge holds.
fn saturating(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
