//! A verification speaks for the tables that it has compared: one that joins the migration afterwards is not among them.

use pgsluice::control::dto::{CutoverModeRecord, CutoverRequestRecord, TablesRecord};
use pgsluice::demo::replicator::Replicator;

use super::{FAST, verify};
use crate::harness::stage::{Pair, Stage, end_of, streaming};
use crate::harness::two_tables::kill;
use crate::harness::wait::until;

const CUTOVER: CutoverRequestRecord = CutoverRequestRecord {
    mode: Some(CutoverModeRecord::Cutover),
    max_pause_ms: Some(20_000),
    unverified: false,
};

/// Why a cutover is refused that nobody has said may go unverified.
async fn refusal(replicator: &Replicator, key: &str) -> String {
    let asked = replicator.api().start_cutover(CUTOVER, key).await;
    asked.expect_err("nothing vouches for the rows").to_string()
}

async fn is_joined(replicator: &Replicator, table: &str) -> bool {
    let (_, body) = replicator.api().get("/v1/tables").await.expect("tables");
    let tables: TablesRecord = serde_json::from_str(&body).expect("tables");
    let standing = tables.tables.into_iter().find(|known| known.plain() == table);
    standing.is_some_and(|known| known.state == "joined" && known.reason.is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cutover_begins_before_what_has_joined_is_verified_too() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    let source = stage.source_client().await;
    let sql = "CREATE TABLE early (id int PRIMARY KEY); INSERT INTO early SELECT generate_series(1, 100)";
    source.batch_execute(sql).await.expect("schema");
    let mut replicator = stage.streaming().await;
    stage.caught_up().await;
    let first = verify(&replicator, FAST).await;
    assert_eq!((first.outcome.as_str(), first.rows_compared), ("clean", 100), "{first:#?}");

    let late = "CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late SELECT generate_series(1, 50)";
    source.batch_execute(late).await.expect("a table");
    let adding = stage.run(&["tables", "add", "public.late"]);
    assert!(adding.status.success(), "{}", String::from_utf8_lossy(&adding.stderr));
    until("the table has joined", || is_joined(&replicator, "public.late")).await;
    stage.caught_up().await;
    let why = format!("1 table has joined after the last verification ({}) began", first.number);
    let refused = refusal(&replicator, "joined").await;
    assert!(refused.contains(&why) && refused.contains("`pgsluice verify`"), "{refused}");

    // Another process knows it as well.
    kill(&mut replicator).await;
    let mut replicator = stage.command("").start().expect("the program");
    streaming(&mut replicator).await;
    let refused = refusal(&replicator, "after a restart").await;
    assert!(refused.contains(&why), "{refused}");

    let second = verify(&replicator, FAST).await;
    assert_eq!((second.outcome.as_str(), second.rows_compared), ("clean", 150), "{second:#?}");
    let accepted = match replicator.api().start_cutover(CUTOVER, "verified").await {
        Ok(accepted) => accepted,
        Err(refused) => panic!("{refused}\n{}", replicator.log()),
    };
    let cutover = end_of(&mut replicator, &accepted).await;
    assert_eq!(cutover.outcome, "completed", "{cutover:#?}");
    let certificate = cutover.certificate.expect("it has ended");
    assert_eq!(certificate["verification"]["overridden"], serde_json::Value::Null, "{certificate:#}");
    assert_eq!(certificate["verification"]["last"]["rows_compared"], 150, "{certificate:#}");
}
