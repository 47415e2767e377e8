//! The target fails over to a standby that is behind (traps 2 and 3, INV-3, INV-4). With `durability = "standbys"` the target
//! is back at an earlier moment and the stream goes on from there; with `"local"` changes are missing that the source was told
//! are safe, and nothing may go on.

use std::process::Stdio;
use std::time::{Duration, Instant};

use pgsluice::connection::{ConnectionSettings, SqlSession, connect_sql};
use pgsluice::control::dto::{CutoverModeRecord, CutoverRequestRecord};
use pgsluice::demo::cluster::{LocalCluster, PASSWORD, SUPERUSER, StopMode};
use pgsluice::demo::ledger;
use pgsluice::demo::replicator::Replicator;
use pgsluice::demo::store::{self, Scale};
use pgsluice::demo::workload::{Workload, WorkloadOptions};
use pgsluice::model::Side;
use pgsluice::target::same_server::same_server;
use pgsluice::target::standbys;
use tokio_postgres::Client;

use crate::harness::clusters::{connect, options, start, start_with};
use crate::harness::fleet::{Fleet, promote, standby_of};
use crate::harness::proxy::Network;
use crate::harness::seed;
use crate::harness::stage::{COPY_WAIT, Pair, ask, cut_over, end_of, streaming, text};
use crate::harness::threshold::Threshold;
use crate::harness::two_tables::{SCHEMA, confirmed, halted, kill, problem};
use crate::harness::wait::until;

const PAIR: Pair = Pair::of(14, 17);
const STANDBYS: &str = "target.durability = \"standbys\"\ntarget.standbys = 1\n";
const PROGRESS: &str = "SELECT min(commit_lsn)::text FROM pgsluice.progress";
/// Of the source's WAL, that the standby lacks when it is promoted.
const LEFT_BEHIND_BYTES: u32 = 200_000;
const SCALE: Scale = Scale::times(0.02);

fn workload(fleet: &Fleet, seed: u64) -> Workload {
    let options =
        WorkloadOptions { writers: 3, seed, scale: SCALE, transactions_per_second_max: Some(150.0) };
    Workload::start(fleet.stage.source_url(), options)
}

/// Ends the clients' writes, and waits until the target has everything.
async fn nothing_is_missing_or_doubled(fleet: &Fleet, workload: Workload, seed: u64) {
    let record = workload.stop().await;
    fleet.stage.caught_up().await;
    fleet.stage.assert_same_rows().await;
    let check = ledger::check(&fleet.stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0), "seed {seed}");
}

/// `first` is not behind `second`; both are positions.
async fn reaches(client: &Client, first: &str, second: &str) -> bool {
    text(client, &format!("SELECT (pg_lsn '{first}' >= pg_lsn '{second}')::text")).await == "true"
}

/// What becomes of the program while the target fails over.
#[derive(Clone, Copy, Debug)]
enum Program {
    GoesOn,
    IsKilled,
}

/// Applied changes that the standby lacks stay unconfirmed; after the failover they are applied again, while the source is
/// written to all the time. Two failovers in a row, then a cutover.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_fails_over_to_a_standby_that_is_behind_loses_nothing() {
    let (_, seed) = seed::random("failover to a standby that is behind");
    let mut fleet = Fleet::new(PAIR).await;
    store::create(&fleet.stage.source_url(), SCALE).await.expect("store");
    let source = fleet.stage.source_client().await;
    let mut replicator = fleet.streaming(STANDBYS).await;
    let workload = workload(&fleet, seed);
    for program in [Program::GoesOn, Program::IsKilled] {
        let kept = fleet.leave_the_standby_behind().await;
        fleet.primary_gets_beyond(&kept, LEFT_BEHIND_BYTES).await;
        let told = confirmed(&source).await;
        assert!(reaches(&source, &kept, &told).await, "{told} is confirmed, the standby has {kept} only");
        if let Program::IsKilled = program {
            kill(&mut replicator).await;
        }
        fleet.fail_over().await;
        let target = fleet.stage.target_client().await;
        let lost_commits = reaches(&target, &kept, &text(&target, PROGRESS).await).await;
        assert!(lost_commits, "the failover lost nothing: the test proves nothing");
        if let Program::IsKilled = program {
            replicator = fleet.streaming(STANDBYS).await;
        }
        fleet.primary_gets_beyond(&kept, 2 * LEFT_BEHIND_BYTES).await;
        waits_for_a_standby(&mut replicator).await;
        fleet.add_standby().await;
        let over = replicator
            .wait_for_status("the end of the wait", COPY_WAIT, |status| status.problem.is_none())
            .await;
        assert!(over.is_ok(), "{over:?}");
    }
    nothing_is_missing_or_doubled(&fleet, workload, seed).await;
    cut_over(&mut replicator).await;
    fleet.stage.assert_same_sequences().await;
}

