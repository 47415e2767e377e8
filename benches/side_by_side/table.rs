//! Reports as Markdown: tables for `docs/performance.md`, between two marks in it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Outcome;
use super::report::{
    BASELINE, BULK_LIMIT, CaseReport, Measured, NATIVE, NATIVE_BINARY, NOTHING, PGSLUICE, Report,
    STREAM_LIMIT, SteadyReport, directory,
};
use super::statistics::median;

const BEGIN: &str = "<!-- figures: made by `make bench-table` -->";
const END: &str = "<!-- figures end -->";

/// Replaces the document's figures by those of every report there is: plain, with TLS, with delay.
pub(crate) fn update_document() -> Outcome<()> {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let text = std::fs::read_to_string(&document)?;
    let mut reports: Vec<PathBuf> = std::fs::read_dir(directory())
        .map_err(|_| "there is no report yet: run `make bench`")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_a_report(path))
        .collect();
    // report.json, report-delay-5ms.json, report-tls.json
    reports.sort_by_key(|path| (path.file_stem().map(std::ffi::OsStr::len), path.clone()));
    let mut figures = String::new();
    for path in &reports {
        let report: Report = serde_json::from_slice(&std::fs::read(path)?)?;
        writeln!(figures, "\n{}", of(&report))?;
    }
    std::fs::write(&document, with_figures(&text, &figures).ok_or("the document has no place for figures")?)?;
    println!("{} report(s) put into {}", reports.len(), document.display());
    Ok(())
}

/// Other benches write there as well.
fn is_a_report(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("report") && name.ends_with(".json")
}

/// A text with what stands between the marks replaced.
fn with_figures(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{figures}\n{END}{after}"))
}

/// One report.
pub(crate) fn of(report: &Report) -> String {
    let mut text = format!("### {}\n\n", heading(report));
    let fact = |name: &str| report.machine.get(name).map_or("?", String::as_str);
    let _ = writeln!(
        text,
        "{} cores of {}, revision `{}`, {}, {} rounds.\n",
        fact("cores"),
        fact("processor"),
        fact("revision"),
        report.made_at.split('T').next().unwrap_or_default(),
        report.asked.rounds
    );
    if !report.asked.configuration.is_empty() {
        let _ =
            writeln!(text, "pgsluice with `{}`.\n", report.asked.configuration.trim().replace('\n', "; "));
    }
    if !report.cases.is_empty() {
        text.push_str(
            "| case | native | pgsluice | × native | × stream limit | × bulk limit | CPU s native | CPU s pgsluice | peak MiB |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for case in &report.cases {
            text.push_str(&row(case));
        }
        for case in &report.cases {
            text.push_str(&beside(case));
        }
    }
    if let Some(steady) = &report.steady_state {
        text.push_str(&steady_table(steady));
    }
    text
}

fn heading(report: &Report) -> String {
    let tls = if report.asked.tls == "on" { ", TLS" } else { "" };
    let delay = match report.asked.delay_ms_each_way {
        0 => String::new(),
        ms => format!(", {ms} ms of delay each way"),
    };
    let scale = match report.asked.scale_percent {
        100 => String::new(),
        percent => format!(", {percent} % of the sizes: no figures to quote"),
    };
    format!("Over TCP on one machine{tls}{delay}{scale}")
}

fn row(case: &CaseReport) -> String {
    let native = case.contenders.get(NATIVE);
    let ours = case.contenders.get(PGSLUICE);
    let seconds = |measured: Option<&Measured>| cell(measured.map(|measured| measured.median_seconds), " s");
    let cpu = |measured: Option<&Measured>| cell(measured.map(|measured| measured.median_cpu_seconds), "");
    format!(
        "| ({}) {} | {} | {} | **{}** | {} | {} | {} | {} | {} |\n",
        case.case,
        case.title,
        seconds(native),
        seconds(ours),
        cell(case.ratio_to_native, ""),
        cell(case.ratio_to_stream_limit, ""),
        cell(case.ratio_to_bulk_limit, ""),
        cpu(native),
        cpu(ours),
        ours.and_then(|ours| ours.peak_resident_mib_max)
            .map_or_else(|| "–".to_owned(), |mib| format!("{mib:.0}")),
    )
}

/// What the table has no column for.
fn beside(case: &CaseReport) -> String {
    let mut text = String::new();
    let others = [
        (NATIVE_BINARY, "native with `binary = true`", &case.contenders),
        (BASELINE, "the other build", &case.contenders),
        (STREAM_LIMIT, "an idle reader of the stream", &case.limits),
        (BULK_LIMIT, "one bulk read", &case.limits),
    ];
    let known: Vec<String> = others
        .iter()
        .filter_map(|(name, what, measured)| Some((what, measured.get(*name)?)))
        .map(|(what, measured)| format!("{what} {:.2} s", measured.median_seconds))
        .collect();
    if !known.is_empty() {
        let _ = write!(
            text,
            "\n({}) {:.0} MB of WAL; {}.\n",
            case.case,
            case.wal_bytes as f64 / 1e6,
            known.join(", ")
        );
    }
    text
}

fn steady_table(steady: &SteadyReport) -> String {
    let mut text = format!(
        "\n(h) Latency at {} transactions/s, looked at every {:.1} ms; source throughput at full speed.\n\n\
         | attached | p50 | p95 | p99 | CPU s per second | source transactions/s | drained after |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
        steady.transactions_per_second, steady.poll_interval_ms_median
    );
    for name in [NOTHING, NATIVE, PGSLUICE, BASELINE] {
        let Some(measured) = steady.contenders.get(name) else { continue };
        let middle = |values: &Vec<f64>| (!values.is_empty()).then(|| median(values));
        let cpu: Vec<f64> = measured.cpu_per_second.iter().map(|cpu| cpu.total).collect();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} |",
            cell(middle(&measured.latency_ms_p50), " ms"),
            cell(middle(&measured.latency_ms_p95), " ms"),
            cell(middle(&measured.latency_ms_p99), " ms"),
            cell(middle(&cpu), ""),
            middle(&measured.source_transactions_per_second)
                .map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}")),
            cell(middle(&measured.drain_seconds), " s"),
        );
    }
    text
}

fn cell(value: Option<f64>, unit: &str) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}{unit}"))
}
