//! Applies stream events to the target: whole source transactions in commit order (INV-1), several to a target
//! transaction when behind, each target transaction with its progress record (INV-2). Statements are pipelined;
//! a statement that touches a number of rows other than expected halts everything (INV-6). One task owns this.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use pgsluice_proto::pgoutput::TypeInfo;
use tokio_postgres::Statement;

use crate::connection::SqlSession;
use crate::model::{Lsn, Oid};
use crate::target::{self, CommitReceipt, WAL_END, progress};
use crate::telemetry::{Metrics, RowOperation};

use super::assemble::{RowChange, StreamEvent, TransactionEnd, TransactionStart};
use super::bind::{Known, Ready, RefusedSince};
use super::error::StreamError;
use super::handle::{AppliedMarker, StreamPublisher};
use super::hold::{HoldBefore, Reason, SourceView};
use super::pipeline::{Expectation, Pipeline};
use super::statement::{BoundTable, RowOp, StatementKey};
use super::value_format::ValueFormat;

/// Prepared statements kept at once (INV-11); beyond it the cache starts over.
const STATEMENTS_MAX: usize = 2_000;

/// Applies one connection's stream. Dropping it in the middle rolls the open target transaction back; the next
/// connection begins again at the progress record.
#[derive(Debug)]
pub(super) struct Applier {
    pub(super) session: Arc<SqlSession>,
    pub(super) pipeline: Pipeline,
    pub(super) known: HashMap<Oid, Known>,
    pub(super) types: HashMap<Oid, TypeInfo>,
    pub(super) statements: HashMap<StatementKey, Statement>,
    control: ControlStatements,
    pub(super) format: ValueFormat,
    pub(super) source: SourceView,
    pub(super) hold_before: Option<HoldBefore>,
    pub(super) refused_since: Option<RefusedSince>,
    /// What the progress record holds.
    recorded: Lsn,
    /// Up to here there is nothing left to apply; at or beyond `recorded`.
    position: Lsn,
    batch: Batch,
    transaction: Option<OpenTransaction>,
    pub(super) publisher: StreamPublisher,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct ControlStatements {
    advance: Statement,
    wal_end: Statement,
}

/// The open target transaction.
#[derive(Debug, Default)]
struct Batch {
    begun_at: Option<Instant>,
    transactions: u64,
    inserts: u64,
    updates: u64,
    deletes: u64,
    truncates: u64,
    bytes: u64,
}

impl Batch {
    const fn count(&mut self, operation: RowOperation) {
        match operation {
            RowOperation::Insert => self.inserts += 1,
            RowOperation::Update => self.updates += 1,
            RowOperation::Delete => self.deletes += 1,
            RowOperation::Truncate => self.truncates += 1,
        }
    }

