//! A cutover that does not come to its end: whatever stops it before the point of no return, the source accepts writes
//! again by itself, blocked writers see no error, and nothing is left but what `cleanup` removes (INV-9). After that point
//! it is finished, never undone (INV-8).

use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::control::dto::{CutoverModeRecord, CutoverRecord};
use pgsluice::demo::ledger;
use pgsluice::demo::replicator::Replicator;
use pgsluice::demo::store::{self, Scale};
use pgsluice::demo::workload::Workload;
use tokio_postgres::error::SqlState;

use crate::harness::stage::{COPY_WAIT, Pair, Stage, ask, cut_over, end_of, text};
use crate::harness::threshold::Threshold;
use crate::harness::wait::until;
use crate::whole_migration::load;

const PAIR: Pair = Pair::of(14, 17);
const SMALL: Scale = Scale::times(0.02);
/// Longer than any test lasts.
const FOREVER_MS: u64 = 300_000;

/// A store under load, streaming, and its source's schema as it was before anything came near it.
struct Scene {
    stage: Stage,
    workload: Workload,
    replicator: Replicator,
    schema_before: String,
    more: String,
}

impl Scene {
    async fn new(more: &str) -> Self {
        let stage = Stage::new(PAIR).await;
        store::create(&stage.source_url(), SMALL).await.expect("store");
        let schema_before = stage.dump_source_schema();
        let workload = load(stage.source_url(), 5);
        let replicator = stage.streaming_with(more).await;
        Self { stage, workload, replicator, schema_before, more: more.to_owned() }
    }

    /// Waits until the operation is in `state`.
    async fn reaches(&mut self, state: &str) {
        let outcome = self
            .replicator
            .wait_for_status(&format!("cutover state {state}"), COPY_WAIT, |status| {
                status.cutover.as_ref().is_some_and(|cutover| cutover.state == state)
            })
            .await;
        if let Err(error) = outcome {
            panic!("{error}");
        }
    }

    /// Waits until the clients have committed more than they had.
    async fn writes_go_on(&self) {
        let before = self.workload.acknowledged();
        until("clients' commits on the source", || async { self.workload.acknowledged() >= before + 50 })
            .await;
    }

    /// Everything the abort promises; consumes the scene.
    async fn ends_as_before(mut self) {
        self.writes_go_on().await;
        if self.replicator.ended().is_some() {
            self.replicator = self.stage.streaming_with(&self.more).await;
        }
        let Self { stage, workload, mut replicator, schema_before, .. } = self;
        let record = workload.stop().await;
        assert!(record.errors_by_code().is_empty(), "clients saw {:?}", record.errors_by_code());
        stage.caught_up().await;
        stage.assert_same_rows().await;
        let check = ledger::check(&stage.target_url(), &record).await.expect("ledger");
        assert_eq!((check.missing, check.duplicates), (0, 0));

        replicator.signal(Signal::SIGTERM);
        replicator.wait_for_end(Duration::from_secs(10)).await.expect("an end");
        let cleanup = stage.run(&["cleanup"]);
        assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
        pretty_assertions(&schema_before, &stage.dump_source_schema());
        assert_eq!(stage.slots().await, "");
    }
}

/// Waits for a cutover to arrive, begins a write that does not end, and lets the cutover go on: the fence has to wait
/// for that transaction.
async fn pass_behind_an_open_write(gate: &Threshold, stage: &Stage) -> tokio_postgres::Client {
    gate.reached().await;
    let holder = stage.source_client().await;
    holder.batch_execute("BEGIN; UPDATE customers SET name = name WHERE id = 1").await.expect("a write");
    gate.open();
    holder
}

/// Keeps what the source commits from being applied until the answer commits. It is a write of its own that waits: the
/// clients' may all have been applied before, and then a cutover has nothing to wait for.
async fn nothing_is_applied(stage: &Stage) -> tokio_postgres::Client {
    let target = stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    let source = stage.source_client().await;
    source.batch_execute("UPDATE customers SET name = name WHERE id = 1").await.expect("a write");
    target
}

/// Begins a cutover whose marker cannot be applied, because of a lock on the target: the fence is held until that is gone.
async fn held_in_the_blackout(
    gate: &Threshold,
    scene: &mut Scene,
    max_pause_ms: u64,
) -> (CutoverRecord, tokio_postgres::Client) {
    let accepted = ask(&scene.replicator, CutoverModeRecord::Cutover, max_pause_ms).await;
    gate.reached().await;
    let target = nothing_is_applied(&scene.stage).await;
    gate.open();
    scene.reaches("draining").await;
    (accepted, target)
}

