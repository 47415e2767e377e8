//! Attacks encode and decode with every message that can be built, in every protocol version: what goes in must come
//! out, and what a version cannot say must be refused rather than garbled.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::{Bytes, BytesMut};
use pgsluice_proto::copy_both::{Keepalive, ReplyRequest, StandbyStatus, WalMessage, XLogData};
use pgsluice_proto::pgoutput::{
    Decoder, LogicalMessage, OldTuple, ProtocolVersion, Relation, RelationColumn, ReplicaIdentity,
    StreamAbortInfo, TruncateOptions, Tuple, TupleValue, TypeInfo, encode,
};
use pgsluice_proto::{DecodeProblem, EncodeError, Lsn, Oid, Opaque, PgTimestamp, Xid};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn lsn() -> impl Strategy<Value = Lsn> {
    (1..=u64::MAX).prop_map(Lsn::new)
}

fn timestamp() -> impl Strategy<Value = PgTimestamp> {
    any::<i64>().prop_map(PgTimestamp::from_postgres_micros)
}

fn xid() -> impl Strategy<Value = Xid> {
    any::<u32>().prop_map(Xid)
}

fn oid() -> impl Strategy<Value = Oid> {
    any::<u32>().prop_map(Oid)
}

/// Any name but the empty one, with quotes, newlines and all of Unicode.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[^\0]{1,40}", Just("pg_catalog".to_owned()), Just("a\"b'c\\d\n".to_owned())]
}

/// A text that may also be empty.
fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,40}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..50).prop_map(Bytes::from)
}

fn tuple() -> impl Strategy<Value = Tuple> {
    vec((0..4, bytes()), 0..12).prop_map(|values| {
        let values = values.iter().map(|(kind, bytes)| match kind {
            0 => TupleValue::Null,
            1 => TupleValue::UnchangedToast,
            2 => TupleValue::Text(bytes),
            _ => TupleValue::Binary(bytes),
        });
        Tuple::new(values).unwrap()
    })
}

fn old_tuple() -> impl Strategy<Value = OldTuple> {
    prop_oneof![tuple().prop_map(OldTuple::Key), tuple().prop_map(OldTuple::Full)]
}

fn relation() -> impl Strategy<Value = Relation> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    let column =
        (any::<bool>(), text(), oid(), any::<i32>()).prop_map(|(key, name, type_oid, type_modifier)| {
            RelationColumn { key, name, type_oid, type_modifier }
        });
    (oid(), name(), text(), identity, vec(column, 0..8)).prop_map(
        |(id, schema, name, replica_identity, columns)| Relation {
            id,
            schema,
            name,
            replica_identity,
            columns,
        },
    )
}

/// The messages that can be part of a streamed block.
fn change() -> impl Strategy<Value = LogicalMessage> {
    prop_oneof![
        relation().prop_map(LogicalMessage::Relation),
        (oid(), name(), text()).prop_map(|(oid, schema, name)| LogicalMessage::Type(TypeInfo {
            oid,
            schema,
            name
        })),
        (oid(), tuple()).prop_map(|(relation, new)| LogicalMessage::Insert { relation, new }),
        (oid(), option::of(old_tuple()), tuple()).prop_map(|(relation, old, new)| LogicalMessage::Update {
            relation,
            old,
            new
        }),
        (oid(), old_tuple()).prop_map(|(relation, old)| LogicalMessage::Delete { relation, old }),
        (vec(oid(), 0..6), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| {
                LogicalMessage::Truncate { relations, options: TruncateOptions { cascade, restart_identity } }
            }
        ),
        (any::<bool>(), lsn(), text(), bytes()).prop_map(|(transactional, lsn, prefix, content)| {
            LogicalMessage::Message { transactional, lsn, prefix, content: Opaque(content) }
        }),
    ]
}

/// The messages of whole transactions.
fn transaction() -> impl Strategy<Value = LogicalMessage> {
    prop_oneof![
        (lsn(), timestamp(), xid()).prop_map(|(final_lsn, commit_time, xid)| LogicalMessage::Begin {
            final_lsn,
            commit_time,
            xid
        }),
        (any::<u8>(), lsn(), lsn(), timestamp()).prop_map(|(flags, commit_lsn, end_lsn, commit_time)| {
            LogicalMessage::Commit { flags, commit_lsn, end_lsn, commit_time }
        }),
        (option::of(lsn()), text())
            .prop_map(|(commit_lsn, name)| LogicalMessage::Origin { commit_lsn, name }),
    ]
}

/// The messages about streamed transactions, outside of their blocks.
fn streamed_transaction() -> impl Strategy<Value = LogicalMessage> {
    let info = (option::of(lsn()), timestamp())
        .prop_map(|(abort_lsn, abort_time)| StreamAbortInfo { abort_lsn, abort_time });
    prop_oneof![
        (xid(), any::<u8>(), lsn(), lsn(), timestamp()).prop_map(
            |(xid, flags, commit_lsn, end_lsn, commit_time)| LogicalMessage::StreamCommit {
                xid,
                flags,
                commit_lsn,
                end_lsn,
                commit_time
            }
        ),
        (xid(), xid(), option::of(info)).prop_map(|(xid, subxid, info)| LogicalMessage::StreamAbort {
            xid,
            subxid,
            info
        }),
    ]
}

