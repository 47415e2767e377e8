use jiff::Timestamp;

use super::super::registrar::MetricKind;
use super::*;
use crate::migration::{
    CopyView, LagView, Phase, Positions, StandbyView, StatusBoard, TableProgress, TableState,
};
use crate::model::{Lsn, TableName};

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
            ..TableProgress::default()
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
fn a_verification_says_how_it_stands_and_until_when_a_cutover_may_begin() {
    use crate::migration::Vouched;
    use crate::model::Direction;
    use crate::verify::{Scope, VerificationReport};
    let metrics = metrics();
    let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
    let exposed = || {
        board.with(|status| metrics.publish(status));
        metrics.render().expect("render")
    };
    let text = exposed();
    assert_eq!(sample(&text, "pgsluice_verify_outcome{outcome=\"none\"}"), Some("1"));
    for absent in ["differences", "ended_timestamp_seconds", "valid_until_timestamp_seconds"] {
        assert_eq!(sample(&text, &format!("pgsluice_verify_{absent}")), None);
    }
    let at = Timestamp::from_second(100).unwrap();
    let mut report = VerificationReport::begun(1, Direction::Forward, Scope::Rows, at);
    board.update(|status| {
        status.verification = Some(report.clone());
        status.vouched = Vouched::No;
    });
    let text = exposed();
    assert_eq!(sample(&text, "pgsluice_verify_outcome{outcome=\"running\"}"), Some("1"));
    assert_eq!(sample(&text, "pgsluice_verify_valid_until_timestamp_seconds"), Some("0"));
    report.rows_compared = 5;
    report.end(at, None);
    board.update(|status| {
        status.verification = Some(report);
        status.vouched = Vouched::Until(Timestamp::from_second(300).unwrap());
    });
    let text = exposed();
    assert_eq!(sample(&text, "pgsluice_verify_outcome{outcome=\"clean\"}"), Some("1"));
    assert_eq!(sample(&text, "pgsluice_verify_differences"), Some("0"));
    assert_eq!(sample(&text, "pgsluice_verify_ended_timestamp_seconds"), Some("100"));
    assert_eq!(sample(&text, "pgsluice_verify_valid_until_timestamp_seconds"), Some("300"));
}

#[test]
fn the_copy_says_what_is_left_and_why_it_pauses() {
    let metrics = metrics();
    let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
    let exposed = |eta_seconds| {
        let copy = CopyView { eta_seconds, indexes_built: 3, indexes_total: 10, ..CopyView::default() };
        board.update(|status| status.copy = Some(copy));
        board.with(|status| metrics.publish(status));
        metrics.render().expect("render")
    };
    let text = exposed(Some(90));
    assert_eq!(sample(&text, "pgsluice_snapshot_eta_seconds"), Some("90"));
    assert_eq!(sample(&text, "pgsluice_snapshot_indexes{state=\"built\"}"), Some("3"));
    assert_eq!(sample(&text, "pgsluice_snapshot_indexes{state=\"pending\"}"), Some("7"));
    assert_eq!(sample(&exposed(None), "pgsluice_snapshot_eta_seconds"), None);

    let paused = |reason: &str| {
        let text = metrics.render().expect("render");
        sample(&text, &format!("pgsluice_snapshot_paused{{reason=\"{reason}\"}}")).map(str::to_owned)
    };
    assert_eq!(paused("wal_retained").as_deref(), Some("0"));
    metrics.copy_pauses(Some(CopyPause::WalRetained));
    assert_eq!(paused("wal_retained").as_deref(), Some("1"));
    assert_eq!(paused("standby_lag").as_deref(), Some("0"));
    metrics.copy_pauses(None);
    assert_eq!(paused("wal_retained").as_deref(), Some("0"));
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

#[test]
fn standbys_that_may_not_be_seen_are_absent_and_absent_again_when_the_right_is_taken() {
    let metrics = metrics();
    let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
    let exposed = |connected| {
        let view = StandbyView { wanted: 2, connected, lag_bytes: connected.map(|_| 7) };
        board.update(|status| status.standbys = Some(view));
        board.with(|status| metrics.publish(status));
        metrics.render().expect("render")
    };
    for _ in 0..2 {
        let blind = exposed(None);
        assert_eq!(sample(&blind, "pgsluice_target_standbys{state=\"wanted\"}"), Some("2"));
        assert_eq!(sample(&blind, "pgsluice_target_standbys{state=\"connected\"}"), None);
        assert_eq!(sample(&blind, "pgsluice_target_standby_lag_bytes"), None);
        let seeing = exposed(Some(1));
        assert_eq!(sample(&seeing, "pgsluice_target_standbys{state=\"connected\"}"), Some("1"));
        assert_eq!(sample(&seeing, "pgsluice_target_standby_lag_bytes"), Some("7"));
    }
}
