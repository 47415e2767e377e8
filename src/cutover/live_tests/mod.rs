//! The whole operation against real servers, with a stand-in for the stream ([`rig`]).

mod crossing;
mod rig;
mod standbys;
mod writers;

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use self::rig::{Rig, client, run};
use super::*;
use crate::migration::{CutoverMode, Refusal};
use crate::model::Direction;

const PAUSE: Duration = Duration::from_secs(5);

async fn value(session: &Client, sql: &str) -> i64 {
    session.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

async fn error_of(session: &Client, sql: &str) -> (String, String, String) {
    let error = session.batch_execute(sql).await.expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone();
    (error.code().code().to_owned(), error.message().to_owned(), error.hint().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_cutover_closes_the_source_carries_sequences_and_opens_the_target() {
    let rig = Rig::pair(14, 17, &[]).await;
    let old = client(&rig.old_url()).await;
    old.batch_execute(
        "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 5); INSERT INTO items (note) VALUES ('a'), ('b');
         SELECT nextval('descending'), nextval('descending'); SELECT nextval('cached')",
    )
    .await
    .expect("writes");
    let (accepted, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    assert_eq!((accepted.epoch, &accepted.outcome), (1, &Outcome::Running));
    let report = running.finished().await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert!(report.pause.expect("measured") < Duration::from_secs(1), "{report:#?}");

    // INV-8: the source refuses, whatever is tried, and says where to go.
    let place = format!(
        "{}/new",
        rig.new_url().split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("a host")
    );
    for write in [
        "INSERT INTO orders (note) VALUES ('late')",
        "BEGIN READ WRITE; UPDATE items SET note = 'late'",
        "SET session_replication_role = replica; DELETE FROM items",
        "TRUNCATE items",
        "INSERT INTO events VALUES ('2024-05-05', 1)",
        "INSERT INTO events_2024 VALUES ('2024-05-05', 1)",
        "INSERT INTO \"Odd \"\"Names\"\"\".\"Table\" VALUES (1)",
    ] {
        let session = client(&rig.old_url()).await;
        let (code, message, hint) = error_of(&session, write).await;
        assert_eq!(
            (code.as_str(), message),
            ("25006", format!("pgsluice: this database has moved to {place}")),
            "{write}"
        );
        assert!(hint.contains("nothing of it has been written"), "{hint}");
    }
    let copy = client(&rig.old_url()).await;
    let sink = copy.copy_in::<_, bytes::Bytes>("COPY items (note) FROM STDIN").await;
    let error = match sink {
        Err(error) => error,
        Ok(sink) => std::pin::pin!(sink).as_mut().finish().await.expect_err("COPY is a write"),
    };
    assert_eq!(error.code().map(|code| code.code()), Some("25006"), "COPY");
    let new = client(&rig.new_url()).await;
    for (sequence, next) in [
        ("orders_id_seq", 6),
        ("items_id_seq", 3),
        ("descending", 44),
        ("untouched", 77),
        ("set_not_called", 500),
        ("cached", 11),
    ] {
        assert_eq!(value(&new, &format!("SELECT nextval('{sequence}')")).await, next, "{sequence}");
    }
    new.batch_execute("INSERT INTO orders (note) VALUES ('first here')").await.expect("the target is open");

    let certificate = report.certificate.expect("evidence");
    assert_eq!(certificate["tables_locked"]["count"], 6, "{certificate:#}");
    assert_eq!(certificate["sequences_set"]["count"], 6, "{certificate:#}");
    let recorded =
        journal::last(&new, Direction::Forward).await.expect("a journal").expect("an operation").report;
    assert_eq!((recorded.outcome, recorded.state), (Outcome::Completed, "completed"));
    assert_eq!(recorded.steps.len(), report.steps.len());
    let recorded = recorded.certificate.expect("evidence");
    assert_eq!(recorded["sequences_set"], certificate["sequences_set"]);
    assert_eq!(recorded["marker_lsn"], certificate["marker_lsn"]);
    assert!(running.abort().is_err(), "what has ended cannot be aborted");
    println!(
        "pause {:?}; {:#?}",
        report.pause,
        report.steps.iter().map(|step| (step.name, step.duration)).collect::<Vec<_>>()
    );
    // As if somebody asked who has not heard of it.
    rig.ctx.board.update(|status| status.phase = crate::migration::Phase::Streaming);
    let refused = rig.start(CutoverMode::Cutover, PAUSE).await.expect_err("it has moved");
    assert!(matches!(refused, Refusal::PastThePointOfNoReturn { .. }), "{refused}");
}

#[tokio::test]
async fn a_rehearsal_measures_the_pause_and_leaves_the_source_as_it_was() {
    let rig = Rig::quick(&[]).await;
    for epoch in 1..=3 {
        let (_, mut running) = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect("accepted");
        let report = running.finished().await;
        assert_eq!((report.epoch, &report.outcome), (epoch, &Outcome::Completed), "{report:#?}");
        assert!(report.pause.is_some());
        run(&rig.old_url(), "INSERT INTO orders (note) VALUES ('goes on'); SELECT nextval('untouched')")
            .await;
    }
    let old = client(&rig.old_url()).await;
    assert_eq!(value(&old, "SELECT count(*) FROM pgsluice.fence").await, 0);
    let denies = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'deny%' AND prosrc LIKE '%RAISE%'";
    assert_eq!(value(&old, denies).await, 0, "the triggers let everybody pass");
    let new = client(&rig.new_url()).await;
    let (code, message, _) = error_of(&new, "INSERT INTO orders (note) VALUES ('early')").await;
    assert_eq!(code, "25006");
    assert!(message.contains("not finished"), "{message}");
    new.batch_execute("SET session_replication_role = replica; INSERT INTO items (note) VALUES ('ours')")
        .await
        .expect("the gate lets our own sessions pass");
}

#[tokio::test]
async fn an_abort_takes_effect_at_once_and_blocked_writers_see_no_error() {
    let mut rig = Rig::quick(&[]).await;
    rig.stall_the_stream().await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, Duration::from_secs(60)).await.expect("accepted");
    rig.until(|report| report.state == "draining").await;
    let mut writers = Vec::new();
    for write in [
        "INSERT INTO orders (note) VALUES ('waits')",
        "TRUNCATE items",
        "SELECT nextval('untouched')",
        "INSERT INTO events_2024 VALUES ('2024-05-05', 1)",
    ] {
        let session = client(&rig.old_url()).await;
        writers.push(tokio::spawn(async move { session.batch_execute(write).await }));
    }
    let old = client(&rig.old_url()).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while value(&old, waiting).await < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(value(&old, "SELECT count(*) FROM orders").await, 0, "reading goes on");
    let began = Instant::now();
    running.abort().expect("before the point of no return");
    let report = running.finished().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(
        matches!(&report.outcome, Outcome::Aborted { reason, .. } if reason.contains("operator")),
        "{report:#?}"
    );
    for writer in writers {
        writer.await.expect("ends").expect("no error for writers");
    }
    println!("abort took {took:?}");
    rig.let_the_stream_run();
    let (_, mut running) = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect("again");
    assert_eq!(running.finished().await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_killed_fence_session_frees_the_writers_and_aborts() {
    let mut rig = Rig::quick(&[]).await;
    rig.stall_the_stream().await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, Duration::from_secs(60)).await.expect("accepted");
    rig.until(|report| report.state == "draining").await;
    let kill =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgsluice fence'";
    run(&rig.old_url(), kill).await;
    let report = running.finished().await;
    assert!(
        matches!(&report.outcome, Outcome::Aborted { reason, .. } if reason.contains("lost")),
        "{report:#?}"
    );
    run(&rig.old_url(), "SET lock_timeout = '1s'; INSERT INTO orders (note) VALUES ('free')").await;
}

#[tokio::test]
async fn a_process_that_dies_inside_the_pause_leaves_the_source_writable_and_the_next_start_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let said = directory.path().join("steps");
    let config = directory.path().join("pgsluice.toml");
    let hook = format!(
        "[[traffic]]\nadapter = \"exec\"\ncommand = [\"sh\", \"-c\", \"echo $0 >> {}\"]\n",
        said.display()
    );
    std::fs::write(&config, hook).expect("written");
    let mut rig = Rig::quick(&[]).await;
    let with_hook = |rig: &Rig| {
        let environment = [("PGSLUICE_SOURCE__URL", rig.old_url()), ("PGSLUICE_TARGET__URL", rig.new_url())];
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value));
        crate::config::load(Some(&config), environment).expect("a configuration")
    };
    rig.ctx.config = std::sync::Arc::new(with_hook(&rig));
    rig.stall_the_stream().await;
    let (_, running) = rig.start(CutoverMode::Cutover, Duration::from_secs(60)).await.expect("accepted");
    rig.until(|report| report.state == "draining").await;
    drop(running);
    run(&rig.old_url(), "SET lock_timeout = '2s'; INSERT INTO orders (note) VALUES ('free')").await;
    let Recovered::Aborted(report) = recover(rig.ctx.clone()).await.expect("recovered") else {
        panic!("aborted")
    };
    assert!(
        matches!(&report.outcome, Outcome::Aborted { reason, .. } if reason.contains("before the point of no return")),
        "{report:#?}"
    );
    let steps = std::fs::read_to_string(&said).expect("steps");
    assert_eq!(steps.split_whitespace().collect::<Vec<_>>(), ["prepare", "pause", "undo"]);
    assert!(matches!(recover(rig.ctx.clone()).await, Ok(Recovered::NothingToDo)));
}

#[tokio::test]
async fn a_process_that_dies_after_the_commit_is_finished_by_the_next_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("pgsluice.toml");
    std::fs::write(&config, "[[traffic]]\nadapter = \"manual\"\ninstruction = \"Move them.\"\n")
        .expect("written");
    let mut rig = Rig::quick(&[]).await;
    let environment = [("PGSLUICE_SOURCE__URL", rig.old_url()), ("PGSLUICE_TARGET__URL", rig.new_url())];
    let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value));
    rig.ctx.config =
        std::sync::Arc::new(crate::config::load(Some(&config), environment).expect("a configuration"));
    let (_, running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    rig.until(|report| report.state == "retargeting").await;
    assert!(matches!(running.abort(), Err(Refusal::PastThePointOfNoReturn { .. })));
    drop(running);
    // As if it had died between COMMIT and opening; the stream's progress record covers the marker.
    run(
        &rig.new_url(),
        "UPDATE pgsluice.gate SET is_open = false;
         CREATE TABLE pgsluice.progress (stream text, commit_lsn pg_lsn);
         INSERT INTO pgsluice.progress VALUES ('main', 'F/0')",
    )
    .await;
    let Recovered::RolledForward(_, mut running) = recover(rig.ctx.clone()).await.expect("recovered") else {
        panic!("the fence is committed")
    };
    rig.until(|report| report.state == "retargeting").await;
    run(&rig.new_url(), "INSERT INTO orders (note) VALUES ('open')").await;
    running.confirm().expect("it is waited for");
    let report = running.finished().await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(report.certificate.expect("evidence")["tables_locked"]["count"], 6);
    let again = recover(rig.ctx.clone()).await.expect("recovered");
    assert!(matches!(again, Recovered::RolledForward(report, _) if report.outcome == Outcome::Completed));
}

