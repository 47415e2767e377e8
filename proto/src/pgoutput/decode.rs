//! [`Decoder`]: bytes of pgoutput to [`LogicalMessage`]. It remembers one thing, whether the stream is inside a block
//! of a running transaction, because that changes what follows a message's tag. It never copies a row's values,
//! never skips what it does not understand, and never panics: a wrong byte is an error with its offset.

use bytes::Bytes;

use crate::cursor::{Cursor, DecodeError, DecodeProblem};
use crate::pgoutput::message::{LogicalMessage, OldTuple, ProtocolVersion, StreamAbortInfo, TruncateOptions};
use crate::pgoutput::relation::{Relation, TypeInfo};
use crate::pgoutput::tuple::Tuple;
use crate::scalar::Opaque;

/// Decodes the messages of one `START_REPLICATION`, in order. A new connection needs a new one.
#[derive(Debug, Clone)]
pub struct Decoder {
    version: ProtocolVersion,
    place: Place,
}

/// Where in the stream the next message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Not in a streamed block: from the start, and after `E`.
    Outside,
    /// Between `S` and `E`: changes carry the identifier of their transaction.
    InStreamedBlock,
}

impl Decoder {
    /// A decoder for the version that `START_REPLICATION` asked for, at the beginning of the stream.
    pub fn new(version: ProtocolVersion) -> Self {
        Self { version, place: Place::Outside }
    }

    /// A decoder for messages of one streamed block that were put aside, without the StreamStart before them.
    pub fn in_streamed_block(version: ProtocolVersion) -> Self {
        Self { version, place: Place::InStreamedBlock }
    }

    /// Reads one message: the payload of one XLogData, or one `data` column of the `pg_logical_slot_*_binary_changes`
    /// functions. Values of rows share the payload's buffer and keep it alive. After an error the decoder is as it
    /// was before.
    pub fn decode(&mut self, payload: Bytes) -> Result<LogicalMessage, DecodeError> {
        let mut cursor = Cursor::new(payload, "pgoutput");
        let tag = cursor.u8("a message's tag")?;
        cursor.name(message_name(tag));
        let message = match tag {
            b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' => self.change(tag, &mut cursor)?,
            // Origin follows Begin or StreamStart, and has no transaction of its own to name.
            b'O' => LogicalMessage::Origin {
                commit_lsn: cursor.lsn_if_any("the origin's commit position")?,
                name: cursor.cstr("the origin's name")?,
            },
            b'B' | b'C' => {
                self.require(&cursor, ProtocolVersion::V1, Place::Outside)?;
                transaction(tag, &mut cursor)?
            }
            b'E' => {
                self.require(&cursor, ProtocolVersion::V2, Place::InStreamedBlock)?;
                LogicalMessage::StreamStop
            }
            b'S' | b'c' | b'A' => {
                self.require(&cursor, ProtocolVersion::V2, Place::Outside)?;
                streamed_transaction(tag, self.version, &mut cursor)?
            }
            b'b' | b'P' | b'p' | b'K' | b'r' => {
                self.require(&cursor, ProtocolVersion::V3, Place::Outside)?;
                prepared_transaction(tag, &mut cursor)?
            }
            tag => return Err(cursor.unknown(tag, "the tag of a pgoutput message")),
        };
        cursor.finish()?;
        match message {
            LogicalMessage::StreamStart { .. } => self.place = Place::InStreamedBlock,
            LogicalMessage::StreamStop => self.place = Place::Outside,
            _ => {}
        }
        Ok(message)
    }

    fn change(&self, tag: u8, cursor: &mut Cursor) -> Result<LogicalMessage, DecodeError> {
        match self.place {
            Place::Outside => change(tag, cursor),
            Place::InStreamedBlock => {
                let xid = cursor.xid("the change's transaction")?;
                let message = Box::new(change(tag, cursor)?);
                Ok(LogicalMessage::Streamed { xid, message })
            }
        }
    }

    fn require(&self, cursor: &Cursor, version: ProtocolVersion, place: Place) -> Result<(), DecodeError> {
        if self.version < version {
            let problem = DecodeProblem::NeedsVersion(version.number());
            return Err(cursor.error("a message of this protocol version", problem));
        }
        if self.place != place {
            return Err(cursor.error("a message that belongs at this place", DecodeProblem::OutOfPlace));
        }
        Ok(())
    }
}

