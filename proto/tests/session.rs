//! Attacks the session with a scripted server and a clock of its own: every way a stream begins and ends, feedback
//! that must not depend on apply (INV-7), and progress that must not be confirmed before it is durable (INV-3).

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;

mod support;

use bytes::{Bytes, BytesMut};
use pgsluice_proto::copy_both::{Keepalive, ReplyRequest, StandbyStatus, WalMessage, XLogData};
use pgsluice_proto::frame::{FrameError, FrameReader};
use pgsluice_proto::session::{
    Now, ReplicationSession, SessionConfig, SessionError, SessionEvent, StreamEnd,
};
use pgsluice_proto::{Lsn, PgTimestamp};
use proptest::collection::vec;
use proptest::prelude::*;

use self::support::frame;

const INTERVAL: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(30);

fn session() -> ReplicationSession {
    let config = SessionConfig {
        start: Some(Lsn::new(100)),
        status_interval: INTERVAL,
        silence_limit: Some(SILENCE),
        frame_bytes_max: 1 << 20,
    };
    ReplicationSession::new(config, Duration::ZERO)
}

/// A session whose stream runs, and which has sent its first status update.
fn streaming() -> ReplicationSession {
    let mut session = session();
    session.handle_bytes(&frame(b'W', &[0, 0, 0]), Duration::ZERO);
    assert_eq!(session.poll_event(), Ok(Some(SessionEvent::Started)));
    assert_eq!(transmitted(&mut session, Duration::ZERO).len(), 1);
    session
}

fn wal(message: WalMessage) -> Vec<u8> {
    let mut payload = BytesMut::new();
    message.encode(&mut payload);
    frame(b'd', &payload)
}

fn data(position: Option<u64>) -> Vec<u8> {
    let position = position.map(Lsn::new);
    let sent_at = PgTimestamp::from_unix_micros(0);
    let payload = Bytes::from_static(b"plugin");
    wal(WalMessage::Data(XLogData { wal_start: position, wal_end: position, sent_at, payload }))
}

fn keepalive(wal_end: u64, reply: ReplyRequest) -> Vec<u8> {
    let sent_at = PgTimestamp::from_unix_micros(0);
    wal(WalMessage::Keepalive(Keepalive { wal_end: Lsn::new(wal_end), sent_at, reply }))
}

/// What the session sends at `now`.
#[derive(Debug, PartialEq)]
enum Sent {
    Status(StandbyStatus),
    CopyDone,
}

fn transmitted(session: &mut ReplicationSession, now: Duration) -> Vec<Sent> {
    let mut reader = FrameReader::new(1 << 20);
    let now = Now { monotonic: now, wall: PgTimestamp::from_unix_micros(0) };
    session.poll_transmit(now, reader.buffer_mut()).unwrap();
    let mut sent = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        sent.push(match frame.tag {
            b'd' => Sent::Status(StandbyStatus::decode(frame.body).unwrap()),
            b'c' => Sent::CopyDone,
            tag => panic!("the session sent {tag}"),
        });
    }
    assert!(reader.into_buffer().is_empty());
    sent
}

fn only_status(session: &mut ReplicationSession, now: Duration) -> StandbyStatus {
    match transmitted(session, now).as_slice() {
        [Sent::Status(status)] => *status,
        other => panic!("{other:?}"),
    }
}

fn events(session: &mut ReplicationSession) -> Vec<SessionEvent> {
    std::iter::from_fn(|| session.poll_event().unwrap()).collect()
}

#[test]
fn a_stream_begins_with_copy_both_and_tells_where_it_is_at_once() {
    let mut session = session();
    assert_eq!(transmitted(&mut session, INTERVAL), [], "nothing is sent before the server agrees");
    session.handle_bytes(&frame(b'W', &[0, 0, 0]), INTERVAL);
    assert_eq!(events(&mut session), [SessionEvent::Started]);
    assert_eq!(session.poll_timeout(), Some(Duration::ZERO));
    let status = only_status(&mut session, INTERVAL);
    assert_eq!((status.written, status.flushed, status.applied), (Some(Lsn::new(100)), None, None));
}

