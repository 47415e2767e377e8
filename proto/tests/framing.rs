//! Attacks framing and the server's messages: split anywhere, lengths that lie, bytes that are nothing. "Need more
//! bytes" must never be an error, and nothing may be allocated by a claim alone (INV-11).

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::{BufMut, Bytes, BytesMut};
use pgsluice_proto::copy_both::{StandbyStatus, WalMessage};
use pgsluice_proto::frame::{
    AuthRequest, BackendMessage, CopyFormat, Frame, FrameError, FrameReader, TlsAnswer, TransactionStatus,
    frontend, parse_frame,
};
use pgsluice_proto::pgoutput::{Decoder, ProtocolVersion};
use pgsluice_proto::{DecodeProblem, EncodeError};
use proptest::collection::vec;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

fn framed(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for (tag, body) in frames {
        out.put_u8(*tag);
        out.put_u32(u32::try_from(body.len() + 4).unwrap());
        out.put_slice(body);
    }
    out.to_vec()
}

fn parse(tag: u8, body: &[u8]) -> Result<BackendMessage, DecodeProblem> {
    BackendMessage::parse(Frame { tag, body: Bytes::copy_from_slice(body) }).map_err(|error| error.problem)
}

#[test]
fn a_stream_split_at_every_byte_gives_the_same_frames() {
    let frames =
        [(b'W', vec![0, 0, 0]), (b'd', b"payload".to_vec()), (b'c', Vec::new()), (b'Z', b"I".to_vec())];
    let stream = framed(&frames);
    for split in 0..=stream.len() {
        let mut reader = FrameReader::new(MAX);
        let mut read = Vec::new();
        for part in [&stream[..split], &stream[split..]] {
            reader.buffer_mut().extend_from_slice(part);
            while let Some(frame) = reader.next_frame().unwrap() {
                read.push((frame.tag, frame.body.to_vec()));
            }
        }
        assert_eq!(read, frames, "split at {split}");
        assert!(reader.into_buffer().is_empty());
    }
}

#[test]
fn a_length_above_the_bound_is_refused_before_anything_is_allocated() {
    let mut buffer = BytesMut::from(&b"d\x7f\xff\xff\xff"[..]);
    let capacity = buffer.capacity();
    let error = parse_frame(&mut buffer, MAX).unwrap_err();
    assert_eq!(error, FrameError::TooLong { tag: 'd', len: 0x7fff_fffb, max: MAX });
    assert_eq!(buffer.capacity(), capacity);
}

#[test]
fn a_claim_within_the_bound_allocates_only_step_by_step() {
    let mut buffer = BytesMut::from(&b"d\x3f\xff\xff\xff"[..]);
    assert_eq!(parse_frame(&mut buffer, usize::MAX), Ok(None));
    assert!(buffer.capacity() <= 1 << 20, "{} bytes were allocated for a header", buffer.capacity());
}

#[test]
fn a_length_that_does_not_count_itself_is_not_postgresql() {
    for len in 0..4u8 {
        let mut buffer = BytesMut::from(&[b'H', 0, 0, 0, len][..]);
        let error = parse_frame(&mut buffer, MAX).unwrap_err();
        assert_eq!(error, FrameError::LengthTooShort { tag: 'H', len: u32::from(len) });
    }
}

#[test]
fn a_body_of_exactly_the_bound_is_accepted_and_one_more_is_not() {
    let frame = |len: usize| BytesMut::from(framed(&[(b'd', vec![7; len])]).as_slice());
    assert!(parse_frame(&mut frame(10), 10).unwrap().is_some());
    assert!(parse_frame(&mut frame(11), 10).is_err());
}

