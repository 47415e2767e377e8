//! The connections that apply, each with tables of its own: which table goes where, how far each has come, and the
//! receipts that speak for all of them. A lane applies in commit order; a table never changes lanes while they are at
//! different positions, so the order within a table is the source's (INV-1).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::model::{Lsn, Oid};
use crate::target::CommitReceipt;

use super::assemble::RowChange;
use super::batch::{Bound, Building, End, PreparedBatch, Way};
use super::error::StreamError;
use super::statement::BindError;

/// Batches on their way to a connection, beside the one it works on (INV-11).
pub(super) const BATCHES_QUEUED_MAX: usize = 1;

/// What a connection has done, by the numbers of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stage {
    /// Every statement of it was answered as expected.
    pub(super) answered: u64,
    /// It is committed, or part of a transaction that goes on.
    pub(super) done: u64,
    /// It is committed, and so is everything before.
    pub(super) committed: u64,
}

/// How far every connection's progress record is, and the target's WAL behind the last commit.
#[derive(Debug)]
pub(super) struct Positions(Mutex<(Vec<Lsn>, Lsn)>);

impl Positions {
    /// At the start, as recorded.
    pub(super) fn new(recorded: Vec<Lsn>, target_lsn: Lsn) -> Arc<Self> {
        Arc::new(Self(Mutex::new((recorded, target_lsn))))
    }

    /// A connection has committed progress up to `position`; `target_lsn` is not before the end of its commit record. The
    /// receipt says what all of them have, and is durable once all their commits are.
    pub(super) fn committed(&self, lane: usize, position: Lsn, target_lsn: Lsn) -> CommitReceipt {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recorded) = positions.0.get_mut(lane) {
            *recorded = position;
        }
        positions.1 = positions.1.max(target_lsn);
        Self::receipt_of(&positions)
    }

    /// What all of them have.
    pub(super) fn receipt(&self) -> CommitReceipt {
        Self::receipt_of(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn receipt_of((recorded, target_lsn): &(Vec<Lsn>, Lsn)) -> CommitReceipt {
        CommitReceipt::of_commit(recorded.iter().min().copied().unwrap_or(Lsn::new(0)), *target_lsn)
    }
}

/// The gathering end of a connection.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) building: Building,
    batches: mpsc::Sender<PreparedBatch>,
    stage: watch::Receiver<Stage>,
    /// What its progress record held when the stream began: changes of transactions before it are there.
    pub(super) recorded: Lsn,
    /// What its progress record will hold when everything handed over is done.
    position: Lsn,
    /// Batches handed over.
    sent: u64,
    /// Those of them that may not be answered yet, by number, and what each takes in memory.
    on_the_way: VecDeque<(u64, usize)>,
    /// A slice was handed over whose transaction goes on.
    is_open: bool,
    /// The source transaction that last wrote to its tables, by its commit position.
    written_by: Option<Lsn>,
}

impl Lane {
    pub(super) fn new(
        recorded: Lsn,
        batches: mpsc::Sender<PreparedBatch>,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        Self {
            building: Building::default(),
            batches,
            stage,
            recorded,
            position: recorded,
            sent: 0,
            on_the_way: VecDeque::new(),
            is_open: false,
            written_by: None,
        }
    }

    /// Adds a change of a transaction that commits at `commit_lsn`.
    ///
    /// # Errors
    /// [`BindError`]: it has no statement.
    pub(super) fn gather(
        &mut self,
        bound: &Bound,
        change: &RowChange,
        commit_lsn: Lsn,
    ) -> Result<(), BindError> {
        self.building.change(bound, bound.table.bind(change)?, commit_lsn);
        self.written_by = Some(commit_lsn);
        Ok(())
    }

    /// Adds the emptying of tables, by a transaction that commits at `commit_lsn`.
    pub(super) fn truncate(&mut self, tables: Vec<Bound>, commit_lsn: Lsn) {
        self.building.truncate(tables);
        self.written_by = Some(commit_lsn);
    }

    /// Whether it was given changes of the transaction that commits at `commit_lsn`.
    pub(super) fn has_some_of(&self, commit_lsn: Lsn) -> bool {
        self.written_by == Some(commit_lsn)
    }

    /// Whether the connection waits for what is gathered, and that need not wait for more.
    pub(super) fn waits_for_work(&self, batch_delay: Duration) -> bool {
        let has_waited = || self.building.begun_at().is_none_or(|at| at.elapsed() >= batch_delay);
        self.has_work() && self.is_ready() && has_waited()
    }

    /// Whether something is gathered, or a transaction is to be ended on the target.
    pub(super) const fn has_work(&self) -> bool {
        self.is_open || !self.building.is_empty()
    }

