//! Differences of definition in words for a person, and as the statements that remove them from the target, to be run
//! there as they are: what is to be known beside is in SQL comments. Pure. Row values are not in them (INV-10); a column's
//! default and the value it was added with are part of its definition.

use std::fmt::Write as _;

use pgsluice_proto::command::{quote_ident, quote_literal};

use super::shape::Change;
use crate::model::TableName;
use crate::source::definition::{ColumnDefinition, TableDefinition};

/// How the target's table differs from the source's, in words and in SQL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table} differs between source and target: {difference}")]
pub struct ShapeDifference {
    /// The table, as the source calls it.
    pub table: TableName,
    /// What differs.
    pub difference: String,
    /// The statements for the target.
    pub remedy: String,
}

/// What the differences of one table are told with.
#[derive(Debug)]
pub(super) struct Told<'a> {
    /// Its name on the source.
    pub source: &'a TableName,
    /// Its name on the target, where there is one.
    pub target: &'a TableName,
    /// Another table of the target has the name that is wanted.
    pub name_is_taken: bool,
    /// The source's definition, if its catalog could be asked.
    pub definition: Option<&'a TableDefinition>,
}

impl Told<'_> {
    /// Puts differences into words and statements, in an order in which they can be run.
    pub(super) fn tell(&self, changes: &[Change]) -> ShapeDifference {
        let difference: Vec<_> = changes.iter().map(|change| self.words(change)).collect();
        let mut sql = String::new();
        // A name has to be free before something else gets it.
        for change in changes.iter().filter(|change| matches!(change, Change::Dropped { .. })) {
            self.statement(change, &mut sql);
        }
        self.renames(changes, &mut sql);
        for change in changes {
            if !matches!(change, Change::Dropped { .. } | Change::Renamed { .. } | Change::TableRenamed) {
                self.statement(change, &mut sql);
            }
        }
        if changes.contains(&Change::TableRenamed) {
            self.rename_table(&mut sql);
        }
        let remedy = sql.trim_end().to_owned();
        ShapeDifference { table: self.source.clone(), difference: difference.join("; "), remedy }
    }

    fn words(&self, change: &Change) -> String {
        match change {
            Change::NoTable => "it does not exist on the target".into(),
            Change::TableGone => "the table that had its rows is gone from the target".into(),
            Change::TableRenamed => {
                format!("it was renamed on the source, and is still called {} on the target", self.target)
            }
            Change::Added { column, .. } => {
                format!("column {} does not exist on the target", quote_ident(column))
            }
            Change::Dropped { column } => {
                format!(
                    "column {} was dropped on the source and is still there on the target",
                    quote_ident(column)
                )
            }
            Change::Renamed { from, to } => {
                format!(
                    "column {} of the target was renamed to {} on the source",
                    quote_ident(from),
                    quote_ident(to)
                )
            }
            Change::Retyped { column, how, .. } => format!("column {} {how}", quote_ident(column)),
            Change::Moved { column, .. } => format!(
                "column {} is at another place on the source: it was dropped and added again, or columns have \
                 exchanged their names",
                quote_ident(column)
            ),
            Change::Generated { column } => {
                format!("column {} is generated on the target and not on the source", quote_ident(column))
            }
            Change::NeedsValue { column } => format!(
                "column {} exists only on the target, and no row is accepted without a value for it",
                quote_ident(column)
            ),
        }
    }

    fn statement(&self, change: &Change, sql: &mut String) {
        let table = self.target;
        let written = match change {
            Change::NoTable => self.create_table(sql),
            Change::TableGone => writeln!(
                sql,
                "-- Its rows are gone with it: copy the table again with pgsluice tables add {}",
                self.source.plain()
            ),
            Change::Added { column, type_name } => self.add_column(column, type_name, sql),
            Change::Dropped { column } => {
                writeln!(sql, "ALTER TABLE {table} DROP COLUMN {};", quote_ident(column))
            }
            Change::Retyped { column, type_name, .. } => self.alter_type(column, type_name, sql),
            Change::Moved { column, type_name } => {
                let quoted = quote_ident(column);
                let _ = writeln!(
                    sql,
                    "-- If {quoted} was renamed on the source, rename the target's columns alike, and run none of this.\n\
                     ALTER TABLE {table} DROP COLUMN {quoted};"
                );
                self.add_column(column, type_name, sql)
            }
            Change::Generated { column } => {
                writeln!(sql, "ALTER TABLE {table} ALTER COLUMN {} DROP EXPRESSION;", quote_ident(column))
            }
            Change::NeedsValue { column } => {
                writeln!(sql, "ALTER TABLE {table} ALTER COLUMN {} DROP NOT NULL;", quote_ident(column))
            }
            Change::Renamed { .. } | Change::TableRenamed => Ok(()),
        };
        // Writing to a String does not fail.
        let _ = written;
    }

    /// Names may be exchanged in any way, so all of them pass through names that nobody has.
    fn renames(&self, changes: &[Change], sql: &mut String) {
        let table = self.target;
        let pairs: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Renamed { from, to } => Some((from, to)),
                _ => None,
            })
            .collect();
        let exchanged = pairs.iter().any(|(_, to)| pairs.iter().any(|(from, _)| from == to));
        let mut rename = |from: &str, to: &str| {
            let (from, to) = (quote_ident(from), quote_ident(to));
            let _ = writeln!(sql, "ALTER TABLE {table} RENAME COLUMN {from} TO {to};");
        };
        if !exchanged {
            pairs.iter().for_each(|(from, to)| rename(from, to));
            return;
        }
        let aside = |place: usize| format!("pgsluice_renamed_{place}");
        pairs.iter().enumerate().for_each(|(place, (from, _))| rename(from, &aside(place)));
        pairs.iter().enumerate().for_each(|(place, (_, to))| rename(&aside(place), to));
    }

    fn rename_table(&self, sql: &mut String) {
        let (from, to) = (self.target, self.source);
        let _ = if self.name_is_taken {
            writeln!(
                sql,
                "-- The target's table of that name is another one on the source: it gets its new name when the stream \
                 comes to it.\nALTER TABLE {to} RENAME TO {};",
                quote_ident(&format!("{:.50}_moved_aside", to.name))
            )
        } else {
            Ok(())
        };
        let mut at = from.clone();
        if from.schema != to.schema {
            let schema = quote_ident(&to.schema);
            let _ = writeln!(
                sql,
                "CREATE SCHEMA IF NOT EXISTS {schema};\nALTER TABLE {from} SET SCHEMA {schema};"
            );
            at.schema.clone_from(&to.schema);
        }
        if from.name != to.name {
            let _ = writeln!(sql, "ALTER TABLE {at} RENAME TO {};", quote_ident(&to.name));
        }
    }

    fn create_table(&self, sql: &mut String) -> std::fmt::Result {
        let table = self.source;
        let Some(definition) = self.definition else {
            return writeln!(
                sql,
                "-- Create {table} on the target with the source's definition (pg_dump --schema-only --table='{table}')."
            );
        };
        let key =
            definition.partition_key.as_ref().map_or_else(String::new, |key| format!(" PARTITION BY {key}"));
        if let Some((parent, bound)) = &definition.partition_of {
            return writeln!(sql, "CREATE TABLE {table} PARTITION OF {parent} {bound}{key};");
        }
        let mut parts: Vec<_> = definition.columns.iter().map(whole_column).collect();
        parts.extend(
            definition
                .constraints
                .iter()
                .map(|(name, constraint)| format!("CONSTRAINT {} {constraint}", quote_ident(name))),
        );
        writeln!(
            sql,
            "CREATE SCHEMA IF NOT EXISTS {};\nCREATE TABLE {table} (\n    {}\n){key};",
            quote_ident(&table.schema),
            parts.join(",\n    ")
        )
    }

    fn add_column(&self, column: &str, type_name: &str, sql: &mut String) -> std::fmt::Result {
        let (table, name) = (self.target, quote_ident(column));
        let Some(found) = self.definition.and_then(|definition| definition.column(column)) else {
            return writeln!(
                sql,
                "ALTER TABLE {table} ADD COLUMN {name} {type_name};\n-- The source's catalog does not know this column (any more): \
                 see there whether it has a default."
            );
        };
        let typed = typed(found);
        if let Some(identity) = found.identity {
            writeln!(sql, "ALTER TABLE {table} ADD COLUMN {name} {typed} GENERATED {identity} AS IDENTITY;")?;
            return self.copy_again(&name, sql);
        }
        let Some(missing) = &found.missing_value else {
            writeln!(sql, "ALTER TABLE {table} ADD COLUMN {name} {typed};")?;
            if let Some(default) = &found.expression {
                writeln!(sql, "ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {default};")?;
                self.copy_again(&name, sql)?;
            }
            if found.not_null {
                writeln!(
                    sql,
                    "-- Once every row has a value: ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL;"
                )?;
            }
            return Ok(());
        };
        let not_null = if found.not_null { " NOT NULL" } else { "" };
        let value = quote_literal(missing);
        writeln!(sql, "ALTER TABLE {table} ADD COLUMN {name} {typed} DEFAULT {value}{not_null};")?;
        match &found.expression {
            Some(default) => writeln!(sql, "ALTER TABLE {table} ALTER COLUMN {name} SET DEFAULT {default};"),
            None => writeln!(sql, "ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT;"),
        }
    }

    fn copy_again(&self, name: &str, sql: &mut String) -> std::fmt::Result {
        writeln!(
            sql,
            "-- Rows that were there when {name} was added may have got values on the source that are not in the stream: if so, \
             the table is copied again by itself."
        )
    }

    fn alter_type(&self, column: &str, type_name: &str, sql: &mut String) -> std::fmt::Result {
        let (table, name) = (self.target, quote_ident(column));
        let found = self.definition.and_then(|definition| definition.column(column));
        let (wanted, cast) = match found {
            Some(found) => (typed(found), found.type_sql.as_str()),
            None => (type_name.to_owned(), type_name),
        };
        let change = format!("ALTER COLUMN {name} TYPE {wanted} USING {name}::{cast}");
        match found.and_then(|found| found.expression.as_ref()) {
            Some(default) => writeln!(
                sql,
                "ALTER TABLE {table} ALTER COLUMN {name} DROP DEFAULT, {change}, ALTER COLUMN {name} SET DEFAULT {default};"
            )?,
            None => writeln!(sql, "ALTER TABLE {table} {change};")?,
        }
        writeln!(
            sql,
            "-- If the source's ALTER TABLE had another USING clause, use that one: what it made of existing rows is not in the stream."
        )
    }
}

