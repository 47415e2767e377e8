//! Two processes of the program and one Lease, between real servers and beside the double of the API server: one works, the other
//! waits, and takes over; and what an API server does to the one that works by being silent, by refusing, and by giving the Lease
//! to somebody else.

use nix::sys::signal::Signal;
use pgsluice::control::dto::{CutoverModeRecord, CutoverRequestRecord, StatusRecord};
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use tempfile::TempDir;

use super::*;
use crate::harness::stage::{COPY_WAIT, Pair, Stage, ask, end_of, streaming, text};
use crate::harness::wait::until;

const PAIR: Pair = Pair::of(14, 17);
const ROLE: &str = "deploy/kustomize/components/lease/role.yaml";
/// As long as a Lease is valid, and a look of whoever waits.
const LEASE_AND_RETRY: Duration = Duration::from_secs(15 + 2);
/// For a busy machine.
const SLACK: Duration = Duration::from_secs(6);

fn with_lease(api: &ApiDouble) -> String {
    format!("kubernetes.lease = \"pgsluice\"\nkubernetes.kubeconfig = {:?}\n", api.kubeconfig())
}

async fn stage() -> Stage {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.expect("SQL");
    stage
}

/// Another process with the same servers and the same Lease, and a folder of its own.
fn another(stage: &Stage, api: &ApiDouble) -> (ReplicatorCommand, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = stage.command(&with_lease(api));
    command.directory = folder.path().to_owned();
    (command, folder)
}

/// Waits until it says that it waits.
async fn waiting(replicator: &mut Replicator) -> StatusRecord {
    let says_so = |status: &StatusRecord| status.problem.is_some();
    let status = replicator.wait_for_status("that it waits", COPY_WAIT, says_so).await;
    status.unwrap_or_else(|error| panic!("{error}"))
}

