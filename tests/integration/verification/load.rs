//! No false alarms: verifications one after the other while many sessions write, with transactions of every kind, and none of them finds
//! anything. The rows that were in flight when they were looked at are counted: without them the test would prove nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgsluice::demo::replicator::Replicator;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::{FAST, size, verify};
use crate::harness::clusters::connect;
use crate::harness::seed;
use crate::harness::stage::{Pair, Stage};

const SCHEMA: &str = "
CREATE TABLE hot (id int PRIMARY KEY, n bigint, v text);
INSERT INTO hot SELECT i, 0, 'v' FROM generate_series(1, 20) i;
CREATE TABLE busy (id bigint PRIMARY KEY, owner int, n bigint, v text);
INSERT INTO busy SELECT i, i % 50, 0, repeat('v', i % 200) FROM generate_series(1, 30000) i;
CREATE TABLE log (at timestamptz, who int, what text);
ALTER TABLE log REPLICA IDENTITY FULL;
CREATE TABLE big (id int PRIMARY KEY, body text);
ALTER TABLE big ALTER body SET STORAGE EXTERNAL;
INSERT INTO big SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 200) i";
const WRITERS: u64 = 8;

#[tokio::test]
async fn verifications_under_heavy_load_find_nothing() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    let replicator = stage.streaming().await;
    find_nothing(&stage, replicator, size("PGSLUICE_VERIFY_RUNS", 12)).await;
}

/// Of what one transaction of the source has changed, some is committed on the target and some is still gathered when a verification
/// asks the stream to halt.
#[tokio::test]
async fn verifications_beside_several_connections_that_apply_find_nothing() {
    let stage = Stage::new(Pair::of(14, 17)).await;
    stage.source_client().await.batch_execute(SCHEMA).await.expect("schema");
    let lanes = "apply.connections = 3\napply.max_batch_delay_ms = 300\nverify.piece_bytes = \"16MiB\"";
    let replicator = stage.streaming_with(lanes).await;
    let applying = tokio::spawn(sessions_that_apply(stage.target_url()));
    find_nothing(&stage, replicator, size("PGSLUICE_VERIFY_RUNS", 12).div_ceil(2)).await;
    stage.target_client().await.batch_execute("CREATE TABLE verified ()").await.expect("a sign");
    let applying = applying.await.expect("a watch");
    assert!(applying > 1, "{applying} connections have applied");
}

async fn find_nothing(stage: &Stage, mut replicator: Replicator, runs: u64) {
    let (_, seed) = seed::random("verification under load");
    let load = Load::on(&stage.source_url(), seed);
    let (mut rows, mut again, mut snapshots, mut longest_ms) = (0, 0, 0, 0.0_f64);
    for run in 0..runs {
        let report = verify(&replicator, FAST).await;
        assert_eq!(report.outcome, "clean", "run {run}, seed {seed}: {report:#?}\n{}", replicator.log());
        assert_eq!(report.differences, 0);
        rows += report.rows_compared;
        again += report.rows_looked_at_again;
        snapshots += report.snapshots;
        longest_ms = longest_ms.max(report.longest_snapshot_ms);
    }
    let transactions = load.end().await;
    stage.caught_up_after(&mut replicator, &[]).await;
    stage.assert_same_rows().await;
    assert!(transactions > runs * 50, "{transactions} transactions are no load");
    println!(
        "verify figures: {runs} verifications beside {transactions} transactions: 0 false alarms, {rows} rows compared, {again} of them looked \
         at again, {snapshots} snapshots, the longest held for {longest_ms:.0} ms"
    );
}

/// How many sessions have been seen to apply, until there is a table `verified`.
async fn sessions_that_apply(url: String) -> usize {
    let client = connect(&url).await;
    let sql = "SELECT ARRAY(SELECT pid FROM pg_stat_activity WHERE application_name = 'pgsluice apply' AND backend_xid IS NOT NULL),
                      to_regclass('verified') IS NOT NULL";
    let mut seen = HashSet::new();
    loop {
        let row = client.query_one(sql, &[]).await.expect("activity");
        seen.extend(row.get::<_, Vec<i32>>(0));
        if row.get(1) {
            return seen.len();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sessions that write until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Load {
    fn on(url: &str, seed: u64) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let (url, stop, done) = (url.to_owned(), Arc::clone(&stop), Arc::clone(&done));
            tasks.spawn(async move {
                let client = connect(&url).await;
                let mut random = StdRng::seed_from_u64(seed + writer);
                while !stop.load(Ordering::Relaxed) {
                    // Deadlocks and duplicates are theirs.
                    if client.batch_execute(&statement(&mut random, writer)).await.is_err() {
                        let _ = client.batch_execute("ROLLBACK").await;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, done, tasks }
    }

    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer");
        }
        self.done.load(Ordering::Relaxed)
    }
}

fn statement(random: &mut StdRng, writer: u64) -> String {
    let (hot, busy) = (random.random_range(1..=20), random.random_range(1..=31_000));
    match random.random_range(0..12) {
        0..=3 => format!("UPDATE hot SET n = n + 1, v = md5(v) WHERE id = {hot}"),
        4 => format!("UPDATE busy SET n = n + 1 WHERE id BETWEEN {busy} AND {}", busy + 30),
        5 => format!("DELETE FROM busy WHERE id = {busy}"),
        6 => format!("INSERT INTO busy VALUES ({busy}, {}, 1, 'again') ON CONFLICT (id) DO UPDATE SET v = md5(busy.v)", busy % 50),
        7 => format!(
            "BEGIN; UPDATE hot SET n = n + 1 WHERE id = {hot}; SAVEPOINT s; UPDATE busy SET v = 'gone' WHERE id = {busy}; ROLLBACK TO s;
             INSERT INTO log VALUES (clock_timestamp(), {writer}, 'x'); COMMIT"
        ),
        8 => format!("UPDATE big SET id = id WHERE id = {}; UPDATE hot SET v = 'h' WHERE id = {hot}", busy % 200),
        9 => format!("UPDATE big SET body = repeat(md5('{busy}'), 200) WHERE id = {}", busy % 200),
        10 => "DELETE FROM log WHERE ctid IN (SELECT ctid FROM log LIMIT 3)".to_owned(),
        _ => format!("BEGIN; UPDATE busy SET v = 'rolled back' WHERE id = {busy}; ROLLBACK"),
    }
}
