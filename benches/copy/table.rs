//! The report as Markdown, for people and, between two marks, for `docs/performance.md`.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::Outcome;
use super::held::Held;
use super::report::{
    BASELINE, CopyReport, ManyTablesReport, NATIVE, OneRun, PGCOPYDB, PGSLUICE, Report, RetentionReport,
};

const BEGIN: &str = "<!-- copy figures: made by `make bench-copy-table` -->";
const END: &str = "<!-- copy figures end -->";
/// How much longer than native pgsluice may take with thousands of tables, and with how much memory.
const MANY_TABLES_SECONDS_MORE: f64 = 10.0;
const MANY_TABLES_MIB_MAX: f64 = 128.0;

/// Replaces the document's figures by those of the last report.
pub(crate) fn update_document() -> Outcome<()> {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let text = std::fs::read_to_string(&document)?;
    let figures = of(&Report::read()?);
    let no_place = "the document has no place for the figures of the copy";
    let (before, rest) = text.split_once(BEGIN).ok_or(no_place)?;
    let (_, after) = rest.split_once(END).ok_or(no_place)?;
    std::fs::write(&document, format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))?;
    println!("the figures of the copy were put into {}", document.display());
    Ok(())
}

/// One report.
pub(crate) fn of(report: &Report) -> String {
    let fact = |name: &str| report.machine.get(name).map_or("?", String::as_str);
    let scale = match report.asked.scale_percent {
        100 => String::new(),
        percent => format!(" {percent} % of the sizes: no figures to quote."),
    };
    let mut text = format!(
        "{} cores of {}, revision `{}`, {}, {} rounds, authentication `{}`{}.{scale}\n",
        fact("cores"),
        fact("processor"),
        fact("revision"),
        report.made_at.split('T').next().unwrap_or_default(),
        report.asked.rounds,
        report.asked.authentication,
        report.machine.get("pgcopydb").map_or_else(String::new, |version| format!("; {version}")),
    );
    let configuration = report.asked.configuration.trim();
    if !configuration.is_empty() {
        let _ = writeln!(text, "\npgsluice with `{}`.", configuration.replace('\n', "; "));
    }
    for copy in &report.copies {
        text.push_str(&copy_table(copy));
    }
    if let Some(many_tables) = &report.many_tables {
        text.push_str(&many_tables_table(many_tables));
    }
    if let Some(retention) = &report.retention {
        text.push_str(&retention_table(retention));
    }
    text
}

fn copy_table(copy: &CopyReport) -> String {
    let mut text = format!(
        "\n({}) {}: {} rows, {:.0} MB of tables, {:.0} MB of indexes.\n\n\
         | who | best setting | time | with statistics | × native | × pgcopydb | CPU s source | target | replicator | peak MiB |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        copy.case,
        copy.title,
        copy.rows,
        copy.table_bytes as f64 / 1e6,
        copy.index_bytes as f64 / 1e6
    );
    let seconds = |name: &str| copy.contenders.get(name).map(|measured| measured.median_seconds);
    for name in [NATIVE, PGCOPYDB, PGSLUICE, BASELINE] {
        let Some(measured) = copy.contenders.get(name) else { continue };
        let faster_than = |other: &str| {
            // pgcopydb's time has statistics in it.
            let with_statistics = measured.median_with_statistics_seconds.filter(|_| other == PGCOPYDB);
            let own = with_statistics.unwrap_or(measured.median_seconds);
            cell(seconds(other).filter(|_| name != other).map(|other| other / own), 2, "")
        };
        let [source, target, replicator] = measured.median_cpu_seconds;
        let _ = writeln!(
            text,
            "| {name} | {} | {:.2} s | {} | {} | {} | {source:.2} | {target:.2} | {replicator:.2} | {} |",
            measured.fastest,
            measured.median_seconds,
            if name == PGCOPYDB {
                "yes".to_owned()
            } else {
                cell(measured.median_with_statistics_seconds, 2, " s")
            },
            faster_than(NATIVE),
            faster_than(PGCOPYDB),
            cell(measured.peak_resident_mib_max, 0, ""),
        );
    }
    let others: Vec<String> = copy
        .contenders
        .iter()
        .flat_map(|(name, measured)| {
            let slower = measured.runs.iter().filter(|(setting, _)| **setting != measured.fastest);
            slower.filter_map(move |(setting, runs)| {
                Some(format!("{name} with {setting} {:.2} s", runs.first()?.seconds))
            })
        })
        .collect();
    if !others.is_empty() {
        let _ = writeln!(text, "\nIn the first round: {}.", others.join(", "));
    }
    if let Some(ratio) = copy.ratio_to_native_with_statistics {
        let _ = writeln!(
            text,
            "\nWith its statistics, which native does not make, pgsluice is {ratio:.2} times as fast as native."
        );
    }
    text
}

