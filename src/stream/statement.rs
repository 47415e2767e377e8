//! Turns a row change into a statement and its parameters: what is written, how the row is found, how many rows it
//! must touch. Pure. A value is never parsed, and an unchanged value out of line can never become NULL, because
//! [`BindValue`] has no form for it (trap 10).

use bytes::Bytes;
use pgsluice_proto::command::quote_ident;
use pgsluice_proto::pgoutput::{OldTuple, Relation, ReplicaIdentity, Tuple, TupleValue};

use crate::model::{Oid, TableName};
use crate::target::{ColumnIdentity, TableKind, TargetColumn, TargetTable};

use super::assemble::RowChange;

/// Types, by `pg_type.typname`, whose stored image follows from what they print, whichever way a value came in; so it is
/// with their arrays. Others print alike and differ: NaN has many images, a query's operands stand in any order, `0` is
/// equal to `-0`.
const ONE_IMAGE_PER_PRINT: [&str; 32] = [
    "bit",
    "bool",
    "bpchar",
    "bytea",
    "char",
    "cid",
    "cidr",
    "date",
    "inet",
    "int2",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "oid",
    "pg_lsn",
    "text",
    "tid",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "uuid",
    "varbit",
    "varchar",
    "xid8",
];

/// A value as it is bound to a statement: as the source sent it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum BindValue {
    /// SQL NULL.
    Null,
    /// In text format.
    Text(Bytes),
    /// In binary format.
    Binary(Bytes),
}

/// Prints the kind only: row values never reach a log (INV-10).
impl std::fmt::Debug for BindValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Text(_) => "Text(..)",
            Self::Binary(_) => "Binary(..)",
        })
    }
}

/// The kinds of row change, as counted in `pgsluice_applied_rows_total{op}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RowOp {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A row gone.
    Delete,
}

impl RowOp {
    /// The metric's label.
    #[must_use]
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// What makes two changes of a table use the same statement text: everything the text depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StatementKey {
    /// The source's relation.
    pub relation: Oid,
    /// What it does.
    pub op: RowOp,
    /// Positions (in the relation) of the columns written.
    pub written: Vec<u16>,
    /// How the row is found.
    pub row_match: RowMatch,
}

/// How the row of an UPDATE or DELETE is found on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RowMatch {
    /// Not at all: an INSERT.
    None,
    /// By the columns of the replica identity, or the target's primary key; none of them can be NULL.
    Key,
    /// By all columns of the old row, NULLs equal; of several equal rows, one (trap 11).
    WholeRow,
}

/// A statement to run: its key (for the cache of prepared statements) and its parameters. Must touch one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoundChange {
    /// Which statement.
    pub key: StatementKey,
    /// Its parameters: the written columns first, then those that find the row.
    pub values: Vec<BindValue>,
}

/// Why a change cannot be turned into a statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The source sent a row that does not fit the shape it announced.
    #[error("the source sent a row of {found} values for table {table}, which has {expected} columns")]
    WrongWidth {
        /// The table.
        table: TableName,
        /// Columns announced.
        expected: usize,
        /// Values sent.
        found: usize,
    },
    /// A value that is needed was not sent.
    #[error("the source did not send column {column} of table {table}, which is needed to {purpose}")]
    MissingValue {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// What for.
        purpose: &'static str,
    },
    /// No way to find the row.
    #[error("table {table} has no replica identity on the source, so the row to change cannot be found")]
    NoIdentity {
        /// The table.
        table: TableName,
    },
}

/// A source table bound to its table on the target.
#[derive(Clone, Debug)]
pub(super) struct BoundTable {
    relation: Relation,
    target: TargetTable,
    /// Those that take the relation's columns, in the relation's order.
    columns: Vec<TargetColumn>,
    key: Vec<u16>,
    row_match: RowMatch,
    written: WrittenValues,
}

/// How the values to write stand in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WrittenValues {
    /// Of the type that the column has when the statement is prepared.
    OfTheColumn,
    /// Of the type that the column had when the shape was announced. A binary value means nothing else, should the
    /// column be altered under a running stream.
    AsAnnounced,
}

impl BoundTable {
    /// Binds a relation to the target's table by what [`super::shape::compare`] found.
    #[must_use]
    pub(super) fn new(relation: Relation, target: TargetTable, columns: Vec<TargetColumn>) -> Self {
        let (key, row_match) = identity(&relation, &target, &columns);
        Self { relation, target, columns, key, row_match, written: WrittenValues::OfTheColumn }
    }

