//! What comes after the last index: statistics, which a cutover waits for; and how long values are stored.

use nix::sys::signal::Signal;
use pgsluice::control::dto::{CutoverModeRecord, CutoverRequestRecord};

use crate::harness::stage::{COPY_WAIT, Stage, cut_over, streaming, text};
use crate::harness::two_tables::{PAIR, intruder};
use crate::harness::wait::until;

use super::{begun, ends_well, execute};

const SCHEMA: &str = "CREATE TABLE plain (id bigint PRIMARY KEY, note text); CREATE INDEX plain_upper ON plain (upper(note));
    INSERT INTO plain SELECT i, md5(i::text) FROM generate_series(1, 2000) i;
    CREATE TABLE parted (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    INSERT INTO parted SELECT i, i % 2 FROM generate_series(1, 1000) i;
    CREATE TABLE nothing_yet (id int PRIMARY KEY);
    CREATE TABLE indexed (id int PRIMARY KEY, body text); CREATE INDEX ON indexed (left(body, 10), body);
    INSERT INTO indexed SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 100) i;
    CREATE TABLE long (id int PRIMARY KEY, body text, own text COMPRESSION pglz);
    INSERT INTO long SELECT i, repeat(md5(i::text), 80), repeat(md5(i::text), 80) FROM generate_series(1, 12000) i";
const ANALYZED: &str =
    "SELECT string_agg(DISTINCT tablename || CASE WHEN inherited THEN ' with partitions' ELSE '' END, ', ')
    FROM pg_stats WHERE schemaname = 'public'";
const ALL: &str =
    "indexed, indexed_left_body_idx, long, parted with partitions, parted_0, parted_1, plain, plain_upper";
const COMPRESSION: &str =
    "SELECT string_agg(DISTINCT concat_ws(' ', pg_column_compression(l.body), pg_column_compression(own), pg_column_compression(i.body)), ', ')
       FROM long l JOIN indexed i USING (id)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_are_there_before_a_cutover_also_after_a_start_in_the_middle() {
    let (stage, _source, target, mut replicator) = begun(PAIR, SCHEMA, "").await;
    ends_well(&stage, &mut replicator).await;
    assert_eq!(text(&target, ANALYZED).await, ALL);
    // As if it had been killed between its record and its statistics.
    replicator.signal(Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    let owner = intruder(&stage).await;
    execute(
        &owner,
        "DELETE FROM pg_statistic WHERE starelid >= 16384;
         SELECT pg_stat_reset_single_table_counters(oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')",
    )
    .await;
    execute(&owner, "BEGIN; LOCK TABLE plain IN SHARE UPDATE EXCLUSIVE MODE").await;
    let mut replicator = stage.command("").start().expect("the program");
    streaming(&mut replicator).await;
    until("ANALYZE that waits", || async {
        let waiting = "SELECT count(*)::text FROM pg_stat_activity
                        WHERE application_name = 'pgsluice statistics' AND wait_event_type = 'Lock'";
        text(&target, waiting).await == "1"
    })
    .await;
    let request =
        CutoverRequestRecord { mode: Some(CutoverModeRecord::Cutover), max_pause_ms: None, unverified: true };
    let refused = replicator.api().start_cutover(request, "too-early").await.expect_err("not yet");
    assert!(refused.to_string().contains("statistics are being gathered"), "{refused}");
    execute(&owner, "COMMIT").await;
    until("the statistics", || async { text(&target, ANALYZED).await == ALL }).await;
    until("word of it", || async { replicator.log().matches("the target has its statistics").count() == 2 })
        .await;
    cut_over(&mut replicator).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_values_are_compressed_by_lz4_where_nobody_has_said_otherwise() {
    let (stage, _source, target, mut replicator) = begun(PAIR, SCHEMA, "").await;
    ends_well(&stage, &mut replicator).await;
    assert_eq!(text(&target, COMPRESSION).await, "lz4 pglz pglz");

    let stage = Stage::new(PAIR).await;
    let (source, target) = (stage.source_client().await, stage.target_client().await);
    execute(&source, SCHEMA).await;
    execute(&intruder(&stage).await, "ALTER ROLE ALL SET default_toast_compression = 'pglz'").await;
    let mut replicator = stage.command("").start().expect("the program");
    ends_well(&stage, &mut replicator).await;
    assert_eq!(text(&target, COMPRESSION).await, "pglz pglz pglz");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_analyzed_is_named_and_keeps_nobody_waiting() {
    let schema = format!(
        "{SCHEMA}; CREATE TABLE shares (id int PRIMARY KEY, a int, b int); CREATE STATISTICS shares_of ON (a / b) FROM shares;
         INSERT INTO shares SELECT i, i, i % 10 FROM generate_series(1, 50000) i"
    );
    // It is the largest, and therefore the first.
    let (stage, _source, target, mut replicator) = begun(PAIR, &schema, "snapshot.index_jobs = 1\n").await;
    ends_well(&stage, &mut replicator).await;
    assert_eq!(text(&target, ANALYZED).await, ALL);
    let log = replicator.log();
    assert!(log.contains("this table has no statistics") && log.contains("public.shares"), "{log}");
    cut_over(&mut replicator).await;
}