fn typed(column: &ColumnDefinition) -> String {
    match &column.collation {
        Some(collation) => format!("{} COLLATE {collation}", column.type_sql),
        None => column.type_sql.clone(),
    }
}

fn whole_column(column: &ColumnDefinition) -> String {
    let mut sql = format!("{} {}", quote_ident(&column.shape.name), typed(column));
    let _ = match (&column.expression, column.identity) {
        (Some(expression), _) if column.generated => {
            write!(sql, " GENERATED ALWAYS AS ({expression}) STORED")
        }
        (Some(default), _) => write!(sql, " DEFAULT {default}"),
        (None, Some(identity)) => write!(sql, " GENERATED {identity} AS IDENTITY"),
        (None, None) => Ok(()),
    };
    if column.not_null {
        sql.push_str(" NOT NULL");
    }
    sql
}

/// What the target refuses to take although the source has it: the definitions' differences that can explain it, and the
/// statements that remove them. Nothing if there is no such difference.
pub(super) fn explain_refusal(
    table: &TableName,
    source: &TableDefinition,
    target: &TableDefinition,
) -> (Vec<String>, Vec<String>) {
    let (mut words, mut sql) = (Vec::new(), Vec::new());
    for (name, labels) in &source.enums {
        let statements = target.enums.get(name).map(|known| enum_statements(name, labels, known));
        if let Some(statements) = statements.filter(|statements| !statements.is_empty()) {
            words.push(format!("the labels of type {name} differ"));
            sql.extend(statements);
        }
    }
    for column in &target.columns {
        let name = quote_ident(&column.shape.name);
        let Some(found) = source.column(&column.shape.name) else { continue };
        if column.not_null && !found.not_null {
            words.push(format!("column {name} is NOT NULL on the target only"));
            sql.push(format!("ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL;"));
        }
        if column.type_sql != found.type_sql {
            words.push(format!(
                "column {name} is {} on the source and {} on the target",
                found.type_sql, column.type_sql
            ));
            let wanted = typed(found);
            sql.push(format!(
                "ALTER TABLE {table} ALTER COLUMN {name} TYPE {wanted} USING {name}::{};",
                found.type_sql
            ));
        }
    }
    for (name, constraint) in &target.constraints {
        if source.constraints.get(name) != Some(constraint) && constraint.starts_with("CHECK") {
            let name = quote_ident(name);
            words.push(format!("constraint {name} is on the target only, or is another one there"));
            sql.push(format!("ALTER TABLE {table} DROP CONSTRAINT {name};"));
        }
    }
    for ((domain, name), constraint) in &target.domain_constraints {
        if source.domain_constraints.get(&(domain.clone(), name.clone())) != Some(constraint) {
            let name = quote_ident(name);
            words.push(format!(
                "constraint {name} of domain {domain} is on the target only, or is another one there"
            ));
            sql.push(format!("ALTER DOMAIN {domain} DROP CONSTRAINT {name};"));
        }
    }
    (words, sql)
}

