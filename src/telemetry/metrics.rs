//! Every metric of the program, in one file, with its help and unit. Counters and histograms are fed by whoever
//! does the work; gauges are copied from the published [`Status`] by [`Metrics::publish`]. Labels come from closed
//! sets only: never a table's name, never a value of a row (INV-10), so the number of series is bounded (INV-11).
//!
//! Names are a contract with dashboards and alerts outside this repository: add freely, never rename.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{AtomicF64, AtomicI64};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use super::process::ProcessCollector;
use super::registrar::{MetricDescription, OptionalGauge, Registrar};
use crate::cutover::State;
use crate::join::{OutsideReason, TableStanding};
use crate::migration::{Phase, Status, TableState};
use crate::model::{Lsn, Side};

/// The kinds of row changes that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOperation {
    /// A row inserted.
    Insert,
    /// A row updated.
    Update,
    /// A row deleted.
    Delete,
    /// A table truncated: counts one for each table.
    Truncate,
}

impl RowOperation {
    /// Every operation.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Delete, Self::Truncate];

    /// The value of the label `op`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        }
    }
}

/// How the source's changes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadingWay {
    /// From the walsender, as they are committed.
    Streaming,
    /// Pieces of a backlog.
    Bulk,
}

impl ReadingWay {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Streaming, Self::Bulk];

    /// The value of the label `way`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Bulk => "bulk",
        }
    }
}

/// Why reading in bulk ended, and streaming began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkEnd {
    /// As it should: the backlog is read.
    NearTheEnd,
    /// The source has no replication slot left for the copy.
    NoFreeSlot,
    /// The source's role may not do it.
    NotAllowed,
    /// The source refused for another reason.
    Refused,
    /// The source takes too long to decode a piece.
    TooSlow,
    /// The target took nothing for too long.
    Blocked,
    /// The source refused a piece, or stopped in the middle of it.
    Interrupted,
}

impl BulkEnd {
    /// The value of the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NearTheEnd => "near_the_end",
            Self::NoFreeSlot => "no_free_slot",
            Self::NotAllowed => "not_allowed",
            Self::Refused => "refused",
            Self::TooSlow => "too_slow",
            Self::Blocked => "blocked",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Whose certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateOf {
    /// The HTTP API's own.
    Api,
    /// What a server showed when it was connected to last: of `source.url` or `target.url`, whichever way changes go.
    Server(Side),
}

impl CertificateOf {
    /// The value of the label `certificate`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Server(side) => side.as_str(),
        }
    }
}

