//! The text of a statement that does many changes of one kind at once: each column of the set is one array parameter.
//! Columns whose types have no arrays come together, in one array of rows of the table itself. Every row given must meet
//! exactly one row of the table, which the number of rows touched shows only where a unique index allows no two rows
//! for one key; other tables have no such statement.

use std::collections::HashMap;
use std::sync::Arc;

use pgsluice_proto::command::quote_ident;

use crate::target::{ArrayForm, TargetColumn, TargetTable};

use super::row_sql::is_equal_to_others;
use super::{BoundChange, BoundTable, RowMatch, RowOp, StatementKey, ValueForm};

/// A statement over a set of rows: it must touch as many rows as it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::stream) struct SetStatement {
    /// Its text.
    pub sql: String,
    /// Its parameters, in order.
    pub parameters: Vec<SetParameter>,
    /// The form of every value in it.
    pub form: ValueForm,
}

/// An array parameter of a [`SetStatement`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::stream) enum SetParameter {
    /// What each change has in one column.
    Column {
        /// Which of a change's values it takes.
        position: usize,
        /// What stands between the elements of its text form.
        delimiter: u8,
    },
    /// Rows of the table itself, in binary form, with all its columns in their order.
    Rows(Vec<RowColumn>),
}

/// A column of a row of the table, as a parameter has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stream) struct RowColumn {
    /// `attnum`
    pub number: i16,
    /// `atttypid`
    pub type_oid: u32,
    /// Which of a change's values it takes; without one it is NULL.
    pub position: Option<usize>,
}

impl SetStatement {
    /// The columns that are received by whatever type the table has for them at that moment, and the types that they must
    /// have, as [`BoundTable::copied_types`].
    #[must_use]
    pub(in crate::stream) fn received_types(&self) -> Vec<(i16, u32)> {
        let columns = self.parameters.iter().flat_map(|parameter| match parameter {
            SetParameter::Column { .. } => &[],
            SetParameter::Rows(columns) => columns.as_slice(),
        });
        let received = columns.filter(|column| column.position.is_some());
        received.map(|column| (column.number, column.type_oid)).collect()
    }
}

impl BoundTable {
    /// The statement for many changes with this key; `None` if there is none, and the rows go one by one.
    #[must_use]
    pub(in crate::stream) fn set_statement(
        &self,
        key: &StatementKey,
        form: ValueForm,
    ) -> Option<SetStatement> {
        let mut arrays = Arrays::new(&self.target, form);
        let sql = match key.op {
            RowOp::Insert => self.insert_set_sql(&key.written, &mut arrays)?,
            RowOp::Update => self.update_set_sql(&key.written, &mut arrays)?,
            RowOp::Delete => {
                let found = self.find_set_sql(0, &mut arrays)?;
                format!("DELETE FROM {} AS t USING {} WHERE {found}", self.only(), arrays.rows_sql()?)
            }
        };
        Some(SetStatement { sql, parameters: arrays.parameters, form })
    }

    /// Whether no two rows of the table can have equal values in the columns that find a row.
    #[must_use]
    pub(in crate::stream) fn finds_one_row(&self) -> bool {
        let is_in_key = |number: &i16| {
            let mut key = self.key.iter().filter_map(|index| self.column(*index));
            key.any(|column| column.number == *number && !is_equal_to_others(column))
        };
        self.row_match == RowMatch::Key && self.target.unique.iter().any(|index| index.iter().all(is_in_key))
    }

    /// Whether no set may hold this change: its row has another key afterwards, or is another row altogether.
    #[must_use]
    pub(in crate::stream) fn must_stay_in_order(&self, change: &BoundChange) -> bool {
        if change.key.op != RowOp::Update {
            return false;
        }
        let written = &change.key.written;
        let mut key = (written.len()..).zip(&self.key);
        self.replaces_row(written)
            || key.any(|(found_by, index)| {
                written
                    .binary_search(index)
                    .is_ok_and(|place| change.values.get(place) != change.values.get(found_by))
            })
    }

    /// Whether an update of all the columns that an insert gives makes a row like the insert.
    #[must_use]
    pub(in crate::stream) fn can_replace_in_place(&self) -> bool {
        // A column that an insert does not give would keep its value instead of taking its default.
        let own = self.target.columns.iter().filter(|column| !column.generated).count();
        !self.has_identity_always && own == self.columns.len()
    }

    /// The key of every insert.
    #[must_use]
    pub(in crate::stream) fn usual_insert(&self) -> Arc<StatementKey> {
        Arc::clone(&self.usual.insert)
    }

    /// The key of an update that writes all columns.
    #[must_use]
    pub(in crate::stream) fn usual_update(&self) -> Arc<StatementKey> {
        Arc::clone(&self.usual.update)
    }

    /// The key of every delete.
    #[must_use]
    pub(in crate::stream) fn usual_delete(&self) -> Arc<StatementKey> {
        Arc::clone(&self.usual.delete)
    }

    /// Whether, of two values of this column of the key, the longer one is likely the greater.
    #[must_use]
    pub(in crate::stream) fn key_sorts_by_length(&self, place: usize) -> bool {
        self.key_sorts_by_length.get(place).copied().unwrap_or(false)
    }

