//! The events of the stream, one by one: what each of them changes, what is due after it, and what it has to wait for. Nearly
//! all are taken at once; only where something has to be found out, or a connection has to be waited for, is there anything
//! to wait for here.

use pgsluice_proto::Opaque;

use crate::model::{Lsn, Oid};
use crate::snapshot::{ChunkId, Effect};
use crate::stream::assemble::{RowChange, StreamEvent, TransactionEnd, TransactionStart};
use crate::stream::batch::{Bound, End};
use crate::stream::bind::{Known, KnownReady, Ready};
use crate::stream::error::StreamError;
use crate::stream::handle::AppliedMarker;
use crate::stream::hold::Reason;
use crate::stream::lanes::lane_of;

use super::copied::{Fate, fate};
use super::{Gatherer, Noted, OpenTransaction, Skipped};

/// What became of an event.
pub(in crate::stream) enum Step {
    /// It is taken.
    Taken,
    /// It cannot be taken now. No change of its transaction is gathered.
    Waits(Reason),
    /// It waits for a chunk that is being copied. Changes of its transaction may be gathered.
    WaitsForCopy,
    /// It waits for a snapshot that is being taken. Nothing of its transaction is gathered.
    WaitsForVerification,
}

/// What became of an event without waiting for anything.
pub(in crate::stream) enum AtOnce {
    /// It is taken.
    Taken,
    /// It is taken, and this is due before the next one.
    Then(Due),
    /// Nothing: something has to be found out first.
    Later,
}

/// What may have to wait for a connection.
pub(in crate::stream) enum Due {
    /// A slice of a transaction that is too large for one batch (INV-12) is to be handed over by this lane.
    Slice(usize),
    /// Lanes are ready for whole transactions.
    WholeTransactions,
    /// A cutover's marker, committed here, is the last of what is gathered.
    Marker(String, Lsn),
    /// Rows are to be replaced where this transaction has committed.
    Repair(Opaque, Lsn),
    /// Chunks that the transaction committed here has made worthless.
    Condemned(Vec<ChunkId>),
}

impl Gatherer {
    /// Takes the next event.
    ///
    /// # Errors
    /// [`StreamError`]: the attempt is over; nothing that is not recorded as progress is on the target (INV-5).
    pub(in crate::stream) async fn event(&mut self, event: &StreamEvent) -> Result<Step, StreamError> {
        // Before the look: what changes after it is waited for.
        self.copy_changed.mark_unchanged();
        match self.event_at_once(event)? {
            AtOnce::Taken => {}
            AtOnce::Then(due) => self.catch_up(due).await?,
            AtOnce::Later => return self.find_out_and_take(event).await,
        }
        Ok(Step::Taken)
    }

