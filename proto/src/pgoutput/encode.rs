//! [`encode`]: a [`LogicalMessage`] back to the bytes pgoutput would send. It is what round-trip tests and servers in
//! tests are made of; replication itself never needs it. It refuses what the version cannot say.

use bytes::{BufMut, BytesMut};

use crate::lsn::Lsn;
use crate::pgoutput::decode::{MESSAGE_TRANSACTIONAL, TRUNCATE_CASCADE, TRUNCATE_RESTART_IDENTITY};
use crate::pgoutput::message::{LogicalMessage, OldTuple, ProtocolVersion, TruncateOptions};
use crate::scalar::{Oid, PgTimestamp, Xid};
use crate::writer::{EncodeError, put_cstr, put_len32, put_lsn, put_timestamp};

/// Appends `message` as a server speaking `version` sends it. After an error `out` is as it was before.
pub fn encode(
    message: &LogicalMessage,
    version: ProtocolVersion,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let len_before = out.len();
    let result = encode_message(message, version, out);
    if result.is_err() {
        out.truncate(len_before);
    }
    result
}

fn encode_message(
    message: &LogicalMessage,
    version: ProtocolVersion,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let needed = version_needed(message);
    if version < needed {
        return Err(EncodeError::NeedsVersion { message: message.kind(), version: needed.number() });
    }
    match message {
        LogicalMessage::Begin { final_lsn, commit_time, xid } => {
            out.put_u8(b'B');
            put_lsn(out, *final_lsn);
            put_timestamp(out, *commit_time);
            out.put_u32(xid.0);
        }
        LogicalMessage::Commit { flags, commit_lsn, end_lsn, commit_time } => {
            out.put_u8(b'C');
            out.put_u8(*flags);
            put_lsn(out, *commit_lsn);
            put_lsn(out, *end_lsn);
            put_timestamp(out, *commit_time);
        }
        LogicalMessage::Origin { commit_lsn, name } => {
            out.put_u8(b'O');
            put_lsn(out, *commit_lsn);
            put_cstr(out, name.as_bytes(), "origin's name")?;
        }
        LogicalMessage::Relation(_)
        | LogicalMessage::Type(_)
        | LogicalMessage::Insert { .. }
        | LogicalMessage::Update { .. }
        | LogicalMessage::Delete { .. }
        | LogicalMessage::Truncate { .. }
        | LogicalMessage::Message { .. } => encode_change(message, None, out)?,
        LogicalMessage::Streamed { xid, message } => encode_change(message, Some(*xid), out)?,
        LogicalMessage::StreamStart { .. }
        | LogicalMessage::StreamStop
        | LogicalMessage::StreamCommit { .. }
        | LogicalMessage::StreamAbort { .. } => encode_streamed_transaction(message, out)?,
        LogicalMessage::BeginPrepare { .. }
        | LogicalMessage::Prepare { .. }
        | LogicalMessage::CommitPrepared { .. }
        | LogicalMessage::RollbackPrepared { .. }
        | LogicalMessage::StreamPrepare { .. } => encode_prepared_transaction(message, out)?,
    }
    Ok(())
}

fn version_needed(message: &LogicalMessage) -> ProtocolVersion {
    match message {
        LogicalMessage::Begin { .. }
        | LogicalMessage::Commit { .. }
        | LogicalMessage::Origin { .. }
        | LogicalMessage::Relation(_)
        | LogicalMessage::Type(_)
        | LogicalMessage::Insert { .. }
        | LogicalMessage::Update { .. }
        | LogicalMessage::Delete { .. }
        | LogicalMessage::Truncate { .. }
        | LogicalMessage::Message { .. } => ProtocolVersion::V1,
        LogicalMessage::StreamAbort { info: Some(_), .. } => ProtocolVersion::V4,
        LogicalMessage::Streamed { .. }
        | LogicalMessage::StreamStart { .. }
        | LogicalMessage::StreamStop
        | LogicalMessage::StreamCommit { .. }
        | LogicalMessage::StreamAbort { info: None, .. } => ProtocolVersion::V2,
        LogicalMessage::BeginPrepare { .. }
        | LogicalMessage::Prepare { .. }
        | LogicalMessage::CommitPrepared { .. }
        | LogicalMessage::RollbackPrepared { .. }
        | LogicalMessage::StreamPrepare { .. } => ProtocolVersion::V3,
    }
}

