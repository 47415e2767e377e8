//! What the monitor says of both sides beside positions and lag: what the slot does to the source, and the target's standbys.

use crate::harness::clusters::{connect, options};
use crate::harness::fleet::standby_of;
use crate::harness::stage::{Pair, Stage, text};
use crate::harness::wait::until;

const CONNECTED: &str = "pgsluice_target_standbys{state=\"connected\"}";

/// Who owns the database is no member of the role with which the standby replicates, as on a target of CloudNativePG.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standbys_are_told_to_a_role_that_may_see_them_and_unknown_to_another() {
    let stage = Stage::new(Pair::owned(15, 17)).await;
    let _standby = standby_of(&stage.target, "standby").await;
    let table = "CREATE TABLE t (id int PRIMARY KEY)";
    stage.source_client().await.batch_execute(table).await.expect("table");
    let replicator = stage.streaming().await;
    let api = replicator.api();
    until("a look at the standbys", || async {
        api.metric("pgsluice_target_standbys{state=\"wanted\"}").await.expect("metrics") == Some(0.0)
    })
    .await;
    assert_eq!(api.metric(CONNECTED).await.expect("metrics"), None, "it may not see them");

    let superuser = connect(&stage.target.url("app")).await;
    superuser.batch_execute("GRANT pg_read_all_stats TO mover").await.expect("grant");
    until("the standby", || async { api.metric(CONNECTED).await.expect("metrics") == Some(1.0) }).await;
    until("how far it is behind", || async {
        api.metric("pgsluice_target_standby_lag_bytes").await.expect("metrics").is_some()
    })
    .await;
    let log = replicator.log();
    assert!(!log.contains("standby"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_slot_keeps_from_vacuum_grows_with_the_transactions_of_the_source() {
    let stage =
        Stage::with_options(Pair::of(14, 17), options().setting("max_slot_wal_keep_size", "4GB"), options())
            .await;
    let source = stage.source_client().await;
    source.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.expect("table");
    let replicator = stage.streaming().await;
    let api = replicator.api();
    let safe = api.metric("pgsluice_slot_safe_wal_bytes").await.expect("metrics").expect("a limit");
    assert!(safe > 3e9 && safe < 5e9, "{safe}");
    // While a transaction is open, the slot needs the catalogs as they were when it began.
    let open = stage.source_client().await;
    open.batch_execute("BEGIN; INSERT INTO t VALUES (0)").await.expect("an open transaction");
    let burn = "DO $$ BEGIN FOR i IN 1..500 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END $$";
    source.batch_execute(burn).await.expect("transactions");
    until("the age", || async {
        api.metric("pgsluice_slot_xmin_age_transactions")
            .await
            .expect("metrics")
            .is_some_and(|age| age >= 500.0)
    })
    .await;
    let said = "SELECT age(catalog_xmin)::text FROM pg_replication_slots WHERE slot_name = 'pgsluice'";
    let said: f64 = text(&source, said).await.parse().expect("a number");
    assert!(said >= 500.0, "{said}");
    open.batch_execute("COMMIT").await.expect("commit");
}
