//! How each table is cut: a table that is small enough, or whose key cannot be ranged over, is one chunk; a large one that is
//! stored in the order of its key is cut into ranges of it. Pure: sizes and sampled keys come in, chunks go out.

use super::board::RangedBy;
use super::key::{Key, KeyRange};
use crate::model::{Oid, TableName};

/// Chunks a table is cut into at most: each costs a snapshot and a record (INV-11). Larger tables get larger chunks.
pub(super) const CHUNKS_PER_TABLE_MAX: u64 = 4096;
/// Keys sampled for each chunk that is wanted: enough to cut evenly, and to see whether rows are stored in order.
pub(super) const SAMPLES_PER_CHUNK: u64 = 8;
/// How far samples may be from where their key's order would have them, as a share of what it is in no order at all.
const DISORDER_MAX: f64 = 0.25;

/// A table of the plan, with all of its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTable {
    /// `pg_class.oid` on the source.
    pub oid: Oid,
    /// Its name when the plan was made: that of the target's table.
    pub name: TableName,
    /// The column by whose ranges it is cut; `None` for one chunk.
    pub ranged_by: Option<RangedBy>,
    /// Chunks in the order of their keys; they cover every key.
    pub ranges: Vec<KeyRange>,
}

/// How many chunks a table of this size should have.
#[must_use]
pub(super) fn chunks_wanted(table_bytes: u64, chunk_bytes: u64) -> u64 {
    table_bytes.div_ceil(chunk_bytes.max(1)).clamp(1, CHUNKS_PER_TABLE_MAX)
}

/// Ranges that hold about as many of the sampled keys each, `wanted` of them or fewer; one range if the table, whose samples
/// these are in the order in which they are stored, is not stored in the order of its key: reading it by ranges would
/// read most of its pages again and again.
#[must_use]
pub(super) fn cut(samples: &[Key], wanted: u64) -> Vec<KeyRange> {
    if wanted < 2 || disorder(samples) > DISORDER_MAX {
        return vec![KeyRange::ALL];
    }
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let (count, wanted) = (sorted.len(), usize::try_from(wanted).unwrap_or(usize::MAX));
    let mut bounds: Vec<Key> =
        (1..wanted).filter_map(|index| sorted.get(index.saturating_mul(count) / wanted).copied()).collect();
    bounds.dedup();
    // A bound at the least key would leave nothing before it.
    bounds.retain(|bound| Some(bound) != sorted.first());
    let firsts = std::iter::once(None).chain(bounds.iter().copied().map(Some));
    let ends = bounds.iter().copied().map(Some).chain(std::iter::once(None));
    firsts.zip(ends).map(|(first, end)| KeyRange { first, end }).collect()
}

/// 0 for samples in order, ascending or descending; about 1 for none: Spearman's footrule, as a share of its mean for a
/// random order.
fn disorder(samples: &[Key]) -> f64 {
    let count = samples.len();
    if count < 2 {
        return 1.0;
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|index| samples[*index]);
    let away = |reversed: &dyn Fn(usize) -> usize| -> f64 {
        order.iter().enumerate().map(|(rank, index)| reversed(rank).abs_diff(*index) as f64).sum()
    };
    let least = away(&|rank| rank).min(away(&|rank| count - 1 - rank));
    let random = (count * count - 1) as f64 / 3.0;
    least / random
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(values: impl IntoIterator<Item = i64>) -> Vec<Key> {
        values.into_iter().map(Key::Integer).collect()
    }

    #[test]
    fn a_table_in_the_order_of_its_key_is_cut_evenly() {
        let ranges = cut(&keys(0..800), 4);
        let bounds: Vec<_> = ranges.iter().map(|range| range.first).collect();
        let bound = |value| Some(Key::Integer(value));
        assert_eq!(bounds, [None, bound(200), bound(400), bound(600)]);
        assert_eq!(cut(&keys((0..800).rev()), 4).len(), 4, "stored backwards");
    }

    #[test]
    fn a_table_in_no_order_of_its_key_is_one_chunk() {
        let scattered = keys((0..800).map(|index| (index * 7919) % 800));
        assert_eq!(cut(&scattered, 4), [KeyRange::ALL]);
        assert_eq!(cut(&[], 4), [KeyRange::ALL]);
        assert_eq!(cut(&keys(0..800), 1), [KeyRange::ALL]);
        assert_eq!(cut(&keys([5; 800]), 4), [KeyRange::ALL], "one key");
    }

    #[test]
    fn some_rows_elsewhere_do_not_make_a_disorder() {
        let moved = keys((0..800).map(|index| if index % 20 == 0 { 800 - index } else { index }));
        assert!(cut(&moved, 4).len() > 1);
    }

    #[test]
    fn larger_tables_get_more_chunks_up_to_a_bound() {
        let wanted: Vec<u64> =
            [0, 1, 100, 101, 250, u64::MAX].iter().map(|bytes| chunks_wanted(*bytes, 100)).collect();
        assert_eq!(wanted, [1, 1, 1, 2, 3, CHUNKS_PER_TABLE_MAX]);
    }

    proptest! {
        #[test]
        fn every_key_is_in_exactly_one_chunk(
            mut samples in proptest::collection::vec(-50_i64..50, 0..200),
            wanted in 0_u64..40,
            key in -60_i64..60,
        ) {
            samples.sort_unstable();
            let ranges = cut(&keys(samples), wanted);
            let holding = ranges.iter().filter(|range| range.contains(Key::Integer(key))).count();
            prop_assert_eq!(holding, 1);
            prop_assert!(ranges.len() as u64 <= wanted.max(1));
        }
    }
}
