//! Turns the changes of one table, in the order in which the source committed them, into as few as give the same rows: one net
//! change for each key, in sets that are executed one after the other. Pure. What cannot be proven equal stays in
//! order: a log that contradicts itself is not interpreted, the rows themselves then say what is wrong (INV-6).

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use crate::model::Lsn;

use super::statement::{BindValue, BoundChange, BoundTable, RowOp, StatementKey};

/// Fewer rows than this are cheaper one by one: a set's statement has to be planned.
const SET_ROWS_MIN: usize = 8;
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

/// When changes become sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coalescing {
    /// Where it is worth it.
    Auto,
    /// Never.
    Off,
    /// Wherever it is possible, even for one row.
    Always,
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

/// The values of a net change, as [`BoundChange::values`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NetRow {
    /// Those of this change in the log.
    Logged(usize),
    /// Made of several.
    Merged(Vec<BindValue>),
}

impl SetWork {
    /// The values of each row.
    pub(super) fn values<'a>(&'a self, log: &'a [Logged]) -> impl Iterator<Item = &'a [BindValue]> {
        self.rows.iter().map(|row| row.values(log))
    }
}

impl NetRow {
    /// The values.
    #[must_use]
    pub(super) fn values<'a>(&'a self, log: &'a [Logged]) -> &'a [BindValue] {
        match self {
            Self::Logged(at) => log.get(*at).map_or(&[], |logged| logged.change.values.as_slice()),
            Self::Merged(values) => values,
        }
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
                let rows = range.map(NetRow::Logged).collect();
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
        let mut part = Part::new(table, log);
        let mut end = begin;
        while let Some(next) = log.get(end).filter(|next| !table.must_stay_in_order(&next.change)) {
            part.take(end, next)?;
            end += 1;
        }
        if end - begin < segments.set_rows_min {
            segments.ordered(begin..end);
        } else {
            part.into_sets(&mut segments);
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

    fn set(&mut self, key: &Arc<StatementKey>, rows: Vec<NetRow>, log: &[Logged]) {
        let (long, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| is_long(row.values(log)));
        let pace = if rows.len() < self.set_rows_min { Pace::OneByOne } else { Pace::Together };
        for (rows, pace) in [(rows, pace), (long, Pace::OneByOne)] {
            if !rows.is_empty() {
                self.done.push(Segment::Set(SetWork { key: Arc::clone(key), rows, pace }));
            }
        }
    }
}

fn is_long(values: &[BindValue]) -> bool {
    values.iter().any(|value| value.len() > SET_VALUE_BYTES_MAX)
}

/// What became of the rows that a part of the log is about.
struct Part<'a> {
    table: &'a BoundTable,
    log: &'a [Logged],
    /// By key, the place in `rows`.
    places: HashMap<RowKey<'a>, usize>,
    rows: Vec<(RowKey<'a>, Net)>,
}

/// What became of a row.
enum Net {
    /// It is new.
    Inserted(NetRow),
    /// It was there and has changed.
    Updated(Arc<StatementKey>, NetRow),
    /// It was there and is gone; the change that deleted it.
    Deleted(usize),
    /// It was there, was deleted by this change, and another with its key is there.
    Replaced(usize, NetRow),
    /// It came and went.
    Nothing,
}

impl<'a> Part<'a> {
    fn new(table: &'a BoundTable, log: &'a [Logged]) -> Self {
        Self { table, log, places: HashMap::new(), rows: Vec::new() }
    }

    /// Takes the change at this place of the log; `None` if it cannot follow those before it.
    fn take(&mut self, at: usize, logged: &'a Logged) -> Option<()> {
        let change = &logged.change;
        let row_key = RowKey { change, positions: self.table.key() };
        let place = *self.places.entry(row_key).or_insert(self.rows.len());
        match self.rows.get_mut(place) {
            None => self.rows.push((row_key, Net::of(at, change))),
            Some((_, net)) => {
                let before = std::mem::replace(net, Net::Nothing);
                *net = before.then(at, change, self.table, self.log)?;
            }
        }
        Some(())
    }

    /// The sets: deletes first, which make room for others, then updates, then inserts.
    fn into_sets(self, segments: &mut Segments) {
        let (mut deletes, mut updates, mut inserts) =
            (Group::default(), Updates::default(), Group::default());
        for (row_key, net) in self.rows {
            match net {
                Net::Inserted(row) => inserts.push((row_key, row)),
                Net::Updated(key, row) => updates.push(key, row_key, row),
                Net::Deleted(at) => deletes.push((row_key, NetRow::Logged(at))),
                Net::Replaced(_, row) if self.table.can_replace_in_place() => {
                    let mut values = row.values(self.log).to_vec();
                    values.extend(row_key.values().cloned());
                    updates.push(self.table.usual_update(), row_key, NetRow::Merged(values));
                }
                Net::Replaced(at, row) => {
                    deletes.push((row_key, NetRow::Logged(at)));
                    inserts.push((row_key, row));
                }
                Net::Nothing => {}
            }
        }
        let mut emit = |key: &Arc<StatementKey>, mut rows: Group<'_>| {
            rows.sort_by_cached_key(|(row_key, _)| SortKey::new(self.table, *row_key));
            segments.set(key, rows.into_iter().map(|(_, row)| row).collect(), self.log);
        };
        emit(&self.table.usual_delete(), deletes);
        for (key, rows) in updates.groups {
            emit(&key, rows);
        }
        emit(&self.table.usual_insert(), inserts);
    }
}

type Group<'a> = Vec<(RowKey<'a>, NetRow)>;

