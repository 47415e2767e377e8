//! Tables that come, go and change their place while the migration runs (trap 17): each test ends with the same rows on
//! both sides, compared by PostgreSQL itself, and most with a cutover that is refused before and completes after.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::control::dto::{CutoverModeRecord, CutoverRequestRecord, TableStandingRecord, TablesRecord};
use pgsluice::demo::replicator::Replicator;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::harness::clusters::connect;
use crate::harness::seed;
use crate::harness::stage::{COPY_WAIT, Pair, Stage, cut_over, text};
use crate::harness::two_tables::{PAIR, SCHEMA, intruder, kill};
use crate::harness::wait::until;

/// The program's own command, without holding up the test's tasks.
async fn command(stage: &Stage, arguments: &[&str]) -> Output {
    let mut command = stage.command("").command(arguments);
    tokio::task::spawn_blocking(move || command.output().expect("the program")).await.expect("a command")
}

async fn add(stage: &Stage, tables: &[&str]) {
    let output = command(stage, &[&["tables", "add"], tables].concat()).await;
    assert!(output.status.success(), "{}", said(&output));
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn standing(replicator: &Replicator, table: &str) -> Option<TableStandingRecord> {
    let (_, body) = replicator.api().get("/v1/tables").await.ok()?;
    let tables: TablesRecord = serde_json::from_str(&body).expect("tables");
    tables.tables.into_iter().find(|known| known.plain() == table)
}

async fn until_reason(replicator: &Replicator, table: &str, reason: &str) -> TableStandingRecord {
    until(&format!("{table} is {reason}"), || async {
        standing(replicator, table).await.is_some_and(|known| known.reason.as_deref() == Some(reason))
    })
    .await;
    standing(replicator, table).await.expect("it was there")
}

async fn until_joined(replicator: &Replicator, table: &str) {
    until(&format!("{table} is joined\n{}", replicator.log()), || async {
        standing(replicator, table)
            .await
            .is_some_and(|known| known.state == "joined" && known.reason.is_none())
    })
    .await;
}

/// Carries out on the target what the program says.
async fn obey(stage: &Stage, standing: &TableStandingRecord) {
    let remedy = standing.remedy.clone().unwrap_or_default();
    let from = remedy.find("the target: ").map(|at| at + "the target: ".len()).expect(&remedy);
    let sql = remedy[from..].rsplit_once(';').map(|(sql, _)| sql).expect(&remedy);
    let target = stage.target_client().await;
    target.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn refused_cutover(replicator: &mut Replicator) -> String {
    let request = CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Cutover),
        max_pause_ms: Some(5_000),
        unverified: true,
    };
    let key = format!("refused-{:08x}", rand::random::<u32>());
    match replicator.api().start_cutover(request, &key).await {
        Err(refused) => refused.to_string(),
        Ok(accepted) => {
            let ended = crate::harness::stage::end_of(replicator, &accepted).await;
            assert_eq!(ended.outcome, "aborted", "{ended:#?}");
            format!("{ended:?}")
        }
    }
}

/// Sessions that insert, update and delete until they are told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<u64>,
}

impl Writers {
    /// `table` has an `id` that is a key, and `v`. Ids are below `span`, from `first` on.
    fn on(stage: &Stage, table: &'static str, first: i32, span: i32, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for writer in 0..3_u64 {
            let (url, stop) = (stage.source_url(), Arc::clone(&stop));
            tasks.spawn(async move {
                let client = connect(&url).await;
                let mut random = StdRng::seed_from_u64(seed + writer);
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    let id = random.random_range(first..first + span);
                    let sql = match random.random_range(0..4) {
                        0 => format!("DELETE FROM {table} WHERE id = {id}"),
                        1 => format!("UPDATE {table} SET v = v || 'u' WHERE id = {id} AND length(v) < 40"),
                        2 => format!(
                            "BEGIN; INSERT INTO {table} (id, v) VALUES ({id}, 'a') ON CONFLICT DO NOTHING; SAVEPOINT s;
                             UPDATE {table} SET v = 'rolled back' WHERE id = {id}; ROLLBACK TO s; COMMIT"
                        ),
                        _ => format!("INSERT INTO {table} (id, v) VALUES ({id}, 'b') ON CONFLICT DO NOTHING"),
                    };
                    // Deadlocks are theirs; a table in DDL's hands is waited for.
                    if client.batch_execute(&sql).await.is_err() {
                        let _ = client.batch_execute("ROLLBACK").await;
                    }
                    done += 1;
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                done
            });
        }
        Self { stop, tasks }
    }

    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut done = 0;
        while let Some(ended) = self.tasks.join_next().await {
            done += ended.expect("a writer");
        }
        done
    }
}