#[test]
fn a_server_that_refuses_to_start_is_quoted() {
    let mut session = session();
    let body = b"SERROR\0VERROR\0C55006\0Mreplication slot \"s\" is active for PID 7\0\0";
    session.handle_bytes(&frame(b'E', body), Duration::ZERO);
    let error = session.poll_event().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the source ended the replication stream: ERROR 55006: replication slot \"s\" is active for PID 7"
    );
    let SessionError::Server(fields) = error else { panic!("{error:?}") };
    assert_eq!(fields.code, "55006");
}

#[test]
fn data_and_keepalives_move_what_is_received_but_confirm_nothing() {
    // INV-3: receiving, even a keepalive at the end of the WAL, is not durability.
    let mut session = streaming();
    session.handle_bytes(
        &[data(Some(110)), data(None), keepalive(150, ReplyRequest::NotRequested)].concat(),
        INTERVAL,
    );
    assert_eq!(events(&mut session).len(), 3);
    assert_eq!(session.received(), Some(Lsn::new(150)));
    let status = only_status(&mut session, INTERVAL);
    assert_eq!((status.written, status.flushed, status.applied), (Some(Lsn::new(150)), None, None));
}

#[test]
fn only_what_was_called_durable_is_confirmed() {
    let mut session = streaming();
    session.handle_bytes(&data(Some(150)), INTERVAL);
    events(&mut session);
    session.handle_applied(Lsn::new(140));
    session.handle_durable(Lsn::new(120)).unwrap();
    let status = only_status(&mut session, INTERVAL);
    let positions =
        [status.written, status.applied, status.flushed].map(|position| position.unwrap().as_u64());
    assert_eq!(positions, [150, 140, 120]);
}

#[test]
fn what_never_arrived_cannot_be_durable() {
    // INV-3.
    let mut session = streaming();
    let error = session.handle_durable(Lsn::new(101)).unwrap_err();
    let received = Some(Lsn::new(100));
    assert_eq!(error, SessionError::DurableBeyondReceived { durable: Lsn::new(101), received });
    assert_eq!(only_status(&mut session, INTERVAL).flushed, None);
    session.handle_applied(Lsn::new(500));
    assert_eq!(only_status(&mut session, INTERVAL * 2).applied, received);
}

#[test]
fn durability_that_goes_back_is_an_error_and_not_a_confirmation() {
    let mut session = streaming();
    session.handle_durable(Lsn::new(90)).unwrap();
    session.handle_durable(Lsn::new(90)).unwrap();
    let error = session.handle_durable(Lsn::new(80)).unwrap_err();
    assert_eq!(error, SessionError::DurableWentBack { durable: Lsn::new(80), confirmed: Lsn::new(90) });
}

#[test]
fn status_updates_come_at_the_interval_whatever_apply_does() {
    // INV-7: nothing is ever applied here.
    let mut session = streaming();
    let mut now = Duration::ZERO;
    for _ in 0..10 {
        session.handle_bytes(&data(Some(200)), now);
        events(&mut session);
        assert_eq!(session.poll_timeout(), Some(now + INTERVAL));
        assert_eq!(transmitted(&mut session, now + INTERVAL - Duration::from_micros(1)), []);
        now += INTERVAL;
        assert_eq!(only_status(&mut session, now).written, Some(Lsn::new(200)));
    }
}

#[test]
fn a_requested_reply_is_due_at_once() {
    let mut session = streaming();
    session.handle_bytes(&keepalive(110, ReplyRequest::Requested), Duration::from_millis(1));
    events(&mut session);
    assert_eq!(session.poll_timeout(), Some(Duration::ZERO));
    let status = only_status(&mut session, Duration::from_millis(1));
    assert_eq!((status.written, status.reply), (Some(Lsn::new(110)), ReplyRequest::NotRequested));
    assert_eq!(transmitted(&mut session, Duration::from_millis(2)), []);
}

#[test]
fn a_status_update_can_be_sent_early() {
    let mut session = streaming();
    session.request_status();
    only_status(&mut session, Duration::from_millis(1));
}