/// The messages that come with their transaction's identifier inside a streamed block, and without outside.
fn encode_change(
    message: &LogicalMessage,
    streamed_xid: Option<Xid>,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut begin = |tag: u8| {
        out.put_u8(tag);
        if let Some(xid) = streamed_xid {
            out.put_u32(xid.0);
        }
    };
    match message {
        LogicalMessage::Relation(relation) => {
            begin(b'R');
            relation.encode(out)
        }
        LogicalMessage::Type(info) => {
            begin(b'Y');
            info.encode(out)
        }
        LogicalMessage::Insert { relation, new } => {
            begin(b'I');
            out.put_u32(relation.0);
            out.put_u8(b'N');
            new.encode(out)
        }
        LogicalMessage::Update { relation, old, new } => {
            begin(b'U');
            out.put_u32(relation.0);
            if let Some(old) = old {
                encode_old(old, out)?;
            }
            out.put_u8(b'N');
            new.encode(out)
        }
        LogicalMessage::Delete { relation, old } => {
            begin(b'D');
            out.put_u32(relation.0);
            encode_old(old, out)
        }
        LogicalMessage::Truncate { relations, options } => {
            begin(b'T');
            encode_truncate(relations, *options, out)
        }
        LogicalMessage::Message { transactional, lsn, prefix, content } => {
            begin(b'M');
            out.put_u8(if *transactional { MESSAGE_TRANSACTIONAL } else { 0 });
            put_lsn(out, *lsn);
            put_cstr(out, prefix.as_bytes(), "message's prefix")?;
            put_len32(out, content.len(), "message's content")?;
            out.put_slice(content);
            Ok(())
        }
        other => Err(EncodeError::OutOfPlace(other.kind())),
    }
}

fn encode_old(old: &OldTuple, out: &mut BytesMut) -> Result<(), EncodeError> {
    let (kind, tuple) = match old {
        OldTuple::Key(tuple) => (b'K', tuple),
        OldTuple::Full(tuple) => (b'O', tuple),
    };
    out.put_u8(kind);
    tuple.encode(out)
}

fn encode_truncate(
    relations: &[Oid],
    options: TruncateOptions,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    put_len32(out, relations.len(), "list of truncated relations")?;
    let cascade = if options.cascade { TRUNCATE_CASCADE } else { 0 };
    let restart_identity = if options.restart_identity { TRUNCATE_RESTART_IDENTITY } else { 0 };
    out.put_u8(cascade | restart_identity);
    for relation in relations {
        out.put_u32(relation.0);
    }
    Ok(())
}

fn encode_streamed_transaction(message: &LogicalMessage, out: &mut BytesMut) -> Result<(), EncodeError> {
    match message {
        LogicalMessage::StreamStart { xid, first_segment } => {
            out.put_u8(b'S');
            out.put_u32(xid.0);
            out.put_u8(u8::from(*first_segment));
        }
        LogicalMessage::StreamCommit { xid, flags, commit_lsn, end_lsn, commit_time } => {
            out.put_u8(b'c');
            out.put_u32(xid.0);
            out.put_u8(*flags);
            put_lsn(out, *commit_lsn);
            put_lsn(out, *end_lsn);
            put_timestamp(out, *commit_time);
        }
        LogicalMessage::StreamAbort { xid, subxid, info } => {
            out.put_u8(b'A');
            out.put_u32(xid.0);
            out.put_u32(subxid.0);
            if let Some(info) = info {
                put_lsn(out, info.abort_lsn);
                put_timestamp(out, info.abort_time);
            }
        }
        LogicalMessage::StreamStop => out.put_u8(b'E'),
        other => return Err(EncodeError::OutOfPlace(other.kind())),
    }
    Ok(())
}

fn encode_prepared_transaction(message: &LogicalMessage, out: &mut BytesMut) -> Result<(), EncodeError> {
    match message {
        LogicalMessage::BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, gid } => {
            out.put_u8(b'b');
            encode_prepared(out, (*prepare_lsn, *end_lsn, *prepare_time), *xid, gid)
        }
        LogicalMessage::Prepare { flags, prepare_lsn, end_lsn, prepare_time, xid, gid } => {
            out.put_slice(&[b'P', *flags]);
            encode_prepared(out, (*prepare_lsn, *end_lsn, *prepare_time), *xid, gid)
        }
        LogicalMessage::StreamPrepare { flags, prepare_lsn, end_lsn, prepare_time, xid, gid } => {
            out.put_slice(&[b'p', *flags]);
            encode_prepared(out, (*prepare_lsn, *end_lsn, *prepare_time), *xid, gid)
        }
        LogicalMessage::CommitPrepared { flags, commit_lsn, end_lsn, commit_time, xid, gid } => {
            out.put_slice(&[b'K', *flags]);
            encode_prepared(out, (*commit_lsn, *end_lsn, *commit_time), *xid, gid)
        }
        LogicalMessage::RollbackPrepared {
            flags,
            prepare_end_lsn,
            rollback_end_lsn,
            prepare_time,
            rollback_time,
            xid,
            gid,
        } => {
            out.put_slice(&[b'r', *flags]);
            put_lsn(out, *prepare_end_lsn);
            put_lsn(out, *rollback_end_lsn);
            put_timestamp(out, *prepare_time);
            put_timestamp(out, *rollback_time);
            out.put_u32(xid.0);
            put_cstr(out, gid.as_bytes(), "global identifier")
        }
        other => Err(EncodeError::OutOfPlace(other.kind())),
    }
}

fn encode_prepared(
    out: &mut BytesMut,
    (lsn, end_lsn, time): (Lsn, Lsn, PgTimestamp),
    xid: Xid,
    gid: &str,
) -> Result<(), EncodeError> {
    put_lsn(out, lsn);
    put_lsn(out, end_lsn);
    put_timestamp(out, time);
    out.put_u32(xid.0);
    put_cstr(out, gid.as_bytes(), "global identifier")
}
