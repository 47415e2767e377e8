//! Commits that are in the WAL, and streamed, and not visible: a synchronous standby of the source does not answer.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::harness::stage::Stage;
use crate::harness::two_tables::{PAIR, kill};
use crate::harness::unanswered::{are_waiting, until_waiting, with_an_answer, without_an_answer};

use super::{SLOW, begun, ends_well, execute, half_copied, least_key_of_the_last_chunk, ordered};

/// Writes to chunks that are in and to chunks that are not; each waits.
async fn writes_that_wait(stage: &Stage, source: &Client, last: i64) -> JoinSet<()> {
    let statements = [
        format!("INSERT INTO ordered VALUES ({}, 1, 'inserted')", last + 100_000),
        format!("UPDATE ordered SET n = 1 WHERE id BETWEEN {} AND {}", last, last + 3),
        format!("DELETE FROM ordered WHERE id = {}", last + 4),
        "UPDATE ordered SET n = 1 WHERE id = 1".to_owned(),
        "INSERT INTO ordered VALUES (-5, 1, 'inserted')".to_owned(),
        format!("UPDATE ordered SET id = -6 WHERE id = {}", last + 6),
        format!("UPDATE ordered SET id = {} WHERE id = 7", last + 200_000),
        // The session that commits it has no transaction id.
        "COMMIT PREPARED 'beforehand'".to_owned(),
    ];
    let prepared = format!(
        "BEGIN; UPDATE ordered SET n = 1 WHERE id = {}; INSERT INTO ordered VALUES ({}, 1, 'prepared'); PREPARE TRANSACTION 'beforehand'",
        last + 8,
        last + 300_000
    );
    execute(source, &prepared).await;
    without_an_answer(source).await;
    let count = statements.len();
    let mut tasks = JoinSet::new();
    for statement in statements {
        let client = stage.source_client().await;
        tasks.spawn(async move { execute(&client, &statement).await });
    }
    until_waiting(source, count).await;
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_for_a_standby_are_in_the_copy_or_in_the_stream() {
    let (stage, source, target, mut replicator) = begun(PAIR, &ordered(), SLOW).await;
    half_copied(&target, "ordered", 2).await;
    let last = least_key_of_the_last_chunk(&target, "ordered").await;
    let tasks = writes_that_wait(&stage, &source, last).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    with_an_answer(&source).await;
    tasks.join_all().await;
    ends_well(&stage, &mut replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_after_sudden_death_in_between() {
    let (stage, source, target, mut replicator) = begun(PAIR, &ordered(), SLOW).await;
    half_copied(&target, "ordered", 2).await;
    let last = least_key_of_the_last_chunk(&target, "ordered").await;
    let tasks = writes_that_wait(&stage, &source, last).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    kill(&mut replicator).await;
    let mut replicator = stage.command(SLOW).start().expect("the program");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(are_waiting(&source, 8).await, "they wait all the time");
    with_an_answer(&source).await;
    tasks.join_all().await;
    ends_well(&stage, &mut replicator).await;
}