fn many_tables_table(many: &ManyTablesReport) -> String {
    let mut text = format!(
        "\n(l) {} tables of ten rows, each with a primary key and one more index.\n\n\
         | who | definitions | time | CPU s source | target | replicator | peak MiB |\n|---|---|---:|---:|---:|---:|---:|\n",
        many.tables
    );
    let mut row = |who: &str, definitions: &str, run: &OneRun| {
        let _ = writeln!(
            text,
            "| {who} | {definitions} | {:.2} s | {:.2} | {:.2} | {:.2} | {} |",
            run.seconds,
            run.cpu.source_server,
            run.cpu.target_server,
            run.cpu.replicator,
            cell(run.peak_resident_mib, 0, "")
        );
    };
    for (setting, run) in &many.native {
        row(&format!("{NATIVE}, {setting}"), "in place", run);
    }
    for (definitions, run) in [("in place", &many.existing), ("made within the time", &many.copied)] {
        if let Some(run) = run {
            row(PGSLUICE, definitions, run);
        }
    }
    let native = many.native.values().map(|run| run.seconds).reduce(f64::min);
    if let Some((native, ours)) = native.zip(many.existing.as_ref()) {
        let more = ours.seconds - native;
        let _ = writeln!(
            text,
            "\nWith definitions in place pgsluice takes {} than native ({}), with at most {:.0} MiB ({}).",
            if more > 0.0 { format!("{more:.1} s more") } else { format!("{:.1} s less", -more) },
            floor(more <= MANY_TABLES_SECONDS_MORE, &format!("{MANY_TABLES_SECONDS_MORE:.0} s more")),
            ours.peak_resident_mib.unwrap_or(f64::NAN),
            floor(
                ours.peak_resident_mib.is_some_and(|mib| mib <= MANY_TABLES_MIB_MAX),
                &format!("{MANY_TABLES_MIB_MAX:.0} MiB")
            ),
        );
    }
    text
}

fn floor(is_reached: bool, allowed: &str) -> String {
    if is_reached {
        format!("{allowed} are allowed")
    } else {
        format!("**not reached**: {allowed} are allowed")
    }
}

fn retention_table(retention: &RetentionReport) -> String {
    let mut text = format!(
        "\n(m) A table of {:.0} MB over a way of {:.0} MiB/s, chunks of {}, {} transactions/s meanwhile: the most that the source had to keep.\n\n\
         | who | copy took | WAL kept | of WAL written | oldest snapshot, transactions | of transactions begun | oldest snapshot, s | kept by one session |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
        retention.table_bytes as f64 / 1e6,
        retention.link_bytes_per_second as f64 / f64::from(1 << 20),
        retention.chunk_bytes,
        retention.transactions_per_second,
    );
    for name in [NATIVE, PGSLUICE] {
        let Some(held) = retention.contenders.get(name) else { continue };
        let _ = writeln!(
            text,
            "| {name} | {:.1} s | {:.1} MB | {:.1} MB | {} | {} | {:.1} s | {:.1} s |",
            held.copy_seconds,
            held.wal_bytes_max as f64 / 1e6,
            held.wal_bytes_written as f64 / 1e6,
            held.snapshot_transactions_max,
            held.transactions_written,
            held.snapshot_seconds_max,
            held.session_seconds_max,
        );
    }
    if let Some(chunks) = retention.contenders.get(PGSLUICE).map(chunks_of) {
        let _ = writeln!(text, "\n{chunks}");
    }
    text
}

fn chunks_of(held: &Held) -> String {
    let chunks = held.chunks.map_or_else(|| "–".to_owned(), |chunks| chunks.to_string());
    match held.longest_chunk_seconds {
        Some(seconds) => {
            format!("pgsluice copied the table in {chunks} chunks; the longest took {seconds:.1} s.")
        }
        None => {
            format!("pgsluice copied the table in {chunks} chunks, and did not record how long each took.")
        }
    }
}

fn cell(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}{unit}"))
}
