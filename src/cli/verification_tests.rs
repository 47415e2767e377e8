//! What a verification looks like, to the letter where it matters.

use super::*;
use crate::control::dto::{
    DifferingTableRecord, KeyColumnRecord, LeftOutRecord, ScopeRecord, VerificationSummaryRecord,
};

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// One that has ended, and found nothing.
fn clean() -> VerificationRecord {
    VerificationRecord {
        number: 3,
        direction: "forward".into(),
        scope: ScopeRecord::Everything,
        outcome: "clean".into(),
        reason: None,
        remedy: None,
        started_at: at("2026-03-01T12:00:00Z"),
        ended_at: Some(at("2026-03-01T12:05:00Z")),
        tables_total: 12,
        tables_compared: 12,
        rows_compared: 5_245_220,
        bytes_total: 3 << 30,
        bytes_compared: 3 << 30,
        first_lsn: Some("16/B374D848".into()),
        last_lsn: Some("16/B9000000".into()),
        differences: 0,
        differences_at_least: false,
        rows: Vec::new(),
        differing_tables: Vec::new(),
        rows_looked_at_again: 1_204,
        rows_repaired: 0,
        not_repaired: Vec::new(),
        left_out: Vec::new(),
        snapshots: 14,
        longest_snapshot_ms: 812.4,
        structure: None,
    }
}

fn row(kind: &str, key: &[(&str, &str)], columns: &[&str]) -> RowDifferenceRecord {
    let column = |(column, value): &(&str, &str)| KeyColumnRecord {
        column: (*column).to_owned(),
        value: (*value).to_owned(),
    };
    RowDifferenceRecord {
        table: "public.orders".into(),
        kind: kind.into(),
        key: key.iter().map(column).collect(),
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        count: 1,
    }
}

fn structure(differences: u64, objects: Vec<ObjectDifferenceRecord>) -> StructureRecord {
    StructureRecord { objects_compared: 214, differences, objects, not_compared: Vec::new() }
}

fn object(note: bool) -> ObjectDifferenceRecord {
    ObjectDifferenceRecord {
        kind: "index".into(),
        object: "public.orders_note_idx".into(),
        what: "Index public.orders_note_idx is missing on the target.".into(),
        fix: Some("CREATE INDEX orders_note_idx ON public.orders (note)".into()),
        note,
    }
}

#[test]
fn a_clean_one_tells_what_was_compared_and_what_that_took() {
    let text = report_text(&clean(), Look::PLAIN);
    let wanted = "\
verification 3: clean
  compared    rows and structure
  started     2026-03-01T12:00:00Z, took 5 minutes
  tables      12 of 12
  rows        5,245,220, 3.00 GiB on the source; 1,204 were in flight and looked at again
  positions   16/B374D848 to 16/B9000000 in the source's WAL
  snapshots   14 pairs, held for at most 812 ms

Every one of 5,245,220 rows is the same on both sides.
";
    assert_eq!(text, wanted);
    assert_eq!(exit_of(&clean()), Exit::Success);
}

