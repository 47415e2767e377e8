//! What the copy's governor sees of a source: the WAL its slot keeps and who holds it up, and how far its standbys are. Only
//! what could be waited for counts, and what a role may not see stops nothing.

use std::sync::Arc;
use std::time::Duration;

use pgsluice::config::SnapshotConfig;
use pgsluice::connection::{ConnectionSettings, SqlSession, connect_sql};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster};
use pgsluice::migration::StatusBoard;
use pgsluice::model::Side;
use pgsluice::snapshot::{Governor, StandbyBehind, look};
use pgsluice::source::slot::TransactionHolder;
use pgsluice::telemetry::Metrics;

use crate::harness::clusters::{connect, options, start_with};
use crate::harness::fleet::standby_of;
use crate::harness::stage::text;
use crate::harness::wait::until;

const SLOT: &str = "watched";

fn source_options() -> ClusterOptions {
    options().setting("wal_keep_size", "512MB").setting("max_prepared_transactions", "5")
}

async fn session(source: &LocalCluster, user: Option<&str>) -> SqlSession {
    let url = match user {
        Some(user) => source.url_as(user, "secret", "postgres"),
        None => source.url("postgres"),
    };
    let settings = ConnectionSettings::parse(&url).expect("settings");
    connect_sql(&settings, Side::Source, "test").await.expect("a session")
}

async fn behind(session: &SqlSession) -> Option<StandbyBehind> {
    look(session, SLOT).await.expect("a look").standby
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_replays_nothing_is_seen_to_fall_behind_and_the_copy_waits_for_it() {
    let source = start_with(17, source_options()).await;
    let (standby, _feed) = standby_of(&source, "replica").await;
    let sql = session(&source, None).await;
    sql.batch_execute("CREATE TABLE public.t (x text); CREATE ROLE blind LOGIN PASSWORD 'secret'")
        .await
        .expect("table");
    until("the standby", || async { behind(&sql).await.is_some() }).await;

    let replica = connect(&standby.url("postgres")).await;
    replica.batch_execute("SELECT pg_wal_replay_pause()").await.expect("pause");
    until("the pause", || async {
        text(&replica, "SELECT pg_get_wal_replay_pause_state()").await == "paused"
    })
    .await;
    sql.batch_execute("INSERT INTO public.t SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
        .await
        .expect("rows");
    let seen = behind(&sql).await.expect("the standby");
    assert_eq!(seen.application_name, "replica");
    assert!(seen.lag_bytes > 3_000_000, "{seen:?}");
    let walsender =
        text(&connect(&source.url("postgres")).await, "SELECT pid::text FROM pg_stat_replication").await;
    assert_eq!(seen.pid.to_string(), walsender);

    let blind = look(&session(&source, Some("blind")).await, SLOT).await.expect("a look");
    assert_eq!((blind.standby, blind.hidden_senders), (None, 1), "a role that may not see it is told so");

    let board = StatusBoard::new(jiff::Timestamp::now());
    let config = SnapshotConfig {
        jobs: 1,
        chunk_bytes: 1 << 20,
        max_wal_retained_bytes: None,
        max_standby_lag_bytes: Some(1 << 20),
        max_bytes_per_second: None,
        index_jobs: 1,
    };
    let governor = Governor::new(&config, SLOT, board.clone(), Metrics::new().expect("metrics"));
    let governor = Arc::new(governor);
    let watching = Arc::clone(&governor);
    let watch = tokio::spawn(async move { watching.watch(&sql).await });
    let told = || board.with(|status| status.problem.as_ref().map(|problem| problem.message.clone()));
    until("the pause", || async { told().is_some_and(|problem| problem.contains("standby \"replica\"")) })
        .await;
    let waits = tokio::time::timeout(Duration::from_millis(50), governor.may_begin()).await.is_err();
    assert!(waits, "no chunk is begun");

    replica.batch_execute("SELECT pg_wal_replay_resume()").await.expect("resume");
    governor.may_begin().await;
    assert_eq!(told(), None, "what it told is taken back");
    watch.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_and_the_transaction_that_holds_it_up_are_seen_and_subscribers_are_no_standbys() {
    let source = start_with(14, source_options()).await;
    let sql = session(&source, None).await;
    let nothing = look(&sql, SLOT).await.expect("a look");
    assert_eq!((nothing.wal_retained_bytes, nothing.oldest_writer, nothing.standby), (None, None, None));

    sql.batch_execute("CREATE TABLE public.t (x text); CREATE PUBLICATION p FOR TABLE public.t")
        .await
        .expect("table");
    sql.batch_execute(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"))
        .await
        .expect("slot");
    let open = connect(&source.url("postgres")).await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES ('open')").await.expect("an open transaction");
    sql.batch_execute("INSERT INTO public.t SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
        .await
        .expect("rows");
    let seen = look(&sql, SLOT).await.expect("a look");
    assert!(seen.wal_retained_bytes > Some(2_000_000), "{seen:?}");
    let writer = seen.oldest_writer.expect("the open transaction");
    let pid = text(&open, "SELECT pg_backend_pid()::text").await;
    assert!(
        matches!(&writer.holder, TransactionHolder::Session { pid: seen, .. } if seen.to_string() == pid),
        "{writer:?}"
    );
    assert!(writer.age.is_some());

    open.batch_execute("PREPARE TRANSACTION 'held'").await.expect("prepared");
    let seen = look(&sql, SLOT).await.expect("a look").oldest_writer.expect("the prepared one");
    assert_eq!(seen.holder, TransactionHolder::Prepared { gid: "held".into() });
    open.batch_execute("ROLLBACK PREPARED 'held'").await.expect("rolled back");

    // Somebody else's subscriber, as far behind as it can be.
    let subscriber = start_with(14, options()).await;
    let subscribed = connect(&subscriber.url("postgres")).await;
    subscribed.batch_execute("CREATE TABLE t (x text)").await.expect("table");
    let origin = source.url("postgres");
    let subscribe =
        format!("CREATE SUBSCRIPTION s CONNECTION '{origin}' PUBLICATION p WITH (copy_data = false)");
    subscribed.batch_execute(&subscribe).await.expect("a subscription");
    let other = connect(&source.url("postgres")).await;
    until("the subscriber", || async {
        text(&other, "SELECT count(*)::text FROM pg_stat_replication WHERE replay_lsn IS NOT NULL").await
            == "1"
    })
    .await;
    let seen = look(&sql, SLOT).await.expect("a look");
    assert_eq!((seen.standby, seen.hidden_senders), (None, 0));
}
