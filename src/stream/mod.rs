//! Changes as they happen: the walsender's messages are assembled into transactions, applied to the target in
//! commit order together with their progress record, and acknowledged once durable.

mod handle;

pub use handle::{AppliedMarker, MARKER_PREFIX, StreamGone, StreamHandle, StreamPublisher};
