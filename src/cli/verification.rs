//! A verification for a person: how it ended, what was compared, and every difference with what tells it. Pure: a record and the look
//! of the terminal in, text out.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount, HumanDuration};
use jiff::{SignedDuration, Timestamp};

use super::Exit;
use super::look::{Look, Paint};
use super::render::Table;
use crate::control::dto::{
    LeftOutRecord, ObjectDifferenceRecord, RowDifferenceRecord, StructureRecord, VerificationRecord,
    VerificationSummaryRecord,
};
use crate::model::counted;

/// Rows, tables and objects that are listed one by one; the rest is counted, and told by `--output json`.
const LISTED_MAX: usize = 100;
const INDENT: &str = "  ";

/// How the program ends when this is what it tells.
pub(super) fn exit_of(record: &VerificationRecord) -> Exit {
    let objects = record.structure.as_ref().map_or(0, |structure| structure.differences);
    match record.outcome.as_str() {
        _ if record.differences > 0 || objects > 0 => Exit::Blocker,
        "clean" => Exit::Success,
        "differences" => Exit::Blocker,
        _ => Exit::Failed,
    }
}

/// The report.
pub(super) fn report_text(record: &VerificationRecord, look: Look) -> String {
    let mut text = String::new();
    push_figures(&mut text, record, look);
    push_rows(&mut text, record, look);
    push_left_out(&mut text, "NOT REPAIRED", &record.not_repaired);
    push_left_out(&mut text, "NOT COMPARED", &record.left_out);
    if let Some(structure) = &record.structure {
        push_structure(&mut text, structure, look);
    }
    push_verdict(&mut text, record, look);
    text
}

fn push_figures(text: &mut String, record: &VerificationRecord, look: Look) {
    let heading = format!("verification {}: {}", record.number, record.outcome);
    let _ = writeln!(text, "{}", look.paint(paint_of(record), &heading));
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{INDENT}{label:<11} {value}");
    };
    line("compared", scope(record).to_owned());
    let took = record.ended_at.map(|ended| format!(", took {}", duration(between(record.started_at, ended))));
    line("started", format!("{}{}", record.started_at, took.unwrap_or_default()));
    if record.tables_total > 0 {
        line("tables", format!("{} of {}", record.tables_compared, record.tables_total));
        let again = match record.rows_looked_at_again {
            0 => String::new(),
            rows => format!("; {} were in flight and looked at again", HumanCount(rows)),
        };
        let size = BinaryBytes(record.bytes_compared);
        line("rows", format!("{}, {size} on the source{again}", HumanCount(record.rows_compared)));
    }
    if record.rows_repaired > 0 {
        let rows = counted(record.rows_repaired, "row", "rows");
        line("repaired", format!("{rows}, before they were compared"));
    }
    if let (Some(first), Some(last)) = (&record.first_lsn, &record.last_lsn) {
        line("positions", format!("{first} to {last} in the source's WAL"));
    }
    if record.snapshots > 0 {
        let pairs = counted(record.snapshots, "pair", "pairs");
        let longest = Duration::try_from_secs_f64(record.longest_snapshot_ms / 1_000.0).unwrap_or_default();
        line("snapshots", format!("{pairs}, held for at most {}", duration(longest)));
    }
    if let Some(structure) = &record.structure {
        line("structure", counted(structure.objects_compared, "object", "objects"));
    }
}

fn scope(record: &VerificationRecord) -> &'static str {
    use crate::control::dto::ScopeRecord;
    match (record.scope, record.direction == "back") {
        (ScopeRecord::Everything, false) => "rows and structure",
        (ScopeRecord::Rows, false) => "rows",
        (ScopeRecord::Structure, false) => "structure",
        (ScopeRecord::Everything, true) => {
            "rows and structure, on the way back: source and target are exchanged"
        }
        (ScopeRecord::Rows, true) => "rows, on the way back: source and target are exchanged",
        (ScopeRecord::Structure, true) => "structure, on the way back: source and target are exchanged",
    }
}

