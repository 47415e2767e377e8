//! The checked reader: the only code of this crate that takes raw bytes apart. It hands out values and slices of the
//! one buffer it was given, without copying, and says at which offset what was expected when it cannot.
//! It never panics, never allocates by a length it has not checked, and its errors never quote the bytes (INV-10).

use bytes::{Buf, Bytes};

use crate::lsn::Lsn;
use crate::scalar::{Oid, PgTimestamp, Xid};

/// Bytes that are not the message they should be.
///
/// After one of these the stream cannot be trusted any further: reconnect, and resume from what is durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message} message at byte {offset}: expected {expected}, but {problem}")]
pub struct DecodeError {
    /// The kind of message that was being read, such as `pgoutput insert`.
    pub message: &'static str,
    /// Bytes from the beginning of the message body to where reading failed.
    pub offset: usize,
    /// What should have been at that offset.
    pub expected: &'static str,
    /// What was found instead.
    pub problem: DecodeProblem,
}

/// What is wrong at the offset of a [`DecodeError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeProblem {
    /// Fewer bytes are left than the field needs.
    #[error("only {available} of {needed} bytes are left")]
    Truncated {
        /// Bytes the field needs.
        needed: usize,
        /// Bytes that are left.
        available: usize,
    },
    /// A string has no terminating zero byte.
    #[error("the string is not terminated")]
    Unterminated,
    /// A string is not UTF-8, though the connection's `client_encoding` is.
    #[error("the string is not UTF-8")]
    NotUtf8,
    /// A tag, flag or enumeration has a value the protocol does not define here.
    #[error("the value {0:#04x} is not one of them")]
    UnknownValue(u8),
    /// A length or count is negative.
    #[error("the length is negative")]
    NegativeLength,
    /// A position is zero where the server always has one.
    #[error("the position is invalid (0/0)")]
    InvalidPosition,
    /// The message is complete and bytes are left over.
    #[error("{0} bytes are left over")]
    TrailingBytes(usize),
    /// The message is well known but cannot come in this protocol version.
    #[error("this message needs protocol version {0}")]
    NeedsVersion(u8),
    /// The message is well known but cannot come inside, or outside, a streamed block.
    #[error("the message is out of place: streamed blocks begin, end and nest differently")]
    OutOfPlace,
}

/// A position in one message body. `message` names what is being read, for errors.
pub(crate) struct Cursor<B = Bytes> {
    rest: B,
    offset: usize,
    message: &'static str,
}

impl Cursor {
    pub(crate) fn new(body: Bytes, message: &'static str) -> Self {
        Self { rest: body, offset: 0, message }
    }

    /// Names the message more precisely, once its tag is known.
    pub(crate) fn name(&mut self, message: &'static str) {
        self.message = message;
    }

    /// Another cursor at the same place, to look ahead with.
    pub(crate) fn ahead(&self) -> Cursor<&[u8]> {
        Cursor { rest: &self.rest, offset: self.offset, message: self.message }
    }

    /// The next `len` bytes, sharing the buffer.
    pub(crate) fn bytes(&mut self, len: usize, expected: &'static str) -> Result<Bytes, DecodeError> {
        self.require(len, expected)?;
        self.offset += len;
        Ok(self.rest.split_to(len))
    }

    /// Everything that is left, sharing the buffer.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        self.offset += self.rest.len();
        std::mem::take(&mut self.rest)
    }

    /// The bytes up to a zero byte, which is consumed too.
    pub(crate) fn cstr_bytes(&mut self, expected: &'static str) -> Result<Bytes, DecodeError> {
        let Some(len) = self.rest.iter().position(|&byte| byte == 0) else {
            return Err(self.error(expected, DecodeProblem::Unterminated));
        };
        let text = self.bytes(len, expected)?;
        self.u8(expected)?;
        Ok(text)
    }

    /// A zero-terminated UTF-8 string.
    pub(crate) fn cstr(&mut self, expected: &'static str) -> Result<String, DecodeError> {
        let offset = self.offset;
        let text = self.cstr_bytes(expected)?;
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.error_at(offset, expected, DecodeProblem::NotUtf8)),
        }
    }
}