    /// The same for values in binary form.
    #[must_use]
    pub(super) fn for_binary_values(self) -> Self {
        Self { written: WrittenValues::AsAnnounced, ..self }
    }

    /// The source's relation.
    #[must_use]
    pub(super) const fn relation(&self) -> Oid {
        self.relation.id
    }

    /// The table's name on the target.
    #[must_use]
    pub(super) const fn name(&self) -> &TableName {
        &self.target.name
    }

    /// The table that is written to.
    #[must_use]
    pub(super) const fn target(&self) -> &TargetTable {
        &self.target
    }

    /// Binds a change.
    ///
    /// # Errors
    /// [`BindError`]: the change cannot be applied, and nothing after it may be (INV-5).
    pub(super) fn bind(&self, change: &RowChange) -> Result<BoundChange, BindError> {
        match change {
            RowChange::Insert { new } => self.bind_insert(new),
            RowChange::Update { old, new } => self.bind_update(old.as_ref(), new),
            RowChange::Delete { old } => self.bind_delete(old),
        }
    }

    /// The text of the statement for `key`.
    #[must_use]
    pub(super) fn sql(&self, key: &StatementKey) -> String {
        match key.op {
            RowOp::Insert => self.insert_sql(&key.written),
            RowOp::Update => self.update_sql(&key.written),
            RowOp::Delete => format!("DELETE FROM {} WHERE {}", self.only(), self.find_sql(1)),
        }
    }

    fn bind_insert(&self, new: &Tuple) -> Result<BoundChange, BindError> {
        self.check_width(new)?;
        let mut written = Vec::with_capacity(self.columns.len());
        let mut values = Vec::with_capacity(self.columns.len());
        for (index, value) in positioned(new) {
            written.push(index);
            values.push(self.needed(index, value, "insert the row")?);
        }
        Ok(self.bound(RowOp::Insert, written, RowMatch::None, values))
    }

    fn bind_update(&self, old: Option<&OldTuple>, new: &Tuple) -> Result<BoundChange, BindError> {
        self.check_width(new)?;
        let mut written = Vec::with_capacity(self.columns.len());
        let mut values = Vec::with_capacity(self.columns.len() + self.key.len());
        for (index, value) in positioned(new) {
            if self.is_identity_always(index) && !self.may_have_changed(index, old, value) {
                continue;
            }
            if let Some(value) = self.bind_value(index, value) {
                written.push(index);
                values.push(value);
            }
        }
        self.bind_key(old.map_or(new, old_values), &mut values)?;
        Ok(self.bound(RowOp::Update, written, self.row_match, values))
    }

    fn bind_delete(&self, old: &OldTuple) -> Result<BoundChange, BindError> {
        let old = old_values(old);
        self.check_width(old)?;
        let mut values = Vec::with_capacity(self.key.len());
        self.bind_key(old, &mut values)?;
        Ok(self.bound(RowOp::Delete, Vec::new(), self.row_match, values))
    }

    fn bind_key(&self, row: &Tuple, values: &mut Vec<BindValue>) -> Result<(), BindError> {
        self.check_width(row)?;
        if self.row_match == RowMatch::None {
            return Err(BindError::NoIdentity { table: self.name().clone() });
        }
        for index in &self.key {
            let value = row.columns.get(usize::from(*index)).unwrap_or(&TupleValue::UnchangedToast);
            let value = self.needed(*index, value, "find the row")?;
            if self.row_match == RowMatch::Key && value == BindValue::Null {
                return Err(self.missing(*index, "find the row"));
            }
            values.push(value);
        }
        Ok(())
    }

    const fn bound(
        &self,
        op: RowOp,
        written: Vec<u16>,
        row_match: RowMatch,
        values: Vec<BindValue>,
    ) -> BoundChange {
        BoundChange { key: StatementKey { relation: self.relation.id, op, written, row_match }, values }
    }

    fn check_width(&self, tuple: &Tuple) -> Result<(), BindError> {
        if tuple.columns.len() == self.columns.len() {
            return Ok(());
        }
        Err(BindError::WrongWidth {
            table: self.name().clone(),
            expected: self.columns.len(),
            found: tuple.columns.len(),
        })
    }

    fn needed(&self, index: u16, value: &TupleValue, purpose: &'static str) -> Result<BindValue, BindError> {
        self.bind_value(index, value).ok_or_else(|| self.missing(index, purpose))
    }