fn prepared_transaction() -> impl Strategy<Value = LogicalMessage> {
    (any::<u8>(), (lsn(), lsn()), (timestamp(), timestamp()), xid(), text(), 0..5).prop_map(
        |(flags, (lsn, end_lsn), (time, later), xid, gid, kind)| match kind {
            0 => LogicalMessage::BeginPrepare { prepare_lsn: lsn, end_lsn, prepare_time: time, xid, gid },
            1 => LogicalMessage::Prepare { flags, prepare_lsn: lsn, end_lsn, prepare_time: time, xid, gid },
            2 => LogicalMessage::StreamPrepare {
                flags,
                prepare_lsn: lsn,
                end_lsn,
                prepare_time: time,
                xid,
                gid,
            },
            3 => LogicalMessage::CommitPrepared {
                flags,
                commit_lsn: lsn,
                end_lsn,
                commit_time: time,
                xid,
                gid,
            },
            _ => LogicalMessage::RollbackPrepared {
                flags,
                prepare_end_lsn: lsn,
                rollback_end_lsn: end_lsn,
                prepare_time: time,
                rollback_time: later,
                xid,
                gid,
            },
        },
    )
}

/// Whole streams: messages outside of blocks, and blocks.
fn stream() -> impl Strategy<Value = Vec<LogicalMessage>> {
    let alone = prop_oneof![change(), transaction(), streamed_transaction(), prepared_transaction()]
        .prop_map(|message| vec![message]);
    let block =
        (xid(), any::<bool>(), vec((xid(), change()), 0..6)).prop_map(|(xid, first_segment, changes)| {
            let changes = changes
                .into_iter()
                .map(|(xid, change)| LogicalMessage::Streamed { xid, message: Box::new(change) });
            let start = LogicalMessage::StreamStart { xid, first_segment };
            std::iter::once(start).chain(changes).chain([LogicalMessage::StreamStop]).collect()
        });
    vec(prop_oneof![alone, block], 0..6).prop_map(|parts: Vec<Vec<LogicalMessage>>| parts.concat())
}

fn version_needed(message: &LogicalMessage) -> u8 {
    match message {
        LogicalMessage::StreamAbort { info: Some(_), .. } => 4,
        LogicalMessage::Streamed { .. }
        | LogicalMessage::StreamStart { .. }
        | LogicalMessage::StreamStop
        | LogicalMessage::StreamCommit { .. }
        | LogicalMessage::StreamAbort { .. } => 2,
        LogicalMessage::BeginPrepare { .. }
        | LogicalMessage::Prepare { .. }
        | LogicalMessage::CommitPrepared { .. }
        | LogicalMessage::RollbackPrepared { .. }
        | LogicalMessage::StreamPrepare { .. } => 3,
        _ => 1,
    }
}

fn encoded(message: &LogicalMessage, version: ProtocolVersion) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::new();
    encode(message, version, &mut out)?;
    Ok(out.freeze())
}

proptest! {
    #[test]
    fn every_stream_survives_encoding_and_decoding_in_every_version(messages in stream()) {
        for version in ProtocolVersion::ALL {
            let mut decoder = Decoder::new(version);
            for message in &messages {
                match encoded(message, version) {
                    Ok(payload) => prop_assert_eq!(&decoder.decode(payload).unwrap(), message),
                    Err(error) => {
                        prop_assert!(version.number() < version_needed(message), "{}", error);
                    }
                }
            }
        }
    }

    #[test]
    fn a_version_is_never_made_to_say_what_it_cannot(message in prop_oneof![streamed_transaction(), prepared_transaction()]) {
        for version in ProtocolVersion::ALL {
            let known = version.number() >= version_needed(&message);
            prop_assert_eq!(encoded(&message, version).is_ok(), known);
            // The same bytes, from a server of the newest version, are an error and not something else.
            if version == ProtocolVersion::V1 {
                let payload = encoded(&message, ProtocolVersion::V4).unwrap();
                let problem = Decoder::new(version).decode(payload).unwrap_err().problem;
                prop_assert!(matches!(problem, DecodeProblem::NeedsVersion(2 | 3)));
            }
        }
    }

    #[test]
    fn messages_about_transactions_have_no_place_inside_a_streamed_block(
        message in prop_oneof![streamed_transaction(), prepared_transaction()], xid in xid(),
    ) {
        let mut decoder = Decoder::new(ProtocolVersion::V4);
        let start = LogicalMessage::StreamStart { xid, first_segment: true };
        decoder.decode(encoded(&start, ProtocolVersion::V4).unwrap()).unwrap();
        let payload = encoded(&message, ProtocolVersion::V4).unwrap();
        prop_assert_eq!(decoder.decode(payload).unwrap_err().problem, DecodeProblem::OutOfPlace);
        // The error has not moved the decoder: the block still goes on and ends.
        decoder.decode(Bytes::from_static(b"E")).unwrap();
    }

    #[test]
    fn walsender_messages_survive_encoding_and_decoding(
        wal_start in option::of(lsn()), wal_end in option::of(lsn()), keepalive_end in lsn(),
        sent_at in timestamp(), payload in bytes(), requested: bool,
    ) {
        let reply = if requested { ReplyRequest::Requested } else { ReplyRequest::NotRequested };
        let data = WalMessage::Data(XLogData { wal_start, wal_end, sent_at, payload });
        let keepalive = WalMessage::Keepalive(Keepalive { wal_end: keepalive_end, sent_at, reply });
        for message in [data, keepalive] {
            let mut out = BytesMut::new();
            message.encode(&mut out);
            prop_assert_eq!(WalMessage::decode(out.freeze()).unwrap(), message);
        }
        let status = StandbyStatus { written: wal_start, flushed: wal_end, applied: None, sent_at, reply };
        let mut out = BytesMut::new();
        status.encode(&mut out);
        prop_assert_eq!(StandbyStatus::decode(out.freeze()).unwrap(), status);
    }
}

