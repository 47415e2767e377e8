//! The report: every single value, the medians and what is promised; and the same as Markdown for `docs/performance.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::ground::Ground;
use super::options::Options;
use super::servers::Servers;
use super::statistics::median;

/// Names of contenders. Those of copies are known to the options.
pub(crate) const NATIVE: &str = "native";
pub(crate) const BASELINE: &str = "baseline";
/// `pgcopydb compare data`.
pub(crate) const PGCOPYDB: &str = "pgcopydb";
/// md5 over the text of every row.
pub(crate) const MD5: &str = "md5";
/// This build.
pub(crate) const PGSLUICE: &str = "pgsluice";

const BEGIN: &str = "<!-- verification figures: made by `make bench-verify-table` -->";
const END: &str = "<!-- verification figures end -->";
/// How many times as fast as pgcopydb it has to be, what it may cost the source, and its memory.
const TIMES_PGCOPYDB: f64 = 1.5;
const EFFECT_PERCENT_MAX: f64 = 5.0;
const MIB_MAX: f64 = 64.0;

/// A run of `make bench-verify`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    made_at: String,
    machine: BTreeMap<String, String>,
    servers: BTreeMap<String, String>,
    rounds: usize,
    scale_percent: u64,
    configuration: String,
    rows: i64,
    table_bytes: i64,
    /// (n)
    pub(crate) throughput: Option<ThroughputReport>,
    /// (o)
    pub(crate) effect: Option<EffectReport>,
}

/// Case (n).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ThroughputReport {
    pub(crate) rows: u64,
    pub(crate) table_bytes: i64,
    pub(crate) contenders: BTreeMap<String, Measured>,
    pub(crate) longest_snapshot_seconds: f64,
    pub(crate) peak_resident_mib: f64,
}

/// A contender's runs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) runs: Vec<OneRun>,
}

/// One comparison.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OneRun {
    pub(crate) seconds: f64,
    pub(crate) cpu_source: f64,
    pub(crate) cpu_target: f64,
}

/// Case (o): transactions a second of each window.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct EffectReport {
    pub(crate) clients: u32,
    pub(crate) window_seconds: u64,
    pub(crate) without: Vec<f64>,
    pub(crate) with: Vec<f64>,
    pub(crate) rows_compared_beside: u64,
    pub(crate) rows_looked_at_again: u64,
    pub(crate) longest_snapshot_seconds: f64,
}

impl Report {
    /// One without figures.
    pub(crate) async fn begun(servers: &Servers, options: &Options, ground: &Ground) -> Outcome<Self> {
        let mut machine = super::machine::facts()?;
        if options.includes(PGCOPYDB) {
            machine.insert(PGCOPYDB.to_owned(), super::throughput::pgcopydb_version().await?);
        }
        Ok(Self {
            made_at: jiff::Timestamp::now().to_string(),
            machine,
            servers: servers.facts().await?,
            rounds: options.rounds,
            scale_percent: options.scale_percent,
            configuration: options.configuration.clone(),
            rows: ground.rows(),
            table_bytes: ground.table_bytes,
            throughput: None,
            effect: None,
        })
    }

    /// Where it is kept.
    pub(crate) fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench/verify.json")
    }

    /// Keeps it.
    pub(crate) fn write(&self) -> Outcome<()> {
        let path = Self::path();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, serde_json::to_string_pretty(self)?)?)
    }
}

impl Measured {
    fn median_of(&self, value: impl Fn(&OneRun) -> f64) -> f64 {
        median(&self.runs.iter().map(value).collect::<Vec<_>>())
    }
}

/// Replaces the document's figures by those of the last report.
pub(crate) fn update_document() -> Outcome<()> {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let text = std::fs::read_to_string(&document)?;
    let report: Report = serde_json::from_str(&std::fs::read_to_string(Report::path())?)?;
    let no_place = "the document has no place for the figures of verification";
    let (before, rest) = text.split_once(BEGIN).ok_or(no_place)?;
    let (_, after) = rest.split_once(END).ok_or(no_place)?;
    std::fs::write(&document, format!("{before}{BEGIN}\n\n{}\n{END}{after}", of(&report)))?;
    println!("the figures of verification were put into {}", document.display());
    Ok(())
}

/// A report as Markdown.
pub(crate) fn of(report: &Report) -> String {
    let fact = |name: &str| report.machine.get(name).map_or("?", String::as_str);
    let scale = match report.scale_percent {
        100 => String::new(),
        percent => format!(" {percent} % of the sizes: no figures to quote."),
    };
    let mut text = format!(
        "{} cores of {}, revision `{}`, {}, {} rounds; {}.{scale}\n",
        fact("cores"),
        fact("processor"),
        fact("revision"),
        report.made_at.split('T').next().unwrap_or_default(),
        report.rounds,
        fact(PGCOPYDB),
    );
    if let Some(throughput) = &report.throughput {
        text.push_str(&throughput_table(throughput));
    }
    if let Some(effect) = &report.effect {
        text.push_str(&effect_text(effect));
    }
    text
}

fn throughput_table(report: &ThroughputReport) -> String {
    let megabytes = report.table_bytes as f64 / 1e6;
    let mut text = format!(
        "\n(n) {} rows, {megabytes:.0} MB of tables, compared with nothing else going on.\n\n\
         | who | time | rows/s | MB/s | pgsluice is × as fast | CPU s source | target |\n|---|---:|---:|---:|---:|---:|---:|\n",
        report.rows
    );
    let own = report.contenders.get(PGSLUICE).map(|measured| measured.median_of(|run| run.seconds));
    for (name, label) in
        [(PGCOPYDB, "`pgcopydb compare data`"), (MD5, "md5 of every row"), (PGSLUICE, "pgsluice")]
    {
        let Some(measured) = report.contenders.get(name) else { continue };
        let seconds = measured.median_of(|run| run.seconds);
        let ratio = match own {
            Some(own) if name != PGSLUICE => {
                let ratio = seconds / own;
                let missed = name == PGCOPYDB && ratio < TIMES_PGCOPYDB;
                format!("**{ratio:.2}**{}", if missed { " (missed: 1.5)" } else { "" })
            }
            _ => "–".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {label} | {seconds:.2} s | {:.0} | {:.0} | {ratio} | {:.1} | {:.1} |",
            report.rows as f64 / seconds,
            megabytes / seconds,
            measured.median_of(|run| run.cpu_source),
            measured.median_of(|run| run.cpu_target),
        );
    }
    let missed = if report.peak_resident_mib > MIB_MAX { " (missed: 64)" } else { "" };
    let _ = writeln!(
        text,
        "\nPeak memory of pgsluice, its copy included, {:.0} MiB{missed}; the longest pair of snapshots was held for {:.1} s.",
        report.peak_resident_mib, report.longest_snapshot_seconds
    );
    text
}

fn effect_text(report: &EffectReport) -> String {
    let (without, with) = (median(&report.without), median(&report.with));
    let percent = (1.0 - with / without) * 100.0;
    let missed = if percent > EFFECT_PERCENT_MAX { " (missed: 5 %)" } else { "" };
    format!(
        "\n(o) pgbench on the source, {} clients, {} windows of {} s each with and without a verification in its default configuration: \
         {without:.0} transactions a second without, {with:.0} with one: **{percent:.1} %** less{missed}. Every change was streamed to the \
         target meanwhile, on the same machine.\n",
        report.clients,
        report.with.len(),
        report.window_seconds,
    )
}