/// Bits of a truncate's options.
pub(super) const TRUNCATE_CASCADE: u8 = 1;
pub(super) const TRUNCATE_RESTART_IDENTITY: u8 = 2;

/// Bit of a logical message's flags.
pub(super) const MESSAGE_TRANSACTIONAL: u8 = 1;

/// The messages that come with a transaction's identifier inside a streamed block.
fn change(tag: u8, cursor: &mut Cursor) -> Result<LogicalMessage, DecodeError> {
    match tag {
        b'R' => Relation::decode(cursor).map(LogicalMessage::Relation),
        b'Y' => TypeInfo::decode(cursor).map(LogicalMessage::Type),
        b'I' => {
            let relation = cursor.oid("the relation")?;
            new_tuple_tag(cursor)?;
            Ok(LogicalMessage::Insert { relation, new: Tuple::decode(cursor)? })
        }
        b'U' => {
            let relation = cursor.oid("the relation")?;
            let old = match cursor.u8("a row's kind")? {
                b'N' => None,
                kind => {
                    let old = old_tuple(kind, cursor)?;
                    new_tuple_tag(cursor)?;
                    Some(old)
                }
            };
            Ok(LogicalMessage::Update { relation, old, new: Tuple::decode(cursor)? })
        }
        b'D' => {
            let relation = cursor.oid("the relation")?;
            let kind = cursor.u8("a row's kind")?;
            Ok(LogicalMessage::Delete { relation, old: old_tuple(kind, cursor)? })
        }
        b'T' => truncate(cursor),
        b'M' => logical_message(cursor),
        tag => Err(cursor.unknown(tag, "the tag of a change")),
    }
}

fn new_tuple_tag(cursor: &mut Cursor) -> Result<(), DecodeError> {
    match cursor.u8("the new row")? {
        b'N' => Ok(()),
        other => Err(cursor.unknown(other, "the new row (N)")),
    }
}

fn old_tuple(kind: u8, cursor: &mut Cursor) -> Result<OldTuple, DecodeError> {
    match kind {
        b'K' => Tuple::decode(cursor).map(OldTuple::Key),
        b'O' => Tuple::decode(cursor).map(OldTuple::Full),
        other => Err(cursor.unknown(other, "a row's kind (K or O, in an update also N)")),
    }
}

fn truncate(cursor: &mut Cursor) -> Result<LogicalMessage, DecodeError> {
    let count = cursor.len32("the number of relations")?;
    let bits = cursor.u8("the truncate's options")?;
    if bits & !(TRUNCATE_CASCADE | TRUNCATE_RESTART_IDENTITY) != 0 {
        return Err(cursor.unknown(bits, "the truncate's options (0 to 3)"));
    }
    let options = TruncateOptions {
        cascade: bits & TRUNCATE_CASCADE != 0,
        restart_identity: bits & TRUNCATE_RESTART_IDENTITY != 0,
    };
    let mut relations = Vec::with_capacity(count.min(cursor.remaining() / size_of::<u32>()));
    for _ in 0..count {
        relations.push(cursor.oid("a truncated relation")?);
    }
    Ok(LogicalMessage::Truncate { relations, options })
}

fn logical_message(cursor: &mut Cursor) -> Result<LogicalMessage, DecodeError> {
    let transactional = match cursor.u8("the message's flags")? {
        0 => false,
        MESSAGE_TRANSACTIONAL => true,
        flags => return Err(cursor.unknown(flags, "the message's flags (0 or 1)")),
    };
    let lsn = cursor.lsn("the message's position")?;
    let prefix = cursor.cstr("the message's prefix")?;
    let len = cursor.len32("the content's length")?;
    let content = Opaque(cursor.bytes(len, "the content")?);
    Ok(LogicalMessage::Message { transactional, lsn, prefix, content })
}

fn transaction(tag: u8, cursor: &mut Cursor) -> Result<LogicalMessage, DecodeError> {
    match tag {
        b'B' => Ok(LogicalMessage::Begin {
            final_lsn: cursor.lsn("the commit position")?,
            commit_time: cursor.timestamp("the commit time")?,
            xid: cursor.xid("the transaction")?,
        }),
        _ => Ok(LogicalMessage::Commit {
            flags: cursor.u8("the flags")?,
            commit_lsn: cursor.lsn("the commit position")?,
            end_lsn: cursor.lsn("the end position")?,
            commit_time: cursor.timestamp("the commit time")?,
        }),
    }
}

