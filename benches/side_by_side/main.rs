//! `make bench`: pgsluice beside native logical replication, in one run, on the same servers and the same data, over TCP.
//! Writes `target/bench/report.json`; with the argument `table`, puts the figures of earlier runs into
//! `docs/performance.md`. What each case is stands in `cases.rs`, what can be chosen in `options.rs`.

mod backlog;
mod cases;
mod contender;
mod cpu;
mod delay;
mod environment;
mod fingerprint;
mod ground;
mod limits;
mod machine;
mod native;
mod options;
mod profile;
mod report;
mod servers;
mod sluice;
mod statistics;
mod steady;
mod table;

use std::path::PathBuf;

use cases::CaseId;
use contender::{Contender, Kind};
use options::Options;
use report::{Asked, BASELINE, NATIVE, NATIVE_BINARY, PGSLUICE, Report};
use servers::Servers;

/// Whatever ends the run: it is printed, and nothing else depends on its kind.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

#[tokio::main]
async fn main() -> Outcome<()> {
    if std::env::args().any(|argument| argument == "table") {
        return table::update_document();
    }
    let options = Options::from_environment()?;
    if options.cases.is_empty() {
        // Only cases of the copy were asked for.
        return Ok(());
    }
    std::fs::create_dir_all(report::directory())?;
    let servers = Servers::start(&options).await?;
    let mut report = Report {
        made_at: jiff::Timestamp::now().to_string(),
        machine: machine::facts()?,
        servers: servers.facts().await?,
        asked: Asked::of(&options),
        cases: Vec::new(),
        steady_state: None,
    };
    for case in options.cases.clone() {
        let contenders = contenders(&options, case);
        if case == CaseId::SteadyState {
            report.steady_state = Some(steady::measure(&servers, &options, &contenders).await?);
        } else {
            report.cases.push(backlog::measure(&servers, &options, case, &contenders).await?);
        }
        // After each case: a run that ends early has what came before.
        report.write(&options)?;
    }
    println!("\n{}", table::of(&report));
    println!("written to {}", Report::path(&options.suffix()).display());
    Ok(())
}

fn contenders(options: &Options, case: CaseId) -> Vec<Contender> {
    let native = |name, binary| Contender { name, kind: Kind::Native { binary } };
    let sluice = |name, binary| Contender {
        name,
        kind: Kind::Sluice { binary, configuration: options.configuration.clone() },
    };
    let mut all =
        vec![native(NATIVE, "false"), sluice(PGSLUICE, PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")))];
    if case == CaseId::TpcB {
        all.push(native(NATIVE_BINARY, "true"));
    }
    if let Some(baseline) = &options.baseline {
        all.push(sluice(BASELINE, baseline.clone()));
    }
    all.retain(|contender| options.includes(contender.name));
    all
}
