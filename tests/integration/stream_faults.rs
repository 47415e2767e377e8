//! What may happen to connections and servers while changes are applied. Whatever it is, no change is lost, none comes
//! twice, and none is passed over. What other replicators trip over is in `stream_traps`.

use nix::sys::signal::Signal;
use pgsluice::demo::cluster::StopMode;
use pgsluice::target::WAL_END;

use crate::harness::clusters::{connect, options, start};
use crate::harness::memory::peak_resident_kib;
use crate::harness::stage::{COPY_WAIT, Stage, text};
use crate::harness::two_tables::{PAIR, SCHEMA, halted, stage};
use crate::harness::wait::until;

const PROGRESS: &str = "SELECT commit_lsn::text FROM pgsluice.progress";

/// INV-5, INV-6: to the server, an UPDATE of no row is a success; the batch must not be committed all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_with_divergence_in_it_is_not_committed_and_halts_again_at_the_next_start() {
    let (stage, source) = stage().await;
    let replicator = stage.streaming().await;
    let target = stage.target_client().await;
    target
        .batch_execute("SET session_replication_role = replica; DELETE FROM t WHERE id = 5")
        .await
        .expect("intruder");
    source
        .batch_execute("BEGIN; INSERT INTO other VALUES (1, 'same transaction'); UPDATE t SET v = 'secret value' WHERE id = 5; COMMIT")
        .await
        .expect("update");
    source.batch_execute("INSERT INTO other VALUES (2, 'later')").await.expect("later");
    let log = halted(replicator).await;
    for word in ["update", "\"public\".\"t\"", "touched 0 rows", "committed at"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    assert!(!log.contains("secret"), "INV-10: {log}");
    assert_eq!(text(&target, "SELECT count(*)::text FROM other").await, "0");
    let progress = text(&target, PROGRESS).await;

    halted(stage.command("").start().expect("the program")).await;
    assert_eq!(text(&target, PROGRESS).await, progress);
    target.batch_execute("INSERT INTO t VALUES (5, 'repaired')").await.expect("repair");
    let _replicator = stage.streaming().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// The statement that failed is told, not one that failed because of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_failure_is_the_one_that_is_told() {
    let (stage, source) = stage().await;
    let replicator = stage.streaming().await;
    let target = stage.target_client().await;
    target
        .batch_execute("SET session_replication_role = replica; INSERT INTO t VALUES (500, 'in the way')")
        .await
        .expect("intruder");
    // `other` is new to the stream: its definition is asked for while the failed insert is under way.
    source
        .batch_execute("BEGIN; INSERT INTO t VALUES (500, 'mine'); INSERT INTO other VALUES (1, 'x'); DELETE FROM t WHERE id = 1; COMMIT")
        .await
        .expect("transaction");
    let log = halted(replicator).await;
    assert!(log.contains("insert a row of table \"public\".\"t\"") && log.contains("23505"), "{log}");
    assert!(!log.contains("mine"), "INV-10: {log}");
}

