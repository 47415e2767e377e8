//! The slot: its snapshot and its stream meet without gap or overlap, waiting names who is waited for, and nothing
//! is left behind that nobody reads (trap 18).

use std::sync::{Arc, Mutex};

use pgsluice::connection::{ConnectionSettings, SqlSession, connect_sql};
use pgsluice::demo::cluster::LocalCluster;
use pgsluice::model::Side;
use pgsluice::runtime::Shutdown;
use pgsluice::source::slot::{
    DroppedSlot, OldTransaction, SlotError, TransactionHolder, WhenActive, create_exporting, drop_slot,
    inspect,
};

use crate::harness::clusters::{options, start, start_with};
use crate::harness::wait::until;

fn settings(cluster: &LocalCluster) -> ConnectionSettings {
    ConnectionSettings::parse(&cluster.url("postgres")).expect("a url")
}

async fn connect(cluster: &LocalCluster) -> SqlSession {
    connect_sql(&settings(cluster), Side::Source, "test").await.expect("a session")
}

async fn snapshot_and_stream_meet(major: u32) {
    let cluster = start(major).await;
    let session = connect(&cluster).await;
    session
        .batch_execute("CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t VALUES (1)")
        .await
        .expect("a table");
    let slot = create_exporting(&settings(&cluster), "s", |_| {}, &Shutdown::new()).await.expect("a slot");
    session.batch_execute("INSERT INTO public.t VALUES (2)").await.expect("a later row");
    let reader = connect(&cluster).await;
    reader
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{}'",
            slot.snapshot_name
        ))
        .await
        .expect("the snapshot");
    let row = reader.query_one("SELECT max(id) FROM public.t", &[]).await.expect("rows");
    assert_eq!(row.get::<_, i32>(0), 1);
    let state = inspect(&session, "s").await.expect("inspected").expect("it exists");
    assert_eq!(state.confirmed_flush_lsn, Some(slot.consistent_lsn));
    assert_eq!(state.plugin.as_deref(), Some("pgoutput"));
    assert!(state.retained_bytes.is_some());
    drop(slot);
    until("the exporter is gone", || async {
        inspect(&session, "s").await.expect("inspected").is_some_and(|state| state.active_pid.is_none())
    })
    .await;
    assert_eq!(drop_slot(&session, "s", WhenActive::Refuse).await.expect("dropped"), DroppedSlot::Dropped);
    assert_eq!(drop_slot(&session, "s", WhenActive::Refuse).await.expect("gone"), DroppedSlot::Absent);
}

#[tokio::test]
async fn the_snapshot_ends_where_the_stream_begins_on_14() {
    snapshot_and_stream_meet(14).await;
}

#[tokio::test]
async fn the_snapshot_ends_where_the_stream_begins_on_18() {
    snapshot_and_stream_meet(18).await;
}

#[tokio::test]
async fn waiting_names_the_transactions_waited_for_and_ends_with_them() {
    let cluster = start_with(14, options().setting("max_prepared_transactions", "2")).await;
    let (session, writer) = (connect(&cluster).await, connect(&cluster).await);
    session.batch_execute("CREATE TABLE public.t (id int PRIMARY KEY)").await.expect("a table");
    session
        .batch_execute("BEGIN; INSERT INTO public.t VALUES (1); PREPARE TRANSACTION 'two_phase'")
        .await
        .expect("a prepared transaction");
    writer.batch_execute("BEGIN; INSERT INTO public.t VALUES (2)").await.expect("an open transaction");
    let seen: Arc<Mutex<Vec<OldTransaction>>> = Arc::default();
    let (into, settings) = (Arc::clone(&seen), settings(&cluster));
    let creation = tokio::spawn(async move {
        let on_wait = |old: &[OldTransaction]| into.lock().expect("no panic").extend_from_slice(old);
        create_exporting(&settings, "s", on_wait, &Shutdown::new()).await
    });
    let has_seen = |is_it: fn(&OldTransaction) -> bool| {
        let seen = Arc::clone(&seen);
        move || {
            let found = seen.lock().expect("no panic").iter().any(is_it);
            async move { found }
        }
    };
    let is_prepared =
        |old: &OldTransaction| old.holder == TransactionHolder::Prepared { gid: "two_phase".into() };
    until("the prepared transaction is named", has_seen(is_prepared)).await;
    session.batch_execute("COMMIT PREPARED 'two_phase'").await.expect("committed");
    let is_session = |old: &OldTransaction| matches!(&old.holder, TransactionHolder::Session { application, .. } if application.as_deref() == Some("pgsluice test"));
    until("the session is named", has_seen(is_session)).await;
    let texts: Vec<String> = seen.lock().expect("no panic").iter().map(ToString::to_string).collect();
    let pid = format!("pid {}, user postgres, application pgsluice test", writer.backend_pid());
    assert!(texts.iter().any(|text| text.starts_with(&pid)), "{texts:?}");
    writer.batch_execute("COMMIT").await.expect("committed");
    creation.await.expect("no panic").expect("a slot");
}

