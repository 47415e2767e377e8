//! [`ReplicationSession`]: the state machine of one `START_REPLICATION`, from the command's answer to the end of the
//! stream. Inputs are `handle_*` (bytes arrived, progress was made, time passed), outputs are `poll_*` (messages for
//! the engine, bytes for the socket, the next deadline). It owns no socket and no clock, never blocks, and never
//! decides what is durable: it only refuses to confirm what was not received (INV-3). Status updates depend on time
//! and on the server's requests alone, so that a slow apply cannot delay them (INV-7).
//!
//! A driver's loop: wait for the socket, for progress, or for [`poll_timeout`](ReplicationSession::poll_timeout);
//! tell the session; send what [`poll_transmit`](ReplicationSession::poll_transmit) gives; take events until
//! [`poll_event`](ReplicationSession::poll_event) gives none; read again. Reading only then keeps the buffer at one
//! frame and one read (INV-11).

use std::time::Duration;

use bytes::BytesMut;

use crate::copy_both::{Keepalive, ReplyRequest, StandbyStatus, WalMessage, XLogData};
use crate::cursor::DecodeError;
use crate::frame::{BackendMessage, ErrorFields, FrameError, FrameReader, frontend};
use crate::lsn::Lsn;
use crate::scalar::PgTimestamp;
use crate::writer::EncodeError;

/// What a session needs to know before it begins.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The position that `START_REPLICATION` named: everything before it has been received already. `None` if the
    /// slot decides.
    pub start: Option<Lsn>,
    /// How often a status update is sent at least; well below the server's `wal_sender_timeout`.
    pub status_interval: Duration,
    /// How long the server may be silent before the connection counts as lost. At half of it the session asks for a
    /// sign of life. `None` waits for ever.
    pub silence_limit: Option<Duration>,
    /// The longest message accepted, in bytes. A server never sends more than 1 GiB.
    pub frame_bytes_max: usize,
}

/// What time it is, told by the driver.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Time since a moment of the driver's choice; never goes back.
    pub monotonic: Duration,
    /// The wall clock, only ever shown to the server.
    pub wall: PgTimestamp,
}

/// What a session tells the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The server has switched to CopyBoth: the slot is ours.
    Started,
    /// A message of the output plugin.
    Data(XLogData),
    /// The server is alive; whether its position is progress is the engine's to decide.
    Keepalive(Keepalive),
    /// The server remarked something.
    Notice(Box<ErrorFields>),
    /// A setting of the server has changed.
    ParameterStatus {
        /// The setting.
        name: String,
        /// Its value from now on.
        value: String,
    },
    /// The stream is over. The last event.
    Ended(StreamEnd),
}

/// Why a stream is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// We asked for it, and the server is ready for the next command.
    Requested,
    /// The server ended it: it is being shut down. Reconnect later.
    ByServer,
}

/// Why a session cannot go on. After one of these it is of no more use; nothing durable is lost by reconnecting,
/// since the server forgets only what was confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The server refused the command, or stopped with an error.
    #[error("the source ended the replication stream: {0}")]
    Server(#[source] Box<ErrorFields>),
    /// What arrived is not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame is not the message it should be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A status update could not be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A well-formed message that cannot come now.
    #[error("the source sent {message} while {phase}: this is not a logical replication stream")]
    Unexpected {
        /// The message's kind.
        message: &'static str,
        /// What the session was doing.
        phase: &'static str,
    },
    /// Nothing arrived for longer than the limit.
    #[error("the source has been silent for {} s, and did not answer when asked: the connection is lost", .0.as_secs())]
    Silent(Duration),
    /// The engine called something durable that never arrived here (INV-3).
    #[error(
        "position {durable} was reported as durable, but only {received:?} has been received: nothing was confirmed"
    )]
    DurableBeyondReceived {
        /// What was called durable.
        durable: Lsn,
        /// The end of what was received.
        received: Option<Lsn>,
    },
    /// What was durable no longer is: the target has lost commits, as by a failover to a lagging standby.
    #[error("position {durable} is durable, but {confirmed} was before: the target has gone back in time")]
    DurableWentBack {
        /// What is durable now.
        durable: Lsn,
        /// What was durable before, and may have been confirmed.
        confirmed: Lsn,
    },
}

/// One `START_REPLICATION`, beginning right after the command was sent.
#[derive(Debug)]
pub struct ReplicationSession {
    config: SessionConfig,
    reader: FrameReader,
    phase: Phase,
    progress: Progress,
    /// When the last bytes came from the server.
    last_heard: Duration,
    /// When the last status update was handed out; before the first, when the session began.
    last_status: Duration,
    /// Whether the sign of life that `silence_limit` asks for has been requested since the server was last heard.
    asked_for_reply: bool,
    /// Set when a status update cannot wait for the interval.
    status_due: bool,
}