    /// `None` for a value that was not sent.
    fn bind_value(&self, index: u16, value: &TupleValue) -> Option<BindValue> {
        match value {
            TupleValue::Null => Some(BindValue::Null),
            TupleValue::UnchangedToast => None,
            TupleValue::Text(bytes) if self.is_byte(index, bytes) => Some(BindValue::Binary(bytes.clone())),
            TupleValue::Text(bytes) => Some(BindValue::Text(bytes.clone())),
            TupleValue::Binary(bytes) => Some(BindValue::Binary(bytes.clone())),
        }
    }

    /// Whether the text is a byte beyond ASCII of type `"char"`, as versions before 15 print it: no text in any encoding,
    /// but already its own binary form.
    fn is_byte(&self, index: u16, text: &[u8]) -> bool {
        matches!(text, [0x80..=0xff]) && self.column(index).is_some_and(|column| column.base_type == "char")
    }

    fn missing(&self, index: u16, purpose: &'static str) -> BindError {
        BindError::MissingValue {
            table: self.name().clone(),
            column: self.column_name(index).to_owned(),
            purpose,
        }
    }

    fn is_identity_always(&self, index: u16) -> bool {
        self.column(index).is_some_and(|column| column.identity == ColumnIdentity::Always)
    }

    /// Whether an UPDATE may have changed a column; false only if the source showed that it did not: it always sends the
    /// old key when that changed, and the whole old row with REPLICA IDENTITY FULL.
    fn may_have_changed(&self, index: u16, old: Option<&OldTuple>, new: &TupleValue) -> bool {
        let is_key = self.relation.columns.get(usize::from(index)).is_some_and(|column| column.key);
        match old {
            None => !is_key,
            Some(OldTuple::Key(_)) if !is_key => true,
            Some(old) => old_values(old).columns.get(usize::from(index)) != Some(new),
        }
    }

