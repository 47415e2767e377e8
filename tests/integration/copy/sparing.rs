//! What the copy does not do to the source: keep its WAL beyond a limit, hold its xmin horizon for longer than a chunk takes.

use std::time::{Duration, Instant};

use crate::harness::stage::text;
use crate::harness::two_tables::{PAIR, intruder};
use crate::harness::wait::until;

use super::{SLOW, begun, chunks_joined, ends_well, execute, half_copied, number, ordered};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_retained_wal_pauses_the_copy_until_the_stream_has_caught_up() {
    let more = format!("{SLOW}snapshot.max_wal_retained_bytes = \"24MB\"\n");
    let schema = format!("{}; CREATE TABLE filler (id int PRIMARY KEY, v text)", ordered());
    let (stage, source, target, mut replicator) = begun(PAIR, &schema, &more).await;
    half_copied(&target, "ordered", 2).await;
    // Nobody but the stream needs this row.
    let holder = intruder(&stage).await;
    execute(&holder, "BEGIN; SELECT FROM ordered WHERE id = 1 FOR UPDATE").await;
    execute(&source, "UPDATE ordered SET n = n + 1 WHERE id = 1").await;
    for _ in 0..32 {
        execute(&source, "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1024 * 1024))").await;
    }
    let paused = replicator
        .wait_for_status("a pause", Duration::from_secs(60), |status| {
            status.problem.as_ref().is_some_and(|problem| {
                problem.remedy.contains("max_wal_retained_bytes") || problem.message.contains("WAL")
            })
        })
        .await;
    let said = paused.unwrap_or_else(|error| panic!("{error}")).problem.expect("checked above");
    // What was under way comes to its end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = chunks_joined(&target, "ordered").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(chunks_joined(&target, "ordered").await, before, "{said:?}");
    let left = "SELECT count(*) FROM pgsluice.copy_chunk WHERE state <> 'joined'";
    assert!(number(&target, left).await > 0, "nothing was left to pause");
    execute(&holder, "COMMIT").await;
    execute(&source, "CHECKPOINT").await;
    ends_well(&stage, &mut replicator).await;
    assert!(replicator.api().status().await.expect("status").problem.is_none());
    println!("paused: {} {}", said.message, said.remedy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_snapshot_on_the_source_is_older_than_a_chunk_takes() {
    let (stage, source, target, mut replicator) = begun(PAIR, &ordered(), SLOW).await;
    until("the first chunk", || async { chunks_joined(&target, "ordered").await > 0 }).await;
    let oldest = "SELECT coalesce(min(backend_xmin::text::bigint), 0) FROM pg_stat_activity WHERE application_name LIKE 'pgsluice%'";
    let (begun_at, mut held, mut longest, mut horizons) = (Instant::now(), None, Duration::ZERO, 0);
    while replicator.api().status().await.is_ok_and(|status| status.phase == "snapshot") {
        // The next snapshot is another one.
        execute(&source, "INSERT INTO ordered (id, note) SELECT max(id) + 1, 'new' FROM ordered").await;
        let xmin = number(&source, oldest).await;
        match held {
            Some((known, since)) if known == xmin && xmin > 0 => {
                longest = longest.max(Instant::elapsed(&since))
            }
            _ => {
                held = Some((xmin, Instant::now()));
                horizons += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let copying = begun_at.elapsed();
    let slot = text(&source, "SELECT coalesce(xmin::text, 'none') FROM pg_replication_slots").await;
    assert_eq!(slot, "none", "the slot holds rows");
    let chunk = "SELECT max(extract(epoch FROM joined_at - begun_at))::float8 FROM pgsluice.copy_chunk";
    let chunk: f64 = target.query_one(chunk, &[]).await.expect("chunks").get(0);
    ends_well(&stage, &mut replicator).await;
    println!(
        "copied in {copying:?}: {horizons} horizons, the oldest held for {longest:?}; the longest chunk took {chunk} s"
    );
    assert!(horizons > 4, "{horizons}");
    assert!(longest < Duration::from_secs_f64(chunk) + Duration::from_secs(2), "{longest:?} and {chunk} s");
    assert!(longest < copying / 2, "{longest:?} of {copying:?}");
}