async fn begun(pair: Pair) -> (Stage, Client, Replicator) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let replicator = stage.streaming().await;
    (stage, source, replicator)
}

/// Trap 17: writers are at work on it before, while and after it joins; foreign keys from and to it, sequences, an index.
pub(crate) async fn a_table_that_is_written_to_joins_the_running_migration(pair: Pair) {
    let (_, seed) = seed::random("a table joins");
    let (stage, source, mut replicator) = begun(pair).await;
    source
        .batch_execute(
            "CREATE TABLE late (id int PRIMARY KEY, v text, t_id int REFERENCES t, n serial);
             INSERT INTO late (id, v, t_id) SELECT i, 'before', 1 + i % 100 FROM generate_series(1, 3000) i;
             CREATE INDEX late_v ON late (v);
             CREATE TABLE child (id int PRIMARY KEY, v text, late_id int REFERENCES late ON DELETE SET NULL,
                                 g bigint GENERATED ALWAYS AS IDENTITY);
             CREATE TABLE keyless (id int, v text); ALTER TABLE keyless REPLICA IDENTITY FULL;
             INSERT INTO keyless SELECT i % 10, NULLIF(i % 3, 0)::text FROM generate_series(1, 300) i;
             ALTER TABLE other ADD CONSTRAINT other_late FOREIGN KEY (id) REFERENCES late",
        )
        .await
        .expect("new tables");
    let writers = Writers::on(&stage, "late", 1, 6000, seed);
    let more = Writers::on(&stage, "child", 1, 500, seed + 100);
    until_reason(&replicator, "public.late", "not_published").await;
    let refused = refused_cutover(&mut replicator).await;
    assert!(refused.contains("public."), "{refused}");
    add(&stage, &["public.late", "public.child", "public.keyless"]).await;
    // A second time is the same.
    add(&stage, &["public.late"]).await;
    source
        .batch_execute(
            "UPDATE keyless SET v = 'after' WHERE ctid = (SELECT min(ctid) FROM keyless WHERE v IS NULL);
             INSERT INTO child (id, v, late_id) SELECT 10000 + i, 'fk', NULL FROM generate_series(1, 10) i",
        )
        .await
        .expect("writes after");
    assert!(writers.end().await > 0 && more.end().await > 0);
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let target = stage.target_client().await;
    let built = "SELECT string_agg(conname, ',' ORDER BY conname COLLATE \"C\") FROM pg_constraint WHERE contype IN ('f', 'p')
                    AND convalidated AND conrelid IN ('late'::regclass, 'child'::regclass, 'other'::regclass)";
    let expected = "child_late_id_fkey,child_pkey,late_pkey,late_t_id_fkey,other_late,other_pkey";
    assert_eq!(text(&target, built).await, expected);
    assert_eq!(text(&target, "SELECT to_regclass('late_v')::text").await, "late_v");
    cut_over(&mut replicator).await;
    stage.assert_same_rows().await;
    stage.assert_same_sequences().await;
}