/// Where the session stands. Set by messages of the server, except `Closing`, which is set by `finish`; none of it
/// persists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `START_REPLICATION` was sent; CopyBothResponse has not come.
    Starting,
    /// The stream runs.
    Streaming,
    /// We want to end the stream; `CopyDone` is still to be sent or has been.
    Closing(CloseProgress),
    /// The last event has been given.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseProgress {
    CopyDoneToSend,
    CopyDoneSent,
}

/// INV-3: received ≥ applied ≥ durable, each `None` until there is something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    received: Option<Lsn>,
    applied: Option<Lsn>,
    durable: Option<Lsn>,
}

/// Inputs.
impl ReplicationSession {
    /// A session whose `START_REPLICATION` has just been sent. `now` is the driver's monotonic time.
    pub fn new(config: SessionConfig, now: Duration) -> Self {
        let reader = FrameReader::new(config.frame_bytes_max);
        let progress = Progress { received: config.start, applied: None, durable: None };
        Self {
            config,
            reader,
            phase: Phase::Starting,
            progress,
            last_heard: now,
            last_status: now,
            asked_for_reply: false,
            status_due: false,
        }
    }

    /// Where the driver appends bytes read from the socket, followed by [`handle_read`](Self::handle_read).
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        self.reader.buffer_mut()
    }

    /// Bytes have been appended to [`read_buffer`](Self::read_buffer).
    pub fn handle_read(&mut self, now: Duration) {
        self.last_heard = self.last_heard.max(now);
        self.asked_for_reply = false;
    }

    /// Bytes have arrived; for drivers that have them in a buffer of their own.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Duration) {
        self.read_buffer().extend_from_slice(bytes);
        self.handle_read(now);
    }

    /// Everything up to `applied` is visible on the target. Only shown to people, in `pg_stat_replication`.
    pub fn handle_applied(&mut self, applied: Lsn) {
        self.progress.applied = self.progress.applied.max(Some(applied)).min(self.progress.received);
    }

    /// Everything up to `durable` survives a crash of the target, so the source may forget it. The caller vouches for
    /// it: in the program, only a `DurableLsn` is ever passed here (INV-3).
    pub fn handle_durable(&mut self, durable: Lsn) -> Result<(), SessionError> {
        let received = self.progress.received;
        if received.is_none_or(|received| durable > received) {
            return Err(SessionError::DurableBeyondReceived { durable, received });
        }
        if let Some(confirmed) = self.progress.durable.filter(|&confirmed| confirmed > durable) {
            return Err(SessionError::DurableWentBack { durable, confirmed });
        }
        self.progress.durable = Some(durable);
        self.progress.applied = self.progress.applied.max(Some(durable));
        Ok(())
    }

    /// Time has passed. An error means that the connection is lost.
    pub fn handle_timeout(&mut self, now: Duration) -> Result<(), SessionError> {
        match self.config.silence_limit {
            Some(limit) if now.saturating_sub(self.last_heard) >= limit && self.phase != Phase::Ended => {
                Err(SessionError::Silent(now.saturating_sub(self.last_heard)))
            }
            _ => Ok(()),
        }
    }

    /// Makes the next [`poll_transmit`](Self::poll_transmit) give a status update, as after durable progress that
    /// somebody waits for.
    pub fn request_status(&mut self) {
        self.status_due = true;
    }

    /// Ends the stream in good order: a last status update and CopyDone are sent, then events go on until
    /// [`StreamEnd::Requested`]. The server may first finish the transaction that it is sending.
    pub fn finish(&mut self) {
        if matches!(self.phase, Phase::Starting | Phase::Streaming) {
            self.phase = Phase::Closing(CloseProgress::CopyDoneToSend);
            self.status_due = true;
        }
    }
}

