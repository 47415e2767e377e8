//! The state machine of a binary COPY: split anywhere, refused, cut short, or something else altogether.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use bytes::{BufMut, Bytes, BytesMut};
use pgsluice_proto::copy_out::{CopyOutError, CopyOutEvent, CopyOutSession};
use proptest::prelude::*;

use self::support::frame;

const MAX: usize = 1 << 20;
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

fn row(value: &[u8]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u16(1);
    body.put_u32(u32::try_from(value.len()).unwrap());
    body.put_slice(value);
    body.to_vec()
}

/// A copy as PostgreSQL sends it: the header is in the message of the first row, or of the trailer.
fn copy(values: &[&[u8]]) -> Vec<u8> {
    let mut bodies: Vec<Vec<u8>> = values.iter().map(|value| row(value)).collect();
    bodies.push(vec![0xff, 0xff]);
    bodies[0] = [HEADER, &bodies[0]].concat();
    let mut stream = frame(b'H', &[1, 0, 1, 0, 1]);
    stream.extend(bodies.iter().flat_map(|body| frame(b'd', body)));
    stream.extend([frame(b'c', b""), frame(b'C', b"COPY 3\0"), frame(b'Z', b"I")].concat());
    stream
}

fn error(severity: &str) -> Vec<u8> {
    frame(b'E', format!("S{severity}\0V{severity}\0C57014\0Mcanceled\0\0").as_bytes())
}

/// Everything that comes of `parts`, read one after the other.
fn read(parts: &[&[u8]]) -> Result<Vec<CopyOutEvent>, CopyOutError> {
    let mut session = CopyOutSession::new(MAX, BytesMut::new());
    let mut events = Vec::new();
    for part in parts {
        session.read_buffer().extend_from_slice(part);
        while let Some(event) = session.poll_event()? {
            events.push(event);
        }
    }
    Ok(events)
}

fn rows(values: &[&[u8]]) -> Vec<CopyOutEvent> {
    let rows = values.iter().map(|value| CopyOutEvent::Row(Bytes::copy_from_slice(value)));
    rows.chain([CopyOutEvent::Ended]).collect()
}

#[test]
fn a_copy_cut_at_every_byte_gives_the_same_rows() {
    let values: [&[u8]; 3] = [b"first", b"", b"the third"];
    let stream = copy(&values);
    for cut in 0..=stream.len() {
        let (before, after) = stream.split_at(cut);
        assert_eq!(read(&[before, after]).unwrap(), rows(&values), "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read(&bytes).unwrap(), rows(&values));
}

#[test]
fn a_copy_without_rows_ends_at_once_and_the_next_answer_is_left_alone() {
    let mut stream = copy(&[]);
    stream.extend(b"next");
    let mut session = CopyOutSession::new(MAX, BytesMut::from(&stream[..]));
    assert_eq!(session.poll_event().unwrap(), Some(CopyOutEvent::Ended));
    assert_eq!(session.poll_event().unwrap(), None);
    assert_eq!(&session.into_buffer()[..], b"next");
}

#[test]
fn a_copy_that_lacks_its_end_never_says_that_it_ended() {
    let values: [&[u8]; 2] = [b"one", b"two"];
    let stream = copy(&values);
    for cut in 0..stream.len() {
        assert!(!read(&[&stream[..cut]]).unwrap().contains(&CopyOutEvent::Ended), "cut at {cut}");
    }
}

#[test]
fn an_error_is_told_when_the_connection_is_ready_again_and_a_fatal_one_at_once() {
    let refused = error("ERROR");
    assert_eq!(read(&[&refused]).unwrap(), []);
    let told = read(&[&refused, &frame(b'Z', b"I")]).unwrap_err();
    assert!(matches!(told, CopyOutError::Server(fields) if fields.code == "57014"));

    let begun = [frame(b'H', &[1, 0, 1, 0, 1]), frame(b'd', &[HEADER, &row(b"x")].concat())].concat();
    let told = read(&[&begun, &refused, &frame(b'Z', b"I")]).unwrap_err();
    assert!(matches!(told, CopyOutError::Server(_)));
    assert!(matches!(read(&[&begun, &error("FATAL")]).unwrap_err(), CopyOutError::Server(_)));
}

#[test]
fn what_is_no_binary_copy_of_one_column_is_refused() {
    let started = frame(b'H', &[1, 0, 1, 0, 1]);
    let with = |body: &[u8]| read(&[&started, &frame(b'd', &[HEADER, body].concat())]);
    assert!(matches!(read(&[&frame(b'H', &[0, 0, 1, 0, 0])]), Err(CopyOutError::Unexpected { .. })));
    assert!(matches!(read(&[&frame(b'd', HEADER)]), Err(CopyOutError::Unexpected { .. })));
    assert!(matches!(read(&[&started, &frame(b'd', &[0; 19])]), Err(CopyOutError::Unexpected { .. })));
    assert!(matches!(with(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 0]), Err(CopyOutError::Unexpected { .. })));
    assert!(matches!(with(&[0, 1, 0xff, 0xff, 0xff, 0xff]), Err(CopyOutError::Decode(_))), "NULL");
    assert!(matches!(with(&[0, 1, 0, 0, 0, 9, 1]), Err(CopyOutError::Decode(_))), "longer than its message");
    assert!(matches!(with(&[0, 1, 0, 0, 0, 1, 1, 1]), Err(CopyOutError::Decode(_))), "left over");
    let ended_early = [started.clone(), frame(b'c', b"")].concat();
    assert!(matches!(read(&[&ended_early]), Err(CopyOutError::Unexpected { .. })));
    assert!(matches!(read(&[&frame(b'Z', b"I")]), Err(CopyOutError::Unexpected { .. })));
}

#[test]
fn values_are_not_printed() {
    assert_eq!(format!("{:?}", CopyOutEvent::Row(Bytes::from_static(b"secret"))), "Row(<6 bytes>)");
}

proptest! {
    #[test]
    fn bytes_that_are_nothing_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&[&frame(b'H', &[1, 0, 1, 0, 1]), &frame(b'd', &bytes), &bytes]);
        let _ = read(&[&bytes]);
    }
}
