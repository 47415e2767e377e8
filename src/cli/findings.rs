//! What `check` has found, for a person: by severity, then by side; a check once, with what it concerns listed beneath it; what
//! is to be pasted at the left edge, whole and once. Pure: records and the look of the terminal in, text out.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::look::{Look, Paint};
use crate::control::dto::FindingRecord;
use crate::model::counted;

/// Objects listed beneath one finding; the rest is counted. What is pasted is never cut short.
const OBJECTS_MAX: usize = 20;
/// Left of what a check has found, and of the objects beneath it.
const INDENT: &str = "    ";
const OBJECT_INDENT: &str = "      ";

/// How many findings of each severity, and what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FindingsSummary {
    blockers: usize,
    warnings: usize,
    notes: usize,
}

impl FindingsSummary {
    /// Of these findings.
    #[must_use]
    pub fn of(findings: &[FindingRecord]) -> Self {
        let count = |rank: Rank| findings.iter().filter(|finding| Rank::of(finding) == rank).count();
        Self { blockers: count(Rank::Blocker), warnings: count(Rank::Warning), notes: count(Rank::Note) }
    }

    /// What it means, in a line.
    #[must_use]
    pub fn text(&self) -> String {
        let also: Vec<String> = [(self.warnings, "warning", "warnings"), (self.notes, "note", "notes")]
            .into_iter()
            .filter(|(number, ..)| *number > 0)
            .map(|(number, one, many)| counted(number, one, many))
            .collect();
        let verdict = match self.blockers {
            0 => "Nothing in the way: the migration can begin".to_owned(),
            blockers => {
                format!("{}: the migration cannot begin", counted(blockers, "blocker", "blockers"))
            }
        };
        match also.is_empty() {
            true => format!("{verdict}."),
            false => format!("{verdict}. {} to read first.", also.join(" and ")),
        }
    }

    /// `{"blockers", "warnings", "notes", "can_begin", "text"}`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "blockers": self.blockers, "warnings": self.warnings, "notes": self.notes,
            "can_begin": self.blockers == 0, "text": self.text(),
        })
    }
}

/// The findings, and below them what they mean together.
#[must_use]
pub fn findings_text(findings: &[FindingRecord], look: Look) -> String {
    let mut text = String::new();
    for rank in Rank::ALL {
        let of_rank: Vec<&FindingRecord> =
            findings.iter().filter(|finding| Rank::of(finding) == rank).collect();
        if of_rank.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{}\n", look.paint(rank.paint(), rank.heading()));
        for place in Place::ALL {
            let of_place: Vec<&FindingRecord> =
                of_rank.iter().copied().filter(|finding| Place::of(finding) == place).collect();
            if !of_place.is_empty() {
                let _ = writeln!(text, "{}\n", look.paint(Paint::Heading, place.heading()));
                push_checks(&mut text, &of_place, look);
            }
        }
    }
    let summary = FindingsSummary::of(findings);
    let paint = if summary.blockers > 0 { Paint::Blocker } else { Paint::Good };
    let _ = writeln!(text, "{}", look.paint(paint, &summary.text()));
    text
}

/// Every check once, in the order in which they were made.
fn push_checks(text: &mut String, findings: &[&FindingRecord], look: Look) {
    for check in grouped(findings, |finding| finding.id.clone()) {
        if let Some(first) = check.first() {
            let _ = writeln!(text, "  {}", look.paint(Paint::Heading, &first.id));
        }
        for same in grouped(&check, |finding| finding.finding.clone()) {
            push_finding(text, &same, look);
        }
    }
}

/// Findings that say the same of several objects.
fn push_finding(text: &mut String, same: &[&FindingRecord], look: Look) {
    let Some(first) = same.first() else { return };
    push_wrapped(text, &first.finding, INDENT, look);
    let objects = || same.iter().map(|finding| finding.subject.as_str()).filter(|it| !is_a_side(it));
    for object in objects().take(OBJECTS_MAX) {
        let _ = writeln!(text, "{OBJECT_INDENT}{object}");
    }
    if let Some(more) = objects().count().checked_sub(OBJECTS_MAX).filter(|more| *more > 0) {
        let _ = writeln!(text, "{OBJECT_INDENT}and {more} more: --output json lists all");
    }
    let remedies = merged(same.iter().map(|finding| finding.remedy.as_str()));
    for (number, remedy) in remedies.iter().enumerate() {
        push_remedy(text, remedy, if number == 0 { "Remedy:" } else { "And:" }, look);
    }
    text.push('\n');
}

/// What is pasted stands at the left edge, between empty lines; sentences are wrapped.
fn push_remedy(text: &mut String, lines: &[String], label: &str, look: Look) {
    let mut label = Some(label);
    let mut is_block = false;
    for line in lines {
        if is_pasted(line) {
            if let Some(label) = label.take() {
                let _ = writeln!(text, "{INDENT}{label}");
            }
            if !is_block {
                text.push('\n');
            }
            let _ = writeln!(text, "{}", look.paint(Paint::Pasted, line));
        } else {
            if is_block {
                text.push('\n');
            }
            let sentence = label.take().map_or_else(|| line.clone(), |label| format!("{label} {line}"));
            push_wrapped(text, &sentence, INDENT, look);
        }
        is_block = is_pasted(line);
    }
}