/// Nobody is left who could keep what is applied: that is told, with what to do, and no cutover begins.
async fn waits_for_a_standby(replicator: &mut Replicator) {
    let told = problem(replicator, "waiting_for_operator").await;
    assert!(told.contains("before 1 of the target's standbys has it, and 0 are connected"), "{told}");
    assert!(told.contains("FROM pg_stat_replication;") && told.contains("watch its disk"), "{told}");
    let request = CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Rehearsal),
        max_pause_ms: Some(500),
        unverified: true,
    };
    let refused = replicator.api().start_cutover(request, &format!("{:08x}", rand::random::<u32>())).await;
    let refused = refused.expect_err("no standby").to_string();
    assert!(refused.contains("0 are connected"), "{refused}");
}

/// The same, with a connection string that lists both servers, and several connections that apply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_string_with_both_servers_follows_a_failover() {
    let (_, seed) = seed::random("failover with both hosts");
    let mut fleet = Fleet::new(Pair::of(15, 18)).await;
    store::create(&fleet.stage.source_url(), SCALE).await.expect("store");
    let configuration = format!("{STANDBYS}apply.connections = 3\n");
    let mut replicator = fleet.command_with_both_hosts(&configuration).start().expect("the program");
    streaming(&mut replicator).await;
    let workload = workload(&fleet, seed);
    let kept = fleet.leave_the_standby_behind().await;
    fleet.primary_gets_beyond(&kept, LEFT_BEHIND_BYTES).await;
    fleet.fail_over().await;
    fleet.primary_gets_beyond(&kept, LEFT_BEHIND_BYTES).await;
    fleet.add_standby().await;
    nothing_is_missing_or_doubled(&fleet, workload, seed).await;
}

/// With `durability = "local"` the source was told that lost changes are safe: they cannot be had again, and nothing goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_lost_confirmed_changes_halts_and_applies_nothing_more() {
    let mut fleet = Fleet::new(PAIR).await;
    let source = fleet.stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let replicator = fleet.streaming("target.durability = \"local\"\n").await;
    fleet.stage.caught_up().await;
    let kept = fleet.leave_the_standby_behind().await;
    source
        .batch_execute("INSERT INTO other SELECT i, 'lost' FROM generate_series(1, 500) i")
        .await
        .expect("x");
    fleet.stage.caught_up().await;
    let told = confirmed(&source).await;
    assert!(!reaches(&source, &kept, &told).await, "{told} is not beyond {kept}: the test proves nothing");
    fleet.fail_over().await;
    source.batch_execute("UPDATE t SET v = 'later'").await.expect("later");
    let log = halted(replicator).await;
    let (_, said) = log.split_once("was confirmed up to").unwrap_or_else(|| panic!("{log}"));
    assert!(said.contains("those in between are missing"), "{log}");
    assert!(
        said.contains("failover to a standby that was behind") && said.contains("pgsluice cleanup"),
        "{log}"
    );

    halted(fleet.command("").start().expect("the program")).await;
    let target = fleet.stage.target_client().await;
    let lost = text(&target, "SELECT count(*)::text FROM other").await;
    let later = text(&target, "SELECT count(*)::text FROM t WHERE v = 'later'").await;
    assert_eq!((lost.as_str(), later.as_str()), ("0", "0"));
    assert!(reaches(&target, &kept, &text(&target, PROGRESS).await).await);
}

/// While the target's address moves, the connection that applies still reaches the old primary and the one that watches the
/// new one: what the new one has flushed says nothing of what the old one committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_moves_between_two_connections_confirms_nothing_wrongly() {
    let mut fleet = Fleet::new(PAIR).await;
    let source = fleet.stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    let replicator = fleet.streaming("").await;
    fleet.stage.caught_up().await;
    let (old, new) = (fleet.stage.target.port(), fleet.standby.port());
    let kept = fleet.leave_the_standby_behind().await;
    promote(&fleet.standby).await;
    let promoted = connect(&fleet.standby.url("app")).await;
    // Its WAL is far ahead of the old primary's.
    for number in 0..4 {
        let far = format!("CREATE TABLE far_{number} (); DROP TABLE far_{number}");
        promoted.batch_execute(&far).await.expect("WAL");
        promoted.batch_execute("SELECT pg_switch_wal()").await.expect("WAL");
    }
    fleet.service.lead_first_to(&[old], new);
    let cut =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgsluice apply'";
    fleet.stage.target_client().await.batch_execute(cut).await.expect("cut");
    source
        .batch_execute("INSERT INTO other SELECT i, 'x' FROM generate_series(1, 500) i")
        .await
        .expect("insert");
    fleet.stage.caught_up().await;
    assert!(replicator.log().contains("two different servers"), "{}", replicator.log());
    fleet.stage.target.stop(StopMode::Kill).await.expect("the old primary's end");
    std::mem::swap(&mut fleet.stage.target, &mut fleet.standby);
    let has = text(&promoted, PROGRESS).await;
    assert!(reaches(&source, &has, &confirmed(&source).await).await, "{kept}, {has}");
    fleet.stage.caught_up().await;
    fleet.stage.assert_same_rows().await;
}

