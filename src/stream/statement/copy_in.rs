//! Inserts by COPY: the statement and its data, in text or binary form, from values as the source sent them. Binary data
//! has no casts: whoever sends it must know that the columns still have the types they were bound with.

use bytes::{BufMut, BytesMut};
use pgsluice_proto::command::quote_ident;

use super::{BindValue, BoundTable, RowOp, StatementKey, ValueForm, Values};

/// What binary data begins with: the signature, no flags, no extension.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

impl BoundTable {
    /// The COPY that takes inserts with this key; `None` if there is none, and the rows go another way. A COPY is refused where
    /// row-level security holds for the session, whatever the policy.
    #[must_use]
    pub(in crate::stream) fn copy_statement(&self, key: &StatementKey, form: ValueForm) -> Option<String> {
        if key.op != RowOp::Insert || key.written.is_empty() {
            return None;
        }
        let names: Vec<_> = key.written.iter().map(|index| quote_ident(self.column_name(*index))).collect();
        let form = match form {
            ValueForm::Text => "text",
            ValueForm::Binary => "binary",
        };
        Some(format!("COPY {} ({}) FROM STDIN (FORMAT {form})", self.target.name, names.join(", ")))
    }

    /// The columns of a COPY in binary form and their types, as they must still be when it has run: by `attnum` and
    /// `atttypid`.
    #[must_use]
    pub(in crate::stream) fn copied_types(&self, key: &StatementKey) -> Vec<(i16, u32)> {
        let columns = key.written.iter().filter_map(|index| self.column(*index));
        columns.map(|column| (column.number, column.type_oid)).collect()
    }
}

/// Whether every value has this form: only then can the rows go as a COPY.
#[must_use]
pub(in crate::stream) fn have_form(form: ValueForm, rows: &[&Values]) -> bool {
    rows.iter().flat_map(|row| row.iter()).all(|value| {
        matches!(
            (form, value),
            (_, BindValue::Null)
                | (ValueForm::Text, BindValue::Text(_))
                | (ValueForm::Binary, BindValue::Binary(_))
        )
    })
}

/// What stands before the first row.
pub(in crate::stream) fn put_copy_header(form: ValueForm, out: &mut BytesMut) {
    if form == ValueForm::Binary {
        out.put_slice(BINARY_HEADER);
    }
}

/// Adds rows, all of them of this form ([`have_form`]).
pub(in crate::stream) fn put_copy_rows(form: ValueForm, rows: &[&Values], out: &mut BytesMut) {
    for row in rows {
        match form {
            ValueForm::Text => put_text_row(row, out),
            ValueForm::Binary => put_binary_row(row, out),
        }
    }
}

/// What stands after the last row.
pub(in crate::stream) fn put_copy_trailer(form: ValueForm, out: &mut BytesMut) {
    if form == ValueForm::Binary {
        out.put_i16(-1);
    }
}

fn put_text_row(row: &Values, out: &mut BytesMut) {
    let mut delimiter = None;
    for value in row.iter() {
        out.extend(delimiter);
        delimiter = Some(b'\t');
        match value {
            BindValue::Null => out.put_slice(b"\\N"),
            BindValue::Text(text) | BindValue::Binary(text) => put_escaped(text, out),
        }
    }
    out.put_u8(b'\n');
}

fn put_escaped(text: &[u8], out: &mut BytesMut) {
    let mut rest = text;
    while let Some((at, escaped)) = rest.iter().enumerate().find_map(|(at, byte)| Some((at, escaped(*byte)?)))
    {
        let (before, from) = rest.split_at(at);
        out.put_slice(before);
        out.put_slice(&[b'\\', escaped]);
        rest = from.get(1..).unwrap_or_default();
    }
    out.put_slice(rest);
}

const fn escaped(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        _ => None,
    }
}

fn put_binary_row(row: &Values, out: &mut BytesMut) {
    // A table has at most 1,600 columns, a value at most 1 GiB.
    out.put_i16(i16::try_from(row.count()).unwrap_or(i16::MAX));
    for value in row.iter() {
        match value {
            BindValue::Null => out.put_i32(-1),
            BindValue::Text(bytes) | BindValue::Binary(bytes) => {
                out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                out.put_slice(bytes);
            }
        }
    }
}
