//! The report: every single value, the medians, and the ratios that are promised. A ratio says how many times faster pgsluice
//! is: the other's median time divided by pgsluice's, so more is better.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgsluice::demo::cluster::Authentication;
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::cpu::CpuSeconds;
use super::ground::Ground;
use super::held::Held;
use super::options::{CaseId, Options};
use super::statistics::median;

/// Names of contenders in the report.
pub(crate) const NATIVE: &str = "native";
/// `pgcopydb clone`.
pub(crate) const PGCOPYDB: &str = "pgcopydb";
/// This build.
pub(crate) const PGSLUICE: &str = "pgsluice";
/// Another build.
pub(crate) const BASELINE: &str = "baseline";

/// A run of `make bench-copy`.
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
    /// (i) and (k).
    pub(crate) copies: Vec<CopyReport>,
    /// (l).
    pub(crate) many_tables: Option<ManyTablesReport>,
    /// (m).
    pub(crate) retention: Option<RetentionReport>,
}

/// The options that change what the figures mean.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Runs of each contender in (i) and (k).
    pub(crate) rounds: usize,
    /// Size of everything.
    pub(crate) scale_percent: u64,
    /// How sessions proved who they were.
    pub(crate) authentication: String,
    /// Lines over pgsluice's default configuration.
    pub(crate) configuration: String,
}

/// One database.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CopyReport {
    /// Its letter.
    pub(crate) case: String,
    /// What it is.
    pub(crate) title: String,
    /// Of all its tables.
    pub(crate) rows: i64,
    /// Tables on the source, with what is stored out of line.
    pub(crate) table_bytes: i64,
    /// Their indexes.
    pub(crate) index_bytes: i64,
    /// By name.
    pub(crate) contenders: BTreeMap<String, Measured>,
    /// Native's time by pgsluice's, both without statistics.
    pub(crate) ratio_to_native: Option<f64>,
    /// The same with the time in which pgsluice gathers statistics, which native does not.
    pub(crate) ratio_to_native_with_statistics: Option<f64>,
    /// pgcopydb's time by pgsluice's, both with statistics.
    pub(crate) ratio_to_pgcopydb: Option<f64>,
    /// The other build's time by this one's.
    pub(crate) ratio_to_baseline: Option<f64>,
}

/// One copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OneRun {
    /// From the start to the last index and constraint. pgcopydb's has statistics, too.
    pub(crate) seconds: f64,
    /// To the last statistics, of who gathers them afterwards.
    pub(crate) with_statistics_seconds: Option<f64>,
    /// Used in that time.
    pub(crate) cpu: CpuSeconds,
    /// Of the replicator; of pgcopydb all processes together.
    pub(crate) peak_resident_mib: Option<f64>,
}

/// All copies of one contender.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The setting with the shortest time in the first round; the medians are of its runs.
    pub(crate) fastest: String,
    /// Of its seconds.
    pub(crate) median_seconds: f64,
    /// The same with statistics, of who gathers any.
    pub(crate) median_with_statistics_seconds: Option<f64>,
    /// Of its CPU seconds: source, target, replicator.
    pub(crate) median_cpu_seconds: [f64; 3],
    /// The highest of its peaks.
    pub(crate) peak_resident_mib_max: Option<f64>,
    /// By setting.
    pub(crate) runs: BTreeMap<String, Vec<OneRun>>,
}

/// (l).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ManyTablesReport {
    /// How many.
    pub(crate) tables: u64,
    /// Native, from `CREATE SUBSCRIPTION` until every table is ready, by setting.
    pub(crate) native: BTreeMap<String, OneRun>,
    /// pgsluice, with definitions in place as native has them.
    pub(crate) existing: Option<OneRun>,
    /// pgsluice, which makes the definitions within its time.
    pub(crate) copied: Option<OneRun>,
}

