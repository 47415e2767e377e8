//! The checked writer: appends values to a buffer and refuses what the wire cannot carry, such as a zero byte inside
//! a string or a list longer than its count can say. It never truncates and never panics.

use bytes::{BufMut, BytesMut};

use crate::lsn::Lsn;
use crate::scalar::PgTimestamp;

/// A message that the wire cannot carry. Nothing of it must be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string contains a zero byte, which would end it early and change the message's meaning.
    #[error("the {0} contains a zero byte, which PostgreSQL's protocol cannot carry")]
    InteriorNul(&'static str),
    /// A value or a list is longer than its length field can say.
    #[error("the {what} is too long for PostgreSQL's protocol: {len}, at most {max}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length: bytes, or elements of a list.
        len: usize,
        /// The greatest length that can be sent.
        max: usize,
    },
    /// The message does not exist in the protocol version asked for.
    #[error("the {message} message needs pgoutput protocol version {version} or later")]
    NeedsVersion {
        /// The message's kind.
        message: &'static str,
        /// The first version that has it.
        version: u8,
    },
    /// The message has no form at this place, such as one that was wrapped as streamed and never is.
    #[error("a {0} message cannot stand at this place of a stream")]
    OutOfPlace(&'static str),
}

pub(crate) fn put_lsn(out: &mut BytesMut, position: impl Into<Option<Lsn>>) {
    out.put_u64(Lsn::to_wire(position.into()));
}

pub(crate) fn put_timestamp(out: &mut BytesMut, timestamp: PgTimestamp) {
    out.put_i64(timestamp.to_postgres_micros());
}

/// Appends `text` and its terminating zero byte.
pub(crate) fn put_cstr(out: &mut BytesMut, text: &[u8], what: &'static str) -> Result<(), EncodeError> {
    if text.contains(&0) {
        return Err(EncodeError::InteriorNul(what));
    }
    out.put_slice(text);
    out.put_u8(0);
    Ok(())
}

/// Appends an unsigned 16-bit count.
pub(crate) fn put_count16(out: &mut BytesMut, len: usize, what: &'static str) -> Result<(), EncodeError> {
    let max = usize::from(u16::MAX);
    let count = u16::try_from(len).map_err(|_| EncodeError::TooLong { what, len, max })?;
    out.put_u16(count);
    Ok(())
}

/// Appends a signed 32-bit length or count.
pub(crate) fn put_len32(out: &mut BytesMut, len: usize, what: &'static str) -> Result<(), EncodeError> {
    out.put_i32(len32(len, what)?);
    Ok(())
}

/// `len` as the signed 32-bit number that the protocol uses for lengths.
pub(crate) fn len32(len: usize, what: &'static str) -> Result<i32, EncodeError> {
    i32::try_from(len).map_err(|_| EncodeError::TooLong { what, len, max: MAX_LEN32 })
}

const MAX_LEN32: usize = 0x7FFF_FFFF;