#[test]
fn rows_share_the_buffer_they_came_in() {
    let row = Tuple::new([TupleValue::Text(b"a value")]).unwrap();
    let payload =
        encoded(&LogicalMessage::Insert { relation: Oid(1), new: row }, ProtocolVersion::V1).unwrap();
    let range = payload.as_ptr_range();
    let message = Decoder::new(ProtocolVersion::V1).decode(payload.clone()).unwrap();
    let LogicalMessage::Insert { new, .. } = message else { panic!("{message:?}") };
    let Some(TupleValue::Text(value)) = new.get(0) else { panic!() };
    assert!(range.contains(&value.as_ptr()), "the value was copied");
}

#[test]
fn a_row_has_the_values_that_it_was_made_of() {
    let values = [
        TupleValue::Text(b"one"),
        TupleValue::Null,
        TupleValue::Binary(b""),
        TupleValue::UnchangedToast,
        TupleValue::Binary(b"n\0u"),
    ];
    let row = Tuple::new(values).unwrap();
    assert!(row.iter().eq(values));
    assert_eq!((row.count(), row.get(2), row.get(5)), (5, Some(values[2]), None));
    let message =
        LogicalMessage::Update { relation: Oid(1), old: Some(OldTuple::Full(row.clone())), new: row };
    let payload = encoded(&message, ProtocolVersion::V1).unwrap();
    assert_eq!(Decoder::new(ProtocolVersion::V1).decode(payload).unwrap(), message);
}

#[test]
fn a_table_with_1600_columns_survives() {
    let column = |n: u32| RelationColumn {
        key: n == 0,
        name: format!("column {n}"),
        type_oid: Oid(n),
        type_modifier: -1,
    };
    let message = LogicalMessage::Relation(Relation {
        id: Oid(1),
        schema: "public".to_owned(),
        name: "wide".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: (0..1600).map(column).collect(),
    });
    let payload = encoded(&message, ProtocolVersion::V1).unwrap();
    assert_eq!(Decoder::new(ProtocolVersion::V1).decode(payload).unwrap(), message);
}

#[test]
fn what_the_wire_cannot_carry_is_refused_and_leaves_no_trace() {
    let mut out = BytesMut::from(&b"before"[..]);
    let nul = LogicalMessage::Origin { commit_lsn: None, name: "a\0b".to_owned() };
    assert_eq!(encode(&nul, ProtocolVersion::V1, &mut out), Err(EncodeError::InteriorNul("origin's name")));
    let too_long = EncodeError::TooLong { what: "row", len: 65_536, max: 65_535 };
    assert_eq!(Tuple::new(vec![TupleValue::Null; 65_536]), Err(too_long));
    let nested = LogicalMessage::Streamed { xid: Xid(1), message: Box::new(LogicalMessage::StreamStop) };
    assert_eq!(encode(&nested, ProtocolVersion::V2, &mut out), Err(EncodeError::OutOfPlace("stream stop")));
    assert_eq!(out, &b"before"[..]);
}

#[test]
fn values_and_contents_are_never_printed() {
    // INV-10.
    let secret = || Bytes::from_static(b"hunter2");
    let row = Tuple::new([TupleValue::Text(&secret()), TupleValue::Binary(&secret())]).unwrap();
    let messages = [
        LogicalMessage::Insert { relation: Oid(1), new: row },
        LogicalMessage::Message {
            transactional: true,
            lsn: Lsn::new(1),
            prefix: "prefix".to_owned(),
            content: Opaque(secret()),
        },
    ];
    for message in messages {
        let printed = format!("{message:?}");
        assert!(!printed.contains("hunter2") && printed.contains("<7 bytes>"), "{printed}");
    }
    let data = XLogData {
        wal_start: None,
        wal_end: None,
        sent_at: PgTimestamp::from_unix_micros(0),
        payload: secret(),
    };
    assert!(!format!("{data:?}").contains("hunter2"));
}