fn streamed_transaction(
    tag: u8,
    version: ProtocolVersion,
    cursor: &mut Cursor,
) -> Result<LogicalMessage, DecodeError> {
    let xid = cursor.xid("the transaction")?;
    match tag {
        b'S' => {
            let first_segment = match cursor.u8("whether this is the first block")? {
                0 => false,
                1 => true,
                other => return Err(cursor.unknown(other, "whether this is the first block (0 or 1)")),
            };
            Ok(LogicalMessage::StreamStart { xid, first_segment })
        }
        b'c' => Ok(LogicalMessage::StreamCommit {
            xid,
            flags: cursor.u8("the flags")?,
            commit_lsn: cursor.lsn("the commit position")?,
            end_lsn: cursor.lsn("the end position")?,
            commit_time: cursor.timestamp("the commit time")?,
        }),
        _ => {
            let subxid = cursor.xid("the subtransaction")?;
            // Version 4 sends these only with streaming = parallel, which the message itself does not say.
            let info = if version >= ProtocolVersion::V4 && cursor.remaining() > 0 {
                let abort_lsn = cursor.lsn_if_any("the abort position")?;
                Some(StreamAbortInfo { abort_lsn, abort_time: cursor.timestamp("the abort time")? })
            } else {
                None
            };
            Ok(LogicalMessage::StreamAbort { xid, subxid, info })
        }
    }
}

fn prepared_transaction(tag: u8, cursor: &mut Cursor) -> Result<LogicalMessage, DecodeError> {
    // Only `b` has no flags.
    let flags = if tag == b'b' { 0 } else { cursor.u8("the flags")? };
    if tag == b'r' {
        return Ok(LogicalMessage::RollbackPrepared {
            flags,
            prepare_end_lsn: cursor.lsn("the end of the prepare")?,
            rollback_end_lsn: cursor.lsn("the end of the rollback")?,
            prepare_time: cursor.timestamp("the prepare time")?,
            rollback_time: cursor.timestamp("the rollback time")?,
            xid: cursor.xid("the transaction")?,
            gid: cursor.cstr("the global identifier")?,
        });
    }
    let lsn = cursor.lsn("the prepare or commit position")?;
    let end_lsn = cursor.lsn("the end position")?;
    let time = cursor.timestamp("the prepare or commit time")?;
    let xid = cursor.xid("the transaction")?;
    let gid = cursor.cstr("the global identifier")?;
    Ok(match tag {
        b'b' => LogicalMessage::BeginPrepare { prepare_lsn: lsn, end_lsn, prepare_time: time, xid, gid },
        b'P' => LogicalMessage::Prepare { flags, prepare_lsn: lsn, end_lsn, prepare_time: time, xid, gid },
        b'p' => {
            LogicalMessage::StreamPrepare { flags, prepare_lsn: lsn, end_lsn, prepare_time: time, xid, gid }
        }
        _ => LogicalMessage::CommitPrepared { flags, commit_lsn: lsn, end_lsn, commit_time: time, xid, gid },
    })
}

fn message_name(tag: u8) -> &'static str {
    match tag {
        b'B' => "pgoutput begin",
        b'C' => "pgoutput commit",
        b'O' => "pgoutput origin",
        b'R' => "pgoutput relation",
        b'Y' => "pgoutput type",
        b'I' => "pgoutput insert",
        b'U' => "pgoutput update",
        b'D' => "pgoutput delete",
        b'T' => "pgoutput truncate",
        b'M' => "pgoutput logical message",
        b'S' => "pgoutput stream start",
        b'E' => "pgoutput stream stop",
        b'c' => "pgoutput stream commit",
        b'A' => "pgoutput stream abort",
        b'b' => "pgoutput begin prepare",
        b'P' => "pgoutput prepare",
        b'K' => "pgoutput commit prepared",
        b'r' => "pgoutput rollback prepared",
        b'p' => "pgoutput stream prepare",
        _ => "pgoutput",
    }
}
