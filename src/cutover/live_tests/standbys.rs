//! A target with a real streaming standby, which has to have what the fence's COMMIT relies on before it is sent.

use std::time::Duration;

use super::rig::{Rig, client};
use crate::cutover::Outcome;
use crate::demo::cluster::{ClusterOptions, LocalCluster, StopMode};
use crate::migration::CutoverMode;

/// Also on a slow machine longer than everything before the intent.
const PAUSE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_standby_that_is_lost_before_the_intent_is_written_keeps_the_fence_from_being_committed() {
    let durability = [("PGSLUICE_TARGET__DURABILITY", "standbys"), ("PGSLUICE_TARGET__STANDBYS", "1")];
    let mut rig = Rig::pair(14, 17, &durability).await;
    let target = rig.target.as_ref().expect("a target of its own");
    let options = ClusterOptions::new().setting("shared_buffers", "16MB");
    let mut standby =
        LocalCluster::start_standby(target, "standby", target.port(), &options).await.expect("a standby");

    rig.stall_the_stream().await;
    let (_, mut running) = rig.start(CutoverMode::Cutover, PAUSE).await.expect("accepted");
    rig.until(|report| report.state == "draining").await;
    // The journal cannot be written for a while, and so neither can the intent.
    let holder = client(&rig.new_url()).await;
    holder.batch_execute("BEGIN; SELECT FROM pgsluice.cutover FOR UPDATE").await.expect("held");
    rig.let_the_stream_run();
    rig.until(|report| report.state == "securing").await;
    // Long enough for the standby to be asked too early.
    tokio::time::sleep(Duration::from_millis(300)).await;
    standby.stop(StopMode::Kill).await.expect("killed");
    holder.batch_execute("ROLLBACK").await.expect("let go");

    let report = running.finished().await;
    let Outcome::Aborted { reason, .. } = &report.outcome else { panic!("{report:#?}") };
    assert!(reason.contains("standbys"), "{reason}");
    let old = client(&rig.old_url()).await;
    old.batch_execute("INSERT INTO orders (note) VALUES ('as before')")
        .await
        .expect("the source is the primary");
}
