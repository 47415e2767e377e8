//! A backlog read in bulk, and the change to streaming and back: every transaction arrives once, whole and in order,
//! whatever happens meanwhile. Each test proves that pieces were read at all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::demo::cluster::ServerTls;
use pgsluice::demo::ledger;
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use pgsluice::demo::store::{self, Scale};
use pgsluice::demo::workload::{Workload, WorkloadOptions};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio_postgres::Client;

use crate::harness::clusters::options;
use crate::harness::memory::peak_resident_kib;
use crate::harness::seed;
use crate::harness::sessions::{Session, schema};
use crate::harness::stage::{COPY_WAIT, Pair, Stage, streaming, text};
use crate::harness::two_tables::{PAIR, SCHEMA, kill, stage};
use crate::harness::wait::until;

/// However short the backlog is, in small pieces.
const ALWAYS: &str = "source.bulk = \"always\"\n";
/// Sessions with a transaction under way at once.
const SESSIONS: u64 = 5;

async fn metric(replicator: &Replicator, series: &str) -> f64 {
    let Ok((_, text)) = replicator.api().get("/metrics").await else { return 0.0 };
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.unwrap_or_default()
}

async fn was_read_in_bulk(replicator: &Replicator, pieces_min: f64) {
    let begun_at = Instant::now();
    while metric(replicator, "pgsluice_bulk_ends_total{reason=\"near_the_end\"}").await < 0.5 {
        assert!(begun_at.elapsed() < COPY_WAIT, "not read in bulk:\n{}", replicator.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pieces = metric(replicator, "pgsluice_bulk_pieces_total").await;
    assert!(pieces >= pieces_min, "{pieces} pieces\n{}", replicator.log());
}

/// Nothing of the copied slot is left once changes are streamed.
async fn has_one_slot(source: &Client) {
    until("the copy to be gone", || async {
        text(source, "SELECT count(*)::text FROM pg_replication_slots").await == "1"
    })
    .await;
}

async fn steps(sessions: &mut [Session], random: &mut StdRng, count: u32) {
    for _ in 0..count {
        let chosen = random.random_range(0..sessions.len());
        sessions[chosen].step(random).await;
    }
}

/// Traps 1 and 32, INV-1: transactions that began before the program stopped, while it was away, and before the change to
/// streaming, commit after each of them.
pub(crate) async fn transactions_of_a_backlog_arrive_once_and_in_order(pair: Pair) {
    let (mut random, _) = seed::random("transactions of a backlog");
    let stage = Stage::new(pair).await;
    let source = stage.source_client().await;
    source.batch_execute(&schema(SESSIONS)).await.expect("schema");
    let more = format!("{ALWAYS}source.tables.exclude = [\"public.unpublished\"]\n");
    let mut replicator = stage.streaming_with(&more).await;
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        sessions.push(Session::new(stage.source_client().await, number));
    }
    let mut changes = 0.0;
    for _ in 0..3 {
        steps(&mut sessions, &mut random, 20).await;
        kill(&mut replicator).await;
        steps(&mut sessions, &mut random, 80).await;
        replicator = stage.command(&more).start().expect("the program");
        steps(&mut sessions, &mut random, 20).await;
        streaming(&mut replicator).await;
        was_read_in_bulk(&replicator, 1.0).await;
        changes += metric(&replicator, "pgsluice_bulk_changes_total").await;
    }
    assert!(changes > 0.0, "every transaction was still open");
    for session in &mut sessions {
        session.finish(&mut random).await;
    }
    stage.caught_up().await;
    has_one_slot(&source).await;
    source.batch_execute("DROP TABLE unpublished").await.expect("out of the comparison");
    stage.assert_same_rows().await;
}

/// Writers never stop: what is committed while the last piece is read, and in the moment of the change, is streamed.
pub(crate) async fn a_backlog_under_load_is_read_in_bulk_and_the_rest_streamed(pair: Pair) {
    let (_, seed) = seed::random("a backlog under load");
    let stage = Stage::new(pair).await;
    let scale = Scale::times(0.02);
    store::create(&stage.source_url(), scale).await.expect("store");
    let mut replicator = stage.streaming_with(ALWAYS).await;
    let options = WorkloadOptions { writers: 4, seed, scale, transactions_per_second_max: Some(300.0) };
    let workload = Workload::start(stage.source_url(), options);
    for _ in 0..3 {
        kill(&mut replicator).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        replicator = stage.command(ALWAYS).start().expect("the program");
        streaming(&mut replicator).await;
        was_read_in_bulk(&replicator, 3.0).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let record = workload.stop().await;
    stage.caught_up().await;
    let comparison = stage.compare().await;
    assert!(comparison.rows_are_identical(), "seed {seed}: {comparison:#?}");
    let check = ledger::check(&stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0), "seed {seed}");
    has_one_slot(&stage.source_client().await).await;
}

pub(crate) async fn killed_at_30_random_moments_of_bulk_and_streaming_the_rows_are_identical(pair: Pair) {
    killed_at_random_moments(pair, 30).await;
}

pub(crate) async fn killed_at_8_random_moments_of_bulk_and_streaming_the_rows_are_identical(pair: Pair) {
    killed_at_random_moments(pair, 8).await;
}

/// Kills beyond those asked for, until one has struck while a backlog was read.
const AIMED_MAX: u32 = 60;

/// INV-1 to INV-5: in the middle of pieces, between them, at the change in both directions, while streaming.
async fn killed_at_random_moments(pair: Pair, kills: u32) {
    let (mut random, seed) = seed::random("killed while reading in bulk");
    let stage = Stage::new(pair).await;
    let scale = Scale::times(0.02);
    store::create(&stage.source_url(), scale).await.expect("store");
    let mut replicator = stage.streaming_with(ALWAYS).await;
    let options = WorkloadOptions { writers: 4, seed, scale, transactions_per_second_max: Some(400.0) };
    let workload = Workload::start(stage.source_url(), options);
    let mut ways = BTreeMap::new();
    let mut struck = 0;
    // A backlog is read within milliseconds where nothing else is at work: then a few more are aimed at it.
    while struck < kills || (!ways.contains_key("in bulk") && struck < kills + AIMED_MAX) {
        let latest_ms = if struck < kills { 500 } else { 60 };
        struck += 1;
        kill(&mut replicator).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        // All starts write into one log.
        let before = replicator.log().len();
        replicator = stage.command(ALWAYS).start().expect("the program");
        let log = |replicator: &Replicator| replicator.log().split_off(before);
        until("the first change", || async { log(&replicator).contains("reading changes") }).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..latest_ms))).await;
        assert!(replicator.ended().is_none(), "seed {seed}: it ended by itself:\n{}", replicator.log());
        *ways.entry(last_way(&log(&replicator))).or_insert(0) += 1;
    }
    println!("seed {seed}: killed while {ways:?}");
    assert!(ways.contains_key("in bulk"), "seed {seed}: never killed while it read in bulk: {ways:?}");
    kill(&mut replicator).await;
    let mut replicator = stage.command(ALWAYS).start().expect("the program");
    streaming(&mut replicator).await;
    let record = workload.stop().await;
    stage.caught_up().await;
    let comparison = stage.compare().await;
    assert!(comparison.rows_are_identical(), "seed {seed}: {comparison:#?}");
    let check = ledger::check(&stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0), "seed {seed}");
}