#[test]
fn a_silent_server_is_asked_once_and_then_given_up() {
    let mut session = streaming();
    let half = SILENCE / 2;
    let mut asked = 0;
    let mut now = Duration::ZERO;
    while now < SILENCE {
        session.handle_timeout(now).unwrap();
        let requests = transmitted(&mut session, now);
        let requested =
            |sent: &&Sent| matches!(sent, Sent::Status(status) if status.reply == ReplyRequest::Requested);
        let requested = requests.iter().filter(requested).count();
        assert!(requested == 0 || now >= half);
        asked += requested;
        now = session.poll_timeout().unwrap().max(now + Duration::from_micros(1));
    }
    assert_eq!(asked, 1);
    let error = session.handle_timeout(SILENCE).unwrap_err();
    assert_eq!(error, SessionError::Silent(SILENCE));
    session.handle_bytes(&keepalive(110, ReplyRequest::NotRequested), SILENCE);
    session.handle_timeout(SILENCE).unwrap();
}

#[test]
fn a_stream_ended_by_us_ends_when_the_server_is_ready() {
    let mut session = streaming();
    session.finish();
    let sent = transmitted(&mut session, Duration::from_millis(1));
    assert!(matches!(sent.as_slice(), [Sent::Status(_), Sent::CopyDone]), "{sent:?}");
    assert_eq!(transmitted(&mut session, SILENCE - INTERVAL), [], "nothing may follow CopyDone");
    // The server may still be in the middle of a transaction.
    let answer = [
        data(Some(300)),
        frame(b'c', b""),
        frame(b'C', b"COPY 0\0"),
        frame(b'C', b"START_REPLICATION\0"),
        frame(b'Z', b"I"),
        b"beyond".to_vec(),
    ];
    session.handle_bytes(&answer.concat(), INTERVAL);
    let events = events(&mut session);
    assert!(matches!(events.as_slice(), [SessionEvent::Data(_), SessionEvent::Ended(StreamEnd::Requested)]));
    assert_eq!(session.poll_timeout(), None);
    assert_eq!(session.into_buffer(), &b"beyond"[..]);
}

#[test]
fn a_stream_ended_before_it_began_still_ends_in_good_order() {
    let mut session = session();
    session.finish();
    assert_eq!(transmitted(&mut session, Duration::ZERO).len(), 2);
    let answer = [frame(b'W', &[0, 0, 0]), frame(b'c', b""), frame(b'C', b"COPY 0\0"), frame(b'Z', b"I")];
    session.handle_bytes(&answer.concat(), Duration::ZERO);
    assert_eq!(events(&mut session), [SessionEvent::Started, SessionEvent::Ended(StreamEnd::Requested)]);
}

#[test]
fn a_server_that_shuts_down_ends_the_stream() {
    let mut session = streaming();
    session.handle_bytes(&frame(b'C', b"COPY 0\0"), INTERVAL);
    assert_eq!(events(&mut session), [SessionEvent::Ended(StreamEnd::ByServer)]);
    assert_eq!(transmitted(&mut session, INTERVAL * 5), []);
    session.handle_timeout(SILENCE * 2).unwrap();
}

#[test]
fn notices_and_settings_are_passed_on() {
    let mut session = streaming();
    let notice = frame(b'N', b"SWARNING\0VWARNING\0C01000\0Mcareful\0\0");
    session.handle_bytes(&[notice, frame(b'S', b"TimeZone\0UTC\0")].concat(), INTERVAL);
    let events = events(&mut session);
    let [SessionEvent::Notice(notice), SessionEvent::ParameterStatus { name, value }] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!((notice.message.as_str(), name.as_str(), value.as_str()), ("careful", "TimeZone", "UTC"));
}

