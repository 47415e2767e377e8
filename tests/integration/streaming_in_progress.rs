//! Transactions that the source sends while they run: kept on disk, applied when they commit, forgotten when they are
//! rolled back, in part or whole. Each test proves that transactions were streamed in parts at all.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::cluster::ClusterOptions;
use pgsluice::demo::replicator::Replicator;
use rand::RngExt;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::harness::clusters::options;
use crate::harness::seed;
use crate::harness::sessions::{Session, schema};
use crate::harness::stage::{COPY_WAIT, Pair, Stage, ask, cut_over, end_of, streaming, text};
use crate::harness::wait::until;

/// Sessions with a transaction under way at once.
const SESSIONS: u64 = 5;
/// What the program logs when it asks for whole transactions again.
const FALLEN_BACK: &str = "only once they have committed";

/// A source that streams transactions from 64 kB on, and where the program keeps them.
struct Scene {
    stage: Stage,
    source: Client,
    spool: TempDir,
    more: String,
}

impl Scene {
    async fn new(pair: Pair, more: &str) -> Self {
        let stage = Stage::with_options(pair, small_memory(), options()).await;
        let source = stage.source_client().await;
        let spool = tempfile::tempdir().expect("folder");
        let more = format!(
            "source.stream_in_progress = \"on\"\nsource.spool_dir = {:?}\n\
             source.tables.exclude = [\"public.unpublished\"]\n{more}",
            spool.path()
        );
        Self { stage, source, spool, more }
    }

    async fn start(&self) -> Replicator {
        self.stage.streaming_with(&self.more).await
    }

    async fn sessions(&self) -> Vec<Session> {
        let mut sessions = Vec::new();
        for number in 0..SESSIONS {
            sessions.push(Session::new(self.stage.source_client().await, number));
        }
        sessions
    }

    /// Waits until the source says that it has streamed transactions in parts. The session is one of its own: within
    /// a transaction, PostgreSQL keeps the first figure it was asked for (`stats_fetch_consistency`).
    async fn was_streamed_in_parts(&self) {
        let query = "SELECT coalesce(sum(stream_txns), 0)::text FROM pg_stat_replication_slots";
        let watcher = self.stage.source_client().await;
        until("a transaction streamed in parts", || async { text(&watcher, query).await != "0" }).await;
    }

    /// The end of every test: nothing is missing, and nothing is left.
    async fn ends_with_the_same_rows(&self, mut replicator: Replicator) {
        self.stage.caught_up().await;
        self.source.batch_execute("DROP TABLE IF EXISTS unpublished").await.expect("out of the comparison");
        self.stage.assert_same_rows().await;
        assert_eq!(kept_files(self.spool.path()), Vec::<String>::new(), "every transaction has ended");
        replicator.signal(Signal::SIGTERM);
        replicator.wait_for_end(COPY_WAIT).await.expect("an end");
        let left = std::fs::read_dir(self.spool.path()).expect("folder").count();
        assert_eq!(left, 0, "the spool is removed with the program:\n{}", replicator.log());
    }
}

fn small_memory() -> ClusterOptions {
    options().setting("logical_decoding_work_mem", "64kB")
}

/// Files of transactions that are kept.
fn kept_files(spool: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for directory in std::fs::read_dir(spool).expect("folder").flatten() {
        let Ok(inside) = std::fs::read_dir(directory.path()) else { continue };
        let names = inside.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
        files.extend(names.filter(|name| name != "lock"));
    }
    files
}

async fn steps(sessions: &mut [Session], random: &mut StdRng, count: u32) {
    for _ in 0..count {
        let chosen = random.random_range(0..sessions.len());
        sessions[chosen].step(random).await;
    }
}

async fn finish(sessions: &mut [Session], random: &mut StdRng) {
    for session in sessions {
        session.finish(random).await;
    }
}

/// Trap 1, trap 32: begin and commit order differ, and what was rolled back was sent all the same.
pub(crate) async fn transactions_sent_in_parts_arrive_whole_or_not_at_all(pair: Pair) {
    let (mut random, _) = seed::random("transactions sent in parts");
    let scene = Scene::new(pair, "").await;
    scene.source.batch_execute(&schema(SESSIONS)).await.expect("schema");
    let replicator = scene.start().await;
    let mut sessions = scene.sessions().await;
    steps(&mut sessions, &mut random, 250).await;
    finish(&mut sessions, &mut random).await;
    scene.was_streamed_in_parts().await;
    scene.ends_with_the_same_rows(replicator).await;
}

/// INV-1 to INV-5: what was kept on disk is worth nothing after a crash, and is sent again.
pub(crate) async fn killed_while_transactions_are_under_way_nothing_is_lost_or_doubled(pair: Pair) {
    let (mut random, seed) = seed::random("killed while transactions are under way");
    let scene = Scene::new(pair, "").await;
    scene.source.batch_execute(&schema(SESSIONS)).await.expect("schema");
    let mut replicator = scene.start().await;
    let mut sessions = scene.sessions().await;
    let mut killed_with_files = 0;
    for _ in 0..6 {
        let count = random.random_range(10..40);
        steps(&mut sessions, &mut random, count).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        assert!(replicator.ended().is_none(), "seed {seed}: it ended by itself:\n{}", replicator.log());
        replicator.signal(Signal::SIGKILL);
        replicator.wait_for_end(COPY_WAIT).await.expect("killed");
        killed_with_files += usize::from(!kept_files(scene.spool.path()).is_empty());
        steps(&mut sessions, &mut random, 10).await;
        replicator = scene.stage.command(&scene.more).start().expect("the program");
        streaming(&mut replicator).await;
    }
    finish(&mut sessions, &mut random).await;
    scene.was_streamed_in_parts().await;
    assert!(killed_with_files > 0, "seed {seed}: it never died with a transaction on disk");
    println!("seed {seed}: {killed_with_files} of 6 times it died with transactions on disk");
    scene.ends_with_the_same_rows(replicator).await;
}