/// Updates, by the columns they write.
#[derive(Default)]
struct Updates<'a> {
    groups: Vec<(Arc<StatementKey>, Group<'a>)>,
    places: HashMap<Arc<StatementKey>, usize>,
}

impl<'a> Updates<'a> {
    fn push(&mut self, key: Arc<StatementKey>, row_key: RowKey<'a>, row: NetRow) {
        let place = match self.groups.first() {
            Some((first, _)) if Arc::ptr_eq(first, &key) => 0,
            _ => *self.places.entry(Arc::clone(&key)).or_insert(self.groups.len()),
        };
        match self.groups.get_mut(place) {
            Some((_, rows)) => rows.push((row_key, row)),
            None => self.groups.push((key, vec![(row_key, row)])),
        }
    }
}

impl Net {
    fn of(at: usize, change: &BoundChange) -> Self {
        match change.key.op {
            RowOp::Insert => Self::Inserted(NetRow::Logged(at)),
            RowOp::Update => Self::Updated(Arc::clone(&change.key), NetRow::Logged(at)),
            RowOp::Delete => Self::Deleted(at),
        }
    }

    /// What it is after one more change; `None` if that change is impossible after what there was.
    fn then(self, at: usize, change: &BoundChange, table: &BoundTable, log: &[Logged]) -> Option<Self> {
        match (self, change.key.op) {
            (Self::Inserted(row), RowOp::Update) => Some(Self::Inserted(row.written_over(change, log))),
            (Self::Inserted(_), RowOp::Delete) => Some(Self::Nothing),
            (Self::Updated(key, row), RowOp::Update) => Some(if writes_all_of(&change.key, &key) {
                Self::Updated(Arc::clone(&change.key), NetRow::Logged(at))
            } else {
                let (written, values) = united(&key.written, row.values(log), change);
                Self::Updated(table.update_key(written), NetRow::Merged(values))
            }),
            (Self::Updated(..), RowOp::Delete) => Some(Self::Deleted(at)),
            (Self::Deleted(deleted), RowOp::Insert) => Some(Self::Replaced(deleted, NetRow::Logged(at))),
            (Self::Replaced(deleted, row), RowOp::Update) => {
                Some(Self::Replaced(deleted, row.written_over(change, log)))
            }
            (Self::Replaced(deleted, _), RowOp::Delete) => Some(Self::Deleted(deleted)),
            (Self::Nothing, RowOp::Insert) => Some(Self::Inserted(NetRow::Logged(at))),
            // A row that is there cannot come; one that is not there cannot change or go.
            (Self::Inserted(_) | Self::Updated(..) | Self::Replaced(..), RowOp::Insert)
            | (Self::Deleted(_) | Self::Nothing, RowOp::Update | RowOp::Delete) => None,
        }
    }
}

