//! What became of each row that a part of the log is about, one change after the other, and the sets that bring the table
//! there. Rows are known by places in the log: there may be as many of them as changes, and little is kept of each.

use std::cmp::Ordering;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::stream::statement::{BindValue, BoundChange, BoundTable, RowOp, StatementKey, Values};

use super::row_key::{RowKey, SortKey};
use super::{Logged, NetRow, Segments};

/// The sets that bring the table to where a part of the log leaves it, each sorted by key.
pub(super) struct Sets {
    deletes: Vec<NetRow>,
    updates: Vec<(Arc<StatementKey>, Vec<NetRow>)>,
    inserts: Vec<NetRow>,
}

impl Sets {
    /// The sets of a part of the log; `None` if it contradicts itself.
    pub(super) fn of(table: &BoundTable, log: &[Logged], part: Range<usize>) -> Option<Self> {
        match new_rows(table, log, part.clone()) {
            Some(inserts) => Some(Self { deletes: Vec::new(), updates: Vec::new(), inserts }),
            None => Part::of(table, log, part).map(Part::into_sets),
        }
    }

    /// Deletes first, which make room for others, then updates, then inserts.
    pub(super) fn into_segments(self, table: &BoundTable, log: &[Logged], segments: &mut Segments) {
        segments.set(&table.usual_delete(), self.deletes, log);
        for (key, rows) in self.updates {
            segments.set(&key, rows, log);
        }
        segments.set(&table.usual_insert(), self.inserts, log);
    }
}

/// What became of the rows that a part of the log is about.
struct Part<'a> {
    table: &'a BoundTable,
    log: &'a [Logged],
    hasher: DefaultHashBuilder,
    /// Places in `rows`, by key.
    places: HashTable<u32>,
    rows: Vec<Row>,
}

/// A row, and what became of it.
struct Row {
    /// A change of the log that has its key.
    at: u32,
    net: Net,
}

/// What became of a row.
enum Net {
    /// It is new.
    Inserted(NetRow),
    /// It was there and has changed.
    Updated(NetRow),
    /// It was there and is gone; the change that deleted it.
    Deleted(u32),
    /// It was there, was deleted by this change, and another with its key is there.
    Replaced(u32, NetRow),
    /// It came and went.
    Nothing,
}

/// The rows of a part of the log that holds nothing but inserts: they are what there is to do. `None` if it holds something
/// else, or if two of them may have the same key.
fn new_rows(table: &BoundTable, log: &[Logged], part: Range<usize>) -> Option<Vec<NetRow>> {
    let changes = log.get(part.clone())?;
    if changes.iter().any(|logged| logged.change.key.op != RowOp::Insert) {
        return None;
    }
    let mut inserts = Group(Vec::with_capacity(changes.len()));
    for at in part {
        let at = u32::try_from(at).ok()?;
        inserts.push(table, log, at, NetRow::Logged(at));
    }
    inserts.sort(table, log);
    (!inserts.has_alike(table, log)).then(|| inserts.into_rows())
}

impl<'a> Part<'a> {
    /// What became of the rows of a part of the log; `None` if it contradicts itself.
    fn of(table: &'a BoundTable, log: &'a [Logged], part: Range<usize>) -> Option<Self> {
        let (hasher, places) = (DefaultHashBuilder::default(), HashTable::with_capacity(part.len()));
        let mut all = Self { table, log, hasher, places, rows: Vec::new() };
        for at in part {
            all.take(at, log.get(at)?)?;
        }
        Some(all)
    }

    /// Takes the change at this place of the log; `None` if it cannot follow those before it.
    fn take(&mut self, at: usize, logged: &Logged) -> Option<()> {
        let (Self { table, log, hasher, places, rows }, at) = (self, u32::try_from(at).ok()?);
        let key_of = |place: &u32| row_key(table, log, rows[*place as usize].at);
        let key = row_key(table, log, at);
        let hash = hasher.hash_one(key);
        if let Some(place) = places.find(hash, |place| key_of(place) == key) {
            let net = &mut rows[*place as usize].net;
            let before = std::mem::replace(net, Net::Nothing);
            *net = before.then(at, &logged.change, table, log)?;
        } else {
            places
                .insert_unique(hash, u32::try_from(rows.len()).ok()?, |place| hasher.hash_one(key_of(place)));
            rows.push(Row { at, net: Net::of(at, &logged.change) });
        }
        Some(())
    }

    fn into_sets(self) -> Sets {
        let Self { table, log, places, rows, .. } = self;
        drop(places);
        let (mut deletes, mut updates, mut inserts) =
            (Group::default(), Updates::default(), Group::default());
        for Row { at, net } in rows {
            let push = |group: &mut Group, net| group.push(table, log, at, net);
            match net {
                Net::Inserted(row) => push(&mut inserts, row),
                Net::Updated(row) => push(updates.group(row.key(log)), row),
                Net::Deleted(deleted) => push(&mut deletes, NetRow::Logged(deleted)),
                Net::Replaced(_, row) if table.can_replace_in_place() => {
                    let found_by = row_key(table, log, at).values();
                    let values: Vec<_> = row.values(log).iter().chain(found_by).collect();
                    let row = NetRow::merged(table.usual_update(), &values);
                    push(updates.group(row.key(log)), row);
                }
                Net::Replaced(deleted, row) => {
                    push(&mut deletes, NetRow::Logged(deleted));
                    push(&mut inserts, row);
                }
                Net::Nothing => {}
            }
        }
        let updates = updates.groups.into_iter().map(|(key, rows)| (key, rows.sorted(table, log)));
        Sets {
            deletes: deletes.sorted(table, log),
            updates: updates.collect(),
            inserts: inserts.sorted(table, log),
        }
    }
}