/// A rollback's COMMIT was under way when a start read the records: the older cutover is not finished once more, and the
/// records that the rollback's transaction has turned are not taken back.
#[tokio::test]
async fn a_cutover_that_was_rolled_back_since_is_not_finished_again() {
    let rig = Rig::quick(&[]).await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    assert_eq!(running.finished().await.outcome, Outcome::Completed);
    let target = rig.session(crate::model::Side::Target).await;
    crate::target::records::ensure(&target).await.expect("records");
    target
        .batch_execute(
            "CREATE TABLE pgsluice.fence AS SELECT 9::bigint AS epoch, 'n' AS nonce, 'there' AS moved_to, NULL::pg_lsn AS marker_lsn;
             INSERT INTO pgsluice.migration (source_system_id, source_database, target_system_id, slot, publication, phase)
               VALUES ('1', 'old', '2', 'pgsluice', 'pgsluice', 'streaming');
             INSERT INTO pgsluice.progress (stream, source_system_id, slot, commit_lsn) VALUES ('main', '1', 'pgsluice', '0/10')",
        )
        .await
        .expect("as a rollback leaves it");
    assert!(matches!(recover(rig.ctx.clone()).await, Ok(Recovered::NothingToDo)));
    crate::target::records::end_stream(&target).await.expect("nothing to do");
    assert_eq!(value(&target, "SELECT count(*) FROM pgsluice.progress").await, 1);
    assert_eq!(value(&target, "SELECT count(*) FROM pgsluice.migration WHERE phase = 'streaming'").await, 1);
    target.batch_execute("DELETE FROM pgsluice.fence").await.expect("lifted");
    crate::target::records::end_stream(&target).await.expect("recorded");
    assert_eq!(value(&target, "SELECT count(*) FROM pgsluice.progress").await, 0);
}

