//! Gathers what the stream brings into batches: whole source transactions in commit order (INV-1), a change at a time,
//! bound to the target's table and given to the connection that this table belongs to. One connection works on a batch
//! while the next is gathered. Nothing is written to the target here; one task owns this.

mod copied;
mod events;
mod met;
mod repaired;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_proto::Opaque;
use pgsluice_proto::pgoutput::TypeInfo;
use tokio::sync::watch;

use crate::connection::SqlSession;
use crate::model::{Lsn, Oid};
use crate::snapshot::{ChunkId, CopyBoard};
use crate::verify::Meeting;

use super::assemble::TransactionStart;
use super::batch::{End, Way};
use super::bind::{Accepted, Known, RefusedSince};
use super::error::StreamError;
use super::handle::StreamPublisher;
use super::hold::{HoldBefore, SourceView};
use super::lanes::{Lane, Positions};
use super::prefetch::Prefetch;
use super::value_format::ValueFormat;

pub(super) use events::{AtOnce, Step};

/// Gathers one connection's stream. Dropping it in the middle drops what is gathered; the next connection begins again at
/// the progress records.
pub(super) struct Gatherer {
    /// For the target's catalog and our records: what they are, before anything is written.
    pub(super) catalog: SqlSession,
    pub(super) prefetch: Prefetch,
    /// Asked for every change, and hashed fast.
    pub(super) known: hashbrown::HashMap<Oid, Known>,
    pub(super) types: HashMap<Oid, TypeInfo>,
    pub(super) format: ValueFormat,
    pub(super) source: SourceView,
    pub(super) hold_before: Option<HoldBefore>,
    pub(super) refused_since: Option<RefusedSince>,
    pub(super) publisher: StreamPublisher,
    pub(super) lanes: Vec<Lane>,
    pub(super) way: Way,
    /// Bindings made so far: each has a number of its own.
    pub(super) bindings: u64,
    /// Shapes accepted in batches that are not committed yet: our records do not say so.
    pub(super) accepted: HashMap<Oid, Accepted>,
    /// Which tables are being copied, and how far.
    pub(super) copy: CopyBoard,
    /// Where verification is met.
    pub(super) meeting: Meeting,
    /// The same, to be told of changes.
    meeting_changed: watch::Receiver<u64>,
    /// Tells of changes of the board since an event was last tried.
    copy_changed: watch::Receiver<u64>,
    /// Tables were being copied when this was last looked at.
    is_copying: bool,
    positions: Arc<Positions>,
    /// Bytes gathered for all lanes at which a batch is cut, in the middle of a transaction if need be. As much may be on its
    /// way.
    bytes_max: usize,
    /// How long a batch waits for more transactions.
    batch_delay: Duration,
    /// Up to here there is nothing left to gather.
    position: Lsn,
    transaction: Option<OpenTransaction>,
}

/// What a gatherer works with.
pub(super) struct GathererSetup {
    pub(super) catalog: SqlSession,
    pub(super) format: ValueFormat,
    pub(super) source: SourceView,
    pub(super) hold_before: Option<HoldBefore>,
    pub(super) publisher: StreamPublisher,
    pub(super) lanes: Vec<Lane>,
    pub(super) way: Way,
    pub(super) positions: Arc<Positions>,
    /// Bytes in memory that all batches which are being gathered may take.
    pub(super) bytes_max: usize,
    /// How long a batch waits for more transactions.
    pub(super) batch_delay: Duration,
    /// Which tables are being copied.
    pub(super) copy: CopyBoard,
    /// Where verification is met.
    pub(super) meeting: Meeting,
    /// Where the stream begins: the least of what the lanes have.
    pub(super) start: Lsn,
}

/// The source transaction whose changes are coming in.
#[derive(Debug)]
struct OpenTransaction {
    start: TransactionStart,
    marker: Option<String>,
    /// Already on the target, all of it: its changes pass.
    skipped: Skipped,
    changes: u64,
    /// A lane that has some of its changes.
    lane: usize,
    /// What has to be copied again because of it.
    condemned: Vec<ChunkId>,
    /// Whether the tables it touches are told to verification.
    noted: Noted,
    /// Rows to be replaced where it has committed.
    repair: Option<Opaque>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    No,
    ForVerification,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skipped {
    No,
    AlreadyApplied,
}

impl Gatherer {
    /// A gatherer that goes on from the lanes' progress records, and waits where it is told to.
    pub(super) fn new(setup: GathererSetup) -> Self {
        let GathererSetup {
            catalog,
            format,
            source,
            hold_before,
            publisher,
            lanes,
            way,
            positions,
            bytes_max,
            batch_delay,
            copy,
            meeting,
            start,
        } = setup;
        publisher.resumed(start);
        Self {
            catalog,
            prefetch: Prefetch::default(),
            known: hashbrown::HashMap::new(),
            types: HashMap::new(),
            format,
            source,
            hold_before,
            refused_since: None,
            publisher,
            bytes_max,
            batch_delay,
            lanes,
            way,
            bindings: 0,
            accepted: HashMap::new(),
            copy_changed: copy.watch(),
            is_copying: copy.is_active(),
            copy,
            meeting_changed: meeting.watch(),
            meeting,
            positions,
            position: start,
            transaction: None,
        }
    }

