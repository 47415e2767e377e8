//! Changes as they happen: the walsender's messages are assembled into transactions, applied to the target in
//! commit order together with their progress record, and acknowledged once durable.

mod apply;
mod apply_loop;
mod assemble;
mod bind;
#[allow(dead_code, unused_imports, reason = "the apply loop does not execute sets yet")]
mod coalesce;
mod engine;
mod error;
mod existing_rows;
mod handle;
mod hold;
mod intake;
mod options;
mod pipeline;
mod reader;
mod remedy;
mod resume;
mod shape;
mod spool;
mod spool_directory;
#[allow(dead_code, unused_imports, reason = "the apply loop does not execute sets yet")]
mod statement;
mod unfollowed;
mod value_format;
mod walsender;

pub use engine::{StreamContext, StreamHalted, run};
pub use error::StreamError;
pub use handle::{AppliedMarker, MARKER_PREFIX, StreamGone, StreamHandle, StreamPublisher};
pub use hold::{HoldBefore, Reason};
pub use remedy::ShapeDifference;
pub use unfollowed::{UnfollowedError, unfollowed_change};