/// Trap 18.
#[tokio::test]
async fn a_creation_that_is_stopped_leaves_no_slot_behind() {
    let cluster = start(14).await;
    let (session, writer) = (connect(&cluster).await, connect(&cluster).await);
    writer
        .batch_execute("CREATE TABLE public.t (id int); BEGIN; INSERT INTO public.t VALUES (2)")
        .await
        .expect("an open transaction");
    let shutdown = Shutdown::new();
    let (signal, settings) = (shutdown.clone(), settings(&cluster));
    let creation = tokio::spawn(async move { create_exporting(&settings, "s", |_| {}, &signal).await });
    until("the creation is under way", || async {
        inspect(&session, "s").await.expect("inspected").is_some()
    })
    .await;
    shutdown.request();
    assert!(matches!(creation.await.expect("no panic"), Err(SlotError::Stopped)));
    assert!(inspect(&session, "s").await.expect("inspected").is_none());
}

/// Trap 18: what a killed run leaves behind is cleared away by the next, and nobody else's is.
#[tokio::test]
async fn an_unfinished_slot_of_a_killed_run_can_be_cleared_away() {
    let cluster = start(17).await;
    let (session, writer) = (connect(&cluster).await, connect(&cluster).await);
    writer
        .batch_execute("CREATE TABLE public.t (id int); BEGIN; INSERT INTO public.t VALUES (2)")
        .await
        .expect("an open transaction");
    let settings = settings(&cluster);
    let creation =
        tokio::spawn(async move { create_exporting(&settings, "s", |_| {}, &Shutdown::new()).await });
    // Once it waits for the transaction, the server does not notice that its client is gone; before, it ends with it.
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event = 'transactionid')";
    until("the creation waits for the transaction", || async {
        session.query_one(waiting, &[]).await.expect("activity").get::<_, bool>(0)
    })
    .await;
    creation.abort();
    assert!(matches!(drop_slot(&session, "s", WhenActive::Refuse).await, Err(SlotError::Active { .. })));
    drop_slot(&session, "s", WhenActive::TerminateOurs).await.expect("cleared away");
    assert!(inspect(&session, "s").await.expect("inspected").is_none());
}

#[tokio::test]
async fn a_taken_name_and_a_full_house_are_told_apart() {
    let cluster = start_with(16, options().setting("max_replication_slots", "1")).await;
    let session = connect(&cluster).await;
    session.batch_execute("SELECT pg_create_physical_replication_slot('other')").await.expect("a slot");
    let create = |name: &'static str| {
        let settings = settings(&cluster);
        async move { create_exporting(&settings, name, |_| {}, &Shutdown::new()).await }
    };
    assert!(matches!(create("s").await, Err(SlotError::NoneFree)));
    assert!(matches!(create("other").await, Err(SlotError::AlreadyExists { .. })));
    assert!(matches!(create("Bad Name").await, Err(SlotError::Name { .. })));
}
