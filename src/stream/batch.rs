//! What goes to the target as one piece: the changes of whole source transactions, or a slice of a large one, kept in
//! a log for each table. Before a batch is handed over, each log is turned into what is sent: sets where they are
//! worth it, rows in their order where not. Pure. The log stays with the batch, so that it can be applied row by row.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;

use crate::config::Coalescing;
use crate::model::{Lsn, Oid};
use crate::target::TargetTable;
use crate::telemetry::RowOperation;

use super::coalesce::{Logged, NetRow, Pace, Segment, SetWork, coalesce};
use super::statement::{
    ArrayValue, BoundChange, BoundTable, RowOp, StatementKey, ValueForm, Values, arrays, have_form,
    put_copy_header, put_copy_rows, put_copy_trailer,
};

/// Rows from which on new rows come by COPY: it costs a round trip, and saves much for each row.
const COPY_ROWS_MIN: usize = 128;
/// About so large is a statement's share of a set: one is executed while the next is on its way.
const SET_BYTES: usize = 512 * 1_024;
/// What a row of a COPY takes beside its values, at most; as much is around all of them.
const ROW_BYTES: usize = 24;
/// What a change takes in memory beside its values' bytes.
const CHANGE_BYTES: usize = 64;

/// A table that changes are bound to. Another shape of the same relation has another number.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) table: Arc<BoundTable>,
    pub(super) number: u64,
}

/// Changes counted by kind, as the source made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) transactions: u64,
    inserts: u64,
    updates: u64,
    deletes: u64,
    truncates: u64,
}

impl Counts {
    pub(super) const fn add(&mut self, other: Self) {
        self.transactions += other.transactions;
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.truncates += other.truncates;
    }

    pub(super) const fn rows(&self) -> u64 {
        self.inserts + self.updates + self.deletes + self.truncates
    }

    pub(super) const fn by_operation(&self) -> [(RowOperation, u64); 4] {
        [
            (RowOperation::Insert, self.inserts),
            (RowOperation::Update, self.updates),
            (RowOperation::Delete, self.deletes),
            (RowOperation::Truncate, self.truncates),
        ]
    }
}

/// A batch in the making.
#[derive(Debug, Default)]
pub(super) struct Building {
    /// What is recorded with it.
    records: Vec<String>,
    /// What is recorded with the commit.
    records_at_commit: Vec<String>,
    rounds: Vec<Gathered>,
    /// Where the logs of the last round are, by relation.
    places: HashMap<Oid, usize>,
    bytes: usize,
    counts: Counts,
    begun_at: Option<Instant>,
}

/// Tables have no order among one another; what has one begins a new round.
#[derive(Debug)]
enum Gathered {
    Changes(Vec<TableLog>),
    Truncate(Vec<Bound>),
}

/// The changes of a table, in their order.
#[derive(Debug)]
struct TableLog {
    bound: Bound,
    log: Vec<Logged>,
}

impl Building {
    /// Adds a change of a transaction that commits at `commit_lsn`.
    pub(super) fn change(&mut self, bound: &Bound, change: BoundChange, commit_lsn: Lsn) {
        self.begin();
        match change.key.op {
            RowOp::Insert => self.counts.inserts += 1,
            RowOp::Update => self.counts.updates += 1,
            RowOp::Delete => self.counts.deletes += 1,
        }
        self.bytes += CHANGE_BYTES + change.values.size();
        self.log_of(bound).push(Logged { change, commit_lsn });
    }

    /// Adds the emptying of tables.
    pub(super) fn truncate(&mut self, tables: Vec<Bound>) {
        self.begin();
        self.counts.truncates += 1;
        self.bytes += CHANGE_BYTES;
        self.places.clear();
        self.rounds.push(Gathered::Truncate(tables));
    }

    /// Adds a statement for our own records.
    pub(super) fn record(&mut self, sql: String) {
        self.begin();
        self.bytes += sql.len();
        self.records.push(sql);
    }

