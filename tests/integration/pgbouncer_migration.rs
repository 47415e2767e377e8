//! A whole migration with PgBouncer in front: its clients see a pause, no error, and lose nothing.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::pooler::LocalPooler;
use pgsluice::demo::replicator::Replicator;

use crate::harness::pooled::{Clients, Habit, LEDGER, judge};
use crate::harness::stage::{COPY_WAIT, Pair, Stage, ask, cut_over, roll_back, streaming, way_back_is_open};
use crate::harness::threshold::Threshold;
use crate::harness::wait::until;

const PAIR: Pair = Pair::of(14, 17);
/// How many cutovers and rollbacks.
const PAIRS: &str = "PGSLUICE_POOLED_CUTOVERS";
/// Longer than any test lasts.
const FOREVER_MS: u64 = 300_000;

/// Waits until the operation is in `state`.
async fn reaches(replicator: &mut Replicator, state: &str) {
    let reached = replicator
        .wait_for_status(&format!("cutover state {state}"), COPY_WAIT, |status| {
            status.cutover.as_ref().is_some_and(|cutover| cutover.state == state)
        })
        .await;
    if let Err(error) = reached {
        panic!("{error}");
    }
}

async fn scene(pair: Pair) -> (Stage, LocalPooler, String) {
    let stage = Stage::new(pair).await;
    stage.source_client().await.batch_execute(LEDGER).await.expect("a ledger");
    let line = format!("app = host=127.0.0.1 port={} pool_size=10", stage.source.port());
    let pooler = LocalPooler::start(&line, "").await.expect("a pooler");
    let traffic = format!(
        "[[traffic]]\nadapter = \"pgbouncer\"\nconsoles = [{:?}]\nconfig_file = {:?}\n",
        pooler.console_url(),
        pooler.config_file()
    );
    (stage, pooler, traffic)
}

pub(crate) async fn clients_of_a_pooler_move_to_the_target_without_an_error(pair: Pair) {
    let (stage, pooler, traffic) = scene(pair).await;
    let clients = Clients::start(&pooler.url("app"), &[(24, Habit::Stays), (8, Habit::ComesAnew)]);
    clients.commit(200).await;
    let mut replicator = stage.streaming_with(&traffic).await;
    clients.commit(500).await;
    let usual = clients.measure_anew();
    let cutover = cut_over(&mut replicator).await;
    clients.commit(500).await;
    let record = clients.stop().await;
    println!(
        "pause {:?} ms; longest wait of a client: {usual:?} before, {:?} with the cutover; {} transactions",
        cutover.pause_ms,
        record.longest_wait,
        record.committed.values().sum::<i64>()
    );
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert_eq!(judge(&[stage.target_url()], &record).await, (0, 0));
    let pause = Duration::from_secs_f64(cutover.pause_ms.expect("measured") / 1000.0);
    // On a busy machine clients wait for long at any time.
    let usual = usual.max(Duration::from_secs(1));
    assert!(record.longest_wait < pause + usual, "{:?}", record.longest_wait);
    let text = fs::read_to_string(pooler.config_file()).expect("the file");
    assert!(text.contains(&format!("port={}", stage.target.port())) && !text.contains(";pgsluice"), "{text}");
    assert!(text.starts_with("; A comment that stays."));
}

/// There by a cutover and back by a rollback, as often as `PGSLUICE_POOLED_CUTOVERS` says, all under load.
pub(crate) async fn there_and_back_again_by_rollbacks(pair: Pair) {
    let pairs = std::env::var(PAIRS).map_or(2, |pairs| pairs.parse().expect("a number"));
    let (stage, pooler, traffic) = scene(pair).await;
    let before = fs::read_to_string(pooler.config_file()).expect("the file");
    let clients = Clients::start(&pooler.url("app"), &[(16, Habit::Stays), (4, Habit::ComesAnew)]);
    let mut replicator = stage.streaming_with(&traffic).await;
    clients.commit(200).await;
    let usual = clients.measure_anew();
    let mut pauses = Vec::new();
    for _ in 0..pairs {
        streaming(&mut replicator).await;
        pauses.extend(cut_over(&mut replicator).await.pause_ms);
        clients.commit(200).await;
        way_back_is_open(&mut replicator).await;
        pauses.extend(roll_back(&mut replicator).await.pause_ms);
        clients.commit(200).await;
    }
    let record = clients.stop().await;
    pauses.sort_by(f64::total_cmp);
    let lost_and_doubled = judge(&[stage.source_url()], &record).await;
    println!(
        "{pairs} cutovers and {pairs} rollbacks behind PgBouncer: pause median {:.0} ms, longest {:.0} ms; longest wait of a client \
         {usual:?} before, {:?} with them; {} transactions, {} client errors, (lost, doubled) {lost_and_doubled:?}",
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1],
        record.longest_wait,
        record.committed.values().sum::<i64>(),
        record.errors.len()
    );
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert_eq!(lost_and_doubled, (0, 0));
    assert_eq!(fs::read_to_string(pooler.config_file()).expect("the file"), before);
}

