//! What tells one row from another in a log, and the order in which the rows of a set are visited.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use crate::stream::statement::{BindValue, BoundChange, BoundTable, RowOp};

/// The values of a change that tell its row from others, as they were sent.
#[derive(Clone, Copy)]
pub(super) struct RowKey<'a> {
    pub(super) change: &'a BoundChange,
    pub(super) positions: &'a [u16],
}

impl<'a> RowKey<'a> {
    pub(super) fn values(self) -> impl Iterator<Item = BindValue<'a>> {
        let values = &self.change.values;
        let is_insert = self.change.key.op == RowOp::Insert;
        let first = values.count().saturating_sub(self.positions.len());
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
pub(super) struct SortKey<'a> {
    pub(super) key: RowKey<'a>,
    pub(super) table: &'a BoundTable,
}

impl SortKey<'_> {
    /// What decides nearly always, and comes before [`Self::cmp`].
    pub(super) fn first(&self) -> u64 {
        let bytes = self.key.values().next().map_or(&[][..], BindValue::bytes);
        let mut first = [0; 8];
        let room = if self.table.key_sorts_by_length(0) {
            first[0] = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
            &mut first[1..]
        } else {
            &mut first[..]
        };
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u64::from_be_bytes(first)
    }

    /// Where the first says nothing.
    pub(super) fn cmp(&self, other: Self) -> Ordering {
        let pairs = self.key.values().zip(other.key.values()).enumerate();
        pairs.fold(Ordering::Equal, |so_far, (place, (a, b))| {
            so_far.then_with(|| {
                let (a, b) = (a.bytes(), b.bytes());
                if self.table.key_sorts_by_length(place) { (a.len(), a).cmp(&(b.len(), b)) } else { a.cmp(b) }
            })
        })
    }
}
