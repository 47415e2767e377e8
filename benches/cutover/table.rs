//! The report as Markdown, for people and, between two marks, for `docs/performance.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use super::Outcome;
use super::figures::Spread;
use super::options::Role;
use super::report::{Figures, Report};

const BEGIN: &str = "<!-- cutover figures: made by `make bench-cutover-table` -->";
const END: &str = "<!-- cutover figures end -->";

/// What a pause is to stay within, in milliseconds.
const FLOORS: Spread = Spread { p50: 60.0, p95: 150.0, max: 500.0 };

/// What a row shows of each kind of operation.
type Shown = fn(&Figures) -> Option<Spread>;

/// Replaces the document's figures by those of the last report.
pub(crate) fn update_document() -> Outcome<()> {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let text = std::fs::read_to_string(&document)?;
    let figures = of(&Report::read()?);
    let no_place = "the document has no place for the figures of cutovers";
    let (before, rest) = text.split_once(BEGIN).ok_or(no_place)?;
    let (_, after) = rest.split_once(END).ok_or(no_place)?;
    std::fs::write(&document, format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))?;
    println!("the figures of cutovers were put into {}", document.display());
    Ok(())
}

/// One report.
pub(crate) fn of(report: &Report) -> String {
    let fact = |name: &str| report.machine.get(name).map_or("?", String::as_str);
    let server = |name: &str| report.servers.get(name).map_or("?", String::as_str);
    let asked = &report.asked;
    let mut text = format!(
        "{} cores of {}, revision `{}`, {}. As {}, {} tables ({} partitions), {} sequences, {} clients, {:.0} transactions a second \
         over the whole run, {} % of them crossing, seed {}.\n\n",
        fact("cores"),
        fact("processor"),
        fact("revision"),
        report.made_at.split('T').next().unwrap_or_default(),
        match asked.role {
            Role::Superuser => "a superuser, 14 to 17",
            Role::Owner => "an owner who is no superuser, 15 to 17",
        },
        server("tables"),
        server("partitions"),
        server("sequences"),
        asked.clients,
        report.transactions_per_second,
        asked.crossing_percent,
        asked.seed,
    );
    let kinds =
        [("rehearsal", &report.rehearsals), ("cutover", &report.cutovers), ("rollback", &report.rollbacks)];
    text.push_str(
        "| | completed | aborted | refused | pause p50 | p95 | max | floors | lock tries p50 / p95 / max |\n\
         |---|---:|---:|---:|---:|---:|---:|---|---:|\n",
    );
    for (name, figures) in kinds {
        text.push_str(&pause_row(name, figures));
    }
    text.push_str(
        "\nEach step within the pause: median of its shares; p50 / p95 / max in milliseconds.\n\n\
         | step | rehearsal | cutover | rollback |\n|---|---:|---:|---:|\n",
    );
    for name in step_names(&kinds) {
        let _ =
            write!(text, "| {} |", if name.contains('_') { format!("`{name}`") } else { name.to_owned() });
        for (_, figures) in kinds {
            text.push_str(&step_cell(figures, name));
        }
        text.push('\n');
    }
    text.push_str(
        "\nWhat clients saw, p50 / p95 / max in milliseconds.\n\n\
         | longest during an operation | rehearsal | cutover | rollback |\n|---|---:|---:|---:|\n",
    );
    let rows: [(&str, Shown); 3] = [
        ("nobody's commit was acknowledged", |figures| figures.nobody_committed_ms),
        ("one client waited", |figures| figures.client_waited_ms),
        ("one client waited, just before it", |figures| figures.client_waited_before_ms),
    ];
    for (name, value) in rows {
        let cells: String =
            kinds.iter().map(|(_, figures)| format!(" {} |", cell(value(figures), 1))).collect();
        let _ = writeln!(text, "| {name} |{cells}");
    }
    text.push_str(&verdict(report));
    text
}

