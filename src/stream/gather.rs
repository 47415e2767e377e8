//! Gathers what the stream brings into batches: whole source transactions in commit order (INV-1), a change at a time,
//! bound to the target's table and given to the connection that this table belongs to. One connection works on a batch
//! while the next is gathered. Nothing is written to the target here; one task owns this.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_proto::pgoutput::TypeInfo;

use crate::connection::SqlSession;
use crate::model::{Lsn, Oid};

use super::assemble::{RowChange, StreamEvent, TransactionEnd, TransactionStart};
use super::batch::{Bound, End, Way};
use super::bind::{Accepted, Known, Ready, RefusedSince};
use super::error::StreamError;
use super::handle::{AppliedMarker, StreamPublisher};
use super::hold::{HoldBefore, Reason, SourceView};
use super::lanes::{Lane, Positions, lane_of};
use super::prefetch::Prefetch;
use super::value_format::ValueFormat;

/// Gathers one connection's stream. Dropping it in the middle drops what is gathered; the next connection begins again at
/// the progress records.
pub(super) struct Gatherer {
    /// For the target's catalog and our records: what they are, before anything is written.
    pub(super) catalog: SqlSession,
    pub(super) prefetch: Prefetch,
    pub(super) known: HashMap<Oid, Known>,
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
}

