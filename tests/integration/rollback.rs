//! The way back: what is written on the target after a cutover is on the source, a rollback loses none of it, and the
//! migration can be cut over again.

use nix::sys::signal::Signal;
use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::ledger;
use pgsluice::demo::store;
use tokio_postgres::error::SqlState;

use crate::harness::stage::{
    COPY_WAIT, Pair, Stage, ask, cut_over, end_of, roll_back, streaming, text, way_back_is_open,
};
use crate::harness::wait::until;
use crate::whole_migration::{SMALL, load};

/// The clients' transactions of all three stays, under load, each switch in the midst of it.
pub(crate) async fn there_and_back_and_there_again_under_load(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let workload = load(stage.source_url(), 11);
    let mut replicator = stage.streaming().await;
    let more = async || {
        let before = workload.acknowledged();
        until("traffic", || async { workload.acknowledged() >= before + 100 }).await;
    };
    more().await;
    for round in 0..2 {
        streaming(&mut replicator).await;
        let cutover = cut_over(&mut replicator).await;
        assert_eq!((cutover.mode, cutover.direction.as_str()), (CutoverModeRecord::Cutover, "forward"));
        workload.redirect(stage.target_url());
        more().await;
        let rollback = roll_back(&mut replicator).await;
        assert_eq!((rollback.mode, rollback.direction.as_str()), (CutoverModeRecord::Rollback, "back"));
        assert!(rollback.epoch > cutover.epoch, "{rollback:?} after {cutover:?}");
        stage.assert_same_rows().await;
        stage.assert_same_sequences().await;
        // The target is closed again, whatever a session sets.
        for session in ["", "SET session_replication_role = replica; "] {
            let target = stage.target_client().await;
            let refused = target.batch_execute(&format!("{session}DELETE FROM customers WHERE id = 1")).await;
            let refused = refused.expect_err("the target is fenced");
            assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "round {round}");
        }
        workload.redirect(stage.source_url());
        more().await;
    }
    let record = workload.stop().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let check = ledger::check(&stage.source_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0));
    let codes = record.errors_by_code();
    assert!(codes.keys().all(|code| code == "25006"), "clients saw more than the fence: {codes:?}");
    assert_eq!(stage.slots().await, "pgsluice");
    let target = stage.target_client().await;
    let slots = text(&target, "SELECT count(*)::text FROM pg_replication_slots").await;
    assert_eq!(slots, "0", "the way back's slot would keep WAL for nobody");
}

/// Killed at any moment of the window, the next start finds the direction by itself.
pub(crate) async fn the_window_outlives_the_program(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let workload = load(stage.source_url(), 12);
    let mut replicator = stage.streaming().await;
    cut_over(&mut replicator).await;
    workload.redirect(stage.target_url());
    for _ in 0..3 {
        let before = workload.acknowledged();
        until("traffic", || async { workload.acknowledged() >= before + 30 }).await;
        replicator.signal(Signal::SIGKILL);
        replicator.wait_for_end(COPY_WAIT).await.expect("killed");
        replicator = stage.command("").start().expect("the program");
        way_back_is_open(&mut replicator).await;
    }
    roll_back(&mut replicator).await;
    workload.redirect(stage.source_url());
    let before = workload.acknowledged();
    until("traffic on the source", || async { workload.acknowledged() >= before + 30 }).await;
    replicator.signal(Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    replicator = stage.command("").start().expect("the program");
    streaming(&mut replicator).await;
    let record = workload.stop().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let check = ledger::check(&stage.source_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0));
}

/// A rehearsal of the rollback, and requests in the wrong direction.
pub(crate) async fn a_rollback_is_rehearsed_and_nothing_is_moved_twice(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let mut replicator = stage.streaming().await;
    let nothing =
        pgsluice::control::dto::CutoverRequestRecord { mode: None, max_pause_ms: None, unverified: true };
    let refused = replicator.api().start_rollback(nothing).await.expect_err("nothing to roll back");
    assert!(refused.to_string().contains("nothing to roll back"), "{refused}");
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;
    let forward =
        pgsluice::control::dto::CutoverRequestRecord { mode: None, max_pause_ms: None, unverified: true };
    let refused = replicator.api().start_cutover(forward, "again").await.expect_err("cut over already");
    assert!(refused.to_string().contains("cut over"), "{refused}");
    let rehearsal = pgsluice::control::dto::CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Rehearsal),
        max_pause_ms: Some(20_000),
        unverified: true,
    };
    let accepted = replicator.api().start_rollback(rehearsal).await.expect("accepted");
    let ended = end_of(&mut replicator, &accepted).await;
    assert_eq!((ended.outcome.as_str(), ended.direction.as_str()), ("completed", "back"), "{ended:#?}");
    let target = stage.target_client().await;
    target
        .batch_execute("UPDATE customers SET name = 'there' WHERE id = 1")
        .await
        .expect("still the primary");
    let source = stage.source_client().await;
    let query = "SELECT name FROM customers WHERE id = 1";
    until("the change on the source", || async { text(&source, query).await == "there" }).await;
}

/// Without a way back everything is as it was before there was one.
pub(crate) async fn without_a_way_back_none_is_left_behind(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let mut replicator = stage.streaming_with("cutover.reverse = false\n").await;
    let accepted = ask(&replicator, CutoverModeRecord::Cutover, 20_000).await;
    assert_eq!(end_of(&mut replicator, &accepted).await.outcome, "completed");
    let target = stage.target_client().await;
    assert_eq!(text(&target, "SELECT count(*)::text FROM pg_replication_slots").await, "0");
    let nothing =
        pgsluice::control::dto::CutoverRequestRecord { mode: None, max_pause_ms: None, unverified: true };
    let refused = replicator.api().start_rollback(nothing).await.expect_err("no way back");
    assert!(refused.to_string().contains("cut over"), "{refused}");
}