fn push_rows(text: &mut String, record: &VerificationRecord, look: Look) {
    if record.differences == 0 {
        return;
    }
    let at_least = if record.differences_at_least { "at least " } else { "" };
    let heading = format!("\nROWS that are not the same: {at_least}{}", HumanCount(record.differences));
    let _ = writeln!(text, "{}\n", look.paint(Paint::Blocker, &heading));
    let mut list = Table::new(&["table", "kind", "key", "columns"]);
    for row in record.rows.iter().take(LISTED_MAX) {
        list.row([harmless(&row.table), kind(row), key(row), harmless(&row.columns.join(", "))]);
    }
    text.push_str(&list.text());
    let listed: u64 = record.rows.iter().take(LISTED_MAX).map(|row| row.count).sum();
    if record.differences > listed {
        let more = HumanCount(record.differences - listed);
        let _ = writeln!(text, "and {more} more; --output json lists the first 1,000");
        let mut tables = Table::new(&["table", "rows that are not the same"]);
        for table in record.differing_tables.iter().take(LISTED_MAX) {
            tables.row([harmless(&table.table), HumanCount(table.differences).to_string()]);
        }
        let _ = write!(text, "\n{}", tables.text());
        push_more(text, record.differing_tables.len(), "tables");
    }
}

fn kind(row: &RowDifferenceRecord) -> String {
    match row.count {
        0 | 1 => row.kind.clone(),
        count => format!("{}, {count} times", row.kind),
    }
}

fn key(row: &RowDifferenceRecord) -> String {
    let columns = row.key.iter().map(|key| format!("{}={}", harmless(&key.column), harmless(&key.value)));
    columns.collect::<Vec<_>>().join(", ")
}

fn push_left_out(text: &mut String, heading: &str, tables: &[LeftOutRecord]) {
    if tables.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{heading}\n");
    let mut list = Table::new(&["table", "reason"]);
    for table in tables.iter().take(LISTED_MAX) {
        list.row([harmless(&table.table), harmless(&table.reason)]);
    }
    text.push_str(&list.text());
    push_more(text, tables.len(), "tables");
}

fn push_structure(text: &mut String, structure: &StructureRecord, look: Look) {
    let (notes, differences): (Vec<_>, Vec<_>) = structure.objects.iter().partition(|object| object.note);
    if structure.differences > 0 {
        let heading = format!("\nSTRUCTURE that is not the same: {}", HumanCount(structure.differences));
        let _ = writeln!(text, "{}\n", look.paint(Paint::Blocker, &heading));
        push_objects(text, &differences, look);
        let listed = differences.len().min(LISTED_MAX) as u64;
        if structure.differences > listed {
            let more = HumanCount(structure.differences - listed);
            let _ = writeln!(text, "and {more} more; --output json lists the first 1,000");
        }
    }
    if !structure.not_compared.is_empty() {
        let _ = writeln!(text, "\nNOT COMPARED of the structure\n");
        for sentence in &structure.not_compared {
            for piece in look.wrapped(&harmless(sentence), INDENT.len()) {
                let _ = writeln!(text, "{INDENT}{piece}");
            }
        }
    }
    if !notes.is_empty() {
        let _ = writeln!(text, "{}\n", look.paint(Paint::Heading, "\nNOTES on the structure"));
        push_objects(text, &notes, look);
        push_more(text, notes.len(), "notes");
    }
}

/// What is to be pasted into psql on the target stands at the left edge, whole.
fn push_objects(text: &mut String, objects: &[&ObjectDifferenceRecord], look: Look) {
    for object in objects.iter().take(LISTED_MAX) {
        for piece in look.wrapped(&harmless(&object.what), INDENT.len()) {
            let _ = writeln!(text, "{INDENT}{piece}");
        }
        if let Some(fix) = &object.fix {
            let _ = writeln!(text, "\n{}\n", look.paint(Paint::Pasted, harmless(fix).trim_end()));
        }
    }
}

fn push_more(text: &mut String, number: usize, what: &str) {
    if let Some(more) = number.checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more {what}: --output json lists them");
    }
}

/// What it means, and what to do.
fn push_verdict(text: &mut String, record: &VerificationRecord, look: Look) {
    let objects = record.structure.as_ref().map_or(0, |structure| structure.differences);
    let (meaning, remedy) = match record.outcome.as_str() {
        "running" => (
            "It runs: what is told is what was found so far.".to_owned(),
            Some("`pgsluice status --watch` shows how far it is; `pgsluice verify --stop` ends it."),
        ),
        _ if record.differences > 0 => (
            "The target does not hold what the source holds: do not cut over.".to_owned(),
            Some(
                "Find out first what has written to the target (docs/runbook.md, \"Verification\"); then bring these rows into line and \
                 verify again.",
            ),
        ),
        "clean" | "differences" if objects > 0 => (
            match record.tables_total {
                0 => "The structure of the two sides is not the same.".to_owned(),
                _ => "Every row is the same on both sides. Their structure is not.".to_owned(),
            },
            Some(
                "Read each statement, and run it on the target where you want it to be as on the source; then verify again.",
            ),
        ),
        "clean" if record.tables_total == 0 => ("The structure of both sides is the same.".to_owned(), None),
        "clean" => (
            format!("Every one of {} rows is the same on both sides.", HumanCount(record.rows_compared)),
            None,
        ),
        _ => (
            format!(
                "Not everything could be compared: {}.{}",
                record.reason.as_deref().unwrap_or("the reason is not known").trim_end_matches('.'),
                if record.rows_compared > 0 { " What was compared is the same." } else { "" },
            ),
            record.remedy.as_deref(),
        ),
    };
    let gap = if text.ends_with("\n\n") { "" } else { "\n" };
    let _ = writeln!(text, "{gap}{}", look.paint(paint_of(record), &harmless(&meaning)));
    if let Some(remedy) = remedy {
        for piece in look.wrapped(&format!("Remedy: {remedy}"), 0) {
            let _ = writeln!(text, "{piece}");
        }
    }
}

