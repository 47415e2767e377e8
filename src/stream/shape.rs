//! Compares a table as the source announces it with the table the target has. Pure. Never guesses: a column that
//! is missing or could change a value on its way is a difference, told with the statement that removes it.

use std::collections::HashMap;

use pgsluice_proto::command::quote_ident;
use pgsluice_proto::pgoutput::{Relation, RelationColumn, TypeInfo};
use tokio_postgres::types::Type;

use crate::model::{Oid, TableName};
use crate::target::{TargetColumn, TargetTable};

/// How the target's table differs from the source's, in words and in SQL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table} differs between source and target: {difference}")]
pub struct ShapeDifference {
    /// The table.
    pub table: TableName,
    /// What differs.
    pub difference: String,
    /// The statement for the target.
    pub remedy: String,
}

/// For each column of the source's relation, the column of the target that takes it.
///
/// # Errors
/// [`ShapeDifference`]: the stream has to wait until the target matches.
pub(super) fn match_columns(
    relation: &Relation,
    types: &HashMap<Oid, TypeInfo>,
    target: Option<&TargetTable>,
) -> Result<Vec<TargetColumn>, ShapeDifference> {
    let table = TableName::new(&relation.schema, &relation.name);
    let Some(target) = target else {
        return Err(ShapeDifference {
            difference: "it does not exist on the target".into(),
            remedy: format!(
                "Create {table} on the target with the source's definition (pg_dump --schema-only --table={table})."
            ),
            table,
        });
    };
    let column_of = |column| match_column(&table, column, types, target);
    relation.columns.iter().map(column_of).collect()
}

fn match_column(
    table: &TableName,
    column: &RelationColumn,
    types: &HashMap<Oid, TypeInfo>,
    target: &TargetTable,
) -> Result<TargetColumn, ShapeDifference> {
    let name = quote_ident(&column.name);
    let source_type = type_name(column, types);
    let Some(found) = target.columns.iter().find(|found| found.name == column.name) else {
        let wanted = source_type.unwrap_or_else(|| "<its type on the source>".into());
        return Err(ShapeDifference {
            table: table.clone(),
            difference: format!("column {name} does not exist on the target"),
            remedy: format!("ALTER TABLE {table} ADD COLUMN {name} {wanted};"),
        });
    };
    if found.generated {
        // The stream carries no generated columns, so this one holds values of its own on the source.
        return Err(ShapeDifference {
            table: table.clone(),
            difference: format!("column {name} is generated on the target and not on the source"),
            remedy: format!("ALTER TABLE {table} ALTER COLUMN {name} DROP EXPRESSION;"),
        });
    }
    if let Some(difference) = type_difference(column, source_type.as_deref(), found) {
        let wanted = source_type.unwrap_or_else(|| "<its type on the source>".into());
        return Err(ShapeDifference {
            table: table.clone(),
            difference: format!("column {name} {difference}"),
            remedy: format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {wanted};"),
        });
    }
    Ok(found.clone())
}

/// Why a value of the source's column may not arrive as it is; `None` if it will.
fn type_difference(
    column: &RelationColumn,
    source_type: Option<&str>,
    found: &TargetColumn,
) -> Option<String> {
    let source_type = source_type?;
    if source_type != found.base_type {
        let loses_nothing = found.type_modifier == -1 && widens(source_type, &found.base_type);
        return (!loses_nothing)
            .then(|| format!("is {source_type} on the source and {} on the target", found.base_type));
    }
    let is_as_wide = found.type_modifier == -1
        || found.type_modifier == column.type_modifier
        || (is_longest(source_type) && (0..=found.type_modifier).contains(&column.type_modifier));
    (!is_as_wide && !found.is_domain).then(|| {
        format!(
            "has type modifier {} on the source and {} on the target",
            column.type_modifier, found.type_modifier
        )
    })
}

/// Whether a type's modifier is a longest length, so that a larger one takes every value unchanged.
fn is_longest(type_name: &str) -> bool {
    matches!(type_name, "varchar" | "varbit")
}

/// Whether every text value of one built-in type is the same value of another.
fn widens(source: &str, target: &str) -> bool {
    matches!(
        (source, target),
        ("int2", "int4" | "int8" | "numeric")
            | ("int4", "int8" | "numeric")
            | ("int8", "numeric")
            | ("varchar" | "name", "text")
            | ("text", "varchar")
    )
}