    const fn rows(&self) -> u64 {
        self.inserts + self.updates + self.deletes + self.truncates
    }
}

/// The source transaction whose changes are coming in.
#[derive(Debug)]
struct OpenTransaction {
    start: TransactionStart,
    marker: Option<String>,
    /// Already on the target: its changes pass unapplied.
    skipped: Skipped,
    changes: u64,
}

/// What became of an event.
#[derive(Debug)]
pub(super) enum Step {
    /// It is taken; the receipt of the batch, if it made that end (a cutover marker does).
    Taken(Option<CommitReceipt>),
    /// It cannot be taken now. No change of its transaction is in the open batch; the same event is to be given again.
    Waits(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skipped {
    No,
    AlreadyApplied,
}

impl Applier {
    /// An applier that goes on from `recorded`, the position in the progress record, and waits where it is told to.
    ///
    /// # Errors
    /// What the target answered when the statements were prepared.
    pub(super) async fn new(
        session: SqlSession,
        recorded: Lsn,
        format: ValueFormat,
        source: SourceView,
        hold_before: Option<HoldBefore>,
        publisher: StreamPublisher,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StreamError> {
        let control = ControlStatements {
            advance: session.prepare(progress::ADVANCE_SQL).await?,
            wal_end: session.prepare(&format!("SELECT ({WAL_END})::text")).await?,
        };
        let session = Arc::new(session);
        publisher.resumed(recorded);
        Ok(Self {
            pipeline: Pipeline::new(Arc::clone(&session)),
            session,
            known: HashMap::new(),
            types: HashMap::new(),
            statements: HashMap::new(),
            control,
            format,
            source,
            hold_before,
            refused_since: None,
            recorded,
            position: recorded,
            batch: Batch::default(),
            transaction: None,
            publisher,
            metrics,
        })
    }

    /// Takes the next event; `bytes` is the size of the message it came in.
    ///
    /// # Errors
    /// [`StreamError`]: this applier must be dropped; nothing of the open batch is on the target (INV-5).
    pub(super) async fn event(&mut self, event: &StreamEvent, bytes: usize) -> Result<Step, StreamError> {
        let waits = match event {
            StreamEvent::Begin(start) => self.begin(*start).await?,
            StreamEvent::Type(type_info) => {
                self.types.insert(type_info.oid, type_info.clone());
                None
            }
            StreamEvent::Shape(relation) => {
                // Whether it matches is asked when its first change is due: this one may have been applied already.
                let known = Known::announced(relation.clone(), self.known.get(&relation.id));
                self.known.insert(relation.id, known);
                None
            }
            StreamEvent::Change { relation, change } => self.change(*relation, change).await?,
            StreamEvent::Truncate { relations, options: _ } => self.truncate(relations).await?,
            StreamEvent::Marker { nonce } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.marker = Some(nonce.clone());
                }
                None
            }
            StreamEvent::Commit(end) => return Ok(Step::Taken(self.source_commit(*end).await?)),
            StreamEvent::Position(lsn) => {
                self.reach(*lsn);
                None
            }
        };
        if let Some(reason) = waits {
            return Ok(Step::Waits(reason));
        }
        self.batch.bytes += bytes as u64;
        Ok(Step::Taken(None))
    }

    /// Whether the open batch could be committed now: it is not empty, and no source transaction is under way.
    #[must_use]
    pub(super) const fn can_commit(&self) -> bool {
        self.batch.begun_at.is_some() && self.transaction.is_none()
    }

    /// Bytes of the open batch, and since when it is open.
    #[must_use]
    pub(super) fn batch_size(&self) -> (u64, Option<Instant>) {
        (self.batch.bytes, self.batch.begun_at)
    }

    /// Whether the stream has moved on without changes for us, beyond what the progress record says.
    #[must_use]
    pub(super) fn has_unrecorded_position(&self) -> bool {
        self.transaction.is_none() && self.position > self.recorded
    }

    /// Commits the batch, with progress up to the last source commit (or the last position without changes).
    ///
    /// # Errors
    /// [`StreamError`]. When the connection was lost at COMMIT, the next connection's progress record tells.
    pub(super) async fn commit(&mut self) -> Result<CommitReceipt, StreamError> {
        self.open_batch();
        let lsn = self.position;
        let advance = vec![progress::MAIN_STREAM.to_owned(), lsn.to_string(), self.recorded.to_string()];
        self.pipeline.send_text(&self.control.advance, advance, Expectation::ProgressRecord);
        // COMMIT is sent only when every answer is known: to the server, an UPDATE that touched no row is no error, and
        // it would commit the batch, progress and all, before we could object (INV-6, INV-5).
        self.pipeline.drain().await?;
        let (committed, wal_end) = tokio::join!(
            biased;
            self.session.batch_execute("COMMIT"),
            self.session.query_one(&self.control.wal_end, &[]),
        );
        committed?;
        let target_lsn = wal_end?.get::<_, &str>(0).parse().map_err(|_| StreamError::MalformedLsn)?;
        self.recorded = lsn;
        self.account_for_batch();
        self.publisher.applied(lsn);
        Ok(CommitReceipt::of_commit(lsn, target_lsn))
    }

    /// Whether a target transaction is open.
    pub(super) const fn has_open_batch(&self) -> bool {
        self.batch.begun_at.is_some()
    }

    /// Whether there is something to commit before the transaction that waits. None of its own changes is in the batch.
    #[must_use]
    pub(super) fn has_work_before_the_wait(&self) -> bool {
        self.batch.begun_at.is_some() || self.position > self.recorded
    }

    /// Whether a transaction that has to be waited for is still to come.
    #[must_use]
    pub(super) const fn has_to_wait_later(&self) -> bool {
        self.hold_before.is_some()
    }

    async fn begin(&mut self, start: TransactionStart) -> Result<Option<Reason>, StreamError> {
        // The server skips what is before the position asked for; should one come all the same, it is known by its
        // commit position (INV-1), and applying it again would be wrong.
        let skipped = if start.commit_lsn < self.recorded { Skipped::AlreadyApplied } else { Skipped::No };
        if skipped == Skipped::AlreadyApplied {
            tracing::warn!(xid = start.xid.0, commit_lsn = %start.commit_lsn, "transaction already applied, passed over");
        } else if self.hold_before.is_some()
            && let Some(reason) = self.waits_before(start).await?
        {
            return Ok(Some(reason));
        }
        self.transaction = Some(OpenTransaction { start, marker: None, skipped, changes: 0 });
        Ok(None)
    }

    /// The cause of `error`: a statement sent earlier may have failed, and everything after it for that reason alone.
    pub(super) async fn first_failure(&mut self, error: StreamError) -> StreamError {
        self.pipeline.drain().await.err().unwrap_or(error)
    }

    /// The commit position of the transaction under way; `None` if it has been applied already.
    fn to_apply(&self) -> Option<Lsn> {
        let transaction = self.transaction.as_ref()?;
        (transaction.skipped == Skipped::No).then_some(transaction.start.commit_lsn)
    }

    async fn change(&mut self, relation: Oid, change: &RowChange) -> Result<Option<Reason>, StreamError> {
        let Some(commit_lsn) = self.to_apply() else { return Ok(None) };
        let table = match self.ready(relation, commit_lsn).await? {
            Ready::Table(table) => table,
            Ready::Passes => return Ok(None),
            Ready::Waits(reason) => return self.wait_or_roll_back(relation, commit_lsn, reason).await,
        };
        self.count_change();
        let bound = table.bind(change.clone())?;
        self.open_batch();
        let op = bound.key.op;
        let statement = self.statement(&table, &bound.key, commit_lsn).await?;
        let expectation = Expectation::OneRow { table, op, commit_lsn };
        self.pipeline.send_values(&statement, bound.values, expectation);
        self.batch.count(match op {
            RowOp::Insert => RowOperation::Insert,
            RowOp::Update => RowOperation::Update,
            RowOp::Delete => RowOperation::Delete,
        });
        self.pipeline.relieve().await?;
        Ok(None)
    }

    async fn truncate(&mut self, relations: &[Oid]) -> Result<Option<Reason>, StreamError> {
        let Some(commit_lsn) = self.to_apply() else { return Ok(None) };
        let mut tables = Vec::with_capacity(relations.len());
        for relation in relations {
            match self.ready(*relation, commit_lsn).await? {
                Ready::Table(table) => tables.push(table),
                Ready::Passes => {}
                Ready::Waits(reason) => return self.wait_or_roll_back(*relation, commit_lsn, reason).await,
            }
        }
        if tables.is_empty() {
            return Ok(None);
        }
        self.open_batch();
        // The source has worked the cascade out and named every table; identities are set by the cutover.
        let targets: Vec<_> = tables.iter().map(|table| table.target()).collect();
        let sql = match target::emptying_sql(&self.session, &targets).await {
            Ok(sql) => sql,
            Err(error) => return Err(self.first_failure(error.into()).await),
        };
        self.pipeline.send_simple(&sql);
        self.count_change();
        self.batch.count(RowOperation::Truncate);
        self.pipeline.relieve().await?;
        Ok(None)
    }

    fn count_change(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.changes += 1;
        }
    }

