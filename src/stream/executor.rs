//! Applies batches on one connection to the target: a batch, or the slices of a large one, in one target transaction
//! with its progress record (INV-2). Everything of a batch goes out without waiting; what comes back is held against
//! what was expected before COMMIT is sent (INV-6). When a set fails, the same changes are applied row by row in their
//! order, inside the same transaction (INV-5). Owns the session; knows nothing of the stream.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;

use crate::connection::SqlSession;
use crate::model::Lsn;
use crate::target::{CommitReceipt, WAL_END, progress};
use crate::telemetry::Metrics;

use super::batch::{Counts, End, PreparedBatch, Round};
use super::error::StreamError;
use super::execution::{REFUSED, TYPES_UNCHANGED_SQL, may_succeed_row_by_row, reason};
use super::handle::StreamPublisher;
use super::lanes::{Positions, Stage};
use super::pipeline::{Committing, Expectation, Pipeline};
use super::statement_cache::StatementCache;

const SAVEPOINT: &str = "SAVEPOINT pgsluice_slice";
const ROLLBACK_TO: &str = "ROLLBACK TO SAVEPOINT pgsluice_slice";
const RELEASE: &str = "RELEASE SAVEPOINT pgsluice_slice";

/// Plans must not depend on statistics, which a table just copied does not have: a set finds its rows by the index. Its
/// arrays become rows in memory and not in a file.
const PLANS: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off; SET enable_material = off; SET work_mem = '64MB'; SET plan_cache_mode = force_generic_plan";

/// What an executor works with.
pub(super) struct ExecutorSetup {
    /// The session, in the role for replicated changes; it holds the claim to be the one replicator, or shares it.
    pub(super) session: SqlSession,
    /// Which of the connections it is, from 0.
    pub(super) lane: usize,
    /// What its progress record holds.
    pub(super) recorded: Lsn,
    pub(super) positions: Arc<Positions>,
    pub(super) receipts: mpsc::Sender<CommitReceipt>,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) publisher: StreamPublisher,
    pub(super) metrics: Arc<Metrics>,
}

/// The applying end of one connection to the target. Dropping it rolls the open transaction back.
pub(super) struct Executor {
    pub(super) session: Arc<SqlSession>,
    pub(super) pipeline: Pipeline,
    pub(super) statements: StatementCache,
    /// Bindings whose sets the target does not take.
    pub(super) without_sets: HashSet<u64>,
    pub(super) types_unchanged: Statement,
    advance: Statement,
    wal_end: Statement,
    stream: String,
    lane: usize,
    recorded: Lsn,
    open: Option<Open>,
    /// Rows of the batch that is being sent.
    pub(super) written: Written,
    ended: Option<Ended>,
    positions: Arc<Positions>,
    receipts: mpsc::Sender<CommitReceipt>,
    stage: watch::Sender<Stage>,
    publisher: StreamPublisher,
    pub(super) metrics: Arc<Metrics>,
}

/// The open target transaction.
#[derive(Debug)]
struct Open {
    begun_at: Instant,
    counts: Counts,
    written: Written,
}

/// Rows sent to the target, by the way they were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) copy: u64,
    pub(super) set: u64,
    pub(super) row: u64,
}

/// A transaction whose COMMIT is on its way.
struct Ended {
    number: u64,
    position: Lsn,
    open: Open,
    committing: Committing,
}

/// How changes are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Application {
    /// As prepared: in sets where there are any.
    Prepared,
    /// One by one in their order.
    RowByRow,
}

impl Executor {
    /// Takes the session over.
    ///
    /// # Errors
    /// What the target answered.
    pub(super) async fn new(setup: ExecutorSetup) -> Result<Self, StreamError> {
        let ExecutorSetup { session, lane, recorded, positions, receipts, stage, publisher, metrics } = setup;
        let wal_end = format!("SELECT ({WAL_END})::text");
        let ((), advance, wal_end, types_unchanged) = tokio::try_join!(
            session.batch_execute(PLANS),
            session.prepare(progress::ADVANCE_SQL),
            session.prepare(&wal_end),
            session.prepare(TYPES_UNCHANGED_SQL),
        )?;
        let session = Arc::new(session);
        Ok(Self {
            pipeline: Pipeline::new(Arc::clone(&session)),
            session,
            statements: StatementCache::default(),
            without_sets: HashSet::new(),
            types_unchanged,
            advance,
            wal_end,
            stream: progress::stream_name(lane),
            lane,
            recorded,
            open: None,
            written: Written::default(),
            ended: None,
            positions,
            receipts,
            stage,
            publisher,
            metrics,
        })
    }

    /// Applies batches as they come, until no more can come.
    ///
    /// # Errors
    /// [`StreamError`]; nothing of the open transaction is on the target then (INV-5).
    pub(super) async fn run(mut self, mut batches: mpsc::Receiver<PreparedBatch>) -> Result<(), StreamError> {
        loop {
            let mut batch = match batches.try_recv() {
                Ok(batch) => batch,
                Err(mpsc::error::TryRecvError::Empty) => {
                    self.settle().await?;
                    match batches.recv().await {
                        Some(batch) => batch,
                        None => return Ok(()),
                    }
                }
                Err(mpsc::error::TryRecvError::Disconnected) => return self.settle().await,
            };
            self.apply(&mut batch).await?;
            let (number, end) = (batch.number, batch.end);
            drop(batch);
            self.stage.send_modify(|stage| stage.answered = number);
            self.end(number, end);
        }
    }