/// What the log says last about the way of reading.
fn last_way(log: &str) -> &'static str {
    let ways = [
        ("the backlog in bulk", "in bulk"),
        ("the backlog was read\"", "at the change"),
        ("streaming", "streaming"),
    ];
    let found = ways.into_iter().filter_map(|(words, way)| Some((log.rfind(words)?, way)));
    found.max().map_or("before", |(_, way)| way)
}

/// Source rows as many as make a backlog that is read in bulk by itself.
const BACKLOG: &str =
    "INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1000 + $1 * 1000, 1999 + $1 * 1000) i";

async fn write_backlog(source: &Client, from: i32, transactions: i32) {
    for i in from..from + transactions {
        source.batch_execute(&BACKLOG.replace("$1", &i.to_string())).await.expect("insert");
    }
}

/// The program once it has streamed, was killed, and has read in bulk what was written meanwhile.
async fn killed_with_a_backlog_read_in_bulk(command: &ReplicatorCommand, source: &Client) -> Replicator {
    let mut replicator = command.start().expect("the program");
    streaming(&mut replicator).await;
    kill(&mut replicator).await;
    write_backlog(source, 0, 60).await;
    let mut replicator = command.start().expect("the program");
    streaming(&mut replicator).await;
    was_read_in_bulk(&replicator, 3.0).await;
    replicator
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_read_in_bulk_by_itself_and_what_follows_is_streamed() {
    let (stage, source) = stage().await;
    let mut replicator = stage.streaming().await;
    assert!(!replicator.log().contains("in bulk"), "there was no backlog");
    kill(&mut replicator).await;
    write_backlog(&source, 0, 60).await;
    let mut replicator = stage.command("").start().expect("the program");
    streaming(&mut replicator).await;
    was_read_in_bulk(&replicator, 1.0).await;
    let streams = "pgsluice_reading{way=\"streaming\"}";
    until("streaming", || async { metric(&replicator, streams).await > 0.0 }).await;
    source.batch_execute("UPDATE t SET v = 'streamed' WHERE id % 10 = 0").await.expect("update");
    stage.caught_up().await;
    stage.assert_same_rows().await;
    assert!(metric(&replicator, "pgsluice_reading{way=\"bulk\"}").await < 0.5);

    // Switched off, the same is streamed.
    kill(&mut replicator).await;
    write_backlog(&source, 100, 60).await;
    let replicator = stage.streaming_with("source.bulk = \"off\"\n").await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    assert!(metric(&replicator, "pgsluice_bulk_pieces_total").await < 0.5, "{}", replicator.log());
}

/// The source has only the one slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_free_slot_the_backlog_is_streamed_and_the_log_says_why() {
    let stage = Stage::with_options(PAIR, options().setting("max_replication_slots", "1"), options()).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let mut replicator = stage.streaming().await;
    kill(&mut replicator).await;
    write_backlog(&source, 0, 60).await;
    let replicator = stage.streaming().await;
    stage.caught_up().await;
    stage.assert_same_rows().await;
    let log = replicator.log();
    assert!(log.contains("cannot be read in bulk") && log.contains("replication slots"), "{log}");
    assert!(metric(&replicator, "pgsluice_bulk_ends_total{reason=\"no_free_slot\"}").await > 0.0, "{log}");
    assert!(!log.contains("interrupted"), "the connection was kept: {log}");
}