/// Rows that take a copy a while: it must not be over before the failover is.
const MANY_ROWS: &str = "CREATE TABLE many (id int PRIMARY KEY, v text);
    INSERT INTO many SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 400000) i";

/// The copy has not been told to the source yet, so whatever the standby lacks is copied again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_fails_over_during_the_copy_has_every_row_in_the_end() {
    let (_, seed) = seed::random("failover during the copy");
    let mut fleet = Fleet::new(PAIR).await;
    store::create(&fleet.stage.source_url(), SCALE).await.expect("store");
    fleet.stage.source_client().await.batch_execute(MANY_ROWS).await.expect("many rows");
    let workload = workload(&fleet, seed);
    let mut replicator = fleet.command(STANDBYS).start().expect("the program");
    let copying = replicator
        .wait_for_status("a copy under way", COPY_WAIT, |status| {
            status.phase == "snapshot"
                && status.tables.iter().any(|table| table.name == "many" && table.rows_copied > 0)
        })
        .await;
    copying.unwrap_or_else(|error| panic!("{error}"));
    // At once: the standby must not hear of the copy's end.
    fleet.starve_the_standby();
    fleet.fail_over().await;
    let copied = text(&fleet.stage.target_client().await, "SELECT count(*)::text FROM many").await;
    assert_eq!(copied, "0", "the copy was over before the failover: the test proves nothing");
    fleet.add_standby().await;
    streaming(&mut replicator).await;
    nothing_is_missing_or_doubled(&fleet, workload, seed).await;
}

/// Between arming and the fence, and inside the blackout: the operation is rolled back and the source goes on, nobody sees an error, and
/// the next one completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_fails_over_in_a_cutover_leaves_the_source_the_primary() {
    let (_, seed) = seed::random("failover in a cutover");
    let mut fleet = Fleet::new(PAIR).await;
    store::create(&fleet.stage.source_url(), SCALE).await.expect("store");
    let gate = Threshold::new();
    let mut replicator = fleet.streaming(&format!("{STANDBYS}{}", gate.configuration())).await;
    let workload = workload(&fleet, seed);
    for is_fenced in [false, true] {
        let accepted = ask(&replicator, CutoverModeRecord::Cutover, 60_000).await;
        gate.reached().await;
        // With nobody to keep what is applied, the fence waits for a standby.
        fleet.leave_the_standby_behind().await;
        if is_fenced {
            gate.open();
            let fenced = replicator
                .wait_for_status("the fence", COPY_WAIT, |status| {
                    status.cutover.as_ref().is_some_and(|cutover| cutover.state == "securing")
                })
                .await;
            fenced.unwrap_or_else(|error| panic!("{error}"));
        }
        fleet.fail_over().await;
        gate.open();
        let ended = end_of(&mut replicator, &accepted).await;
        assert_eq!(ended.outcome, "aborted", "{ended:#?}");
        println!(
            "fenced: {is_fenced}: {} {}",
            ended.reason.unwrap_or_default(),
            ended.remedy.unwrap_or_default()
        );
        let before = workload.acknowledged();
        until("the clients' commits", || async { workload.acknowledged() > before + 20 }).await;
        fleet.add_standby().await;
        gate.close();
        let over =
            replicator.wait_for_status("the end of the wait", COPY_WAIT, |it| it.problem.is_none()).await;
        over.unwrap_or_else(|error| panic!("{error}"));
        fleet.stage.caught_up().await;
    }
    gate.open();
    cut_over(&mut replicator).await;
    let record = workload.stop().await;
    let fenced = record.errors_by_code();
    assert!(fenced.keys().all(|code| code == "25006"), "{fenced:?}");
    fleet.stage.assert_same_rows().await;
    fleet.stage.assert_same_sequences().await;
    let check = ledger::check(&fleet.stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0), "seed {seed}");
}