impl NetRow {
    /// A new row after an update of it. An insert's values stand in the order of the columns.
    fn written_over(self, update: &BoundChange, log: &[Logged]) -> Self {
        let written = &update.key.written;
        let mut values = match self {
            Self::Merged(values) => values,
            Self::Logged(_) => self.values(log).to_vec(),
        };
        for (index, value) in written.iter().zip(&update.values) {
            if let Some(place) = values.get_mut(usize::from(*index)) {
                *place = value.clone();
            }
        }
        Self::Merged(values)
    }
}

fn writes_all_of(later: &Arc<StatementKey>, earlier: &Arc<StatementKey>) -> bool {
    Arc::ptr_eq(later, earlier)
        || earlier.written.iter().all(|index| later.written.binary_search(index).is_ok())
}

/// The columns that either of two updates writes, and their values: the later one's where both do.
fn united(written: &[u16], values: &[BindValue], later: &BoundChange) -> (Vec<u16>, Vec<BindValue>) {
    let mut both: Vec<(u16, &BindValue)> = later.key.written.iter().copied().zip(&later.values).collect();
    let only_earlier = written
        .iter()
        .copied()
        .zip(values)
        .filter(|(index, _)| later.key.written.binary_search(index).is_err());
    both.extend(only_earlier);
    both.sort_by_key(|(index, _)| *index);
    let find = later.values.iter().skip(later.key.written.len());
    (
        both.iter().map(|(index, _)| *index).collect(),
        both.iter().map(|(_, value)| *value).chain(find).cloned().collect(),
    )
}

/// The values of a change that tell its row from others, as they were sent.
#[derive(Clone, Copy)]
struct RowKey<'a> {
    change: &'a BoundChange,
    positions: &'a [u16],
}

impl<'a> RowKey<'a> {
    fn values(self) -> impl Iterator<Item = &'a BindValue> {
        let values = &self.change.values;
        let is_insert = self.change.key.op == RowOp::Insert;
        let first = values.len().saturating_sub(self.positions.len());
        (first..)
            .zip(self.positions)
            .filter_map(move |(last, index)| values.get(if is_insert { usize::from(*index) } else { last }))
    }
}

impl PartialEq for RowKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.values().eq(other.values())
    }
}

impl Eq for RowKey<'_> {}

impl Hash for RowKey<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values().for_each(|value| value.hash(state));
    }
}

/// The order in which the rows of a set are best visited, because neighbours in it are neighbours in an index too.
struct SortKey<'a> {
    /// What decides nearly always.
    first: u64,
    key: RowKey<'a>,
    table: &'a BoundTable,
}

impl<'a> SortKey<'a> {
    fn new(table: &'a BoundTable, key: RowKey<'a>) -> Self {
        let bytes = key.values().next().map_or(&[][..], BindValue::bytes);
        let mut first = [0; 8];
        let room = if table.key_sorts_by_length(0) {
            first[0] = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            &mut first[1..]
        } else {
            &mut first[..]
        };
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self { first: u64::from_be_bytes(first), key, table }
    }
}

impl Ord for SortKey<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.first.cmp(&other.first).then_with(|| {
            let pairs = self.key.values().zip(other.key.values()).enumerate();
            pairs.fold(std::cmp::Ordering::Equal, |so_far, (place, (a, b))| {
                so_far.then_with(|| {
                    let (a, b) = (a.bytes(), b.bytes());
                    if self.table.key_sorts_by_length(place) {
                        (a.len(), a).cmp(&(b.len(), b))
                    } else {
                        a.cmp(b)
                    }
                })
            })
        })
    }
}

impl PartialOrd for SortKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SortKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SortKey<'_> {}