/// Every metric. Shared by reference; all methods are cheap and none waits for IO.
pub struct Metrics {
    stream: StreamMetrics,
    apply: ApplyMetrics,
    snapshot: SnapshotMetrics,
    reconnects: ReconnectMetrics,
    cutover: CutoverMetrics,
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
    /// Only if a name in this file is not a valid metric name or is used twice, which the tests exclude.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let mut registrar = Registrar::default();
        registrar.collector(ProcessCollector::new()?, &ProcessCollector::described())?;
        register_build_info(&mut registrar)?;
        Ok(Arc::new(Self {
            stream: StreamMetrics::register(&mut registrar)?,
            apply: ApplyMetrics::register(&mut registrar)?,
            snapshot: SnapshotMetrics::register(&mut registrar)?,
            reconnects: ReconnectMetrics::register(&mut registrar)?,
            cutover: CutoverMetrics::register(&mut registrar)?,
            certificates: registrar.labelled_gauge(
                "pgsluice_certificate_expiry_timestamp_seconds",
                "End of a certificate's validity in seconds since 1970: the API's own, and what source and target showed last.",
                &["certificate"],
            )?,
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

    /// A certificate is valid until then, in seconds since 1970; `None` where there is no TLS, or nothing was shown yet.
    pub fn certificate_expires(&self, of: CertificateOf, at: Option<i64>) {
        if let Some(at) = at {
            self.certificates.with_label_values(&[of.as_str()]).set(at);
        }
    }

    /// Copies every gauge from the published status. Called at each scrape, and by the monitor.
    pub fn publish(&self, status: &Status) {
        self.stream.lag_bytes.set(status.lag.bytes.map(saturating));
        self.stream.lag_seconds.set(status.lag.seconds);
        self.stream.slot_retained_wal_bytes.set(status.slot_retained_wal_bytes.map(saturating));
        self.stream.received_lsn.set(status.positions.received.map(position));
        self.stream.applied_lsn.set(status.positions.applied.map(position));
        self.stream.durable_lsn.set(status.positions.durable.map(position));
        for phase in Phase::ALL {
            self.stream.phase.with_label_values(&[phase.as_str()]).set(i64::from(phase == status.phase));
        }
        for state in TableState::ALL {
            let tables = status.tables.values().filter(|table| table.state == state).count();
            let tables = i64::try_from(tables).unwrap_or(i64::MAX);
            self.snapshot.tables.with_label_values(&[state.as_str()]).set(tables);
        }
        for reason in OutsideReason::ALL {
            let is_it = |table: &&TableStanding| {
                table.outside.as_ref().is_some_and(|outside| outside.reason == reason)
            };
            let tables = status.standings.iter().filter(is_it).count();
            let tables = i64::try_from(tables).unwrap_or(i64::MAX);
            self.snapshot.outside.with_label_values(&[reason.as_str()]).set(tables);
        }
        let cutover = status.cutover.as_ref();
        let current = cutover.map_or(NO_CUTOVER, |report| report.state);
        for state in std::iter::once(NO_CUTOVER).chain(State::NAMES) {
            self.cutover.state.with_label_values(&[state]).set(i64::from(state == current));
        }
        let pause = cutover.and_then(|report| report.pause);
        self.cutover.pause_seconds.set(pause.map(|pause| pause.as_secs_f64()));
    }

    /// The Prometheus text exposition (format 0.0.4).
    ///
    /// # Errors
    /// Never for the metrics of this file; the encoder refuses families without samples, which are pruned.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Every metric there is, whether or not it has a value yet.
    #[must_use]
    pub fn described(&self) -> &[MetricDescription] {
        &self.described
    }
}

fn saturating(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn position(lsn: Lsn) -> i64 {
    saturating(lsn.as_u64())
}

fn register_build_info(registrar: &mut Registrar) -> Result<(), prometheus::Error> {
    const NAME: &str = "pgsluice_build_info";
    const HELP: &str = "Always 1; the labels say which program this is.";
    let info = registrar.labelled_gauge(NAME, HELP, &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(())
}

/// Where the stream is. The positions, the lag and the phase are copied from the published status.
struct StreamMetrics {
    lag_bytes: OptionalGauge<AtomicI64>,
    lag_seconds: OptionalGauge<AtomicF64>,
    slot_retained_wal_bytes: OptionalGauge<AtomicI64>,
    received_lsn: OptionalGauge<AtomicI64>,
    applied_lsn: OptionalGauge<AtomicI64>,
    durable_lsn: OptionalGauge<AtomicI64>,
    queue_bytes: IntGauge,
    held: IntGauge,
    phase: IntGaugeVec,
    reading: IntGaugeVec,
    bulk_pieces: IntCounter,
    bulk_changes: IntCounter,
    bulk_ends: IntCounterVec,
}

impl StreamMetrics {
    fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
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
}

/// What was applied.
struct ApplyMetrics {
    transactions: IntCounter,
    rows: RowCounters,
    batch_rows: Histogram,
    batch_seconds: Histogram,
    written: IntCounterVec,
    fallbacks: IntCounterVec,
}

impl ApplyMetrics {
    fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
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
struct RowCounters {
    insert: IntCounter,
    update: IntCounter,
    delete: IntCounter,
    truncate: IntCounter,
}

impl RowCounters {
    fn of(rows: &IntCounterVec) -> Self {
        let counter = |operation: RowOperation| rows.with_label_values(&[operation.as_str()]);
        Self {
            insert: counter(RowOperation::Insert),
            update: counter(RowOperation::Update),
            delete: counter(RowOperation::Delete),
            truncate: counter(RowOperation::Truncate),
        }
    }
}

/// The initial copy.
struct SnapshotMetrics {
    rows_copied: IntCounter,
    bytes_copied: IntCounter,
    tables: IntGaugeVec,
    outside: IntGaugeVec,
}

impl SnapshotMetrics {
    fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
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
}

/// Connections lost, by side.
struct ReconnectMetrics {
    source: IntCounter,
    target: IntCounter,
}

impl ReconnectMetrics {
    fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
        let reconnects = registrar.labelled_counter(
            "pgsluice_reconnects_total",
            "Times a lost connection was made again, by side.",
            &["side"],
        )?;
        Ok(Self {
            source: reconnects.with_label_values(&[Side::Source.as_str()]),
            target: reconnects.with_label_values(&[Side::Target.as_str()]),
        })
    }
}

/// The current or last cutover or rehearsal.
struct CutoverMetrics {
    state: IntGaugeVec,
    pause_seconds: OptionalGauge<AtomicF64>,
}

impl CutoverMetrics {
    fn register(registrar: &mut Registrar) -> Result<Self, prometheus::Error> {
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
}

/// The value of `state` while no cutover or rehearsal was ever asked for.
const NO_CUTOVER: &str = "idle";

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::registrar::MetricKind;
    use super::*;
    use crate::migration::{LagView, Positions, StatusBoard, TableProgress};
    use crate::model::TableName;

    fn metrics() -> Arc<Metrics> {
        Metrics::new().expect("every name is valid and unique")
    }

    fn sample<'a>(text: &'a str, series: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
    }

    #[test]
    fn a_value_that_is_not_known_is_absent_rather_than_zero() {
        let metrics = metrics();
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        board.with(|status| metrics.publish(status));
        let text = metrics.render().expect("render");
        assert_eq!(sample(&text, "pgsluice_lag_bytes"), None);
        assert_eq!(sample(&text, "pgsluice_cutover_pause_seconds"), None);

        board.update(|status| status.lag = LagView { bytes: Some(0), seconds: Some(0.0) });
        board.with(|status| metrics.publish(status));
        let text = metrics.render().expect("render");
        assert_eq!(sample(&text, "pgsluice_lag_bytes"), Some("0"));
        assert_eq!(sample(&text, "pgsluice_lag_seconds"), Some("0"));

        board.update(|status| status.lag = LagView::default());
        board.with(|status| metrics.publish(status));
        assert_eq!(sample(&metrics.render().expect("render"), "pgsluice_lag_bytes"), None);
    }

    #[test]
    fn gauges_follow_the_published_status() {
        let metrics = metrics();
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        board.update(|status| {
            status.phase = Phase::Snapshot;
            status.positions = Positions { received: Some(Lsn::new(0x16_0000_0000)), ..Positions::default() };
            let copied = TableProgress {
                state: TableState::Joined,
                rows_copied: 1,
                bytes_copied: 1,
                rows_estimated: 1,
                bytes_estimated: 1,
            };
            status.tables.insert(TableName::new("public", "orders"), copied);
        });
        board.with(|status| metrics.publish(status));
        let text = metrics.render().expect("render");
        assert_eq!(sample(&text, "pgsluice_received_lsn"), Some("94489280512"));
        assert_eq!(sample(&text, "pgsluice_phase{phase=\"snapshot\"}"), Some("1"));
        assert_eq!(sample(&text, "pgsluice_phase{phase=\"starting\"}"), Some("0"));
        assert_eq!(sample(&text, "pgsluice_snapshot_tables{state=\"joined\"}"), Some("1"));
        assert_eq!(sample(&text, "pgsluice_snapshot_tables{state=\"pending\"}"), Some("0"));
        assert_eq!(sample(&text, "pgsluice_cutover_state{state=\"idle\"}"), Some("1"));
        assert!(!text.contains("orders"), "table names are not labels");
    }

    #[test]
    fn counters_exist_from_the_start_so_that_rates_see_the_first_increment() {
        let metrics = metrics();
        let before = metrics.render().expect("render");
        assert_eq!(sample(&before, "pgsluice_applied_rows_total{op=\"truncate\"}"), Some("0"));
        assert_eq!(sample(&before, "pgsluice_reconnects_total{side=\"source\"}"), Some("0"));
        metrics.batch_applied(3, 40, Duration::from_millis(2));
        metrics.rows_applied(RowOperation::Update, 40);
        metrics.reconnecting(Side::Source);
        metrics.apply_fell_back("truncate");
        let after = metrics.render().expect("render");
        assert_eq!(sample(&after, "pgsluice_applied_transactions_total"), Some("3"));
        assert_eq!(sample(&after, "pgsluice_applied_rows_total{op=\"update\"}"), Some("40"));
        assert_eq!(sample(&after, "pgsluice_apply_batch_rows_sum"), Some("40"));
        assert_eq!(sample(&after, "pgsluice_reconnects_total{side=\"source\"}"), Some("1"));
        assert_eq!(sample(&after, "pgsluice_apply_fallbacks_total{reason=\"truncate\"}"), Some("1"));
    }

    #[test]
    fn every_metric_is_described_with_a_unit_or_meaning_and_our_prefix() {
        let metrics = metrics();
        for metric in metrics.described() {
            assert!(
                metric.name.starts_with("pgsluice_") || metric.name.starts_with("process_"),
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.'), "{} needs a sentence", metric.name);
            let total = metric.name.ends_with("_total");
            assert_eq!(metric.kind == MetricKind::Counter, total, "{}", metric.name);
        }
        let text = metrics.render().expect("render");
        assert!(text.contains(concat!("pgsluice_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")));
    }
}