/// A transaction that has to wait for the target's definition does not hold up those before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_before_a_changed_table_does_not_wait_with_it() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    let target = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE other IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    source.batch_execute("INSERT INTO other VALUES (1, 'before')").await.expect("before");
    source.batch_execute("ALTER TABLE t ADD COLUMN added varchar(7)").await.expect("alter");
    source.batch_execute("UPDATE t SET added = 'new' WHERE id = 1").await.expect("update");
    source.batch_execute("INSERT INTO other VALUES (2, 'after')").await.expect("after");
    target.batch_execute("COMMIT").await.expect("unlock");
    let status = replicator
        .wait_for_status("the missing column's name", COPY_WAIT, |status| {
            status.problem.as_ref().is_some_and(|problem| problem.remedy.contains("ADD COLUMN \"added\""))
        })
        .await;
    assert!(status.is_ok(), "{status:?}");
    until("the transaction before it", || async {
        text(&target, "SELECT count(*)::text FROM other").await == "1"
    })
    .await;
    target.batch_execute("ALTER TABLE t ADD COLUMN added varchar(7)").await.expect("alter");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// The backend of a lost apply connection may sit in a lock's queue; its successor must not be kept out, nor overtaken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_a_statement_waits_for_a_lock_the_next_start_takes_over() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    let target = stage.target_client().await;
    let observer = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    source
        .batch_execute("INSERT INTO t SELECT i, 'x' FROM generate_series(1000, 1100) i")
        .await
        .expect("insert");
    until("a statement in the lock's queue", || async {
        text(&observer, "SELECT count(*)::text FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
            .await
            == "1"
    })
    .await;
    replicator.signal(Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    let _replicator = stage.streaming().await;
    until("the dead program's session to end", || async {
        text(&observer, "SELECT count(*)::text FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
            .await
            == "0"
            || text(
                &observer,
                "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'pgsluice apply'",
            )
            .await
                == "1"
    })
    .await;
    target.batch_execute("COMMIT").await.expect("unlock");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// INV-2, INV-3, traps 2 and 5: sessions ended and servers crashed in the middle of everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_cut_and_servers_crashed_in_the_middle_of_batches_lose_and_double_nothing() {
    let mut stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    source
        .batch_execute("CREATE TABLE log (n int, v text); ALTER TABLE log REPLICA IDENTITY FULL")
        .await
        .expect("schema");
    let replicator = stage.streaming().await;
    let cut =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgsluice%'";
    for round in 0..12 {
        for i in 0..40 {
            source
                .batch_execute(&format!(
                    "BEGIN; INSERT INTO log VALUES ({round}, 'same'), ({round}, 'same'); UPDATE t SET v = v || '+' WHERE id = {id};
                     UPDATE log SET v = v || '{i}' WHERE ctid = (SELECT max(ctid) FROM log); COMMIT",
                    id = 1 + (round * 40 + i) % 100
                ))
                .await
                .expect("traffic");
        }
        match round % 4 {
            0 => stage.source_client().await.batch_execute(cut).await.expect("walsender cut"),
            1 => stage.target_client().await.batch_execute(cut).await.expect("apply cut"),
            2 => {
                stage.target.stop(StopMode::Immediate).await.expect("crash");
                stage.target.start_again().await.expect("target again");
            }
            _ => {}
        }
    }
    stage.caught_up().await;
    stage.assert_same_rows().await;
    drop(replicator);
}

/// INV-11, INV-12: the queue, the pipeline and what waits in between are bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_300000_rows_does_not_grow_the_program() {
    let stage = Stage::with_options(PAIR, options(), options().setting("max_wal_size", "2GB")).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let replicator = stage.streaming().await;
    source
        .batch_execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1000, 300999) i")
        .await
        .expect("insert");
    stage.caught_up().await;
    let peak_kib = peak_resident_kib(replicator.id());
    assert!(peak_kib < 128 * 1024, "{peak_kib} KiB");
    stage.assert_same_rows().await;
}

/// What waits to be flushed must not wait for the header of a page on which there is nothing yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_that_ends_exactly_with_its_page_counts_as_flushed() {
    let target = start(17).await;
    let client = connect(&target.url("postgres")).await;
    let number = async |sql: &str| -> i64 {
        text(&client, &format!("SELECT ({sql})::bigint::text")).await.parse().expect("a number")
    };
    let insert = "pg_current_wal_insert_lsn() - '0/0'";
    let emit =
        |length: i64| format!("pg_logical_emit_message(false, 'filler', repeat('x', {length})) - '0/0'");
    let mut header_was_ahead = false;
    for _ in 0..50 {
        let before = number(insert).await;
        number(&emit(96)).await;
        let after = number(insert).await;
        let (overhead, left) = (after - before - 96, 8192 - after % 8192);
        if left > overhead + 8 {
            number(&emit(left - overhead)).await;
        }
        if number(insert).await % 8192 == 24 {
            until("everything before the header to be flushed", || async {
                text(&client, &format!("SELECT (({WAL_END}) <= pg_current_wal_flush_lsn())::text")).await
                    == "true"
            })
            .await;
            header_was_ahead |=
                text(&client, "SELECT (pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn())::text")
                    .await
                    == "true";
            if header_was_ahead {
                break;
            }
        }
    }
    assert!(header_was_ahead, "the test never met the end of a page");
}
