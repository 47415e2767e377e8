//! Transactions of every kind: what rolls back inside them, how they overlap, how large they are, what else stands in the
//! WAL beside them. Each case is compared on its own, in both ways of sending: whole, and while they are in progress.
//! Those of a single session are in `transactions.sql`.

use std::io::Write as _;

use nix::sys::signal::Signal;
use pgsluice::demo::cluster::StopMode;
use pgsluice::demo::replicator::Replicator;
use tokio_postgres::Client;

use crate::harness::clusters::{connect, options};
use crate::harness::memory::peak_resident_kib;
use crate::harness::stage::{COPY_WAIT, Pair, Stage, cut_over, text};
use crate::harness::wait::until;

const FILE: &str = include_str!("transactions.sql");
/// What the program may need, however large a transaction is (INV-12).
const RESIDENT_KIB_MAX: u64 = 128 * 1024;
/// Rows of the large transaction; `scripts/large-transactions.sh` runs one of five million.
const LARGE_ROWS: u32 = 200_000;
/// Rows of a mebibyte each in the transaction of long values; `scripts/large-transactions.sh` runs one of a gibibyte.
const LONG_ROWS: u32 = 64;

/// The servers, the program, and what was counted.
struct Scene {
    stage: Stage,
    replicator: Replicator,
    pair: Pair,
    cases: usize,
    differences: Vec<String>,
}

impl Scene {
    /// The program streams whole transactions; a source that sends them while they run as soon as it may.
    async fn begin(pair: Pair) -> Self {
        let source = options().setting("logical_decoding_work_mem", "64kB").setting("max_wal_size", "2GB");
        let stage = Stage::with_options(pair, source, options().setting("max_wal_size", "2GB")).await;
        let (_, schema) = parts().next().expect("the schema");
        stage.source_client().await.batch_execute(schema).await.expect("schema");
        let replicator = stage.streaming_with(&configuration("off")).await;
        Self { stage, replicator, pair, cases: 0, differences: Vec::new() }
    }

    /// Prints the count, and fails if anything differed.
    fn end(self, what: &str) {
        let Self { cases, differences, pair: Pair { source, target, .. }, .. } = self;
        let line = format!("matrix {source} -> {target}: {cases} {what}, {} differences", differences.len());
        // Past the test runner's capture: the numbers are what a run is for.
        let _ = writeln!(std::io::stderr(), "{line}");
        assert!(differences.is_empty(), "{differences:#?}");
    }

    async fn client(&self) -> Client {
        self.stage.source_client().await
    }

    /// Ends a case: the target must have what the source has.
    async fn same(&mut self, about: &str) {
        self.stage.caught_up_after(&mut self.replicator, &[about.to_owned()]).await;
        let comparison = self.stage.compare_without("left_out").await;
        assert!(comparison.rows_compared > 0, "{about}: nothing to compare");
        self.cases += 1;
        for (table, difference) in comparison.differing_tables {
            self.differences.push(format!("{about}: {table}: {difference:?}"));
        }
    }

    /// Starts the program again, as it was or sending otherwise.
    async fn again(&mut self, in_progress: &str) {
        self.replicator.signal(Signal::SIGTERM);
        self.replicator.wait_for_end(COPY_WAIT).await.expect("an end");
        self.replicator = self.stage.streaming_with(&configuration(in_progress)).await;
    }
}

fn configuration(in_progress: &str) -> String {
    format!(
        "source.stream_in_progress = \"{in_progress}\"\nsource.tables.exclude = [\"public.left_out\"]\n\
         preflight.waive = [\"source.large_objects\"]\n"
    )
}

/// Traps 1, 6, 12, 28, 32; INV-1.
pub(crate) async fn every_kind_of_transaction_arrives(pair: Pair) {
    let mut scene = Scene::begin(pair).await;
    for in_progress in ["off", "on"] {
        if in_progress == "on" {
            scene.again(in_progress).await;
        }
        sections(&mut scene, in_progress).await;
        prepared(&mut scene, in_progress).await;
        interleaved(&mut scene).await;
        elsewhere(&mut scene).await;
    }
    tiny(&mut scene).await;
    strange_markers(&mut scene).await;
    scene.end("cases of transactions");
}

/// INV-12.
pub(crate) async fn a_large_transaction_arrives_and_needs_no_memory(pair: Pair) {
    let mut scene = Scene::begin(pair).await;
    // Each pair has one of them: they take their time.
    let in_progress = if pair.source.is_multiple_of(2) { "off" } else { "on" };
    scene.again(in_progress).await;
    large(&mut scene, in_progress).await;
    scene.end("cases of large transactions");
}

