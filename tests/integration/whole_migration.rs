//! The whole way, for every version pair.

use nix::sys::signal::Signal;
use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::ledger;
use pgsluice::demo::store::{self, Scale};
use pgsluice::demo::workload::{Workload, WorkloadOptions};
use tokio_postgres::error::SqlState;

use crate::harness::stage::{Pair, Stage, ask, cut_over, end_of};
use crate::harness::wait::until;

pub(crate) const SMALL: Scale = Scale::times(0.02);

/// Client-side load that leaves room for two servers and the program.
pub(crate) fn load(url: String, seed: u64) -> Workload {
    let options =
        WorkloadOptions { writers: 4, seed, scale: SMALL, transactions_per_second_max: Some(200.0) };
    Workload::start(url, options)
}

/// Traps 4, 17, 21, 23, 24, 28: the copy's boundary, what is written meanwhile, sequences, the fence.
pub(crate) async fn a_store_moves_under_load_and_nothing_is_lost_or_doubled(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let workload = load(stage.source_url(), 1);
    until("traffic before the migration", || async { workload.acknowledged() >= 20 }).await;
    let mut replicator = stage.streaming().await;
    let before = workload.acknowledged();
    until("traffic while streaming", || async { workload.acknowledged() >= before + 300 }).await;

    let cutover = cut_over(&mut replicator).await;
    assert!(cutover.pause_ms.is_some_and(|pause| pause > 0.0), "{cutover:?}");
    // Neither side takes a client's write now: the fence on the one, nobody sent to the other.
    stage.assert_same_rows().await;
    stage.assert_same_sequences().await;

    workload.redirect(stage.target_url());
    let before = workload.acknowledged();
    until("traffic on the target", || async { workload.acknowledged() >= before + 50 }).await;
    let record = workload.stop().await;
    let check = ledger::check(&stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0));
    let codes = record.errors_by_code();
    assert!(codes.keys().all(|code| code == "25006"), "clients saw more than the fence: {codes:?}");
}

/// Traps 9, 10, 11, 12, 15, 16, 19, 22, 31, 32: by the copy, and by the stream.
pub(crate) async fn every_kind_of_row_and_change_arrives(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(include_str!("every_change.sql")).await.expect("schema");
    let _replicator = stage.streaming().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;

    for statement in statements(include_str!("changes.sql")) {
        source.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Trap 21.
pub(crate) async fn sequences_end_exactly_as_they_were(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(include_str!("every_change.sql")).await.expect("schema");
    let mut replicator = stage.streaming().await;
    source
        .batch_execute("SELECT nextval('unowned') FROM generate_series(1, 9); SELECT nextval('cycled') FROM generate_series(1, 7); SELECT setval('cached', 1, false)")
        .await
        .expect("sequences move while streaming");
    cut_over(&mut replicator).await;
    stage.assert_same_sequences().await;
    stage.assert_same_rows().await;

    let target = stage.target_client().await;
    target
        .batch_execute("INSERT INTO generated (net, v) VALUES (1, 'on the target')")
        .await
        .expect("identity goes on");
}

/// Trap 25. After the commit writes are refused, whatever a session sets, and the error says where to go.
pub(crate) async fn after_the_cutover_the_source_refuses_every_write_and_says_where_to_go(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(include_str!("every_change.sql")).await.expect("schema");
    let mut replicator = stage.streaming_with("cutover.moved_to = \"db.example.com:5432/shop\"\n").await;
    cut_over(&mut replicator).await;

    for statement in [
        "INSERT INTO plain VALUES (99999, 1, 'x')",
        "UPDATE plain SET a = 0 WHERE id = 1",
        "DELETE FROM plain WHERE id = 1",
        "TRUNCATE plain CASCADE",
        "UPDATE parted SET v = 'x'",
        "UPDATE parted_eu_1 SET v = 'x'",
        "BEGIN READ WRITE; INSERT INTO plain VALUES (99999, 1, 'x')",
        "SET default_transaction_read_only = off; DELETE FROM keyless",
        "SET session_replication_role = replica; DELETE FROM keyless",
        "DELETE FROM plain WHERE false",
    ] {
        let session = stage.source_client().await;
        let error = session.batch_execute(statement).await.expect_err(statement);
        assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{statement}: {error:?}");
        let said = format!("{:?}", error.as_db_error());
        assert!(said.contains("db.example.com:5432/shop"), "{said}");
    }
    source.query("SELECT * FROM plain", &[]).await.expect("reading goes on");
    let target = stage.target_client().await;
    target.batch_execute("INSERT INTO plain VALUES (99999, 1, 'x')").await.expect("the target takes writes");
}

pub(crate) async fn a_rehearsal_measures_the_pause_and_leaves_the_source_as_it_was(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let workload = load(stage.source_url(), 2);
    let mut replicator = stage.streaming().await;
    let accepted = ask(&replicator, CutoverModeRecord::Rehearsal, 20_000).await;
    let ended = end_of(&mut replicator, &accepted).await;
    assert_eq!(ended.outcome, "completed", "{ended:#?}");
    assert!(ended.pause_ms.is_some_and(|pause| pause > 0.0), "{ended:?}");

    let before = workload.acknowledged();
    until("traffic after the rehearsal", || async { workload.acknowledged() >= before + 50 }).await;
    let record = workload.stop().await;
    assert!(record.errors_by_code().is_empty(), "{:?}", record.errors_by_code());
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let status = replicator.api().status().await.expect("status");
    assert_eq!(status.phase, "streaming");
}

pub(crate) async fn sigterm_stops_within_five_seconds_and_the_next_start_resumes(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let workload = load(stage.source_url(), 3);
    let mut replicator = stage.streaming().await;
    for _ in 0..2 {
        let before = workload.acknowledged();
        until("traffic", || async { workload.acknowledged() >= before + 50 }).await;
        replicator.signal(Signal::SIGTERM);
        let status =
            replicator.wait_for_end(std::time::Duration::from_secs(5)).await.expect("an end in time");
        assert_eq!(status.code(), Some(0), "{}", replicator.log());
        replicator = stage.streaming().await;
        let status = replicator.api().status().await.expect("status");
        // What was copied is not copied again.
        let copied: u64 = status.tables.iter().map(|table| table.rows_copied).sum();
        let metric = replicator.api().metric("pgsluice_snapshot_rows_copied_total").await.expect("metrics");
        assert_eq!(metric.unwrap_or(0.0), 0.0, "{copied} rows were copied before");
    }
    let record = workload.stop().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let check = ledger::check(&stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0));
}

/// The statements of a file, separated by line ends after semicolons; `--` lines are comments.
pub(crate) fn statements(file: &str) -> impl Iterator<Item = &str> {
    let start = file.find('\n').map_or(0, |end| end + 1);
    file[start..].split(";\n").filter(|statement| !statement.trim().is_empty())
}
