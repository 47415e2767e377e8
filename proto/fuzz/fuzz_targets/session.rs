//! A server of arbitrary bytes, with time and progress in between: nothing panics, and no status update breaks INV-3.
#![no_main]

use std::time::Duration;

use bytes::Buf;
use libfuzzer_sys::fuzz_target;
use pgsluice_proto::copy_both::StandbyStatus;
use pgsluice_proto::frame::FrameReader;
use pgsluice_proto::session::{Now, ReplicationSession, SessionConfig};
use pgsluice_proto::{Lsn, PgTimestamp};

const FRAME_BYTES_MAX: usize = 1 << 16;

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let config = SessionConfig {
        start: Some(Lsn::new(1)),
        status_interval: Duration::from_secs(1),
        silence_limit: Some(Duration::from_secs(10)),
        frame_bytes_max: FRAME_BYTES_MAX,
    };
    let mut now = Duration::ZERO;
    let mut session = ReplicationSession::new(config, now);
    while input.remaining() >= 2 {
        let (step, amount) = (input.get_u8(), usize::from(input.get_u8()));
        match step % 5 {
            0 | 1 => {
                let (read, rest) = input.split_at(amount.min(input.len()));
                input = rest;
                session.handle_bytes(read, now);
            }
            2 => now += Duration::from_millis(amount as u64 * 16),
            3 => session.handle_applied(Lsn::new(amount as u64)),
            _ => drop(session.handle_durable(Lsn::new(amount as u64))),
        }
        loop {
            match session.poll_event() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        let mut sent = FrameReader::new(FRAME_BYTES_MAX);
        let time = Now { monotonic: now, wall: PgTimestamp::from_unix_micros(0) };
        session.poll_transmit(time, sent.buffer_mut()).expect("a status update can be written");
        while let Some(frame) = sent.next_frame().expect("what is sent is framed") {
            let status = StandbyStatus::decode(frame.body).expect("a status update is well-formed");
            assert!(status.written >= status.applied && status.applied >= status.flushed, "{status:?}");
        }
    }
});
