//! [`CopyRelay`]: the state machine of one `COPY … TO STDOUT` of which nothing but the data is of interest, from the command's
//! answer to the server's readiness for the next. Bytes that arrived go in; the data comes out gathered into pieces, whatever its
//! format. It never looks into a row, and does not wait for the end of one before it passes on its beginning: no message makes it
//! hold more than the caller's two buffers. It owns no socket and no clock.
//!
//! Source: PostgreSQL documentation, "COPY Operations": "The message boundaries are not required to have anything to do with row
//! boundaries".

use bytes::{Buf as _, BytesMut};

use crate::copy_out::CopyOutError;
use crate::frame::{BackendMessage, ErrorFields, FrameError, data_frame_len, parse_frame};

/// One copy, beginning right after the command was sent.
#[derive(Debug)]
pub struct CopyRelay {
    phase: Phase,
    frame_bytes_max: usize,
}

/// Data on its way.
#[derive(Clone, Default)]
pub struct CopyPiece {
    /// What the server's messages held, one after the other.
    pub data: BytesMut,
    /// Messages of the server that end in it: a row each, and in binary format one more.
    pub messages: u64,
}

/// Why [`CopyRelay::relay`] has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Relaying {
    /// All that can be taken of what arrived is taken.
    Starved,
    /// The piece is as large as it may be.
    Full,
    /// There is no more, and the server is ready for the next command.
    Ended,
}

/// Where the copy stands. Set by messages of the server alone; none of it persists.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The command was sent; CopyOutResponse has not come.
    Starting,
    /// Data comes. Of the message that has begun so many bytes are due.
    Data { due: Option<usize> },
    /// CopyDone has come.
    Finished,
    /// The server reported an error, and is not ready yet.
    Refused(Box<ErrorFields>),
    /// The server is ready again.
    Ended,
}

impl CopyRelay {
    /// A relay whose command has just been sent. A message of more than `frame_bytes_max` bytes is refused.
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self { phase: Phase::Starting, frame_bytes_max }
    }

    /// Whether the server has agreed to copy. An error may still come.
    pub const fn has_begun(&self) -> bool {
        matches!(self.phase, Phase::Data { .. } | Phase::Finished | Phase::Ended)
    }

    /// Moves data out of what `arrived` to the end of `piece`, until that has `piece_bytes`. After an error other than
    /// [`Server`](CopyOutError::Server) the connection is of no more use.
    pub fn relay(
        &mut self,
        arrived: &mut BytesMut,
        piece: &mut CopyPiece,
        piece_bytes: usize,
    ) -> Result<Relaying, CopyOutError> {
        while self.phase != Phase::Ended {
            if let Phase::Data { due } = &mut self.phase {
                gather(arrived, due, piece, piece_bytes, self.frame_bytes_max)?;
                if piece.data.len() >= piece_bytes {
                    return Ok(Relaying::Full);
                }
                if due.is_some() {
                    return Ok(Relaying::Starved);
                }
            }
            let Some(frame) = parse_frame(arrived, self.frame_bytes_max)? else {
                return Ok(Relaying::Starved);
            };
            self.receive(BackendMessage::parse(frame)?)?;
        }
        Ok(Relaying::Ended)
    }

    /// What is not data.
    fn receive(&mut self, message: BackendMessage) -> Result<(), CopyOutError> {
        self.phase = match (message, &self.phase) {
            (BackendMessage::CopyOutResponse(_), Phase::Starting) => Phase::Data { due: None },
            (BackendMessage::CopyDone, Phase::Data { .. }) => Phase::Finished,
            (BackendMessage::ErrorResponse(fields), _) => {
                if fields.severity != "ERROR" {
                    return Err(CopyOutError::Server(fields));
                }
                Phase::Refused(fields)
            }
            (BackendMessage::ReadyForQuery(_), Phase::Finished) => Phase::Ended,
            (BackendMessage::ReadyForQuery(_), Phase::Refused(fields)) => {
                let fields = fields.clone();
                self.phase = Phase::Ended;
                return Err(CopyOutError::Server(fields));
            }
            (BackendMessage::NoticeResponse(_) | BackendMessage::ParameterStatus { .. }, _)
            | (BackendMessage::CommandComplete(_), Phase::Finished) => return Ok(()),
            (message, phase) => {
                return Err(CopyOutError::Unexpected { message: message.kind(), phase: phase.describe() });
            }
        };
        Ok(())
    }
}

/// Takes messages of data, up to the first other one. This is what happens to every row, so it happens within the buffer.
fn gather(
    arrived: &mut BytesMut,
    due: &mut Option<usize>,
    piece: &mut CopyPiece,
    piece_bytes: usize,
    frame_bytes_max: usize,
) -> Result<(), FrameError> {
    let mut rest: &[u8] = arrived;
    while piece.data.len() < piece_bytes {
        let len = match *due {
            Some(len) => len,
            None => match data_frame_len(&mut rest, frame_bytes_max)? {
                Some(len) => len,
                None => break,
            },
        };
        let taken = len.min(rest.len()).min(piece_bytes - piece.data.len());
        let (data, after) = rest.split_at(taken);
        piece.data.extend_from_slice(data);
        rest = after;
        *due = (taken < len).then(|| len - taken);
        if due.is_some() {
            break;
        }
        piece.messages += 1;
    }
    let taken = arrived.len() - rest.len();
    arrived.advance(taken);
    Ok(())
}

impl Phase {
    const fn describe(&self) -> &'static str {
        match self {
            Self::Starting => "a copy was to start",
            Self::Data { .. } => "data came",
            Self::Finished => "the copy was ending",
            Self::Refused(_) => "an error was being reported",
            Self::Ended => "the copy was over",
        }
    }
}

impl std::fmt::Debug for CopyPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CopyPiece(<{} bytes> of {} messages)", self.data.len(), self.messages)
    }
}
