//! The initial copy. The migration's own copies while the stream runs ([`copying`]): each chunk of a table has a snapshot of its
//! own, and whether a change is in it is decided by its transaction's id ([`visibility`], [`lifecycle`]). Neither WAL nor the
//! xmin horizon of the source is held for longer than a chunk takes, and a crash costs the chunks that were under way.
//! Tables that join later are copied [`together`]. Rows are relayed as COPY data, without ever being parsed or held;
//! what is done is recorded on the target in the transaction that does it.

mod account;
mod ahead;
mod attempt;
mod board;
mod building;
mod chunk;
mod copying;
mod error;
mod governor;
mod guard;
mod key;
mod layout;
mod lifecycle;
mod plan;
mod plan_records;
mod planning;
mod progress;
mod rate;
mod records;
mod reliance;
mod schedule;
mod spread;
mod statistics;
mod take;
mod tally;
mod together;
mod visibility;
mod worker;

pub use ahead::PostDataAhead;
pub use attempt::read_slot_snapshot;
pub use board::{ChunkId, CopyBoard, RangedBy};
pub use copying::{CopyContext, CopyHalted, run};
pub use error::SnapshotError;
pub use governor::{Governor, Limits, Pressure, Reason, StandbyBehind, Verdict, judge, look};
pub(crate) use guard::import_snapshot;
pub use key::{Key, KeyKind};
pub use layout::PlannedTable;
pub use lifecycle::{Effect, Touched};
pub use plan::{BlockRange, Chunk, Storage, TableSize, plan};
pub use plan_records::{pending_again_sql, read_unpassed};
pub use planning::make_plan;
pub use rate::RateLimit;
pub use records::{RecordedTable, read as read_records, reset, reset_tables};
pub use statistics::Statistics;
pub use take::{read_snapshot, wait_for_commits_in_doubt};
pub use together::{SnapshotContext, copy_all};
pub use visibility::{InvalidSnapshot, Snapshot};

use crate::connection::SqlSession;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// Rows, as the target counted them.
    pub rows: u64,
    /// Bytes of COPY data.
    pub bytes: u64,
}

/// Records the plan, with `extra_sql`, in one transaction that sees every table of it empty.
///
/// # Errors
/// [`SnapshotError::TargetNotEmpty`], [`SnapshotError::TargetTableMissing`], [`SnapshotError::Target`]; nothing is recorded
/// then.
pub async fn register_plan(
    target: &mut SqlSession,
    plan: &[PlannedTable],
    extra_sql: &str,
) -> Result<(), SnapshotError> {
    plan_records::register(target, plan, extra_sql).await
}