    async fn apply(&mut self, batch: &mut PreparedBatch) -> Result<(), StreamError> {
        self.begin(batch);
        let uses_sets = batch.uses_sets();
        if uses_sets {
            self.pipeline.send_simple(SAVEPOINT);
        }
        match self.attempt(batch, Application::Prepared).await {
            Ok(()) => {}
            Err(error) if uses_sets && self.can_fall_back(&error) => {
                self.fall_back(batch, &error).await?;
            }
            Err(error) => return Err(error),
        }
        if uses_sets && batch.end == End::Open {
            self.pipeline.send_simple(RELEASE);
        }
        if let Some(open) = &mut self.open {
            open.written.copy += self.written.copy;
            open.written.set += self.written.set;
            open.written.row += self.written.row;
        }
        Ok(())
    }

    fn begin(&mut self, batch: &PreparedBatch) {
        match &mut self.open {
            Some(open) => open.counts.add(batch.counts),
            None => {
                self.pipeline.send_simple("BEGIN");
                let written = Written::default();
                self.open = Some(Open { begun_at: batch.begun_at, counts: batch.counts, written });
            }
        }
    }

    /// Sends all of a batch and waits until every answer is known.
    async fn attempt(&mut self, batch: &mut PreparedBatch, how: Application) -> Result<(), StreamError> {
        self.written = Written::default();
        let sent = self.send(batch, how).await;
        if let Err(error) = sent {
            self.settle().await?;
            return Err(self.first_failure(error).await);
        }
        if let End::Commit(position) = batch.end {
            let values = vec![self.stream.clone(), position.to_string(), self.recorded.to_string()];
            self.pipeline.send_text(&self.advance, values, Expectation::ProgressRecord);
        }
        self.settle().await?;
        self.pipeline.drain().await
    }

    async fn fall_back(&mut self, batch: &mut PreparedBatch, cause: &StreamError) -> Result<(), StreamError> {
        let reason = reason(cause);
        tracing::debug!(reason, cause = %cause, "a set did not fit; its changes are applied row by row");
        self.metrics.apply_fell_back(reason);
        self.pipeline.forget();
        self.session.batch_execute(ROLLBACK_TO).await?;
        self.attempt(batch, Application::RowByRow).await?;
        if reason == REFUSED {
            // The rows were taken: it was the set that this table does not take, and would not take the next time.
            self.without_sets.extend(bindings_of(batch, cause));
        }
        Ok(())
    }

    fn can_fall_back(&self, error: &StreamError) -> bool {
        !self.session.is_closed() && may_succeed_row_by_row(error)
    }

    /// The cause of `error`: if it only says that the transaction has failed before, the answer that says why is on its way.
    async fn first_failure(&mut self, error: StreamError) -> StreamError {
        if error.sqlstate() != Some(&SqlState::IN_FAILED_SQL_TRANSACTION) {
            return error;
        }
        self.pipeline.drain().await.err().unwrap_or(error)
    }

    /// Sends COMMIT, if the batch says so. Only when every answer is known: to the server, an UPDATE that touched no row is
    /// no error, and it would commit the batch, progress and all, before we could object (INV-6, INV-5). While the server
    /// commits, the next batch is on its way already; its own COMMIT waits for this one's answer.
    fn end(&mut self, number: u64, end: End) {
        match (end, self.open.take_if(|_| matches!(end, End::Commit(_)))) {
            (End::Commit(position), Some(open)) => {
                self.recorded = position;
                let committing = Committing::send(&self.session, &self.wal_end);
                self.ended = Some(Ended { number, position, open, committing });
            }
            _ => self.stage.send_modify(|stage| stage.done = number),
        }
    }

    /// Waits for COMMIT's answer, if one is due. When the connection was lost there, the next connection's progress record
    /// tells.
    async fn settle(&mut self) -> Result<(), StreamError> {
        let Some(ended) = self.ended.take() else { return Ok(()) };
        let target_lsn = ended.committing.answer().await?;
        self.account_for(&ended.open);
        let receipt = self.positions.committed(self.lane, ended.position, target_lsn);
        self.publisher.applied(receipt.source_lsn());
        self.stage.send_modify(|stage| {
            stage.done = ended.number;
            stage.committed = ended.number;
        });
        self.receipts.send(receipt).await.map_err(|_| StreamError::TaskGone("watches what is durable"))
    }

    /// Counts what the batch brought, now that it is committed.
    fn account_for(&self, Open { begun_at, counts, written }: &Open) {
        if counts.rows() == 0 {
            return;
        }
        self.metrics.batch_applied(counts.transactions, counts.rows(), begun_at.elapsed());
        for (operation, rows) in counts.by_operation() {
            self.metrics.rows_applied(operation, rows);
        }
        self.metrics.rows_written(written.copy, written.set, written.row);
        self.publisher.counted(counts.transactions, counts.rows());
    }
}

/// The bindings of the table that an error is about.
fn bindings_of(batch: &PreparedBatch, error: &StreamError) -> Vec<u64> {
    let (StreamError::Apply { relation, .. } | StreamError::Prepare { relation, .. }) = error else {
        return Vec::new();
    };
    let tables = batch.rounds.iter().flat_map(|round| match round {
        Round::Changes(tables) => tables.as_slice(),
        Round::Truncate(_) => &[],
    });
    tables.filter(|table| table.bound.table.relation() == *relation).map(|table| table.bound.number).collect()
}
