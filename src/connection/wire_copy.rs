//! `COPY … TO STDOUT` on a connection of our own framing: its data comes in pieces that have nothing to do with rows. Memory is
//! bounded by one piece and what is read at once, however long a row is.

use bytes::{Bytes, BytesMut};
use pgsluice_proto::copy_out::CopyOutError;
use pgsluice_proto::copy_relay::{CopyPiece, CopyRelay, Relaying};

use super::wire::{FRAME_BYTES_MAX, WireConnection, reported};
use super::wire_error::WireError;

/// A copy that the server has begun. The connection is of no more use if this is dropped before the last piece was taken.
#[derive(Debug)]
pub struct WireCopy<'a> {
    connection: &'a mut WireConnection,
    relay: CopyRelay,
    piece: CopyPiece,
    piece_bytes: usize,
}

/// Some of a copy's data.
#[derive(Clone)]
pub struct WirePiece {
    /// May begin and end in the middle of a row.
    pub data: Bytes,
    /// Messages of the server that end in it: a row each, and in binary format one more.
    pub messages: u64,
}

impl WireConnection {
    /// Sends `COPY … TO STDOUT` and waits until the server begins it. Its data comes in pieces of `piece_bytes`, the last one is
    /// shorter. Not cancel safe.
    ///
    /// # Errors
    /// After [`WireError::Server`] the connection can be used on; after any other it cannot.
    pub async fn copy_out(&mut self, command: &str, piece_bytes: usize) -> Result<WireCopy<'_>, WireError> {
        self.send_query(command).await?;
        let relay = CopyRelay::new(FRAME_BYTES_MAX);
        let mut copy = WireCopy { connection: self, relay, piece: CopyPiece::default(), piece_bytes };
        while copy.relay()? == Relaying::Starved && !copy.relay.has_begun() {
            copy.read().await?;
        }
        Ok(copy)
    }
}

impl WireCopy<'_> {
    /// The next piece. `None` after the last one: then the server is ready for the next command. Cancel safe.
    ///
    /// # Errors
    /// As of [`copy_out`](WireConnection::copy_out). What came before is not all of the data then.
    pub async fn next_piece(&mut self) -> Result<Option<WirePiece>, WireError> {
        while self.relay()? == Relaying::Starved {
            self.read().await?;
        }
        let CopyPiece { data, messages } = std::mem::take(&mut self.piece);
        Ok((messages > 0 || !data.is_empty()).then(|| WirePiece { data: data.freeze(), messages }))
    }

    fn relay(&mut self) -> Result<Relaying, WireError> {
        let Self { connection, relay, piece, piece_bytes } = self;
        let arrived = connection.reader.buffer_mut();
        if piece.data.capacity() == 0 && !arrived.is_empty() {
            piece.data = BytesMut::with_capacity(*piece_bytes);
        }
        Ok(relay.relay(arrived, piece, *piece_bytes)?)
    }

    async fn read(&mut self) -> Result<(), WireError> {
        let WireConnection { socket, reader } = &mut *self.connection;
        socket.read_into(reader.buffer_mut()).await
    }
}

impl From<CopyOutError> for WireError {
    fn from(error: CopyOutError) -> Self {
        match error {
            CopyOutError::Server(fields) => reported(&fields),
            CopyOutError::Frame(error) => Self::Frame(error),
            CopyOutError::Decode(error) => Self::Decode(error),
            CopyOutError::Unexpected { message, .. } => {
                Self::Unexpected { found: message, expected: "the data of a COPY" }
            }
        }
    }
}

impl std::fmt::Debug for WirePiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WirePiece(<{} bytes>)", self.data.len())
    }
}
