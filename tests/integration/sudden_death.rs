//! `kill -9` at any moment, and restart: nothing lost, nothing twice (INV-1 to INV-5). The moments are random; the seed is
//! printed and replays the same moments after each start.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::demo::ledger;
use pgsluice::demo::store::{self, Scale};
use pgsluice::demo::workload::{Workload, WorkloadOptions};
use rand::RngExt;

use crate::harness::seed;
use crate::harness::stage::{COPY_WAIT, Pair, Stage, streaming};

/// Larger than elsewhere: the copy has to take long enough to be killed in.
const SCALE: Scale = Scale::times(0.1);

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

    let (mut in_copy, mut in_stream) = (0, 0);
    // A start that is killed within the copy begins the copy again: half of the kills fall into its first second, the
    // other half wait for the stream first.
    for kill in 0..kills {
        let mut replicator = stage.command("snapshot.jobs = 2\n").start().expect("the program");
        if kill % 2 == 1 {
            streaming(&mut replicator).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
        let phase =
            replicator.api().status().await.map_or_else(|_| "starting".to_owned(), |status| status.phase);
        if phase == "streaming" {
            in_stream += 1;
        } else {
            in_copy += 1;
        }
        assert!(replicator.ended().is_none(), "seed {seed}: it ended by itself:\n{}", replicator.log());
        replicator.signal(Signal::SIGKILL);
        replicator.wait_for_end(COPY_WAIT).await.expect("killed");
    }
    println!("killed {in_copy} times before and {in_stream} times while streaming");

    let mut replicator = stage.command("snapshot.jobs = 2\n").start().expect("the program");
    streaming(&mut replicator).await;
    let record = workload.stop().await;
    stage.caught_up().await;
    let comparison = stage.compare().await;
    assert!(comparison.rows_are_identical(), "seed {seed}: {comparison:#?}");
    let check = ledger::check(&stage.target_url(), &record).await.expect("ledger");
    assert_eq!((check.missing, check.duplicates), (0, 0), "seed {seed}");
}