#[test]
fn the_messages_of_a_connection_are_read() {
    assert_eq!(parse(b'R', &[0, 0, 0, 0]), Ok(BackendMessage::Authentication(AuthRequest::Ok)));
    let md5 = AuthRequest::Md5Password { salt: [1, 2, 3, 4] };
    assert_eq!(parse(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]), Ok(BackendMessage::Authentication(md5)));
    let mechanisms = vec!["SCRAM-SHA-256-PLUS".to_owned(), "SCRAM-SHA-256".to_owned()];
    assert_eq!(
        parse(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        Ok(BackendMessage::Authentication(AuthRequest::Sasl { mechanisms }))
    );
    let gss = AuthRequest::Other { method: 8 };
    assert_eq!(parse(b'R', b"\0\0\0\x08token"), Ok(BackendMessage::Authentication(gss)));
    // Protocol 3.2 has secrets longer than 4 bytes.
    let secret = Bytes::from_static(&[9; 32]);
    let key = [&[0, 0, 1, 0][..], &secret].concat();
    assert_eq!(parse(b'K', &key), Ok(BackendMessage::BackendKeyData { pid: 256, secret }));
    let ready = BackendMessage::ReadyForQuery(TransactionStatus::InTransaction);
    assert_eq!(parse(b'Z', b"T"), Ok(ready));
    assert_eq!(parse(b'W', &[0, 0, 0]), Ok(BackendMessage::CopyBothResponse(CopyFormat::Text)));
    assert_eq!(parse(b'H', &[1, 0, 1, 0, 1]), Ok(BackendMessage::CopyOutResponse(CopyFormat::Binary)));
    assert_eq!(parse(b'C', b"COPY 0\0"), Ok(BackendMessage::CommandComplete("COPY 0".to_owned())));
    assert_eq!(parse(b'1', b""), Ok(BackendMessage::Other { tag: b'1' }));
    let negotiate = BackendMessage::NegotiateProtocolVersion {
        newest_minor: 0,
        unknown_options: vec!["_pq_.x".to_owned()],
    };
    assert_eq!(parse(b'v', b"\0\0\0\0\0\0\0\x01_pq_.x\0"), Ok(negotiate));
}

#[test]
fn rows_and_their_names_are_read() {
    let names = b"\0\x02systemid\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0timeline\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
    let names = parse(b'T', names).unwrap();
    assert_eq!(names, BackendMessage::RowDescription(vec!["systemid".to_owned(), "timeline".to_owned()]));
    let row = parse(b'D', b"\0\x03\0\0\0\x021\n\xff\xff\xff\xff\0\0\0\0").unwrap();
    let values = vec![Some(Bytes::from_static(b"1\n")), None, Some(Bytes::new())];
    assert_eq!(row, BackendMessage::DataRow(values));
    assert_eq!(parse(b'D', b"\0\x01\xff\xff\xff\xfe"), Err(DecodeProblem::NegativeLength));
    assert_eq!(parse(b'D', b"\0\0x"), Err(DecodeProblem::TrailingBytes(1)));
}

#[test]
fn an_error_keeps_its_fields_but_prints_none_that_quote_rows() {
    // INV-10.
    let body = b"SFEHLER\0VERROR\0C23505\0Mduplicate key\0DKey (id)=(hunter2) exists.\0Wrow hunter2\0Htry again\0sapp\0torders\0npk\0Zfuture\0\0";
    let BackendMessage::ErrorResponse(fields) = parse(b'E', body).unwrap() else { panic!() };
    assert_eq!((fields.severity.as_str(), fields.code.as_str()), ("ERROR", "23505"));
    assert_eq!(fields.detail.as_deref(), Some("Key (id)=(hunter2) exists."));
    let names = [&fields.schema, &fields.table, &fields.constraint].map(|name| name.as_deref().unwrap());
    assert_eq!(names, ["app", "orders", "pk"]);
    assert_eq!(fields.to_string(), "ERROR 23505: duplicate key (hint: try again)");
    assert!(!format!("{fields:?} {:?}", BackendMessage::ErrorResponse(fields.clone())).contains("hunter2"));
}

#[test]
fn an_error_in_another_encoding_is_still_readable() {
    // Before client_encoding applies, a server writes in its own encoding: here Latin-1.
    let body = b"SFATAL\0C3D000\0MDatenbank \xbbx\xab existiert nicht\0\0";
    let BackendMessage::ErrorResponse(fields) = parse(b'E', body).unwrap() else { panic!() };
    assert_eq!(fields.to_string(), "FATAL 3D000: Datenbank \u{fffd}x\u{fffd} existiert nicht");
    assert_eq!(parse(b'S', b"name\0\xff\0"), Err(DecodeProblem::NotUtf8));
}

#[test]
fn the_answer_about_tls_is_one_of_three() {
    assert_eq!(TlsAnswer::parse(b'S'), Ok(TlsAnswer::Accepted));
    assert_eq!(TlsAnswer::parse(b'N'), Ok(TlsAnswer::Refused));
    assert_eq!(TlsAnswer::parse(b'E'), Ok(TlsAnswer::Error));
    assert_eq!(TlsAnswer::parse(b'H'), Err(FrameError::UnexpectedTlsAnswer(b'H')));
}