/// Those of `transactions.sql`. The second time round they are compared by threes: it costs more than they do.
async fn sections(scene: &mut Scene, in_progress: &str) {
    let client = scene.client().await;
    let compared_after = if in_progress == "off" { 1 } else { 3 };
    let sections: Vec<(&str, &str)> = parts().skip(1).collect();
    for sections in sections.chunks(compared_after) {
        for (title, sql) in sections {
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{title}: {error:?}"));
        }
        let titles: Vec<&str> = sections.iter().map(|(title, _)| *title).collect();
        scene.same(&format!("{}, in progress {in_progress}", titles.join(", "))).await;
        scene.cases += sections.len() - 1;
    }
}

/// The file's sections, as title and SQL; the schema first.
fn parts() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILE.split("--- ").skip(1).filter_map(|section| section.split_once('\n'))
}

/// Several prepared at once, ended in another order, one of them rolled back, the server crashed between.
async fn prepared(scene: &mut Scene, in_progress: &str) {
    let client = scene.client().await;
    for (gid, sql) in [
        (
            "one",
            "INSERT INTO t SELECT i, 'prepared' FROM generate_series(4001, 4010) i; UPDATE t SET v = 'p' WHERE id = 101",
        ),
        (
            "two",
            "INSERT INTO numbers (v) SELECT 'prepared' FROM generate_series(1, 2000); SAVEPOINT s; DELETE FROM bag; ROLLBACK TO s",
        ),
        (
            "three",
            "INSERT INTO t VALUES (4011, 'rolled back'); UPDATE t SET v = 'rolled back' WHERE id = 102",
        ),
        ("four", "DELETE FROM parted WHERE id = 1; INSERT INTO parted VALUES (4, 'a', 'prepared')"),
    ] {
        let sql = format!("BEGIN; {sql}; PREPARE TRANSACTION '{gid}'");
        client.batch_execute(&sql).await.expect("prepare");
    }
    client.batch_execute("UPDATE t SET v = 'meanwhile' WHERE id = 103").await.expect("meanwhile");
    scene.same("prepared and not committed").await;
    for sql in ["COMMIT PREPARED 'four'", "ROLLBACK PREPARED 'three'"] {
        client.batch_execute(sql).await.expect(sql);
    }
    scene.same("prepared, the last one committed first, one rolled back").await;
    scene.stage.source.stop(StopMode::Immediate).await.expect("crash");
    scene.stage.source.start_again().await.expect("source again");
    let client = scene.client().await;
    client.batch_execute("COMMIT PREPARED 'two'").await.expect("commit prepared");
    scene.same("prepared before a crash of the source, committed after it").await;
    scene.again(in_progress).await;
    client.batch_execute("COMMIT PREPARED 'one'").await.expect("commit prepared");
    scene.same("prepared before the program was started again").await;
    client
        .batch_execute("DELETE FROM t WHERE id BETWEEN 4001 AND 4011")
        .await
        .expect("what the next round inserts again");
}

/// Trap 1: transactions that begin in one order and commit in another, long ones, short ones, one that is rolled back.
async fn interleaved(scene: &mut Scene) {
    let (first, second, third) = (scene.client().await, scene.client().await, scene.client().await);
    first.batch_execute("BEGIN; INSERT INTO t VALUES (6001, 'began first')").await.expect("first");
    second.batch_execute("BEGIN; INSERT INTO t VALUES (6002, 'began second')").await.expect("second");
    third.batch_execute("BEGIN; UPDATE t SET v = 'never' WHERE id > 150").await.expect("third");
    for round in 0..10 {
        let many = "INSERT INTO numbers (v) SELECT 'long' FROM generate_series(1, 300)";
        first.batch_execute(many).await.expect("first");
        second.batch_execute("UPDATE seats SET seat = seat - 100000 WHERE id = 1").await.expect("second");
        let short = scene.client().await;
        let sql = format!(
            "INSERT INTO t VALUES ({}, 'short'); DELETE FROM numbers WHERE n = {round}",
            6100 + round
        );
        short.batch_execute(&sql).await.expect("short");
        second.batch_execute(many).await.expect("second");
        third
            .batch_execute("INSERT INTO bag SELECT i, 'never' FROM generate_series(1, 300) i")
            .await
            .expect("third");
    }
    scene.same("short ones committed while long ones run").await;
    second.batch_execute("COMMIT").await.expect("second");
    first.batch_execute("UPDATE t SET v = 'changed by the first' WHERE id = 6002").await.expect("first");
    third.batch_execute("ROLLBACK").await.expect("third");
    scene.same("the second to begin commits before the first").await;
    first.batch_execute("DELETE FROM t WHERE id BETWEEN 6100 AND 6105; COMMIT").await.expect("first");
    scene.same("the first to begin commits last").await;
    scene.client().await.batch_execute("DELETE FROM t WHERE id >= 6000").await.expect("the next round's");
}

/// Trap 32: what another database and unpublished tables do moves the stream on and is not part of it.
async fn elsewhere(scene: &mut Scene) {
    let neighbour = connect(&scene.stage.source.url("postgres")).await;
    neighbour
        .batch_execute("CREATE TABLE IF NOT EXISTS t (id int, v text); INSERT INTO t SELECT i, 'theirs' FROM generate_series(1, 5000) i; TRUNCATE t")
        .await
        .expect("another database");
    let client = scene.client().await;
    for _ in 0..50 {
        client
            .batch_execute("INSERT INTO left_out VALUES (1, 'x'); DELETE FROM left_out")
            .await
            .expect("unpublished");
    }
    scene.same("only elsewhere").await;
}

