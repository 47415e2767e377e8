//! The values of a change, as the source sent them, packed into one piece of memory: a backlog is gathered in millions of
//! them, and whatever they were read from is not kept alive.

use std::hash::Hash;

/// A value as it is bound to a statement: as the source sent it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::stream) enum BindValue<'a> {
    /// SQL NULL.
    Null,
    /// In text format.
    Text(&'a [u8]),
    /// In binary format.
    Binary(&'a [u8]),
}

/// Several values in their order.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::stream) struct Values {
    /// For each value its kind and where it ends ([`HEAD_BYTES`]), then the bytes of all of them.
    packed: Box<[u8]>,
    count: u32,
}

/// A byte for the kind, four for the end, counted from the first value's first byte. The values of a batch are of messages that
/// are not larger than 1.1 GiB each, and a second one that large is in another batch.
const HEAD_BYTES: usize = 5;

impl<'a> BindValue<'a> {
    /// Its bytes; none for NULL.
    #[must_use]
    pub(in crate::stream) const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Null => &[],
            Self::Text(bytes) | Self::Binary(bytes) => bytes,
        }
    }

    const fn of(kind: u8, bytes: &'a [u8]) -> Self {
        match kind {
            b'n' => Self::Null,
            b't' => Self::Text(bytes),
            _ => Self::Binary(bytes),
        }
    }

    const fn kind(self) -> u8 {
        match self {
            Self::Null => b'n',
            Self::Text(_) => b't',
            Self::Binary(_) => b'b',
        }
    }
}

/// Packs values one by one.
pub(in crate::stream) struct Packing {
    packed: Vec<u8>,
    count: usize,
    /// For so many values there are heads, used or not.
    heads: usize,
}

impl Packing {
    /// Room for so many values, of so many bytes together: cheapest if that is right.
    #[must_use]
    pub(in crate::stream) fn new(heads: usize, bytes: usize) -> Self {
        let mut packed = Vec::with_capacity(heads * HEAD_BYTES + bytes);
        packed.resize(heads * HEAD_BYTES, 0);
        Self { packed, count: 0, heads }
    }

    /// Adds a value.
    pub(in crate::stream) fn push(&mut self, value: BindValue<'_>) {
        let begin = self.count * HEAD_BYTES;
        if self.count == self.heads {
            self.packed.splice(begin..begin, [0; HEAD_BYTES]);
            self.heads += 1;
        }
        self.packed.extend_from_slice(value.bytes());
        let end = u32::try_from(self.packed.len() - self.heads * HEAD_BYTES);
        let end = end.expect("the values of a row take less than 4 GiB");
        if let Some([kind, place @ ..]) = self.packed.get_mut(begin..begin + HEAD_BYTES) {
            *kind = value.kind();
            place.copy_from_slice(&end.to_le_bytes());
        }
        self.count += 1;
    }

    /// The values.
    #[must_use]
    pub(in crate::stream) fn done(mut self) -> Values {
        self.packed.drain(self.count * HEAD_BYTES..self.heads * HEAD_BYTES);
        Values {
            packed: self.packed.into_boxed_slice(),
            count: u32::try_from(self.count).unwrap_or(u32::MAX),
        }
    }
}

impl Values {
    /// Packs values.
    #[must_use]
    pub(in crate::stream) fn new(values: &[BindValue<'_>]) -> Self {
        let bytes = values.iter().map(|value| value.bytes().len()).sum();
        let mut packing = Packing::new(values.len(), bytes);
        values.iter().for_each(|value| packing.push(*value));
        packing.done()
    }

    /// How many.
    #[must_use]
    pub(in crate::stream) const fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes in memory.
    #[must_use]
    pub(in crate::stream) const fn size(&self) -> usize {
        self.packed.len()
    }

    /// The value at this place.
    #[must_use]
    pub(in crate::stream) fn get(&self, place: usize) -> Option<BindValue<'_>> {
        let (heads, bytes) = self.parts();
        let (kind, end) = read_head(heads.get(place)?);
        let begin =
            place.checked_sub(1).and_then(|before| heads.get(before)).map_or(0, |head| read_head(head).1);
        Some(BindValue::of(kind, bytes.get(begin..end)?))
    }

    /// All of them.
    pub(in crate::stream) fn iter(&self) -> impl ExactSizeIterator<Item = BindValue<'_>> + Clone {
        let (heads, bytes) = self.parts();
        let mut begin = 0;
        heads.iter().map(move |head| {
            let (kind, end) = read_head(head);
            let bytes = bytes.get(begin..end).expect("every head has its bytes");
            begin = end;
            BindValue::of(kind, bytes)
        })
    }

    /// The heads, and the bytes behind them.
    fn parts(&self) -> (&[[u8; HEAD_BYTES]], &[u8]) {
        let (heads, bytes) = self.packed.split_at(self.count() * HEAD_BYTES);
        (heads.as_chunks().0, bytes)
    }
}

/// A value's kind and where it ends.
fn read_head([kind, end @ ..]: &[u8; HEAD_BYTES]) -> (u8, usize) {
    (*kind, u32::from_le_bytes(*end) as usize)
}

/// Prints the kind only: row values never reach a log (INV-10).
impl std::fmt::Debug for BindValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Text(_) => "Text(..)",
            Self::Binary(_) => "Binary(..)",
        })
    }
}

/// As [`BindValue`] does.
impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        let values =
            [BindValue::Text(b"one"), BindValue::Null, BindValue::Binary(b""), BindValue::Text(b"\0\xff")];
        let packed = Values::new(&values);
        assert_eq!(packed.iter().collect::<Vec<_>>(), values);
        assert_eq!((packed.count(), packed.get(4)), (4, None));
        assert_eq!(Values::new(&[]).iter().len(), 0);
    }

    #[test]
    fn as_many_values_are_packed_as_come_whatever_room_there_was() {
        let values = [BindValue::Text(b"one"), BindValue::Null, BindValue::Text(b"two")];
        for room in 0..6 {
            let mut packing = Packing::new(room, room);
            values.iter().for_each(|value| packing.push(*value));
            assert_eq!(packing.done(), Values::new(&values));
        }
    }

    #[test]
    fn values_are_equal_where_every_one_is() {
        let of = |values: &[BindValue<'_>]| Values::new(values);
        assert_ne!(of(&[BindValue::Null]), of(&[BindValue::Text(b"")]));
        assert_ne!(
            of(&[BindValue::Text(b"ab"), BindValue::Text(b"")]),
            of(&[BindValue::Text(b"a"), BindValue::Text(b"b")])
        );
        assert_ne!(of(&[BindValue::Text(b"a")]), of(&[BindValue::Binary(b"a")]));
        assert_eq!(of(&[BindValue::Text(b"a")]), of(&[BindValue::Text(b"a")]));
    }
}
