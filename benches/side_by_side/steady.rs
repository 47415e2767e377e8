//! Case (h): how long a commit takes to the target at a steady rate, and how much of the source's throughput replication
//! costs. Latency is measured the same way for everybody, by one clock: from the moment in which a writer has its commit
//! acknowledged by the source, to the moment in which a session that asks the target again and again sees it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::Outcome;
use super::cases::CaseId;
use super::contender::{Contender, Run};
use super::cpu::{CpuSeconds, peak_resident_mib};
use super::fingerprint::{fingerprint, require_identical};
use super::ground::Ground;
use super::options::Options;
use super::report::{NOTHING, SteadyMeasured, SteadyReport};
use super::servers::{Servers, settle};
use super::statistics::{median, percentile};

/// Writers, and the transactions a second of all together.
const WRITERS: usize = 4;
const TRANSACTIONS_PER_SECOND: u64 = 500;
/// How long the latency is measured, and what of it is not counted at the beginning.
const LATENCY_SECONDS: u64 = 10;
const WARM_UP: Duration = Duration::from_secs(2);
/// How long pgbench runs.
const THROUGHPUT_SECONDS: u64 = 8;
/// Pause between two looks at the target.
const LOOK_PAUSE: Duration = Duration::from_micros(400);
/// Longest wait for what was committed last.
const LAST_WAIT: Duration = Duration::from_secs(60);
const ACCOUNTS: u64 = 2_000_000;

/// Measures the case.
pub(crate) async fn measure(
    servers: &Servers,
    options: &Options,
    contenders: &[Contender],
) -> Outcome<SteadyReport> {
    println!(
        "(h) steady state: latency at {TRANSACTIONS_PER_SECOND} transactions/s, the source at full speed"
    );
    let ground = Ground::prepare(servers, CaseId::SteadyState, options).await?;
    let mut runs = Vec::new();
    for contender in contenders {
        contender.prepare_base(servers, &ground).await?;
        let name = format!("{}_run_{}", ground.database, contender.name);
        runs.push((contender.name, contender.prepare_run(servers, &ground, name).await?));
    }
    let mut steady = Steady { servers, ground, mark: 0, writer_first: 0, looks: Vec::new() };
    let mut measured: BTreeMap<String, SteadyMeasured> = BTreeMap::new();
    for _ in 0..options.rounds {
        let alone = measured.entry(NOTHING.to_owned()).or_default();
        settle(servers).await?;
        alone.source_transactions_per_second.push(steady.full_speed().await?);
        for (name, run) in &mut runs {
            let one = measured.entry((*name).to_owned()).or_default();
            steady.round(run, one).await?;
            println!("    {name:14}{}", describe(one));
        }
    }
    let source = fingerprint(&servers.source.client(&steady.ground.database).await?).await?;
    for (name, mut run) in runs {
        // The others' rounds came after its own.
        run.start(servers).await?;
        steady.catch_up(&mut run).await?;
        run.stop(servers).await?;
        let target = servers.target.client(&run.name).await?;
        let rows = fingerprint(&target).await?;
        let mut expected = source.clone();
        for (table, found) in &rows {
            // Marks of the catching up came after the look at the source.
            if table == "bench_marks" {
                expected.insert(table.clone(), found.clone());
            }
        }
        require_identical(&expected, &rows, name)?;
        drop(target);
        run.remove(servers, &steady.ground).await?;
    }
    for contender in contenders {
        contender.remove_base(servers, &steady.ground).await?;
    }
    let looks = median(&steady.looks);
    steady.ground.remove(servers).await?;
    Ok(SteadyReport::new(TRANSACTIONS_PER_SECOND, looks, measured))
}

/// What goes on from one round to the next.
struct Steady<'a> {
    servers: &'a Servers,
    ground: Ground,
    /// The last mark committed.
    mark: i32,
    /// Number of the first writer of the next round: each round's probes are its own.
    writer_first: usize,
    /// Milliseconds between looks.
    looks: Vec<f64>,
}

