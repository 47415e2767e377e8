//! Whether rows that were there before a schema change hold the same on both sides after it. ALTER TABLE gives existing rows
//! values that the stream does not carry: a default, what an expression computes for each row, nothing where a column was
//! made anew. Where the two catalogs do not prove that both sides gave the same, the table is copied again. Pure.

use crate::model::RecordedColumn;
use crate::source::definition::{ColumnDefinition, TableDefinition};
use crate::target::relations::RelationRecord;

/// The first of the columns about to be accepted whose existing values may differ; `None` if none can.
pub(super) fn column_in_doubt<'a>(
    accepted: &'a [RecordedColumn],
    record: &RelationRecord,
    source: &TableDefinition,
    target: &TableDefinition,
) -> Option<&'a str> {
    let in_doubt = |column: &&RecordedColumn| match before(column, record) {
        // The target's column is not the one that had the values: dropped and added where the source has renamed.
        Some(was) => was.target_number.is_some() && was.target_number != column.target_number,
        // Without a number nothing is known of where it comes from: it may be an old column under a new name.
        None if column.number.is_none() => true,
        None => match (on_source(column, source), on_target(column, target)) {
            (Some(here), Some(there)) => may_differ(here, source, there),
            // The source has gone on: its catalog does not say any more what this column was.
            _ => true,
        },
    };
    accepted.iter().find(in_doubt).map(|column| column.name.as_str())
}

/// A column that is new on the source. What existing rows got there is its missing value (`attmissingval`) or nothing; if the
/// table may have been written anew, anything: a default that was computed for each row leaves no trace once it is dropped.
fn may_differ(here: &ColumnDefinition, source: &TableDefinition, there: &ColumnDefinition) -> bool {
    let has_default = here.expression.is_some() || here.identity.is_some();
    let computed = here.missing_value.is_none() && source.is_rewritten;
    let only_there = there.expression.is_some() && !has_default;
    computed || only_there || here.missing_value != there.missing_value
}

fn before<'a>(column: &RecordedColumn, record: &'a RelationRecord) -> Option<&'a RecordedColumn> {
    record.columns.iter().find(|was| match (was.number, column.number) {
        (Some(was), Some(now)) => was == now,
        _ => was.name == column.name,
    })
}

fn on_source<'a>(column: &RecordedColumn, source: &'a TableDefinition) -> Option<&'a ColumnDefinition> {
    source.columns.iter().find(|found| found.shape.number == column.number)
}

fn on_target<'a>(column: &RecordedColumn, target: &'a TableDefinition) -> Option<&'a ColumnDefinition> {
    target.columns.iter().find(|found| found.shape.number == column.target_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Oid, TableName};
    use crate::target::relations::JoinState;

    fn shape(name: &str, number: i16, target_number: i16) -> RecordedColumn {
        RecordedColumn {
            name: name.into(),
            type_name: "int4".into(),
            modifier: -1,
            number: Some(number),
            target_number: Some(target_number),
        }
    }

    fn record(columns: Vec<RecordedColumn>) -> RelationRecord {
        RelationRecord {
            source_oid: Oid(1),
            name: TableName::new("public", "t"),
            columns,
            target_oid: Some(2),
            state: JoinState::Joined,
            join_lsn: None,
            membership: String::new(),
        }
    }

    /// A table with one column, number 3, with this default and missing value.
    fn table(default: Option<&str>, missing: Option<&str>) -> TableDefinition {
        let column = ColumnDefinition {
            shape: shape("c", 3, 3),
            type_sql: "integer".into(),
            collation: None,
            not_null: false,
            expression: default.map(Into::into),
            generated: false,
            identity: None,
            missing_value: missing.map(Into::into),
        };
        TableDefinition { columns: vec![column], ..TableDefinition::default() }
    }

    #[test]
    fn a_new_column_is_in_doubt_unless_both_sides_gave_existing_rows_the_same() {
        let (accepted, before) = ([shape("c", 3, 3)], record(vec![shape("id", 1, 1)]));
        let rewritten = |mut table: TableDefinition| {
            table.is_rewritten = true;
            table
        };
        for (source, target, in_doubt) in [
            (table(None, None), table(None, None), false),
            (table(Some("now()"), Some("5")), table(Some("now()"), Some("5")), false),
            // Dropped or set afterwards: the catalog of a table never written anew proves it.
            (table(Some("random()"), None), table(Some("random()"), None), false),
            (rewritten(table(None, None)), table(None, None), true),
            (rewritten(table(None, Some("5"))), table(None, Some("5")), false),
            (rewritten(table(Some("random()"), None)), table(Some("random()"), None), true),
            (table(Some("5"), Some("5")), table(Some("5"), None), true),
            (table(Some("5"), Some("5")), table(None, None), true),
            (table(None, None), table(Some("'own'"), None), true),
        ] {
            let found = column_in_doubt(&accepted, &before, &source, &target);
            assert_eq!(found.is_some(), in_doubt, "{source:?} {target:?}");
        }
    }

    #[test]
    fn a_column_made_anew_on_the_target_is_in_doubt_and_a_renamed_one_is_not() {
        let before = record(vec![shape("old", 3, 3)]);
        let definition = table(None, None);
        let doubt = |target_number| {
            column_in_doubt(&[shape("c", 3, target_number)], &before, &definition, &definition).is_some()
        };
        assert!(!doubt(3));
        assert!(doubt(4));
    }
}
