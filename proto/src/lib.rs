//! PostgreSQL's logical replication protocol, **without IO**.
//!
//! This crate has no sockets, no clock, no threads, no async runtime and no TLS. It never waits, never retries and
//! never logs. Bytes that arrived go in, typed messages come out; messages to send come out as bytes. Whoever owns
//! the socket and the clock passes what was read and what time it is, which is why everything here can be tested,
//! fuzzed and replayed deterministically.
//!
//! What it does have, from the wire inwards:
//!
//! - [`frame`]: version 3 framing of backend messages, CopyBoth included, and the frontend messages a replication
//!   client sends. "Need more bytes" is not an error.
//! - [`command`]: the walsender's command language with correct quoting.
//! - [`copy_out`]: [`copy_out::CopyOutSession`], the state machine of one `COPY … TO STDOUT (FORMAT binary)` of one column.
//! - [`copy_relay`]: [`copy_relay::CopyRelay`], the same of any COPY whose data is passed on as it is.
//! - [`copy_both`]: the payloads inside a walsender's CopyData: WAL data, keepalives, status updates.
//! - [`session`]: [`session::ReplicationSession`], the state machine of one `START_REPLICATION`: `handle_*` inputs,
//!   `poll_*` outputs.
//! - [`pgoutput`]: the messages of the `pgoutput` plugin, protocol versions 1 to 4, decoded and encoded.
//!
//! Two rules hold everywhere. No input can make this crate panic: decoders read through one checked cursor, and
//! their errors carry the offset and what was expected there, and of the input at most one tag byte. And no row value or secret
//! is ever printed: the [`Debug`](std::fmt::Debug) output of anything that carries one shows a length (INV-10).
//!
//! ```
//! use bytes::Bytes;
//! use pgsluice_proto::pgoutput::{Decoder, LogicalMessage, ProtocolVersion};
//!
//! let mut decoder = Decoder::new(ProtocolVersion::V1);
//! let payload = Bytes::from_static(b"B\0\0\0\x16\xb3\x74\xd8\x48\0\x02\x93\x1b\x46\x8c\x3a\x80\0\0\x02\xd1");
//! let message = decoder.decode(payload)?;
//! let LogicalMessage::Begin { final_lsn, xid, .. } = message else { unreachable!() };
//! assert_eq!((final_lsn.to_string().as_str(), xid.0), ("16/B374D848", 721));
//! # Ok::<(), pgsluice_proto::DecodeError>(())
//! ```

#![warn(missing_docs)]

pub mod command;
pub mod copy_both;
pub mod copy_out;
pub mod copy_relay;
mod cursor;
pub mod frame;
mod lsn;
pub mod pgoutput;
mod scalar;
pub mod session;
mod writer;

pub use cursor::{DecodeError, DecodeProblem};
pub use lsn::{InvalidLsn, Lsn};
pub use scalar::{Oid, Opaque, PgTimestamp, Xid};
pub use writer::EncodeError;
