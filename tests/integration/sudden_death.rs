//! `kill -9` at any moment, and restart: nothing lost, nothing twice (INV-1 to INV-5). The moments are random; the seed is
//! printed and replays the same moments after each start.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::demo::ledger;
use pgsluice::demo::replicator::Replicator;
use pgsluice::demo::store::{self, Scale};
use pgsluice::demo::workload::{Workload, WorkloadOptions};
use rand::RngExt;

use crate::harness::clusters::connect;
use crate::harness::seed;
use crate::harness::stage::{COPY_WAIT, Pair, Stage, streaming};
use crate::harness::wait::until;

/// Larger than elsewhere: the copy has to take long enough to be killed in.
const SCALE: Scale = Scale::times(0.1);
/// One table after the other: the copy takes longer.
const CONFIGURATION: &str = "snapshot.jobs = 1\n";

pub(crate) async fn killed_at_50_random_moments_the_rows_are_identical_in_the_end(pair: Pair) {
    killed_at_random_moments(pair, 50).await;
}

pub(crate) async fn killed_at_6_random_moments_the_rows_are_identical_in_the_end(pair: Pair) {
    killed_at_random_moments(pair, 6).await;
}

async fn killed_at_random_moments(pair: Pair, kills: u32) {
    let (mut random, seed) = seed::random("killed at random moments");
    let stage = Stage::new(pair).await;
    store::create(&stage.source_url(), SCALE).await.expect("store");
    let options =
        WorkloadOptions { writers: 4, seed, scale: SCALE, transactions_per_second_max: Some(150.0) };
    let workload = Workload::start(stage.source_url(), options);
    let mut phases = BTreeMap::new();

    // Half of the kills fall into the time before the stream: a copy that got away is thrown away and begun anew.
    for _ in 0..kills / 2 {
        let mut replicator = stage.command(CONFIGURATION).start().expect("the program");
        let moment = Duration::from_millis(random.random_range(0..1_800));
        *phases.entry(killed_after(&mut replicator, moment, seed).await).or_insert(0) += 1;
        if phases.remove("streaming").is_some() {
            *phases.entry("just streaming".to_owned()).or_insert(0) += 1;
            begin_anew(&stage).await;
        }
    }
    for _ in kills / 2..kills {
        let mut replicator = stage.command(CONFIGURATION).start().expect("the program");
        streaming(&mut replicator).await;
        let moment = Duration::from_millis(random.random_range(0..1_000));
        *phases.entry(killed_after(&mut replicator, moment, seed).await).or_insert(0) += 1;
    }
    println!("seed {seed}: killed while {phases:?}");

    let mut replicator = stage.command(CONFIGURATION).start().expect("the program");
    streaming(&mut replicator).await;
    let record = workload.stop().await;
    stage.caught_up().await;
    let comparison = stage.compare().await;
    assert!(comparison.rows_are_identical(), "seed {seed}: {comparison:#?}");
    let check = ledger::check(&stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0), "seed {seed}");
}

/// SIGKILL after a while; returns the phase it was in.
async fn killed_after(replicator: &mut Replicator, moment: Duration, seed: u64) -> String {
    tokio::time::sleep(moment).await;
    let phase = replicator.api().status().await.map_or_else(|_| "starting".to_owned(), |status| status.phase);
    assert!(replicator.ended().is_none(), "seed {seed}: it ended by itself:\n{}", replicator.log());
    replicator.signal(Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    phase
}

/// Gives the migration up, as an operator does, and empties the target.
async fn begin_anew(stage: &Stage) {
    // The killed program's walsender may still hold the slot.
    until("a cleanup", || async { stage.run(&["cleanup"]).status.success() }).await;
    let maintenance = connect(&stage.target.url("postgres")).await;
    maintenance.batch_execute("DROP DATABASE app WITH (FORCE)").await.expect("drop");
    maintenance.batch_execute("CREATE DATABASE app").await.expect("create");
}