/// The first line that differs, rather than two whole dumps.
fn pretty_assertions(before: &str, after: &str) {
    let differing = before.lines().zip(after.lines()).find(|(before, after)| before != after);
    assert_eq!(differing, None, "the source's schema is not as before");
    assert_eq!(before.lines().count(), after.lines().count(), "the source's schema has more or fewer lines");
}

fn reason(ended: &CutoverRecord) -> String {
    format!("{} {}", ended.reason.clone().unwrap_or_default(), ended.remedy.clone().unwrap_or_default())
}

/// Nobody can begin a cutover that is bound to fail: what is in the way is named, and the source is not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_behind_a_long_write_is_refused_with_its_name() {
    let mut scene = Scene::new("").await;
    let holder = scene.stage.source_client().await;
    holder.batch_execute("BEGIN; UPDATE customers SET name = name WHERE id = 1").await.expect("a write");
    let pid = text(&holder, "SELECT pg_backend_pid()::text").await;
    // Longer than the pause that is asked for.
    until("a write that lasts", || async {
        text(&holder, "SELECT (clock_timestamp() - xact_start > '1 s')::text FROM pg_stat_activity WHERE pid = pg_backend_pid()").await == "true"
    })
    .await;
    let request = pgsluice::control::dto::CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Cutover),
        max_pause_ms: Some(500),
        unverified: true,
    };
    let refused = scene.replicator.api().start_cutover(request, "behind a write").await;
    assert!(refused.as_ref().is_err_and(|error| error.to_string().contains(&pid)), "{refused:?}");
    holder.batch_execute("COMMIT").await.expect("commit");
    cut_over(&mut scene.replicator).await;
    drop(scene.workload);
}

