//! The copy of every kind of table under writers that never rest, killed at random moments. `PGSLUICE_COPY_SEEDS` says how many
//! random copies (`make copy-storm`: 100).

use std::io::Write as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::demo::replicator::Replicator;
use rand::RngExt as _;
use tokio_postgres::Client;

use crate::harness::clusters::options;
use crate::harness::seed;
use crate::harness::stage::{COPY_WAIT, Stage, streaming, text};
use crate::harness::two_tables::PAIR;

use super::tables::{Writers, schema};
use super::work::{Before, Ledger, Repeated, worthless};
use super::{execute, number, planned};

const JOBS: u64 = 2;
const SEEDS: usize = 3;
const KILLS: std::ops::RangeInclusive<usize> = 2..=5;
/// Definitions of indexes and constraints, which both sides must have alike.
const INDEXES: &str = "SELECT string_agg(indexrelid::regclass::text || ' ' || indisvalid::text, ' ' ORDER BY indexrelid::regclass::text COLLATE \"C\")
    FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE c.relnamespace = 'public'::regnamespace";
const CONSTRAINTS: &str = "SELECT string_agg(conrelid::regclass::text || '.' || conname || ' ' || convalidated::text, ' '
                                             ORDER BY conrelid::regclass::text COLLATE \"C\", conname COLLATE \"C\")
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f')";

/// What a random copy came to.
#[derive(Default)]
struct Outcome {
    kills: u64,
    /// Of them, those while rows were copied.
    kills_copying: u64,
    repeated_bytes: u64,
    /// Everything that was copied, and copied again.
    bytes: u64,
    /// The most that a kill cost of tables that are cut, in chunks for each connection.
    chunks_max: f64,
    changes: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_moments_of_the_copy_both_sides_hold_the_same_rows() {
    let seeds = std::env::var("PGSLUICE_COPY_SEEDS").ok().map(|seeds| seeds.parse().expect("a number"));
    let is_replay = std::env::var_os(seed::VARIABLE).is_some();
    let seeds = if is_replay { 1 } else { seeds.unwrap_or(SEEDS) };
    let mut all = Outcome::default();
    for _ in 0..seeds {
        let outcome = random_copy().await;
        all.kills += outcome.kills;
        all.kills_copying += outcome.kills_copying;
        all.repeated_bytes += outcome.repeated_bytes;
        all.bytes += outcome.bytes;
        all.chunks_max = all.chunks_max.max(outcome.chunks_max);
        all.changes += outcome.changes;
    }
    let percent = 100.0 * all.repeated_bytes as f64 / (all.bytes + all.repeated_bytes).max(1) as f64;
    // Past the test runner's capture: this is the result.
    let _ = writeln!(
        std::io::stderr(),
        "{seeds} seeds, {} kills ({} while rows were copied), {} transactions of writers: {percent:.1} % of the work repeated, at most {:.2} chunks per connection; 0 differences",
        all.kills,
        all.kills_copying,
        all.changes,
        all.chunks_max
    );
}

async fn random_copy() -> Outcome {
    let (mut random, seed) = seed::random("a copy in a storm");
    let prepared = options().setting("max_prepared_transactions", "10");
    let stage = Stage::with_options(PAIR, prepared, options()).await;
    let (source, target) = (stage.source_client().await, stage.target_client().await);
    execute(&source, &schema()).await;
    let writers_seed = random.random_range(0..1 << 40);
    // Rows that were written before are not in the order of their keys: such a table is not cut.
    let mut writers = random.random_bool(0.3).then(|| Writers::start(&stage, writers_seed));
    let configuration = format!(
        "snapshot.jobs = {JOBS}\nsnapshot.chunk_bytes = \"64kB\"\nsnapshot.max_bytes_per_second = \"{}kB\"\n",
        random.random_range(400..1_500)
    );
    let (mut outcome, mut costs) = (Outcome::default(), Vec::new());
    for _ in 0..random.random_range(KILLS) {
        let mut replicator = stage.command(&configuration).start().expect("the program");
        if !copying(&mut replicator).await {
            kill(&mut replicator).await;
            break;
        }
        if writers.is_none() {
            planned(&target).await;
            writers = Some(Writers::start(&stage, writers_seed));
        }
        let logged = replicator.log().len();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4_000))).await;
        let before = Before::read(&target, replicator.api().status().await.ok()).await;
        assert!(replicator.ended().is_none(), "seed {seed}: it ended by itself:\n{}", replicator.log());
        kill(&mut replicator).await;
        outcome.kills += 1;
        let log = replicator.log();
        let cost = cost(&target, before, &log[logged.min(log.len())..]).await;
        println!("seed {seed}: kill {}: {cost:?}", outcome.kills);
        costs.extend(cost);
    }
    let mut replicator = stage.command(&configuration).start().expect("the program");
    streaming(&mut replicator).await;
    outcome.changes = writers.expect("they were started before the first kill").end().await;
    settle_prepared(&source).await;
    stage.caught_up_after(&mut replicator, &[format!("seed {seed}")]).await;
    let comparison = stage.compare().await;
    assert!(comparison.rows_are_identical(), "seed {seed}: {comparison:#?}\n{}", replicator.log());
    for query in [INDEXES, CONSTRAINTS] {
        assert_eq!(text(&target, query).await, text(&source, query).await, "seed {seed}");
    }
    assert!(outcome.changes > 0, "seed {seed}: nobody wrote");
    judge(&mut outcome, &costs, &target, seed).await;
    outcome
}