/// Traps 17 and 19, and every refusal that changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_join_is_refused_and_the_source_goes_on_working() {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let replicator = stage.streaming_with("[source.tables]\nexclude = [\"public.skipped\"]\n").await;
    source
        .batch_execute(
            "CREATE TABLE nokey (a int); INSERT INTO nokey VALUES (1);
             CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
             CREATE TABLE skipped (id int PRIMARY KEY);
             CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (10);
             CREATE TABLE filled (id int PRIMARY KEY)",
        )
        .await
        .expect("tables");
    let target = intruder(&stage).await;
    target
        .batch_execute("CREATE TABLE filled (id int PRIMARY KEY); INSERT INTO filled VALUES (1)")
        .await
        .expect("rows");
    for (table, word) in [
        ("public.nokey", "REPLICA IDENTITY FULL"),
        ("public.fleeting", "SET LOGGED"),
        ("public.skipped", "source.tables.exclude"),
        ("public.nowhere", "no such table"),
        ("public.part", "pgsluice tables add public.whole"),
        ("public.filled", "TRUNCATE"),
    ] {
        let output = command(&stage, &["tables", "add", table]).await;
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(word), "{table}: {}", said(&output));
    }
    source.batch_execute("UPDATE nokey SET a = 2; DELETE FROM nokey").await.expect("its own writes");
    let published = "SELECT count(*)::text FROM pg_publication_rel";
    assert_eq!(text(&source, published).await, "2");
    // One that is in the migration is no refusal.
    add(&stage, &["public.t"]).await;
    add(&stage, &["public.whole"]).await;
    source.batch_execute("INSERT INTO whole VALUES (1), (2)").await.expect("rows");
    until_joined(&replicator, "public.part").await;
    stage.caught_up().await;
    let listed = said(&command(&stage, &["tables"]).await);
    assert!(listed.contains("public.nokey") && listed.contains("not published"), "{listed}");
    assert_eq!(text(&target, "SELECT count(*)::text FROM whole").await, "2");
}

const PARTITIONED: &str = "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (1000);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1000) TO (2000);
    INSERT INTO p SELECT i * 10, 'before' FROM generate_series(0, 199) i";

async fn partitioned(pair: Pair) -> (Stage, Client, Replicator) {
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(PARTITIONED).await.expect("schema");
    let replicator = stage.streaming().await;
    (stage, source, replicator)
}

/// Trap 17: rows that are in a partition when it is attached are in no stream.
pub(crate) async fn partitions_that_come_while_streaming_join_with_the_rows_they_have(pair: Pair) {
    let (mut random, seed) = seed::random("partitions come");
    let (stage, source, mut replicator) = partitioned(pair).await;
    let all = Writers::on(&stage, "p", 0, 2000, seed);

    source
        .batch_execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (2000) TO (3000); INSERT INTO p VALUES (2001, 'new')")
        .await
        .expect("a new partition");
    obey(&stage, &until_reason(&replicator, "public.p2", "new_partition").await).await;
    until_joined(&replicator, "public.p2").await;

    // Written to by several sessions right before and right after it is attached.
    source
        .batch_execute(
            "CREATE TABLE p3 (LIKE p INCLUDING ALL); INSERT INTO p3 SELECT i, 'before' FROM generate_series(3000, 3999, 2) i",
        )
        .await
        .expect("a table");
    let theirs = Writers::on(&stage, "p3", 3000, 1000, seed + 10);
    tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
    source
        .batch_execute("ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (3000) TO (4000)")
        .await
        .expect("attach");
    let refused = refused_cutover(&mut replicator).await;
    assert!(refused.contains("p3") || refused.contains("stream"), "{refused}");
    obey(&stage, &until_reason(&replicator, "public.p3", "new_partition").await).await;
    until_joined(&replicator, "public.p3").await;

    // Never written to again: the stream has no word of it.
    source
        .batch_execute(
            "CREATE TABLE p4 (LIKE p INCLUDING ALL); INSERT INTO p4 SELECT i, 'still' FROM generate_series(4000, 4099) i;
             ALTER TABLE p ATTACH PARTITION p4 FOR VALUES FROM (4000) TO (5000);
             BEGIN; CREATE TABLE p5 (LIKE p INCLUDING ALL); INSERT INTO p5 SELECT i, 'once' FROM generate_series(5000, 5099) i;
             ALTER TABLE p ATTACH PARTITION p5 FOR VALUES FROM (5000) TO (6000); INSERT INTO p VALUES (5100, 'same'); COMMIT",
        )
        .await
        .expect("attach");
    for table in ["public.p4", "public.p5"] {
        obey(&stage, &until_reason(&replicator, table, "new_partition").await).await;
    }
    for table in ["public.p4", "public.p5"] {
        until_joined(&replicator, table).await;
    }
    assert!(all.end().await > 0 && theirs.end().await > 0);
    stage.caught_up().await;
    stage.assert_same_rows().await;
    cut_over(&mut replicator).await;
    stage.assert_same_rows().await;
}

