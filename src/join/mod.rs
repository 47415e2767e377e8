//! Tables that come, go or change their place while the migration runs: a watch compares what the source has with what
//! the target's records say, and a join takes a table into the running stream, under a snapshot of its own, while all
//! others go on. A table whose changes may be missing is never taken for complete (INV-5), and no cutover leaves one behind.

mod error;
mod foreign_keys;
mod look;
mod mark;
mod place;
mod procedure;
mod request;
mod standing;
mod watch;

pub use error::JoinError;
pub use look::{View, look};
pub use mark::{demote, settle};
pub use procedure::{JoinContext, foreign_keys, join};
pub use request::{Wanted, check as check_request, record as record_request};
pub use standing::{Assessment, Joinable, Outside, OutsideReason, Standing, TableStanding, assess};
pub use watch::{Seen, TableWatch};