    /// Hands over what a connection waits for, and what is as large as a batch should be: only between transactions of the
    /// source.
    ///
    /// # Errors
    /// A connection's task is gone.
    pub(super) async fn hand_over_to_the_ready(&mut self) -> Result<(), StreamError> {
        if self.transaction.is_some() {
            return Ok(());
        }
        let full = self.full();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if full == Some(index) || lane.waits_for_work(self.batch_delay) {
                lane.hand_over(End::Commit(self.position), self.way).await?;
            }
        }
        self.relieve().await
    }

    /// Whether [`Self::hand_over_to_the_ready`] has anything to do.
    pub(super) fn has_to_hand_over(&mut self) -> bool {
        self.full().is_some()
            || self.lanes.iter().any(|lane| lane.waits_for_work(self.batch_delay))
            || self.has_too_much_on_the_way()
    }

    /// The lane whose batch is as large as one should be.
    fn full(&self) -> Option<usize> {
        self.largest_if(self.bytes_max / 4 * 3)
    }

    /// The lane for which most is gathered, if for all of them it is so much.
    fn largest_if(&self, bytes: usize) -> Option<usize> {
        let of_each = || self.lanes.iter().map(|lane| lane.building.bytes());
        if of_each().sum::<usize>() < bytes {
            return None;
        }
        of_each().enumerate().max_by_key(|(_, bytes)| *bytes).map(|(lane, _)| lane)
    }

    /// Waits while more is on its way than there is room for (INV-11). A lane that has much to do may take the room of those
    /// that have little.
    async fn relieve(&mut self) -> Result<(), StreamError> {
        while self.has_too_much_on_the_way() {
            self.progressed().await?;
        }
        Ok(())
    }

    fn has_too_much_on_the_way(&mut self) -> bool {
        self.lanes.iter_mut().map(Lane::bytes_on_the_way).sum::<usize>() > self.bytes_max
    }

    /// Whether a transaction of the source is half gathered.
    pub(super) const fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether no transaction of the source is half gathered.
    pub(super) const fn is_between_transactions(&self) -> bool {
        self.transaction.is_none()
    }

    /// Whether something is gathered that could be committed as it is.
    pub(super) fn has_whole_transactions(&self) -> bool {
        self.transaction.is_none() && self.lanes.iter().any(Lane::has_work)
    }

    /// Since when the oldest batch is being gathered.
    pub(super) fn gathering_since(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| lane.building.begun_at()).min()
    }

    /// Whether the stream has moved on beyond what a progress record says or will soon say.
    pub(super) fn has_unrecorded_position(&self) -> bool {
        self.transaction.is_none() && self.lanes.iter().any(|lane| lane.is_behind(self.position))
    }

    /// Lets every progress record follow, also where there was nothing to apply. Only between transactions.
    ///
    /// # Errors
    /// A connection's task is gone.
    pub(super) async fn record_position(&mut self) -> Result<(), StreamError> {
        if self.transaction.is_some() {
            return Ok(());
        }
        for lane in &mut self.lanes {
            if lane.has_work() || lane.is_behind(self.position) {
                lane.hand_over(End::Commit(self.position), self.way).await?;
            }
        }
        self.relieve().await
    }

    /// Commits everything gathered, on every connection, up to the last source commit (or the last position without
    /// changes). No change of an open transaction may be gathered.
    ///
    /// # Errors
    /// A connection's task is gone.
    pub(super) async fn settle(&mut self) -> Result<(), StreamError> {
        for lane in &mut self.lanes {
            if lane.has_work() || lane.is_behind(self.position) {
                lane.hand_over(End::Commit(self.position), self.way).await?;
            }
        }
        for lane in &mut self.lanes {
            lane.done().await?;
        }
        Ok(())
    }

    /// Waits until a connection has done something. Cancel safe.
    ///
    /// # Errors
    /// A connection's task is gone.
    pub(super) async fn progressed(&mut self) -> Result<(), StreamError> {
        let changes = self.lanes.iter_mut().map(|lane| Box::pin(lane.changed()));
        futures_util::future::select_all(changes).await.0
    }

    /// Whether something handed over is not committed yet.
    pub(super) fn is_busy(&self) -> bool {
        !self.lanes.iter().all(Lane::is_done)
    }

    /// Whether nothing is gathered, nor on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.lanes.iter().all(|lane| !lane.has_work() && lane.is_done())
    }

    /// Whether a transaction that has to be waited for is still to come.
    #[must_use]
    pub(super) const fn has_to_wait_later(&self) -> bool {
        self.hold_before.is_some()
    }
}
