//! Transactions that want what the fence has while they have what it wants, and those that would slip past it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use super::PAUSE;
use super::rig::{Rig, client, run};
use super::writers::Latecomer;
use crate::config::TrafficConfig;
use crate::cutover::Outcome;
use crate::migration::CutoverMode;

/// The definitions are held still before writers are: whoever has written and then wants one must not wait for us for ever.
#[tokio::test]
async fn writers_that_want_a_definition_later_meet_no_error_and_are_fenced() {
    let rig = Rig::quick(&[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for statements in [
        "BEGIN; INSERT INTO orders (note) VALUES ('a'); SELECT pg_sleep(0.01); ANALYZE orders; COMMIT",
        "BEGIN; INSERT INTO orders (note) VALUES ('b'); SELECT pg_sleep(0.01); TRUNCATE items; COMMIT",
    ] {
        let (url, stop) = (rig.old_url(), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let session = client(&url).await;
            while !stop.load(Ordering::Relaxed) {
                session.batch_execute(statements).await.expect("no error for writers");
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }));
    }
    for _ in 0..5 {
        let (_, mut running) = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect("accepted");
        let report = running.finished().await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        let fenced = report.steps.iter().find(|step| step.name == "fence_source").expect("a fence");
        println!("{:?} {:?}", fenced.duration, fenced.detail);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("no writer met an error");
    }
}

/// It waits for a sequence, which lets it go on after a commit: its table would be left behind with what is in it.
#[tokio::test]
async fn a_table_made_by_somebody_who_waits_for_the_fence_ends_it() {
    let rig = Rig::quick(&[]).await;
    let maker = client(&rig.old_url()).await;
    maker
        .batch_execute("BEGIN; CREATE TABLE mine (id int); INSERT INTO mine VALUES (1)")
        .await
        .expect("made");
    let (_, mut running) = rig.start(CutoverMode::Cutover, Duration::from_secs(20)).await.expect("accepted");
    rig.until(|report| report.state == "fencing").await;
    maker.batch_execute("SELECT nextval('untouched'); COMMIT").await.expect("it is let go");
    let report = running.finished().await;
    let Outcome::Aborted { reason, .. } = &report.outcome else { panic!("{report:#?}") };
    assert!(reason.contains("public.mine"), "{reason}");
}

#[tokio::test]
async fn only_who_was_in_the_way_is_terminated() {
    let mut rig = Rig::quick(&[("PGSLUICE_CUTOVER__ON_WRITERS", "terminate")]).await;
    let latecomer = Latecomer::of(&mut rig);
    let mut others = Vec::new();
    for _ in 0..6 {
        let session = client(&rig.old_url()).await;
        others.push(tokio::spawn(async move { until_refused(&session).await }));
    }
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    let report = running.finished().await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert!(latecomer.writer().await.batch_execute("COMMIT").await.is_err(), "it was in the way");
    for other in others {
        assert_eq!(other.await.expect("it ends"), "25006", "who only waits is not terminated");
    }
}

async fn until_refused(session: &Client) -> String {
    loop {
        if let Err(error) = session.batch_execute("INSERT INTO items (note) VALUES ('x')").await {
            return error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned());
        }
    }
}

/// A statement that names the parent writes the child's rows, and fires no trigger of the child.
#[tokio::test]
async fn a_child_of_a_table_that_is_not_migrated_is_refused() {
    let rig = Rig::quick(&[]).await;
    run(&rig.old_url(), "CREATE UNLOGGED TABLE elder (LIKE orders); ALTER TABLE orders INHERIT elder").await;
    let refused = rig.start(CutoverMode::Rehearsal, PAUSE).await.expect_err("it is refused");
    assert!(refused.to_string().contains("public.orders inherits from public.elder"), "{refused}");
}

/// A pod that ends, say, may have to: and others would wait behind it.
#[tokio::test]
async fn a_definition_is_to_be_had_while_clients_are_being_paused() {
    let mut rig = Rig::quick(&[]).await;
    let mut config = (*rig.ctx.config).clone();
    let script = "if [ \"$0\" = pause ]; then sleep 1; fi";
    config.traffic = vec![TrafficConfig::Exec {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: Duration::from_secs(10),
    }];
    rig.ctx.config = Arc::new(config);
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    rig.until(|report| report.state == "pausing").await;
    run(&rig.old_url(), "SET lock_timeout = 600; TRUNCATE items").await;
    assert_eq!(running.report().state, "pausing", "it was had meanwhile");
    assert_eq!(running.finished().await.outcome, Outcome::Completed);
}