#[tokio::test]
async fn a_target_that_lost_its_last_moments_is_not_opened() {
    let rig = Rig::quick(&[]).await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    assert_eq!(running.finished().await.outcome, Outcome::Completed);
    run(
        &rig.new_url(),
        "UPDATE pgsluice.gate SET is_open = false; UPDATE pgsluice.cutover SET state = 'opening', outcome = 'running';
         CREATE TABLE pgsluice.progress (stream text, commit_lsn pg_lsn);
         INSERT INTO pgsluice.progress VALUES ('main', '0/1')",
    )
    .await;
    let recovered = recover(rig.ctx.clone()).await.expect("recovered");
    assert!(matches!(recovered, Recovered::RolledForward(..)));
    let mut board = rig.ctx.board.subscribe();
    let seen = board.wait_for(|status| {
        status.problem.as_ref().is_some_and(|problem| problem.message.contains("lost its last moments"))
    });
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("in time").expect("a board");
    let (code, ..) =
        error_of(&client(&rig.new_url()).await, "INSERT INTO orders (note) VALUES ('too early')").await;
    assert_eq!(code, "25006", "INV-8");
    drop(recovered);
    run(&rig.new_url(), "DELETE FROM pgsluice.cutover").await;
    let recovered = recover(rig.ctx.clone()).await.expect("recovered");
    assert!(
        matches!(recovered, Recovered::InDoubt(_)),
        "a journal that knows nothing of the fence: {recovered:?}"
    );
}