/// Trap 17: what happens to a partition while it is detached is in no stream.
pub(crate) async fn a_partition_that_was_away_is_copied_again(pair: Pair) {
    let (_, seed) = seed::random("a partition was away");
    let (stage, source, mut replicator) = partitioned(pair).await;
    let writers = Writers::on(&stage, "p1", 1000, 1000, seed);
    source.batch_execute("ALTER TABLE p DETACH PARTITION p1").await.expect("detach");
    let detached = until_reason(&replicator, "public.p1", "detached").await;
    assert!(detached.blocks_cutover, "{detached:?}");
    source
        .batch_execute(
            "UPDATE p1 SET v = 'away'; INSERT INTO p1 VALUES (1999, 'away') ON CONFLICT DO NOTHING",
        )
        .await
        .expect("writes");
    source
        .batch_execute("ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (1000) TO (2000)")
        .await
        .expect("attach");
    source.batch_execute("UPDATE p SET v = 'back' WHERE id >= 1000").await.expect("writes");
    until_joined(&replicator, "public.p1").await;

    // Away and back before anybody looks, in one transaction.
    source
        .batch_execute(
            "BEGIN; ALTER TABLE p DETACH PARTITION p1; DELETE FROM p1 WHERE id < 1500;
             ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (1000) TO (2000); COMMIT;
             UPDATE p SET v = v || '!' WHERE id >= 1000",
        )
        .await
        .expect("away and back");
    writers.end().await;
    let joins = || replicator.log().matches("table has joined the migration").count();
    until("a second copy of what was away", || async { joins() >= 2 }).await;
    until_joined(&replicator, "public.p1").await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    cut_over(&mut replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_partition_becomes_a_table_of_its_own_that_can_be_added_back() {
    let (stage, source, mut replicator) = partitioned(PAIR).await;
    source
        .batch_execute("ALTER TABLE p DETACH PARTITION p1; UPDATE p1 SET v = 'alone'")
        .await
        .expect("detach");
    let told = until_reason(&replicator, "public.p1", "detached").await;
    let output = command(&stage, &["tables", "add", "public.p1"]).await;
    assert!(said(&output).contains("DETACH PARTITION"), "{}", said(&output));
    assert!(refused_cutover(&mut replicator).await.contains("public.p1"));
    let target = stage.target_client().await;
    let remedy = told.remedy.unwrap_or_default();
    assert!(remedy.contains(r#"ALTER TABLE "public"."p" DETACH PARTITION "public"."p1";"#), "{remedy}");
    target.batch_execute("ALTER TABLE p DETACH PARTITION p1").await.expect("the statement");
    add(&stage, &["public.p1"]).await;
    source.batch_execute("UPDATE p1 SET v = 'streamed' WHERE id % 20 = 0").await.expect("writes");
    stage.caught_up().await;
    stage.assert_same_rows().await;

    // Attached again: the target has to follow.
    source
        .batch_execute("ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (1000) TO (2000)")
        .await
        .expect("attach");
    obey(&stage, &until_reason(&replicator, "public.p1", "not_attached").await).await;
    until_joined(&replicator, "public.p1").await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    cut_over(&mut replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_tables_are_told_and_block_only_where_their_rows_would_come_back() {
    let (stage, source, mut replicator) = partitioned(PAIR).await;
    source
        .batch_execute("CREATE TABLE gone (id int PRIMARY KEY, v text); INSERT INTO gone VALUES (1, 'first')")
        .await
        .expect("table");
    until_reason(&replicator, "public.gone", "not_published").await;
    add(&stage, &["public.gone"]).await;

    source.batch_execute("INSERT INTO gone VALUES (2, 'last'); DROP TABLE gone").await.expect("drop");
    let told = until_reason(&replicator, "public.gone", "dropped").await;
    assert!(!told.blocks_cutover, "{told:?}");
    // Made again under its name: another table.
    source
        .batch_execute("CREATE TABLE gone (id int PRIMARY KEY, v text); INSERT INTO gone VALUES (1, 'again'), (7, 'new')")
        .await
        .expect("table");
    until_reason(&replicator, "public.gone", "not_published").await;
    add(&stage, &["public.gone"]).await;
    source.batch_execute("UPDATE gone SET v = v || '!'").await.expect("write");
    stage.caught_up().await;
    stage.assert_same_rows().await;

    source.batch_execute("DROP TABLE p1").await.expect("drop");
    let told = until_reason(&replicator, "public.p1", "dropped").await;
    assert!(told.blocks_cutover, "{told:?}");
    assert!(refused_cutover(&mut replicator).await.contains("public.p1"));
    obey(&stage, &told).await;
    source.batch_execute("INSERT INTO p VALUES (999, 'goes on')").await.expect("write");
    stage.caught_up().await;
    until("p1 is forgotten", || async { standing(&replicator, "public.p1").await.is_none() }).await;
    stage.assert_same_rows().await;
    cut_over(&mut replicator).await;
}

/// Trap 18: a join's snapshot waits for older transactions as the first one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_transaction_that_delays_a_join_is_named() {
    let (stage, source, replicator) = begun(PAIR).await;
    let old = stage.source_client().await;
    old.batch_execute("SET application_name = 'month end'; BEGIN; INSERT INTO t VALUES (9000, 'old')")
        .await
        .expect("old");
    source
        .batch_execute("CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'x')")
        .await
        .expect("table");
    let output = command(&stage, &["tables", "add", "public.late", "--no-wait"]).await;
    assert!(output.status.success(), "{}", said(&output));
    until("the old transaction is named", || async {
        standing(&replicator, "public.late")
            .await
            .and_then(|known| known.explanation)
            .is_some_and(|explanation| explanation.contains("month end"))
    })
    .await;
    // Written by a transaction that is older than the publication's change.
    old.batch_execute("INSERT INTO late VALUES (2, 'by the old one'); COMMIT").await.expect("commit");
    until_joined(&replicator, "public.late").await;
    source.batch_execute("UPDATE late SET v = v || '!'").await.expect("write");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_joins_while_the_stream_lags_and_its_foreign_keys_wait() {
    let (stage, source, mut replicator) = begun(PAIR).await;
    let blocking = intruder(&stage).await;
    blocking.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE").await.expect("lock");
    source
        .batch_execute(
            "INSERT INTO t VALUES (7000, 'behind');
             CREATE TABLE late (id int PRIMARY KEY, v text, t_id int REFERENCES t);
             INSERT INTO late VALUES (1, 'refers to what is behind', 7000)",
        )
        .await
        .expect("tables");
    let output = command(&stage, &["tables", "add", "public.late", "--no-wait"]).await;
    assert!(output.status.success(), "{}", said(&output));
    until_reason(&replicator, "public.late", "foreign_keys_due").await;
    source.batch_execute("INSERT INTO late VALUES (2, 'streamed', 7000)").await.expect("write");
    blocking.batch_execute("ROLLBACK").await.expect("unlock");
    until_joined(&replicator, "public.late").await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let target = stage.target_client().await;
    assert_eq!(
        text(&target, "SELECT count(*)::text FROM pg_constraint WHERE conname = 'late_t_id_fkey'").await,
        "1"
    );
    cut_over(&mut replicator).await;
}

const LARGE: &str = "CREATE TABLE late (id int PRIMARY KEY, v text, t_id int REFERENCES t);
    INSERT INTO late SELECT i, repeat('x', 200), 1 + i % 100 FROM generate_series(1, 60000) i; CREATE INDEX late_v ON late (v)";

pub(crate) async fn killed_at_12_random_moments_of_a_join_the_rows_are_identical(pair: Pair) {
    let (mut random, seed) = seed::random("killed while a table joins");
    let (stage, source, mut replicator) = begun(pair).await;
    source.batch_execute(LARGE).await.expect("table");
    let writers = Writers::on(&stage, "late", 1, 70_000, seed);
    let mut asked = 0;
    for _ in 0..12 {
        let output = command(&stage, &["tables", "add", "public.late", "--no-wait"]).await;
        asked += u32::from(output.status.success());
        tokio::time::sleep(Duration::from_millis(random.random_range(0..900))).await;
        kill(&mut replicator).await;
        replicator = stage.command("snapshot.jobs = 1\n").start().expect("the program");
        crate::harness::stage::streaming(&mut replicator).await;
    }
    assert!(asked > 0, "seed {seed}");
    add(&stage, &["public.late"]).await;
    assert!(writers.end().await > 0);
    stage.caught_up().await;
    stage.assert_same_rows().await;
    until("only the migration's slot", || async { stage.slots().await == "pgsluice" }).await;
    let target = stage.target_client().await;
    assert_eq!(
        text(&target, "SELECT count(*)::text FROM pg_constraint WHERE conname = 'late_t_id_fkey'").await,
        "1"
    );
    cut_over(&mut replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_is_stopped_goes_on_at_the_next_start_and_cleanup_leaves_nothing() {
    let (stage, source, mut replicator) = begun(PAIR).await;
    source.batch_execute(LARGE).await.expect("table");
    let output = command(&stage, &["tables", "add", "public.late", "--no-wait"]).await;
    assert!(output.status.success(), "{}", said(&output));
    replicator.signal(Signal::SIGTERM);
    let ended = replicator.wait_for_end(Duration::from_secs(6)).await.expect("an end");
    assert_eq!(ended.code(), Some(0), "{}", replicator.log());
    until("only the migration's slot", || async { stage.slots().await == "pgsluice" }).await;

    let mut replicator = stage.streaming().await;
    until_joined(&replicator, "public.late").await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    until("a cleanup", || async { stage.run(&["cleanup"]).status.success() }).await;
    assert_eq!(stage.slots().await, "");
    let left = "SELECT (SELECT count(*) FROM pg_publication)::text || (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice')::text
                || (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgsluice%')::text";
    assert_eq!(text(&source, left).await, "000");
    assert_eq!(text(&stage.target_client().await, left).await, "000");
}

/// A definition that cannot be brought over is told; the join goes on by itself once what it needs is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_type_is_told_and_the_join_goes_on_once_it_is_there() {
    let (stage, source, replicator) = begun(PAIR).await;
    source
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE late (id int PRIMARY KEY, m mood);
             INSERT INTO late VALUES (1, 'happy')",
        )
        .await
        .expect("table");
    let output = command(&stage, &["tables", "add", "public.late"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("mood"), "{}", said(&output));
    let target = stage.target_client().await;
    target.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'happy')").await.expect("type");
    until_joined(&replicator, "public.late").await;
    source.batch_execute("INSERT INTO late VALUES (2, 'sad')").await.expect("write");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

/// Trap 17: a partition that came, was written to and went before anybody looked must not hold the stream for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_came_and_went_do_not_hold_the_stream() {
    let (stage, source, mut replicator) = partitioned(PAIR).await;
    source
        .batch_execute(
            "CREATE TABLE brief PARTITION OF p FOR VALUES FROM (8000) TO (9000); INSERT INTO p VALUES (8001, 'brief');
             DROP TABLE brief; INSERT INTO p VALUES (998, 'after brief')",
        )
        .await
        .expect("came and went");
    source
        .batch_execute(
            "CREATE TABLE guest PARTITION OF p FOR VALUES FROM (8000) TO (9000); INSERT INTO p VALUES (8002, 'guest');
             ALTER TABLE p DETACH PARTITION guest",
        )
        .await
        .expect("came and was detached");
    source.batch_execute("INSERT INTO p VALUES (997, 'after guest')").await.expect("write");
    stage.caught_up().await;
    until_reason(&replicator, "public.guest", "detached").await;
    add(&stage, &["public.guest"]).await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    cut_over(&mut replicator).await;
}
