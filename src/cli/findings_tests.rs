//! How findings look: grouped, pasted, wrapped, coloured.

use super::super::look::Colours;
use super::*;

fn finding(severity: &str, id: &str, subject: &str, finding: &str, remedy: &str) -> FindingRecord {
    FindingRecord {
        id: id.into(),
        severity: severity.into(),
        subject: subject.into(),
        finding: finding.into(),
        remedy: remedy.into(),
    }
}

fn keyless(table: &str) -> FindingRecord {
    let remedy =
        format!("ALTER TABLE {table} ADD PRIMARY KEY (…);\n-- or leave it out with source.tables.exclude");
    finding("blocker", "source.replica_identity", table, "The table has no primary key.", &remedy)
}

fn several() -> Vec<FindingRecord> {
    vec![
        finding(
            "warning",
            "way_back",
            "target",
            "There would be no way back.",
            "As a superuser of the target:\nALTER ROLE app REPLICATION;\nOr do without:\ncutover.reverse = false",
        ),
        keyless("public.a"),
        finding("blocker", "target.empty", "shop", "The database is not empty.", "Use an empty database."),
        finding("info", "source.note", "source", "Good to know.", ""),
        keyless("public.b"),
        finding(
            "blocker",
            "source.wal_level",
            "source",
            "wal_level is replica.",
            "ALTER SYSTEM SET wal_level = 'logical'; -- then restart",
        ),
    ]
}

#[test]
fn findings_are_grouped_by_severity_side_and_check_and_what_is_pasted_stands_at_the_left() {
    let expected = "\
BLOCKERS: the migration cannot begin before they are gone

Source

  source.replica_identity
    The table has no primary key.
      public.a
      public.b
    Remedy:

ALTER TABLE public.a ADD PRIMARY KEY (…);
ALTER TABLE public.b ADD PRIMARY KEY (…);
-- or leave it out with source.tables.exclude

  source.wal_level
    wal_level is replica.
    Remedy:

ALTER SYSTEM SET wal_level = 'logical'; -- then restart

Target

  target.empty
    The database is not empty.
      shop
    Remedy: Use an empty database.

WARNINGS: the migration can begin; know what they mean first

Both sides and the configuration

  way_back
    There would be no way back.
    Remedy: As a superuser of the target:

ALTER ROLE app REPLICATION;

    Or do without:

cutover.reverse = false

NOTES

Source

  source.note
    Good to know.

4 blockers: the migration cannot begin. 1 warning and 1 note to read first.
";
    assert_eq!(findings_text(&several(), Look::PLAIN), expected);
}

#[test]
fn nothing_in_the_way_is_said_in_one_line() {
    assert_eq!(findings_text(&[], Look::PLAIN), "Nothing in the way: the migration can begin.\n");
    let warning = finding("warning", "source.x", "source", "A.", "B.");
    assert!(findings_text(&[warning], Look::PLAIN).ends_with("can begin. 1 warning to read first.\n"));
}

#[test]
fn remedies_that_are_not_the_same_but_for_one_line_keep_together() {
    let one = "Move it:\nALTER TABLE a SET SCHEMA x;\nOr waive this:\npreflight.waive = [\"y\"]";
    let other = "Move it:\nALTER TABLE b SET SCHEMA x;\nOr waive this:\npreflight.waive = [\"y\"]";
    let different = "Ask them:\nDROP TABLE c;\nOr waive this:\npreflight.waive = [\"y\"]";
    let lines = merged([one, other, one, different].into_iter());
    assert_eq!(lines.len(), 2, "{lines:?}");
    let first = ["Move it:", "ALTER TABLE a SET SCHEMA x;", "ALTER TABLE b SET SCHEMA x;"];
    assert_eq!(lines[0][..3], first);
    assert_eq!(lines[1][..2], ["Ask them:", "DROP TABLE c;"]);
    // Two statements that belong together are not torn apart.
    let lines = merged(["ALTER A 1;\nALTER A 2;", "ALTER B 1;\nALTER B 2;"].into_iter());
    assert_eq!(lines, [["ALTER A 1;", "ALTER A 2;"], ["ALTER B 1;", "ALTER B 2;"]]);
}

#[test]
fn many_objects_are_counted_and_every_statement_is_there() {
    let tables: Vec<FindingRecord> = (0..100).map(|number| keyless(&format!("public.t{number}"))).collect();
    let text = findings_text(&tables, Look::PLAIN);
    assert!(text.contains("      public.t19\n      and 80 more: --output json lists all\n"), "{text}");
    assert_eq!(text.matches("ADD PRIMARY KEY").count(), 100);
    assert_eq!(text.matches("-- or leave it out").count(), 1);
}

#[test]
fn sentences_fit_the_terminal_and_statements_stay_whole() {
    let long = "word ".repeat(60);
    let statement = format!("ALTER TABLE {} ADD PRIMARY KEY (…);", "x".repeat(200));
    let text = findings_text(
        &[finding("blocker", "source.x", "source", &long, &format!("{long}\n{statement}"))],
        Look::of_terminal(60, Colours::No),
    );
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 60).collect();
    assert_eq!(wide, [statement.as_str()], "{text}");
    assert_eq!(text.matches("word").count(), 120);
}

#[test]
fn colours_are_on_a_terminal_only() {
    let coloured = findings_text(&several(), Look::of_terminal(100, Colours::Yes));
    assert!(coloured.contains("\u{1b}[31m"), "{coloured:?}");
    let plain = findings_text(&several(), Look::of_terminal(100, Colours::No));
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    assert_eq!(console::strip_ansi_codes(&coloured), plain);
}

#[test]
fn the_summary_is_part_of_the_json() {
    let summary = FindingsSummary::of(&several()).json();
    assert_eq!(
        (&summary["blockers"], &summary["warnings"], &summary["notes"]),
        (&json!(4), &json!(1), &json!(1))
    );
    assert_eq!(summary["can_begin"], false);
    assert_eq!(FindingsSummary::of(&[]).json()["can_begin"], true);
}
