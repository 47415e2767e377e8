//! [`CopyOutSession`]: the state machine of one `COPY … TO STDOUT (FORMAT binary)` whose query has a single column, from
//! the command's answer to the server's readiness for the next. Bytes that arrived go in, the column's values come out,
//! as slices of the buffer they were read into. It owns no socket and no clock, and knows nothing of what the values mean.
//!
//! Source: PostgreSQL documentation, "COPY Operations" and "Binary Format" of COPY.

use bytes::{Bytes, BytesMut};

use crate::cursor::{Cursor, DecodeError};
use crate::frame::{BackendMessage, CopyFormat, ErrorFields, FrameError, FrameReader};

/// What every binary copy begins with.
const SIGNATURE: [u8; 11] = *b"PGCOPY\n\xff\r\n\0";
/// In place of a row's number of columns: there are no more rows.
const TRAILER: u16 = u16::MAX;
/// For errors.
const ROW: &str = "binary COPY";

/// What a copy tells its driver.
#[derive(Clone, PartialEq, Eq)]
pub enum CopyOutEvent {
    /// The value of the next row, sharing the frame's buffer.
    Row(Bytes),
    /// There are no more, and the server is ready for the next command. The last event.
    Ended,
}

impl std::fmt::Debug for CopyOutEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row(value) => write!(f, "Row(<{} bytes>)", value.len()),
            Self::Ended => f.write_str("Ended"),
        }
    }
}

/// Why a copy did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyOutError {
    /// The server refused the command, or stopped with an error. Unless it was fatal, the connection is ready for the
    /// next command. Rows may have come before.
    #[error("{0}")]
    Server(#[source] Box<ErrorFields>),
    /// What arrived is not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame, or a row in it, is not what it should be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A well-formed message that cannot come now.
    #[error("the server sent {message} while {phase}: this is not the COPY that was asked for")]
    Unexpected {
        /// The message's kind.
        message: &'static str,
        /// What was being done.
        phase: &'static str,
    },
}

/// One copy, beginning right after the command was sent.
#[derive(Debug)]
pub struct CopyOutSession {
    reader: FrameReader,
    phase: Phase,
}

/// Where the copy stands. Set by messages of the server alone; none of it persists.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The command was sent; CopyOutResponse has not come.
    Starting,
    /// The copy's signature is due.
    Header,
    /// Rows come.
    Rows,
    /// The trailer has come.
    Finished,
    /// The server reported an error, and is not ready yet.
    Refused(Box<ErrorFields>),
    /// The last event has been given.
    Ended,
}

impl CopyOutSession {
    /// A session whose command has just been sent. `rest` is what was read from the connection since then;
    /// `frame_bytes_max` the longest row accepted.
    pub fn new(frame_bytes_max: usize, rest: BytesMut) -> Self {
        let mut reader = FrameReader::new(frame_bytes_max);
        *reader.buffer_mut() = rest;
        Self { reader, phase: Phase::Starting }
    }

    /// Where the driver appends bytes read from the socket.
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        self.reader.buffer_mut()
    }

    /// The next event, if a complete message has arrived. After an error other than
    /// [`Server`](CopyOutError::Server) the connection is of no more use.
    pub fn poll_event(&mut self) -> Result<Option<CopyOutEvent>, CopyOutError> {
        while self.phase != Phase::Ended {
            let Some(frame) = self.reader.next_frame()? else {
                return Ok(None);
            };
            if let Some(event) = self.receive(BackendMessage::parse(frame)?)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// After the end: bytes beyond the copy, for the connection's next use.
    pub fn into_buffer(self) -> BytesMut {
        self.reader.into_buffer()
    }

    fn receive(&mut self, message: BackendMessage) -> Result<Option<CopyOutEvent>, CopyOutError> {
        match (message, &self.phase) {
            (BackendMessage::CopyData(data), Phase::Header | Phase::Rows) => self.data(data),
            (BackendMessage::CopyOutResponse(CopyFormat::Binary), Phase::Starting) => {
                self.phase = Phase::Header;
                Ok(None)
            }
            (BackendMessage::ErrorResponse(fields), _) => {
                if fields.severity != "ERROR" {
                    return Err(CopyOutError::Server(fields));
                }
                self.phase = Phase::Refused(fields);
                Ok(None)
            }
            (BackendMessage::ReadyForQuery(_), Phase::Finished) => {
                self.phase = Phase::Ended;
                Ok(Some(CopyOutEvent::Ended))
            }
            (BackendMessage::ReadyForQuery(_), Phase::Refused(fields)) => {
                let fields = fields.clone();
                self.phase = Phase::Ended;
                Err(CopyOutError::Server(fields))
            }
            (BackendMessage::NoticeResponse(_) | BackendMessage::ParameterStatus { .. }, _)
            | (BackendMessage::CopyDone | BackendMessage::CommandComplete(_), Phase::Finished) => Ok(None),
            (message, phase) => {
                Err(CopyOutError::Unexpected { message: message.kind(), phase: phase.describe() })
            }
        }
    }

    /// The server puts the signature before the first row or the trailer, and one row into each message.
    fn data(&mut self, data: Bytes) -> Result<Option<CopyOutEvent>, CopyOutError> {
        let mut cursor = Cursor::new(data, ROW);
        if self.phase == Phase::Header {
            header(&mut cursor)?;
            self.phase = Phase::Rows;
            if cursor.remaining() == 0 {
                return Ok(None);
            }
        }
        let columns = cursor.u16("the number of columns")?;
        let event = match columns {
            TRAILER => {
                self.phase = Phase::Finished;
                None
            }
            1 => {
                let len = cursor.len32("the value's length")?;
                Some(CopyOutEvent::Row(cursor.bytes(len, "the value")?))
            }
            _ => {
                let message = "a row of another number of columns";
                return Err(CopyOutError::Unexpected { message, phase: self.phase.describe() });
            }
        };
        cursor.finish()?;
        Ok(event)
    }
}

fn header(cursor: &mut Cursor) -> Result<(), CopyOutError> {
    let signature: [u8; SIGNATURE.len()] = cursor.array("the signature")?;
    if signature != SIGNATURE {
        return Err(CopyOutError::Unexpected {
            message: "another signature",
            phase: Phase::Header.describe(),
        });
    }
    cursor.u32("the flags")?;
    let extension = cursor.len32("the length of the header's extension")?;
    cursor.bytes(extension, "the header's extension")?;
    Ok(())
}

impl Phase {
    const fn describe(&self) -> &'static str {
        match self {
            Self::Starting => "a copy was to start",
            Self::Header => "the copy's signature was due",
            Self::Rows => "rows came",
            Self::Finished => "the copy was ending",
            Self::Refused(_) => "an error was being reported",
            Self::Ended => "the copy was over",
        }
    }
}