/// INV-12: a transaction of many rows, and one of long ones; both with subtransactions that are rolled back.
async fn large(scene: &mut Scene, in_progress: &str) {
    let client = scene.client().await;
    let half = LARGE_ROWS / 2;
    client
        .batch_execute(&format!(
            "BEGIN; INSERT INTO numbers (n, v) SELECT i, 'large' FROM generate_series(1000000, 999999 + {half}) i;
             SAVEPOINT s; INSERT INTO numbers (n, v) SELECT i, 'rolled back' FROM generate_series(5000000, 5020000) i; ROLLBACK TO s;
             UPDATE numbers SET v = 'changed' WHERE n >= 1000000; COMMIT"
        ))
        .await
        .expect("many rows");
    scene.same(&format!("one of {LARGE_ROWS} rows, in progress {in_progress}")).await;
    client
        .batch_execute(&format!(
            "BEGIN; INSERT INTO big SELECT 10000 + i, i, long(i, 1024) FROM generate_series(1, {LONG_ROWS}) i;
             SAVEPOINT s; UPDATE big SET body = long(n + 1, 512) WHERE id BETWEEN 10001 AND 10004; ROLLBACK TO s;
             UPDATE big SET n = n + 1 WHERE id > 10000; COMMIT"
        ))
        .await
        .expect("long rows");
    scene.same(&format!("one of {LONG_ROWS} MiB, in progress {in_progress}")).await;
    let peak_kib = peak_resident_kib(scene.replicator.id());
    let Pair { source, target, .. } = scene.pair;
    let _ = writeln!(
        std::io::stderr(),
        "{source} -> {target}: {LARGE_ROWS} rows and {LONG_ROWS} MiB in one transaction each, in progress {in_progress}: \
         {} MiB resident at most",
        peak_kib / 1024
    );
    assert!(peak_kib < RESIDENT_KIB_MAX, "{peak_kib} KiB");
    client.batch_execute("TRUNCATE numbers; TRUNCATE big").await.expect("the next round's");
}

/// Ten thousand transactions of a row, by four sessions at once.
async fn tiny(scene: &mut Scene) {
    let sessions = [scene.client().await, scene.client().await, scene.client().await, scene.client().await];
    let begin: i64 = transactions_of(&scene.replicator).await;
    let work = sessions.iter().zip(0..).map(|(session, number): (_, i32)| {
        let sql = format!(
            "DO $$ BEGIN SET synchronous_commit = off; FOR i IN 1..2500 LOOP
               INSERT INTO t VALUES (20000 + {number} * 10000 + i, 'tiny') ON CONFLICT (id) DO UPDATE SET v = t.v || '+';
               IF i % 5 = 0 THEN UPDATE t SET v = 'hot' WHERE id = 50; END IF;
               COMMIT;
             END LOOP; END $$"
        );
        async move { session.batch_execute(&sql).await.expect("tiny ones") }
    });
    futures_util::future::join_all(work).await;
    scene.same("ten thousand tiny ones of four sessions").await;
    let applied = transactions_of(&scene.replicator).await - begin;
    assert!(applied >= 10_000, "{applied} transactions applied");
}

async fn transactions_of(replicator: &Replicator) -> i64 {
    let metric = replicator.api().metric("pgsluice_applied_transactions_total").await.expect("metrics");
    metric.unwrap_or_default() as i64
}

/// A stranger emits messages of our prefix without end: the cutover still finds its own, and no other.
async fn strange_markers(scene: &mut Scene) {
    let stranger = scene.client().await;
    let pid = text(&stranger, "SELECT pg_backend_pid()::text").await;
    let noise = tokio::spawn(async move {
        let emit = "DO $$ BEGIN LOOP PERFORM pg_logical_emit_message(true, 'pgsluice.cutover', clock_timestamp()::text);
                    COMMIT; PERFORM pg_sleep(0.001); END LOOP; END $$";
        stranger.batch_execute(emit).await
    });
    let observer = scene.client().await;
    until("messages of the stranger", || async {
        text(&observer, &format!("SELECT (state = 'active')::text FROM pg_stat_activity WHERE pid = {pid}"))
            .await
            == "true"
    })
    .await;
    cut_over(&mut scene.replicator).await;
    let comparison = scene.stage.compare_without("left_out").await;
    scene.cases += 1;
    if comparison.row_differences() > 0 {
        scene.differences.push(format!("a stranger's markers: {comparison:?}"));
    }
    scene.stage.assert_same_sequences().await;
    observer.execute(&format!("SELECT pg_terminate_backend({pid})"), &[]).await.expect("the stranger's end");
    let _ = noise.await;
}
