//! `make bench-copy`, and the second half of `make bench`: the initial copy beside native logical replication's and beside
//! pgcopydb, in one run, on the same servers and the same data. Writes `target/bench/copy.json`; with the argument `table`, puts
//! the figures of the last run into `docs/performance.md`. What can be chosen stands in `options.rs`.

mod contender;
#[path = "../side_by_side/cpu.rs"]
#[expect(dead_code, reason = "a rate over time is for streams")]
mod cpu;
#[path = "../side_by_side/delay.rs"]
mod delay;
#[path = "../side_by_side/environment.rs"]
mod environment;
#[path = "../side_by_side/fingerprint.rs"]
mod fingerprint;
mod ground;
mod held;
#[path = "../side_by_side/machine.rs"]
mod machine;
mod many_tables;
mod narrow_link;
mod native;
mod objects;
mod options;
mod pgcopydb;
mod report;
mod retention;
mod rounds;
#[path = "../side_by_side/servers.rs"]
mod servers;
mod sluice;
#[path = "../side_by_side/statistics.rs"]
#[expect(dead_code, reason = "a few runs have no percentiles")]
mod statistics;
mod table;

use options::{CaseId, Options};
use report::{Asked, Report};
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
        // Only other cases were asked for, or what the copy is not measured with.
        return Ok(());
    }
    let mut machine = machine::facts()?;
    if options.includes(report::PGCOPYDB) {
        machine.insert("pgcopydb".to_owned(), pgcopydb::version().await?);
    }
    let servers = Servers::start(&options).await?;
    let mut report = Report {
        made_at: jiff::Timestamp::now().to_string(),
        machine,
        servers: servers.facts().await?,
        asked: Asked::of(&options),
        copies: Vec::new(),
        many_tables: None,
        retention: None,
    };
    for case in options.cases.clone() {
        println!("({}) {}", case.letter(), case.title(&options));
        match case {
            CaseId::Accounts | CaseId::Mixed | CaseId::Both => {
                report.copies.push(rounds::measure(&servers, &options, case).await?);
            }
            CaseId::ManyTables => {
                let measured = many_tables::measure(&servers, &options, &report.copies).await?;
                report.many_tables = Some(measured);
            }
            CaseId::Retention => report.retention = Some(retention::measure(&servers, &options).await?),
        }
        // After each case: a run that ends early has what came before.
        report.write()?;
    }
    println!("\n{}", table::of(&report));
    println!("written to {}", Report::path().display());
    Ok(())
}