#[test]
fn what_is_not_a_replication_stream_is_an_error() {
    let mut early = session();
    early.handle_bytes(&data(Some(1)), Duration::ZERO);
    let error = early.poll_event().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the source sent CopyData while replication was to start: this is not a logical replication stream"
    );
    let mut garbage = streaming();
    garbage.handle_bytes(b"HTTP/1.1 400 Bad Request\r\n", INTERVAL);
    assert!(matches!(garbage.poll_event(), Err(SessionError::Frame(FrameError::TooLong { tag: 'H', .. }))));
    let mut damaged = streaming();
    damaged.handle_bytes(&frame(b'd', b"k\0\0"), INTERVAL);
    assert!(matches!(damaged.poll_event(), Err(SessionError::Decode(_))));
}

/// What may happen to a session, in any order.
#[derive(Debug, Clone)]
enum Happening {
    Data(Option<u64>),
    Keepalive(u64, bool),
    Applied(u64),
    Durable(u64),
    Time(u64),
    Send,
    Finish,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => proptest::option::of(1..1000u64).prop_map(Happening::Data),
        2 => (1..1000u64, any::<bool>()).prop_map(|(end, reply)| Happening::Keepalive(end, reply)),
        2 => (1..1200u64).prop_map(Happening::Applied),
        2 => (1..1200u64).prop_map(Happening::Durable),
        3 => (0..3000u64).prop_map(Happening::Time),
        3 => Just(Happening::Send),
        1 => Just(Happening::Finish),
    ]
}

proptest! {
    #[test]
    fn received_is_never_behind_applied_nor_applied_behind_durable(happenings in vec(happening(), 0..80)) {
        // INV-3, in whatever order things happen: every status update sent keeps it, never goes back, and confirms
        // only what was called durable before.
        let mut session = streaming();
        let mut now = Duration::ZERO;
        let mut called_durable = None;
        let mut last = (None, None, None);
        for happening in happenings {
            match happening {
                Happening::Data(position) => session.handle_bytes(&data(position), now),
                Happening::Keepalive(end, true) => {
                    session.handle_bytes(&keepalive(end, ReplyRequest::Requested), now);
                }
                Happening::Keepalive(end, false) => {
                    session.handle_bytes(&keepalive(end, ReplyRequest::NotRequested), now);
                }
                Happening::Applied(position) => session.handle_applied(Lsn::new(position)),
                Happening::Durable(position) => {
                    let position = Lsn::new(position);
                    if session.handle_durable(position).is_ok() {
                        called_durable = Some(position);
                    }
                }
                Happening::Time(millis) => now += Duration::from_millis(millis),
                Happening::Send => {}
                Happening::Finish => session.finish(),
            }
            events(&mut session);
            for sent in transmitted(&mut session, now) {
                let Sent::Status(status) = sent else { continue };
                prop_assert!(status.written >= status.applied && status.applied >= status.flushed, "{:?}", status);
                prop_assert_eq!(status.flushed, called_durable);
                let positions = (status.written, status.applied, status.flushed);
                prop_assert!(positions.0 >= last.0 && positions.1 >= last.1 && positions.2 >= last.2);
                last = positions;
            }
        }
    }

    #[test]
    fn no_bytes_panic_a_session(bytes in vec(any::<u8>(), 0..200), tags in vec(prop::sample::select(b"WdcCZEN".to_vec()), 0..5)) {
        let mut session = session();
        for tag in tags {
            session.handle_bytes(&frame(tag, &bytes), Duration::ZERO);
        }
        session.handle_bytes(&bytes, Duration::ZERO);
        while let Ok(Some(_)) = session.poll_event() {}
    }

    #[test]
    fn how_bytes_are_split_does_not_change_what_a_session_says(cut in 1..20usize) {
        let stream = [
            frame(b'W', &[0, 0, 0]), data(Some(5)), data(None), keepalive(9, ReplyRequest::Requested),
            frame(b'C', b"COPY 0\0"),
        ].concat();
        let mut whole = session();
        whole.handle_bytes(&stream, Duration::ZERO);
        let expected = events(&mut whole);
        let mut split = session();
        let mut seen = Vec::new();
        for part in stream.chunks(cut) {
            split.handle_bytes(part, Duration::ZERO);
            seen.extend(events(&mut split));
        }
        prop_assert_eq!(seen, expected);
    }
}