    /// The same, in the batch that commits: what others write to as well is not to be locked while the transaction waits for them.
    pub(super) fn record_at_commit(&mut self, sql: String) {
        self.begin();
        self.bytes += sql.len();
        self.records_at_commit.push(sql);
    }

    /// A source transaction has ended in it.
    pub(super) const fn transaction_ended(&mut self) {
        self.counts.transactions += 1;
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.begun_at.is_none()
    }

    /// What it takes in memory, about.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn begun_at(&self) -> Option<Instant> {
        self.begun_at
    }

    fn begin(&mut self) {
        self.begun_at.get_or_insert_with(Instant::now);
    }

    fn log_of(&mut self, bound: &Bound) -> &mut Vec<Logged> {
        let relation = bound.table.relation();
        let known = self.places.get(&relation).copied();
        let logs = match self.rounds.last() {
            Some(Gathered::Changes(logs)) => Some(logs),
            None | Some(Gathered::Truncate(_)) => None,
        };
        let is_the_same = |place: &usize| {
            let log = logs.and_then(|logs| logs.get(*place));
            log.is_some_and(|log| log.bound.number == bound.number)
        };
        let place = known.filter(is_the_same);
        if logs.is_none() || (known.is_some() && place.is_none()) {
            self.places.clear();
            self.rounds.push(Gathered::Changes(Vec::new()));
        }
        let Some(Gathered::Changes(logs)) = self.rounds.last_mut() else {
            unreachable!("a round of changes has just been begun")
        };
        let place = place.unwrap_or_else(|| {
            logs.push(TableLog { bound: bound.clone(), log: Vec::new() });
            self.places.insert(relation, logs.len() - 1);
            logs.len() - 1
        });
        &mut logs[place].log
    }

    /// What is handed over; nothing is left but what has to wait for the commit.
    pub(super) fn take(&mut self, way: Way, end: End) -> PreparedBatch {
        let Self { mut records, mut records_at_commit, rounds, counts, begun_at, .. } = std::mem::take(self);
        match end {
            End::Commit(_) => records.append(&mut records_at_commit),
            End::Open => records_at_commit.into_iter().for_each(|sql| self.record_at_commit(sql)),
        }
        let rounds = rounds
            .into_iter()
            .map(|round| match round {
                Gathered::Changes(logs) => {
                    Round::Changes(logs.into_iter().map(|log| PreparedTable::new(log, way)).collect())
                }
                Gathered::Truncate(tables) => Round::Truncate(tables),
            })
            .collect();
        PreparedBatch {
            number: 0,
            records,
            rounds,
            counts,
            begun_at: begun_at.unwrap_or_else(Instant::now),
            end,
        }
    }
}

/// How logs become statements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) coalescing: Coalescing,
    pub(super) form: ValueForm,
}

impl Way {
    /// Rows from which on new rows come by COPY.
    const fn copy_rows_min(self) -> usize {
        match self.coalescing {
            // A single row has to take the other way.
            Coalescing::Always => 2,
            Coalescing::Auto | Coalescing::Off => COPY_ROWS_MIN,
        }
    }
}

/// Where a batch leaves the target's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Open: the source's transaction goes on in the next batch.
    Open,
    /// Committed, with progress up to here.
    Commit(Lsn),
}

/// A batch on its way to the target.
#[derive(Debug)]
pub(super) struct PreparedBatch {
    /// Its place in the order of its connection.
    pub(super) number: u64,
    pub(super) records: Vec<String>,
    pub(super) rounds: Vec<Round>,
    pub(super) counts: Counts,
    pub(super) begun_at: Instant,
    pub(super) end: End,
}

/// A part of a batch that is done before the next begins.
#[derive(Debug)]
pub(super) enum Round {
    /// In any order of the tables.
    Changes(Vec<PreparedTable>),
    /// All of them at once.
    Truncate(Vec<Bound>),
}

/// A table's changes, and what they come to.
#[derive(Debug)]
pub(super) struct PreparedTable {
    pub(super) bound: Bound,
    pub(super) log: Vec<Logged>,
    pub(super) work: Vec<Work>,
}

