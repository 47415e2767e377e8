//! Coalescing against a table in memory: a history executed as it is and as its sets must leave the same rows.

mod model;
mod properties;

use bytes::Bytes;
use pgsluice_proto::pgoutput::{OldTuple, Tuple, TupleValue};

use super::*;
use crate::stream::assemble::RowChange;
use model::TableUnderTest;

/// What a table of columns `k, a, b` with the key `k` has gone through: `I k a b`, `U k a b`, `M old new a b` (another key) or `D k`;
/// `-` is a value out of line that did not change.
fn log(table: &BoundTable, changes: &[&str]) -> Vec<Logged> {
    changes.iter().map(|change| logged(table, change)).collect()
}

fn logged(table: &BoundTable, change: &str) -> Logged {
    let words: Vec<_> = change.split(' ').collect();
    let change = match words.as_slice() {
        ["I", new @ ..] => RowChange::Insert { new: row(new) },
        ["U", new @ ..] => RowChange::Update { old: None, new: row(new) },
        ["M", old, new @ ..] => {
            RowChange::Update { old: Some(OldTuple::Key(row(&[old, "?", "?"]))), new: row(new) }
        }
        ["D", key] => RowChange::Delete { old: OldTuple::Key(row(&[key, "?", "?"])) },
        _ => panic!("{change}"),
    };
    Logged { change: table.bind(&change).expect("it binds"), commit_lsn: Lsn::new(1) }
}

fn row(words: &[&str]) -> Tuple {
    let values = words.iter().map(|word| match *word {
        "-" => TupleValue::UnchangedToast,
        "?" => TupleValue::Null,
        word => TupleValue::Text(word.as_bytes()),
    });
    Tuple::new(values).expect("a row")
}

fn keyed_table() -> BoundTable {
    TableUnderTest::default().bound()
}

/// The segments of a log, as words: `insert 0 1(k a b)`; `~` for rows that go one by one.
fn told(table: &BoundTable, changes: &[&str], coalescing: Coalescing) -> Vec<String> {
    let log = log(table, changes);
    coalesce(table, &log, coalescing).iter().map(|segment| tell(segment, &log)).collect()
}

fn tell(segment: &Segment, log: &[Logged]) -> String {
    let work = match segment {
        Segment::Ordered(range) => return format!("ordered {range:?}"),
        Segment::Set(work) => work,
    };
    let mut told = format!("{}{:?}", work.key.op.as_str(), work.key.written);
    if work.pace == Pace::OneByOne {
        told.push('~');
    }
    for values in work.values(log) {
        let texts: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value.bytes())).collect();
        told.push_str(&format!(" ({})", texts.join(" ")));
    }
    told
}

fn always(changes: &[&str]) -> Vec<String> {
    told(&keyed_table(), changes, Coalescing::Always)
}

#[test]
fn every_pair_of_changes_to_a_row_has_one_net_change() {
    for (changes, net) in [
        (["I 1 a b", "U 1 c b"].as_slice(), ["insert[0, 1, 2] (1 c b)"].as_slice()),
        (&["I 1 a b", "U 1 - c"], &["insert[0, 1, 2] (1 a c)"]),
        (&["I 1 a b", "D 1"], &[]),
        (&["I 1 a b", "D 1", "I 1 c d"], &["insert[0, 1, 2] (1 c d)"]),
        (&["U 1 a b", "U 1 c d"], &["update[0, 1, 2] (1 c d 1)"]),
        (&["U 1 a b", "U 1 - d"], &["update[0, 1, 2] (1 a d 1)"]),
        (&["U 1 a -", "U 1 - d"], &["update[0, 1, 2] (1 a d 1)"]),
        (&["U 1 a -", "U 1 c -"], &["update[0, 1] (1 c 1)"]),
        (&["U 1 a b", "D 1"], &["delete[] (1)"]),
        (&["D 1", "I 1 a b"], &["update[0, 1, 2] (1 a b 1)"]),
        (&["D 1", "I 1 a b", "U 1 - c"], &["update[0, 1, 2] (1 a c 1)"]),
        (&["D 1", "I 1 a b", "D 1"], &["delete[] (1)"]),
        (&["U 1 - -", "D 1", "I 1 a b"], &["update[0, 1, 2] (1 a b 1)"]),
    ] {
        assert_eq!(always(changes), net, "{changes:?}");
    }
}

/// INV-6
#[test]
fn a_log_that_contradicts_itself_is_not_interpreted() {
    for impossible in [
        ["I 1 a b", "I 1 a b"].as_slice(),
        &["I 1 a b", "I 2 a b", "I 1 c d"],
        &["U 1 a b", "I 1 a b"],
        &["D 1", "U 1 a b"],
        &["D 1", "D 1"],
        &["I 1 a b", "D 1", "D 1"],
        &["I 1 a b", "D 1", "U 1 a b"],
        &["D 1", "I 1 a b", "I 1 a b"],
    ] {
        let mut changes = vec!["I 8 x y", "U 9 x y"];
        changes.extend(impossible);
        changes.push("D 7");
        assert_eq!(always(&changes), [format!("ordered 0..{}", changes.len())], "{changes:?}");
    }
}