/// The statements that give the target's enum the source's labels, in the source's order. One label for another at the
/// same place is a rename.
pub(super) fn enum_statements(name: &str, source: &[String], target: &[String]) -> Vec<String> {
    let mut known = target.to_vec();
    let mut sql = Vec::new();
    if source.len() == target.len() {
        for (wanted, found) in source.iter().zip(known.iter_mut()) {
            if wanted != found && !target.contains(wanted) && !source.contains(found) {
                sql.push(format!(
                    "ALTER TYPE {name} RENAME VALUE {} TO {};",
                    quote_literal(found),
                    quote_literal(wanted)
                ));
                found.clone_from(wanted);
            }
        }
    }
    let mut before: Option<&String> = None;
    for wanted in source {
        if !known.contains(wanted) {
            let place = match (before, known.first()) {
                (Some(before), _) => format!(" AFTER {}", quote_literal(before)),
                (None, Some(first)) => format!(" BEFORE {}", quote_literal(first)),
                (None, None) => String::new(),
            };
            sql.push(format!("ALTER TYPE {name} ADD VALUE {}{place};", quote_literal(wanted)));
            let at = before
                .and_then(|before| known.iter().position(|label| label == before))
                .map_or(0, |place| place + 1);
            known.insert(at, wanted.clone());
        }
        before = Some(wanted);
    }
    sql
}

#[cfg(test)]
#[path = "remedy_tests.rs"]
mod tests;