/// The slot and its copy take them all, or leave the one that a table needs that joins meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_slots_for_one_copy_only_pieces_are_read_one_after_the_other() {
    for slots in ["2", "3"] {
        let more = options().setting("max_replication_slots", slots);
        let stage = Stage::with_options(PAIR, more, options()).await;
        let source = stage.source_client().await;
        source.batch_execute(SCHEMA).await.expect("schema");
        let mut replicator = stage.streaming_with(ALWAYS).await;
        kill(&mut replicator).await;
        write_backlog(&source, 0, 60).await;
        source.batch_execute("UPDATE t SET v = 'changed' WHERE id % 10 = 0").await.expect("update");
        let replicator = stage.streaming_with(ALWAYS).await;
        was_read_in_bulk(&replicator, 3.0).await;
        stage.caught_up().await;
        stage.assert_same_rows().await;
        has_one_slot(&source).await;
        let log = replicator.log();
        assert!(
            log.contains("pieces of the backlog are decoded one after the other"),
            "{slots} slots: {log}"
        );
        assert!(log.contains("fewer than two free replication slots"), "{slots} slots: {log}");
        assert!(!log.contains("cannot be read in bulk"), "{slots} slots: {log}");
    }
}

/// What the documentation asks for, and no more, is enough for pieces, also for two sessions that decode them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_more_than_replication_and_its_tables_reads_a_backlog_in_bulk() {
    for pair in [PAIR, Pair::of(17, 18)] {
        let stage = Stage::new(pair).await;
        let (source, target) = (stage.source_client().await, stage.target_client().await);
        source
            .batch_execute(&format!(
                "{SCHEMA}; CREATE ROLE mover LOGIN REPLICATION PASSWORD 'm'; GRANT CREATE ON DATABASE app TO mover;
                 ALTER TABLE t OWNER TO mover; ALTER TABLE other OWNER TO mover"
            ))
            .await
            .expect("a role that owns its tables");
        target.batch_execute("CREATE ROLE mover").await.expect("their owner");
        let mut command = stage.command(ALWAYS);
        command.source_url = stage.source.url_as("mover", "m", "app");
        let replicator = killed_with_a_backlog_read_in_bulk(&command, &source).await;
        stage.caught_up().await;
        stage.assert_same_rows().await;
        has_one_slot(&source).await;
        let log = replicator.log();
        for refusal in ["cannot be read in bulk", "one after the other", "the source refused a setting"] {
            assert!(!log.contains(refusal), "{pair:?}: {log}");
        }
        let ours = "SELECT bool_and(usename = 'mover')::text FROM pg_stat_activity WHERE application_name LIKE 'pgsluice%'";
        assert_eq!(text(&source, ours).await, "true");
    }
}