/// What became of an event.
pub(super) enum Step {
    /// It is taken.
    Taken,
    /// It cannot be taken now, and is given back. No change of its transaction is gathered.
    Waits(Reason, StreamEvent),
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
            start,
        } = setup;
        publisher.resumed(start);
        Self {
            catalog,
            prefetch: Prefetch::default(),
            known: HashMap::new(),
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
            positions,
            position: start,
            transaction: None,
        }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// [`StreamError`]: the attempt is over; nothing that is not recorded as progress is on the target (INV-5).
    pub(super) async fn event(&mut self, event: StreamEvent) -> Result<Step, StreamError> {
        match event {
            StreamEvent::Begin(start) => {
                if let Some(reason) = self.begin(start).await? {
                    return Ok(Step::Waits(reason, StreamEvent::Begin(start)));
                }
            }
            StreamEvent::Type(type_info) => {
                let before = self.types.insert(type_info.oid, type_info.clone());
                if before.as_ref() != Some(&type_info) {
                    self.known.values_mut().for_each(Known::type_has_changed);
                }
            }
            StreamEvent::Shape(relation) => {
                // Whether it matches is asked when its first change is due: this one may have been applied already.
                let id = relation.id;
                let known = Known::announced(relation, self.known.remove(&id));
                self.known.insert(id, known);
            }
            StreamEvent::Change { relation, change } => return self.change(relation, change).await,
            StreamEvent::Truncate { relations, options } => {
                if let Some(reason) = self.truncate(&relations).await? {
                    return Ok(Step::Waits(reason, StreamEvent::Truncate { relations, options }));
                }
            }
            StreamEvent::Marker { nonce } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.marker = Some(nonce);
                }
            }
            StreamEvent::Commit(end) => self.source_commit(end).await?,
            StreamEvent::Position(lsn) => self.reach(lsn),
        }
        Ok(Step::Taken)
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
        let full = self.largest_if(self.bytes_max / 4 * 3);
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let has_waited = lane.building.begun_at().is_none_or(|at| at.elapsed() >= self.batch_delay);
            if full == Some(index) || (lane.has_work() && lane.is_ready() && has_waited) {
                lane.hand_over(End::Commit(self.position), self.way).await?;
            }
        }
        self.relieve().await
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
        while self.lanes.iter_mut().map(Lane::bytes_on_the_way).sum::<usize>() > self.bytes_max {
            self.progressed().await?;
        }
        Ok(())
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
        Ok(())
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

    async fn begin(&mut self, start: TransactionStart) -> Result<Option<Reason>, StreamError> {
        // The server skips what is before the position asked for; should one come all the same, it is known by its
        // commit position (INV-1), and applying it again would be wrong.
        let is_applied = self.lanes.iter().all(|lane| start.commit_lsn < lane.recorded);
        let skipped = if is_applied { Skipped::AlreadyApplied } else { Skipped::No };
        if skipped == Skipped::AlreadyApplied {
            tracing::debug!(xid = start.xid.0, commit_lsn = %start.commit_lsn, "transaction already applied, passed over");
        } else if self.hold_before.is_some()
            && let Some(reason) = self.waits_before(start).await?
        {
            return Ok(Some(reason));
        }
        self.transaction = Some(OpenTransaction { start, marker: None, skipped, changes: 0, lane: 0 });
        Ok(None)
    }

    /// The commit position of the transaction under way; `None` if all of it has been applied already.
    fn to_apply(&self) -> Option<Lsn> {
        let transaction = self.transaction.as_ref()?;
        (transaction.skipped == Skipped::No).then_some(transaction.start.commit_lsn)
    }

    /// The lane of a relation, unless that has applied the transaction already.
    fn lane_to_apply(&self, relation: Oid, commit_lsn: Lsn) -> Option<usize> {
        let lane = lane_of(relation, self.lanes.len());
        self.lanes.get(lane).is_some_and(|found| commit_lsn >= found.recorded).then_some(lane)
    }

    async fn change(&mut self, relation: Oid, change: RowChange) -> Result<Step, StreamError> {
        let Some(commit_lsn) = self.to_apply() else { return Ok(Step::Taken) };
        let Some(lane) = self.lane_to_apply(relation, commit_lsn) else { return Ok(Step::Taken) };
        let bound = match self.ready(relation, commit_lsn).await? {
            Ready::Table(bound) => bound,
            Ready::Passes => return Ok(Step::Taken),
            Ready::Waits(reason) => {
                self.may_wait(relation, commit_lsn, &reason)?;
                return Ok(Step::Waits(reason, StreamEvent::Change { relation, change }));
            }
        };
        let change = bound.table.bind(&change)?;
        self.count_change(lane);
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.building.change(&bound, change, commit_lsn);
        }
        self.cut().await?;
        Ok(Step::Taken)
    }

    async fn truncate(&mut self, relations: &[Oid]) -> Result<Option<Reason>, StreamError> {
        let Some(commit_lsn) = self.to_apply() else { return Ok(None) };
        let mut tables: Vec<Vec<Bound>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for relation in relations {
            let Some(lane) = self.lane_to_apply(*relation, commit_lsn) else { continue };
            match self.ready(*relation, commit_lsn).await? {
                Ready::Table(bound) => tables[lane].push(bound),
                Ready::Passes => {}
                Ready::Waits(reason) => {
                    self.may_wait(*relation, commit_lsn, &reason)?;
                    return Ok(Some(reason));
                }
            }
        }
        for (lane, tables) in tables.into_iter().enumerate().filter(|(_, tables)| !tables.is_empty()) {
            self.count_change(lane);
            self.lanes[lane].building.truncate(tables);
        }
        Ok(None)
    }

    fn count_change(&mut self, lane: usize) {
        if let Some(transaction) = &mut self.transaction {
            transaction.changes += 1;
            transaction.lane = lane;
        }
    }

    /// A transaction of which changes are gathered cannot wait: what the target has of it is rolled back.
    fn may_wait(&self, relation: Oid, commit_lsn: Lsn, reason: &Reason) -> Result<(), StreamError> {
        match &self.transaction {
            Some(transaction) if transaction.changes > 0 => {
                Err(self.held_midway(relation, commit_lsn, reason.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Hands over a slice of a transaction that is too large for one batch (INV-12).
    async fn cut(&mut self) -> Result<(), StreamError> {
        let Some(lane) = self.largest_if(self.bytes_max) else { return Ok(()) };
        self.lanes[lane].hand_over(End::Open, self.way).await?;
        self.relieve().await
    }

    async fn source_commit(&mut self, end: TransactionEnd) -> Result<(), StreamError> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        self.reach(end.end_lsn);
        if transaction.changes > 0
            && let Some(lane) = self.lanes.get_mut(transaction.lane)
        {
            lane.building.transaction_ended();
        }
        let Some(nonce) = transaction.marker else { return self.hand_over_to_the_ready().await };
        // A marker says that everything before it is applied: on every connection.
        self.settle().await?;
        tracing::info!(commit_lsn = %end.commit_lsn, "cutover marker applied");
        self.publisher.marker(AppliedMarker { nonce, receipt: self.positions.receipt() });
        Ok(())
    }

    /// Everything up to `lsn` is gathered, or needs nothing.
    fn reach(&mut self, lsn: Lsn) {
        if self.transaction.is_some() || lsn <= self.position {
            return;
        }
        self.position = lsn;
        if self.is_settled() {
            self.publisher.applied(lsn);
        }
    }
}