/// `pg_type.typname` for a built-in type, `schema.name` for another; `None` if the source did not say.
fn type_name(column: &RelationColumn, types: &HashMap<Oid, TypeInfo>) -> Option<String> {
    if let Some(known) = types.get(&column.type_oid) {
        return Some(match known.schema.as_str() {
            "pg_catalog" => known.name.clone(),
            schema => format!("{schema}.{}", known.name),
        });
    }
    Type::from_oid(column.type_oid.0).map(|known| known.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{ColumnIdentity, TableKind};
    use pgsluice_proto::pgoutput::ReplicaIdentity;

    fn relation(columns: &[(&str, u32, i32)]) -> Relation {
        Relation {
            id: Oid(16_400),
            schema: "public".into(),
            name: "orders".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: columns
                .iter()
                .map(|(name, oid, modifier)| RelationColumn {
                    key: *name == "id",
                    name: (*name).into(),
                    type_oid: Oid(*oid),
                    type_modifier: *modifier,
                })
                .collect(),
        }
    }

    fn target(columns: &[(&str, &str, i32)]) -> TargetTable {
        TargetTable {
            name: TableName::new("public", "orders"),
            kind: TableKind::Ordinary,
            primary_key: vec!["id".into()],
            columns: columns
                .iter()
                .map(|(name, base_type, modifier)| TargetColumn {
                    name: (*name).into(),
                    cast: format!("pg_catalog.{base_type}"),
                    equality: "=".into(),
                    base_type: (*base_type).into(),
                    type_modifier: *modifier,
                    is_domain: false,
                    generated: *name == "total",
                    identity: ColumnIdentity::None,
                })
                .collect(),
        }
    }

    const INT4: u32 = 23;
    const NUMERIC: u32 = 1700;
    const VARCHAR: u32 = 1043;

    #[test]
    fn columns_are_matched_by_name_in_any_order_and_those_of_the_target_alone_are_left_out() {
        let relation = relation(&[("id", INT4, -1), ("price", NUMERIC, -1)]);
        let target = target(&[
            ("total", "numeric", -1),
            ("extra", "text", -1),
            ("price", "numeric", -1),
            ("id", "int4", -1),
        ]);
        let matched = match_columns(&relation, &HashMap::new(), Some(&target)).expect("they match");
        let names: Vec<_> = matched.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["id", "price"]);
    }

    #[test]
    fn a_column_that_only_the_target_generates_is_a_difference() {
        let relation = relation(&[("id", INT4, -1), ("total", NUMERIC, -1)]);
        let target = target(&[("id", "int4", -1), ("total", "numeric", -1)]);
        let error = match_columns(&relation, &HashMap::new(), Some(&target)).expect_err("total");
        assert!(error.remedy.ends_with("DROP EXPRESSION;"), "{}", error.remedy);
    }

    #[test]
    fn a_longer_varchar_takes_every_value_and_a_shorter_one_does_not() {
        let matched = |source, target_modifier| {
            let target = target(&[("note", "varchar", target_modifier)]);
            match_columns(&relation(&[("note", VARCHAR, source)]), &HashMap::new(), Some(&target)).is_ok()
        };
        assert!(matched(14, 24) && matched(14, 14) && matched(14, -1) && matched(-1, -1));
        assert!(!matched(14, 9) && !matched(-1, 24));
    }

    #[test]
    fn a_missing_column_names_the_statement_that_adds_it() {
        let relation = relation(&[("id", INT4, -1), ("note", 25, -1)]);
        let error = match_columns(&relation, &HashMap::new(), Some(&target(&[("id", "int4", -1)])))
            .expect_err("note");
        assert_eq!(error.remedy, "ALTER TABLE \"public\".\"orders\" ADD COLUMN \"note\" text;");
    }

    #[test]
    fn a_column_that_would_round_or_change_values_is_a_difference() {
        let narrower = target(&[("id", "int4", -1), ("price", "numeric", 655_366)]);
        assert!(
            match_columns(&relation(&[("price", NUMERIC, -1)]), &HashMap::new(), Some(&narrower)).is_err()
        );
        let other = target(&[("price", "float8", -1)]);
        assert!(match_columns(&relation(&[("price", NUMERIC, -1)]), &HashMap::new(), Some(&other)).is_err());
        let wider = target(&[("id", "int8", -1)]);
        assert!(match_columns(&relation(&[("id", INT4, -1)]), &HashMap::new(), Some(&wider)).is_ok());
    }

    #[test]
    fn a_missing_table_is_told_as_such() {
        let error = match_columns(&relation(&[]), &HashMap::new(), None).expect_err("no table");
        assert!(error.to_string().contains("does not exist on the target"));
    }
}
