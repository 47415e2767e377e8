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

    const fn kind(self) -> u8 {
        match self {
            Self::Null => b'n',
            Self::Text(_) => b't',
            Self::Binary(_) => b'b',
        }
    }
}

impl Values {
    /// Packs values.
    #[must_use]
    pub(in crate::stream) fn new(values: &[BindValue<'_>]) -> Self {
        let size: usize = values.iter().map(|value| value.bytes().len()).sum();
        let mut packed = Vec::with_capacity(values.len() * HEAD_BYTES + size);
        let mut end: u32 = 0;
        for value in values {
            let sum = u32::try_from(value.bytes().len()).ok().and_then(|len| end.checked_add(len));
            end = sum.expect("the values of a row take less than 4 GiB");
            packed.push(value.kind());
            packed.extend_from_slice(&end.to_le_bytes());
        }
        values.iter().for_each(|value| packed.extend_from_slice(value.bytes()));
        Self { packed: packed.into_boxed_slice(), count: u32::try_from(values.len()).unwrap_or(u32::MAX) }
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
        let (kind, end) = self.head(place)?;
        if kind == b'n' {
            return Some(BindValue::Null);
        }
        let begin = place.checked_sub(1).and_then(|before| self.head(before)).map_or(0, |(_, end)| end);
        let bytes = self.packed.get(self.count() * HEAD_BYTES..)?.get(begin..end)?;
        Some(if kind == b't' { BindValue::Text(bytes) } else { BindValue::Binary(bytes) })
    }

    /// All of them.
    pub(in crate::stream) fn iter(&self) -> impl ExactSizeIterator<Item = BindValue<'_>> + Clone {
        (0..self.count()).map(|place| self.get(place).expect("every place below the count has a value"))
    }

    fn head(&self, place: usize) -> Option<(u8, usize)> {
        if place >= self.count() {
            return None;
        }
        let (kind, end) = self.packed.get(place * HEAD_BYTES..)?.split_first()?;
        let end = u32::from_le_bytes(*end.first_chunk()?);
        Some((*kind, usize::try_from(end).ok()?))
    }
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
