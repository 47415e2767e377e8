//! Turns the changes of one table, in the order in which the source committed them, into as few as give the same rows: one net
//! change for each key, in sets that are executed one after the other. Pure. What cannot be proven equal stays in
//! order: a log that contradicts itself is not interpreted, the rows themselves then say what is wrong (INV-6).

mod net;
mod row_key;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use crate::config::Coalescing;
use crate::model::Lsn;

use super::statement::{BindValue, BoundChange, BoundTable, RowOp, StatementKey, Values};

use net::Sets;

/// Fewer rows than this are cheaper one by one: a set's statement has to be planned.
const SET_ROWS_MIN: usize = 4;
/// A row with a longer value goes alone: an array holds it several times on its way into the table (INV-12).
const SET_VALUE_BYTES_MAX: usize = 256 * 1_024;

/// A change with what is needed to report it.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    /// The change.
    pub change: BoundChange,
    /// Its transaction's commit position.
    pub commit_lsn: Lsn,
}

/// What is executed next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// A set of net changes, in any order.
    Set(SetWork),
    /// These changes of the log, one by one, as they are.
    Ordered(Range<usize>),
}

/// Net changes of one kind to different rows. Each must touch exactly one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetWork {
    /// The statement for one of them, which also says what the set does.
    pub key: Arc<StatementKey>,
    /// The changes.
    pub rows: Vec<NetRow>,
    /// How they are best executed.
    pub pace: Pace,
}

/// How the rows of a set are best executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// By one statement.
    Together,
    /// Each by the statement for one row: they are few, or long.
    OneByOne,
}

/// A net change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NetRow {
    /// What this change in the log is.
    Logged(u32),
    /// Made of several.
    Merged(Box<BoundChange>),
}

impl SetWork {
    /// The values of each row.
    pub(super) fn values<'a>(&'a self, log: &'a [Logged]) -> impl Iterator<Item = &'a Values> {
        self.rows.iter().map(|row| row.values(log))
    }
}

impl NetRow {
    fn merged(key: Arc<StatementKey>, values: &[BindValue<'_>]) -> Self {
        Self::Merged(Box::new(BoundChange { key, values: Values::new(values) }))
    }

    fn change<'a>(&'a self, log: &'a [Logged]) -> &'a BoundChange {
        match self {
            Self::Logged(at) => &log[*at as usize].change,
            Self::Merged(change) => change,
        }
    }

    fn key<'a>(&'a self, log: &'a [Logged]) -> &'a Arc<StatementKey> {
        &self.change(log).key
    }

    /// Its values, as [`BoundChange::values`].
    #[must_use]
    pub(super) fn values<'a>(&'a self, log: &'a [Logged]) -> &'a Values {
        &self.change(log).values
    }
}

/// What to execute, in this order, instead of the log of a table.
#[must_use]
pub(super) fn coalesce(table: &BoundTable, log: &[Logged], coalescing: Coalescing) -> Vec<Segment> {
    let set_rows_min = match coalescing {
        Coalescing::Auto => SET_ROWS_MIN,
        Coalescing::Always => 1,
        Coalescing::Off => usize::MAX,
    };
    let mut segments = Segments { done: Vec::new(), set_rows_min };
    if log.len() < set_rows_min {
        segments.ordered(0..log.len());
    } else if table.finds_one_row() {
        return keyed(table, log, segments).unwrap_or_else(|| vec![Segment::Ordered(0..log.len())]);
    } else {
        runs_of_inserts(log, &mut segments);
    }
    segments.done
}

/// Rows that are not known by a key: inserts that follow one another are a set, in their order.
fn runs_of_inserts(log: &[Logged], segments: &mut Segments) {
    let mut begin = 0;
    for run in log.chunk_by(|a, b| (a.change.key.op == RowOp::Insert) == (b.change.key.op == RowOp::Insert)) {
        let range = begin..begin + run.len();
        begin = range.end;
        match run.first() {
            Some(first) if first.change.key.op == RowOp::Insert && run.len() >= segments.set_rows_min => {
                let rows = range.filter_map(|at| u32::try_from(at).ok()).map(NetRow::Logged).collect();
                segments.set(&first.change.key, rows, log);
            }
            _ => segments.ordered(range),
        }
    }
}

/// Rows that are known by their key: sets of net changes between the changes that no set can hold. `None` if the log
/// contradicts itself.
fn keyed(table: &BoundTable, log: &[Logged], mut segments: Segments) -> Option<Vec<Segment>> {
    let mut begin = 0;
    while begin < log.len() {
        let rest = &log[begin..];
        let part = rest.iter().take_while(|logged| !table.must_stay_in_order(&logged.change)).count();
        let end = begin + part;
        let sets = Sets::of(table, log, begin..end)?;
        if part < segments.set_rows_min {
            segments.ordered(begin..end);
        } else {
            sets.into_segments(table, log, &mut segments);
        }
        // The change that ended the part.
        begin = log.len().min(end + 1);
        segments.ordered(end..begin);
    }
    Some(segments.done)
}

struct Segments {
    done: Vec<Segment>,
    set_rows_min: usize,
}

impl Segments {
    fn ordered(&mut self, range: Range<usize>) {
        match self.done.last_mut() {
            _ if range.is_empty() => {}
            Some(Segment::Ordered(before)) if before.end == range.start => before.end = range.end,
            _ => self.done.push(Segment::Ordered(range)),
        }
    }

    fn set(&mut self, key: &Arc<StatementKey>, mut rows: Vec<NetRow>, log: &[Logged]) {
        let long: Vec<_> = rows.extract_if(.., |row| is_long(row.values(log))).collect();
        let pace = if rows.len() < self.set_rows_min { Pace::OneByOne } else { Pace::Together };
        for (rows, pace) in [(rows, pace), (long, Pace::OneByOne)] {
            if !rows.is_empty() {
                self.done.push(Segment::Set(SetWork { key: Arc::clone(key), rows, pace }));
            }
        }
    }
}

fn is_long(values: &Values) -> bool {
    values.size() > SET_VALUE_BYTES_MAX
        && values.iter().any(|value| value.bytes().len() > SET_VALUE_BYTES_MAX)
}
