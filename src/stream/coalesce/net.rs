//! What became of each row that a part of the log is about, one change after the other, and the sets that bring the table
//! there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::stream::statement::{BindValue, BoundChange, BoundTable, RowOp, StatementKey, Values};

use super::row_key::{RowKey, SortKey};
use super::{Logged, NetRow, Segments};

/// What became of the rows that a part of the log is about.
pub(super) struct Part<'a> {
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
    pub(super) fn new(table: &'a BoundTable, log: &'a [Logged]) -> Self {
        Self { table, log, places: HashMap::new(), rows: Vec::new() }
    }

    /// Takes the change at this place of the log; `None` if it cannot follow those before it.
    pub(super) fn take(&mut self, at: usize, logged: &'a Logged) -> Option<()> {
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
    pub(super) fn into_sets(self, segments: &mut Segments) {
        let (mut deletes, mut updates, mut inserts) =
            (Group::default(), Updates::default(), Group::default());
        for (row_key, net) in self.rows {
            match net {
                Net::Inserted(row) => inserts.push((row_key, row)),
                Net::Updated(key, row) => updates.push(key, row_key, row),
                Net::Deleted(at) => deletes.push((row_key, NetRow::Logged(at))),
                Net::Replaced(_, row) if self.table.can_replace_in_place() => {
                    let values: Vec<_> = row.values(self.log).iter().chain(row_key.values()).collect();
                    let row = NetRow::Merged(Values::new(&values));
                    updates.push(self.table.usual_update(), row_key, row);
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
        let mut values: Vec<_> = self.values(log).iter().collect();
        for (index, value) in written.iter().zip(update.values.iter()) {
            if let Some(place) = values.get_mut(usize::from(*index)) {
                *place = value;
            }
        }
        Self::Merged(Values::new(&values))
    }
}

fn writes_all_of(later: &Arc<StatementKey>, earlier: &Arc<StatementKey>) -> bool {
    Arc::ptr_eq(later, earlier)
        || earlier.written.iter().all(|index| later.written.binary_search(index).is_ok())
}

/// The columns that either of two updates writes, and their values: the later one's where both do.
fn united(written: &[u16], values: &Values, later: &BoundChange) -> (Vec<u16>, Values) {
    let mut both: Vec<(u16, BindValue<'_>)> =
        later.key.written.iter().copied().zip(later.values.iter()).collect();
    let only_earlier = written
        .iter()
        .copied()
        .zip(values.iter())
        .filter(|(index, _)| later.key.written.binary_search(index).is_err());
    both.extend(only_earlier);
    both.sort_by_key(|(index, _)| *index);
    let find = later.values.iter().skip(later.key.written.len());
    let values: Vec<_> = both.iter().map(|(_, value)| *value).chain(find).collect();
    (both.iter().map(|(index, _)| *index).collect(), Values::new(&values))
}