fn pause_row(name: &str, figures: &Figures) -> String {
    let pause = |value: fn(&Spread) -> f64| {
        figures.pause_ms.as_ref().map_or_else(|| "–".to_owned(), |spread| format!("{:.1} ms", value(spread)))
    };
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        figures.completed,
        figures.aborted.len(),
        figures.refused.len(),
        pause(|spread| spread.p50),
        pause(|spread| spread.p95),
        pause(|spread| spread.max),
        floors(figures.pause_ms),
        cell(figures.lock_tries, 0),
    )
}

fn floors(pause: Option<Spread>) -> String {
    let Some(pause) = pause else { return "–".to_owned() };
    let missed: Vec<String> =
        [("p50", pause.p50, FLOORS.p50), ("p95", pause.p95, FLOORS.p95), ("max", pause.max, FLOORS.max)]
            .into_iter()
            .filter(|(_, value, floor)| value > floor)
            .map(|(name, _, floor)| format!("{name} over {floor}"))
            .collect();
    if missed.is_empty() { "reached".to_owned() } else { format!("**not reached**: {}", missed.join(", ")) }
}

fn step_names<'a>(kinds: &[(&str, &'a Figures); 3]) -> Vec<&'a str> {
    // A cutover has every step but the rehearsal's last; what is between the steps comes last.
    let mut names: Vec<&str> = Vec::new();
    for step in kinds.iter().rev().flat_map(|(_, figures)| &figures.steps) {
        if !names.contains(&step.name.as_str()) {
            names.push(&step.name);
        }
    }
    names.sort_by_key(|name| *name == "between steps");
    names
}

fn step_cell(figures: &Figures, name: &str) -> String {
    match figures.steps.iter().find(|step| step.name == name) {
        Some(step) => format!(" {:.0} %: {} |", step.share_of_pause * 100.0, cell(step.ms, 1)),
        None => " – |".to_owned(),
    }
}

fn verdict(report: &Report) -> String {
    let judgement = &report.judgement;
    let of_each: Vec<String> = judgement
        .errors_of_each_client
        .iter()
        .map(|errors| errors.values().sum::<u64>().to_string())
        .collect();
    let codes: Vec<_> =
        judgement.client_errors.iter().map(|(code, count)| format!("{count} times {code}")).collect();
    let mut text = format!(
        "\nOf {} transactions that clients saw committed, {} are missing and {} doubled on the final primary; {} rows and {} \
         sequences compared, {} and {} differ. Clients' errors: {}; of each client: {}.\n",
        judgement.acknowledged,
        judgement.missing,
        judgement.duplicates,
        judgement.rows_compared,
        judgement.sequences_compared,
        judgement.row_differences,
        judgement.differing_sequences.len(),
        if codes.is_empty() { "none".to_owned() } else { codes.join(", ") },
        of_each.join(", "),
    );
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for figures in [&report.rehearsals, &report.cutovers, &report.rollbacks] {
        let aborted = figures.aborted.iter().map(|aborted| format!("Aborted: {}", aborted.reason));
        for reason in aborted.chain(figures.refused.iter().map(|reason| format!("Refused: {reason}"))) {
            *reasons.entry(without_names(&reason)).or_default() += 1;
        }
    }
    for (reason, count) in reasons {
        let _ = write!(text, "\n- {count} × {reason}");
    }
    for failure in &report.failures {
        let _ = write!(text, "\n- **FAILED**: {failure}");
    }
    text
}

/// What stands in brackets names a table or a process: the report has it.
fn without_names(reason: &str) -> String {
    match (reason.find(" ("), reason.rfind(')')) {
        (Some(begin), Some(end)) if begin < end => format!("{}{}", &reason[..begin], &reason[end + 1..]),
        _ => reason.to_owned(),
    }
}

fn cell(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |spread| format!("{:.digits$} / {:.digits$} / {:.digits$}", spread.p50, spread.p95, spread.max),
    )
}