    /// Whether everything handed over is committed.
    pub(super) fn is_done(&self) -> bool {
        self.stage.borrow().done >= self.sent
    }

    /// The number that the batch being gathered will have.
    pub(super) const fn next_number(&self) -> u64 {
        self.sent + 1
    }

    /// Whether the batch of that number is committed, and not only part of a transaction that goes on.
    pub(super) fn has_done(&self, number: u64) -> bool {
        self.stage.borrow().committed >= number
    }

    /// Whether the connection waits for work.
    pub(super) fn is_ready(&self) -> bool {
        self.stage.borrow().answered >= self.sent
    }

    /// Whether `position` is not in its progress record, nor on its way there.
    pub(super) fn is_behind(&self, position: Lsn) -> bool {
        self.position < position
    }

    /// Hands over what is gathered. Waits while another batch is on its way already (INV-11).
    ///
    /// # Errors
    /// The connection's task is gone.
    pub(super) async fn hand_over(&mut self, end: End, way: Way) -> Result<(), StreamError> {
        let bytes = self.building.bytes();
        let mut batch = self.building.take(way, end);
        self.sent += 1;
        self.on_the_way.push_back((self.sent, bytes));
        batch.number = self.sent;
        batch.end = end;
        match end {
            End::Open => self.is_open = true,
            End::Commit(position) => {
                self.is_open = false;
                self.position = self.position.max(position);
                batch.end = End::Commit(self.position);
            }
        }
        self.batches.send(batch).await.map_err(|_| gone())
    }

    /// What the batches handed over and not answered yet take in memory.
    pub(super) fn bytes_on_the_way(&mut self) -> usize {
        let answered = self.stage.borrow().answered;
        while self.on_the_way.front().is_some_and(|(number, _)| *number <= answered) {
            self.on_the_way.pop_front();
        }
        self.on_the_way.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Waits until everything handed over is done.
    pub(super) async fn done(&mut self) -> Result<(), StreamError> {
        let due = self.sent;
        self.stage.wait_for(|stage| stage.done >= due).await.map(|_| ()).map_err(|_| gone())
    }

    /// Waits until the connection has done something. Cancel safe.
    pub(super) async fn changed(&mut self) -> Result<(), StreamError> {
        self.stage.changed().await.map_err(|_| gone())
    }
}

/// The connection that a relation's changes go to, of `lanes`. Part of what is kept on the target: with progress records at
/// different positions, another way to choose would give a table to a connection that is elsewhere.
pub(super) fn lane_of(relation: Oid, lanes: usize) -> usize {
    // OIDs of tables made one after the other are close together: spread them (Fibonacci hashing).
    let spread = u64::from(relation.0).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    usize::try_from(spread).unwrap_or(0) % lanes.max(1)
}

const fn gone() -> StreamError {
    StreamError::TaskGone("writes to the target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_says_what_all_connections_have_and_waits_for_the_last_commit_of_any() {
        let positions = Positions::new(vec![Lsn::new(100), Lsn::new(100)], Lsn::new(7));
        let one_ahead = positions.committed(0, Lsn::new(300), Lsn::new(50));
        assert_eq!((one_ahead.source_lsn(), one_ahead.target_lsn()), (Lsn::new(100), Lsn::new(50)));
        // The other one's WAL position was read before: both commits are durable only at the later one.
        let both = positions.committed(1, Lsn::new(200), Lsn::new(40));
        assert_eq!((both.source_lsn(), both.target_lsn()), (Lsn::new(200), Lsn::new(50)));
        assert_eq!(positions.receipt(), both);
    }

    #[test]
    fn a_table_keeps_its_connection_from_one_version_of_the_program_to_the_next() {
        let chosen: Vec<usize> = [16_384, 16_385, 16_390, 24_576, 90_001, u32::MAX]
            .iter()
            .flat_map(|oid| [2, 3, 4, 16].map(|lanes| lane_of(Oid(*oid), lanes)))
            .collect();
        assert_eq!(chosen, [0, 1, 2, 2, 0, 1, 0, 12, 1, 0, 3, 11, 1, 1, 3, 11, 0, 0, 0, 8, 1, 1, 3, 11]);
    }

    #[test]
    fn tables_made_one_after_the_other_are_spread_over_the_connections() {
        for lanes in 1..=16 {
            let mut tables = vec![0_u32; lanes];
            for oid in 16_384..17_384 {
                tables[lane_of(Oid(oid), lanes)] += 1;
            }
            let even = 1_000 / u32::try_from(lanes).expect("few");
            assert!(tables.iter().all(|count| (even / 2..=even * 2).contains(count)), "{lanes}: {tables:?}");
        }
    }
}