    /// Takes the next event, unless something has to be found out first: of nearly all events everything is known.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub(in crate::stream) fn event_at_once(&mut self, event: &StreamEvent) -> Result<AtOnce, StreamError> {
        match event {
            StreamEvent::Begin(start) => {
                if self.copy.wants_standstill()
                    || self.meeting.is_active()
                    || (self.hold_before.is_some() && !self.has_applied(*start))
                {
                    return Ok(AtOnce::Later);
                }
                self.begin(*start, Noted::No);
            }
            StreamEvent::Type(type_info) => {
                let before = self.types.insert(type_info.oid, type_info.clone());
                if before.as_ref() != Some(type_info) {
                    self.known.values_mut().for_each(Known::type_has_changed);
                }
            }
            StreamEvent::Shape(relation) => {
                // Whether it matches is asked when its first change is due: this one may have been applied already.
                let id = relation.id;
                let known = Known::announced(relation.clone(), self.known.remove(&id));
                self.known.insert(id, known);
            }
            StreamEvent::Change { relation, change } => return self.change_at_once(*relation, change),
            StreamEvent::Truncate { .. } => return Ok(AtOnce::Later),
            StreamEvent::Marker { nonce } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.marker = Some(nonce.clone());
                }
            }
            StreamEvent::Repair { content } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.repair = Some(content.clone());
                }
            }
            StreamEvent::Commit(end) => return Ok(self.source_commit(*end)),
            StreamEvent::Position(lsn) => self.reach(*lsn),
        }
        Ok(AtOnce::Taken)
    }

    /// Takes an event for which something has to be found out, unless it has to wait.
    async fn find_out_and_take(&mut self, event: &StreamEvent) -> Result<Step, StreamError> {
        match event {
            StreamEvent::Begin(start) => {
                if self.stand_still_if_asked().await? {
                    return Ok(Step::WaitsForCopy);
                }
                if !self.has_applied(*start)
                    && let Some(reason) = self.waits_before(*start).await?
                {
                    return Ok(Step::Waits(reason));
                }
                let Some(noted) = self.meets_before(*start).await? else {
                    return Ok(Step::WaitsForVerification);
                };
                self.begin(*start, noted);
                Ok(Step::Taken)
            }
            StreamEvent::Change { relation, change } => self.change(*relation, change).await,
            StreamEvent::Truncate { relations, .. } => self.truncate(relations).await,
            StreamEvent::Type(_)
            | StreamEvent::Shape(_)
            | StreamEvent::Marker { .. }
            | StreamEvent::Repair { .. }
            | StreamEvent::Commit(_)
            | StreamEvent::Position(_) => Ok(Step::Taken),
        }
    }

    /// Does what is due before the next event.
    ///
    /// # Errors
    /// A connection's task is gone.
    pub(in crate::stream) async fn catch_up(&mut self, due: Due) -> Result<(), StreamError> {
        match due {
            Due::Slice(lane) => {
                let under_way = self.transaction.as_ref().map(|transaction| transaction.start.commit_lsn);
                if let Some(lane) = self.lanes.get_mut(lane) {
                    // One that has nothing of the transaction under way has whole ones, which need not wait for its end.
                    let goes_on = under_way.is_some_and(|commit_lsn| lane.has_some_of(commit_lsn));
                    let end = if goes_on { End::Open } else { End::Commit(self.position) };
                    lane.hand_over(end, self.way).await?;
                }
                self.relieve().await
            }
            Due::WholeTransactions => self.hand_over_to_the_ready().await,
            Due::Condemned(chunks) => self.settle_condemned(&chunks).await,
            Due::Repair(content, commit_lsn) => self.repair(&content, commit_lsn).await,
            Due::Marker(nonce, commit_lsn) => {
                // A marker says that everything before it is applied: on every connection.
                self.settle().await?;
                tracing::info!(%commit_lsn, "cutover marker applied");
                self.publisher.marker(AppliedMarker { nonce, receipt: self.positions.receipt() });
                Ok(())
            }
        }
    }

    /// The server skips what is before the position asked for; should one come all the same, it is known by its commit
    /// position (INV-1), and applying it again would be wrong.
    fn has_applied(&self, start: TransactionStart) -> bool {
        self.lanes.iter().all(|lane| start.commit_lsn < lane.recorded)
    }

    fn begin(&mut self, start: TransactionStart, noted: Noted) {
        if self.is_copying && !self.copy.is_active() {
            self.copy_is_over();
        }
        let skipped = if self.has_applied(start) { Skipped::AlreadyApplied } else { Skipped::No };
        if skipped == Skipped::AlreadyApplied {
            tracing::debug!(xid = start.xid.0, commit_lsn = %start.commit_lsn, "transaction already applied, passed over");
        }
        self.transaction = Some(OpenTransaction {
            start,
            marker: None,
            skipped,
            changes: 0,
            lane: 0,
            condemned: Vec::new(),
            noted,
            repair: None,
        });
    }

    /// The commit position of the transaction under way; `None` if all of it has been applied already.
    fn to_apply(&self) -> Option<Lsn> {
        let transaction = self.transaction.as_ref()?;
        (transaction.skipped == Skipped::No).then_some(transaction.start.commit_lsn)
    }

    /// The lane of a relation, unless that has applied the transaction already.
    pub(super) fn lane_to_apply(&self, relation: Oid, commit_lsn: Lsn) -> Option<usize> {
        let lane = lane_of(relation, self.lanes.len());
        self.lanes.get(lane).is_some_and(|found| commit_lsn >= found.recorded).then_some(lane)
    }

    /// Takes a change of a relation that is bound already.
    fn change_at_once(&mut self, relation: Oid, change: &RowChange) -> Result<AtOnce, StreamError> {
        self.note(relation);
        let Some(commit_lsn) = self.to_apply() else { return Ok(AtOnce::Taken) };
        let Some(lane) = self.lane_to_apply(relation, commit_lsn) else { return Ok(AtOnce::Taken) };
        let mut instead = None;
        if self.copy.is_active() {
            match self.fate(relation, change)? {
                Fate::AsItIs => {}
                Fate::Passes => return Ok(AtOnce::Taken),
                Fate::Instead(other) => instead = Some(other),
                Fate::Holds | Fate::Condemns(_) => return Ok(AtOnce::Later),
            }
        }
        let change = instead.as_ref().unwrap_or(change);
        let known = self.known.get_mut(&relation).ok_or(StreamError::UnknownRelation { relation })?;
        match known.ready(commit_lsn) {
            Some(KnownReady::Table(bound)) => {
                if let Some(lane) = self.lanes.get_mut(lane) {
                    lane.gather(bound, change, commit_lsn)?;
                }
                Ok(self.gathered(lane))
            }
            Some(KnownReady::Passes) => Ok(AtOnce::Taken),
            None => Ok(AtOnce::Later),
        }
    }

    /// What becomes of a change, if its table is being copied.
    fn fate(&self, relation: Oid, change: &RowChange) -> Result<Fate, StreamError> {
        let known = self.known.get(&relation).ok_or(StreamError::UnknownRelation { relation })?;
        let Some(transaction) = &self.transaction else { return Ok(Fate::AsItIs) };
        fate(&self.copy, &known.relation, change, transaction.start.xid)
    }

    /// Takes a change of a relation that may have to be bound first, unless it has to wait.
    async fn change(&mut self, relation: Oid, change: &RowChange) -> Result<Step, StreamError> {
        let Some(commit_lsn) = self.to_apply() else { return Ok(Step::Taken) };
        let Some(lane) = self.lane_to_apply(relation, commit_lsn) else { return Ok(Step::Taken) };
        let mut instead = None;
        if self.copy.is_active() {
            match self.fate(relation, change)? {
                Fate::AsItIs => {}
                Fate::Passes => return Ok(Step::Taken),
                Fate::Holds => return Ok(Step::WaitsForCopy),
                Fate::Instead(other) => instead = Some(other),
                Fate::Condemns(chunks) => {
                    self.condemn(relation, Some(&chunks));
                    self.count_change(lane);
                    return Ok(Step::Taken);
                }
            }
        }
        let change = instead.as_ref().unwrap_or(change);
        match self.ready(relation, commit_lsn).await? {
            Ready::Table(bound) => {
                if let Some(lane) = self.lanes.get_mut(lane) {
                    lane.gather(&bound, change, commit_lsn)?;
                }
                if let AtOnce::Then(due) = self.gathered(lane) {
                    self.catch_up(due).await?;
                }
            }
            Ready::Passes => {}
            Ready::Waits(reason) => {
                self.may_wait(relation, commit_lsn, &reason)?;
                return Ok(Step::Waits(reason));
            }
        }
        Ok(Step::Taken)
    }

    async fn truncate(&mut self, relations: &[Oid]) -> Result<Step, StreamError> {
        let Some(commit_lsn) = self.to_apply() else { return Ok(Step::Taken) };
        relations.iter().for_each(|relation| self.note(*relation));
        let mut tables: Vec<Vec<Bound>> = self.lanes.iter().map(|_| Vec::new()).collect();
        let mut condemned = Vec::new();
        for relation in relations {
            let Some(lane) = self.lane_to_apply(*relation, commit_lsn) else { continue };
            let xid = self.transaction.as_ref().map(|transaction| transaction.start.xid);
            match xid.map(|xid| self.copy.truncated(*relation, xid)) {
                Some(Effect::Hold) => return Ok(Step::WaitsForCopy),
                Some(Effect::Condemn(chunks)) => {
                    condemned.push((*relation, lane, chunks));
                    continue;
                }
                Some(Effect::Discard { .. } | Effect::RowGone { .. } | Effect::RowNew { .. }) => continue,
                Some(Effect::Apply) | None => {}
            }
            match self.ready(*relation, commit_lsn).await? {
                Ready::Table(bound) => tables[lane].push(bound),
                Ready::Passes => {}
                Ready::Waits(reason) => {
                    self.may_wait(*relation, commit_lsn, &reason)?;
                    return Ok(Step::Waits(reason));
                }
            }
        }
        for (relation, lane, chunks) in condemned {
            self.condemn(relation, Some(&chunks));
            self.count_change(lane);
        }
        for (lane, tables) in tables.into_iter().enumerate().filter(|(_, tables)| !tables.is_empty()) {
            self.count_change(lane);
            self.lanes[lane].truncate(tables, commit_lsn);
        }
        Ok(Step::Taken)
    }

    /// A lane has one more change.
    fn gathered(&mut self, lane: usize) -> AtOnce {
        self.count_change(lane);
        match self.largest_if(self.bytes_max) {
            Some(largest) => AtOnce::Then(Due::Slice(largest)),
            None => AtOnce::Taken,
        }
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

    fn source_commit(&mut self, end: TransactionEnd) -> AtOnce {
        let Some(transaction) = self.transaction.take() else { return AtOnce::Taken };
        self.reach(end.end_lsn);
        if transaction.changes > 0
            && let Some(lane) = self.lanes.get_mut(transaction.lane)
        {
            lane.building.transaction_ended();
        }
        if !transaction.condemned.is_empty() {
            return AtOnce::Then(Due::Condemned(transaction.condemned));
        }
        if let Some(content) = transaction.repair.filter(|_| transaction.skipped == Skipped::No) {
            return AtOnce::Then(Due::Repair(content, end.commit_lsn));
        }
        if let Some(nonce) = transaction.marker {
            return AtOnce::Then(Due::Marker(nonce, end.commit_lsn));
        }
        if self.has_to_hand_over() {
            return AtOnce::Then(Due::WholeTransactions);
        }
        AtOnce::Taken
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
