//! How other replicators lose data while streaming, each as a test that fails where we do too. Numbers are those of the
//! project's list of traps.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::demo::cluster::StopMode;

use crate::harness::clusters::{connect, options};
use crate::harness::proxy::{Network, Proxy};
use crate::harness::stage::{COPY_WAIT, Stage, cut_over, streaming, text};
use crate::harness::two_tables::{PAIR, SCHEMA, confirmed, halted, intruder, kill, problem, stage};
use crate::harness::wait::until;

/// Trap 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_commit_in_another_order_than_they_began_all_arrive() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    let long = stage.source_client().await;
    long.batch_execute("BEGIN; INSERT INTO t VALUES (1001, 'began first')").await.expect("begin");
    source
        .batch_execute("INSERT INTO t VALUES (1002, 'began later, committed first')")
        .await
        .expect("insert");
    stage.caught_up().await;
    kill(&mut replicator).await;
    long.batch_execute("INSERT INTO t VALUES (1003, 'began first'); COMMIT").await.expect("commit");
    let _replicator = stage.streaming().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Traps 2, 5 and 6 (a keepalive's position is not progress): INV-3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_confirmed_before_the_target_has_it() {
    let (stage, source) = stage().await;
    let _replicator = stage.streaming().await;
    let target = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    let before = text(&source, "SELECT pg_current_wal_insert_lsn()::text").await;
    source.batch_execute("INSERT INTO t VALUES (2001, 'waiting')").await.expect("insert");
    let committed = text(&source, "SELECT pg_current_wal_lsn()::text").await;
    // Much that is not for us follows, and with it keepalives that name later positions.
    let elsewhere = connect(&stage.source.url("postgres")).await;
    elsewhere.batch_execute("CREATE TABLE noise AS SELECT 0 AS i").await.expect("noise");
    for _ in 0..30 {
        elsewhere.batch_execute("INSERT INTO noise SELECT generate_series(1, 1000)").await.expect("noise");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let confirmed = confirmed(&source).await;
        let query = format!("SELECT ('{confirmed}'::pg_lsn < '{committed}'::pg_lsn)::text");
        assert_eq!(
            text(&source, &query).await,
            "true",
            "{confirmed} is confirmed, {before}..{committed} is not applied"
        );
    }
    target.batch_execute("COMMIT").await.expect("unlock");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Trap 6: the source must be able to forget WAL that holds nothing of ours. INV-7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_stream_lets_the_source_forget_its_wal() {
    let (stage, source) = stage().await;
    let _replicator = stage.streaming().await;
    stage.caught_up().await;
    let elsewhere = connect(&stage.source.url("postgres")).await;
    elsewhere.batch_execute("CREATE TABLE noise AS SELECT generate_series(1, 100000)").await.expect("noise");
    let end = text(&source, "SELECT pg_current_wal_lsn()::text").await;
    until("confirmation of WAL of another database", || async {
        let query = format!("SELECT ('{}'::pg_lsn >= '{end}'::pg_lsn)::text", confirmed(&source).await);
        text(&source, &query).await == "true"
    })
    .await;
}

/// Trap 7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_move_does_not_cost_the_walsender_its_patience() {
    let stage = Stage::with_options(PAIR, options().setting("wal_sender_timeout", "2s"), options()).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let _replicator = stage.streaming().await;
    let walsender = "SELECT active_pid::text FROM pg_replication_slots WHERE database = 'app'";
    let pid = text(&source, walsender).await;
    let target = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    for i in 0..40 {
        let insert = format!(
            "INSERT INTO t SELECT 10000 + {i} * 1000 + j, repeat('x', 1000) FROM generate_series(1, 1000) j"
        );
        source.batch_execute(&insert).await.expect("insert");
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(text(&source, walsender).await, pid, "the walsender was replaced");
    target.batch_execute("COMMIT").await.expect("unlock");
    stage.caught_up().await;
    stage.assert_same_rows().await;
    assert_eq!(text(&source, walsender).await, pid);
}

/// Trap 8, INV-4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_dropped_and_made_again_is_not_adopted() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    stage.caught_up().await;
    let slot = text(&source, "SELECT slot_name::text FROM pg_replication_slots").await;
    kill(&mut replicator).await;
    until("an inactive slot", || async {
        text(&source, "SELECT bool_or(active)::text FROM pg_replication_slots").await == "false"
    })
    .await;
    source.query("SELECT pg_drop_replication_slot($1::text::name)", &[&slot]).await.expect("drop");
    source.batch_execute("INSERT INTO t VALUES (3001, 'between the slots')").await.expect("insert");
    source
        .query("SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')", &[&slot])
        .await
        .expect("a slot of the same name");
    let log = halted(stage.command("").start().expect("the program")).await;
    assert!(log.contains(&slot), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_gone_halts_with_the_reason() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    kill(&mut replicator).await;
    until("an inactive slot", || async {
        text(&source, "SELECT bool_or(active)::text FROM pg_replication_slots").await == "false"
    })
    .await;
    source
        .batch_execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        .await
        .expect("drop");
    let log = halted(stage.command("").start().expect("the program")).await;
    assert!(log.contains("does not exist"), "{log}");
}

/// The source looks for the publication as of each change: made again, it is still missing for the changes before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_was_dropped_halts_with_the_reason() {
    let (stage, source) = stage().await;
    let replicator = stage.streaming().await;
    source
        .batch_execute("DROP PUBLICATION pgsluice; UPDATE t SET v = 'unpublished' WHERE id = 1")
        .await
        .expect("drop");
    let log = halted(replicator).await;
    assert!(log.contains("Somebody dropped the publication"), "{log}");
}

