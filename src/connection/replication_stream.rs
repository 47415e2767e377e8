//! A running `START_REPLICATION`: messages of the walsender in, status updates out, on one socket that one task owns.
//! It keeps no position and sends nothing by itself. Reading never waits for writing: a loop that selects over
//! [`receive`](ReplicationStream::receive), a timer and its progress can answer at any moment (INV-7).

use std::time::Duration;

use bytes::BytesMut;
use pgsluice_proto::copy_both::{StandbyStatus, WalMessage};
use pgsluice_proto::frame::{BackendMessage, FrameReader, frontend};

use super::error::ServerMessage;
use super::replication::ReplicationSocket;
use super::replication_error::ReplicationError;

/// How long an orderly close waits for the server to end its side, while what it still sends is thrown away. It may
/// first finish the transaction that it is sending.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A stream of WAL messages.
#[derive(Debug)]
pub struct ReplicationStream {
    socket: ReplicationSocket,
    reader: FrameReader,
    backend_pid: i32,
    /// Why the stream has ended, found behind messages that were handed out first.
    end: Option<ReplicationError>,
    outgoing: BytesMut,
}

impl ReplicationStream {
    pub(super) fn new(socket: ReplicationSocket, reader: FrameReader, backend_pid: i32) -> Self {
        Self { socket, reader, backend_pid, end: None, outgoing: BytesMut::new() }
    }

    /// The walsender's process, as in `pg_stat_replication.pid`.
    #[must_use]
    pub const fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Waits for at least one message and returns all that have arrived completely: at most one read of 128 KiB
    /// beyond the last message, or one longer message (INV-11). Data is not copied; each message keeps the piece it
    /// was read into alive.
    ///
    /// Cancel safe: dropping the future loses nothing, so it may stand in a `select!`.
    ///
    /// # Errors
    /// [`ReplicationError::Ended`] when the server shuts down, [`ReplicationError::Server`] with its SQLSTATE. Every
    /// message that came before the end has been returned by then. The stream is of no more use.
    pub async fn receive(&mut self) -> Result<Vec<WalMessage>, ReplicationError> {
        loop {
            let mut messages = Vec::new();
            if self.end.is_none() {
                self.take_messages(&mut messages).unwrap_or_else(|error| self.end = Some(error));
            }
            if !messages.is_empty() {
                return Ok(messages);
            }
            if let Some(error) = self.end.take() {
                return Err(error);
            }
            self.socket.read_into(self.reader.buffer_mut()).await?;
        }
    }

    /// Every complete message in the buffer.
    fn take_messages(&mut self, messages: &mut Vec<WalMessage>) -> Result<(), ReplicationError> {
        while let Some(frame) = self.reader.next_frame()? {
            match BackendMessage::parse(frame)? {
                BackendMessage::CopyData(payload) => messages.push(WalMessage::decode(payload)?),
                BackendMessage::ErrorResponse(fields) => {
                    return Err(ReplicationError::Server(ServerMessage::from(&*fields)));
                }
                BackendMessage::NoticeResponse(_) | BackendMessage::ParameterStatus { .. } => {}
                BackendMessage::CopyDone | BackendMessage::CommandComplete(_) => {
                    return Err(ReplicationError::Ended);
                }
                message => {
                    let expected = "a message of the stream";
                    return Err(ReplicationError::Unexpected { found: message.kind(), expected });
                }
            }
        }
        Ok(())
    }

    /// Sends a status update, within ten seconds. Not cancel safe: await it, for instance in the handler of a
    /// `select!` branch.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send_status(&mut self, status: &StandbyStatus) -> Result<(), ReplicationError> {
        let mut payload = BytesMut::new();
        status.encode(&mut payload);
        self.outgoing.clear();
        frontend::copy_data(&payload, &mut self.outgoing)?;
        self.socket.send(&self.outgoing).await
    }

    /// Ends the stream in good order, so that the slot is free at once for the next reader: CopyDone both ways, then
    /// goodbye. What the server still sends is thrown away, and comes again to the next reader. If the server does
    /// not end its side within three seconds the connection is closed all the same.
    pub async fn close(mut self) {
        self.outgoing.clear();
        frontend::copy_done(&mut self.outgoing);
        if self.socket.send(&self.outgoing).await.is_err() {
            return;
        }
        let ended = async {
            loop {
                while let Ok(Some(frame)) = self.reader.next_frame() {
                    let ends = matches!(
                        BackendMessage::parse(frame),
                        Ok(BackendMessage::ReadyForQuery(_) | BackendMessage::ErrorResponse(_)) | Err(_)
                    );
                    if ends {
                        return;
                    }
                }
                if self.socket.read_into(self.reader.buffer_mut()).await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
        self.socket.goodbye().await;
    }
}