/// INV-6: also where nothing else is in it.
#[test]
fn new_rows_with_the_same_key_are_not_interpreted() {
    for keys in [[1, 1, 2, 3], [1, 2, 3, 1], [3, 2, 1, 3], [2, 1, 3, 2]] {
        let changes = keys.map(|key| format!("I {key} a b"));
        let changes = changes.each_ref().map(String::as_str);
        assert_eq!(always(&changes), ["ordered 0..4"], "{changes:?}");
        let long = changes.map(|change| change.replace("I ", "I of-the-same-beginning-"));
        assert_eq!(always(&long.each_ref().map(String::as_str)), ["ordered 0..4"], "{long:?}");
    }
}

#[test]
fn deletes_come_first_then_updates_by_the_columns_they_write_then_inserts_each_sorted_by_key() {
    let changes = ["I 10 a b", "U 3 - c", "D 20", "U 2 a b", "I 9 a b", "D 5", "U 1 - d"];
    assert_eq!(
        always(&changes),
        [
            "delete[] (5) (20)",
            "update[0, 2] (1 d 1) (3 c 3)",
            "update[0, 1, 2] (2 a b 2)",
            "insert[0, 1, 2] (9 a b) (10 a b)",
        ]
    );
}

/// Trap 9: what a changed key frees or takes is not folded away.
#[test]
fn a_changed_key_is_executed_in_its_place_between_the_sets() {
    assert_eq!(
        always(&["U 1 a b", "M 1 2 a b", "M 3 1 x y", "U 2 c d", "D 1"]),
        ["update[0, 1, 2] (1 a b 1)", "ordered 1..3", "delete[] (1)", "update[0, 1, 2] (2 c d 2)",]
    );
}

#[test]
fn few_changes_are_executed_as_they_are() {
    let inserts: Vec<_> = (0..8).map(|key| format!("I {key} a b")).collect();
    let inserts: Vec<_> = inserts.iter().map(String::as_str).collect();
    let table = keyed_table();
    assert_eq!(told(&table, &inserts[..3], Coalescing::Auto), ["ordered 0..3"]);
    assert_eq!(told(&table, &inserts[..4], Coalescing::Auto).len(), 1);
    assert_eq!(told(&table, &inserts, Coalescing::Auto).len(), 1);
    assert!(told(&table, &inserts, Coalescing::Auto)[0].starts_with("insert[0, 1, 2] (0"));
    assert_eq!(told(&table, &inserts, Coalescing::Off), ["ordered 0..8"]);
    assert!(told(&table, &[], Coalescing::Always).is_empty());
    // A few among many stand in their place before the others all the same.
    let mixed: Vec<_> = inserts.iter().copied().chain(["D 90", "M 91 92 a b", "D 93"]).collect();
    let found = told(&table, &mixed, Coalescing::Auto);
    assert_eq!(found[0], "delete[]~ (90)");
    assert!(found[1].starts_with("insert[0, 1, 2] (0"));
    assert_eq!(found[2..], ["ordered 9..11"]);
}

/// INV-12
#[test]
fn a_row_with_a_long_value_goes_alone() {
    let table = keyed_table();
    let long = format!("U 1 {} b", "x".repeat(SET_VALUE_BYTES_MAX + 1));
    let log = log(&table, &["U 2 a b", &long, "U 3 a b"]);
    let found = coalesce(&table, &log, Coalescing::Always);
    let key = table.usual_update();
    assert_eq!(
        found,
        [
            Segment::Set(SetWork {
                key: Arc::clone(&key),
                rows: vec![NetRow::Logged(0), NetRow::Logged(2)],
                pace: Pace::Together
            }),
            Segment::Set(SetWork { key, rows: vec![NetRow::Logged(1)], pace: Pace::OneByOne }),
        ]
    );
}

/// INV-6: without a unique index two rows may have one key, and the number of rows touched would prove nothing.
#[test]
fn of_a_table_whose_key_no_index_makes_unique_only_runs_of_inserts_are_sets() {
    let table = TableUnderTest { unique_on_target: false, ..TableUnderTest::default() }.bound();
    let changes = ["I 2 a b", "I 1 a b", "U 1 c d", "D 9", "I 3 a b"];
    assert_eq!(
        told(&table, &changes, Coalescing::Always),
        ["insert[0, 1, 2] (2 a b) (1 a b)", "ordered 2..4", "insert[0, 1, 2] (3 a b)"]
    );
}

/// Trap 22: an identity that is GENERATED ALWAYS; and a column that an insert does not give, which takes its default.
#[test]
fn a_row_that_no_update_can_make_is_deleted_and_inserted() {
    let with_always = TableUnderTest { identity_always: Some(1), ..TableUnderTest::default() };
    let with_extra = TableUnderTest { has_extra_column: true, ..TableUnderTest::default() };
    for table in [with_always.bound(), with_extra.bound()] {
        assert_eq!(
            told(&table, &["D 1", "I 1 a b"], Coalescing::Always),
            ["delete[] (1)", "insert[0, 1, 2] (1 a b)"]
        );
    }
    // What replaces the row stays where it is.
    assert_eq!(
        told(&with_always.bound(), &["D 2", "U 1 a b", "D 3"], Coalescing::Always),
        ["delete[] (2)", "ordered 1..2", "delete[] (3)"]
    );
}

#[test]
fn texts_of_numbers_are_sorted_by_what_they_are_worth_nearly() {
    let found = always(&["D 100", "D 9", "D 20", "D 123456789", "D 123456780"]);
    assert_eq!(found, ["delete[] (9) (20) (100) (123456780) (123456789)"]);
}
