//! The workload and the ledger judge: they must neither miss a lost transaction nor invent one.

use std::time::Duration;

use pgsluice::demo::cluster::StopMode;
use pgsluice::demo::ledger;
use pgsluice::demo::store::{self, Scale};
use pgsluice::demo::workload::{Workload, WorkloadOptions};

use crate::harness::clusters::{connect, start};
use crate::harness::wait::until;

const SMALL: Scale = Scale::times(0.02);

fn options() -> WorkloadOptions {
    WorkloadOptions { writers: 4, seed: 7, scale: SMALL, transactions_per_second_max: None }
}

#[tokio::test]
async fn the_ledger_judge_sees_a_lost_and_a_doubled_transaction_and_nothing_else() {
    let cluster = start(14).await;
    let url = cluster.url("postgres");
    store::create(&url, SMALL).await.expect("store");
    let workload = Workload::start(&url, options());
    until("300 transactions", || async { workload.acknowledged() >= 300 }).await;
    let record = workload.stop().await;
    assert!(record.errors_by_code().is_empty(), "{:?}", record.errors_by_code());

    let check = ledger::check(&url, &record).await.expect("check");
    assert_eq!((check.missing, check.duplicates), (0, 0));
    assert_eq!(check.acknowledged, record.acknowledged());

    let client = connect(&url).await;
    client
        .batch_execute(
            "DELETE FROM ledger WHERE client = 1 AND seq = 3;
             INSERT INTO ledger (client, seq, action) VALUES (2, 5, 'twice')",
        )
        .await
        .expect("damage");
    let check = ledger::check(&url, &record).await.expect("check");
    assert_eq!((check.missing, check.duplicates), (1, 1));
}

#[tokio::test]
async fn clients_survive_crashes_of_their_server_without_losing_or_doubling_anything() {
    let mut cluster = start(17).await;
    let url = cluster.url("postgres");
    store::create(&url, SMALL).await.expect("store");
    let workload = Workload::start(&url, options());
    for round in 1..=3_u64 {
        until("progress", || async { workload.acknowledged() >= round * 200 }).await;
        cluster.stop(StopMode::Immediate).await.expect("crash");
        cluster.start_again().await.expect("recovery");
    }
    until("progress after the last crash", || async { workload.acknowledged() >= 1_000 }).await;
    let record = workload.stop().await;
    let check = ledger::check(&url, &record).await.expect("check");
    assert_eq!((check.missing, check.duplicates), (0, 0), "{:?}", record.errors_by_code());
    assert!(record.longest_wait() > Duration::from_millis(1));
}

#[tokio::test]
async fn clients_go_to_the_server_they_are_told() {
    let (first, second) = (start(14).await, start(15).await);
    for cluster in [&first, &second] {
        store::create(&cluster.url("postgres"), SMALL).await.expect("store");
    }
    let workload = Workload::start(first.url("postgres"), options());
    until("traffic on the first server", || async { workload.acknowledged() >= 50 }).await;
    workload.redirect(second.url("postgres"));
    let before = workload.acknowledged();
    until("traffic on the second server", || async { workload.acknowledged() >= before + 200 }).await;
    let record = workload.stop().await;
    let entries: i64 = connect(&second.url("postgres"))
        .await
        .query_one("SELECT count(*) FROM ledger", &[])
        .await
        .expect("count")
        .get(0);
    assert!(entries >= 190, "{entries} entries, {} acknowledged", record.acknowledged());
    assert!(record.errors_by_code().is_empty(), "{:?}", record.errors_by_code());
}
