//! What makes chunks worthless that are in: the table is emptied, rows move into them of which the stream has not everything, the
//! table gets another column.

use crate::harness::stage::Pair;
use crate::harness::two_tables::{PAIR, intruder, problem};
use crate::harness::unanswered::{with_an_answer, without_an_answer};
use crate::harness::wait::until;

use super::{
    SLOW, begun, chunks_joined, ends_well, execute, half_copied, least_key_of_the_last_chunk, number,
    ordered, toasted,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_emptied_when_half_of_it_is_in_is_copied_as_it_is_then() {
    let (stage, source, target, mut replicator) = begun(PAIR, &ordered(), SLOW).await;
    half_copied(&target, "ordered", 3).await;
    execute(
        &source,
        "BEGIN; TRUNCATE ordered; INSERT INTO ordered VALUES (1, 1, 'in the same transaction'), (2900, 1, 'too'); COMMIT;
         INSERT INTO ordered VALUES (2, 2, 'after it'), (2901, 2, 'too'); UPDATE ordered SET n = 3 WHERE id = 2900",
    )
    .await;
    ends_well(&stage, &mut replicator).await;
    assert!(replicator.log().contains("a chunk is copied again"), "{}", replicator.log());
    assert_eq!(number(&target, "SELECT count(*) FROM ordered").await, 4);
}

/// Trap 10: the message has no value that did not change out of line, and the row is in no copy of where it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_moves_into_a_chunk_that_is_in_without_its_long_value_brings_it_along() {
    let (stage, source, target, mut replicator) = begun(PAIR, &toasted(), SLOW).await;
    half_copied(&target, "toasted", 2).await;
    execute(
        &source,
        "UPDATE toasted SET id = -1 WHERE id = 250; UPDATE toasted SET id = -2, body = body || 'x' WHERE id = 249;
         BEGIN; UPDATE toasted SET n = 1 WHERE id = 2; SAVEPOINT s; UPDATE toasted SET id = -3 WHERE id = 248; ROLLBACK TO s;
         UPDATE toasted SET id = -4 WHERE id = 247; UPDATE toasted SET id = 247 WHERE id = 1; COMMIT;
         UPDATE toasted SET n = 2 WHERE id = -1; DELETE FROM toasted WHERE id = -4",
    )
    .await;
    ends_well(&stage, &mut replicator).await;
    assert!(replicator.log().contains("a chunk is copied again"), "{}", replicator.log());
    assert_eq!(number(&target, "SELECT count(*) FROM toasted WHERE id < 0").await, 2);
}

/// The target's transaction is open, has condemned a chunk, and waits for another chunk of the same table, which is recorded in
/// the same place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_that_condemns_one_chunk_and_waits_for_another_holds_nobody_up() {
    let more = format!("{SLOW}apply.max_batch_bytes = \"64kB\"\napply.connections = 1\n");
    let (stage, source, target, mut replicator) = begun(PAIR, &toasted(), &more).await;
    half_copied(&target, "toasted", 2).await;
    // Every chunk is touched, the ones that are in first: the one under way is among them, whenever this commits.
    for round in 0..4 {
        execute(
            &source,
            &format!(
                "BEGIN; UPDATE toasted SET n = n + 1, body = body || 'y' WHERE id BETWEEN 1 AND 12;
                 UPDATE toasted SET id = -1 - {round} WHERE id = 250 - {round};
                 UPDATE toasted SET n = n + 1, body = body || 'z' WHERE id BETWEEN 13 AND 30;
                 UPDATE toasted SET n = n + 1 WHERE id > 12; COMMIT"
            ),
        )
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    }
    ends_well(&stage, &mut replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_added_in_the_middle_of_the_copy_arrives_once_the_target_has_it() {
    let (stage, source, target, mut replicator) = begun(PAIR, &ordered(), SLOW).await;
    half_copied(&target, "ordered", 3).await;
    let alter = "ALTER TABLE public.ordered ADD COLUMN extra int NOT NULL DEFAULT 7";
    execute(&source, alter).await;
    execute(
        &source,
        "INSERT INTO ordered VALUES (-1, 1, 'new', 8); UPDATE ordered SET extra = 9 WHERE id IN (1, 2999)",
    )
    .await;
    let said = problem(&mut replicator, "waiting_for_operator").await;
    assert!(said.contains("extra") && said.contains("ordered"), "{said}");
    let before = chunks_joined(&target, "ordered").await;
    execute(&intruder(&stage).await, alter).await;
    ends_well(&stage, &mut replicator).await;
    assert!(before >= 3);
    until("the problem to be over", || async {
        replicator.api().status().await.is_ok_and(|status| status.problem.is_none())
    })
    .await;
}

/// A row leaves a chunk that is not in for one that is, while its transaction is not visible yet on the source: the snapshot of the
/// chunk it has left must not be one that still has it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_moves_before_it_is_seen_to_is_not_doubled() {
    let (stage, source, target, mut replicator) = begun(Pair::of(14, 17), &ordered(), SLOW).await;
    half_copied(&target, "ordered", 3).await;
    let last = least_key_of_the_last_chunk(&target, "ordered").await;
    without_an_answer(&source).await;
    let moving = stage.source_client().await;
    let statement = format!("UPDATE ordered SET id = -1 WHERE id = {}", last + 5);
    let moved = tokio::spawn(async move { moving.batch_execute(&statement).await });
    until("the row on the target", || async {
        number(&target, "SELECT count(*) FROM ordered WHERE id = -1").await == 1
    })
    .await;
    // Long enough for the rest of the copy, if nothing kept it.
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    with_an_answer(&source).await;
    moved.await.expect("a task").expect("an update");
    ends_well(&stage, &mut replicator).await;
}
