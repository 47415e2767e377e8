//! Rows as pgoutput sends them. A value is a slice of the buffer it came in, so that no row is copied to be read; its
//! meaning is left to whoever knows the column's type. Values are never printed (INV-10).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::cursor::{Cursor, DecodeError};
use crate::writer::{EncodeError, put_count16, put_len32};

/// A row: one value for each column of the relation, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tuple {
    /// The values.
    pub columns: Vec<TupleValue>,
}

/// One value of a row.
#[derive(Clone, PartialEq, Eq)]
pub enum TupleValue {
    /// `n`
    Null,
    /// `u`: a TOASTed value that the statement did not change, and so did not write to the WAL. Not NULL: the row
    /// keeps the value it has.
    UnchangedToast,
    /// `t`: the type's text form, in the connection's `client_encoding`.
    Text(Bytes),
    /// `b`: the type's binary form (its `send` function's).
    Binary(Bytes),
}

impl fmt::Debug for TupleValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::UnchangedToast => f.write_str("UnchangedToast"),
            Self::Text(value) => write!(f, "Text(<{} bytes>)", value.len()),
            Self::Binary(value) => write!(f, "Binary(<{} bytes>)", value.len()),
        }
    }
}

impl Tuple {
    pub(super) fn decode(cursor: &mut Cursor) -> Result<Self, DecodeError> {
        let count = usize::from(cursor.u16("the number of values")?);
        // Each value takes at least its one-byte kind, so a false count cannot make us allocate much.
        let mut columns = Vec::with_capacity(count.min(cursor.remaining()));
        for _ in 0..count {
            columns.push(TupleValue::decode(cursor)?);
        }
        Ok(Self { columns })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        put_count16(out, self.columns.len(), "row")?;
        self.columns.iter().try_for_each(|value| value.encode(out))
    }
}

impl TupleValue {
    fn decode(cursor: &mut Cursor) -> Result<Self, DecodeError> {
        match cursor.u8("a value's kind")? {
            b'n' => Ok(Self::Null),
            b'u' => Ok(Self::UnchangedToast),
            b't' => Self::decode_bytes(cursor).map(Self::Text),
            b'b' => Self::decode_bytes(cursor).map(Self::Binary),
            kind => Err(cursor.unknown(kind, "a value's kind (n, u, t or b)")),
        }
    }

    fn decode_bytes(cursor: &mut Cursor) -> Result<Bytes, DecodeError> {
        let len = cursor.len32("a value's length")?;
        cursor.bytes(len, "a value")
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let (kind, value) = match self {
            Self::Null => {
                out.put_u8(b'n');
                return Ok(());
            }
            Self::UnchangedToast => {
                out.put_u8(b'u');
                return Ok(());
            }
            Self::Text(value) => (b't', value),
            Self::Binary(value) => (b'b', value),
        };
        out.put_u8(kind);
        put_len32(out, value.len(), "value")?;
        out.put_slice(value);
        Ok(())
    }
}