/// A schedule of rehearsals by the command line: percentiles of the pause and of each step.
pub(crate) async fn several_rehearsals_give_a_forecast_with_percentiles(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let replicator = stage.streaming().await;
    let command = |arguments: &[&str]| {
        let output = stage.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("utf-8")
    };
    let api = replicator.api().base().to_owned();
    let text =
        command(&["rehearse", "--times", "3", "--every", "0", "--max-pause-ms", "20000", "--api", &api]);
    println!("{text}");
    assert!(text.contains("3 rehearsals completed") && text.contains("fence_source"), "{text}");
    let said = command(&[
        "rehearse",
        "--times",
        "2",
        "--every",
        "0",
        "--max-pause-ms",
        "20000",
        "--output",
        "json",
        "--api",
        &api,
    ]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("json");
    assert_eq!(said["completed"], 2);
    assert!(said["pause_ms"]["p50"].as_f64().is_some_and(|pause| pause > 0.0), "{said}");
}

/// A long stay: a million rows written on the target, and sequences used there, before the rollback.
pub(crate) async fn a_rollback_after_a_million_writes_loses_none(pair: Pair) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source
        .batch_execute(
            "CREATE TABLE many (id bigserial PRIMARY KEY, n int NOT NULL, note text);
             CREATE TABLE few (id int PRIMARY KEY, total bigint NOT NULL);
             CREATE SEQUENCE free; CREATE SEQUENCE downwards INCREMENT -5 MAXVALUE 0 MINVALUE -100000000;
             INSERT INTO many (n, note) SELECT g, 'from the source' FROM generate_series(1, 20000) g;
             INSERT INTO few SELECT g, 0 FROM generate_series(1, 100) g",
        )
        .await
        .expect("schema");
    let mut replicator = stage.streaming().await;
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;
    let target = stage.target_client().await;
    let begun = std::time::Instant::now();
    let mut written = 0;
    for round in 0..100 {
        for statement in [
            format!("INSERT INTO many (n, note) SELECT g, 'round {round}' FROM generate_series(1, 4500) g"),
            format!(
                "UPDATE many SET n = n + 1, note = note || '.' WHERE id % 7 = {} AND id > (SELECT max(id) FROM many) - 28000",
                round % 7
            ),
            "DELETE FROM many WHERE id IN (SELECT id FROM many ORDER BY id LIMIT 1500)".to_owned(),
            "UPDATE few SET total = total + 1".to_owned(),
            "SELECT nextval('free'), nextval('downwards')".to_owned(),
        ] {
            written += target.execute(&statement, &[]).await.expect(&statement);
        }
    }
    assert!(written >= 1_000_000, "{written} rows were written");
    let wrote = begun.elapsed();
    let report = roll_back_when_level(&mut replicator).await;
    stage.assert_same_rows().await;
    stage.assert_same_sequences().await;
    let next = text(
        &source,
        "SELECT nextval('many_id_seq')::text || ' ' || nextval('free') || ' ' || nextval('downwards')",
    )
    .await;
    assert_eq!(next, "470001 101 -500");
    println!(
        "{written} rows written on the target in {wrote:?}, level and rolled back after {:?}, write pause {:?} ms",
        begun.elapsed(),
        report.pause_ms
    );
}

async fn roll_back_when_level(
    replicator: &mut pgsluice::demo::replicator::Replicator,
) -> pgsluice::control::dto::CutoverRecord {
    let level = replicator
        .wait_for_status("a small lag", std::time::Duration::from_secs(300), |status| {
            status.lag.bytes.is_some_and(|bytes| bytes < 1_000_000)
        })
        .await;
    level.expect("level");
    roll_back(replicator).await
}

/// A definition that is changed on the new primary is reported with what it means for the way back, and once it is
/// repeated on the old side the way back goes on.
pub(crate) async fn a_changed_definition_in_the_window_is_reported_and_the_way_back_goes_on(pair: Pair) {
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SMALL).await.expect("store");
    let mut replicator = stage.streaming().await;
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;
    let (source, target) = (stage.source_client().await, stage.target_client().await);
    let change = "ALTER TABLE customers ADD COLUMN shoe_size int";
    target.batch_execute(change).await.expect("the primary is theirs");
    target.batch_execute("UPDATE customers SET shoe_size = 43 WHERE id = 1").await.expect("a write");
    let status = replicator
        .wait_for_status("a report", COPY_WAIT, |status| {
            status.problem.as_ref().is_some_and(|problem| problem.blocking == "waiting_for_operator")
        })
        .await;
    let problem = status.expect("reported").problem.expect("a problem");
    assert!(problem.message.contains("way back") && problem.message.contains("shoe_size"), "{problem:?}");
    assert!(problem.remedy.contains("pgsluice.pass"), "{problem:?}");
    println!("{}\n{}", problem.message, problem.remedy);
    source
        .batch_execute("SELECT set_config('pgsluice.pass', nonce, false) FROM pgsluice.fence")
        .await
        .expect("the fence's nonce");
    source.batch_execute(change).await.expect("the same on the old side");
    let query = "SELECT coalesce(shoe_size, 0)::text FROM customers WHERE id = 1";
    until("the change on the source", || async { text(&source, query).await == "43" }).await;
    roll_back(&mut replicator).await;
    stage.assert_same_rows().await;
}
