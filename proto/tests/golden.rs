//! Attacks the decoder with what real servers sent: `golden/pgNN-*.hex`, made by `golden/capture.sh`. Every payload
//! must decode, encode back to the same bytes, and every kind of message must have been seen where it can occur.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use pgsluice_proto::pgoutput::{
    Decoder, LogicalMessage, OldTuple, ProtocolVersion, ReplicaIdentity, Tuple, TupleValue, encode,
};
use proptest::prelude::*;

struct Capture {
    name: String,
    server_major: u32,
    version: ProtocolVersion,
    options: String,
    payloads: Vec<Bytes>,
}

impl Capture {
    fn decode(&self) -> Vec<LogicalMessage> {
        let mut decoder = Decoder::new(self.version);
        let decode = |(index, payload): (usize, &Bytes)| {
            decoder.decode(payload.clone()).unwrap_or_else(|e| panic!("{}, payload {index}: {e}", self.name))
        };
        self.payloads.iter().enumerate().map(decode).collect()
    }
}

fn captures() -> Vec<Capture> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .collect();
    paths.sort();
    paths.into_iter().map(read_capture).collect()
}

fn read_capture(path: PathBuf) -> Capture {
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    let server = lines.next().and_then(|line| line.strip_prefix("# PostgreSQL ")).unwrap();
    let options = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap().to_owned();
    let version =
        ProtocolVersion::ALL.into_iter().find(|v| options.contains(&format!("proto_version={}", v.number())));
    Capture {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        server_major: server.parse::<u32>().unwrap() / 10_000,
        version: version.unwrap(),
        options,
        payloads: lines.map(from_hexadecimal).collect(),
    }
}