/// Killed while PgBouncer is paused: the next start lets its clients go on at the source, and a cutover works later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_pause_the_next_start_lets_the_clients_go_on() {
    let (stage, pooler, traffic) = scene(PAIR).await;
    let threshold = Threshold::new();
    let traffic = traffic + &threshold.configuration();
    let before = fs::read_to_string(pooler.config_file()).expect("the file");
    let clients = Clients::start(&pooler.url("app"), &[(8, Habit::Stays), (4, Habit::ComesAnew)]);
    let mut replicator = stage.streaming_with(&traffic).await;
    clients.commit(100).await;
    ask(&replicator, CutoverModeRecord::Cutover, FOREVER_MS).await;
    threshold.reached().await;
    let target = stage.target_client().await;
    // A row that cannot be applied, and the marker behind it: the pause lasts until the end of this process.
    target.batch_execute("BEGIN; LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    let past_the_pooler = stage.source_client().await;
    let row = "INSERT INTO ledger (client, number) VALUES (-1, 1)";
    past_the_pooler.batch_execute(row).await.expect("a row");
    threshold.open();
    reaches(&mut replicator, "draining").await;
    let quiet_since = (Instant::now(), clients.committed());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(clients.committed() <= quiet_since.1 + 12, "PgBouncer is paused");
    replicator.signal(Signal::SIGKILL);
    replicator.wait_for_end(Duration::from_secs(10)).await.expect("an end");
    target.batch_execute("COMMIT").await.expect("unlock");

    let mut replicator = stage.streaming_with(&traffic).await;
    clients.commit(100).await;
    println!("clients waited {:?} for the next start", quiet_since.0.elapsed());
    assert_eq!(fs::read_to_string(pooler.config_file()).expect("the file"), before);
    until("streaming again", || async { stage.slots().await.contains("pgsluice") }).await;
    cut_over(&mut replicator).await;
    clients.commit(100).await;
    let record = clients.stop().await;
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert_eq!(judge(&[stage.target_url()], &record).await, (0, 0));
}

/// Killed after PgBouncer has been led to the target and before it goes on: the next start finishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_clients_are_moved_the_next_start_lets_them_go_on_at_the_target() {
    let (stage, pooler, traffic) = scene(PAIR).await;
    let flag = tempfile::NamedTempFile::new().expect("a flag");
    let script = format!("[ \"$1\" != retarget ] || [ ! -e {} ] || sleep 60", flag.path().display());
    let traffic = format!(
        "{traffic}[[traffic]]\nadapter = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}, \"sh\"]\ntimeout_ms = 90000\n"
    );
    let clients = Clients::start(&pooler.url("app"), &[(8, Habit::Stays), (4, Habit::ComesAnew)]);
    let mut replicator = stage.streaming_with(&traffic).await;
    clients.commit(100).await;
    ask(&replicator, CutoverModeRecord::Cutover, FOREVER_MS).await;
    reaches(&mut replicator, "retargeting").await;
    let led = format!("port={}", stage.target.port());
    until("the file", || async {
        fs::read_to_string(pooler.config_file()).expect("the file").contains(&led)
    })
    .await;
    replicator.signal(Signal::SIGKILL);
    replicator.wait_for_end(Duration::from_secs(10)).await.expect("an end");
    drop(flag);
    let mut replicator = stage.command(&traffic).start().expect("the program");
    reaches(&mut replicator, "completed").await;
    clients.commit(100).await;
    let record = clients.stop().await;
    assert!(record.errors.is_empty(), "{:?}", record.errors);
    assert_eq!(judge(&[stage.target_url()], &record).await, (0, 0));
    assert!(!fs::read_to_string(pooler.config_file()).expect("the file").contains(";pgsluice"));
}
