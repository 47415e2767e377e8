//! Random histories: tables, workloads and faults from a seed, run against real servers, with both sides compared in the
//! end. A history that fails is made smaller and written to a file; kept in `regressions/`, it is replayed by every test
//! run. How many: `PGSLUICE_SOAK_SEEDS`; from which seed on: `PGSLUICE_TEST_SEED`; how long at most:
//! `PGSLUICE_SOAK_MINUTES_MAX`; over which path: `PGSLUICE_SOAK_PATH`.

mod attacks;
mod changes;
mod decoding;
mod generate;
mod held;
mod history;
mod path;
mod run;
mod session;
mod shrink;
mod summary;
mod tables;
mod ways;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::generate::generate;
use self::history::History;
use self::path::Path;
use self::run::{Failure, Servers, Verdict};
use self::shrink::{Budget, shrink};
use self::summary::Summary;
use self::ways::Ways;
use crate::harness::seed;

const SEEDS_VARIABLE: &str = "PGSLUICE_SOAK_SEEDS";
const MINUTES_VARIABLE: &str = "PGSLUICE_SOAK_MINUTES_MAX";
/// As many as continuous integration has time for.
const SEEDS_DEFAULT: u64 = 8;
const MINUTES_DEFAULT: u64 = 30;
/// After so many failures there is no news in another one.
const FAILURES_MAX: usize = 3;
const SHRINKING: Budget = Budget { runs: 120, time: Duration::from_secs(240) };
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/random_histories/regressions");
const FAILED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/soak");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_random_history_both_sides_hold_the_same_rows() {
    let (_, first) = seed::random("random histories");
    let seeds = number_of(SEEDS_VARIABLE, SEEDS_DEFAULT);
    let limit = Duration::from_secs(60 * number_of(MINUTES_VARIABLE, MINUTES_DEFAULT));
    let summary = RefCell::new(Summary::new(first, seeds));
    let deadline = Instant::now() + limit;
    // Two cores: two at once, each with its own servers.
    let own = |rest: u64| (first..first + seeds).filter(move |seed| seed % 2 == rest);
    Box::pin(async { tokio::join!(work(own(0), deadline, &summary), work(own(1), deadline, &summary)) })
        .await;
    let summary = summary.into_inner();
    // Past the test runner's capture.
    let _ = write!(std::io::stderr(), "{summary}");
    let failures = summary.failures().len();
    assert_eq!(failures, 0, "what went wrong is said above");
}

/// Each kept history, as it is in its file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_histories_end_with_the_same_rows_on_both_sides() {
    let mut servers: BTreeMap<(u32, u32), Servers> = BTreeMap::new();
    let entries = std::fs::read_dir(KEPT).expect("the folder of kept histories");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "history"));
    paths.sort();
    assert!(!paths.is_empty(), "no history is kept");
    let mut ways = Ways::default();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a history");
        let history = History::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let outcome = servers_for(&mut servers, &history).await.run(&history).await;
        assert_eq!(outcome.verdict, Verdict::Same, "{}", path.display());
        assert!(outcome.tally.committed > 0, "{}", path.display());
        assert_eq!(outcome.tally.wrong, Vec::<String>::new(), "{}", path.display());
        ways.add(outcome.ways);
    }
    for way in ["written by copy", "written by set", "written by row", "fell back for unique_violation"] {
        assert!(ways.has(way), "{way}: not once; {ways}");
    }
}

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

async fn servers_for<'a>(
    servers: &'a mut BTreeMap<(u32, u32), Servers>,
    history: &History,
) -> &'a mut Servers {
    let pair = (history.source, history.target);
    match servers.entry(pair) {
        std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
        std::collections::btree_map::Entry::Vacant(new) => new.insert(Servers::start(pair.0, pair.1).await),
    }
}

/// Runs histories one after the other until there are no more, or the time is over, or enough has failed.
async fn work(seeds: impl Iterator<Item = u64>, deadline: Instant, summary: &RefCell<Summary>) {
    let mut servers = BTreeMap::new();
    for seed in seeds {
        let failures = summary.borrow().failures().len();
        if Instant::now() > deadline || failures >= FAILURES_MAX {
            return;
        }
        let (mut history, path) = (generate(seed), Path::of(seed));
        path.through(&mut history);
        let servers = servers_for(&mut servers, &history).await;
        let outcome = servers.run(&history).await;
        let failure = match &outcome.verdict {
            Verdict::Same if outcome.tally.wrong.is_empty() => None,
            Verdict::Same => Some(format!(
                "seed {seed}: the generator made statements that no server runs:\n{}",
                outcome.tally.wrong.join("\n")
            )),
            // Counted, and told in the end.
            Verdict::Undecodable(_) => None,
            Verdict::Invalid(why) => {
                Some(format!("seed {seed}: the generator made tables that cannot be: {why}"))
            }
            Verdict::Failed(failure) => Some(shrunk(servers, history, failure).await),
        };
        if let Some(failure) = &failure {
            let _ = writeln!(std::io::stderr(), "{failure}");
        }
        summary.borrow_mut().add(path, outcome, failure);
    }
}

/// Makes a failing history smaller, writes it to a file, and says what to do with it.
async fn shrunk(servers: &mut Servers, history: History, failure: &Failure) -> String {
    let seed = history.seed;
    let statements = history.statements();
    let _ = writeln!(std::io::stderr(), "seed {seed} fails ({:?}); it is being made smaller", failure.kind);
    let kind = failure.kind;
    let fails = async |candidate: &History| matches!(servers.run(candidate).await.verdict, Verdict::Failed(failure) if failure.kind == kind);
    let shrunk = shrink(history, SHRINKING, fails).await;
    let path = PathBuf::from(FAILED).join(format!("seed-{seed}.history"));
    std::fs::create_dir_all(FAILED)
        .and_then(|()| std::fs::write(&path, shrunk.history.print()))
        .expect("a file");
    format!(
        "seed {seed}: {kind:?}: {}\n{statements} statements, {} after {} tries, in {}:\n{}\n\
         Copy it to {KEPT} to keep it: every test run then replays it.",
        failure.detail,
        shrunk.history.statements(),
        shrunk.runs,
        path.display(),
        shrunk.history.print()
    )
}
