//! Cases (a) to (g): the same backlog for every contender in turn, several rounds of it; after each run the target's rows
//! are compared with the source's. The limits are measured in the same rounds.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Outcome;
use super::cases::CaseId;
use super::contender::Contender;
use super::cpu::{CpuSeconds, Watched, peak_resident_mib};
use super::fingerprint::{Fingerprint, fingerprint, require_identical};
use super::ground::{BacklogEnd, Ground};
use super::limits;
use super::options::{Options, Profiling};
use super::profile::Profile;
use super::report::{BULK_LIMIT, CaseReport, Measured, STREAM_LIMIT, directory};
use super::servers::{Servers, settle};

/// One case on its ground.
struct Backlog<'a> {
    servers: &'a Servers,
    options: &'a Options,
    ground: Ground,
    end: BacklogEnd,
    /// The source's rows.
    expected: Fingerprint,
}

/// Measures one case.
pub(crate) async fn measure(
    servers: &Servers,
    options: &Options,
    case: CaseId,
    contenders: &[Contender],
) -> Outcome<CaseReport> {
    let title = case.title(options);
    println!("({}) {title}", case.letter());
    let ground = Ground::prepare(servers, case, options).await?;
    for contender in contenders {
        contender.prepare_base(servers, &ground).await?;
    }
    let limits_slot = format!("{}_base_limits", ground.database);
    let source = servers.source.client(&ground.database).await?;
    let create = "SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')";
    source.execute(create, &[&limits_slot]).await?;
    let (end, size) = ground.commit_backlog(servers, options).await?;
    let expected = fingerprint(&source).await?;
    drop(source);
    println!(
        "    {:.0} MB of WAL, committed in {:.1} s",
        size.wal_bytes as f64 / 1e6,
        size.generated_in_seconds
    );
    let backlog = Backlog { servers, options, ground, end, expected };
    let (mut by_contender, mut by_limit) = (BTreeMap::new(), BTreeMap::new());
    for round in 1..=options.rounds {
        // Nobody is always the first.
        for index in 0..contenders.len() {
            let contender = &contenders[(index + round) % contenders.len()];
            let measured: &mut Measured = by_contender.entry(contender.name.to_owned()).or_default();
            backlog.run(contender, round, measured).await?;
        }
        if options.includes("limits") {
            for limit in [STREAM_LIMIT, BULK_LIMIT] {
                let measured: &mut Measured = by_limit.entry(limit.to_owned()).or_default();
                backlog.limit(limit, &limits_slot, measured).await?;
            }
        }
    }
    for contender in contenders {
        contender.remove_base(servers, &backlog.ground).await?;
    }
    backlog.ground.remove(servers).await?;
    let report = CaseReport::new((case.letter().to_owned(), title), size, by_contender, by_limit);
    print_ratios(&report);
    Ok(report)
}

impl Backlog<'_> {
    /// One run: from the start to the last change on the target.
    async fn run(&self, contender: &Contender, round: usize, measured: &mut Measured) -> Outcome<()> {
        let (servers, ground) = (self.servers, &self.ground);
        let name = format!("{}_run", ground.database);
        let mut run = contender.prepare_run(servers, ground, name.clone()).await?;
        settle(servers).await?;
        let file = format!("perf-{}-{}-{round}.data", ground.case.letter(), contender.name);
        let profile = match self.options.profiling {
            Profiling::Off => None,
            Profiling::Perf => Some(Profile::start(&directory().join(file))?),
        };
        let before = CpuSeconds::now(Watched { replicator: None, ..run.watched(servers) })?;
        let started = Instant::now();
        run.start(servers).await?;
        run.wait_for(servers, &self.end).await?;
        let seconds = started.elapsed().as_secs_f64();
        let watched = run.watched(servers);
        let cpu = CpuSeconds::now(watched)?.since(&before);
        let peak = watched.replicator.map(peak_resident_mib).transpose()?;
        if let Some(profile) = profile {
            profile.finish().await?;
        }
        run.stop(servers).await?;
        let target = servers.target.client(&name).await?;
        require_identical(&self.expected, &fingerprint(&target).await?, contender.name)?;
        drop(target);
        run.remove(servers, ground).await?;
        println!(
            "    {round} {:14}{seconds:7.2} s  CPU {:6.2} s (source {:.2}, target {:.2}, replicator {:.2}; others {:.2}){}",
            contender.name,
            cpu.total,
            cpu.source_server,
            cpu.target_server,
            cpu.replicator,
            cpu.everything_else,
            peak.map_or_else(String::new, |mib| format!("  {mib:.1} MiB"))
        );
        measured.add(seconds, cpu, peak);
        Ok(())
    }

    async fn limit(&self, limit: &str, slot: &str, measured: &mut Measured) -> Outcome<()> {
        let servers = self.servers;
        let copy = format!("{}_limit", self.ground.database);
        self.ground.copy_slot(servers, slot, &copy).await?;
        settle(servers).await?;
        let watched = Watched {
            source: servers.source.postmaster,
            target: servers.target.postmaster,
            replicator: Some(std::process::id()),
        };
        let before = CpuSeconds::now(watched)?;
        let started = Instant::now();
        let bytes = match limit {
            STREAM_LIMIT => limits::read_stream(servers, &self.ground, &copy, &self.end).await?,
            _ => limits::read_bulk(servers, &self.ground, &copy).await?,
        };
        let seconds = started.elapsed().as_secs_f64();
        let cpu = CpuSeconds::now(watched)?.since(&before);
        self.ground.drop_slot(servers, &copy).await?;
        println!(
            "      limit: {limit:9}{seconds:6.2} s  CPU {:6.2} s  {:.0} MB read",
            cpu.total,
            bytes as f64 / 1e6
        );
        measured.add(seconds, cpu, None);
        Ok(())
    }
}

fn print_ratios(report: &CaseReport) {
    let ratios = [
        ("to native", report.ratio_to_native),
        ("to the stream limit", report.ratio_to_stream_limit),
        ("to the bulk limit", report.ratio_to_bulk_limit),
        ("to the other build", report.ratio_to_baseline),
        ("CPU to native", report.cpu_ratio_to_native),
    ];
    let known: Vec<String> =
        ratios.iter().filter_map(|(name, ratio)| ratio.map(|ratio| format!("{name} {ratio:.2}"))).collect();
    println!("    ratios: {}", known.join(", "));
}
