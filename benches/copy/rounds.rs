//! Cases (i) and (k): the same database copied by every contender in turn, several rounds of it. In the first round each contender
//! is tried in all its settings, in the others only in the one that was fastest. After each run everything is compared.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Outcome;
use super::contender::{self, Contender, Definitions};
use super::cpu::{CpuSeconds, Watched, peak_resident_mib};
use super::ground::Ground;
use super::options::{CaseId, Options};
use super::report::{BASELINE, CopyReport, Measured, OneRun};
use super::servers::{Servers, settle};

/// Measures one case.
pub(crate) async fn measure(servers: &Servers, options: &Options, case: CaseId) -> Outcome<CopyReport> {
    let started = Instant::now();
    let ground = Ground::prepare(servers, case, options).await?;
    println!(
        "    {:.0} MB of tables, {:.0} MB of indexes, made in {:.1} s",
        ground.table_bytes as f64 / 1e6,
        ground.index_bytes as f64 / 1e6,
        started.elapsed().as_secs_f64()
    );
    let mut measured: BTreeMap<String, Measured> = BTreeMap::new();
    let mut contenders = contender::all(options);
    for round in 1..=options.rounds {
        // Nobody is always the first.
        let count = contenders.len().max(1);
        contenders.rotate_left(round % count);
        for contender in &contenders {
            let run = one_run(servers, &ground, contender, contender.wants()).await?;
            measured.entry(contender.name.to_owned()).or_default().add(contender.setting(), run);
        }
        contenders.retain(|contender| {
            measured.get(contender.name).is_none_or(|measured| measured.fastest == contender.setting())
        });
    }
    let report = CopyReport::new((case, case.title(options)), &ground, measured);
    ground.remove(servers).await?;
    report.print_ratios();
    Ok(report)
}

/// One copy into a database of its own, from the start to the last index; what is on the target is judged.
pub(crate) async fn one_run(
    servers: &Servers,
    ground: &Ground,
    contender: &Contender,
    definitions: Definitions,
) -> Outcome<OneRun> {
    let database = format!("{}_{}", ground.database, contender.name);
    let mut run = contender.prepare(servers, ground, &database, definitions).await?;
    settle(servers).await?;
    let watched = |replicator| Watched {
        source: servers.source.postmaster,
        target: servers.target.postmaster,
        replicator,
    };
    let before = CpuSeconds::now(watched(None))?;
    let started = Instant::now();
    run.copy(servers, ground, &database).await?;
    let seconds = started.elapsed().as_secs_f64();
    let mut cpu = CpuSeconds::now(watched(run.pid()))?.since(&before);
    let with_statistics_seconds = if contender.name != BASELINE && run.gather_statistics().await? {
        Some(started.elapsed().as_secs_f64())
    } else {
        None
    };
    let mut peak = run.pid().map(peak_resident_mib).transpose()?;
    if let Some((cpu_seconds, peak_resident_mib)) = run.ended_processes() {
        cpu.replicator += cpu_seconds;
        cpu.total += cpu_seconds;
        cpu.everything_else -= cpu_seconds;
        peak = Some(peak_resident_mib);
    }
    run.finish(servers, ground, &database).await?;
    ground.require_complete(&servers.target, &database, contender.name).await?;
    servers.target.drop_database(&database).await?;
    println!(
        "    {:10}{:11}{seconds:7.2} s{}  CPU {:6.2} s (source {:.2}, target {:.2}, replicator {:.2}; others {:.2}){}",
        contender.name,
        contender.setting(),
        with_statistics_seconds
            .map_or_else(String::new, |seconds| format!(", {seconds:.2} s with statistics")),
        cpu.total,
        cpu.source_server,
        cpu.target_server,
        cpu.replicator,
        cpu.everything_else,
        peak.map_or_else(String::new, |mib| format!("  {mib:.1} MiB"))
    );
    Ok(OneRun { seconds, with_statistics_seconds, cpu, peak_resident_mib: peak })
}