/// Trap 23: it never goes ahead on timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_that_takes_too_long_rolls_itself_back_and_writers_see_no_error() {
    let gate = Threshold::new();
    let mut scene = Scene::new(&gate.configuration()).await;
    let accepted = ask(&scene.replicator, CutoverModeRecord::Cutover, 3_000).await;
    let holder = pass_behind_an_open_write(&gate, &scene.stage).await;
    let ended = end_of(&mut scene.replicator, &accepted).await;
    assert_eq!(ended.outcome, "aborted", "{ended:#?}");
    assert!(reason(&ended).len() > 40, "it says why and what to do: {}", reason(&ended));
    scene.writes_go_on().await;
    holder.batch_execute("COMMIT").await.expect("the transaction in the way can be committed");
    scene.ends_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_aborted_over_the_api_rolls_back_and_a_later_one_completes() {
    let gate = Threshold::new();
    let mut scene = Scene::new(&gate.configuration()).await;
    let (accepted, target) = held_in_the_blackout(&gate, &mut scene, FOREVER_MS).await;
    scene.replicator.api().abort_cutover().await.expect("accepted");
    let ended = end_of(&mut scene.replicator, &accepted).await;
    assert_eq!(ended.outcome, "aborted", "{ended:#?}");
    scene.writes_go_on().await;
    target.batch_execute("COMMIT").await.expect("unlock");

    let again = scene.replicator.api().abort_cutover().await;
    assert!(again.is_err(), "there is nothing left to abort: {again:?}");
    scene.ends_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_that_takes_too_long_is_aborted_and_says_why() {
    let mut scene = Scene::new("").await;
    let target = nothing_is_applied(&scene.stage).await;
    let accepted = ask(&scene.replicator, CutoverModeRecord::Rehearsal, 1_000).await;
    let ended = end_of(&mut scene.replicator, &accepted).await;
    assert_eq!((ended.outcome.as_str(), ended.state.as_str()), ("aborted", "aborted"), "{ended:#?}");
    assert!(reason(&ended).contains("1000 ms"), "{}", reason(&ended));
    target.batch_execute("COMMIT").await.expect("unlock");
    scene.ends_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_inside_the_blackout_the_source_goes_on_by_itself() {
    let gate = Threshold::new();
    let mut scene = Scene::new(&gate.configuration()).await;
    let (_, target) = held_in_the_blackout(&gate, &mut scene, FOREVER_MS).await;
    scene.replicator.signal(Signal::SIGKILL);
    scene.replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    // Nobody helps: no restart, no abort.
    scene.writes_go_on().await;
    target.batch_execute("COMMIT").await.expect("unlock");
    scene.ends_as_before().await;
}

/// The dead man's handle: a process that hangs with the fence in its hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_inside_the_blackout_the_source_frees_its_writers_and_the_cutover_does_not_complete_later() {
    let gate = Threshold::new();
    let mut scene = Scene::new(&gate.configuration()).await;
    let (accepted, target) = held_in_the_blackout(&gate, &mut scene, 3_000).await;
    scene.replicator.signal(Signal::SIGSTOP);
    scene.writes_go_on().await;
    target.batch_execute("COMMIT").await.expect("unlock");
    scene.replicator.signal(Signal::SIGCONT);
    let ended = end_of(&mut scene.replicator, &accepted).await;
    assert_eq!(ended.outcome, "aborted", "{ended:#?}");
    scene.ends_as_before().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_by_sigterm_inside_the_blackout_it_rolls_back_before_it_ends() {
    let gate = Threshold::new();
    let mut scene = Scene::new(&gate.configuration()).await;
    ask(&scene.replicator, CutoverModeRecord::Cutover, FOREVER_MS).await;
    let holder = pass_behind_an_open_write(&gate, &scene.stage).await;
    scene.reaches("fencing").await;
    scene.replicator.signal(Signal::SIGTERM);
    let status = scene.replicator.wait_for_end(Duration::from_secs(5)).await.expect("an end in time");
    assert_eq!(status.code(), Some(0));
    holder.batch_execute("COMMIT").await.expect("commit");
    scene.ends_as_before().await;
}

/// An abort must not leave clients held back for good because what holds them could not be reached just then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_undone_is_undone_by_the_next_start() {
    let folder = tempfile::tempdir().expect("folder");
    let place = folder.path().display();
    let script = format!(
        "echo $1 >> {place}/steps; case $1 in pause) exec sleep 60;; undo) [ -e {place}/reachable ];; esac"
    );
    let adapter = format!(
        "[[traffic]]\nadapter = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}, \"sh\"]\ntimeout_ms = 90000\n"
    );
    let steps = || std::fs::read_to_string(folder.path().join("steps")).unwrap_or_default();
    let undos = || steps().lines().filter(|step| *step == "undo").count();
    let mut scene = Scene::new(&adapter).await;
    ask(&scene.replicator, CutoverModeRecord::Cutover, FOREVER_MS).await;
    until("the pause", || async { steps().contains("pause") }).await;
    scene.replicator.api().abort_cutover().await.expect("accepted");
    until("more than a few tries", || async { undos() > 4 }).await;
    scene.writes_go_on().await;
    scene.replicator.signal(Signal::SIGTERM);
    let status = scene.replicator.wait_for_end(Duration::from_secs(5)).await.expect("an end in time");
    assert_eq!(status.code(), Some(0));
    let log = scene.replicator.log();
    assert!(log.contains("clients may still be held back, and pgsluice has stopped trying"), "{log}");

    let target = scene.stage.target_client().await;
    let outcome = "SELECT state || ' ' || outcome FROM pgsluice.cutover WHERE epoch = 1";
    assert_eq!(text(&target, outcome).await, "rolling_back running");
    // As if another one had been refused in its preparation, or rehearsed, before the restart.
    target
        .batch_execute(
            "INSERT INTO pgsluice.cutover (epoch, mode, nonce, state, outcome, started_at, ended_at)
             VALUES (2, 'rehearsal', 'later', 'completed', 'completed', now(), now())",
        )
        .await
        .expect("recorded");
    std::fs::write(folder.path().join("reachable"), "").expect("file");
    let tried = undos();
    scene.replicator = scene.stage.streaming_with(&adapter).await;
    assert_eq!(undos(), tried + 1);
    assert_eq!(text(&target, outcome).await, "aborted aborted");
    scene.ends_as_before().await;
}

/// Trap 25: a prepared transaction may be committed by anybody at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_keeps_the_cutover_from_completing() {
    let mut scene = Scene::new("").await;
    let source = scene.stage.source_client().await;
    source
        .batch_execute(
            "BEGIN; UPDATE customers SET name = 'prepared' WHERE id = 2; PREPARE TRANSACTION 'later'",
        )
        .await
        .expect("prepare");
    let request = pgsluice::control::dto::CutoverRequestRecord {
        mode: Some(CutoverModeRecord::Cutover),
        max_pause_ms: Some(1_500),
        unverified: true,
    };
    // Refused at once, or begun and rolled back: both are right.
    if let Ok(accepted) = scene.replicator.api().start_cutover(request, "prepared").await {
        let ended = end_of(&mut scene.replicator, &accepted).await;
        assert_eq!(ended.outcome, "aborted", "{ended:#?}");
    }
    source.batch_execute("COMMIT PREPARED 'later'").await.expect("commit prepared");
    scene.ends_as_before().await;
}

