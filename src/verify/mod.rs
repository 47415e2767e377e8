//! Online verification: both sides are compared row for row while traffic goes on, under two snapshots that contain the same. Servers
//! hash, this program compares; what differs is drilled down to keys and columns, and what was in flight is looked at again. It reads,
//! and changes nothing; the stream halts for milliseconds when a pair of snapshots is taken.

pub mod difference;
mod error;
mod key_order;
mod layout;
mod meeting;
mod nudge;
mod pace;
mod pair;
mod piece;
mod portion;
mod question;
pub mod records;
mod repair;
mod report;
pub mod row_text;
mod run;
pub mod structure;
mod table;
mod work;

pub use error::VerifyError;
pub use meeting::{Interrupted, Meeting, Pace};
pub use pace::SharePercent;
pub use repair::{REPAIR_PREFIX, Repair};
pub use report::{
    ROWS_TOLD_MAX, RowDifference, Scope, StructureComparison, StructureDifference, TableComparison,
    VerificationOutcome, VerificationReport,
};
pub use run::{VerifyContext, Writing, run};
