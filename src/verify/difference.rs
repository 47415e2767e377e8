//! What two sets of rows differ by, decided from the hashes of keys and rows alone. Order plays no part, and a row that is there several
//! times counts several times. Pure.

use std::collections::HashMap;

/// 128 bits, in two halves as the servers give them.
pub type Hash = (i64, i64);

/// What a server adds up over rows: it is the same whatever their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, std::hash::Hash)]
pub struct Sums {
    /// How many rows.
    pub rows: u64,
    /// Sum of the first halves, as the server prints a `numeric`.
    pub first: String,
    /// Sum of the second halves.
    pub second: String,
}

/// A row as a server tells it: what tells it from others, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Hash of its key; of a row without key that of all of it.
    pub key: Hash,
    /// Hash of all of it.
    pub row: Hash,
    /// How often it is there; 1 with a key.
    pub count: u64,
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DifferenceKind {
    /// The source has it, the target does not.
    Missing,
    /// The target has it, the source does not.
    Extra,
    /// Both have a row of this key, and they are not the same.
    Differs,
}

impl DifferenceKind {
    /// The name in the API and the records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Differs => "differs",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Missing, Self::Extra, Self::Differs].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A row that is not the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Differing {
    /// Hash of its key.
    pub key: Hash,
    /// How.
    pub kind: DifferenceKind,
    /// How many such rows.
    pub count: u64,
}

/// The rows that are not the same on both sides, ordered by the hash of their key.
#[must_use]
pub fn differing(source: &[Entry], target: &[Entry]) -> Vec<Differing> {
    // By key: what is left of each side's rows once equal ones are taken away.
    let mut left: HashMap<Hash, HashMap<Hash, i128>> = HashMap::with_capacity(source.len());
    let mut add = |entries: &[Entry], sign: i128| {
        for entry in entries {
            let rows = left.entry(entry.key).or_default();
            let count = rows.entry(entry.row).or_default();
            *count += sign * i128::from(entry.count);
            if *count == 0 {
                rows.remove(&entry.row);
                if rows.is_empty() {
                    left.remove(&entry.key);
                }
            }
        }
    };
    add(source, 1);
    add(target, -1);
    let mut found: Vec<Differing> = left
        .into_iter()
        .flat_map(|(key, rows)| {
            let only_source: i128 = rows.values().filter(|count| **count > 0).sum();
            let only_target: i128 = -rows.values().filter(|count| **count < 0).sum::<i128>();
            let both = only_source.min(only_target);
            let of_kind = |kind, count: i128| {
                u64::try_from(count).ok().filter(|count| *count > 0).map(|count| Differing {
                    key,
                    kind,
                    count,
                })
            };
            [
                of_kind(DifferenceKind::Differs, both),
                of_kind(DifferenceKind::Missing, only_source - both),
                of_kind(DifferenceKind::Extra, only_target - both),
            ]
        })
        .flatten()
        .collect();
    found.sort_unstable();
    found
}

/// Into how many parts, a power of two, rows are divided by their keys' hash so that one part has about `rows_max`.
#[must_use]
pub fn parts(rows: u64, rows_max: u64, parts_max: u64) -> u64 {
    rows.div_ceil(rows_max.max(1)).max(1).next_power_of_two().min(parts_max.max(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(key: i64, row: i64) -> Entry {
        Entry { key: (key, 0), row: (row, 0), count: 1 }
    }

    #[test]
    fn a_row_is_missing_extra_or_differs() {
        let source = [entry(1, 10), entry(2, 20), entry(3, 30)];
        let target = [entry(4, 40), entry(3, 31), entry(1, 10)];
        let of = |key, kind| Differing { key: (key, 0), kind, count: 1 };
        assert_eq!(
            differing(&source, &target),
            [of(2, DifferenceKind::Missing), of(3, DifferenceKind::Differs), of(4, DifferenceKind::Extra)]
        );
    }

    #[test]
    fn equal_rows_without_a_key_are_counted() {
        let rows = |count| Entry { key: (7, 7), row: (7, 7), count };
        let missing = Differing { key: (7, 7), kind: DifferenceKind::Missing, count: 2 };
        assert_eq!(differing(&[rows(5)], &[rows(3)]), [missing]);
        assert_eq!(differing(&[rows(1), rows(2)], &[rows(3)]), []);
    }

    #[test]
    fn parts_are_a_power_of_two_within_bounds() {
        assert_eq!((parts(0, 100, 64), parts(100, 100, 64), parts(101, 100, 64)), (1, 1, 2));
        assert_eq!((parts(700, 100, 64), parts(1 << 40, 100, 64)), (8, 64));
    }

    /// What the rows of a table are: contents by key.
    fn table() -> impl Strategy<Value = BTreeMap<i64, i64>> {
        proptest::collection::btree_map(0_i64..40, 0_i64..4, 0..40)
    }

    proptest! {
        /// Against the plain definition, for tables with a key.
        #[test]
        fn every_key_is_judged_by_what_both_sides_hold(source in table(), target in table(), shuffle: u64) {
            let entries = |table: &BTreeMap<i64, i64>| -> Vec<Entry> {
                let mut entries: Vec<Entry> = table.iter().map(|(key, row)| entry(*key, *row)).collect();
                let length = entries.len().max(1);
                entries.rotate_left(usize::try_from(shuffle % length as u64).unwrap());
                entries
            };
            let found = differing(&entries(&source), &entries(&target));
            for key in 0..40 {
                let kind = match (source.get(&key), target.get(&key)) {
                    (Some(row), Some(other)) if row != other => Some(DifferenceKind::Differs),
                    (Some(_), None) => Some(DifferenceKind::Missing),
                    (None, Some(_)) => Some(DifferenceKind::Extra),
                    _ => None,
                };
                let told: Vec<_> = found.iter().filter(|each| each.key == (key, 0)).map(|each| each.kind).collect();
                prop_assert_eq!(told, Vec::from_iter(kind));
            }
        }

        /// Without a key, rows are a multiset: both differences together have its size.
        #[test]
        fn multisets_differ_by_what_one_has_more(
            source in proptest::collection::vec(0_i64..6, 0..30),
            target in proptest::collection::vec(0_i64..6, 0..30),
        ) {
            let entries = |rows: &[i64]| rows.iter().map(|row| entry(*row, *row)).collect::<Vec<_>>();
            let found = differing(&entries(&source), &entries(&target));
            for row in 0..6 {
                let count = |rows: &[i64]| rows.iter().filter(|each| **each == row).count() as u64;
                let of = |kind| found.iter().filter(|each| each.key == (row, 0) && each.kind == kind).map(|each| each.count).sum::<u64>();
                prop_assert_eq!(of(DifferenceKind::Missing), count(&source).saturating_sub(count(&target)));
                prop_assert_eq!(of(DifferenceKind::Extra), count(&target).saturating_sub(count(&source)));
                prop_assert_eq!(of(DifferenceKind::Differs), 0);
            }
        }
    }
}
