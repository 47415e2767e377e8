//! The report: every single value, the medians, and the ratios that are promised. A ratio says how many times faster
//! pgsluice is: native's (or the limit's) median time divided by pgsluice's, so more is better.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::cpu::CpuSeconds;
use super::ground::BacklogSize;
use super::options::{Encryption, Options};
use super::statistics::median;

/// Names of contenders and limits in the report.
pub(crate) const NATIVE: &str = "native";
/// With `binary = true`.
pub(crate) const NATIVE_BINARY: &str = "native_binary";
/// This build.
pub(crate) const PGSLUICE: &str = "pgsluice";
/// Another build.
pub(crate) const BASELINE: &str = "baseline";
/// In the steady state: no replicator at all.
pub(crate) const NOTHING: &str = "nothing";
/// An idle reader of the walsender's stream.
pub(crate) const STREAM_LIMIT: &str = "stream";
/// One bulk read.
pub(crate) const BULK_LIMIT: &str = "bulk";

/// A run of `make bench`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When it began.
    pub(crate) made_at: String,
    /// What it ran on.
    pub(crate) machine: BTreeMap<String, String>,
    /// Versions and settings of both servers.
    pub(crate) servers: BTreeMap<String, String>,
    /// What was asked for.
    pub(crate) asked: Asked,
    /// (a) to (g).
    pub(crate) cases: Vec<CaseReport>,
    /// (h).
    pub(crate) steady_state: Option<SteadyReport>,
}

/// The options that change what the figures mean.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Runs of each contender.
    pub(crate) rounds: usize,
    /// Whether the connections were encrypted.
    pub(crate) tls: String,
    /// Added to each way of the connection into the target.
    pub(crate) delay_ms_each_way: u128,
    /// Size of the backlogs.
    pub(crate) scale_percent: u64,
    /// Lines over pgsluice's default configuration.
    pub(crate) configuration: String,
}

/// One backlog.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CaseReport {
    /// Its letter.
    pub(crate) case: String,
    /// What it is.
    pub(crate) title: String,
    /// The source's WAL.
    pub(crate) wal_bytes: i64,
    /// How long committing it took the source.
    pub(crate) generated_in_seconds: f64,
    /// By name.
    pub(crate) contenders: BTreeMap<String, Measured>,
    /// By name.
    pub(crate) limits: BTreeMap<String, Measured>,
    /// Native's time by pgsluice's.
    pub(crate) ratio_to_native: Option<f64>,
    /// The idle reader's time by pgsluice's.
    pub(crate) ratio_to_stream_limit: Option<f64>,
    /// The bulk read's time by pgsluice's.
    pub(crate) ratio_to_bulk_limit: Option<f64>,
    /// The other build's time by this one's.
    pub(crate) ratio_to_baseline: Option<f64>,
    /// pgsluice's CPU seconds (both servers and itself) by native's: here less is better.
    pub(crate) cpu_ratio_to_native: Option<f64>,
}

/// All runs of one contender, or of one limit.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Of `seconds`.
    pub(crate) median_seconds: f64,
    /// Of the total of `cpu`.
    pub(crate) median_cpu_seconds: f64,
    /// The highest of `peak_resident_mib`.
    pub(crate) peak_resident_mib_max: Option<f64>,
    /// From the start to the last change on the target.
    pub(crate) seconds: Vec<f64>,
    /// Used in that time.
    pub(crate) cpu: Vec<CpuSeconds>,
    /// Of the replicator.
    pub(crate) peak_resident_mib: Vec<f64>,
}

/// (h).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SteadyReport {
    /// Transactions a second while the latency is measured.
    pub(crate) transactions_per_second: u64,
    /// How often the target was looked at: what the latency cannot be told finer than.
    pub(crate) poll_interval_ms_median: f64,
    /// By name.
    pub(crate) contenders: BTreeMap<String, SteadyMeasured>,
    /// pgsluice's latency by native's: here less is better.
    pub p50_ratio_to_native: Option<f64>,
    /// The same of the 99th percentile.
    pub p99_ratio_to_native: Option<f64>,
    /// The source's throughput with pgsluice by that with native.
    pub(crate) source_throughput_ratio_to_native: Option<f64>,
}