/// Trap 18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_transaction_that_delays_the_slot_is_named_and_a_cancelled_wait_leaves_no_slot_behind() {
    let (stage, source) = stage().await;
    let old = stage.source_client().await;
    old.batch_execute("BEGIN; INSERT INTO other VALUES (1, 'old')").await.expect("old transaction");
    let pid = text(&old, "SELECT pg_backend_pid()::text").await;
    let mut replicator = stage.command("").start().expect("the program");
    let told = replicator
        .wait_for_status("the old transaction's name", COPY_WAIT, |status| {
            status.problem.as_ref().is_some_and(|problem| problem.message.contains(&pid))
        })
        .await;
    if let Err(error) = told {
        panic!("{error}");
    }
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(Duration::from_secs(5)).await.expect("an end in time");
    until("no active slot", || async {
        text(&source, "SELECT count(*)::text FROM pg_replication_slots WHERE active").await == "0"
    })
    .await;
    old.batch_execute("COMMIT").await.expect("commit");
    let _replicator = stage.streaming().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Trap 20, INV-5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_applied_stops_the_stream_and_is_never_skipped() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    let intruder = intruder(&stage).await;
    intruder.batch_execute("INSERT INTO t VALUES (4001, 'in the way')").await.expect("insert");
    source.batch_execute("INSERT INTO t VALUES (4001, 'mine')").await.expect("insert");
    source.batch_execute("INSERT INTO t VALUES (4002, 'after it')").await.expect("insert");
    let committed = text(&source, "SELECT pg_current_wal_lsn()::text").await;
    // Asking or halting: both are right, going on is not.
    let _ = replicator
        .wait_for_end(Duration::from_secs(5))
        .await
        .map(|status| assert_eq!(status.code(), Some(4), "{}", replicator.log()));
    if replicator.ended().is_none() {
        let said = problem(&mut replicator, "waiting_for_operator").await;
        assert!(said.contains("public.t") || said.contains("\"t\""), "{said}");
        assert!(!said.contains("mine") && !said.contains("4001"), "INV-10: {said}");
    }
    assert_eq!(
        text(&intruder, "SELECT count(*)::text FROM t WHERE id = 4002").await,
        "0",
        "it went past the row"
    );
    let query = format!("SELECT ('{}'::pg_lsn < '{committed}'::pg_lsn)::text", confirmed(&source).await);
    assert_eq!(text(&source, &query).await, "true");

    intruder.batch_execute("DELETE FROM t WHERE id = 4001").await.expect("the operator's repair");
    if replicator.ended().is_some() {
        replicator = stage.streaming().await;
    }
    stage.caught_up().await;
    stage.assert_same_rows().await;
    drop(replicator);
}

/// INV-6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_or_delete_that_finds_no_row_is_divergence_and_halts() {
    for statement in ["UPDATE t SET v = 'x' WHERE id = 5", "DELETE FROM t WHERE id = 5"] {
        let (stage, source) = stage().await;
        let replicator = stage.streaming().await;
        intruder(&stage).await.batch_execute("DELETE FROM t WHERE id = 5").await.expect("delete");
        source.batch_execute(statement).await.expect(statement);
        let log = halted(replicator).await;
        assert!(log.contains("touched 0 rows"), "{log}");

        intruder(&stage).await.batch_execute("INSERT INTO t VALUES (5, 'before')").await.expect("repair");
        let _replicator = stage.streaming().await;
        stage.caught_up().await;
        stage.assert_same_rows().await;
    }
}

/// INV-6, trap 20: the rows of a set are counted, and the one that is not there is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_finds_fewer_rows_than_it_changes_is_divergence_and_halts() {
    let sets = "apply.coalesce = \"always\"\n";
    for statement in ["UPDATE t SET v = 'x' WHERE id <= 50", "DELETE FROM t WHERE id <= 50"] {
        let (stage, source) = stage().await;
        let replicator = stage.streaming_with(sets).await;
        intruder(&stage).await.batch_execute("DELETE FROM t WHERE id = 5").await.expect("delete");
        source.batch_execute(statement).await.expect(statement);
        let log = halted(replicator).await;
        assert!(log.contains("touched 0 rows"), "{log}");

        intruder(&stage).await.batch_execute("INSERT INTO t VALUES (5, 'before')").await.expect("repair");
        let _replicator = stage.streaming_with(sets).await;
        stage.caught_up().await;
        stage.assert_same_rows().await;
    }
}