/// (m).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RetentionReport {
    /// The table with what is stored out of line.
    pub(crate) table_bytes: i64,
    /// What the way from the source carries.
    pub(crate) link_bytes_per_second: u64,
    /// Transactions a second of the writer.
    pub(crate) transactions_per_second: u64,
    /// pgsluice's `snapshot.chunk_bytes`.
    pub(crate) chunk_bytes: String,
    /// By name.
    pub(crate) contenders: BTreeMap<String, Held>,
}

impl Report {
    /// Where it is written.
    pub(crate) fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench/copy.json")
    }

    /// Of the last run.
    pub(crate) fn read() -> Outcome<Self> {
        let text =
            std::fs::read(Self::path()).map_err(|_| "there is no report yet: run `make bench-copy`")?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Writes it.
    pub(crate) fn write(&self) -> Outcome<()> {
        let path = Self::path();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, serde_json::to_string_pretty(self)?)?)
    }
}

impl Asked {
    /// Of the options.
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            rounds: options.rounds,
            scale_percent: options.scale_percent,
            authentication: match options.authentication {
                Authentication::Trust => "trust",
                Authentication::Scram => "scram",
            }
            .to_owned(),
            configuration: options.configuration.clone(),
        }
    }
}

impl Measured {
    /// One more copy, in a setting.
    pub(crate) fn add(&mut self, setting: String, run: OneRun) {
        self.runs.entry(setting).or_default().push(run);
        let first = |runs: &[OneRun]| runs.first().map_or(f64::INFINITY, |run| run.seconds);
        let fastest = self.runs.iter().min_by(|(_, a), (_, b)| first(a).total_cmp(&first(b)));
        let Some((setting, runs)) = fastest else { return };
        let middle = |value: fn(&OneRun) -> f64| median(&runs.iter().map(value).collect::<Vec<_>>());
        self.fastest.clone_from(setting);
        self.median_seconds = middle(|run| run.seconds);
        let with_statistics: Vec<f64> = runs.iter().filter_map(|run| run.with_statistics_seconds).collect();
        self.median_with_statistics_seconds = (!with_statistics.is_empty()).then(|| median(&with_statistics));
        self.median_cpu_seconds = [
            middle(|run| run.cpu.source_server),
            middle(|run| run.cpu.target_server),
            middle(|run| run.cpu.replicator),
        ];
        self.peak_resident_mib_max = runs.iter().filter_map(|run| run.peak_resident_mib).reduce(f64::max);
    }
}

impl CopyReport {
    /// Ratios of what was measured.
    pub(crate) fn new(
        (case, title): (CaseId, String),
        ground: &Ground,
        contenders: BTreeMap<String, Measured>,
    ) -> Self {
        let seconds = |name: &str| contenders.get(name).map(|measured| measured.median_seconds);
        let faster_than = |name: &str| Some(seconds(name)? / seconds(PGSLUICE)?);
        let ours = contenders.get(PGSLUICE).and_then(|measured| measured.median_with_statistics_seconds);
        let faster_with_statistics = |name: &str| Some(seconds(name)? / ours?);
        Self {
            case: case.letter().to_owned(),
            title,
            rows: ground.rows(),
            table_bytes: ground.table_bytes,
            index_bytes: ground.index_bytes,
            ratio_to_native: faster_than(NATIVE),
            ratio_to_native_with_statistics: faster_with_statistics(NATIVE),
            ratio_to_pgcopydb: faster_with_statistics(PGCOPYDB),
            ratio_to_baseline: faster_than(BASELINE),
            contenders,
        }
    }

    /// For whoever watches.
    pub(crate) fn print_ratios(&self) {
        let ratios = [
            ("to native", self.ratio_to_native),
            ("to native, our statistics included", self.ratio_to_native_with_statistics),
            ("to pgcopydb, statistics included", self.ratio_to_pgcopydb),
            ("to the other build", self.ratio_to_baseline),
        ];
        let known: Vec<String> = ratios
            .iter()
            .filter_map(|(name, ratio)| ratio.map(|ratio| format!("{name} {ratio:.2}")))
            .collect();
        println!("    ratios: {}", known.join(", "));
    }
}