/// All rounds of one contender.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SteadyMeasured {
    /// From the commit's acknowledgement on the source until it is seen on the target; by round.
    pub latency_ms_p50: Vec<f64>,
    /// The same.
    pub latency_ms_p95: Vec<f64>,
    /// The same.
    pub latency_ms_p99: Vec<f64>,
    /// CPU seconds of a second at that rate, by round.
    pub(crate) cpu_per_second: Vec<CpuSeconds>,
    /// pgbench at full speed.
    pub(crate) source_transactions_per_second: Vec<f64>,
    /// After that, until the target had everything.
    pub(crate) drain_seconds: Vec<f64>,
    /// Of the replicator.
    pub(crate) peak_resident_mib: Vec<f64>,
}

impl Report {
    /// Where it is written, by what was asked for.
    pub(crate) fn path(suffix: &str) -> PathBuf {
        directory().join(format!("report{suffix}.json"))
    }

    /// Writes it; answers where.
    pub(crate) fn write(&self, options: &Options) -> Outcome<PathBuf> {
        std::fs::create_dir_all(directory())?;
        let path = Self::path(&options.suffix());
        std::fs::write(&path, serde_json::to_string_pretty(self)?)?;
        Ok(path)
    }
}

/// `target/bench`.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}

impl Asked {
    /// Of the options.
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            rounds: options.rounds,
            tls: if options.encryption == Encryption::Tls { "on" } else { "off" }.to_owned(),
            delay_ms_each_way: options.delay.map_or(0, |delay| delay.as_millis()),
            scale_percent: options.scale_percent,
            configuration: options.configuration.clone(),
        }
    }
}

impl Measured {
    /// One more run.
    pub(crate) fn add(&mut self, seconds: f64, cpu: CpuSeconds, peak_resident_mib: Option<f64>) {
        self.seconds.push(seconds);
        self.cpu.push(cpu);
        self.peak_resident_mib.extend(peak_resident_mib);
        self.median_seconds = median(&self.seconds);
        self.median_cpu_seconds = median(&self.cpu.iter().map(|cpu| cpu.total).collect::<Vec<_>>());
        self.peak_resident_mib_max = self.peak_resident_mib.iter().copied().reduce(f64::max);
    }
}

impl CaseReport {
    /// Ratios of what was measured.
    pub(crate) fn new(
        (case, title): (String, String),
        size: BacklogSize,
        contenders: BTreeMap<String, Measured>,
        limits: BTreeMap<String, Measured>,
    ) -> Self {
        let ours = contenders.get(PGSLUICE);
        let faster_than = |other: Option<&Measured>| Some(other?.median_seconds / ours?.median_seconds);
        let native = contenders.get(NATIVE);
        Self {
            case,
            title,
            wal_bytes: size.wal_bytes,
            generated_in_seconds: size.generated_in_seconds,
            ratio_to_native: faster_than(native),
            ratio_to_stream_limit: faster_than(limits.get(STREAM_LIMIT)),
            ratio_to_bulk_limit: faster_than(limits.get(BULK_LIMIT)),
            ratio_to_baseline: faster_than(contenders.get(BASELINE)),
            cpu_ratio_to_native: ours
                .zip(native)
                .map(|(ours, native)| ours.median_cpu_seconds / native.median_cpu_seconds),
            contenders,
            limits,
        }
    }
}

impl SteadyReport {
    /// Ratios of what was measured.
    pub(crate) fn new(
        transactions_per_second: u64,
        poll_interval_ms_median: f64,
        contenders: BTreeMap<String, SteadyMeasured>,
    ) -> Self {
        let ratio = |values: fn(&SteadyMeasured) -> &Vec<f64>| {
            let of = |name: &str| contenders.get(name).map(|measured| median(values(measured)));
            Some(of(PGSLUICE)? / of(NATIVE)?)
        };
        Self {
            transactions_per_second,
            poll_interval_ms_median,
            p50_ratio_to_native: ratio(|measured| &measured.latency_ms_p50),
            p99_ratio_to_native: ratio(|measured| &measured.latency_ms_p99),
            source_throughput_ratio_to_native: ratio(|measured| &measured.source_transactions_per_second),
            contenders,
        }
    }
}