fn row_key<'a>(table: &'a BoundTable, log: &'a [Logged], at: u32) -> RowKey<'a> {
    RowKey { change: &log[at as usize].change, positions: table.key() }
}

/// Rows of one set.
#[derive(Default)]
struct Group(Vec<Placed>);

/// A row, with what mostly decides its order and a change that has its key.
struct Placed {
    first: u64,
    at: u32,
    row: NetRow,
}

impl Group {
    fn push(&mut self, table: &BoundTable, log: &[Logged], at: u32, row: NetRow) {
        let first = SortKey { key: row_key(table, log, at), table }.first();
        self.0.push(Placed { first, at, row });
    }

    fn sort(&mut self, table: &BoundTable, log: &[Logged]) {
        self.0.sort_unstable_by(|a, b| order(a, b, table, log));
    }

    /// Whether two rows, sorted, have the same place in the order: rows with equal keys do, and are neighbours.
    fn has_alike(&self, table: &BoundTable, log: &[Logged]) -> bool {
        self.0.windows(2).any(|pair| matches!(pair, [a, b] if order(a, b, table, log).is_eq()))
    }

    fn into_rows(self) -> Vec<NetRow> {
        self.0.into_iter().map(|placed| placed.row).collect()
    }

    fn sorted(mut self, table: &BoundTable, log: &[Logged]) -> Vec<NetRow> {
        self.sort(table, log);
        self.into_rows()
    }
}

fn order(a: &Placed, b: &Placed, table: &BoundTable, log: &[Logged]) -> Ordering {
    let key = |row: &Placed| SortKey { key: row_key(table, log, row.at), table };
    a.first.cmp(&b.first).then_with(|| key(a).cmp(key(b)))
}

/// Updates, by the columns they write: few kinds.
#[derive(Default)]
struct Updates {
    groups: Vec<(Arc<StatementKey>, Group)>,
    last: usize,
}

impl Updates {
    fn group(&mut self, key: &Arc<StatementKey>) -> &mut Group {
        let is_it = |(known, _): &(Arc<StatementKey>, Group)| Arc::ptr_eq(known, key) || known == key;
        if !self.groups.get(self.last).is_some_and(is_it) {
            self.last = self.groups.iter().position(is_it).unwrap_or(self.groups.len());
        }
        if self.last == self.groups.len() {
            self.groups.push((Arc::clone(key), Group::default()));
        }
        &mut self.groups[self.last].1
    }
}

impl Net {
    fn of(at: u32, change: &BoundChange) -> Self {
        match change.key.op {
            RowOp::Insert => Self::Inserted(NetRow::Logged(at)),
            RowOp::Update => Self::Updated(NetRow::Logged(at)),
            RowOp::Delete => Self::Deleted(at),
        }
    }

    /// What it is after one more change; `None` if that change is impossible after what there was.
    fn then(self, at: u32, change: &BoundChange, table: &BoundTable, log: &[Logged]) -> Option<Self> {
        match (self, change.key.op) {
            (Self::Inserted(row), RowOp::Update) => {
                Some(Self::Inserted(row.written_over(change, table, log)))
            }
            (Self::Inserted(_), RowOp::Delete) => Some(Self::Nothing),
            (Self::Updated(row), RowOp::Update) => Some(Self::Updated(row.and_then(at, change, table, log))),
            (Self::Updated(_), RowOp::Delete) => Some(Self::Deleted(at)),
            (Self::Deleted(deleted), RowOp::Insert) => Some(Self::Replaced(deleted, NetRow::Logged(at))),
            (Self::Replaced(deleted, row), RowOp::Update) => {
                Some(Self::Replaced(deleted, row.written_over(change, table, log)))
            }
            (Self::Replaced(deleted, _), RowOp::Delete) => Some(Self::Deleted(deleted)),
            (Self::Nothing, RowOp::Insert) => Some(Self::Inserted(NetRow::Logged(at))),
            // A row that is there cannot come; one that is not there cannot change or go.
            (Self::Inserted(_) | Self::Updated(_) | Self::Replaced(..), RowOp::Insert)
            | (Self::Deleted(_) | Self::Nothing, RowOp::Update | RowOp::Delete) => None,
        }
    }
}

impl NetRow {
    /// A new row after an update of it. An insert's values stand in the order of the columns.
    fn written_over(self, update: &BoundChange, table: &BoundTable, log: &[Logged]) -> Self {
        let mut values: Vec<_> = self.values(log).iter().collect();
        for (index, value) in update.key.written.iter().zip(update.values.iter()) {
            if let Some(place) = values.get_mut(usize::from(*index)) {
                *place = value;
            }
        }
        Self::merged(table.usual_insert(), &values)
    }

    /// An update after another one, the later one at this place of the log.
    fn and_then(self, at: u32, later: &BoundChange, table: &BoundTable, log: &[Logged]) -> Self {
        let key = self.key(log);
        if writes_all_of(&later.key, key) {
            return Self::Logged(at);
        }
        let (written, values) = united(&key.written, self.values(log), later);
        Self::merged(table.update_key(written), &values)
    }
}

fn writes_all_of(later: &Arc<StatementKey>, earlier: &Arc<StatementKey>) -> bool {
    Arc::ptr_eq(later, earlier)
        || earlier.written.iter().all(|index| later.written.binary_search(index).is_ok())
}

/// The columns that either of two updates writes, and their values: the later one's where both do.
fn united<'a>(written: &[u16], values: &'a Values, later: &'a BoundChange) -> (Vec<u16>, Vec<BindValue<'a>>) {
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
    let (written, values): (Vec<_>, Vec<_>) = both.into_iter().unzip();
    (written, values.into_iter().chain(find).collect())
}
