//! What a walsender and its client say to each other inside CopyData, once `START_REPLICATION` has switched the
//! connection to CopyBoth: WAL data and keepalives one way, status updates the other. Encoded and decoded both ways,
//! so that tests can play the server. Nothing here knows what the WAL data contains.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol".

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::cursor::{Cursor, DecodeError};
use crate::lsn::Lsn;
use crate::scalar::PgTimestamp;
use crate::writer::{put_lsn, put_timestamp};

/// One message from a walsender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalMessage {
    /// `w`: one message of the output plugin.
    Data(XLogData),
    /// `k`: the server is alive and has decoded up to a position.
    Keepalive(Keepalive),
}

/// `w` (XLogData): a piece of the stream.
#[derive(Clone, PartialEq, Eq)]
pub struct XLogData {
    /// Where the record begins that this was decoded from; for a commit, where the commit record ends. `None` when
    /// the plugin wrote something else before its last message for a record, such as a relation's description.
    pub wal_start: Option<Lsn>,
    /// In logical replication always the same as `wal_start`.
    pub wal_end: Option<Lsn>,
    /// The server's clock when it sent this.
    pub sent_at: PgTimestamp,
    /// The plugin's message, sharing the buffer of the frame.
    pub payload: Bytes,
}

impl fmt::Debug for XLogData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XLogData")
            .field("wal_start", &self.wal_start)
            .field("wal_end", &self.wal_end)
            .field("sent_at", &self.sent_at)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

/// `k` (primary keepalive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// The walsender has decoded and sent everything before this position. It is progress only for a client with no
    /// change left to apply (INV-3).
    pub wal_end: Lsn,
    /// The server's clock when it sent this.
    pub sent_at: PgTimestamp,
    /// Whether the server will disconnect soon unless it hears from us.
    pub reply: ReplyRequest,
}

/// Whether the sender of a keepalive or status update wants an answer at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyRequest {
    /// No answer is asked for.
    NotRequested,
    /// An answer is asked for at once, to prevent a timeout.
    Requested,
}

/// `r` (standby status update): what the client has done with the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received: everything before this has arrived here. Shown as `write_lsn`.
    pub written: Option<Lsn>,
    /// Durable: the server may forget everything before this, for ever. Only ever set from a position that the
    /// target has flushed (INV-3): in the program, only a `DurableLsn` becomes this field. `None` confirms nothing.
    pub flushed: Option<Lsn>,
    /// Applied: visible on the target. Shown as `replay_lsn`.
    pub applied: Option<Lsn>,
    /// The client's clock.
    pub sent_at: PgTimestamp,
    /// Whether the server shall answer with a keepalive at once.
    pub reply: ReplyRequest,
}

impl WalMessage {
    /// Reads the payload of a CopyData that a walsender sent.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(payload, "walsender");
        match cursor.u8("a walsender message")? {
            b'w' => {
                cursor.name("XLogData");
                Ok(Self::Data(XLogData {
                    wal_start: cursor.lsn_if_any("the start position")?,
                    wal_end: cursor.lsn_if_any("the end position")?,
                    sent_at: cursor.timestamp("the server's clock")?,
                    payload: cursor.take_rest(),
                }))
            }
            b'k' => {
                cursor.name("keepalive");
                let keepalive = Keepalive {
                    wal_end: cursor.lsn("the end position")?,
                    sent_at: cursor.timestamp("the server's clock")?,
                    reply: reply_request(&mut cursor)?,
                };
                cursor.finish()?;
                Ok(Self::Keepalive(keepalive))
            }
            tag => Err(cursor.unknown(tag, "w (data) or k (keepalive)")),
        }
    }

    /// Appends the payload of a CopyData, as a walsender would.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Data(data) => {
                out.put_u8(b'w');
                put_lsn(out, data.wal_start);
                put_lsn(out, data.wal_end);
                put_timestamp(out, data.sent_at);
                out.put_slice(&data.payload);
            }
            Self::Keepalive(keepalive) => {
                out.put_u8(b'k');
                put_lsn(out, keepalive.wal_end);
                put_timestamp(out, keepalive.sent_at);
                put_reply_request(out, keepalive.reply);
            }
        }
    }
}

impl StandbyStatus {
    /// Appends the payload of a CopyData.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(b'r');
        put_lsn(out, self.written);
        put_lsn(out, self.flushed);
        put_lsn(out, self.applied);
        put_timestamp(out, self.sent_at);
        put_reply_request(out, self.reply);
    }

    /// Reads the payload of a CopyData that a client sent.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(payload, "standby status");
        match cursor.u8("a standby message")? {
            b'r' => {}
            tag => return Err(cursor.unknown(tag, "r (status update)")),
        }
        let status = Self {
            written: cursor.lsn_if_any("the written position")?,
            flushed: cursor.lsn_if_any("the flushed position")?,
            applied: cursor.lsn_if_any("the applied position")?,
            sent_at: cursor.timestamp("the client's clock")?,
            reply: reply_request(&mut cursor)?,
        };
        cursor.finish()?;
        Ok(status)
    }
}

fn reply_request(cursor: &mut Cursor) -> Result<ReplyRequest, DecodeError> {
    match cursor.u8("whether a reply is requested")? {
        0 => Ok(ReplyRequest::NotRequested),
        1 => Ok(ReplyRequest::Requested),
        other => Err(cursor.unknown(other, "0 or 1")),
    }
}

fn put_reply_request(out: &mut BytesMut, reply: ReplyRequest) {
    out.put_u8(match reply {
        ReplyRequest::NotRequested => 0,
        ReplyRequest::Requested => 1,
    });
}