#[tokio::test]
async fn a_source_that_lost_the_fence_of_an_opened_target_gets_no_clients_back() {
    let rig = Rig::quick(&[]).await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    assert_eq!(running.finished().await.outcome, Outcome::Completed);
    // As after a failover of the source to a standby without the row.
    run(&rig.old_url(), "DELETE FROM pgsluice.fence").await;
    for (state, is_open) in
        [("opening", false), ("retargeting", true), ("resuming", true), ("committing", true)]
    {
        let died = format!(
            "UPDATE pgsluice.cutover SET state = '{state}', outcome = 'running', ended_at = NULL;
             UPDATE pgsluice.gate SET is_open = {is_open}"
        );
        run(&rig.new_url(), &died).await;
        let recovered = recover(rig.ctx.clone()).await.expect("recovered");
        assert!(matches!(recovered, Recovered::InDoubt(_)), "INV-8, {state}: {recovered:?}");
    }
    let died = "UPDATE pgsluice.cutover SET state = 'committing'; UPDATE pgsluice.gate SET is_open = false";
    run(&rig.new_url(), died).await;
    let recovered = recover(rig.ctx.clone()).await.expect("recovered");
    assert!(matches!(recovered, Recovered::Aborted(_)), "nothing was opened: {recovered:?}");
}

#[tokio::test]
async fn a_table_or_publication_that_does_not_carry_every_change_is_refused() {
    let rig = Rig::quick(&[]).await;
    for (harm, repair, said) in [
        ("CREATE TABLE late ()", "DROP TABLE late", "public.late"),
        (
            "ALTER PUBLICATION pgsluice SET (publish = 'insert')",
            "ALTER PUBLICATION pgsluice SET (publish = 'insert, update, delete, truncate')",
            "not as pgsluice made it",
        ),
        ("ALTER PUBLICATION pgsluice DROP TABLE items", "", "public.items"),
    ] {
        run(&rig.old_url(), harm).await;
        let refused = rig.start(CutoverMode::Cutover, PAUSE).await.expect_err(harm);
        assert!(refused.to_string().contains(said), "{refused}");
        run(&rig.old_url(), repair).await;
    }
}

#[tokio::test]
async fn a_publication_altered_while_it_is_armed_ends_it_before_the_pause() {
    let rig = Rig::quick(&[]).await;
    let blocker = client(&rig.new_url()).await;
    // The gate waits for this table, and arming with it.
    blocker.batch_execute("BEGIN; LOCK TABLE orders").await.expect("locked");
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    run(&rig.old_url(), "ALTER PUBLICATION pgsluice SET (publish = 'insert')").await;
    blocker.batch_execute("ROLLBACK").await.expect("released");
    let report = running.finished().await;
    let Outcome::Aborted { reason, .. } = &report.outcome else { panic!("{report:#?}") };
    assert!(reason.contains("not as pgsluice made it"), "{reason}");
    assert_eq!(report.pause, None, "writers never waited");
}

