//! Looks whether a schema that somebody else made on the target can take the source's rows: every table, every
//! column, types that go together, nothing mandatory that the source cannot fill. Reads only.

use std::collections::BTreeMap;

use super::SchemaError;
use crate::connection::SqlSession;
use crate::model::{STORED_MODIFIER, STORED_TYPE, Side, StoredType, TableName};
use crate::preflight::{Finding, Severity};
use crate::source::{SourceColumn, SourceTable, TableKind};

/// What a finding of [`compare_existing`] is called.
const ID: &str = "target.schema";

/// A column as the target has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ExistingColumn {
    type_name: String,
    stored: StoredType,
    is_generated: bool,
    /// NOT NULL, and neither default nor identity fills it.
    is_mandatory: bool,
}

type ExistingColumns = BTreeMap<String, ExistingColumn>;

/// Compares the source's tables with those on the target (`schema.mode = "existing"`).
///
/// # Errors
/// [`SchemaError::Sql`].
pub async fn compare_existing(
    target: &SqlSession,
    tables: &[SourceTable],
) -> Result<Vec<Finding>, SchemaError> {
    let wanted: Vec<&SourceTable> = tables.iter().filter(|table| table.is_logged()).collect();
    let existing = read_existing(target, &wanted).await?;
    Ok(wanted.iter().flat_map(|table| compare(table, existing.get(&table.name))).collect())
}

async fn read_existing(
    target: &SqlSession,
    tables: &[&SourceTable],
) -> Result<BTreeMap<TableName, ExistingColumns>, SchemaError> {
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    let rows = target
        .query(
            &format!(
                "SELECT n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
                    a.attgenerated <> '', a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
                    base.type_name, {STORED_MODIFIER}
               FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace
               LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               LEFT JOIN {STORED_TYPE}
              WHERE c.relkind IN ('r', 'p') AND c.oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)"
            ),
            &[&names],
        )
        .await
        .map_err(SchemaError::on(Side::Target))?;
    let mut existing: BTreeMap<TableName, ExistingColumns> = BTreeMap::new();
    for row in rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let columns = existing.entry(table).or_default();
        // A table without columns is one row without a column.
        if let Some(name) = row.get::<_, Option<String>>(2) {
            let column = ExistingColumn {
                type_name: row.get(3),
                stored: StoredType { name: row.get(6), modifier: row.get(7) },
                is_generated: row.get(4),
                is_mandatory: row.get(5),
            };
            columns.insert(name, column);
        }
    }
    Ok(existing)
}

fn compare(table: &SourceTable, existing: Option<&ExistingColumns>) -> Vec<Finding> {
    let Some(existing) = existing else {
        if let TableKind::Partition { root } = &table.kind {
            return vec![missing_partition(&table.name, root)];
        }
        return vec![finding(
            &table.name,
            Severity::Blocker,
            "The table does not exist on the target, so its rows have nowhere to go.".to_owned(),
            "Create it as it is on the source, set schema.mode = \"copy\", or leave it out with \
             source.tables.exclude."
                .to_owned(),
        )];
    };
    let of_source = table.copied_columns().filter_map(|column| compare_column(&table.name, column, existing));
    let unfilled = existing.iter().filter_map(|(name, column)| {
        let is_filled = table.columns.iter().any(|column| column.name == *name) || !column.is_mandatory;
        (!is_filled).then(|| unfilled_column(&table.name, name))
    });
    of_source.chain(unfilled).collect()
}

/// Rows are copied, and changes come, by partition. Where the target has none of that name there is no telling which rows
/// a TRUNCATE of the partition means.
fn missing_partition(partition: &TableName, root: &TableName) -> Finding {
    finding(
        partition,
        Severity::Blocker,
        format!(
            "The partition of {} does not exist on the target, and its rows and changes come under its own name.",
            root.plain()
        ),
        format!(
            "Give {root} on the target the source's partitions (pg_dump --schema-only), and partition it otherwise after the cutover; or leave {} out with source.tables.exclude.",
            root.plain()
        ),
    )
}

