//! What the migration publishes about itself. Written by the migration's tasks through [`StatusBoard`], read by
//! the API, the metrics and the command line; never read back to decide anything.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::cutover::CutoverReport;
use crate::join::TableStanding;
use crate::kubernetes::cnpg::Sight;
use crate::model::{Direction, Lsn, TableName};
use crate::preflight::Finding;
use crate::verify::VerificationReport;

/// Whether a verification vouches for the rows, as a cutover wants it. Set by the migration task whenever that may have changed; not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vouched {
    /// No cutover needs one: none can begin now, or `verify.max_age_hours` is 0.
    NotNeeded,
    /// None does.
    No,
    /// One does until then.
    Until(Timestamp),
}

impl Vouched {
    /// Until when one does; `None` if none does.
    #[must_use]
    pub const fn until(self) -> Option<Timestamp> {
        match self {
            Self::Until(until) => Some(until),
            Self::NotNeeded | Self::No => None,
        }
    }
}

/// Where the migration is. Set only by the migration task; derived again from both servers after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Connecting and finding out where an earlier run stopped.
    Starting,
    /// Checking both sides; nothing is changed yet.
    Preflight,
    /// Bringing the tables' definitions to the target.
    Schema,
    /// Creating publication and slot; may wait for old transactions of the source.
    Slot,
    /// Copying what is there.
    Snapshot,
    /// Building indexes and constraints on the target.
    Indexes,
    /// Applying changes as they happen.
    Streaming,
    /// The fence is committed: the target is the primary now.
    CutOver,
    /// The target is the primary, and what is written there goes back to the source: a rollback loses nothing.
    RollbackWindow,
    /// Stopped for an operator's decision; `Status::problem` says which.
    Halted,
}

impl Phase {
    /// Every phase, in the order they happen.
    pub const ALL: [Self; 10] = [
        Self::Starting,
        Self::Preflight,
        Self::Schema,
        Self::Slot,
        Self::Snapshot,
        Self::Indexes,
        Self::Streaming,
        Self::CutOver,
        Self::RollbackWindow,
        Self::Halted,
    ];

    /// The name in the API and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Preflight => "preflight",
            Self::Schema => "schema",
            Self::Slot => "slot",
            Self::Snapshot => "snapshot",
            Self::Indexes => "indexes",
            Self::Streaming => "streaming",
            Self::CutOver => "cut_over",
            Self::RollbackWindow => "rollback_window",
            Self::Halted => "halted",
        }
    }
}

/// Life of a table's copy, as recorded on the target in the transaction that copies it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableState {
    /// Nothing copied yet.
    #[default]
    Pending,
    /// Its snapshot is being taken.
    Snapshotting,
    /// Rows are on their way.
    Copying,
    /// Copied; changes are applied to it.
    Joined,
}

impl TableState {
    /// Every state, in order.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Snapshotting, Self::Copying, Self::Joined];

    /// The name in the API, the metrics and the target's records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Snapshotting => "snapshotting",
            Self::Copying => "copying",
            Self::Joined => "joined",
        }
    }
}

/// One table's copy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableProgress {
    /// Where it is.
    pub state: TableState,
    /// Rows copied so far.
    pub rows_copied: u64,
    /// Bytes of COPY data relayed so far.
    pub bytes_copied: u64,
    /// Rows expected, from the source's statistics.
    pub rows_estimated: u64,
    /// Size of the table on the source, in bytes, with TOAST and without indexes.
    pub bytes_estimated: u64,
    /// Indexes that are built for it one by one, by this process; those that come with its definition do not count.
    pub indexes_total: u64,
    /// Of them, those that are there.
    pub indexes_built: u64,
}

/// The copy of all tables that this process copies, in sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CopyView {
    /// Rows copied so far, an earlier run's included.
    pub rows_copied: u64,
    /// Bytes of COPY data so far, an earlier run's included.
    pub bytes_copied: u64,
    /// Size of the tables on the source, in bytes, with TOAST and without indexes.
    pub bytes_estimated: u64,
    /// Tables that are copied.
    pub tables_joined: u64,
    /// Tables to copy.
    pub tables_total: u64,
    /// Chunks that are copied.
    pub chunks_joined: u64,
    /// Chunks that the tables are cut into.
    pub chunks_total: u64,
    /// COPY data over the last ten seconds; 0 while the copy stands still.
    pub bytes_per_second: f64,
    /// How long the rest takes at that rate; `None` while there is no rate to go by, and once nothing is left.
    pub eta_seconds: Option<u64>,
    /// Indexes that are built.
    pub indexes_built: u64,
    /// Indexes to build after their table's copy.
    pub indexes_total: u64,
    /// Bytes that this process has to copy again, because their chunk was rolled back.
    pub bytes_repeated: u64,
}

/// Stream positions, in the source's WAL; each `None` until known. received ≥ applied ≥ durable (INV-3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// End of the source's WAL when last asked.
    pub source: Option<Lsn>,
    /// Up to here the stream was received.
    pub received: Option<Lsn>,
    /// Up to here every commit was applied to the target.
    pub applied: Option<Lsn>,
    /// Up to here the target has it on disk (and on its standbys, if asked for); confirmed to the source.
    pub durable: Option<Lsn>,
}

