//! One frame of arbitrary bytes: nothing panics, and an error points into the frame.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pgsluice_proto::frame::{BackendMessage, parse_frame};

fuzz_target!(|input: &[u8]| {
    let mut buffer = BytesMut::from(input);
    while let Ok(Some(frame)) = parse_frame(&mut buffer, 1 << 20) {
        let len = frame.body.len();
        if let Err(error) = BackendMessage::parse(frame) {
            assert!(error.offset <= len, "{error}");
        }
    }
});