/// Waits for the copy; false if it is over already.
async fn copying(replicator: &mut Replicator) -> bool {
    let status = replicator
        .wait_for_status("the copy", COPY_WAIT, |status| {
            ["snapshot", "indexes", "streaming"].contains(&status.phase.as_str())
        })
        .await;
    status.unwrap_or_else(|error| panic!("{error}")).phase != "streaming"
}

async fn kill(replicator: &mut Replicator) {
    replicator.signal(Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
}

async fn cost(target: &Client, before: Option<Before>, log: &str) -> Option<Repeated> {
    let before = before?;
    assert!(before.sessions <= JOBS, "{} sessions copy", before.sessions);
    Some(Ledger::read(target).await?.repeated_after(&before, &worthless(log)))
}

/// What a writer left prepared when it was told to stop.
async fn settle_prepared(source: &Client) {
    for row in source.query("SELECT gid FROM pg_prepared_xacts", &[]).await.expect("prepared") {
        execute(source, &format!("COMMIT PREPARED '{}'", row.get::<_, String>(0))).await;
    }
}

/// Not more than a chunk for each connection is copied again: of tables that are not cut, the table is the chunk.
async fn judge(outcome: &mut Outcome, costs: &[Repeated], target: &Client, seed: u64) {
    let chunk = "SELECT coalesce(max(bytes_copied), 1) FROM pgsluice.copy_chunk WHERE (schema_name, table_name) IN
                    (SELECT schema_name, table_name FROM pgsluice.copy_chunk GROUP BY 1, 2 HAVING count(*) > 1)";
    let chunk = u64::try_from(number(target, chunk).await).expect("bytes");
    let all = "SELECT coalesce(sum(bytes_copied), 0)::bigint FROM pgsluice.copy_chunk";
    outcome.bytes = u64::try_from(number(target, all).await).expect("bytes");
    outcome.kills_copying = costs.len() as u64;
    for cost in costs {
        outcome.repeated_bytes += cost.bytes();
        let chunks = cost.of_cut_tables as f64 / (JOBS * chunk) as f64;
        outcome.chunks_max = outcome.chunks_max.max(chunks);
        assert!(chunks <= 1.0, "seed {seed}: {chunks} chunks of {chunk} bytes for each connection: {cost:?}");
    }
}
