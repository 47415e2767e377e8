//! A column of a set as one array parameter, made of its values as the source sent them: in text form, an array literal
//! whose elements the type's own input function reads; in binary form, the array's wire form around them. Rows of the
//! table have a binary form only: that of a composite type (`record_send`), around the values again.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

use super::set_sql::{RowColumn, SetParameter, SetStatement};
use super::{BindValue, ValueForm, Values};

/// What an element takes beside its value: its length in binary form, quotes and a delimiter in text form.
const ELEMENT_BYTES: usize = 4;

/// An array parameter.
pub(in crate::stream) struct ArrayValue {
    form: ValueForm,
    rows: i32,
    nulls: i32,
    /// In text form the whole literal; in binary form what follows the header.
    body: Vec<u8>,
}

/// Prints the size only: row values never reach a log (INV-10).
impl std::fmt::Debug for ArrayValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArrayValue({} values, {} bytes)", self.rows, self.body.len())
    }
}

/// The parameters of a statement for these rows; `None` if a value has another form than the statement's, and the
/// rows go one by one.
#[must_use]
pub(in crate::stream) fn arrays(set: &SetStatement, rows: &[&Values]) -> Option<Vec<ArrayValue>> {
    let in_row = |row: &Values, position: Option<usize>| {
        position.and_then(|position| row.get(position)).map_or(0, |value| value.bytes().len()) + ELEMENT_BYTES
    };
    let size = |parameter: &SetParameter| -> usize {
        let of_row = |row: &&Values| -> usize {
            match parameter {
                SetParameter::Column { position, .. } => in_row(row, Some(*position)),
                SetParameter::Rows(columns) => {
                    columns.iter().map(|column| in_row(row, column.position)).sum()
                }
            }
        };
        rows.iter().map(of_row).sum()
    };
    let mut arrays: Vec<_> =
        set.parameters.iter().map(|parameter| ArrayValue::begun(set.form, size(parameter))).collect();
    for row in rows {
        for (array, parameter) in arrays.iter_mut().zip(&set.parameters) {
            match parameter {
                SetParameter::Column { position, delimiter } => {
                    array.push(row.get(*position)?, *delimiter)?;
                }
                SetParameter::Rows(columns) => array.push_row(row, columns)?,
            }
        }
    }
    arrays.iter_mut().for_each(ArrayValue::end);
    Some(arrays)
}

impl ArrayValue {
    /// Its size in bytes, nearly.
    #[must_use]
    pub(in crate::stream) const fn len(&self) -> usize {
        self.body.len()
    }

    fn begun(form: ValueForm, size: usize) -> Self {
        let mut body = Vec::with_capacity(size);
        if form == ValueForm::Text {
            body.push(b'{');
        }
        Self { form, rows: 0, nulls: 0, body }
    }

    fn end(&mut self) {
        if self.form == ValueForm::Text {
            self.body.push(b'}');
        }
    }

    fn push(&mut self, value: BindValue<'_>, delimiter: u8) -> Option<()> {
        if self.form == ValueForm::Text && self.rows > 0 {
            self.body.push(delimiter);
        }
        self.rows = self.rows.checked_add(1)?;
        if value == BindValue::Null {
            self.nulls += 1;
        }
        match (self.form, value) {
            (ValueForm::Binary, value) => put_binary(&mut self.body, value)?,
            (ValueForm::Text, BindValue::Null) => self.body.extend_from_slice(b"NULL"),
            (ValueForm::Text, BindValue::Text(text)) => put_quoted(&mut self.body, text),
            (ValueForm::Text, BindValue::Binary(_)) => return None,
        }
        Some(())
    }

    fn push_row(&mut self, values: &Values, columns: &[RowColumn]) -> Option<()> {
        self.rows = self.rows.checked_add(1)?;
        let mut row = Vec::new();
        row.extend_from_slice(&i32::try_from(columns.len()).ok()?.to_be_bytes());
        for column in columns {
            row.extend_from_slice(&column.type_oid.to_be_bytes());
            let value = column.position.map_or(Some(BindValue::Null), |position| values.get(position))?;
            put_binary(&mut row, value)?;
        }
        put_sized(&mut self.body, &row)
    }
}

/// A value with its length before it; `None` if it is not in binary form.
fn put_binary(out: &mut Vec<u8>, value: BindValue<'_>) -> Option<()> {
    match value {
        BindValue::Null => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        BindValue::Binary(bytes) => put_sized(out, bytes)?,
        BindValue::Text(_) => return None,
    }
    Some(())
}

fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(&i32::try_from(bytes.len()).ok()?.to_be_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

/// An element of an array literal: quoted, whatever it is, so that no text is taken for NULL or for a delimiter.
fn put_quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let (before, from) = rest.split_at(at);
        out.extend_from_slice(before);
        out.push(b'\\');
        out.extend(from.first());
        rest = from.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

impl ToSql for ArrayValue {
    fn to_sql(&self, array: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        if self.form == ValueForm::Binary {
            let Kind::Array(element) = array.kind() else {
                return Err(format!("{array} is no array type").into());
            };
            out.put_i32(1); // dimensions
            out.put_i32(i32::from(self.nulls > 0));
            out.put_u32(element.oid());
            out.put_i32(self.rows);
            out.put_i32(1); // the first element's number
        }
        out.put_slice(&self.body);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        // The statement casts each parameter to the array type that it was made for.
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self.form {
            ValueForm::Text => Format::Text,
            ValueForm::Binary => Format::Binary,
        }
    }

    to_sql_checked!();
}