fn holder(api: &ApiDouble) -> String {
    api.get("leases", "pgsluice")["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the Lease has another holder than this one; how long that took.
async fn taken_from(api: &ApiDouble, former: &str) -> Duration {
    let begun = Instant::now();
    until("another holder", || async { !holder(api).is_empty() && holder(api) != former }).await;
    begun.elapsed()
}

async fn arrives(stage: &Stage, id: i32) {
    let source = stage.source_client().await;
    source.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.expect("a row");
    stage.caught_up().await;
    stage.assert_same_rows().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_touches_nothing_and_begins_as_soon_as_the_first_is_stopped() {
    let (stage, api) = (stage().await, ApiDouble::start().await);
    let mut first = stage.streaming_with(&with_lease(&api)).await;
    let former = holder(&api);
    assert_eq!(api.get("leases", "pgsluice")["spec"]["leaseDurationSeconds"], 15);

    // It would end at once if it asked its servers for anything: there are none.
    let (mut command, _its_folder) = another(&stage, &api);
    command.source_url = "postgres://nobody@127.0.0.1:1/none".into();
    command.target_url = "postgres://nobody@127.0.0.1:1/nothing".into();
    let mut stranger = command.start().expect("the program");
    let status = waiting(&mut stranger).await;
    let problem = status.problem.expect("a problem");
    assert_eq!((status.phase.as_str(), problem.blocking.as_str()), ("starting", "retrying"));
    assert!(
        problem.message.contains(&former) && problem.message.contains(" since 20"),
        "{}",
        problem.message
    );
    assert!(problem.message.contains("touches neither database"), "{}", problem.message);
    let request = CutoverRequestRecord { mode: None, max_pause_ms: None, unverified: true };
    let refused = stranger.api().start_cutover(request, "a-key").await.expect_err("it waits").to_string();
    assert!(refused.contains("Lease"), "{refused}");
    let (code, _) = stranger.api().get("/healthz").await.expect("alive");
    assert!(code.is_success(), "{code}");
    // It looks again, and nothing comes of it.
    api.requests();
    until("two more looks", || async { api.count_requests() >= 4 }).await;
    assert_eq!(holder(&api), former);
    stranger.signal(Signal::SIGTERM);
    assert!(stranger.wait_for_end(SLACK).await.expect("an end").success(), "{}", stranger.log());
    assert_eq!(holder(&api), former, "what is another's is not given back");

    let (command, _its_folder) = another(&stage, &api);
    let mut second = command.start().expect("the program");
    waiting(&mut second).await;
    first.signal(Signal::SIGTERM);
    assert!(first.wait_for_end(SLACK).await.expect("an end").success(), "{}", first.log());
    assert!(first.log().contains("the lease is given back"), "{}", first.log());
    let took = taken_from(&api, &former).await;
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
    streaming(&mut second).await;
    arrives(&stage, 2).await;
    for log in [first.log(), second.log(), stranger.log()] {
        assert!(!log.contains("ERROR") && !log.contains("t0ken"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_killed_is_followed_when_its_lease_is_over_and_no_earlier() {
    let (stage, api) = (stage().await, ApiDouble::start().await);
    let mut first = stage.streaming_with(&with_lease(&api)).await;
    let former = holder(&api);
    let (command, _its_folder) = another(&stage, &api);
    let mut second = command.start().expect("the program");
    waiting(&mut second).await;
    first.signal(Signal::SIGKILL);
    first.wait_for_end(SLACK).await.expect("an end");
    let took = taken_from(&api, &former).await;
    // It was renewed five seconds before its death at the longest.
    assert!(took >= Duration::from_secs(9) && took < LEASE_AND_RETRY + SLACK, "{took:?}");
    assert_eq!(api.get("leases", "pgsluice")["spec"]["leaseTransitions"], 1);
    streaming(&mut second).await;
    arrives(&stage, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_of_the_api_server_stops_nothing_and_a_lease_that_is_lost_stops_it_after_its_operation() {
    let (stage, api) = (stage().await, ApiDouble::start().await);
    let mut replicator = stage.streaming_with(&with_lease(&api)).await;
    let ours = holder(&api);

    api.be_out_of_order(true);
    let silent_since = Instant::now();
    until("the end of the Lease", || async { silent_since.elapsed() > LEASE_AND_RETRY }).await;
    let accepted = ask(&replicator, CutoverModeRecord::Rehearsal, 20_000).await;
    assert_eq!(end_of(&mut replicator, &accepted).await.outcome, "completed");
    arrives(&stage, 2).await;
    let log = replicator.log();
    assert_eq!(log.matches("the lease could not be renewed").count(), 1, "{log}");
    api.be_out_of_order(false);
    until("a renewal", || async { replicator.log().matches("the lease is ours").count() == 2 }).await;
    assert_eq!(holder(&api), ours);

    // A rehearsal that waits for a writer is finished, and then the process ends.
    let writer = stage.source_client().await;
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (3)").await.expect("a writer");
    let accepted = ask(&replicator, CutoverModeRecord::Rehearsal, 60_000).await;
    let theirs =
        json!({ "spec": { "holderIdentity": "pod-b_1", "renewTime": "2026-01-01T00:00:00.000000Z" } });
    api.change("leases", "pgsluice", &theirs);
    until("the loss", || async { replicator.log().contains("is finished before this process stops") }).await;
    assert!(replicator.ended().is_none(), "{}", replicator.log());
    writer.batch_execute("COMMIT").await.expect("committed");
    let ended = replicator.wait_for_end(SLACK + SLACK).await.expect("an end");
    assert_eq!(ended.code(), Some(1), "{}", replicator.log());
    assert!(replicator.log().contains("taken by pod-b_1"), "{}", replicator.log());
    let query = format!("SELECT outcome::text FROM pgsluice.cutover WHERE epoch = {}", accepted.epoch);
    assert_eq!(text(&stage.target_client().await, &query).await, "completed");
    assert_eq!(holder(&api), "pod-b_1", "what is another's is not given back");

    // The next start waits, and goes on when the other one is gone without a word.
    let mut next = stage.command(&with_lease(&api)).start().expect("the program");
    let problem = waiting(&mut next).await.problem.expect("a problem");
    assert!(problem.message.contains("pod-b_1"), "{}", problem.message);
    let took = taken_from(&api, "pod-b_1").await;
    assert!(took < LEASE_AND_RETRY + SLACK, "{took:?}");
    streaming(&mut next).await;
    arrives(&stage, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_is_waited_for_and_silence_at_the_start_is_not() {
    let (stage, api) = (stage().await, ApiDouble::start().await);
    api.forbid("create", "leases");
    let mut replicator = stage.command(&with_lease(&api)).start().expect("the program");
    let problem = waiting(&mut replicator).await.problem.expect("a problem");
    assert_eq!(problem.blocking, "waiting_for_operator");
    let rule = r#"{apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create"]}"#;
    assert!(problem.remedy.contains(rule), "{}", problem.remedy);

    // Nobody has it, as far as is known, and nobody answers any more: the locks on the target are left.
    api.be_out_of_order(true);
    streaming(&mut replicator).await;
    assert!(replicator.log().contains("the migration begins without it"), "{}", replicator.log());
    arrives(&stage, 2).await;
    api.allow_everything();
    api.be_out_of_order(false);
    until("the lease", || async { replicator.log().contains("the lease is ours") }).await;
    replicator.signal(Signal::SIGTERM);
    assert!(replicator.wait_for_end(SLACK).await.expect("an end").success(), "{}", replicator.log());
    assert_eq!(holder(&api), "", "given back");
    assert!(!replicator.log().contains("ERROR"), "{}", replicator.log());

    let asked = documented::calls_of(&api.all_requests());
    assert_eq!(asked, documented::documented("kubernetes.lease"));
    // What is shipped allows these and no others.
    assert_eq!(documented::allowed_by_patch(ROLE), asked);
}