/// The plugin of a session that failed in the middle of decoding takes tables for announced that are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_without_room_for_a_piece_streams_and_announces_its_tables_again() {
    let (stage, source) = stage().await;
    source.batch_execute("ALTER DATABASE app SET temp_file_limit = '1MB'").await.expect("limit");
    let mut replicator = stage.streaming().await;
    kill(&mut replicator).await;
    write_backlog(&source, 0, 60).await;
    let mut replicator = stage.streaming().await;
    stage.caught_up_after(&mut replicator, &["a backlog".to_owned()]).await;
    source.batch_execute("ALTER DATABASE app RESET temp_file_limit").await.expect("no limit");
    stage.assert_same_rows().await;
    let log = replicator.log();
    assert!(log.contains("temporary file size exceeds"), "{log}");
    assert!(metric(&replicator, "pgsluice_bulk_ends_total{reason=\"interrupted\"}").await > 0.0, "{log}");
}

/// INV-3, traps 2 and 5: pieces are far ahead of what the target has, and the slot is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_backlog_is_confirmed_before_the_target_has_it() {
    let (stage, source) = stage().await;
    // A small queue: the target that does not move is felt in the middle of a piece.
    let small = "apply.max_batch_bytes = \"64KiB\"\n";
    let mut replicator = stage.streaming_with(small).await;
    stage.caught_up().await;
    kill(&mut replicator).await;
    let target = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    source.batch_execute("INSERT INTO t VALUES (-1, 'waiting')").await.expect("insert");
    let committed = text(&source, "SELECT pg_current_wal_lsn()::text").await;
    write_backlog(&source, 0, 60).await;
    let replicator = stage.command(small).start().expect("the program");
    until("bulk", || async { metric(&replicator, "pgsluice_reading{way=\"bulk\"}").await > 0.0 }).await;
    let ours = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'pgsluice'";
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let confirmed = text(&source, ours).await;
        let query = format!("SELECT ('{confirmed}'::pg_lsn < '{committed}'::pg_lsn)::text");
        assert_eq!(
            text(&source, &query).await,
            "true",
            "{confirmed} is confirmed, {committed} is not applied"
        );
    }
    assert!(metric(&replicator, "pgsluice_reading{way=\"bulk\"}").await > 0.0, "{}", replicator.log());
    target.batch_execute("COMMIT").await.expect("unlock");
    was_read_in_bulk(&replicator, 1.0).await;
    stage.caught_up().await;
    has_one_slot(&source).await;
    stage.assert_same_rows().await;
}

/// A piece's query keeps a snapshot on the source: a target that takes nothing for long must not keep it open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_move_for_long_ends_the_piece_and_the_rest_is_streamed() {
    let (stage, source) = stage().await;
    let small = "apply.max_batch_bytes = \"64KiB\"\n";
    let mut replicator = stage.streaming_with(small).await;
    kill(&mut replicator).await;
    let target = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    write_backlog(&source, 0, 60).await;
    let replicator = stage.command(small).start().expect("the program");
    until("the piece to be given up", || async {
        metric(&replicator, "pgsluice_bulk_ends_total{reason=\"blocked\"}").await > 0.0
    })
    .await;
    let snapshots = "SELECT count(*)::text FROM pg_stat_activity
                      WHERE application_name = 'pgsluice stream' AND query LIKE 'COPY%' AND state = 'active'";
    until("its query to end", || async { text(&source, snapshots).await == "0" }).await;
    target.batch_execute("COMMIT").await.expect("unlock");
    stage.caught_up().await;
    stage.assert_same_rows().await;
    has_one_slot(&source).await;
}

/// INV-11, INV-12: one transaction is one piece, and only the source needs room for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_one_transaction_of_300000_rows_does_not_grow_the_program() {
    let stage = Stage::with_options(PAIR, options(), options().setting("max_wal_size", "2GB")).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let mut replicator = stage.streaming().await;
    kill(&mut replicator).await;
    source
        .batch_execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1000, 300999) i")
        .await
        .expect("insert");
    let replicator = stage.streaming().await;
    stage.caught_up().await;
    assert!(replicator.log().contains("reading the backlog in bulk"), "{}", replicator.log());
    let peak_kib = peak_resident_kib(replicator.id());
    assert!(peak_kib < 128 * 1024, "{peak_kib} KiB");
    println!("{peak_kib} KiB");
    stage.assert_same_rows().await;
}