/// One list of lines for all of them: remedies that differ in one pasted line only become one with all of these lines in its
/// place; what is the same is said once.
fn merged<'a>(remedies: impl Iterator<Item = &'a str>) -> Vec<Vec<String>> {
    // The lines of the first, and behind each of them those of others that stand in its place.
    let mut all: Vec<Vec<Vec<String>>> = Vec::new();
    for remedy in remedies.filter(|remedy| !remedy.is_empty()) {
        let lines: Vec<&str> = remedy.lines().filter(|line| !line.is_empty()).collect();
        if all.iter_mut().any(|known| takes(known, &lines)) {
            continue;
        }
        all.push(lines.iter().map(|line| vec![(*line).to_owned()]).collect());
    }
    all.into_iter().map(|places| places.concat()).collect()
}

/// Puts `lines` into `known` if that is the same remedy, but for one line that is pasted.
fn takes(known: &mut [Vec<String>], lines: &[&str]) -> bool {
    if known.len() != lines.len() {
        return false;
    }
    let has = |(place, line): &(&Vec<String>, &&str)| place.iter().any(|known| known == *line);
    let missing: Vec<usize> = known
        .iter()
        .zip(lines)
        .enumerate()
        .filter_map(|(index, pair)| (!has(&pair)).then_some(index))
        .collect();
    match missing[..] {
        [] => true,
        [index] => {
            let (Some(place), Some(line)) = (known.get_mut(index), lines.get(index)) else { return false };
            let is_merged = is_pasted(line) && place.iter().all(|line| is_pasted(line));
            if is_merged {
                place.push((*line).to_owned());
            }
            is_merged
        }
        _ => false,
    }
}

/// Whether a line of a remedy is SQL, a key of the configuration or a command, as [`crate::preflight::Finding::remedy`] says.
fn is_pasted(line: &str) -> bool {
    const FIRST_WORDS: [&str; 16] = [
        "ALTER",
        "CALL",
        "COMMIT",
        "CREATE",
        "DELETE",
        "DROP",
        "GRANT",
        "REFRESH",
        "REVOKE",
        "SELECT",
        "SET",
        "TRUNCATE",
        "UPDATE",
        "kubectl",
        "--",
        "patronictl",
    ];
    let first_word = line.split(' ').next().unwrap_or_default();
    let is_a_key = |key: &str| {
        key.contains('.') && key.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_'))
    };
    FIRST_WORDS.contains(&first_word) || line.split_once(" = ").is_some_and(|(key, _)| is_a_key(key))
}

/// Groups in the order of their first members.
fn grouped<'a>(
    findings: &[&'a FindingRecord],
    key: impl Fn(&FindingRecord) -> String,
) -> Vec<Vec<&'a FindingRecord>> {
    let mut groups: Vec<(String, Vec<&FindingRecord>)> = Vec::new();
    for finding in findings {
        let key = key(finding);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(finding),
            None => groups.push((key, vec![finding])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

fn push_wrapped(text: &mut String, paragraph: &str, indent: &str, look: Look) {
    for line in paragraph.lines() {
        for piece in look.wrapped(line, indent.len()) {
            let _ = writeln!(text, "{indent}{piece}");
        }
    }
}

/// A subject that says no more than the heading.
fn is_a_side(subject: &str) -> bool {
    matches!(subject, "source" | "target" | "both")
}

/// The worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    Blocker,
    Warning,
    Note,
}

impl Rank {
    const ALL: [Self; 3] = [Self::Blocker, Self::Warning, Self::Note];

    fn of(finding: &FindingRecord) -> Self {
        match finding.severity.as_str() {
            "blocker" => Self::Blocker,
            "warning" => Self::Warning,
            _ => Self::Note,
        }
    }

    const fn heading(self) -> &'static str {
        match self {
            Self::Blocker => "BLOCKERS: the migration cannot begin before they are gone",
            Self::Warning => "WARNINGS: the migration can begin; know what they mean first",
            Self::Note => "NOTES",
        }
    }

    const fn paint(self) -> Paint {
        match self {
            Self::Blocker => Paint::Blocker,
            Self::Warning => Paint::Warning,
            Self::Note => Paint::Heading,
        }
    }
}

/// What a check looks at, as its id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Source,
    Target,
    Both,
}

impl Place {
    const ALL: [Self; 3] = [Self::Source, Self::Target, Self::Both];

    fn of(finding: &FindingRecord) -> Self {
        match finding.id.split('.').next() {
            Some("source") => Self::Source,
            Some("target") => Self::Target,
            _ => Self::Both,
        }
    }

    const fn heading(self) -> &'static str {
        match self {
            Self::Source => "Source",
            Self::Target => "Target",
            Self::Both => "Both sides and the configuration",
        }
    }
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
