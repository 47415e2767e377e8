//! The relay of a COPY: split anywhere, with rows longer than anything, refused, cut short, or something else altogether.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use bytes::BytesMut;
use pgsluice_proto::copy_out::CopyOutError;
use pgsluice_proto::copy_relay::{CopyPiece, CopyRelay, Relaying};
use pgsluice_proto::frame::FrameError;
use proptest::prelude::*;

use self::support::frame;

const MAX: usize = 1 << 20;

fn begin() -> Vec<u8> {
    frame(b'H', &[0, 0, 1, 0, 0])
}

fn end() -> Vec<u8> {
    [frame(b'c', b""), frame(b'C', b"COPY 3\0"), frame(b'Z', b"T")].concat()
}

fn error(severity: &str) -> Vec<u8> {
    frame(b'E', format!("S{severity}\0V{severity}\0C22012\0Mdivision by zero\0\0").as_bytes())
}

fn notice() -> Vec<u8> {
    frame(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mno matter\0\0")
}

fn setting() -> Vec<u8> {
    frame(b'S', b"TimeZone\0UTC\0")
}

fn copy(rows: &[&[u8]]) -> Vec<u8> {
    let rows = rows.iter().flat_map(|row| frame(b'd', row));
    begin().into_iter().chain(rows).chain(end()).collect()
}

/// What comes of `parts`, read one after the other.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    data: Vec<u8>,
    messages: u64,
    has_ended: bool,
}

fn read(parts: &[&[u8]], piece_bytes: usize) -> (Outcome, Result<(), CopyOutError>) {
    let mut relay = CopyRelay::new(MAX);
    let (mut arrived, mut piece, mut outcome) = (BytesMut::new(), CopyPiece::default(), Outcome::default());
    for part in parts {
        arrived.extend_from_slice(part);
        loop {
            let relaying = relay.relay(&mut arrived, &mut piece, piece_bytes);
            assert!(piece.data.len() <= piece_bytes);
            assert!(relaying != Ok(Relaying::Full) || piece.data.len() == piece_bytes);
            let CopyPiece { data, messages } = std::mem::take(&mut piece);
            outcome.data.extend_from_slice(&data);
            outcome.messages += messages;
            match relaying {
                Ok(Relaying::Full) => {}
                Ok(Relaying::Starved) => break,
                Ok(Relaying::Ended) => {
                    outcome.has_ended = true;
                    break;
                }
                Err(error) => return (outcome, Err(error)),
            }
        }
    }
    (outcome, Ok(()))
}

fn whole(rows: &[&[u8]]) -> Outcome {
    Outcome { data: rows.concat(), messages: rows.len() as u64, has_ended: true }
}