fn from_hexadecimal(line: &str) -> Bytes {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    line.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// What every table of the history leads to, whatever the options.
const KINDS_ALWAYS: [&str; 10] =
    ["begin", "commit", "delete", "insert", "message", "origin", "relation", "truncate", "type", "update"];
const KINDS_STREAMING: [&str; 4] = ["stream abort", "stream commit", "stream start", "stream stop"];
const KINDS_TWO_PHASE: [&str; 5] =
    ["begin prepare", "commit prepared", "prepare", "rollback prepared", "stream prepare"];

#[test]
fn every_supported_server_and_protocol_version_was_captured() {
    let seen: BTreeSet<(u32, u8)> = captures().iter().map(|c| (c.server_major, c.version.number())).collect();
    let expected = [
        (14, vec![1, 2]),
        (15, vec![1, 2, 3]),
        (16, vec![1, 2, 3, 4]),
        (17, vec![1, 2, 3, 4]),
        (18, vec![1, 2, 3, 4]),
    ];
    let expected: BTreeSet<(u32, u8)> = expected
        .into_iter()
        .flat_map(|(major, versions)| versions.into_iter().map(move |version| (major, version)))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn every_captured_payload_encodes_back_to_the_same_bytes() {
    let mut compared = 0;
    for capture in captures() {
        for (index, (message, payload)) in capture.decode().iter().zip(&capture.payloads).enumerate() {
            let mut encoded = BytesMut::new();
            encode(message, capture.version, &mut encoded).unwrap();
            assert_eq!(encoded, payload, "{}, payload {index}: {message:?}", capture.name);
            compared += 1;
        }
    }
    assert!(compared > 4000, "only {compared} payloads");
}

#[test]
fn every_kind_of_message_was_captured_wherever_the_options_allow_it() {
    for capture in captures() {
        let mut counts = BTreeMap::<&str, usize>::new();
        for message in capture.decode() {
            *counts.entry(message.kind()).or_default() += 1;
        }
        let mut expected = BTreeSet::from(KINDS_ALWAYS);
        if capture.options.contains("streaming=") {
            expected.extend(KINDS_STREAMING);
        }
        if capture.options.contains("two_phase=true") {
            expected.extend(KINDS_TWO_PHASE);
        }
        assert_eq!(counts.keys().copied().collect::<BTreeSet<_>>(), expected, "{}", capture.name);
        println!("{}: {counts:?}", capture.name);
    }
}

#[test]
fn every_form_of_row_identity_and_value_was_captured() {
    for capture in captures() {
        let mut forms: BTreeSet<&str> = capture.decode().iter().flat_map(forms).collect();
        let mut expected = BTreeSet::from([
            "identity default",
            "identity full",
            "identity index",
            "identity nothing",
            "no columns",
            "delete by key",
            "delete by full row",
            "update by key",
            "update by full row",
            "update without old row",
            "null",
            "unchanged toast",
            "truncate cascade",
            "truncate restart identity",
            "truncate of several",
            "message in a transaction",
            "message outside of transactions",
        ]);
        if capture.options.contains("binary=true") {
            expected.insert("binary");
            // Only values of types without a send function still come as text, and whether the history has one
            // depends on the server.
            forms.remove("text");
        } else {
            expected.insert("text");
        }
        if capture.options.contains("streaming=") {
            expected.extend(["streamed", "abort of all", "abort of a subtransaction"]);
        }
        if capture.options.contains("streaming=parallel") {
            expected.insert("abort with its position");
        }
        assert_eq!(forms, expected, "{}", capture.name);
    }
}

fn forms(message: &LogicalMessage) -> Vec<&'static str> {
    match message {
        LogicalMessage::Relation(relation) => {
            let identity = match relation.replica_identity {
                ReplicaIdentity::Default => "identity default",
                ReplicaIdentity::Nothing => "identity nothing",
                ReplicaIdentity::Full => "identity full",
                ReplicaIdentity::Index => "identity index",
            };
            if relation.columns.is_empty() { vec![identity, "no columns"] } else { vec![identity] }
        }
        LogicalMessage::Insert { new, .. } => values(new),
        LogicalMessage::Update { old, new, .. } => {
            let mut forms = values(new);
            forms.push(match old {
                None => "update without old row",
                Some(OldTuple::Key(_)) => "update by key",
                Some(OldTuple::Full(_)) => "update by full row",
            });
            forms
        }
        LogicalMessage::Delete { old: OldTuple::Key(_), .. } => vec!["delete by key"],
        LogicalMessage::Delete { old: OldTuple::Full(_), .. } => vec!["delete by full row"],
        LogicalMessage::Truncate { relations, options } => {
            let mut forms = Vec::new();
            if options.cascade {
                forms.push("truncate cascade");
            }
            if options.restart_identity {
                forms.push("truncate restart identity");
            }
            if relations.len() > 1 {
                forms.push("truncate of several");
            }
            forms
        }
        LogicalMessage::Message { transactional: true, .. } => vec!["message in a transaction"],
        LogicalMessage::Message { transactional: false, .. } => vec!["message outside of transactions"],
        LogicalMessage::StreamAbort { xid, subxid, info } => {
            let mut forms = vec![if xid == subxid { "abort of all" } else { "abort of a subtransaction" }];
            if info.is_some() {
                forms.push("abort with its position");
            }
            forms
        }
        LogicalMessage::Streamed { message, .. } => {
            let mut inner = forms(message);
            inner.push("streamed");
            inner
        }
        _ => Vec::new(),
    }
}

fn values(tuple: &Tuple) -> Vec<&'static str> {
    let name = |value: TupleValue<'_>| match value {
        TupleValue::Null => "null",
        TupleValue::UnchangedToast => "unchanged toast",
        TupleValue::Text(_) => "text",
        TupleValue::Binary(_) => "binary",
    };
    tuple.iter().map(name).collect()
}