    fn insert_set_sql(&self, written: &[u16], arrays: &mut Arrays) -> Option<String> {
        if written.is_empty() {
            return None;
        }
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (position, index) in written.iter().enumerate() {
            let column = self.column(*index)?;
            names.push(quote_ident(&column.name));
            values.push(arrays.add(column, position)?);
        }
        Some(format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
            self.target.name,
            names.join(", "),
            values.join(", "),
            arrays.rows_sql()?
        ))
    }

    /// The key's columns have not changed, or it would not be a set's change: they are left alone.
    fn update_set_sql(&self, written: &[u16], arrays: &mut Arrays) -> Option<String> {
        if written.is_empty() || self.replaces_row(written) {
            return None;
        }
        let mut assignments = Vec::new();
        for (position, index) in written.iter().enumerate().filter(|(_, index)| !self.key.contains(index)) {
            let column = self.column(*index)?;
            let value = arrays.add(column, position)?;
            assignments.push(format!("{} = {value}", quote_ident(&column.name)));
        }
        if assignments.is_empty() {
            let name = quote_ident(self.column_name(*written.first()?));
            assignments.push(format!("{name} = t.{name}"));
        }
        let found = self.find_set_sql(written.len(), arrays)?;
        Some(format!(
            "UPDATE {} AS t SET {} FROM {} WHERE {found}",
            self.only(),
            assignments.join(", "),
            arrays.rows_sql()?
        ))
    }

    /// The condition that finds the rows, by values from position `first` on.
    fn find_set_sql(&self, first: usize, arrays: &mut Arrays) -> Option<String> {
        if !self.finds_one_row() {
            return None;
        }
        let mut terms = Vec::new();
        for (position, index) in (first..).zip(&self.key) {
            let column = self.column(*index)?;
            let value = arrays.add(column, position)?;
            let name = self.compared(column);
            terms.push(format!("t.{name} {} {value}", column.equality));
        }
        Some(terms.join(" AND "))
    }
}

/// The arrays of a statement as they are added to it.
struct Arrays<'a> {
    target: &'a TargetTable,
    form: ValueForm,
    selected: Vec<String>,
    parameters: Vec<SetParameter>,
    /// What a row of the table would have to hold of the set: by `attnum`, which of a change's values.
    in_rows: HashMap<i16, usize>,
    /// Whether a column of the set comes in rows of the table.
    needs_rows: bool,
}

impl<'a> Arrays<'a> {
    fn new(target: &'a TargetTable, form: ValueForm) -> Self {
        let (selected, parameters, in_rows) = (Vec::new(), Vec::new(), HashMap::new());
        Self { target, form, selected, parameters, in_rows, needs_rows: false }
    }

    /// A column of the set: how its value is written.
    fn add(&mut self, column: &TargetColumn, position: usize) -> Option<String> {
        if column.is_domain {
            // A domain may refuse NULL: it has its value in a row, although that is not read from there.
            self.in_rows.insert(column.number, position);
        }
        let place = self.parameters.len() + 1;
        let (array, value, delimiter) = match (column.array, self.form) {
            (ArrayForm::OfType { delimiter }, _) => (column.cast.as_str(), format!("v.c{place}"), delimiter),
            (ArrayForm::OfText, ValueForm::Text) => {
                ("pg_catalog.text", format!("v.c{place}::{}", column.cast), b',')
            }
            (ArrayForm::OfText | ArrayForm::None, ValueForm::Binary) => {
                self.in_rows.insert(column.number, position);
                self.needs_rows = true;
                let field = format!("(v.r).{}", quote_ident(&column.name));
                return Some(if column.is_domain { format!("{field}::{}", column.cast) } else { field });
            }
            (ArrayForm::None, ValueForm::Text) => return None,
        };
        self.selected.push(format!("pg_catalog.unnest(${place}::{array}[]) AS c{place}"));
        self.parameters.push(SetParameter::Column { position, delimiter });
        Some(value)
    }

    /// The set as a table, when all its columns are added. The arrays stand in the list of what is selected: after FROM,
    /// an array of a row type would become as many columns as the type has.
    fn rows_sql(&mut self) -> Option<String> {
        if self.needs_rows {
            let columns =
                self.target.columns.iter().map(|column| self.row_column(column)).collect::<Option<_>>()?;
            self.parameters.push(SetParameter::Rows(columns));
            let (place, table) = (self.parameters.len(), &self.target.name);
            self.selected.push(format!("pg_catalog.unnest(${place}::{table}[]) AS r"));
        }
        Some(format!("(SELECT {}) AS v", self.selected.join(", ")))
    }

    /// `None` for a column that may not be NULL there and has no value.
    fn row_column(&self, column: &TargetColumn) -> Option<RowColumn> {
        let position = self.in_rows.get(&column.number).copied();
        let may_be_null = !column.is_domain;
        (position.is_some() || may_be_null).then_some(RowColumn {
            number: column.number,
            type_oid: column.type_oid,
            position,
        })
    }
}