fn paint_of(record: &VerificationRecord) -> Paint {
    match (exit_of(record), record.outcome.as_str()) {
        (Exit::Success, _) => Paint::Good,
        (Exit::Blocker, _) => Paint::Blocker,
        (_, "running") => Paint::Heading,
        _ => Paint::Warning,
    }
}

/// How far a verification is, in a line.
pub(super) fn progress_text(record: &VerificationRecord) -> String {
    running_text(&Progress {
        tables: (record.tables_compared, record.tables_total),
        bytes: (record.bytes_compared, record.bytes_total),
        rows: record.rows_compared,
        differences: record.differences,
    })
}

/// The current or last verification, in a line of the status.
pub(super) fn summary_text(summary: &VerificationSummaryRecord, now: Timestamp) -> String {
    let Some(ended_at) = summary.ended_at else {
        let progress = Progress {
            tables: (summary.tables_compared, summary.tables_total),
            bytes: (summary.bytes_compared, summary.bytes_total),
            rows: summary.rows_compared,
            differences: summary.differences,
        };
        return format!("verifying   {}\n", running_text(&progress));
    };
    let ago = between(ended_at, now);
    let ago = match ago.as_secs() {
        0..=59 => "just now".to_owned(),
        _ => format!("{} ago", HumanDuration(ago)),
    };
    let rows = || format!("{} rows", HumanCount(summary.rows_compared));
    let found = match summary.outcome.as_str() {
        "differences" if summary.differences > 0 => {
            format!("{} of {} DIFFER", HumanCount(summary.differences), rows())
        }
        "incomplete" => {
            format!("INCOMPLETE, {}", summary.reason.as_deref().unwrap_or("the reason is not known"))
        }
        "differences" => "structure alone".to_owned(),
        outcome if summary.tables_total == 0 => format!("{outcome}, structure alone"),
        outcome => format!("{outcome}, {}", rows()),
    };
    let structure = match summary.structural_differences {
        None | Some(0) => String::new(),
        Some(objects) => {
            format!("; {} of the structure", counted(objects, "difference", "differences"))
        }
    };
    let hint =
        if summary.differences > 0 || !structure.is_empty() { " (`pgsluice verify --show`)" } else { "" };
    format!("verified    {ago}: {}{structure}{hint}\n", harmless(&found))
}

struct Progress {
    tables: (u64, u64),
    bytes: (u64, u64),
    rows: u64,
    differences: u64,
}

fn running_text(Progress { tables, bytes, rows, differences }: &Progress) -> String {
    if tables.1 == 0 {
        return "begins, or compares the structure".to_owned();
    }
    let percent = u128::from(bytes.0) * 100 / u128::from(bytes.1.max(1));
    let found = match differences {
        0 => "no row differs".to_owned(),
        differences => format!("{} DIFFER", HumanCount(*differences)),
    };
    format!(
        "{} % of {}, {} of {} tables, {} rows; {found} so far",
        percent.min(100),
        BinaryBytes(bytes.1),
        tables.0,
        tables.1,
        HumanCount(*rows)
    )
}

fn duration(duration: Duration) -> String {
    match duration.as_millis() {
        0..1_000 => format!("{} ms", duration.as_millis()),
        1_000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        _ => HumanDuration(duration).to_string(),
    }
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from).max(SignedDuration::ZERO)).unwrap_or_default()
}

/// Names and keys come from a database: what would steer a terminal is shown as what it is. Line breaks stay.
fn harmless(text: &str) -> String {
    let steers = |letter: char| letter.is_control() && letter != '\n';
    if !text.contains(steers) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len()), |mut shown, letter| {
        match steers(letter) {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
        shown
    })
}

#[cfg(test)]
#[path = "verification_tests.rs"]
mod tests;
