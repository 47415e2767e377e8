//! An autovacuum at work on a published table: arming ends its visit, also where the role may not tell it to hurry, and
//! changes no setting for that.

use pgsluice::demo::cluster::StopMode;

use crate::harness::clusters::{connect, options};
use crate::harness::stage::{Pair, Stage, cut_over, streaming, text};
use crate::harness::wait::until;

const AT_WORK: &str = "SELECT count(*)::text FROM pg_stat_progress_vacuum";
const OPTIONS: &str =
    "SELECT coalesce(string_agg(relname || ' ' || reloptions::text, '; ' ORDER BY relname), '')
    FROM pg_class WHERE relname IN ('visited', 'kept')";

pub(crate) async fn an_autovacuum_at_work_does_not_hold_the_cutover_up(pair: Pair) {
    // It visits soon, and stays for minutes.
    let source_options = options()
        .setting("autovacuum_naptime", "1s")
        .setting("autovacuum_vacuum_cost_delay", "100ms")
        .setting("autovacuum_vacuum_cost_limit", "10");
    let mut stage = Stage::with_options(pair, source_options, options()).await;
    let source = stage.source_client().await;
    source
        .batch_execute(
            "CREATE TABLE visited (id int PRIMARY KEY, n int) WITH (fillfactor = 50);
             CREATE TABLE kept (id int PRIMARY KEY, n int) WITH (autovacuum_enabled = on);
             INSERT INTO visited SELECT g, 0 FROM generate_series(1, 100000) g;
             INSERT INTO kept SELECT g, 0 FROM generate_series(1, 1000) g;
             UPDATE kept SET n = 1",
        )
        .await
        .expect("tables");
    let before = text(&source, OPTIONS).await;
    let mut replicator = stage.streaming().await;
    source.batch_execute("UPDATE visited SET n = 1").await.expect("something to vacuum");
    let superuser = connect(&stage.source.url("app")).await;
    let on_visited = format!("{AT_WORK} WHERE relid = 'visited'::regclass");
    until("an autovacuum", || async { text(&superuser, &on_visited).await == "1" }).await;
    stage.caught_up().await;
    streaming(&mut replicator).await;
    let report = cut_over(&mut replicator).await;
    println!("write pause {:?} ms beside an autovacuum", report.pause_ms);
    assert_eq!(text(&source, OPTIONS).await, before, "settings are as before");
    let fence = report.steps.iter().find(|step| step.name == "fence_source").expect("the fence");
    assert!(fence.detail.as_deref().is_some_and(|detail| detail.ends_with(", 1 try")), "{fence:?}");
    drop(replicator);
    stage.source.stop(StopMode::Immediate).await.expect("stopped");
}