const LARGE: &str = "INSERT INTO t SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 20000) g";

/// INV-11: the bound ends the parts, not the migration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_larger_than_the_spool_is_sent_whole_instead() {
    let scene = Scene::new(Pair::of(14, 17), "source.max_spool_bytes = \"1MiB\"\n").await;
    scene.source.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await.expect("schema");
    let replicator = scene.start().await;
    let other = scene.stage.source_client().await;
    scene.source.batch_execute("BEGIN").await.expect("begin");
    scene.source.batch_execute(LARGE).await.expect("rows");
    other.batch_execute("INSERT INTO t VALUES (-1, 'meanwhile')").await.expect("row");
    until("the fallback", || async { replicator.log().contains(FALLEN_BACK) }).await;
    scene.source.batch_execute("COMMIT").await.expect("commit");
    scene.source.batch_execute("UPDATE t SET v = 'after' WHERE id % 2 = 0").await.expect("rows");
    scene.ends_with_the_same_rows(replicator).await;
}

/// A disk that fails, here by its directory's vanishing, does the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_cannot_be_written_to_costs_nothing_but_the_parts() {
    let scene = Scene::new(Pair::of(14, 17), "").await;
    scene.source.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await.expect("schema");
    let replicator = scene.start().await;
    for directory in std::fs::read_dir(scene.spool.path()).expect("folder").flatten() {
        std::fs::remove_dir_all(directory.path()).expect("removed");
    }
    scene.source.batch_execute(LARGE).await.expect("rows");
    until("the fallback", || async { replicator.log().contains(FALLEN_BACK) }).await;
    scene.ends_with_the_same_rows(replicator).await;
}

/// The marker overtakes nothing: a transaction that was sent in parts and commits before the fence is applied before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_waits_for_a_transaction_that_is_sent_in_parts_and_applies_it_first() {
    let scene = Scene::new(Pair::of(14, 17), "cutover.max_lag_bytes = \"1GiB\"\n").await;
    scene.source.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await.expect("schema");
    let mut replicator = scene.start().await;
    scene.source.batch_execute("BEGIN").await.expect("begin");
    scene.source.batch_execute(LARGE).await.expect("rows");
    until("a part on disk", || async { !kept_files(scene.spool.path()).is_empty() }).await;
    let accepted = ask(&replicator, CutoverModeRecord::Cutover, 60_000).await;
    let fenced = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted)::text";
    let watcher = scene.stage.source_client().await;
    until("the fence in the queue", || async { text(&watcher, fenced).await == "true" }).await;
    scene.source.batch_execute("COMMIT").await.expect("commit");
    let ended = end_of(&mut replicator, &accepted).await;
    if ended.outcome != "completed" {
        cut_over(&mut replicator).await;
    }
    scene.was_streamed_in_parts().await;
    scene.stage.assert_same_rows().await;
    let target = scene.stage.target_client().await;
    assert_eq!(text(&target, "SELECT count(*)::text FROM t").await, "20000");
}

/// A figure, not a judgement: from COMMIT to the last row on the target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_from_a_large_commit_to_its_last_row_is_printed() {
    const ROWS: u32 = 100_000;
    for (name, more) in [("off", "source.stream_in_progress = \"off\"\n"), ("on", "")] {
        let scene = Scene::new(Pair::of(17, 18), "").await;
        scene.source.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await.expect("schema");
        let configuration = if more.is_empty() { scene.more.as_str() } else { more };
        let _replicator = scene.stage.streaming_with(configuration).await;
        let rows = std::env::var("PGSLUICE_TEST_LARGE_ROWS").ok().and_then(|rows| rows.parse().ok());
        let rows: u32 = rows.unwrap_or(ROWS);
        let insert = format!("INSERT INTO t SELECT g, repeat('x', 80) FROM generate_series(1, {rows}) g");
        scene.source.batch_execute("BEGIN").await.expect("begin");
        scene.source.batch_execute(&insert).await.expect("rows");
        if name == "on" {
            scene.was_streamed_in_parts().await;
        }
        // What runs while the client thinks: nothing is measured of it.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let committed_at = std::time::Instant::now();
        scene.source.batch_execute("COMMIT").await.expect("commit");
        let target = scene.stage.target_client().await;
        until("all rows", || async {
            text(&target, "SELECT count(*)::text FROM t").await == rows.to_string()
        })
        .await;
        println!("{rows} rows in one transaction, stream_in_progress {name}: {:?}", committed_at.elapsed());
        scene.stage.assert_same_rows().await;
    }
}
