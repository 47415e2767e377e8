//! Commits of the source that wait for its synchronous standby are streamed and applied, and not visible there. A verification waits for
//! them, and does not take them for differences; where it could not see them, it says so.

use std::time::{Duration, Instant};

use pgsluice::control::dto::{VerificationRecord, VerificationRequestRecord};
use pgsluice::demo::replicator::Replicator;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::{FAST, begun, ended, running, verify};
use crate::harness::stage::{Pair, Stage, text};
use crate::harness::unanswered::{are_waiting, until_waiting, with_an_answer, without_an_answer};
use crate::harness::wait::until;

/// Twenty pieces of the least size.
const SCHEMA: &str = "
CREATE TABLE large (id int PRIMARY KEY, v text);
INSERT INTO large SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 100000) i; ANALYZE";
const BEFOREHAND: &str =
    "BEGIN; UPDATE large SET v = 'prepared' WHERE id = 99990; PREPARE TRANSACTION 'beforehand'";
const PIECES: &str = "verify.piece_bytes = \"1MiB\"";
/// In the first pieces, in the last ones, and beyond.
const COMMITS: [&str; 5] = [
    "UPDATE large SET v = 'waits' WHERE id BETWEEN 10 AND 30",
    "DELETE FROM large WHERE id = 40",
    "UPDATE large SET v = 'waits' WHERE id BETWEEN 99900 AND 99930",
    "INSERT INTO large VALUES (200000, 'waits')",
    // The session that commits it has no transaction id.
    "COMMIT PREPARED 'beforehand'",
];
const ARE_APPLIED: &str = "SELECT ((SELECT count(*) FROM large WHERE v = 'waits') = 53 AND (SELECT v FROM large WHERE id = 99990) = 'prepared'
            AND NOT EXISTS (SELECT FROM large WHERE id = 40))::text";
/// How long a standby does not answer. A verification that waited for nothing would be over several times.
const UNANSWERED: Duration = Duration::from_secs(4);

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
        source.batch_execute(BEFOREHAND).await.expect("a prepared transaction");
        stage.caught_up().await;
        Self { stage, source, replicator }
    }

    /// Commits that wait from now on, and are on the target already.
    async fn commits_wait(&self) -> JoinSet<()> {
        without_an_answer(&self.source).await;
        let mut waiting = JoinSet::new();
        for sql in COMMITS {
            let client = self.stage.source_client().await;
            waiting.spawn(async move { client.batch_execute(sql).await.expect(sql) });
        }
        until_waiting(&self.source, COMMITS.len()).await;
        let target = self.stage.target_client().await;
        until("what waits on the target", || async { text(&target, ARE_APPLIED).await == "true" }).await;
        waiting
    }

    /// The verification waits as well; then everybody goes on, and it is clean.
    async fn nothing_is_found(&mut self, number: i64, waiting: JoinSet<()>) {
        let since = Instant::now();
        while since.elapsed() < UNANSWERED {
            let seen = running(&self.replicator).await;
            assert_eq!((seen.outcome.as_str(), seen.differences), ("running", 0), "{}", self.told(&seen));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(are_waiting(&self.source, COMMITS.len()).await, "they wait all the time");
        with_an_answer(&self.source).await;
        waiting.join_all().await;
        for report in [ended(&self.replicator, number).await, verify(&self.replicator, FAST).await] {
            let is_clean = report.outcome == "clean" && report.differences == 0;
            assert!(is_clean && report.rows_compared >= 100_000, "{}", self.told(&report));
        }
        self.stage.caught_up_after(&mut self.replicator, &[]).await;
        self.stage.assert_same_rows().await;
    }

    fn told(&self, report: &VerificationRecord) -> String {
        format!("{report:#?}\n{}", self.replicator.log())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_when_a_verification_begins_are_waited_for() {
    let mut scene = Scene::begins().await;
    let waiting = scene.commits_wait().await;
    let number = begun(&scene.replicator, FAST).await.number;
    scene.nothing_is_found(number, waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_begin_to_wait_meanwhile_are_waited_for() {
    let mut scene = Scene::begins().await;
    let slow = VerificationRequestRecord { share_percent: Some(5), ..FAST };
    let number = begun(&scene.replicator, slow).await.number;
    until("the first piece", || async { running(&scene.replicator).await.rows_compared > 0 }).await;
    let waiting = scene.commits_wait().await;
    scene.nothing_is_found(number, waiting).await;
}

#[tokio::test]
async fn a_role_that_cannot_see_who_waits_is_told_what_to_grant() {
    let stage = Stage::new(Pair::owned(15, 17)).await;
    let sql = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)";
    stage.source_client().await.batch_execute(sql).await.expect("schema");
    let replicator = stage.streaming().await;
    stage.caught_up().await;
    assert_eq!(verify(&replicator, FAST).await.outcome, "clean", "without a standby nobody waits");

    let superuser = crate::harness::clusters::connect(&stage.source.url("app")).await;
    without_an_answer(&superuser).await;
    let report = verify(&replicator, FAST).await;
    let said =
        format!("{} {}", report.reason.as_deref().unwrap_or(""), report.remedy.as_deref().unwrap_or(""));
    assert_eq!((report.outcome.as_str(), report.rows_compared), ("incomplete", 0), "{report:#?}");
    assert!(said.contains("wait for its synchronous standby cannot be seen"), "{said}");
    assert!(said.contains("GRANT pg_read_all_stats"), "{said}");

    let grant = "SET synchronous_commit = local; GRANT pg_read_all_stats TO mover";
    superuser.batch_execute(grant).await.expect("what the remedy says");
    let report = verify(&replicator, FAST).await;
    assert_eq!((report.outcome.as_str(), report.rows_compared), ("clean", 100), "{report:#?}");
    with_an_answer(&superuser).await;
}