/// What is sent for a table, in this order.
#[derive(Debug)]
pub(super) enum Work {
    /// These changes of the log, one by one.
    Logged(Range<usize>),
    /// Rows as they are in the end, one by one.
    Net { key: Arc<StatementKey>, rows: Vec<NetRow> },
    /// Many rows in one statement, by arrays; for those of rows of the table, the columns in them with their types.
    Set { key: Arc<StatementKey>, arrays: Vec<ArrayValue>, rows: u64, received: Vec<(i16, u32)> },
    /// Many new rows.
    Copy { key: Arc<StatementKey>, data: Bytes, rows: u64 },
}

impl PreparedBatch {
    /// Whether something in it may fail because of the order of rows, and would not row by row.
    pub(super) fn uses_sets(&self) -> bool {
        self.rounds.iter().any(|round| match round {
            Round::Changes(tables) => {
                tables.iter().flat_map(|table| &table.work).any(|work| !matches!(work, Work::Logged(_)))
            }
            Round::Truncate(_) => false,
        })
    }
}

impl PreparedTable {
    fn new(TableLog { bound, log }: TableLog, way: Way) -> Self {
        let mut work = Vec::new();
        for segment in coalesce(&bound.table, &log, way.coalescing) {
            match segment {
                Segment::Ordered(range) => work.push(Work::Logged(range)),
                Segment::Set(set) => add_set(&mut work, &bound.table, &log, set, way),
            }
        }
        Self { bound, log, work }
    }

    /// Where the first change with this key commits: for messages about its statement.
    pub(super) fn first_with(&self, key: &StatementKey) -> Lsn {
        let first = self.log.iter().find(|logged| *logged.change.key == *key).or(self.log.first());
        first.map_or(Lsn::new(0), |logged| logged.commit_lsn)
    }

    /// The last change's commit position: for messages about a set.
    pub(super) fn last_commit_lsn(&self) -> Lsn {
        self.log.last().map_or(Lsn::new(0), |logged| logged.commit_lsn)
    }

    pub(super) fn target(&self) -> &TargetTable {
        self.bound.table.target()
    }
}

fn add_set(work: &mut Vec<Work>, table: &BoundTable, log: &[Logged], set: SetWork, way: Way) {
    let form = way.form;
    let values: Vec<&Values> = set.values(log).collect();
    let rows = values.len() as u64;
    let key = Arc::clone(&set.key);
    if set.key.op == RowOp::Insert
        && values.len() >= way.copy_rows_min()
        && have_form(form, &values)
        && table.copy_statement(&set.key, form).is_some()
    {
        let size: usize = values.iter().map(|row| row.size() + ROW_BYTES).sum();
        let mut data = BytesMut::with_capacity(size + ROW_BYTES);
        put_copy_header(form, &mut data);
        put_copy_rows(form, &values, &mut data);
        put_copy_trailer(form, &mut data);
        work.push(Work::Copy { key, data: data.freeze(), rows });
        return;
    }
    let statement = (set.pace == Pace::Together).then(|| table.set_statement(&set.key, form)).flatten();
    let sets = statement.and_then(|statement| -> Option<Vec<Work>> {
        let set_of = |values: &[&Values]| {
            let (key, rows, received) = (Arc::clone(&key), values.len() as u64, statement.received_types());
            arrays(&statement, values).map(|arrays| Work::Set { key, arrays, rows, received })
        };
        pieces(&values).map(set_of).collect()
    });
    match sets {
        Some(sets) => work.extend(sets),
        None => work.push(Work::Net { key, rows: set.rows }),
    }
}

/// Rows in pieces of about [`SET_BYTES`].
fn pieces<'a, 'b>(values: &'b [&'a Values]) -> impl Iterator<Item = &'b [&'a Values]> {
    let mut bytes = 0;
    values.chunk_by(move |row, _| {
        bytes += row.size();
        let goes_on = bytes < SET_BYTES;
        bytes = if goes_on { bytes } else { 0 };
        goes_on
    })
}