/// Killed between the fence's commit and the opening of the target, the next start finishes (roll forward).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_the_point_of_no_return_the_next_start_finishes() {
    let flag = tempfile::NamedTempFile::new().expect("flag");
    let script = format!("[ \"$1\" != retarget ] || [ ! -e {0} ] || sleep 60", flag.path().display());
    let adapter = format!(
        "[[traffic]]\nadapter = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}, \"sh\"]\ntimeout_ms = 90000\n"
    );
    let mut scene = Scene::new(&adapter).await;
    ask(&scene.replicator, CutoverModeRecord::Cutover, 20_000).await;
    scene.reaches("retargeting").await;
    scene.replicator.signal(Signal::SIGKILL);
    scene.replicator.wait_for_end(COPY_WAIT).await.expect("killed");

    drop(flag);
    let Scene { stage, workload, .. } = scene;
    let mut replicator = stage.command(&adapter).start().expect("the program");
    let status = replicator
        .wait_for_status("the finished cutover", COPY_WAIT, |status| {
            ["cut_over", "rollback_window"].contains(&status.phase.as_str())
                && status.cutover.as_ref().is_some_and(|cutover| cutover.outcome == "completed")
        })
        .await;
    if let Err(error) = status {
        panic!("{error}");
    }
    stage.assert_same_rows().await;
    stage.assert_same_sequences().await;
    let source = stage.source_client().await;
    let refused =
        source.batch_execute("UPDATE customers SET name = 'x' WHERE id = 1").await.expect_err("fenced");
    assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));

    workload.redirect(stage.target_url());
    let before = workload.acknowledged();
    until("clients' commits on the target", || async { workload.acknowledged() >= before + 50 }).await;
    let record = workload.stop().await;
    let check = ledger::check(&stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0));
}

/// INV-8 while the migration runs: applications that are pointed at the target too early are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_takes_no_writes_of_applications_before_the_cutover() {
    let mut scene = Scene::new("").await;
    let target = scene.stage.target_client().await;
    for statement in ["INSERT INTO wishes VALUES (1, 1, 'x')", "DELETE FROM wishes", "TRUNCATE wishes"] {
        let error = target.batch_execute(statement).await.expect_err(statement);
        assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{statement}");
    }
    scene.writes_go_on().await;
    cut_over(&mut scene.replicator).await;
    target.batch_execute("INSERT INTO wishes VALUES (1, 1, 'x')").await.expect("open now");
    drop(scene.workload);
}

/// Trap 24: a cutover is not begun while the target is far behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_is_refused_while_lag_is_above_its_bound() {
    let scene = Scene::new("cutover.max_lag_bytes = 1048576\n").await;
    let target = scene.stage.target_client().await;
    target.batch_execute("BEGIN; LOCK TABLE products IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    let source = scene.stage.source_client().await;
    source
        .batch_execute("UPDATE products SET description = (SELECT string_agg(md5((i * id)::text), '') FROM generate_series(1, 2000) i)")
        .await
        .expect("megabytes of WAL");
    until("lag over the bound", || async {
        scene.replicator.api().status().await.is_ok_and(|status| status.lag.bytes > Some(2 << 20))
    })
    .await;
    let request = pgsluice::control::dto::CutoverRequestRecord::default();
    let refused = scene.replicator.api().start_cutover(request, "too far behind").await;
    assert!(refused.is_err(), "{refused:?}");
    target.batch_execute("COMMIT").await.expect("unlock");
    assert_eq!(text(&source, "SELECT count(*)::text FROM pg_trigger WHERE tgenabled = 'A'").await, "0");
    scene.ends_as_before().await;
}
