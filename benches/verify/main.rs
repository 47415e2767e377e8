//! `make bench-verify`, and the last part of `make bench`: verification beside `pgcopydb compare data` and beside md5 over both sides, in
//! one run, on the same servers and the same rows; and what it costs the source in its default configuration. Writes
//! `target/bench/verify.json`; with the argument `table`, puts the figures of the last run into `docs/performance.md`.

#[path = "../side_by_side/cpu.rs"]
#[expect(dead_code, reason = "a rate over time is for streams")]
mod cpu;
#[path = "../side_by_side/delay.rs"]
mod delay;
mod effect;
#[path = "../side_by_side/environment.rs"]
mod environment;
#[path = "../side_by_side/fingerprint.rs"]
mod fingerprint;
#[path = "../copy/ground.rs"]
#[expect(dead_code, reason = "what a copy must have made is judged elsewhere")]
mod ground;
#[path = "../side_by_side/machine.rs"]
mod machine;
#[path = "../copy/objects.rs"]
mod objects;
#[path = "../copy/options.rs"]
#[expect(dead_code, reason = "what is chosen for copies alone")]
mod options;
mod report;
#[path = "../side_by_side/servers.rs"]
#[expect(dead_code, reason = "what native replication needs")]
mod servers;
mod sluice;
#[path = "../side_by_side/statistics.rs"]
#[expect(dead_code, reason = "a few runs have no percentiles")]
mod statistics;
mod throughput;

use ground::Ground;
use options::{CaseId, Options};
use report::Report;
use servers::Servers;
use sluice::Migrated;

/// Whatever ends the run: it is printed, and nothing else depends on its kind.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

#[tokio::main]
async fn main() -> Outcome<()> {
    if std::env::args().any(|argument| argument == "table") {
        return report::update_document();
    }
    let wanted = |letter: &str| {
        environment::text("CASES").is_none_or(|letters| letters.split(',').any(|one| one.trim() == letter))
    };
    // Left out where the copy is.
    let is_odd = ["TLS", "DELAY_MS", "PROFILE"].iter().any(|name| environment::is_on(name));
    if is_odd || (!wanted("n") && !wanted("o")) {
        return Ok(());
    }
    let options = Options::from_environment()?;
    let servers = Servers::start(&options).await?;
    let ground = Ground::prepare(&servers, CaseId::Both, &options).await?;
    println!("verification of {} rows, {:.0} MB of tables", ground.rows(), ground.table_bytes as f64 / 1e6);
    let mut migrated = Migrated::begin(&servers, &ground, &options.configuration).await?;
    let mut report = Report::begun(&servers, &options, &ground).await?;
    if wanted("n") {
        report.throughput = Some(throughput::measure(&servers, &ground, &migrated, &options).await?);
        report.write()?;
    }
    if wanted("o") {
        report.effect = Some(effect::measure(&servers, &ground, &migrated, &options).await?);
        report.write()?;
    }
    migrated.stop().await?;
    println!("\n{}", report::of(&report));
    println!("written to {}", Report::path().display());
    Ok(())
}