#[test]
fn rows_that_differ_are_listed_by_table_kind_key_and_columns() {
    let record = VerificationRecord {
        outcome: "differences".into(),
        differences: 4,
        rows: vec![
            row("differs", &[("id", "77"), ("region", "no\u{1b}[2J")], &["note", "price"]),
            row("missing", &[("id", "78")], &[]),
            RowDifferenceRecord { count: 2, ..row("extra", &[("ctid", "(0,1)")], &[]) },
        ],
        ..clean()
    };
    let text = report_text(&record, Look::PLAIN);
    let wanted = "\
ROWS that are not the same: 4

table          kind            key                        columns
public.orders  differs         id=77, region=no\\u{1b}[2J  note, price
public.orders  missing         id=78
public.orders  extra, 2 times  ctid=(0,1)

The target does not hold what the source holds: do not cut over.
";
    assert!(text.contains(wanted), "{text}");
    assert!(text.contains("Remedy: Find out first"), "{text}");
    assert_eq!(exit_of(&record), Exit::Blocker);
}

#[test]
fn more_differences_than_are_listed_are_counted_by_table() {
    let record = VerificationRecord {
        outcome: "differences".into(),
        differences: 70_000,
        rows: (0..1_000).map(|id: u32| row("missing", &[("id", &id.to_string())], &[])).collect(),
        differing_tables: vec![DifferingTableRecord { table: "public.orders".into(), differences: 70_000 }],
        ..clean()
    };
    let text = report_text(&record, Look::PLAIN);
    assert_eq!(text.matches("missing").count(), LISTED_MAX);
    assert!(text.contains("and 69,900 more; --output json lists the first 1,000\n"), "{text}");
    assert!(text.contains("public.orders  70,000\n"), "{text}");
}

#[test]
fn a_difference_of_structure_comes_with_its_statement_at_the_left_edge() {
    let record = VerificationRecord { structure: Some(structure(1, vec![object(false)])), ..clean() };
    let text = report_text(&record, Look::PLAIN);
    let wanted = "  Index public.orders_note_idx is missing on the target.\n\n\
                  CREATE INDEX orders_note_idx ON public.orders (note)\n";
    assert!(text.contains(wanted), "{text}");
    assert!(text.contains("Every row is the same on both sides. Their structure is not."), "{text}");
    assert_eq!(exit_of(&record), Exit::Blocker);

    let not_compared = vec!["Only one side knows of x.".to_owned()];
    let seen = StructureRecord { not_compared, ..structure(0, vec![object(true)]) };
    let noted = VerificationRecord { structure: Some(seen), ..clean() };
    let text = report_text(&noted, Look::PLAIN);
    assert!(text.contains("NOT COMPARED of the structure\n\n  Only one side knows of x.\n"), "{text}");
    assert!(text.contains("NOTES on the structure") && text.contains("5,245,220 rows is the same"), "{text}");
    assert_eq!(exit_of(&noted), Exit::Success, "notes make no verification fail");
}

#[test]
fn what_was_repaired_and_what_was_not_is_told() {
    let record = VerificationRecord {
        rows_repaired: 3,
        not_repaired: vec![LeftOutRecord { table: "public.log".into(), reason: "it has no key".into() }],
        ..clean()
    };
    let text = report_text(&record, Look::PLAIN);
    assert!(text.contains("  repaired    3 rows, before they were compared\n"), "{text}");
    assert!(text.contains("NOT REPAIRED\n\ntable       reason\npublic.log  it has no key\n"), "{text}");
}

#[test]
fn what_could_not_be_compared_is_never_called_clean() {
    let record = VerificationRecord {
        outcome: "incomplete".into(),
        reason: Some("table public.log was not compared: it joins".into()),
        remedy: Some("Wait.".into()),
        left_out: vec![LeftOutRecord { table: "public.log".into(), reason: "it joins".into() }],
        ..clean()
    };
    let text = report_text(&record, Look::PLAIN);
    assert!(text.contains("NOT COMPARED\n\ntable       reason\npublic.log  it joins\n"), "{text}");
    let end = "Not everything could be compared: table public.log was not compared: it joins. What was compared is the same.\n\
               Remedy: Wait.\n";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(exit_of(&record), Exit::Failed);
    let running = VerificationRecord { outcome: "running".into(), ended_at: None, ..clean() };
    assert_eq!(exit_of(&running), Exit::Failed);
    assert!(report_text(&running, Look::PLAIN).contains("It runs"));
}

fn summary() -> VerificationSummaryRecord {
    VerificationSummaryRecord {
        number: 3,
        scope: ScopeRecord::Everything,
        outcome: "clean".into(),
        reason: None,
        started_at: at("2026-03-01T12:00:00Z"),
        ended_at: Some(at("2026-03-01T12:05:00Z")),
        tables_total: 12,
        tables_compared: 12,
        rows_compared: 5_245_220,
        bytes_total: 12 << 30,
        bytes_compared: 12 << 30,
        differences: 0,
        structural_differences: Some(0),
    }
}

#[test]
fn the_status_tells_in_a_line_how_far_it_is_and_how_it_ended() {
    let said = |summary: &VerificationSummaryRecord| summary_text(summary, at("2026-03-01T14:05:00Z"));
    assert_eq!(said(&summary()), "verified    2 hours ago: clean, 5,245,220 rows\n");
    let differs = VerificationSummaryRecord { outcome: "differences".into(), differences: 7, ..summary() };
    let wanted = "verified    2 hours ago: 7 of 5,245,220 rows DIFFER (`pgsluice verify --show`)\n";
    assert_eq!(said(&differs), wanted);
    let structure = VerificationSummaryRecord { structural_differences: Some(2), ..summary() };
    let wanted = "verified    2 hours ago: clean, 5,245,220 rows; 2 differences of the structure (`pgsluice verify --show`)\n";
    assert_eq!(said(&structure), wanted);
    let incomplete = VerificationSummaryRecord {
        outcome: "incomplete".into(),
        reason: Some("it was stopped".into()),
        ended_at: Some(at("2026-03-01T14:04:59Z")),
        ..summary()
    };
    assert_eq!(said(&incomplete), "verified    just now: INCOMPLETE, it was stopped\n");
    let runs = VerificationSummaryRecord {
        outcome: "running".into(),
        ended_at: None,
        tables_compared: 5,
        bytes_compared: 3 << 30,
        rows_compared: 1_000,
        ..summary()
    };
    let wanted = "verifying   25 % of 12.00 GiB, 5 of 12 tables, 1,000 rows; no row differs so far\n";
    assert_eq!(said(&runs), wanted);
    let begins = VerificationSummaryRecord { tables_total: 0, ..runs };
    assert_eq!(said(&begins), "verifying   begins, or compares the structure\n");
}
