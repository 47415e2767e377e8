//! Version 3 framing: a tag, a length, a body. It cuts a stream of bytes into [`Frame`]s, and a frame into a
//! [`BackendMessage`]; [`frontend`] does the reverse direction. It owns no socket: "need more bytes" is `Ok(None)`,
//! not an error. A frame longer than the caller's bound is refused by its header, before anything is allocated for
//! it (INV-11).
//!
//! Source: PostgreSQL documentation, "Message Formats".

mod backend;
pub mod frontend;

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

pub use backend::{AuthRequest, BackendMessage, CopyFormat, ErrorFields, TransactionStatus};

/// One message of the server: its tag, and its body without the length.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message's type.
    pub tag: u8,
    /// The message's body, sharing the buffer it was read into.
    pub body: Bytes,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?}, <{} bytes>)", char::from(self.tag), self.body.len())
    }
}

/// Bytes that cannot be a frame. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length does not even count itself: this is not PostgreSQL's protocol, or we lost our place in it.
    #[error("the server sent a {tag:?} message of impossible length {len}: is this a PostgreSQL server?")]
    LengthTooShort {
        /// The message's type.
        tag: char,
        /// The length it claims, in bytes, counting itself.
        len: u32,
    },
    /// The message is longer than the caller accepts.
    #[error("the server sent a {tag:?} message of {len} bytes; at most {max} are accepted")]
    TooLong {
        /// The message's type.
        tag: char,
        /// The body's length in bytes.
        len: usize,
        /// The greatest length accepted, in bytes.
        max: usize,
    },
    /// The server answered a request for TLS with neither yes nor no.
    #[error("the server answered a request for TLS with {0:#04x}: is this a PostgreSQL server?")]
    UnexpectedTlsAnswer(u8),
}

/// The tag of CopyData, the one message that comes by the million.
const COPY_DATA: u8 = b'd';
/// The tag.
const TAG_BYTES: usize = 1;
/// The length, which counts itself.
const LENGTH_BYTES: usize = 4;

/// How much space is made at once for a frame that has begun to arrive. A longer one gets more as it arrives, so that
/// a header alone cannot make us allocate its claim.
const RESERVE_BYTES_MAX: usize = 256 * 1024;

/// Cuts the first frame off `buf`, without copying it. `Ok(None)` means that it has not arrived completely; `buf`
/// then has space for (some of) the rest. `max_len` bounds the body, in bytes.
pub fn parse_frame(buf: &mut BytesMut, max_len: usize) -> Result<Option<Frame>, FrameError> {
    let Some(&[tag, a, b, c, d]) = buf.first_chunk::<{ TAG_BYTES + LENGTH_BYTES }>() else {
        return Ok(None);
    };
    let body_len = body_len(tag, [a, b, c, d], max_len)?;
    let missing = body_len.saturating_sub(buf.len() - (TAG_BYTES + LENGTH_BYTES));
    if missing > 0 {
        buf.reserve(missing.min(RESERVE_BYTES_MAX));
        return Ok(None);
    }
    buf.advance(TAG_BYTES + LENGTH_BYTES);
    Ok(Some(Frame { tag, body: buf.split_to(body_len).freeze() }))
}

/// Cuts the header off `bytes` if it is one of CopyData and complete, and returns how long that message's body is. For those
/// who need not wait for all of it.
pub(crate) fn data_frame_len(bytes: &mut &[u8], max_len: usize) -> Result<Option<usize>, FrameError> {
    let Some((&[COPY_DATA, a, b, c, d], body)) = bytes.split_first_chunk::<{ TAG_BYTES + LENGTH_BYTES }>()
    else {
        return Ok(None);
    };
    let len = body_len(COPY_DATA, [a, b, c, d], max_len)?;
    *bytes = body;
    Ok(Some(len))
}

fn body_len(tag: u8, length: [u8; LENGTH_BYTES], max: usize) -> Result<usize, FrameError> {
    let claimed = u32::from_be_bytes(length);
    let tag = char::from(tag);
    // On a 16-bit machine the length may not fit; then it is too long as well.
    match usize::try_from(claimed).unwrap_or(usize::MAX).checked_sub(LENGTH_BYTES) {
        None => Err(FrameError::LengthTooShort { tag, len: claimed }),
        Some(len) if len > max => Err(FrameError::TooLong { tag, len, max }),
        Some(len) => Ok(len),
    }
}

/// A buffer and its bound: fill [`FrameReader::buffer_mut`] from a socket, then take frames until there is none.
pub struct FrameReader {
    buffer: BytesMut,
    max_len: usize,
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameReader(<{} bytes>)", self.buffer.len())
    }
}

impl FrameReader {
    /// A reader that accepts bodies of up to `max_len` bytes.
    pub fn new(max_len: usize) -> Self {
        Self { buffer: BytesMut::new(), max_len }
    }

    /// Where bytes read from the server are appended.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next complete frame, if it has arrived.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        parse_frame(&mut self.buffer, self.max_len)
    }

    /// What was read beyond the frames taken: of use when the connection changes hands.
    pub fn into_buffer(self) -> BytesMut {
        self.buffer
    }
}

/// The server's answer to [`frontend::ssl_request`]: one byte, outside of framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsAnswer {
    /// `S`: begin the TLS handshake now. Bytes already received after this one must be treated as an attack.
    Accepted,
    /// `N`: the server does not do TLS.
    Refused,
    /// `E`: an ErrorResponse begins; from servers too old or unable to fork. Its text is not authenticated.
    Error,
}

impl TlsAnswer {
    /// Reads the answer's byte.
    pub fn parse(byte: u8) -> Result<Self, FrameError> {
        match byte {
            b'S' => Ok(Self::Accepted),
            b'N' => Ok(Self::Refused),
            b'E' => Ok(Self::Error),
            other => Err(FrameError::UnexpectedTlsAnswer(other)),
        }
    }
}