/// Outputs.
impl ReplicationSession {
    /// The next event, if a complete message has arrived.
    pub fn poll_event(&mut self) -> Result<Option<SessionEvent>, SessionError> {
        while self.phase != Phase::Ended {
            let Some(frame) = self.reader.next_frame()? else {
                return Ok(None);
            };
            let message = BackendMessage::parse(frame)?;
            if let Some(event) = self.receive(message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Appends what should be sent now to `out`: a status update when the interval has passed, when the server asked
    /// for one, or when the session wants a sign of life; CopyDone after [`finish`](Self::finish).
    pub fn poll_transmit(&mut self, now: Now, out: &mut BytesMut) -> Result<(), SessionError> {
        let may_send = matches!(self.phase, Phase::Streaming | Phase::Closing(CloseProgress::CopyDoneToSend));
        if !may_send {
            return Ok(());
        }
        let ask = self.reply_wanted_at().is_some_and(|at| now.monotonic >= at);
        if self.status_due || ask || now.monotonic >= self.status_at() {
            let reply = if ask { ReplyRequest::Requested } else { ReplyRequest::NotRequested };
            let mut payload = BytesMut::with_capacity(STATUS_BYTES);
            self.status(now.wall, reply).encode(&mut payload);
            frontend::copy_data(&payload, out)?;
            self.status_due = false;
            self.asked_for_reply |= ask;
            self.last_status = now.monotonic;
        }
        if self.phase == Phase::Closing(CloseProgress::CopyDoneToSend) {
            frontend::copy_done(out);
            self.phase = Phase::Closing(CloseProgress::CopyDoneSent);
        }
        Ok(())
    }

    /// The monotonic time at which [`handle_timeout`](Self::handle_timeout) and then
    /// [`poll_transmit`](Self::poll_transmit) must be called at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let lost_at = self.config.silence_limit.map(|limit| self.last_heard.saturating_add(limit));
        match self.phase {
            Phase::Streaming if self.status_due => Some(Duration::ZERO),
            Phase::Streaming => {
                [Some(self.status_at()), self.reply_wanted_at(), lost_at].into_iter().flatten().min()
            }
            Phase::Starting | Phase::Closing(CloseProgress::CopyDoneSent) => lost_at,
            Phase::Closing(CloseProgress::CopyDoneToSend) => Some(Duration::ZERO),
            Phase::Ended => None,
        }
    }

    /// The end of what has been received: nothing before it will come again on this connection.
    pub fn received(&self) -> Option<Lsn> {
        self.progress.received
    }

    /// The last durable position told; the server may have been told too.
    pub fn durable(&self) -> Option<Lsn> {
        self.progress.durable
    }

    /// After [`SessionEvent::Ended`]: bytes beyond the stream, for the connection's next use.
    pub fn into_buffer(self) -> BytesMut {
        self.reader.into_buffer()
    }
}

/// Tag, three positions, clock, reply request.
const STATUS_BYTES: usize = 1 + 3 * 8 + 8 + 1;

impl ReplicationSession {
    fn receive(&mut self, message: BackendMessage) -> Result<Option<SessionEvent>, SessionError> {
        match (message, self.phase) {
            (BackendMessage::ErrorResponse(fields), _) => Err(SessionError::Server(fields)),
            (BackendMessage::NoticeResponse(fields), _) => Ok(Some(SessionEvent::Notice(fields))),
            (BackendMessage::ParameterStatus { name, value }, _) => {
                Ok(Some(SessionEvent::ParameterStatus { name, value }))
            }
            (BackendMessage::CopyBothResponse(_), Phase::Starting) => {
                self.phase = Phase::Streaming;
                // Tell the server at once where we are.
                self.status_due = true;
                Ok(Some(SessionEvent::Started))
            }
            (BackendMessage::CopyBothResponse(_), Phase::Closing(_)) => Ok(Some(SessionEvent::Started)),
            (BackendMessage::CopyData(payload), Phase::Streaming | Phase::Closing(_)) => {
                Ok(Some(self.receive_wal(WalMessage::decode(payload)?)))
            }
            (BackendMessage::CopyDone, Phase::Streaming) => Ok(None),
            (BackendMessage::CopyDone | BackendMessage::CommandComplete(_), Phase::Closing(_)) => Ok(None),
            (BackendMessage::CommandComplete(_), Phase::Streaming) => Ok(Some(self.end(StreamEnd::ByServer))),
            (BackendMessage::ReadyForQuery(_), Phase::Closing(_)) => Ok(Some(self.end(StreamEnd::Requested))),
            (message, phase) => {
                Err(SessionError::Unexpected { message: message.kind(), phase: phase.describe() })
            }
        }
    }

    fn receive_wal(&mut self, message: WalMessage) -> SessionEvent {
        match message {
            WalMessage::Data(data) => {
                self.progress.received = self.progress.received.max(data.wal_start).max(data.wal_end);
                SessionEvent::Data(data)
            }
            WalMessage::Keepalive(keepalive) => {
                self.progress.received = self.progress.received.max(Some(keepalive.wal_end));
                if keepalive.reply == ReplyRequest::Requested {
                    self.status_due = true;
                }
                SessionEvent::Keepalive(keepalive)
            }
        }
    }

    fn end(&mut self, end: StreamEnd) -> SessionEvent {
        self.phase = Phase::Ended;
        SessionEvent::Ended(end)
    }

    fn status(&self, sent_at: PgTimestamp, reply: ReplyRequest) -> StandbyStatus {
        let Progress { received, applied, durable } = self.progress;
        StandbyStatus { written: received, flushed: durable, applied, sent_at, reply }
    }

    fn status_at(&self) -> Duration {
        self.last_status.saturating_add(self.config.status_interval)
    }

    fn reply_wanted_at(&self) -> Option<Duration> {
        let limit = self.config.silence_limit.filter(|_| !self.asked_for_reply)?;
        Some(self.last_heard.saturating_add(limit / 2))
    }
}

impl Phase {
    fn describe(self) -> &'static str {
        match self {
            Self::Starting => "replication was to start",
            Self::Streaming => "the stream was running",
            Self::Closing(_) => "the stream was being ended",
            Self::Ended => "the stream was over",
        }
    }
}
