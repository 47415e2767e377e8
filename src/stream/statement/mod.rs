//! Turns a row change into a statement and its parameters: what is written, how the row is found, how many rows it
//! must touch. Pure. A value is never parsed, and an unchanged value out of line can never become NULL, because
//! [`BindValue`] has no form for it (trap 10).

mod array;
mod bind;
mod copy_in;
mod row_sql;
mod set_sql;
#[cfg(test)]
mod set_tests;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;

use pgsluice_proto::command::quote_ident;
use pgsluice_proto::pgoutput::{Relation, ReplicaIdentity};

use crate::model::{Oid, TableName};
use crate::target::{ColumnIdentity, TableKind, TargetColumn, TargetTable};

pub(super) use array::{ArrayValue, arrays};
pub(super) use bind::BindError;
pub(super) use copy_in::{have_form, put_copy_header, put_copy_rows, put_copy_trailer};
pub(super) use values::{BindValue, Values};

use values::Packing;

/// The form in which values are sent to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueForm {
    /// As their types print them.
    Text,
    /// As their types send them.
    Binary,
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
    pub key: Arc<StatementKey>,
    /// Its parameters: the written columns first, then those that find the row.
    pub values: Values,
}

/// A source table bound to its table on the target.
#[derive(Clone, Debug)]
pub(super) struct BoundTable {
    relation: Relation,
    target: TargetTable,
    /// Those that take the relation's columns, in the relation's order.
    columns: Vec<TargetColumn>,
    key: Vec<u16>,
    /// For each column of the key whether shorter values come first.
    key_sorts_by_length: Vec<bool>,
    row_match: RowMatch,
    has_identity_always: bool,
    written: WrittenValues,
    usual: UsualKeys,
}

/// The keys of most changes, shared by all of them.
#[derive(Clone, Debug)]
struct UsualKeys {
    /// Every insert writes all columns.
    insert: Arc<StatementKey>,
    /// An update that writes all columns.
    update: Arc<StatementKey>,
    delete: Arc<StatementKey>,
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

impl UsualKeys {
    fn new(relation: Oid, width: usize, row_match: RowMatch) -> Self {
        let all: Vec<u16> = (0..u16::MAX).take(width).collect();
        let key = |op, written, row_match| Arc::new(StatementKey { relation, op, written, row_match });
        Self {
            insert: key(RowOp::Insert, all.clone(), RowMatch::None),
            update: key(RowOp::Update, all, row_match),
            delete: key(RowOp::Delete, Vec::new(), row_match),
        }
    }
}

impl BoundTable {
    /// Binds a relation to the target's table by what [`crate::stream::shape::compare`] found.
    #[must_use]
    pub(super) fn new(relation: Relation, target: TargetTable, columns: Vec<TargetColumn>) -> Self {
        let (key, row_match) = identity(&relation, &target, &columns);
        let usual = UsualKeys::new(relation.id, columns.len(), row_match);
        let has_identity_always = columns.iter().any(|column| column.identity == ColumnIdentity::Always);
        let written = WrittenValues::OfTheColumn;
        let by_length = |index: &u16| columns.get(usize::from(*index)).is_some_and(sorts_by_length);
        let key_sorts_by_length = key.iter().map(by_length).collect();
        Self {
            relation,
            target,
            columns,
            key,
            key_sorts_by_length,
            row_match,
            has_identity_always,
            written,
            usual,
        }
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

    /// Positions (in the relation) of the columns that find a row.
    #[must_use]
    pub(super) fn key(&self) -> &[u16] {
        &self.key
    }

    /// The key of an UPDATE that writes these columns, given by position in ascending order.
    #[must_use]
    pub(super) fn update_key(&self, written: Vec<u16>) -> Arc<StatementKey> {
        if written == self.usual.update.written {
            return Arc::clone(&self.usual.update);
        }
        Arc::new(StatementKey {
            relation: self.relation.id,
            op: RowOp::Update,
            written,
            row_match: self.row_match,
        })
    }

    /// The form in which the stream sends this table's values.
    #[must_use]
    pub(super) const fn value_form(&self) -> ValueForm {
        match self.written {
            WrittenValues::OfTheColumn => ValueForm::Text,
            WrittenValues::AsAnnounced => ValueForm::Binary,
        }
    }

    /// The table that is written to.
    #[must_use]
    pub(super) const fn target(&self) -> &TargetTable {
        &self.target
    }

    fn is_identity_always(&self, index: u16) -> bool {
        self.column(index).is_some_and(|column| column.identity == ColumnIdentity::Always)
    }

    /// Whether an UPDATE of these columns has to put another row in the place of the one it finds.
    fn replaces_row(&self, written: &[u16]) -> bool {
        self.has_identity_always && written.iter().any(|index| self.is_identity_always(*index))
    }

    /// A column as it is compared: as of the type that has the operators; a domain has none of its own, and over an enum
    /// not even finds that of any enum.
    fn compared(&self, column: &TargetColumn) -> String {
        let name = quote_ident(&column.name);
        if column.is_domain { format!("{name}::{}", column.cast) } else { name }
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

/// Whether of two values in text form the shorter is the lesser, mostly.
fn sorts_by_length(column: &TargetColumn) -> bool {
    matches!(column.base_type.as_str(), "int2" | "int4" | "int8" | "numeric" | "oid")
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