fn compare_column(table: &TableName, column: &SourceColumn, existing: &ExistingColumns) -> Option<Finding> {
    let name = &column.name;
    match existing.get(name) {
        None => Some(finding(
            table,
            Severity::Blocker,
            format!("Column {name} ({}) is missing on the target.", column.type_name),
            format!("ALTER TABLE {table} ADD COLUMN {} {};", quoted(name), column.type_name),
        )),
        Some(found) if found.is_generated => Some(finding(
            table,
            Severity::Blocker,
            format!(
                "Column {name} is generated on the target and not on the source, so it cannot be written."
            ),
            format!("ALTER TABLE {table} ALTER COLUMN {} DROP EXPRESSION;", quoted(name)),
        )),
        Some(found) if !found.stored.takes_every_value_of(&column.stored) => Some(finding(
            table,
            Severity::Blocker,
            format!(
                "Column {name} is {} on the target and {} on the source: values could be rounded, cut or changed on \
                 their way, without any error.",
                found.type_name, column.type_name
            ),
            format!("ALTER TABLE {table} ALTER COLUMN {} TYPE {};", quoted(name), column.type_name),
        )),
        Some(found) if found.type_name != column.type_name => Some(finding(
            table,
            Severity::Warning,
            format!(
                "Column {name} is {} on the target and {} on the source: every value fits the type; one that a \
                 constraint of the target refuses stops the migration.",
                found.type_name, column.type_name
            ),
            format!("ALTER TABLE {table} ALTER COLUMN {} TYPE {};", quoted(name), column.type_name),
        )),
        Some(_) => None,
    }
}

fn unfilled_column(table: &TableName, name: &str) -> Finding {
    finding(
        table,
        Severity::Blocker,
        format!(
            "Column {name} of the target is NOT NULL without default, and the source has no such column."
        ),
        format!("ALTER TABLE {table} ALTER COLUMN {} DROP NOT NULL; -- or give it a default", quoted(name)),
    )
}

fn quoted(name: &str) -> String {
    pgsluice_proto::command::quote_ident(name)
}

fn finding(table: &TableName, severity: Severity, finding: String, remedy: String) -> Finding {
    Finding { id: ID, severity, subject: table.plain(), finding, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn existing(columns: &[(&str, &str)]) -> ExistingColumns {
        let column = |kind: &str| ExistingColumn {
            type_name: kind.to_owned(),
            stored: StoredType { name: stored_name(kind).to_owned(), modifier: -1 },
            is_generated: false,
            is_mandatory: false,
        };
        columns.iter().map(|(name, kind)| ((*name).to_owned(), column(kind))).collect()
    }

    fn stored_name(kind: &str) -> &str {
        match kind {
            "bigint" => "int8",
            "integer" => "int4",
            other => other,
        }
    }

    fn orders() -> SourceTable {
        SourceTable::sample(TableName::new("public", "orders"))
    }

    #[test]
    fn the_same_columns_in_any_order_are_fine() {
        assert_eq!(compare(&orders(), Some(&existing(&[("note", "text"), ("id", "bigint")]))), []);
    }

    #[test]
    fn a_missing_table_and_a_missing_column_block() {
        assert_eq!(compare(&orders(), None)[0].severity, Severity::Blocker);
        let findings = compare(&orders(), Some(&existing(&[("id", "bigint")])));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, Severity::Blocker);
        assert_eq!(findings[0].remedy, r#"ALTER TABLE "public"."orders" ADD COLUMN "note" text;"#);
    }

    #[test]
    fn a_wider_type_warns_and_a_narrower_one_and_what_the_source_cannot_fill_block() {
        let mut columns = existing(&[("id", "numeric"), ("note", "text"), ("extra", "text")]);
        if let Some(extra) = columns.get_mut("extra") {
            extra.is_mandatory = true;
        }
        let severities: Vec<_> =
            compare(&orders(), Some(&columns)).iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Warning, Severity::Blocker]);
        let narrower = existing(&[("id", "integer"), ("note", "text")]);
        assert_eq!(compare(&orders(), Some(&narrower))[0].severity, Severity::Blocker);
    }
}
