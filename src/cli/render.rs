//! Results as text for a person: tables, the status, a cutover with its steps. Pure: values in, text out.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount, HumanDuration};
use jiff::Timestamp;

use super::verification::summary_text;
use crate::control::dto::{
    ClusterRecord, CopyRecord, CutoverRecord, StandbysRecord, StatusRecord, StepRecord, TableRecord,
    TableStandingRecord, TablesRecord,
};
use crate::model::Direction;

/// Tables listed in the status; the rest is summed up.
const TABLES_SHOWN_MAX: usize = 20;

/// Columns of text, each as wide as its widest cell.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a heading for each column.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row; line breaks in cells become spaces.
    pub fn row<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.into_iter().map(|cell| cell.replace(['\n', '\r'], " ")).collect());
    }

    /// The text, ending in a line break. Trailing spaces are cut off.
    #[must_use]
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, column_width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', column_width - width(cell) + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

fn push_indented(text: &mut String, paragraph: &str) {
    for line in paragraph.lines() {
        let _ = writeln!(text, "         {line}");
    }
}

/// The status of a running instance, as it is read at this time.
#[must_use]
pub fn status_text(status: &StatusRecord, now: Timestamp) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "phase       {} since {}", status.phase.replace('_', " "), status.phase_since);
    if let (Some(bytes), Some(seconds)) = (status.lag.bytes, status.lag.seconds) {
        let _ = writeln!(text, "lag         {} / {seconds:.1} s", BinaryBytes(bytes));
    }
    let known = |position: &Option<String>| position.clone().unwrap_or_else(|| "unknown".to_owned());
    if status.positions.received.is_some() || status.positions.source.is_some() {
        let _ = writeln!(
            text,
            "positions   source {}  received {}  applied {}  durable {}",
            known(&status.positions.source),
            known(&status.positions.received),
            known(&status.positions.applied),
            known(&status.positions.durable),
        );
    }
    let throughput = status.throughput;
    if throughput.transactions_total > 0 {
        let _ = writeln!(
            text,
            "applied     {} transactions, {} rows; now {:.0} tx/s, {:.0} rows/s",
            HumanCount(throughput.transactions_total),
            HumanCount(throughput.rows_total),
            throughput.transactions_per_second,
            throughput.rows_per_second,
        );
    }
    if let Some(bytes) = status.slot_retained_wal_bytes {
        let _ = writeln!(text, "slot keeps  {} of WAL on the source", BinaryBytes(bytes));
    }
    if let Some(cluster) = &status.cluster {
        push_cluster(&mut text, cluster);
    }
    push_standbys(&mut text, status.standbys.as_ref());
    push_copy(&mut text, &status.copy);
    push_tables(&mut text, &status.tables);
    push_outside(&mut text, &status.tables_outside);
    for finding in status.findings.iter().filter(|finding| finding.severity != "info") {
        let _ = writeln!(
            text,
            "{:<11} {} {}: {}",
            finding.severity, finding.id, finding.subject, finding.finding
        );
    }
    if let Some(verification) = &status.verification {
        text.push_str(&summary_text(verification, now));
    }
    if let Some(cutover) = &status.cutover {
        text.push_str(&cutover_text(cutover));
    }
    if let Some(problem) = &status.problem {
        let _ = writeln!(text, "problem     {} ({}, {})", problem.message, problem.blocking, problem.at);
        let _ = writeln!(text, "remedy      {}", problem.remedy);
    }
    text
}

fn push_cluster(text: &mut String, cluster: &ClusterRecord) {
    if cluster.seen_at.is_some() {
        let known = |value: &Option<u32>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let _ = writeln!(
            text,
            "cluster     {}: {}; primary {}, timeline {}, {} of {} instances ready, {}",
            cluster.name,
            cluster.phase.as_deref().unwrap_or("no phase"),
            cluster.current_primary.as_deref().unwrap_or("not known"),
            known(&cluster.timeline),
            known(&cluster.ready_instances),
            known(&cluster.instances),
            match cluster.has_backup {
                Some(true) => "has a backup",
                Some(false) => "no backup yet",
                None => "backups not looked for",
            },
        );
    }
    if let Some(how) = &cluster.changing {
        let _ = writeln!(text, "            {how}");
    }
    if let Some(problem) = &cluster.problem {
        let _ = writeln!(text, "cluster     cannot be looked at: {problem}");
        let _ = writeln!(text, "remedy      {}", cluster.remedy.as_deref().unwrap_or_default());
    }
}

/// A target without standbys, and without the wish for any, has no line.
fn push_standbys(text: &mut String, standbys: Option<&StandbysRecord>) {
    let Some(StandbysRecord { wanted, connected, lag_bytes }) = standbys else { return };
    if *wanted == 0 && connected.is_none_or(|connected| connected == 0) {
        return;
    }
    let connected = connected.map_or_else(|| "an unknown number".to_owned(), |count| count.to_string());
    let behind =
        lag_bytes.map(|bytes| format!(", the last {} behind", BinaryBytes(bytes))).unwrap_or_default();
    let _ = writeln!(text, "standbys    {connected} of the target connected, {wanted} wanted{behind}");
}

