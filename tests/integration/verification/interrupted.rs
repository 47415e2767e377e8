//! What breaks off in the middle of a verification never looks like a difference, and never makes one vanish: the target's server, the
//! sessions that compare, the stream, the program itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgsluice::control::dto::{
    CutoverModeRecord, CutoverRequestRecord, RowDifferenceRecord, VerificationRecord,
    VerificationRequestRecord,
};
use pgsluice::demo::cluster::StopMode;
use pgsluice::demo::replicator::Replicator;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::{FAST, begun, ended, running, size, verify};
use crate::harness::clusters::connect;
use crate::harness::seed;
use crate::harness::stage::{Pair, Stage, streaming, text};
use crate::harness::two_tables::{intruder, kill};
use crate::harness::wait::until;

/// Some 20 MB: twenty pieces of the least size.
const SCHEMA: &str = "
CREATE TABLE large (id int PRIMARY KEY, n int, v text);
INSERT INTO large SELECT i, 0, repeat(md5(i::text), 4) FROM generate_series(1, 100000) i;
CREATE TABLE small (id int PRIMARY KEY, n int, v text);
INSERT INTO small SELECT i, 0, 'v' FROM generate_series(1, 500) i; ANALYZE";
/// Those that are never deleted.
const ROWS: u64 = 100_500;
/// Connections that may be left at different positions.
const PIECES: &str = "verify.piece_bytes = \"1MiB\"\napply.connections = 3";
/// With rests between the pieces, in which something can happen.
const SLOW: VerificationRequestRecord =
    VerificationRequestRecord { scope: None, share_percent: Some(10), jobs: Some(2), repair: false };
/// In one verification.
const DISTURBANCES_MAX: usize = 3;
/// A row in every piece, that nobody writes to.
const DAMAGE: &str = "UPDATE large SET n = -1 WHERE id % 5000 = 0";
const DAMAGED: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    TargetRestarts,
    SourceSessionsEnd,
    TargetSessionsEnd,
    StreamBreaks,
}

const ALL: [Disturbance; 4] = [
    Disturbance::TargetRestarts,
    Disturbance::SourceSessionsEnd,
    Disturbance::TargetSessionsEnd,
    Disturbance::StreamBreaks,
];

struct Scene {
    stage: Stage,
    source: Client,
    replicator: Replicator,
}

impl Scene {
    async fn begins() -> Self {
        let stage = Stage::new(Pair::of(14, 17)).await;
        let source = stage.source_client().await;
        source.batch_execute(SCHEMA).await.expect("schema");
        let replicator = stage.streaming_with(PIECES).await;
        stage.caught_up().await;
        Self { stage, source, replicator }
    }

    /// A verification with this happening in its middle, more than once; returns how often.
    async fn disturbed_by(&mut self, disturbance: Disturbance) -> (VerificationRecord, usize) {
        let accepted = begun(&self.replicator, SLOW).await;
        let (mut snapshots, mut disturbed) = (0, 0);
        while disturbed < DISTURBANCES_MAX {
            until("another piece", || async {
                let seen = running(&self.replicator).await;
                seen.outcome != "running" || seen.snapshots > snapshots
            })
            .await;
            let seen = running(&self.replicator).await;
            if seen.outcome != "running" {
                break;
            }
            snapshots = seen.snapshots;
            self.bring_about(disturbance).await;
            disturbed += 1;
        }
        (ended(&self.replicator, accepted.number).await, disturbed)
    }

    async fn bring_about(&mut self, disturbance: Disturbance) {
        const COMPARING: &str = "FROM pg_stat_activity WHERE application_name = 'pgsluice verify'";
        match disturbance {
            Disturbance::TargetRestarts => {
                self.stage.target.stop(StopMode::Immediate).await.expect("a stop");
                self.stage.target.start_again().await.expect("a start");
            }
            Disturbance::SourceSessionsEnd => end_sessions(&self.source, "pid", COMPARING).await,
            Disturbance::TargetSessionsEnd => {
                end_sessions(&self.stage.target_client().await, "pid", COMPARING).await;
            }
            Disturbance::StreamBreaks => {
                let streaming = "FROM pg_replication_slots WHERE database = 'app' AND active";
                end_sessions(&self.source, "active_pid", streaming).await;
            }
        }
    }

    /// It is as before.
    async fn recovers(&mut self) {
        streaming(&mut self.replicator).await;
        self.stage.caught_up_after(&mut self.replicator, &[]).await;
    }
}

/// Ends at least one.
async fn end_sessions(client: &Client, pid: &str, which: &str) {
    let sql = format!("SELECT (count(*) FILTER (WHERE pg_terminate_backend({pid})) > 0)::text {which}");
    until("sessions to end", || async { text(client, &sql).await == "true" }).await;
}

/// One session that writes until it is told to stop, to other rows than are damaged.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Writer {
    fn on(url: String, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let client = connect(&url).await;
            let mut random = StdRng::seed_from_u64(seed);
            let mut done = 0;
            while !until.load(Ordering::Relaxed) {
                let (large, small) = (random.random_range(0..10_000) * 10 + 1, random.random_range(1..=500));
                let sql = match random.random_range(0..4) {
                    0 => format!(
                        "INSERT INTO large VALUES ({}, 1, 'more') ON CONFLICT (id) DO UPDATE SET n = large.n + 1",
                        1_000_000 + small
                    ),
                    1 => format!("DELETE FROM large WHERE id = {}", 1_000_000 + small),
                    2 => format!("UPDATE large SET n = n + 1, v = reverse(v) WHERE id = {large}"),
                    _ => format!("UPDATE small SET n = n + 1 WHERE id = {small}"),
                };
                client.batch_execute(&sql).await.expect("a change");
                done += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            done
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.task.await.expect("a writer") > 0, "nothing was written");
    }
}