    async fn wait_or_roll_back(
        &mut self,
        relation: Oid,
        commit_lsn: Lsn,
        reason: Reason,
    ) -> Result<Option<Reason>, StreamError> {
        if self.transaction.as_ref().is_none_or(|transaction| transaction.changes == 0) {
            return Ok(Some(reason));
        }
        let error = self.held_midway(relation, commit_lsn, reason);
        Err(self.first_failure(error).await)
    }

    async fn source_commit(&mut self, end: TransactionEnd) -> Result<Option<CommitReceipt>, StreamError> {
        let Some(transaction) = self.transaction.take() else { return Ok(None) };
        self.reach(end.end_lsn);
        if transaction.changes > 0 {
            self.batch.transactions += 1;
        }
        let Some(nonce) = transaction.marker else { return Ok(None) };
        let receipt = self.commit().await?;
        tracing::info!(commit_lsn = %end.commit_lsn, "cutover marker applied");
        self.publisher.marker(AppliedMarker { nonce, receipt });
        Ok(Some(receipt))
    }

    /// Everything up to `lsn` is in the open batch or before it.
    fn reach(&mut self, lsn: Lsn) {
        if self.transaction.is_some() || lsn <= self.position {
            return;
        }
        self.position = lsn;
        if self.batch.begun_at.is_none() {
            self.batch.bytes = 0;
            self.publisher.applied(lsn);
        }
    }

    pub(super) fn open_batch(&mut self) {
        if self.batch.begun_at.is_none() {
            self.batch.begun_at = Some(Instant::now());
            self.pipeline.send_simple("BEGIN");
        }
    }

    /// Counts what the batch brought, now that it is committed.
    fn account_for_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let Some(begun_at) = batch.begun_at.filter(|_| batch.rows() > 0) else { return };
        self.metrics.batch_applied(batch.transactions, batch.rows(), begun_at.elapsed());
        for (operation, rows) in [
            (RowOperation::Insert, batch.inserts),
            (RowOperation::Update, batch.updates),
            (RowOperation::Delete, batch.deletes),
            (RowOperation::Truncate, batch.truncates),
        ] {
            self.metrics.rows_applied(operation, rows);
        }
        self.publisher.counted(batch.transactions, batch.rows());
    }

    async fn statement(
        &mut self,
        table: &BoundTable,
        key: &StatementKey,
        commit_lsn: Lsn,
    ) -> Result<Statement, StreamError> {
        if let Some(known) = self.statements.get(key) {
            return Ok(known.clone());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let statement = match self.session.prepare(&table.sql(key)).await {
            Ok(statement) => statement,
            Err(error) => {
                let table = table.name().clone();
                let (relation, op) = (key.relation, key.op.as_str());
                let refused = StreamError::Prepare { relation, table, op, commit_lsn, error };
                return Err(self.first_failure(refused).await);
            }
        };
        self.statements.insert(key.clone(), statement.clone());
        Ok(statement)
    }
}
