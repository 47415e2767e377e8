//! Changes as they happen: the walsender's messages are assembled into transactions, applied to the target in
//! commit order together with their progress record, and acknowledged once durable.

mod assemble;
mod batch;
mod bind;
mod coalesce;
mod engine;
mod error;
mod execution;
mod executor;
mod existing_rows;
mod gather;
mod gather_loop;
mod handle;
mod hold;
mod intake;
mod lanes;
mod options;
mod pipeline;
mod prefetch;
mod reader;
mod remedy;
mod resume;
mod shape;
mod spool;
mod spool_directory;
mod standby_wait;
mod statement;
mod statement_cache;
mod unfollowed;
mod value_format;
mod walsender;

pub use engine::{StreamContext, StreamHalted, run};
pub use error::StreamError;
pub use handle::{AppliedMarker, MARKER_PREFIX, StreamGone, StreamHandle, StreamPublisher};
pub use hold::{HoldBefore, Reason};
pub use remedy::ShapeDifference;
pub use unfollowed::{UnfollowedError, unfollowed_change};