/// Everything that is there was compared, or it is said why not.
fn is_clean_for_a_reason(report: &VerificationRecord) -> bool {
    let is_clean = report.outcome == "clean" && report.rows_compared >= ROWS && report.left_out.is_empty();
    let is_incomplete =
        report.outcome == "incomplete" && report.reason.as_ref().is_some_and(|reason| !reason.is_empty());
    report.differences == 0 && report.rows.is_empty() && (is_clean || is_incomplete)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_off_in_the_middle_is_never_taken_for_a_difference() {
    let (_, seed) = seed::random("verifications that are disturbed");
    let mut scene = Scene::begins().await;
    let writer = Writer::on(scene.stage.source_url(), seed);
    let (mut clean, mut verifications) = (0, 0);
    for run in 0..size("PGSLUICE_VERIFY_DISTURBED", 1) {
        for disturbance in ALL {
            let (report, disturbed) = scene.disturbed_by(disturbance).await;
            let told = format!("run {run}, seed {seed}, {disturbance:?}");
            assert!(is_clean_for_a_reason(&report), "{told}: {report:#?}\n{}", scene.replicator.log());
            assert!(disturbed > 1, "{told}: it was over too soon: {report:#?}");
            clean += u64::from(report.outcome == "clean");
            verifications += 1;
            scene.recovers().await;
            let undisturbed = verify(&scene.replicator, FAST).await;
            let is_clean = undisturbed.outcome == "clean" && undisturbed.rows_compared >= ROWS;
            assert!(is_clean, "after {told}: {undisturbed:#?}\n{}", scene.replicator.log());
        }
    }
    // What passes is waited for.
    assert!(clean * 2 > verifications, "{clean} of {verifications}\n{}", scene.replicator.log());
    writer.end().await;
    scene.recovers().await;
    scene.stage.assert_same_rows().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_never_passed_over_because_something_breaks_off() {
    let (_, seed) = seed::random("damage and verifications that are disturbed");
    let mut scene = Scene::begins().await;
    intruder(&scene.stage).await.batch_execute(DAMAGE).await.expect("damage");
    let writer = Writer::on(scene.stage.source_url(), seed);
    for run in 0..size("PGSLUICE_VERIFY_DISTURBED", 1) {
        for disturbance in ALL {
            let (report, _) = scene.disturbed_by(disturbance).await;
            let told = format!("run {run}, seed {seed}, {disturbance:?}");
            let is_found = report.outcome == "differences" && is_the_damage(&report);
            let is_incomplete = report.outcome == "incomplete" && report.rows.is_empty();
            assert!(is_found || is_incomplete, "{told}: {report:#?}\n{}", scene.replicator.log());
            scene.recovers().await;
        }
    }
    let undisturbed = verify(&scene.replicator, FAST).await;
    let is_found = is_the_damage(&undisturbed) && undisturbed.rows.len() == DAMAGED;
    assert!(is_found, "{undisturbed:#?}\n{}", scene.replicator.log());
    writer.end().await;
}

/// The damage and nothing else, and all of it if everything was compared.
fn is_the_damage(report: &VerificationRecord) -> bool {
    let is_all_compared = report.tables_compared == report.tables_total;
    let is_damaged = |row: &RowDifferenceRecord| {
        let id = row.key.first().and_then(|column| column.value.parse::<u64>().ok());
        (row.table.as_str(), row.kind.as_str(), row.columns.as_slice())
            == ("public.large", "differs", &["n".to_owned()])
            && id.is_some_and(|id| id % 5_000 == 0)
    };
    report.rows.iter().all(is_damaged)
        && report.differences == report.rows.len() as u64
        && (report.rows.len() == DAMAGED || !is_all_compared)
}

/// What is known by then is worth more than what an older verification says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_that_was_found_outlives_the_process_that_found_it() {
    let Scene { stage, mut replicator, .. } = Scene::begins().await;
    let clean = verify(&replicator, FAST).await;
    assert_eq!(clean.outcome, "clean", "{clean:#?}");
    let target = intruder(&stage).await;
    target.batch_execute("UPDATE large SET n = -1 WHERE id = 1").await.expect("damage");
    let slowest = VerificationRequestRecord { share_percent: Some(1), jobs: Some(1), ..FAST };
    let number = begun(&replicator, slowest).await.number;
    until("a difference", || async { running(&replicator).await.differences > 0 }).await;
    let noted = format!(
        "SELECT (outcome = 'differences' AND ended_at IS NOT NULL)::text FROM pgsluice.verification WHERE number = {number}"
    );
    until("a record of it", || async { text(&target, &noted).await == "true" }).await;
    let seen = running(&replicator).await;
    assert_eq!((seen.outcome.as_str(), seen.differences), ("running", 1), "{seen:#?}");
    kill(&mut replicator).await;

    let mut replicator = stage.command(PIECES).start().expect("the program");
    streaming(&mut replicator).await;
    let shown = running(&replicator).await;
    assert_eq!((shown.number, shown.outcome.as_str()), (number, "differences"), "{shown:#?}");
    let request = CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Cutover),
        max_pause_ms: Some(20_000),
        unverified: false,
    };
    let refused = replicator.api().start_cutover(request, "after-the-kill").await;
    let refused = refused.expect_err("rows differ").to_string();
    assert!(refused.contains(&format!("the last verification ({number}) found 1 row")), "{refused}");
}
