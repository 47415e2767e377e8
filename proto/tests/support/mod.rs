//! What the server's side of a test is made of.

use bytes::{BufMut as _, BytesMut};

/// A message of the server, as it travels.
pub(crate) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(tag);
    out.put_u32(u32::try_from(body.len() + 4).unwrap());
    out.put_slice(body);
    out.to_vec()
}
