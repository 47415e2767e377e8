//! The messages of the `pgoutput` plugin, protocol versions 1 to 4: what a source says about its committed (or
//! still running, or prepared) transactions. Decoding shares the buffer of the payload; encoding exists so that round
//! trips can be tested and tests can play the server. Nothing here interprets a row's values.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats"; `proto.c`, `pgoutput.c`.

mod decode;
mod encode;
mod message;
mod relation;
mod tuple;

pub use decode::Decoder;
pub use encode::encode;
pub use message::{LogicalMessage, OldTuple, ProtocolVersion, StreamAbortInfo, TruncateOptions};
pub use relation::{Relation, RelationColumn, ReplicaIdentity, TypeInfo};
pub use tuple::{Tuple, TupleValue, TupleValues};
