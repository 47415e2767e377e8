//! The messages that a replication client sends. Each function appends one whole message to a buffer, or refuses and
//! leaves the buffer as it was: a zero byte inside a string would end it early and let the rest be read as something
//! else. Nothing here is remembered, and passwords are written nowhere but into the buffer.

use bytes::{BufMut, BytesMut};

use crate::writer::{EncodeError, len32, put_cstr};

/// Protocol 3.0, which every supported server speaks.
const PROTOCOL_VERSION: u32 = 3 << 16;
/// `NEGOTIATE_SSL_CODE`
const SSL_REQUEST_CODE: u32 = 1234 << 16 | 5679;
/// `CANCEL_REQUEST_CODE`
const CANCEL_REQUEST_CODE: u32 = 1234 << 16 | 5678;

/// SSLRequest: asks for TLS. The answer is one byte, see [`TlsAnswer`](super::TlsAnswer).
pub fn ssl_request(out: &mut BytesMut) -> Result<(), EncodeError> {
    untagged(out, |out| {
        out.put_u32(SSL_REQUEST_CODE);
        Ok(())
    })
}

/// StartupMessage, protocol 3.0: names and values such as `user`, `database`, `replication`.
pub fn startup<'a>(
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    untagged(out, |out| {
        out.put_u32(PROTOCOL_VERSION);
        for (name, value) in parameters {
            put_cstr(out, name.as_bytes(), "startup parameter's name")?;
            put_cstr(out, value.as_bytes(), "startup parameter's value")?;
        }
        out.put_u8(0);
        Ok(())
    })
}

/// CancelRequest, to be sent on a connection of its own. `secret` is that of BackendKeyData.
pub fn cancel_request(pid: u32, secret: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    untagged(out, |out| {
        out.put_u32(CANCEL_REQUEST_CODE);
        out.put_u32(pid);
        out.put_slice(secret);
        Ok(())
    })
}

/// PasswordMessage: the password, or its salted MD5.
pub fn password(password: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    tagged(b'p', out, |out| put_cstr(out, password, "password"))
}

/// SASLInitialResponse: the mechanism chosen and the client's first message.
pub fn sasl_initial(mechanism: &str, data: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    tagged(b'p', out, |out| {
        put_cstr(out, mechanism.as_bytes(), "SASL mechanism's name")?;
        out.put_i32(len32(data.len(), "SASL message")?);
        out.put_slice(data);
        Ok(())
    })
}

/// SASLResponse: the client's next message.
pub fn sasl_response(data: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    tagged(b'p', out, |out| {
        out.put_slice(data);
        Ok(())
    })
}

/// Query: SQL, or a command of the replication grammar.
pub fn query(text: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
    tagged(b'Q', out, |out| put_cstr(out, text.as_bytes(), "query"))
}

/// CopyData.
pub fn copy_data(payload: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
    tagged(b'd', out, |out| {
        out.put_slice(payload);
        Ok(())
    })
}

/// CopyDone: ends our direction of a copy.
pub fn copy_done(out: &mut BytesMut) {
    out.put_slice(b"c\0\0\0\x04");
}

/// Terminate: says goodbye.
pub fn terminate(out: &mut BytesMut) {
    out.put_slice(b"X\0\0\0\x04");
}

fn tagged(
    tag: u8,
    out: &mut BytesMut,
    body: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_u8(tag);
    let result = untagged(out, body);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Writes a body behind a length that counts itself, and on failure takes both back.
fn untagged(
    out: &mut BytesMut,
    body: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_i32(0);
    let written = body(out).and_then(|()| len32(out.len() - start, "message"));
    match written {
        Ok(len) => {
            if let Some(field) = out.get_mut(start..start + size_of::<i32>()) {
                field.copy_from_slice(&len.to_be_bytes());
            }
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}