    fn insert_sql(&self, written: &[u16]) -> String {
        let table = &self.target.name;
        if written.is_empty() {
            return format!("INSERT INTO {table} DEFAULT VALUES");
        }
        let names: Vec<_> = written.iter().map(|index| quote_ident(self.column_name(*index))).collect();
        let places: Vec<_> =
            written.iter().zip(1..).map(|(index, place)| self.written_place(*index, place)).collect();
        format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            names.join(", "),
            places.join(", ")
        )
    }

    fn update_sql(&self, written: &[u16]) -> String {
        let found = self.find_sql(written.len() + 1);
        if written.is_empty() {
            // Nothing to write, but the row must be there all the same (INV-6).
            return format!("SELECT 1 FROM {} WHERE {found} FOR UPDATE", self.only());
        }
        if written.iter().any(|index| self.is_identity_always(*index)) {
            return self.replace_sql(written, &found);
        }
        let assignments: Vec<_> = written
            .iter()
            .zip(1..)
            .map(|(index, place)| {
                format!("{} = {}", quote_ident(self.column_name(*index)), self.written_place(*index, place))
            })
            .collect();
        format!("UPDATE {} SET {} WHERE {found}", self.only(), assignments.join(", "))
    }

    /// No UPDATE may name a GENERATED ALWAYS AS IDENTITY column (trap 22), so the row is taken out and put in again, with
    /// what was not sent as it was. One statement: a row that is not there puts none in (INV-6).
    fn replace_sql(&self, written: &[u16], found: &str) -> String {
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for column in self.target.columns.iter().filter(|column| !column.generated) {
            let name = quote_ident(&column.name);
            let place = written.iter().zip(1..).find(|(index, _)| self.column_name(**index) == column.name);
            values.push(match place {
                Some((_, place)) => format!("${place}::{}", column.cast),
                None => format!("gone.{name}"),
            });
            names.push(name);
        }
        format!(
            "WITH gone AS (DELETE FROM {} WHERE {found} RETURNING *) \
             INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone",
            self.only(),
            self.target.name,
            names.join(", "),
            values.join(", ")
        )
    }

    fn written_place(&self, index: u16, place: usize) -> String {
        match (self.written, self.column(index)) {
            (WrittenValues::AsAnnounced, Some(column)) => format!("${place}::{}", column.cast),
            _ => format!("${place}"),
        }
    }

    /// The condition that finds the row, with parameters numbered from `first`.
    fn find_sql(&self, first: usize) -> String {
        match self.row_match {
            RowMatch::None => "false".into(),
            RowMatch::Key => {
                let terms: Vec<_> = self
                    .key_terms(first)
                    .map(|(column, name, value)| format!("{name} {} {value}", column.equality))
                    .collect();
                terms.join(" AND ")
            }
            RowMatch::WholeRow => {
                // Partitions number their rows each for itself (trap 11).
                let place = match self.target.kind {
                    TableKind::Ordinary => "ctid",
                    TableKind::Partitioned => "tableoid, ctid",
                };
                let (only, found) = (self.only(), self.whole_row_sql(first));
                format!("({place}) = (SELECT {place} FROM {only} WHERE {found} LIMIT 1)")
            }
        }
    }

    /// Rows are compared by the binary image of their values, which every type has (json has no equality, that of citext
    /// is too wide), or by what they print where a value has more than one image. A cast to text would not do: types may
    /// have casts of their own, a row prints its values by their output functions and tells NULL from an empty text.
    fn whole_row_sql(&self, first: usize) -> String {
        let (mut by_image, mut by_print) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (column, name, value) in self.key_terms(first) {
            let (names, values) =
                if has_one_image(&column.base_type) { &mut by_image } else { &mut by_print };
            names.push(name);
            values.push(value);
        }
        let mut terms = Vec::new();
        if !by_image.0.is_empty() {
            let (names, values) = (by_image.0.join(", "), by_image.1.join(", "));
            terms.push(format!("ROW({names})::record OPERATOR(pg_catalog.*=) ROW({values})::record"));
        }
        if !by_print.0.is_empty() {
            let (names, values) = (by_print.0.join(", "), by_print.1.join(", "));
            terms.push(format!("ROW({names})::text = ROW({values})::text"));
        }
        if terms.is_empty() { "true".into() } else { terms.join(" AND ") }
    }

    /// The columns that find the row: each with its quoted name and its parameter, both of the type that has the operators;
    /// a domain has none of its own, and over an enum not even finds that of any enum.
    fn key_terms(&self, first: usize) -> impl Iterator<Item = (&TargetColumn, String, String)> {
        self.key.iter().zip(first..).filter_map(|(index, place)| {
            let column = self.column(*index)?;
            let mut name = quote_ident(&column.name);
            if column.is_domain {
                name = format!("{name}::{}", column.cast);
            }
            Some((column, name, format!("${place}::{}", column.cast)))
        })
    }

    fn only(&self) -> String {
        match self.target.kind {
            TableKind::Ordinary => format!("ONLY {}", self.target.name),
            TableKind::Partitioned => self.target.name.to_string(),
        }
    }

    fn column(&self, index: u16) -> Option<&TargetColumn> {
        self.columns.get(usize::from(index))
    }

    fn column_name(&self, index: u16) -> &str {
        self.column(index).map_or("", |column| column.name.as_str())
    }
}

/// Whether values of a built-in type, or the elements of its array, have one image each.
fn has_one_image(base_type: &str) -> bool {
    let element = base_type.strip_prefix('_').unwrap_or(base_type);
    ONE_IMAGE_PER_PRINT.contains(&element)
}

/// The columns that find a row, and how.
fn identity(relation: &Relation, target: &TargetTable, columns: &[TargetColumn]) -> (Vec<u16>, RowMatch) {
    let positions = |wanted: &dyn Fn(usize) -> bool| -> Vec<u16> {
        (0..relation.columns.len())
            .filter(|index| wanted(*index))
            .filter_map(|index| index.try_into().ok())
            .collect()
    };
    match relation.replica_identity {
        ReplicaIdentity::Nothing => (Vec::new(), RowMatch::None),
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            let key = positions(&|index| relation.columns.get(index).is_some_and(|column| column.key));
            let row_match = if key.is_empty() { RowMatch::None } else { RowMatch::Key };
            (key, row_match)
        }
        ReplicaIdentity::Full => {
            let in_primary_key = |index: usize| {
                let name = columns.get(index).map(|column| &column.name);
                name.is_some_and(|name| target.primary_key.contains(name))
            };
            let key = positions(&in_primary_key);
            if !key.is_empty() && key.len() == target.primary_key.len() {
                return (key, RowMatch::Key);
            }
            (positions(&|_| true), RowMatch::WholeRow)
        }
    }
}

/// A row's values with their positions.
fn positioned(tuple: &Tuple) -> impl Iterator<Item = (u16, &TupleValue)> {
    (0_u16..).zip(&tuple.columns)
}

const fn old_values(old: &OldTuple) -> &Tuple {
    match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    }
}

#[cfg(test)]
mod tests;
