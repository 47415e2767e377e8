//! Binds a row change to its table: which columns it writes, with which values, and which values find its row.

use std::sync::Arc;

use pgsluice_proto::pgoutput::{OldTuple, Tuple, TupleValue};

use crate::model::TableName;
use crate::stream::assemble::RowChange;

use super::{BindValue, BoundChange, BoundTable, Packing, RowMatch};

/// What a value of a key takes, mostly less.
const KEY_VALUE_BYTES: usize = 16;

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

impl BoundTable {
    /// Binds a change.
    ///
    /// # Errors
    /// [`BindError`]: the change cannot be applied, and nothing after it may be (INV-5).
    pub(in crate::stream) fn bind(&self, change: &RowChange) -> Result<BoundChange, BindError> {
        match change {
            RowChange::Insert { new } => self.bind_insert(new),
            RowChange::Update { old: None, new } if self.writes_all(new) => self.bind_usual_update(new),
            RowChange::Update { old, new } => self.bind_update(old.as_ref(), new),
            RowChange::Delete { old } => self.bind_delete(old),
        }
    }

    fn bind_insert(&self, new: &Tuple) -> Result<BoundChange, BindError> {
        let mut values = Packing::new(self.columns.len(), bytes_of(new));
        self.bind_all(new, "insert the row", &mut values)?;
        Ok(BoundChange { key: Arc::clone(&self.usual.insert), values: values.done() })
    }

    /// Whether an update to this row writes every column.
    fn writes_all(&self, new: &Tuple) -> bool {
        !self.has_identity_always && !new.iter().any(|value| value == TupleValue::UnchangedToast)
    }

    /// An update that writes every column and leaves the key as it was.
    fn bind_usual_update(&self, new: &Tuple) -> Result<BoundChange, BindError> {
        let mut values = self.packing_for_update(new);
        self.bind_all(new, "write the row", &mut values)?;
        self.bind_key(new, &mut values)?;
        Ok(BoundChange { key: Arc::clone(&self.usual.update), values: values.done() })
    }

    fn packing_for_update(&self, new: &Tuple) -> Packing {
        let key = self.key.len();
        Packing::new(self.columns.len() + key, bytes_of(new) + key * KEY_VALUE_BYTES)
    }

    /// The values of all columns.
    fn bind_all(&self, new: &Tuple, purpose: &'static str, values: &mut Packing) -> Result<(), BindError> {
        self.check_width(new)?;
        for (index, value) in (0_u16..).zip(new.iter()) {
            let value = self.bind_value(index, value);
            values.push(value.ok_or_else(|| self.missing(index, purpose))?);
        }
        Ok(())
    }

    fn bind_update(&self, old: Option<&OldTuple>, new: &Tuple) -> Result<BoundChange, BindError> {
        self.check_width(new)?;
        let mut written = Vec::with_capacity(self.columns.len());
        let mut values = self.packing_for_update(new);
        for (index, value) in (0_u16..).zip(new.iter()) {
            if self.is_identity_always(index) && !self.may_have_changed(index, old, value) {
                continue;
            }
            if let Some(value) = self.bind_value(index, value) {
                written.push(index);
                values.push(value);
            }
        }
        self.bind_key(old.map_or(new, old_values), &mut values)?;
        Ok(BoundChange { key: self.update_key(written), values: values.done() })
    }

    fn bind_delete(&self, old: &OldTuple) -> Result<BoundChange, BindError> {
        let mut values = Packing::new(self.key.len(), bytes_of(old_values(old)));
        self.bind_key(old_values(old), &mut values)?;
        Ok(BoundChange { key: Arc::clone(&self.usual.delete), values: values.done() })
    }

    /// The values that find the row.
    fn bind_key(&self, row: &Tuple, values: &mut Packing) -> Result<(), BindError> {
        self.check_width(row)?;
        self.check_identity()?;
        let mut row = (0_u16..).zip(row.iter());
        // The key's positions ascend.
        for index in &self.key {
            let value = row.find(|(place, _)| place == index);
            let value = value.and_then(|(_, value)| self.bind_value(*index, value));
            let value = value.filter(|value| self.row_match != RowMatch::Key || *value != BindValue::Null);
            values.push(value.ok_or_else(|| self.missing(*index, "find the row"))?);
        }
        Ok(())
    }

    fn check_identity(&self) -> Result<(), BindError> {
        if self.row_match == RowMatch::None {
            return Err(BindError::NoIdentity { table: self.name().clone() });
        }
        Ok(())
    }

    fn check_width(&self, tuple: &Tuple) -> Result<(), BindError> {
        if tuple.count() == self.columns.len() {
            return Ok(());
        }
        Err(BindError::WrongWidth {
            table: self.name().clone(),
            expected: self.columns.len(),
            found: tuple.count(),
        })
    }

    /// `None` for a value that was not sent.
    fn bind_value<'a>(&self, index: u16, value: TupleValue<'a>) -> Option<BindValue<'a>> {
        match value {
            TupleValue::Null => Some(BindValue::Null),
            TupleValue::UnchangedToast => None,
            TupleValue::Text(bytes) if self.is_byte(index, bytes) => Some(BindValue::Binary(bytes)),
            TupleValue::Text(bytes) => Some(BindValue::Text(bytes)),
            TupleValue::Binary(bytes) => Some(BindValue::Binary(bytes)),
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

    /// Whether an UPDATE may have changed a column; false only if the source showed that it did not: it always sends the
    /// old key when that changed, and the whole old row with REPLICA IDENTITY FULL.
    fn may_have_changed(&self, index: u16, old: Option<&OldTuple>, new: TupleValue<'_>) -> bool {
        let is_key = self.relation.columns.get(usize::from(index)).is_some_and(|column| column.key);
        match old {
            None => !is_key,
            Some(OldTuple::Key(_)) if !is_key => true,
            Some(old) => old_values(old).get(usize::from(index)) != Some(new),
        }
    }
}

/// What the values of a row take together.
fn bytes_of(row: &Tuple) -> usize {
    let size = |value| match value {
        TupleValue::Null | TupleValue::UnchangedToast => 0,
        TupleValue::Text(bytes) | TupleValue::Binary(bytes) => bytes.len(),
    };
    row.iter().map(size).sum()
}

const fn old_values(old: &OldTuple) -> &Tuple {
    match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    }
}