#[test]
fn names_and_values_arrive_as_they_were_written() {
    for capture in captures().iter().filter(|c| c.name.ends_with("v1-text.hex")) {
        let messages = capture.decode();
        let odd = messages.iter().find_map(|message| match message {
            LogicalMessage::Relation(relation) if relation.schema.starts_with("Odd") => Some(relation),
            _ => None,
        });
        let odd = odd.unwrap();
        assert_eq!((odd.schema.as_str(), odd.name.as_str()), ("Odd \"schema\" ü", "two\nlines"));
        assert_eq!((odd.columns[0].name.as_str(), odd.columns[1].name.as_str()), ("Key \"k\"", "ключ"));
        assert_eq!((odd.columns[0].key, odd.columns[1].key), (true, false));
        let row = messages.iter().find_map(|message| match message {
            LogicalMessage::Insert { relation, new } if *relation == odd.id => Some(new),
            _ => None,
        });
        let expected = ["1", "значение"].map(|value| TupleValue::Text(value.as_bytes()));
        assert!(row.unwrap().iter().eq(expected));
        let origin = messages.iter().find_map(|message| match message {
            LogicalMessage::Origin { commit_lsn, name } => {
                Some((commit_lsn.unwrap().to_string(), name.as_str()))
            }
            _ => None,
        });
        assert_eq!(origin, Some(("A/BCDEF012".to_owned(), "golden 'origin'")));
        assert!(messages.iter().any(|message| matches!(message,
            LogicalMessage::Message { transactional: false, prefix, content, .. }
                if prefix == "golden.immediate" && content.as_ref() == [0, 1, 2, 255])));
    }
}

#[test]
fn commits_come_in_the_order_of_their_ends() {
    // INV-1: the order of the stream is that of commits, not of begins.
    for capture in captures() {
        let ends: Vec<_> = capture
            .decode()
            .iter()
            .filter_map(|message| match message {
                LogicalMessage::Commit { end_lsn, .. }
                | LogicalMessage::StreamCommit { end_lsn, .. }
                | LogicalMessage::Prepare { end_lsn, .. }
                | LogicalMessage::StreamPrepare { end_lsn, .. }
                | LogicalMessage::CommitPrepared { end_lsn, .. } => Some(*end_lsn),
                _ => None,
            })
            .collect();
        assert!(ends.is_sorted(), "{}: {ends:?}", capture.name);
    }
}

/// Decodes `payload` after everything that came before it, so that streamed blocks are where they were.
fn decoder_before(capture: &Capture, index: usize) -> Decoder {
    let mut decoder = Decoder::new(capture.version);
    for payload in &capture.payloads[..index] {
        decoder.decode(payload.clone()).unwrap();
    }
    decoder
}

#[test]
fn no_captured_payload_decodes_when_cut_short_or_prolonged() {
    for capture in captures() {
        let mut decoder = Decoder::new(capture.version);
        for payload in &capture.payloads {
            for len in 0..payload.len() {
                let cut = decoder.clone().decode(payload.slice(..len));
                // Version 4 has one message with an optional end.
                let abort_without_info =
                    capture.version == ProtocolVersion::V4 && payload[0] == b'A' && len == 9;
                assert!(cut.is_err() || abort_without_info, "{}: {cut:?}", capture.name);
            }
            let mut prolonged = BytesMut::from(payload.as_ref());
            prolonged.extend_from_slice(&[0]);
            assert!(decoder.clone().decode(prolonged.freeze()).is_err(), "{}", capture.name);
            decoder.decode(payload.clone()).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn damaged_payloads_never_panic_the_decoder(
        which: prop::sample::Index, line: prop::sample::Index, at: prop::sample::Index, byte: u8,
    ) {
        thread_local! { static CAPTURES: Vec<Capture> = captures(); }
        CAPTURES.with(|captures| {
            let capture = which.get(captures);
            let index = line.index(capture.payloads.len());
            let mut damaged = capture.payloads[index].to_vec();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            let mut decoder = decoder_before(capture, index);
            match decoder.decode(Bytes::from(damaged)) {
                Ok(message) => {
                    let mut out = BytesMut::new();
                    encode(&message, capture.version, &mut out).unwrap();
                }
                Err(error) => assert!(error.offset <= capture.payloads[index].len()),
            }
        });
    }
}