/// The copy of all tables, and the indexes: a line each.
fn push_copy(text: &mut String, copy: &CopyRecord) {
    if copy.tables == 0 {
        return;
    }
    let _ = write!(
        text,
        "copy        {} of {} tables, {} rows, {} of about {}",
        copy.joined,
        copy.tables,
        HumanCount(copy.rows_copied),
        BinaryBytes(copy.bytes_copied),
        BinaryBytes(copy.bytes_estimated),
    );
    if copy.bytes_per_second > 0.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate in whole bytes")]
        let rate = copy.bytes_per_second as u64;
        let _ = write!(text, ", {}/s", BinaryBytes(rate));
    }
    if let Some(seconds) = copy.eta_seconds {
        let _ = write!(text, ", about {} left", HumanDuration(Duration::from_secs(seconds)));
    }
    text.push('\n');
    if copy.bytes_repeated > 0 {
        let repeated = BinaryBytes(copy.bytes_repeated);
        let _ = writeln!(text, "            {repeated} copied again, because a chunk was interrupted");
    }
    if copy.indexes_total > 0 {
        let _ = writeln!(text, "indexes     {} of {} built", copy.indexes_built, copy.indexes_total);
    }
}

fn push_tables(text: &mut String, tables: &[TableRecord]) {
    let mut unfinished: Vec<&TableRecord> = tables.iter().filter(|table| table.state != "joined").collect();
    if unfinished.is_empty() {
        return;
    }
    unfinished
        .sort_by(|a, b| b.bytes_copied.cmp(&a.bytes_copied).then(b.bytes_estimated.cmp(&a.bytes_estimated)));
    let mut table = Table::new(&["table", "state", "rows", "about", "bytes", "about"]);
    for progress in unfinished.iter().take(TABLES_SHOWN_MAX) {
        table.row([
            format!("{}.{}", progress.schema, progress.name),
            progress.state.clone(),
            HumanCount(progress.rows_copied).to_string(),
            HumanCount(progress.rows_estimated).to_string(),
            BinaryBytes(progress.bytes_copied).to_string(),
            BinaryBytes(progress.bytes_estimated).to_string(),
        ]);
    }
    text.push_str(&table.text());
    if let Some(hidden) = unfinished.len().checked_sub(TABLES_SHOWN_MAX).filter(|hidden| *hidden > 0) {
        let _ = writeln!(text, "and {hidden} more");
    }
}

/// Tables that are not (wholly) in the migration, each with what to do.
fn push_outside(text: &mut String, tables: &[TableStandingRecord]) {
    for table in tables.iter().take(TABLES_SHOWN_MAX) {
        let _ = writeln!(text, "outside     {}", progress_line(table).trim_end());
        if let Some(remedy) = &table.remedy {
            let _ = writeln!(text, "remedy      {remedy}");
        }
    }
    if let Some(hidden) = tables.len().checked_sub(TABLES_SHOWN_MAX).filter(|hidden| *hidden > 0) {
        let _ = writeln!(text, "and {hidden} more outside: `pgsluice tables`");
    }
}

/// One table in one line: where it stands and why.
pub(super) fn progress_line(table: &TableStandingRecord) -> String {
    let rows = match (table.state.as_str(), table.rows_copied) {
        ("joining", Some(rows)) => format!(", {} rows", HumanCount(rows)),
        _ => String::new(),
    };
    let explanation = table.explanation.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
    format!("{} {}{rows}{explanation}\n", table.plain(), table.state)
}

/// Every table, and below the list what to do for those that are not done.
#[must_use]
pub fn tables_text(tables: &TablesRecord) -> String {
    let mut list = Table::new(&["table", "state", "rows copied", "reason"]);
    for table in &tables.tables {
        list.row([
            table.plain(),
            table.state.clone(),
            table.rows_copied.map(|rows| HumanCount(rows).to_string()).unwrap_or_default(),
            table.reason.as_deref().unwrap_or_default().replace('_', " "),
        ]);
    }
    let mut text = list.text();
    for table in tables.tables.iter().filter(|table| table.reason.is_some()) {
        let _ = writeln!(text, "\n{}", table.plain());
        push_indented(&mut text, table.explanation.as_deref().unwrap_or_default());
        push_indented(&mut text, &format!("Remedy: {}", table.remedy.as_deref().unwrap_or_default()));
    }
    text
}

/// A cutover or rehearsal with its steps, and how it ended.
#[must_use]
pub fn cutover_text(cutover: &CutoverRecord) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<11} {}: {} ({}), started {}",
        cutover.mode.as_str(),
        cutover.epoch,
        cutover.outcome.replace('_', " "),
        cutover.state.replace('_', " "),
        cutover.started_at,
    );
    for step in &cutover.steps {
        text.push_str(&step_line(step));
    }
    text.push_str(&ending(cutover));
    text
}