async fn session(url: &str) -> SqlSession {
    let settings = ConnectionSettings::parse(url).expect("a valid url");
    connect_sql(&settings, Side::Target, "test").await.expect("a session")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sessions_of_one_server_know_each_other_and_those_of_two_do_not() {
    let (one, other) = tokio::join!(start(17), start(17));
    let (first, second) = (session(&one.url("postgres")).await, session(&one.url("postgres")).await);
    let elsewhere = session(&other.url("postgres")).await;
    assert!(same_server(&first, &second).await.expect("both answer"));
    assert!(!same_server(&first, &elsewhere).await.expect("both answer"));
}

/// Subscribers, and programs that keep or copy WAL, are in `pg_stat_replication` with what they have flushed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_could_be_promoted_counts_as_a_standby() {
    let mut counted = Vec::new();
    for major in [14, 18] {
        let target_options = options().setting("wal_keep_size", "512MB");
        let (target, subscriber) = tokio::join!(start_with(major, target_options), start(major));
        let client = connect(&target.url("postgres")).await;
        client
            .batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
            .await
            .expect("t");
        let subscribed = connect(&subscriber.url("postgres")).await;
        let origin = format!(
            "host=127.0.0.1 port={} user={SUPERUSER} password={PASSWORD} dbname=postgres",
            target.port()
        );
        subscribed.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.expect("t");
        let subscribe = format!("CREATE SUBSCRIPTION s CONNECTION '{origin}' PUBLICATION p");
        subscribed.batch_execute(&subscribe).await.expect("subscription");
        client.batch_execute("SELECT pg_create_physical_replication_slot('kept')").await.expect("slot");
        let folder = tempfile::tempdir().expect("folder");
        let _keeper = tool(&target, "pg_receivewal", &["--slot=kept", "--synchronous"], folder.path());
        let copy = folder.path().join("copy");
        let _copier = tool(&target, "pg_basebackup", &["--max-rate=32k", "--checkpoint=fast"], &copy);
        let senders = "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL";
        until("three that look like standbys", || async {
            client
                .batch_execute("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")
                .await
                .expect("insert");
            text(&client, senders).await == "3"
        })
        .await;
        let watching = session(&target.url("postgres")).await;
        assert_eq!(standbys::look(&watching).await.expect("a look").connected(), 0);
        let (_standby, _feed) = standby_of(&target, "standby").await;
        until("the standby to count", || async {
            standbys::look(&watching).await.expect("a look").connected() == 1
        })
        .await;
        counted.push(text(&client, senders).await);
    }
    assert!(counted.iter().all(|count| count == "4"), "{counted:?}");
}

/// A program that receives WAL from `server`, until it is dropped.
fn tool(
    server: &LocalCluster,
    name: &str,
    arguments: &[&str],
    directory: &std::path::Path,
) -> tokio::process::Child {
    tokio::process::Command::new(server.installation().program(name))
        .args(["-h", "127.0.0.1", "-U", SUPERUSER, "-p", &server.port().to_string(), "-D"])
        .arg(directory)
        .args(arguments)
        .env("PGPASSWORD", PASSWORD)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the tool")
}

/// A standby that was ahead of the one that was promoted has a history of its own. It connects to the new primary again and
/// again, and says that it has flushed more than there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_with_another_history_does_not_count() {
    let primary = start_with(17, options().setting("wal_keep_size", "512MB")).await;
    let ((behind, behind_feed), (ahead, ahead_feed)) =
        tokio::join!(standby_of(&primary, "behind"), standby_of(&primary, "ahead"));
    let client = connect(&primary.url("postgres")).await;
    client.batch_execute("CREATE TABLE t (id int)").await.expect("table");
    let is_level = |name: &'static str| {
        format!(
            "SELECT coalesce(bool_or(flush_lsn = pg_current_wal_flush_lsn()), false)::text
             FROM pg_stat_replication WHERE application_name = '{name}'"
        )
    };
    until("both to be level", || async {
        text(&client, &is_level("behind")).await == "true"
            && text(&client, &is_level("ahead")).await == "true"
    })
    .await;
    behind_feed.set(Network::Silent);
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 20000)").await.expect("rows");
    until("one to be ahead", || async { text(&client, &is_level("ahead")).await == "true" }).await;
    promote(&behind).await;
    ahead_feed.lead_to(behind.port());
    drop(client);
    drop(primary);

    let watching = session(&behind.url("postgres")).await;
    let mut appearances = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while appearances < 3 && Instant::now() < deadline {
        let seen = watching
            .query_one(
                "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn > pg_current_wal_flush_lsn()",
                &[],
            )
            .await
            .expect("a look");
        appearances += seen.get::<_, i64>(0);
        assert_eq!(standbys::look(&watching).await.expect("a look").connected(), 0);
    }
    assert!(appearances > 0, "it never said that it is ahead: the test proves nothing");
    drop(ahead);
}