/// How far the target is behind, measured on unapplied changes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LagView {
    /// Bytes of the source's WAL not yet applied; `None` until streaming.
    pub bytes: Option<u64>,
    /// Age of the oldest WAL position not yet applied, in seconds; `None` until streaming.
    pub seconds: Option<f64>,
}

/// What was applied lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throughput {
    /// Source transactions per second over the last few seconds.
    pub transactions_per_second: f64,
    /// Row changes per second over the last few seconds.
    pub rows_per_second: f64,
    /// Source transactions applied by this process.
    pub transactions_total: u64,
    /// Row changes applied by this process.
    pub rows_total: u64,
}

/// What the replication slot keeps on the source; each `None` while it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotView {
    /// WAL that it keeps, in bytes.
    pub retained_wal_bytes: Option<u64>,
    /// WAL that may still be written before the source gives the slot up, in bytes; `None` also where the source sets no limit.
    pub safe_wal_bytes: Option<u64>,
    /// Age of the oldest transaction whose row versions it keeps vacuum from removing, in transactions.
    pub xmin_age_transactions: Option<u64>,
}

/// The target's standbys, as far as its primary and the role say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandbyView {
    /// How many are asked for before a change is confirmed to the source; 0 with `durability = "local"`.
    pub wanted: u32,
    /// How many are connected and count; `None` while that is not known, or the role may not see it.
    pub connected: Option<u32>,
    /// Bytes of the target's WAL that the one furthest behind has not flushed; `None` without one.
    pub lag_bytes: Option<u64>,
}

/// The last error, in words for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What happened and what it means for the data.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// When it was seen.
    pub at: Timestamp,
    /// Whether the program waits for an operator because of it.
    pub blocking: Blocking,
}

/// Whether a problem is being retried or waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// Being retried.
    Retrying,
    /// Waiting for an operator; goes on by itself once the cause is gone.
    WaitingForOperator,
    /// Stopped.
    Halted,
}

/// What is to be said of a table that joins: whom it waits for, or why it could not join yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinNote {
    /// In words.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// Whether a try has failed; it is tried again by itself.
    pub is_failure: bool,
}

/// Everything the migration publishes.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where the migration is.
    pub phase: Phase,
    /// Which of the configured databases is the source of what is streamed now: turned around between a cutover and the end
    /// of its way back.
    pub direction: Direction,
    /// Since when.
    pub phase_since: Timestamp,
    /// When this process started.
    pub started_at: Timestamp,
    /// Copy progress by table.
    pub tables: BTreeMap<TableName, TableProgress>,
    /// The current or last copy in sums, with its rate; `None` before there was one in this process.
    pub copy: Option<CopyView>,
    /// Where every table stands, in name order; empty until changes are streamed.
    pub standings: Vec<TableStanding>,
    /// Of tables that join.
    pub join_notes: BTreeMap<TableName, JoinNote>,
    /// Stream positions.
    pub positions: Positions,
    /// Lag.
    pub lag: LagView,
    /// Throughput.
    pub throughput: Throughput,
    /// What the slot keeps on the source.
    pub slot: SlotView,
    /// The target's standbys; `None` until they were looked at.
    pub standbys: Option<StandbyView>,
    /// What was seen of the cluster that the configured target is, if that is told.
    pub cluster: Option<Sight>,
    /// What preflight found.
    pub findings: Vec<Finding>,
    /// The last problem; `None` once it is over.
    pub problem: Option<Problem>,
    /// The current or last verification.
    pub verification: Option<VerificationReport>,
    /// Whether the last one that has ended lets a cutover begin.
    pub vouched: Vouched,
    /// The current or last cutover or rehearsal.
    pub cutover: Option<CutoverReport>,
}

impl Status {
    fn starting(now: Timestamp) -> Self {
        Self {
            phase: Phase::Starting,
            direction: Direction::Forward,
            phase_since: now,
            started_at: now,
            tables: BTreeMap::new(),
            copy: None,
            standings: Vec::new(),
            join_notes: BTreeMap::new(),
            positions: Positions::default(),
            lag: LagView::default(),
            throughput: Throughput::default(),
            slot: SlotView::default(),
            standbys: None,
            cluster: None,
            findings: Vec::new(),
            problem: None,
            verification: None,
            vouched: Vouched::NotNeeded,
            cutover: None,
        }
    }
}

/// The one place where the status is kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatusBoard {
    sender: std::sync::Arc<watch::Sender<Status>>,
}

impl StatusBoard {
    /// A board in phase [`Phase::Starting`].
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { sender: std::sync::Arc::new(watch::Sender::new(Status::starting(now))) }
    }

    /// Changes the status and wakes those who watch it.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.sender.send_modify(change);
    }

    /// Moves to another phase.
    pub fn enter(&self, phase: Phase) {
        tracing::info!(phase = phase.as_str(), "phase entered");
        self.update(|status| {
            status.phase = phase;
            status.phase_since = Timestamp::now();
        });
    }

    /// A copy of the status as it is now.
    #[must_use]
    pub fn read(&self) -> Status {
        self.sender.borrow().clone()
    }

    /// Looks at the status without copying it. The closure must not block.
    pub fn with<T>(&self, look: impl FnOnce(&Status) -> T) -> T {
        look(&self.sender.borrow())
    }

    /// To be told of changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.sender.subscribe()
    }
}