impl<B: Buf + AsRef<[u8]>> Cursor<B> {
    pub(crate) fn remaining(&self) -> usize {
        self.rest.remaining()
    }

    /// An error at the current offset.
    pub(crate) fn error(&self, expected: &'static str, problem: DecodeProblem) -> DecodeError {
        self.error_at(self.offset, expected, problem)
    }

    /// An error at the byte just read.
    fn error_behind(&self, width: usize, expected: &'static str, problem: DecodeProblem) -> DecodeError {
        self.error_at(self.offset.saturating_sub(width), expected, problem)
    }

    /// An error about the one-byte tag or flag just read.
    pub(crate) fn unknown(&self, value: u8, expected: &'static str) -> DecodeError {
        self.error_behind(1, expected, DecodeProblem::UnknownValue(value))
    }

    fn error_at(&self, offset: usize, expected: &'static str, problem: DecodeProblem) -> DecodeError {
        DecodeError { message: self.message, offset, expected, problem }
    }

    fn require(&self, len: usize, expected: &'static str) -> Result<(), DecodeError> {
        let available = self.remaining();
        if len > available {
            return Err(self.error(expected, DecodeProblem::Truncated { needed: len, available }));
        }
        Ok(())
    }

    /// Passes over the next `len` bytes.
    pub(crate) fn skip(&mut self, len: usize, expected: &'static str) -> Result<(), DecodeError> {
        self.require(len, expected)?;
        self.offset += len;
        self.rest.advance(len);
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let Some(array) = self.rest.as_ref().first_chunk::<N>().copied() else {
            let available = self.remaining();
            return Err(self.error(expected, DecodeProblem::Truncated { needed: N, available }));
        };
        self.offset += N;
        // In range: `first_chunk` found N bytes.
        self.rest.advance(N);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(expected).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, expected: &'static str) -> Result<u16, DecodeError> {
        self.array(expected).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        self.array(expected).map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, expected: &'static str) -> Result<i32, DecodeError> {
        self.array(expected).map(i32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        self.array(expected).map(u64::from_be_bytes)
    }

    pub(crate) fn oid(&mut self, expected: &'static str) -> Result<Oid, DecodeError> {
        self.u32(expected).map(Oid)
    }

    pub(crate) fn xid(&mut self, expected: &'static str) -> Result<Xid, DecodeError> {
        self.u32(expected).map(Xid)
    }

    pub(crate) fn timestamp(&mut self, expected: &'static str) -> Result<PgTimestamp, DecodeError> {
        self.array(expected).map(|bytes| PgTimestamp::from_postgres_micros(i64::from_be_bytes(bytes)))
    }

    /// A position that the server always has; zero is an error.
    pub(crate) fn lsn(&mut self, expected: &'static str) -> Result<Lsn, DecodeError> {
        let position = self.lsn_if_any(expected)?;
        position.ok_or_else(|| self.error_behind(8, expected, DecodeProblem::InvalidPosition))
    }

    /// A position that may be absent, sent as zero.
    pub(crate) fn lsn_if_any(&mut self, expected: &'static str) -> Result<Option<Lsn>, DecodeError> {
        self.u64(expected).map(Lsn::from_wire)
    }

    /// A signed 32-bit length; negative is an error.
    pub(crate) fn len32(&mut self, expected: &'static str) -> Result<usize, DecodeError> {
        self.len32_if_any(expected)?
            .ok_or_else(|| self.error_behind(4, expected, DecodeProblem::NegativeLength))
    }

    /// A signed 32-bit length where -1 says that there is no value.
    pub(crate) fn len32_if_any(&mut self, expected: &'static str) -> Result<Option<usize>, DecodeError> {
        match self.i32(expected)? {
            -1 => Ok(None),
            len => match usize::try_from(len) {
                Ok(len) => Ok(Some(len)),
                Err(_) => Err(self.error_behind(4, expected, DecodeProblem::NegativeLength)),
            },
        }
    }

    /// Ends the message: anything left over means that we misread it.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.error("the end of the message", DecodeProblem::TrailingBytes(left))),
        }
    }
}