/// The source's process, and with it the copied slot, may vanish at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_session_that_is_ended_in_the_middle_of_a_piece_loses_nothing() {
    let (stage, source) = stage().await;
    let more = format!("{ALWAYS}apply.max_batch_bytes = \"64KiB\"\n");
    let mut replicator = stage.streaming_with(&more).await;
    let (mut round, mut tries) = (0, 0);
    while round < 5 {
        tries += 1;
        assert!(tries < 100, "no piece is seen while it is read");
        kill(&mut replicator).await;
        write_backlog(&source, tries * 100, 20).await;
        replicator = stage.command(&more).start().expect("the program");
        if !is_seen_reading(&source).await {
            continue;
        }
        round += 1;
        let end = ["pg_terminate_backend", "pg_cancel_backend"][usize::from(round % 2 == 0)];
        source
            .batch_execute(&format!(
                "SELECT {end}(pid) FROM pg_stat_activity WHERE application_name = 'pgsluice stream'"
            ))
            .await
            .expect("ended");
        stage.caught_up_after(&mut replicator, &[format!("{end} in round {round}")]).await;
        stage.assert_same_rows().await;
        has_one_slot(&source).await;
    }
}

/// Whether a piece is seen while it is read. It may be over between two looks: then everything has been applied.
async fn is_seen_reading(source: &Client) -> bool {
    let end = text(source, "SELECT pg_current_wal_lsn()::text").await;
    let look = format!(
        "SELECT CASE WHEN EXISTS (SELECT FROM pg_stat_activity
                       WHERE application_name = 'pgsluice stream' AND query LIKE 'COPY%' AND state = 'active') THEN 'reads'
                WHEN EXISTS (SELECT FROM pg_replication_slots
                       WHERE database = 'app' AND NOT temporary AND confirmed_flush_lsn >= '{end}') THEN 'is over' END"
    );
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        match source.query_one(&look, &[]).await.expect("a look").get::<_, Option<&str>>(0) {
            Some("reads") => return true,
            Some(_) => return false,
            None => {}
        }
    }
    panic!("nothing is read, and nothing confirmed");
}

/// Shutdown is answered while the source decodes a piece, or waits for us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_in_the_middle_of_a_piece_ends_the_program_in_time() {
    let (stage, source) = stage().await;
    let small = "apply.max_batch_bytes = \"64KiB\"\n";
    let mut replicator = stage.streaming_with(small).await;
    kill(&mut replicator).await;
    write_backlog(&source, 0, 60).await;
    let mut replicator = stage.command(small).start().expect("the program");
    until("bulk", || async { metric(&replicator, "pgsluice_reading{way=\"bulk\"}").await > 0.0 }).await;
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(Duration::from_secs(5)).await.expect("an end in time");
    let _replicator = stage.command(small).start().expect("the program");
    stage.caught_up().await;
    stage.assert_same_rows().await;
    has_one_slot(&source).await;
}

/// While changes are streamed a backlog can come up as well: it is read in bulk, and streamed again from its end on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streaming_that_falls_far_behind_is_left_for_bulk_and_come_back_to() {
    let (stage, source) = stage().await;
    let more = format!("{ALWAYS}apply.max_batch_bytes = \"64KiB\"\n");
    let mut replicator = stage.streaming_with(&more).await;
    stage.caught_up().await;
    let target = stage.target_client().await;
    for round in 0..3 {
        target.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.expect("lock");
        write_backlog(&source, round * 100, 60).await;
        let open = stage.source_client().await;
        open.batch_execute(&format!("BEGIN; INSERT INTO other VALUES ({round}, 'under way')"))
            .await
            .expect("open");
        target.batch_execute("COMMIT").await.expect("unlock");
        let pieces = metric(&replicator, "pgsluice_bulk_pieces_total").await;
        until("a piece", || async { metric(&replicator, "pgsluice_bulk_pieces_total").await > pieces }).await;
        open.batch_execute("COMMIT").await.expect("commit");
        source.batch_execute("UPDATE t SET v = v || '!' WHERE id % 100 = 0").await.expect("update");
        stage.caught_up_after(&mut replicator, &[format!("round {round}")]).await;
        stage.assert_same_rows().await;
    }
    let log = replicator.log();
    assert!(log.contains("streaming has fallen far behind"), "{log}");
    assert!(!log.contains("interrupted"), "nothing was lost on the way: {log}");
    has_one_slot(&source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_read_in_bulk_over_tls() {
    let key = rcgen::KeyPair::generate().expect("key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|parameters| parameters.self_signed(&key))
        .expect("certificate");
    let tls = ServerTls { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
    let stage = Stage::with_options(PAIR, options().tls(tls), options()).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let mut command = stage.command(ALWAYS);
    command.source_url = command.source_url.replace("sslmode=disable", "sslmode=require");
    let _replicator = killed_with_a_backlog_read_in_bulk(&command, &source).await;
    let plain = "SELECT count(*)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                  WHERE application_name LIKE 'pgsluice%' AND NOT ssl";
    assert_eq!(text(&source, plain).await, "0");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}