#[test]
fn a_clients_messages_are_framed_as_documented() {
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out).unwrap();
    frontend::startup([("user", "u"), ("replication", "database")], &mut out).unwrap();
    frontend::cancel_request(7, &[1, 2, 3, 4], &mut out).unwrap();
    frontend::password(b"pw", &mut out).unwrap();
    frontend::sasl_initial("SCRAM-SHA-256", b"n,,", &mut out).unwrap();
    frontend::sasl_response(b"c=", &mut out).unwrap();
    frontend::query("SELECT 1", &mut out).unwrap();
    frontend::copy_data(b"r", &mut out).unwrap();
    frontend::copy_done(&mut out);
    frontend::terminate(&mut out);
    let expected: [&[u8]; 10] = [
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x25\0\x03\0\0user\0u\0replication\0database\0\0",
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04",
        b"p\0\0\0\x07pw\0",
        b"p\0\0\0\x19SCRAM-SHA-256\0\0\0\0\x03n,,",
        b"p\0\0\0\x06c=",
        b"Q\0\0\0\x0dSELECT 1\0",
        b"d\0\0\0\x05r",
        b"c\0\0\0\x04",
        b"X\0\0\0\x04",
    ];
    assert_eq!(out, expected.concat());
}

#[test]
fn a_zero_byte_cannot_be_smuggled_into_a_clients_message() {
    let mut out = BytesMut::from(&b"before"[..]);
    let results = [
        frontend::query("SELECT 1\0; DROP TABLE t", &mut out),
        frontend::password(b"pw\0", &mut out),
        frontend::sasl_initial("SCRAM\0", b"", &mut out),
        frontend::startup([("user", "u"), ("database", "d\0replication\0true")], &mut out),
    ];
    assert!(results.iter().all(|result| matches!(result, Err(EncodeError::InteriorNul(_)))), "{results:?}");
    assert_eq!(out, &b"before"[..]);
}

proptest! {
    #[test]
    fn frames_survive_any_splitting(
        frames in vec((any::<u8>(), vec(any::<u8>(), 0..40)), 0..8), cuts in vec(1..30usize, 1..40),
    ) {
        let stream = framed(&frames);
        let mut reader = FrameReader::new(MAX);
        let mut read = Vec::new();
        let mut rest = stream.as_slice();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (part, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            rest = later;
            reader.buffer_mut().extend_from_slice(part);
            while let Some(frame) = reader.next_frame().unwrap() {
                read.push((frame.tag, frame.body.to_vec()));
            }
        }
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn no_bytes_panic_framing(bytes in vec(any::<u8>(), 0..60)) {
        let mut reader = FrameReader::new(MAX);
        reader.buffer_mut().extend_from_slice(&bytes);
        while let Ok(Some(frame)) = reader.next_frame() {
            let _ = BackendMessage::parse(frame);
        }
    }

    #[test]
    fn no_body_panics_a_backend_message(
        tag in prop_oneof![any::<u8>(), prop::sample::select(b"RKSvZENTDCIWHGdc".to_vec())], body in vec(any::<u8>(), 0..80),
    ) {
        let len = body.len();
        if let Err(error) = BackendMessage::parse(Frame { tag, body: Bytes::from(body) }) {
            prop_assert!(error.offset <= len);
        }
    }

    #[test]
    fn no_payload_panics_a_walsender_message(
        tag in prop_oneof![any::<u8>(), prop::sample::select(b"wkr".to_vec())], body in vec(any::<u8>(), 0..60),
    ) {
        let payload = Bytes::from([vec![tag], body].concat());
        let _ = WalMessage::decode(payload.clone());
        let _ = StandbyStatus::decode(payload);
    }

    #[test]
    fn no_payload_panics_pgoutput(
        payloads in vec(
            (prop_oneof![any::<u8>(), prop::sample::select(b"BCORYIUDTMSEcAbPKrp".to_vec())], vec(any::<u8>(), 0..60)), 1..6,
        ),
    ) {
        for version in ProtocolVersion::ALL {
            let mut decoder = Decoder::new(version);
            for (tag, body) in &payloads {
                let _ = decoder.decode(Bytes::from([&[*tag], body.as_slice()].concat()));
            }
        }
    }
}