impl Steady<'_> {
    /// Catches up, then latency, then throughput.
    async fn round(&mut self, run: &mut Run, measured: &mut SteadyMeasured) -> Outcome<()> {
        settle(self.servers).await?;
        run.start(self.servers).await?;
        self.catch_up(run).await?;
        let watched = run.watched(self.servers);
        let (before, started) = (CpuSeconds::now(watched)?, Instant::now());
        let latencies = self.latencies(&run.name).await?;
        let elapsed = started.elapsed().as_secs_f64();
        let used = CpuSeconds::now(watched)?.since(&before);
        measured.cpu_per_second.push(used.per(elapsed));
        measured.latency_ms_p50.push(percentile(&latencies, 50));
        measured.latency_ms_p95.push(percentile(&latencies, 95));
        measured.latency_ms_p99.push(percentile(&latencies, 99));
        measured.source_transactions_per_second.push(self.full_speed().await?);
        let drained = Instant::now();
        self.catch_up(run).await?;
        measured.drain_seconds.push(drained.elapsed().as_secs_f64());
        measured.peak_resident_mib.extend(watched.replicator.map(peak_resident_mib).transpose()?);
        run.stop(self.servers).await
    }

    async fn catch_up(&mut self, run: &mut Run) -> Outcome<()> {
        self.mark += 1;
        let source = self.servers.source.client(&self.ground.database).await?;
        let end = self.ground.commit_mark(&source, self.mark).await?;
        run.wait_for(self.servers, &end).await
    }

    /// Transactions a second of pgbench on the source.
    async fn full_speed(&self) -> Outcome<f64> {
        let arguments = ["-n", "-Mprepared", "-c4", "-j2"].map(str::to_owned).into_iter();
        let arguments: Vec<String> = arguments.chain([format!("-T{THROUGHPUT_SECONDS}")]).collect();
        let printed = self.servers.source.pgbench(&self.ground.database, &arguments).await?;
        let line = printed.lines().find(|line| line.starts_with("tps = ")).ok_or("pgbench prints no tps")?;
        Ok(line.split_whitespace().nth(2).ok_or("pgbench prints no figure")?.parse()?)
    }

    /// Milliseconds of each commit's way.
    async fn latencies(&mut self, target: &str) -> Outcome<Vec<f64>> {
        let first = self.writer_first;
        self.writer_first += WRITERS;
        let begin = Instant::now();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let client = self.servers.source.client(&self.ground.database).await?;
            writers.spawn(async move { (writer, write(&client, first, writer, begin).await) });
        }
        let looking = look(self.servers.target.client(target).await?, first, begin);
        let looking = tokio::spawn(looking);
        let mut acknowledged = vec![Vec::new(); WRITERS];
        while let Some(ended) = writers.join_next().await {
            let (writer, times) = ended?;
            acknowledged[writer] = times?;
        }
        let seen = looking.await??;
        self.looks.push(seen.pause_ms);
        let mut latencies = Vec::new();
        for (acknowledged, seen) in acknowledged.iter().zip(&seen.at) {
            if seen.len() < acknowledged.len() {
                return Err("not everything that was committed was seen on the target".into());
            }
            let counted = acknowledged.iter().zip(seen).filter(|(at, _)| at.duration_since(begin) > WARM_UP);
            // Never negative but by the order in which two tasks of this program run.
            latencies
                .extend(counted.map(|(at, seen)| seen.saturating_duration_since(*at).as_secs_f64() * 1e3));
        }
        Ok(latencies)
    }
}

/// Transactions at fixed moments, whether or not the last one was quick; answers when each was acknowledged.
async fn write(client: &Client, first: usize, writer: usize, begin: Instant) -> Outcome<Vec<Instant>> {
    let each = TRANSACTIONS_PER_SECOND / WRITERS as u64;
    let interval = Duration::from_secs(1) / u32::try_from(each)?;
    let offset = interval * u32::try_from(writer)? / u32::try_from(WRITERS)?;
    client.batch_execute("SET synchronous_commit = on").await?;
    let mut acknowledged = Vec::new();
    for n in 0..each * LATENCY_SECONDS {
        let due = begin + offset + interval * u32::try_from(n)?;
        tokio::time::sleep_until(due.into()).await;
        let account = 1 + rand::random_range(0..ACCOUNTS);
        let teller = 1 + rand::random_range(0..200);
        client
            .batch_execute(&format!(
                "BEGIN;
                 UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = {account};
                 UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = {teller};
                 INSERT INTO probes VALUES ({}, {});
                 COMMIT",
                first + writer,
                n + 1
            ))
            .await?;
        acknowledged.push(Instant::now());
    }
    Ok(acknowledged)
}

/// When each probe was first seen, by writer, and how long one look and its pause took in the middle.
struct Seen {
    at: Vec<Vec<Instant>>,
    pause_ms: f64,
}

async fn look(client: Client, first: usize, begin: Instant) -> Outcome<Seen> {
    let each = TRANSACTIONS_PER_SECOND / WRITERS as u64 * LATENCY_SECONDS;
    let highest: Vec<String> = (first..first + WRITERS)
        .map(|writer| format!("(SELECT coalesce(max(n), 0) FROM probes WHERE writer = {writer})"))
        .collect();
    let statement = client.prepare(&format!("SELECT {}", highest.join(", "))).await?;
    let mut at: Vec<Vec<Instant>> = vec![Vec::new(); WRITERS];
    let mut pauses = Vec::new();
    let mut last = Instant::now();
    while at.iter().any(|seen| (seen.len() as u64) < each) {
        if begin.elapsed() > Duration::from_secs(LATENCY_SECONDS) + LAST_WAIT {
            break;
        }
        let row = client.query_one(&statement, &[]).await?;
        let now = Instant::now();
        for (writer, seen) in at.iter_mut().enumerate() {
            seen.resize(usize::try_from(row.get::<_, i64>(writer))?, now);
        }
        pauses.push(now.duration_since(last).as_secs_f64() * 1e3);
        last = now;
        // Finer than the runtime's timer.
        tokio::task::spawn_blocking(|| std::thread::sleep(LOOK_PAUSE)).await?;
    }
    Ok(Seen { at, pause_ms: median(&pauses) })
}

fn describe(measured: &SteadyMeasured) -> String {
    let last = |values: &Vec<f64>| values.last().copied().unwrap_or(f64::NAN);
    format!(
        "p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms; CPU {:.2} s a second; source {:.0} transactions/s, drained in {:.2} s",
        last(&measured.latency_ms_p50),
        last(&measured.latency_ms_p95),
        last(&measured.latency_ms_p99),
        measured.cpu_per_second.last().map_or(f64::NAN, |cpu| cpu.total),
        last(&measured.source_transactions_per_second),
        last(&measured.drain_seconds)
    )
}