#[test]
fn a_copy_cut_at_every_byte_gives_the_same_data() {
    let rows: [&[u8]; 4] = [b"first\n", b"", b"\n", b"the fourth\n"];
    let stream = copy(&rows);
    for cut in 0..=stream.len() {
        let (before, after) = stream.split_at(cut);
        assert_eq!(read(&[before, after], 8), (whole(&rows), Ok(())), "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read(&bytes, 64).0, whole(&rows));
}

#[test]
fn the_beginning_of_a_row_is_passed_on_before_its_end_has_come() {
    let row = vec![7; 100_000];
    let stream = copy(&[&row]);
    let (before, after) = stream.split_at(60_000);
    let outcome = read(&[before], 4096).0;
    assert_eq!((outcome.data.len(), outcome.messages), (60_000 - begin().len() - 5, 0));
    assert_eq!(read(&[before, after], 4096).0, whole(&[&row]));
}

#[test]
fn nothing_is_held_beside_the_pieces_it_gives() {
    let rows = vec![1; MAX];
    let mut stream = BytesMut::from(&begin()[..]);
    stream.extend_from_slice(&frame(b'd', &rows));
    let mut relay = CopyRelay::new(MAX);
    let (mut arrived, mut taken) = (BytesMut::new(), 0);
    for part in stream.chunks(1000) {
        arrived.extend_from_slice(part);
        let mut piece = CopyPiece { data: BytesMut::with_capacity(4096), messages: 0 };
        assert_eq!(relay.relay(&mut arrived, &mut piece, 4096), Ok(Relaying::Starved));
        assert!(arrived.is_empty() && piece.data.capacity() == 4096);
        taken += piece.data.len();
    }
    assert_eq!(taken, rows.len());
}

#[test]
fn a_copy_without_rows_ends_at_once_and_the_next_answer_is_left_alone() {
    let mut arrived = BytesMut::from(&copy(&[])[..]);
    arrived.extend_from_slice(b"next");
    let (mut relay, mut piece) = (CopyRelay::new(MAX), CopyPiece::default());
    assert!(!relay.has_begun());
    assert_eq!(relay.relay(&mut arrived, &mut piece, 64), Ok(Relaying::Ended));
    assert!(relay.has_begun() && piece.data.is_empty());
    assert_eq!(relay.relay(&mut arrived, &mut piece, 64), Ok(Relaying::Ended));
    assert_eq!(&arrived[..], b"next");
}

#[test]
fn a_copy_that_lacks_its_end_never_says_that_it_ended() {
    let stream = copy(&[b"one", b"two"]);
    for cut in 0..stream.len() {
        assert!(!read(&[&stream[..cut]], 64).0.has_ended, "cut at {cut}");
    }
}

#[test]
fn an_error_in_the_middle_is_told_when_the_connection_is_ready_again_and_a_fatal_one_at_once() {
    let begun = [begin(), frame(b'd', b"row\n")].concat();
    let ready = frame(b'Z', b"E");
    for before in [&[][..], &begun] {
        let (_, told) = read(&[before, &error("ERROR")], 64);
        assert_eq!(told, Ok(()));
        let (outcome, told) = read(&[before, &error("ERROR"), &setting(), &ready], 64);
        assert!(matches!(told, Err(CopyOutError::Server(fields)) if fields.code == "22012"));
        assert!(!outcome.has_ended);
        let (_, told) = read(&[before, &error("FATAL")], 64);
        assert!(matches!(told, Err(CopyOutError::Server(fields)) if fields.severity == "FATAL"));
    }
    let (_, told) = read(&[&begun, &frame(b'c', b""), &error("ERROR"), &ready], 64);
    assert!(matches!(told, Err(CopyOutError::Server(_))), "after the last row");
}

#[test]
fn a_copy_that_is_refused_has_not_begun() {
    let (mut relay, mut piece) = (CopyRelay::new(MAX), CopyPiece::default());
    let mut arrived = BytesMut::from(&error("ERROR")[..]);
    assert_eq!(relay.relay(&mut arrived, &mut piece, 64), Ok(Relaying::Starved));
    assert!(!relay.has_begun());
    arrived.extend_from_slice(&frame(b'Z', b"I"));
    assert!(matches!(relay.relay(&mut arrived, &mut piece, 64), Err(CopyOutError::Server(_))));
}

#[test]
fn what_is_no_copy_is_refused() {
    let unexpected = |stream: &[u8]| matches!(read(&[stream], 64).1, Err(CopyOutError::Unexpected { .. }));
    assert!(unexpected(&frame(b'd', b"row")));
    assert!(unexpected(&frame(b'Z', b"I")));
    assert!(unexpected(&frame(b'C', b"SELECT 1\0")));
    assert!(unexpected(&frame(b'W', &[0, 0, 0])));
    assert!(unexpected(&[begin(), frame(b'Z', b"I")].concat()));
    assert!(unexpected(&[begin(), frame(b'c', b""), frame(b'd', b"row")].concat()));
    let framed = |header: &[u8]| read(&[&begin(), header], 64).1;
    let too_short = FrameError::LengthTooShort { tag: 'd', len: 3 };
    assert_eq!(framed(b"d\0\0\0\x03"), Err(CopyOutError::Frame(too_short)));
    assert!(matches!(framed(b"d\x7f\xff\xff\xff"), Err(CopyOutError::Frame(FrameError::TooLong { .. }))));
}

#[test]
fn data_is_not_printed() {
    let piece = CopyPiece { data: BytesMut::from(&b"secret"[..]), messages: 1 };
    assert_eq!(format!("{piece:?}"), "CopyPiece(<6 bytes> of 1 messages)");
}

/// A row, or something that may come between rows.
fn message() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>)> {
    let row = proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        8 => row.prop_map(|row| (frame(b'd', &row), Some(row))),
        1 => Just((notice(), None)),
        1 => Just((setting(), None)),
    ]
}

proptest! {
    #[test]
    fn however_a_copy_is_split_its_data_is_the_same(
        messages in proptest::collection::vec(message(), 0..20),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        piece_bytes in 1..300_usize,
        fails in any::<bool>(),
    ) {
        let mut stream = [notice(), begin()].concat();
        stream.extend(messages.iter().flat_map(|(message, _)| message));
        stream.extend(if fails { [error("ERROR"), frame(b'Z', b"E")].concat() } else { end() });
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let begins = std::iter::once(0).chain(cuts.iter().copied());
        let parts: Vec<&[u8]> = begins.zip(&cuts).map(|(begin, end)| &stream[begin..*end]).collect();
        let rows: Vec<&[u8]> = messages.iter().filter_map(|(_, row)| row.as_deref()).collect();
        let (outcome, result) = read(&parts, piece_bytes);
        prop_assert_eq!(outcome, Outcome { has_ended: !fails, ..whole(&rows) });
        match result {
            Ok(()) => prop_assert!(!fails),
            Err(CopyOutError::Server(fields)) => prop_assert!(fails && fields.code == "22012"),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn bytes_that_are_nothing_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&[&begin(), &frame(b'd', &bytes), &bytes], 64);
        let _ = read(&[&bytes], 64);
    }
}