/// A changed table waits for its change on the target, and goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_added_on_the_source_is_waited_for_and_never_dropped() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    source.batch_execute("ALTER TABLE t ADD COLUMN added int").await.expect("alter");
    source.batch_execute("UPDATE t SET added = id").await.expect("update");
    let said = problem(&mut replicator, "waiting_for_operator").await;
    assert!(said.contains("added"), "{said}");
    stage.target_client().await.batch_execute("ALTER TABLE t ADD COLUMN added int").await.expect("alter");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Trap 17: rows of a table that nobody migrates must not be forgotten silently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_created_while_streaming_is_never_lost_silently_by_a_cutover() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    source
        .batch_execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)")
        .await
        .expect("create");
    let request = pgsluice::control::dto::CutoverRequestRecord {
        mode: Some(pgsluice::control::dto::CutoverModeRecord::Cutover),
        max_pause_ms: Some(5_000),
        unverified: true,
    };
    match replicator.api().start_cutover(request, "late table").await {
        Err(refused) => assert!(refused.to_string().contains("late"), "{refused}"),
        Ok(accepted) => {
            let ended = crate::harness::stage::end_of(&mut replicator, &accepted).await;
            assert_eq!(ended.outcome, "aborted", "{ended:#?}");
            assert!(format!("{ended:?}").contains("late"), "{ended:?}");
        }
    }
    source.batch_execute("DROP TABLE late").await.expect("drop");
    cut_over(&mut replicator).await;
}

/// Trap 32.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_committed_after_a_restart_arrives_once() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    source
        .batch_execute("BEGIN; INSERT INTO t VALUES (5001, 'prepared'); UPDATE t SET v = 'p' WHERE id = 1; PREPARE TRANSACTION 'p'")
        .await
        .expect("prepare");
    source.batch_execute("INSERT INTO t VALUES (5002, 'meanwhile')").await.expect("insert");
    stage.caught_up().await;
    kill(&mut replicator).await;
    source.batch_execute("COMMIT PREPARED 'p'").await.expect("commit prepared");
    let _replicator = stage.streaming().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Trap 26, and the acknowledgement of commits that the target then loses nothing of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_crash_and_come_back_are_connected_to_again() {
    let mut stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let mut replicator = stage.streaming().await;
    for (round, mode) in [StopMode::Fast, StopMode::Immediate, StopMode::Kill].into_iter().enumerate() {
        stage.target.stop(mode).await.expect("stop");
        let source = stage.source_client().await;
        let insert = format!(
            "INSERT INTO t SELECT 6000 + {round} * 1000 + i, 'target is away' FROM generate_series(1, 500) i"
        );
        source.batch_execute(&insert).await.expect("insert");
        stage.target.start_again().await.expect("start");
        stage.caught_up().await;

        stage.source.stop(mode).await.expect("stop");
        stage.source.start_again().await.expect("start");
        let source = stage.source_client().await;
        source.batch_execute(&format!("UPDATE t SET v = 'round {round}'")).await.expect("update");
        stage.caught_up().await;
        stage.assert_same_rows().await;
    }
    assert!(replicator.ended().is_none());
    let reconnects = replicator.api().metric("pgsluice_reconnects_total").await.expect("metrics");
    assert!(reconnects.is_some_and(|count| count >= 6.0), "{reconnects:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_slow_silent_or_cut_loses_nothing() {
    let (stage, source) = stage().await;
    let to_source = Proxy::start(stage.source.port()).await;
    let to_target = Proxy::start(stage.target.port()).await;
    let mut command = stage.command("");
    command.source_url = to_source.in_front_of(&command.source_url, stage.source.port());
    command.target_url = to_target.in_front_of(&command.target_url, stage.target.port());
    let mut replicator = command.start().expect("the program");
    streaming(&mut replicator).await;
    let mut id = 10_000;
    for network in [Network::Slow(Duration::from_millis(30)), Network::Silent, Network::Down] {
        for proxy in [&to_source, &to_target] {
            proxy.set(network);
            for _ in 0..10 {
                id += 100;
                let insert = format!(
                    "INSERT INTO t SELECT {id} + i, 'x' FROM generate_series(1, 100) i; UPDATE t SET v = v || 'y' WHERE id < 50"
                );
                source.batch_execute(&insert).await.expect("insert");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            proxy.set(Network::Down);
            proxy.set(Network::Up);
            stage.caught_up().await;
            stage.assert_same_rows().await;
        }
    }
    assert!(replicator.ended().is_none(), "{}", replicator.log());
}

/// Two programs for one migration: the second must not come between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_program_for_the_same_migration_does_no_harm() {
    let (stage, source) = stage().await;
    let mut first = stage.streaming().await;
    let mut second = stage.command("").start().expect("the program");
    let _ = second.wait_for_end(Duration::from_secs(3)).await;
    for i in 0..20 {
        source.batch_execute(&format!("INSERT INTO t VALUES ({}, 'x')", 8_000 + i)).await.expect("insert");
    }
    stage.caught_up().await;
    stage.assert_same_rows().await;
    assert!(first.ended().is_none() || second.ended().is_none(), "one of them goes on");
}
