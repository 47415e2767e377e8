//! Rows as pgoutput sends them. A row is a slice of the buffer it came in, so that nothing is copied to be read, and its values
//! are found by walking through it; their meaning is left to whoever knows the column's type. Values are never printed
//! (INV-10).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::cursor::{Cursor, DecodeError};
use crate::writer::{EncodeError, put_count16, put_len32};

/// A row: one value for each column of the relation, in its order.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tuple {
    count: usize,
    /// The values as they are sent, one after the other. All of them are there: whoever made this has seen to it.
    values: Bytes,
}

/// One value of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TupleValue<'a> {
    /// `n`
    Null,
    /// `u`: a TOASTed value that the statement did not change, and so did not write to the WAL. Not NULL: the row
    /// keeps the value it has.
    UnchangedToast,
    /// `t`: the type's text form, in the connection's `client_encoding`.
    Text(&'a [u8]),
    /// `b`: the type's binary form (its `send` function's).
    Binary(&'a [u8]),
}

/// Walks through the values of a row.
#[derive(Clone)]
pub struct TupleValues<'a>(&'a [u8]);

impl Tuple {
    /// A row of these values. Fails where the wire cannot carry so many, or one so long.
    pub fn new<'a>(values: impl IntoIterator<Item = TupleValue<'a>>) -> Result<Self, EncodeError> {
        let (mut count, mut out) = (0, BytesMut::new());
        for value in values {
            value.encode(&mut out)?;
            count += 1;
        }
        put_count16(&mut BytesMut::new(), count, "row")?;
        Ok(Self { count, values: out.freeze() })
    }

    /// How many values it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Its values.
    pub fn iter(&self) -> TupleValues<'_> {
        TupleValues(&self.values)
    }

    /// The value at this place, found by walking there.
    pub fn get(&self, place: usize) -> Option<TupleValue<'_>> {
        self.iter().nth(place)
    }

    pub(super) fn decode(cursor: &mut Cursor) -> Result<Self, DecodeError> {
        let count = usize::from(cursor.u16("the number of values")?);
        let mut ahead = cursor.ahead();
        for _ in 0..count {
            match ahead.u8("a value's kind")? {
                b'n' | b'u' => {}
                b't' | b'b' => {
                    let len = ahead.len32("a value's length")?;
                    ahead.skip(len, "a value")?;
                }
                kind => return Err(ahead.unknown(kind, "a value's kind (n, u, t or b)")),
            }
        }
        let len = cursor.remaining() - ahead.remaining();
        Ok(Self { count, values: cursor.bytes(len, "the values")? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        put_count16(out, self.count, "row")?;
        out.put_slice(&self.values);
        Ok(())
    }
}

impl<'a> Iterator for TupleValues<'a> {
    type Item = TupleValue<'a>;

    fn next(&mut self) -> Option<TupleValue<'a>> {
        let (kind, rest) = self.0.split_first()?;
        let (value, rest) = match kind {
            b'n' => (TupleValue::Null, rest),
            b'u' => (TupleValue::UnchangedToast, rest),
            kind => {
                let (len, rest) = rest.split_first_chunk()?;
                let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
                let (value, rest) = rest.split_at_checked(len)?;
                (if *kind == b't' { TupleValue::Text(value) } else { TupleValue::Binary(value) }, rest)
            }
        };
        self.0 = rest;
        Some(value)
    }
}

impl TupleValue<'_> {
    fn encode(self, out: &mut BytesMut) -> Result<(), EncodeError> {
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

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for TupleValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::UnchangedToast => f.write_str("UnchangedToast"),
            Self::Text(value) => write!(f, "Text(<{} bytes>)", value.len()),
            Self::Binary(value) => write!(f, "Binary(<{} bytes>)", value.len()),
        }
    }
}

impl fmt::Debug for TupleValues<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
