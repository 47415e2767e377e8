//! `make bench-cutover`: how long writers wait when clients move, over many rehearsals and many pairs of cutover and rollback,
//! while clients write all the time. Writes `target/bench/cutover.json`; with the argument `table`, puts the figures of the last
//! run into `docs/performance.md`. Fails if a transaction was lost or doubled, or if the two sides differ in the end.

mod director;
mod figures;
mod ground;
mod judge;
#[path = "../side_by_side/machine.rs"]
mod machine;
mod operations;
mod options;
mod report;
#[path = "../side_by_side/statistics.rs"]
mod statistics;
mod table;
mod transactions;

use std::time::Duration;

use nix::sys::signal::Signal;
use pgsluice::demo::replicator::Replicator;
use pgsluice::demo::workload::Workload;

use director::Director;
use ground::Ground;
use operations::{Ended, Kind, Series};
use options::Options;
use report::{Acknowledgements, Figures, Report};

/// Longest wait for the copy, and for the program's end.
const COPY_WAIT: Duration = Duration::from_secs(300);
const END_WAIT: Duration = Duration::from_secs(15);

/// Whatever ends the run: it is printed, and nothing else depends on its kind.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

#[tokio::main]
async fn main() -> Outcome<()> {
    if std::env::args().any(|argument| argument == "table") {
        return table::update_document();
    }
    let report = measure(Options::from_environment()?).await?;
    report.write()?;
    println!("\n{}", table::of(&report));
    println!("written to {}", Report::path().display());
    match report.failures.as_slice() {
        [] => Ok(()),
        failures => Err(failures.join("; ").into()),
    }
}

async fn measure(options: Options) -> Outcome<Report> {
    let made_at = jiff::Timestamp::now().to_string();
    eprintln!("seed {}; starting the servers", options.seed);
    let ground = Ground::prepare(options.role).await?;
    let transactions = transactions::at_scale(ground::SCALE, options.crossing_percent);
    let workload = Workload::of(ground.url(&ground.source), options.clients, options.seed, &transactions);
    if options.transactions_per_second_max > 0 {
        workload.limit(Some(options.transactions_per_second_max as f64));
    }
    let director = Director::start(&ground, workload.router()).await?;
    let mut replicator = ground.replicator(director.url(), &options.configuration).start()?;
    replicator.wait_until_streaming(COPY_WAIT).await?;

    let mut runs = Runs::default();
    let mut failures = runs.go(&mut replicator, &options).await?;
    let record = workload.stop().await;
    let (primary, other) = if runs.ended_on_the_target() {
        (&ground.target, &ground.source)
    } else {
        (&ground.source, &ground.target)
    };
    judge::caught_up(&ground.url(primary)).await?;
    let mut judgement = judge::judge([primary, other].map(|side| ground.url(side)), &record).await?;
    if !runs.ended_on_the_target() {
        // Once more, for nobody: sequences are carried over, and nobody uses them until they are compared.
        let _ = Series::default().add(&mut replicator, Kind::Rehearsal).await?;
        judge::judge_sequences(&mut judgement, [&ground.source, &ground.target].map(|side| ground.url(side)))
            .await?;
    }
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(END_WAIT).await?;
    failures.extend(judgement.failures());
    let seen = Acknowledgements::of(&record);
    Ok(Report {
        made_at,
        machine: machine::facts()?,
        servers: ground.facts().await?,
        asked: options,
        transactions_per_second: seen.per_second(),
        rehearsals: Figures::of(&runs.rehearsals, &seen),
        cutovers: Figures::of(&runs.cutovers, &seen),
        rollbacks: Figures::of(&runs.rollbacks, &seen),
        judgement,
        failures,
    })
}

/// Everything that was asked of the program.
#[derive(Default)]
struct Runs {
    rehearsals: Series,
    cutovers: Series,
    rollbacks: Series,
}

impl Runs {
    /// All operations, one after the other; what could not be completed is returned.
    async fn go(&mut self, replicator: &mut Replicator, options: &Options) -> Outcome<Vec<String>> {
        for number in 1..=options.rehearsals {
            if self.rehearsals.add(replicator, Kind::Rehearsal).await? == Ended::GivenUp {
                return Ok(given_up(Kind::Rehearsal, number));
            }
            say(Kind::Rehearsal, number, options.rehearsals, &self.rehearsals);
        }
        for number in 1..=options.pairs {
            if self.cutovers.add(replicator, Kind::Cutover).await? == Ended::GivenUp {
                return Ok(given_up(Kind::Cutover, number));
            }
            say(Kind::Cutover, number, options.pairs, &self.cutovers);
            if self.rollbacks.add(replicator, Kind::Rollback).await? == Ended::GivenUp {
                return Ok(given_up(Kind::Rollback, number));
            }
            say(Kind::Rollback, number, options.pairs, &self.rollbacks);
        }
        Ok(Vec::new())
    }

    fn ended_on_the_target(&self) -> bool {
        self.cutovers.completed.len() > self.rollbacks.completed.len()
    }
}

fn given_up(kind: Kind, number: usize) -> Vec<String> {
    vec![format!("{} {number} did not complete, however often it was tried", kind.name())]
}

fn say(kind: Kind, number: usize, of: usize, series: &Series) {
    let Some(last) = series.completed.last() else { return };
    let steps = last.record.steps.iter().filter(|step| step.in_pause);
    let steps: Vec<_> = steps.map(|step| format!("{} {:.1}", step.name, step.duration_ms)).collect();
    let pause = last.record.pause_ms.unwrap_or_default();
    eprintln!("{} {number}/{of}: {pause:.1} ms ({})", kind.name(), steps.join(", "));
}
