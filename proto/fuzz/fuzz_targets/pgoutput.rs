//! Messages of pgoutput in sequence: nothing panics, and whatever decodes says the same after encoding.
#![no_main]

use bytes::{Buf, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use pgsluice_proto::pgoutput::{Decoder, ProtocolVersion, encode};

fuzz_target!(|input: &[u8]| {
    let mut input = Bytes::copy_from_slice(input);
    if !input.has_remaining() {
        return;
    }
    let version = ProtocolVersion::ALL[usize::from(input.get_u8()) % ProtocolVersion::ALL.len()];
    let mut decoder = Decoder::new(version);
    while input.remaining() >= 2 {
        let len = usize::from(input.get_u16()).min(input.remaining());
        let payload = input.split_to(len);
        let mut replay = decoder.clone();
        if let Ok(message) = decoder.decode(payload) {
            let mut encoded = BytesMut::new();
            encode(&message, version, &mut encoded).expect("what was decoded can be encoded");
            assert_eq!(replay.decode(encoded.freeze()).as_ref(), Ok(&message));
        }
    }
});