#[tokio::test]
async fn a_prepared_transaction_is_refused_by_name_before_anything_is_touched() {
    let rig = Rig::quick(&[]).await;
    run(&rig.old_url(), "BEGIN; INSERT INTO orders (note) VALUES ('2pc'); PREPARE TRANSACTION 'shop-1'")
        .await;
    let refused = rig.start(CutoverMode::Cutover, PAUSE).await.expect_err("in the way");
    assert!(refused.to_string().contains("shop-1"), "{refused}");
    assert_eq!(
        value(&client(&rig.old_url()).await, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice'")
            .await,
        0
    );
    run(&rig.old_url(), "ROLLBACK PREPARED 'shop-1'").await;
}

#[tokio::test]
async fn the_same_idempotency_key_names_the_same_operation() {
    let rig = Rig::quick(&[]).await;
    let request = crate::migration::CutoverRequest {
        direction: Direction::Forward,
        mode: CutoverMode::Rehearsal,
        max_pause: None,
        idempotency_key: Some("monday".into()),
        unverified: false,
        verification: None,
    };
    let (_, mut running) = start(rig.ctx.clone(), request.clone()).await.expect("accepted");
    let report = running.finished().await;
    let (again, mut ended) = start(rig.ctx.clone(), request).await.expect("known");
    assert_eq!((again.epoch, &again.outcome), (report.epoch, &Outcome::Completed));
    assert_eq!(ended.finished().await.epoch, report.epoch);
}

#[tokio::test]
async fn a_sequence_that_the_target_lacks_ends_it_before_the_pause() {
    let rig = Rig::quick(&[]).await;
    run(&rig.new_url(), "DROP SEQUENCE untouched").await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    let report = running.finished().await;
    let Outcome::Aborted { reason, .. } = &report.outcome else { panic!("{report:#?}") };
    assert!(reason.contains("untouched"), "{reason}");
    assert_eq!(report.pause, None, "writers never waited");
}

#[tokio::test]
async fn cleanup_after_a_rehearsal_leaves_both_catalogs_as_they_were() {
    const CATALOG: &str = "SELECT (SELECT count(*) FROM pg_class) + (SELECT count(*) FROM pg_proc)
        + (SELECT count(*) FROM pg_trigger) + (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_toast_temp|^pg_temp')
        + (SELECT count(*) FROM pg_depend WHERE classid <> 'pg_publication_rel'::regclass)";
    let mut rig = Rig::quick(&[]).await;
    let (old, new) = (client(&rig.old_url()).await, client(&rig.new_url()).await);
    // The publication is there before, as setup makes it; it is ours, and goes.
    let before = (value(&old, CATALOG).await, value(&new, CATALOG).await);
    rig.rehearse().await;
    rig.stall_the_stream().await;
    let config = std::sync::Arc::clone(&rig.ctx.config);
    let dry = cleanup(&config, CleanupOptions { dry_run: true, ..CleanupOptions::default() })
        .await
        .expect("a list");
    let done = cleanup(&config, CleanupOptions::default()).await.expect("removed");
    let subjects =
        |actions: &[CleanupAction]| actions.iter().map(|action| action.subject.clone()).collect::<Vec<_>>();
    assert_eq!(subjects(&dry), subjects(&done));
    assert!(dry.iter().all(|action| action.outcome != CleanupOutcome::Removed));
    assert_eq!((value(&old, CATALOG).await, value(&new, CATALOG).await), before, "{done:#?}");
    assert_eq!(value(&old, "SELECT count(*) FROM pg_replication_slots").await, 0);
    new.batch_execute("INSERT INTO orders (note) VALUES ('open')").await.expect("no gate");
    let again = cleanup(&config, CleanupOptions::default()).await.expect("nothing to do");
    assert!(again.iter().all(|action| matches!(action.outcome, CleanupOutcome::Kept { .. })), "{again:#?}");
}

#[tokio::test]
async fn cleanup_after_a_cutover_keeps_the_fence_until_told_otherwise() {
    let mut rig = Rig::quick(&[]).await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    assert_eq!(running.finished().await.outcome, Outcome::Completed);
    rig.stall_the_stream().await;
    let config = std::sync::Arc::clone(&rig.ctx.config);
    // A target that lost commits: its journal ends before the cutover, or knows another one (INV-8).
    for (lost, found) in [
        ("mode = 'rehearsal'", "mode = 'cutover'"),
        ("epoch = epoch + 1", "epoch = epoch - 1"),
        ("nonce = nonce || 'x'", "nonce = left(nonce, -1)"),
        ("outcome = 'running'", "outcome = 'completed'"),
    ] {
        let journal =
            |set: &str| format!("SET session_replication_role = replica; UPDATE pgsluice.cutover SET {set};");
        run(&rig.new_url(), &journal(lost)).await;
        let refused = cleanup(&config, CleanupOptions::default()).await;
        assert!(matches!(refused, Err(CleanupError::Unfinished { epoch: 1, .. })), "{lost}: {refused:?}");
        run(&rig.new_url(), &journal(found)).await;
    }
    run(&rig.new_url(), "ALTER TABLE pgsluice.cutover RENAME TO lost").await;
    let refused = cleanup(&config, CleanupOptions::default()).await;
    assert!(matches!(refused, Err(CleanupError::Unfinished { .. })), "no journal, but a gate: {refused:?}");
    run(&rig.new_url(), "ALTER TABLE pgsluice.lost RENAME TO cutover").await;
    let done = cleanup(&config, CleanupOptions::default()).await.expect("removed");
    cleanup(&config, CleanupOptions::default()).await.expect("nothing to do");
    assert!(
        done.iter().any(|action| action.subject.starts_with("fence")
            && matches!(&action.outcome, CleanupOutcome::Kept { why } if why.contains("--unfence-source"))),
        "{done:#?}"
    );
    let (code, ..) =
        error_of(&client(&rig.old_url()).await, "INSERT INTO orders (note) VALUES ('late')").await;
    assert_eq!(code, "25006");
    run(&rig.new_url(), "INSERT INTO orders (note) VALUES ('primary')").await;
    cleanup(&config, CleanupOptions { unfence_source: true, ..CleanupOptions::default() })
        .await
        .expect("removed");
    run(&rig.old_url(), "INSERT INTO orders (note) VALUES ('open again')").await;
    assert_eq!(
        value(&client(&rig.old_url()).await, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice'")
            .await,
        0
    );
}

#[tokio::test]
async fn an_owner_without_superuser_can_rehearse_and_cut_over() {
    let rig = Rig::pair(14, 17, &[]).await;
    let setup = "CREATE ROLE owner LOGIN PASSWORD 'secret' REPLICATION;";
    run(&rig.old_url(), setup).await;
    run(&rig.new_url(), setup).await;
    let own = "DO $$ DECLARE r record; BEGIN
        FOR r IN SELECT c.oid::regclass AS name, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE (n.nspname = 'public' OR n.nspname LIKE 'Odd%') AND (c.relkind IN ('r', 'p') OR c.relkind = 'S' AND NOT EXISTS (
                SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i'))) LOOP
          EXECUTE format('ALTER %s %s OWNER TO owner', CASE r.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, r.name);
        END LOOP; END $$; ALTER SCHEMA \"Odd \"\"Names\"\"\" OWNER TO owner";
    run(&rig.old_url(), own).await;
    run(&rig.new_url(), own).await;
    run(&rig.old_url(), "GRANT CREATE ON DATABASE old TO owner").await;
    run(&rig.new_url(), "GRANT CREATE ON DATABASE new TO owner").await;
    let environment = [
        ("PGSLUICE_SOURCE__URL".to_owned(), rig.source.url_as("owner", "secret", "old")),
        (
            "PGSLUICE_TARGET__URL".to_owned(),
            rig.target.as_ref().expect("a pair").url_as("owner", "secret", "new"),
        ),
    ];
    let mut ctx = rig.ctx.clone();
    ctx.config =
        std::sync::Arc::new(crate::config::load(None, environment.into_iter()).expect("a configuration"));
    for mode in [CutoverMode::Rehearsal, CutoverMode::Cutover] {
        let request = crate::migration::CutoverRequest {
            mode,
            direction: Direction::Forward,
            max_pause: Some(PAUSE),
            idempotency_key: None,
            unverified: false,
            verification: None,
        };
        let (_, mut running) = start(ctx.clone(), request).await.expect("accepted");
        let report = running.finished().await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    }
    let (code, ..) =
        error_of(&client(&rig.old_url()).await, "INSERT INTO orders (note) VALUES ('late')").await;
    assert_eq!(code, "25006", "superusers are refused as well");
}

#[tokio::test]
async fn a_partition_made_between_arming_and_locking_ends_it_by_name() {
    let rig = Rig::quick(&[]).await;
    rig.rehearse().await;
    let control = crate::connection::connect_sql(
        &rig.ctx.config.source.connection,
        crate::model::Side::Source,
        "control",
    )
    .await
    .expect("a session");
    let session = crate::connection::connect_sql(
        &rig.ctx.config.source.connection,
        crate::model::Side::Source,
        "fence",
    )
    .await
    .expect("a session");
    let terms = crate::source::fence::FenceTerms {
        epoch: 9,
        nonce: Nonce::random(),
        publication: "pgsluice".into(),
        moved_to: "elsewhere".into(),
        max_pause: PAUSE,
        on_writers: crate::config::OnWriters::Wait,
        lock_out: false,
    };
    let plan = crate::source::fence::read_plan(&control, "pgsluice").await.expect("a plan");
    crate::source::fence::arm(&control, &plan, &terms, Default::default()).await.expect("armed");
    let mut fence = crate::source::fence::Fence::prepare(session, plan).await.expect("a fence");
    run(
        &rig.old_url(),
        "CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    )
    .await;
    let error = fence.take(&control, &terms).await.expect_err("the set has changed");
    assert!(error.to_string().contains("public.events_2025"), "{error}");
    fence.release(&control).await.expect("released");
    run(&rig.old_url(), "INSERT INTO events VALUES ('2025-02-02', 1)").await;
    // A fence transaction that is gone cannot be committed by mistake.
    let answer = fence.commit(&terms, crate::model::Lsn::new(1), "").await;
    assert!(matches!(answer, crate::source::fence::CommitAnswer::Unknown(_)), "{answer:?}");
    let truth = crate::source::fence::read_truth(&control, PAUSE).await.expect("read");
    assert_eq!(truth, None);
}

#[tokio::test]
async fn the_fence_row_is_not_read_while_the_fence_is_open() {
    let mut rig = Rig::quick(&[]).await;
    rig.stall_the_stream().await;
    let (_, mut running) =
        rig.start(CutoverMode::Rehearsal, Duration::from_secs(60)).await.expect("accepted");
    rig.until(|report| report.state == "draining").await;
    let session = client(&rig.old_url()).await;
    let unsure = crate::source::fence::read_truth(&session, Duration::from_millis(50)).await;
    assert!(matches!(unsure, Err(crate::source::fence::FenceError::StillOpen)), "{unsure:?}");
    running.abort().expect("aborted");
    running.finished().await;
    assert_eq!(crate::source::fence::read_truth(&session, PAUSE).await.expect("read"), None);
}

#[tokio::test]
async fn a_commit_that_is_not_answered_holds_both_sides_closed_until_the_source_says() {
    let mut rig = Rig::pair(14, 17, &[]).await;
    rig.stall_the_stream().await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, Duration::from_secs(60)).await.expect("accepted");
    rig.until(|report| report.state == "draining").await;
    let old = client(&rig.old_url()).await;
    let marked =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgsluice marker' AND state = 'idle'
        AND query LIKE '%emit_message%'";
    while value(&old, marked).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // From now on every COMMIT on the source waits for a standby that does not exist.
    let admin = client(&rig.source.url("postgres")).await;
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.expect("set");
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("reloaded");
    let probe = client(&rig.source.url("postgres")).await;
    let probing = tokio::spawn(async move { probe.batch_execute("CREATE TABLE probe ()").await });
    while value(&old, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.let_the_stream_run();

    let report = rig.until(|report| matches!(report.outcome, Outcome::InDoubt { .. })).await;
    assert_eq!(report.state, "in_doubt");
    assert!(running.abort().is_err(), "what may be committed cannot be aborted");
    let (code, ..) =
        error_of(&client(&rig.new_url()).await, "INSERT INTO orders (note) VALUES ('early')").await;
    assert_eq!(code, "25006", "INV-8");
    let write = "SET lock_timeout = 200; INSERT INTO orders (note) VALUES ('hopeful')";
    let (code, ..) = error_of(&client(&rig.old_url()).await, write).await;
    assert_eq!(code, "55P03", "the source is neither open nor fenced yet");

    admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.expect("reset");
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("reloaded");
    let report = running.finished().await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(rig.ctx.board.with(|status| status.problem.clone()), None);
    probing.await.expect("ends").expect("the probe goes on");
    run(&rig.new_url(), "INSERT INTO orders (note) VALUES ('primary')").await;
}

#[tokio::test]
async fn a_source_that_crashes_inside_the_pause_comes_back_without_a_fence() {
    let mut rig = Rig::pair(14, 17, &[]).await;
    rig.stall_the_stream().await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, Duration::from_secs(60)).await.expect("accepted");
    rig.until(|report| report.state == "draining").await;
    rig.source.stop(crate::demo::cluster::StopMode::Kill).await.expect("killed");
    let report = running.finished().await;
    assert!(matches!(report.outcome, Outcome::Aborted { .. }), "{report:#?}");
    rig.source.start_again().await.expect("back");
    run(&rig.old_url(), "INSERT INTO orders (note) VALUES ('as before')").await;
    let recovered = recover(rig.ctx.clone()).await.expect("recovered");
    assert!(matches!(recovered, Recovered::NothingToDo), "{recovered:?}");
}

#[tokio::test]
async fn every_version_can_be_fenced() {
    for major in [15, 16, 18] {
        let rig = Rig::quick_on(major, &[]).await;
        rig.rehearse().await;
        let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
        let report = running.finished().await;
        assert_eq!(report.outcome, Outcome::Completed, "{major}: {report:#?}");
        let (code, ..) = error_of(&client(&rig.old_url()).await, "UPDATE items SET note = 'late'").await;
        assert_eq!(code, "25006", "{major}");
    }
}

#[tokio::test]
async fn a_running_autovacuum_does_not_hold_the_fence_up() {
    let rig = Rig::quick(&[]).await;
    rig.rehearse().await;
    run(
        &rig.old_url(),
        "INSERT INTO items (note) SELECT repeat('x', 300) FROM generate_series(1, 20000); DELETE FROM items;
         ALTER TABLE items SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
    )
    .await;
    run(&rig.source.url("postgres"), "ALTER SYSTEM SET autovacuum_naptime = 1").await;
    run(&rig.source.url("postgres"), "SELECT pg_reload_conf()").await;
    let old = client(&rig.old_url()).await;
    let working = "SELECT count(*) FROM pg_stat_progress_vacuum WHERE relid = 'items'::regclass";
    while value(&old, working).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, mut running) = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect("accepted");
    let report = running.finished().await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    println!("pause with autovacuum in the way: {:?}", report.pause);
}

#[tokio::test]
async fn a_thousand_tables_and_a_hundred_sequences_take_one_short_pause() {
    let rig = Rig::pair(14, 17, &[]).await;
    let tables = "DO $$ BEGIN FOR i IN 1..1000 LOOP
        EXECUTE format('CREATE TABLE many_%s (id %s PRIMARY KEY, note text)', i, CASE WHEN i <= 94 THEN 'serial' ELSE 'int' END);
      END LOOP; END $$";
    run(&rig.old_url(), tables).await;
    run(&rig.new_url(), tables).await;
    let publish = "DO $$ BEGIN EXECUTE (SELECT 'ALTER PUBLICATION pgsluice ADD TABLE ' || string_agg('many_' || i, ', ')
                     FROM generate_series(1, 1000) AS i); END $$";
    run(&rig.old_url(), publish).await;
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let (_, mut running) = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect("accepted");
        let report = running.finished().await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        println!("{:?}", report.steps.iter().map(|step| (step.name, step.duration)).collect::<Vec<_>>());
        pauses.push(report.pause.expect("measured"));
    }
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    let report = running.finished().await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    println!("{:?}", report.steps.iter().map(|step| (step.name, step.duration)).collect::<Vec<_>>());
    println!("rehearsals: {pauses:?}; cutover: {:?}", report.pause);
    // The figure for the record is printed; the bound leaves room for a busy machine.
    assert!(pauses.iter().min().expect("some") < &Duration::from_millis(500), "{pauses:?}");
}