/// One step on a line of its own.
pub(super) fn step_line(step: &StepRecord) -> String {
    let share = match (step.in_pause, step.share_of_pause) {
        (true, Some(share)) => format!("  {:.0} % of the pause", share * 100.0),
        (true, None) => "  in the pause".to_owned(),
        (false, _) => String::new(),
    };
    let detail = step.detail.as_deref().map(|detail| format!("  {detail}")).unwrap_or_default();
    let line =
        format!("  {:<24} {:>10.1} ms  {:<7}{share}{detail}", step.name, step.duration_ms, step.outcome);
    format!("{}\n", line.trim_end())
}

/// How the operation ended and what that means; empty while it runs.
pub(super) fn ending(cutover: &CutoverRecord) -> String {
    let mut text = String::new();
    let pause = cutover.pause_ms.map(|pause| format!("Writers waited {pause:.1} ms.")).unwrap_or_default();
    let meaning = match (cutover.outcome.as_str(), cutover.mode.as_str()) {
        ("completed", "rollback") => "Completed: the source is the primary again.",
        ("aborted", "rollback") => "Aborted: the target is the primary, as before.",
        ("completed" | "aborted", "rehearsal") if cutover.direction == Direction::Back.as_str() => {
            "The rollback was rehearsed only: the target is the primary, as before."
        }
        ("completed", "rehearsal") => "Rehearsed: the source is as before, and this is the forecast.",
        ("completed", _) => "Completed: the target is the primary now.",
        ("aborted", _) => "Aborted: the source is the primary, as before.",
        ("in_doubt", _) => "In doubt: neither side takes writes until the source has answered.",
        _ => return text,
    };
    let _ = writeln!(text, "{}", format!("{meaning} {pause}").trim_end());
    if let Some(reason) = &cutover.reason {
        let _ = writeln!(text, "Reason: {reason}");
    }
    if let Some(remedy) = &cutover.remedy {
        let _ = writeln!(text, "Remedy: {remedy}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::dto::CutoverModeRecord;

    #[test]
    fn columns_line_up_and_cells_stay_on_their_line() {
        let mut table = Table::new(&["name", "x"]);
        table.row(["two\nlines".into(), "1".into()]);
        table.row(["é".into(), "22".into()]);
        assert_eq!(table.text(), "name       x\ntwo lines  1\né          22\n");
    }

    #[test]
    fn the_copy_is_summed_up_with_its_rate_and_what_is_left() {
        let mut copy = CopyRecord {
            tables: 10_000,
            joined: 12,
            rows_copied: 3_000_000,
            bytes_copied: 1 << 30,
            bytes_estimated: 3 << 30,
            bytes_per_second: 10_485_760.4,
            eta_seconds: Some(205),
            ..CopyRecord::default()
        };
        let said = |copy: &CopyRecord| {
            let mut text = String::new();
            push_copy(&mut text, copy);
            text
        };
        let begin = "copy        12 of 10000 tables, 3,000,000 rows, 1.00 GiB of about 3.00 GiB";
        assert_eq!(said(&copy), format!("{begin}, 10.00 MiB/s, about 3 minutes left\n"));
        copy = CopyRecord {
            bytes_per_second: 0.0,
            eta_seconds: None,
            bytes_repeated: 2048,
            indexes_built: 3,
            indexes_total: 10,
            ..copy
        };
        let repeated = "            2.00 KiB copied again, because a chunk was interrupted";
        assert_eq!(said(&copy), format!("{begin}\n{repeated}\nindexes     3 of 10 built\n"));
        assert_eq!(said(&CopyRecord::default()), "");
    }

    #[test]
    fn an_aborted_cutover_says_what_it_means_and_what_to_do() {
        let cutover = CutoverRecord {
            epoch: 3,
            mode: CutoverModeRecord::Cutover,
            direction: "forward".into(),
            idempotency_key: None,
            state: "aborted".into(),
            outcome: "aborted".into(),
            reason: Some("max_pause_ms passed".into()),
            remedy: Some("find the long transaction".into()),
            steps: vec![StepRecord {
                name: "lock_tables".into(),
                started_at: Timestamp::UNIX_EPOCH,
                duration_ms: 1000.04,
                in_pause: true,
                outcome: "undone".into(),
                detail: Some("37 tables".into()),
                share_of_pause: Some(0.994),
            }],
            pause_ms: Some(1006.0),
            certificate: None,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: Some(Timestamp::UNIX_EPOCH),
        };
        let text = cutover_text(&cutover);
        assert!(text.contains("1000.0 ms  undone   99 % of the pause  37 tables\n"), "{text}");
        let end = "Aborted: the source is the primary, as before. Writers waited 1006.0 ms.\n\
                   Reason: max_pause_ms passed\nRemedy: find the long transaction\n";
        assert!(text.ends_with(end), "{text}");
    }
}
