//! A table in memory whose key's equality is wider than the identity of its values, as with citext or numeric: `a1` and `A1`
//! are one key. Its statements count the rows they touch and refuse a key that is taken, as the server's do.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pgsluice_proto::pgoutput::{Relation, RelationColumn, ReplicaIdentity};

use super::*;
use crate::model::{Oid, TableName};
use crate::stream::statement::BindValue;
use crate::target::{ArrayForm, ColumnIdentity, TableKind, TargetColumn, TargetTable};

/// What a table looks like.
#[derive(Clone, Debug)]
pub(super) struct TableUnderTest {
    /// Which of its columns are the key.
    pub key: Vec<usize>,
    /// How many columns it has.
    pub width: usize,
    pub unique_on_target: bool,
    /// Whether the target has one more column, with a default.
    pub has_extra_column: bool,
    /// A column that is GENERATED ALWAYS AS IDENTITY.
    pub identity_always: Option<usize>,
}

/// The key first, then two others.
impl Default for TableUnderTest {
    fn default() -> Self {
        Self {
            key: vec![0],
            width: 3,
            unique_on_target: true,
            has_extra_column: false,
            identity_always: None,
        }
    }
}

impl TableUnderTest {
    pub(super) fn bound(&self) -> BoundTable {
        let columns: Vec<_> = (0..self.width).map(|index| self.column(index)).collect();
        let relation = Relation {
            id: Oid(7),
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: (0..self.width)
                .map(|index| RelationColumn {
                    key: self.key.contains(&index),
                    name: format!("c{index}"),
                    type_oid: Oid(25),
                    type_modifier: -1,
                })
                .collect(),
        };
        let mut on_target = columns.clone();
        if self.has_extra_column {
            on_target.push(self.column(self.width));
        }
        let unique = self.key.iter().map(|index| number(*index)).collect();
        let target = TargetTable {
            oid: 1,
            name: TableName::new("public", "t"),
            kind: TableKind::Ordinary,
            primary_key: Vec::new(),
            unique: if self.unique_on_target { vec![unique] } else { Vec::new() },
            columns: on_target,
        };
        BoundTable::new(relation, target, columns)
    }

    fn column(&self, index: usize) -> TargetColumn {
        TargetColumn {
            name: format!("c{index}"),
            number: number(index),
            cast: "numeric".into(),
            type_oid: 1700,
            array: ArrayForm::OfType { delimiter: b',' },
            equality: "=".into(),
            base_type: "numeric".into(),
            type_modifier: -1,
            is_domain: false,
            generated: false,
            identity: if self.identity_always == Some(index) {
                ColumnIdentity::Always
            } else {
                ColumnIdentity::None
            },
            fills_itself: true,
        }
    }
}

fn number(index: usize) -> i16 {
    i16::try_from(index + 1).expect("a column's number")
}

/// The rows of a table, by what its key is equal to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows(pub BTreeMap<Vec<String>, Row>);

/// A row: its values, and that of the column that only the target has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub values: Vec<Option<Bytes>>,
    pub extra: &'static str,
}

/// Why a statement fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    KeyIsTaken,
    WrongCount,
}

impl Rows {
    /// Executes segments.
    pub(super) fn execute(
        &mut self,
        table: &BoundTable,
        log: &[Logged],
        segments: &[Segment],
    ) -> Result<(), Refused> {
        for segment in segments {
            match segment {
                Segment::Ordered(range) => {
                    for logged in &log[range.clone()] {
                        self.row(table, &logged.change.key, &logged.change.values)?;
                    }
                }
                Segment::Set(work) if work.pace == Pace::OneByOne => {
                    for values in work.values(log) {
                        self.row(table, &work.key, values)?;
                    }
                }
                Segment::Set(work) => self.set(table, &work.key, work.values(log).collect())?,
            }
        }
        Ok(())
    }

    /// A statement for one row.
    pub(super) fn row(
        &mut self,
        table: &BoundTable,
        key: &StatementKey,
        values: &Values,
    ) -> Result<(), Refused> {
        let written = values.iter().take(key.written.len());
        let find = values.iter().skip(key.written.len());
        if key.op == RowOp::Insert {
            let has_extra = table.target().columns.len() > key.written.len();
            let extra = if has_extra { "default" } else { "" };
            return self.insert(table, Row { values: written.map(owned).collect(), extra });
        }
        let mut row = self.0.remove(&equal_to(find)).ok_or(Refused::WrongCount)?;
        if key.op == RowOp::Delete {
            return Ok(());
        }
        for (index, value) in key.written.iter().zip(written) {
            row.values[usize::from(*index)] = owned(value);
        }
        self.insert(table, row)
    }

    /// A statement for all of them: it sees the table as it was before, and touches a row once.
    fn set(&mut self, table: &BoundTable, key: &StatementKey, rows: Vec<&Values>) -> Result<(), Refused> {
        if key.op != RowOp::Insert {
            let touched: BTreeSet<_> =
                rows.iter().map(|values| equal_to(values.iter().skip(key.written.len()))).collect();
            if touched.len() != rows.len() || touched.iter().any(|row| !self.0.contains_key(row)) {
                return Err(Refused::WrongCount);
            }
        }
        for values in rows {
            if key.op == RowOp::Update {
                for (index, find) in table.key().iter().zip(values.iter().skip(key.written.len())) {
                    // The set's statement leaves the key's columns out.
                    let place = key.written.iter().position(|written| written == index);
                    assert!(
                        place.is_none_or(|place| values.get(place) == Some(find)),
                        "a set changes no key"
                    );
                }
            }
            self.row(table, key, values)?;
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, table: &BoundTable, row: Row) -> Result<(), Refused> {
        let key = equal_to(table.key().iter().map(|index| borrowed(&row.values[usize::from(*index)])));
        match self.0.insert(key, row) {
            None => Ok(()),
            Some(_) => Err(Refused::KeyIsTaken),
        }
    }
}

/// What the values of a key are equal to.
pub(super) fn equal_to<'a>(values: impl Iterator<Item = BindValue<'a>>) -> Vec<String> {
    values.map(|value| String::from_utf8_lossy(value.bytes()).to_lowercase()).collect()
}

fn owned(value: BindValue<'_>) -> Option<Bytes> {
    (value != BindValue::Null).then(|| Bytes::copy_from_slice(value.bytes()))
}

fn borrowed(value: &Option<Bytes>) -> BindValue<'_> {
    value.as_deref().map_or(BindValue::Null, BindValue::Text)
}
