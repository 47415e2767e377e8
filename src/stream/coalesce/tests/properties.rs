//! Random histories of random tables: whatever coalescing makes of them leaves the rows that the history leaves.

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Row, Rows, equal_to};
use super::*;

/// Different keys; each can be written in two ways that are equal.
const KEYS: u8 = 6;

/// A history, from which numbers choose what happens next.
#[derive(Clone, Debug)]
struct History {
    table: TableUnderTest,
    /// Keys that are there at the start.
    present: Vec<u8>,
    steps: Vec<[u8; 4]>,
}

fn tables() -> impl Strategy<Value = TableUnderTest> {
    let key = prop_oneof![Just(vec![0]), Just(vec![1]), Just(vec![0, 1]), Just(vec![2, 0])];
    (key, 1_usize..=3, any::<bool>(), prop::option::weighted(0.2, 0_usize..4)).prop_map(
        |(key, others, has_extra_column, identity_always)| {
            let width = key.iter().max().map_or(0, |last| last + 1).max(key.len() + others);
            TableUnderTest { key, width, unique_on_target: true, has_extra_column, identity_always }
        },
    )
}

fn histories() -> impl Strategy<Value = History> {
    let steps = prop_oneof![vec(any::<[u8; 4]>(), 1..12), vec(any::<[u8; 4]>(), 8..40)];
    (tables(), vec(0..KEYS, 0..4), steps).prop_map(|(table, present, steps)| History {
        table,
        present,
        steps,
    })
}

/// A value of the key in one of its two ways to be written.
fn key_value(number: u8, way: u8) -> String {
    if way.is_multiple_of(2) { format!("k{number}") } else { format!("K{number}") }
}

struct Run {
    table: BoundTable,
    at_start: Rows,
    log: Vec<Logged>,
    at_end: Rows,
}

impl History {
    /// What the source did, valid change by valid change, and the rows it left.
    fn run(&self) -> Run {
        let table = self.table.bound();
        let mut rows = Rows::default();
        for key in &self.present {
            let values = self.values(*key, *key, 0).into_iter().map(Some).collect();
            // A key may be there twice in the list.
            let extra = if self.table.has_extra_column { "kept" } else { "" };
            let _ = rows.insert(&table, Row { values, extra });
        }
        let (at_start, mut log) = (rows.clone(), Vec::new());
        for (step, numbers) in self.steps.iter().enumerate() {
            let change = self.change(&rows, *numbers, step);
            let change = table.bind(&change).expect("it binds");
            if rows.clone().row(&table, &change.key, &change.values).is_err() {
                continue; // A new key that is taken.
            }
            rows.row(&table, &change.key, &change.values).expect("checked");
            log.push(Logged { change, commit_lsn: Lsn::new(step as u64) });
        }
        Run { table, at_start, log, at_end: rows }
    }

    fn change(&self, rows: &Rows, [what, key, way, sent]: [u8; 4], step: usize) -> RowChange {
        let values = self.values(key % KEYS, way, step);
        let found = equal_to(self.table.key.iter().map(|at| BindValue::Text(&values[*at])));
        let Some(row) = rows.0.get(&found) else { return RowChange::Insert { new: sent_as(&values) } };
        let old = || {
            let values =
                row.values.iter().map(|value| value.as_deref().map_or(TupleValue::Null, TupleValue::Text));
            OldTuple::Key(Tuple::new(values).expect("a row"))
        };
        match what % 8 {
            0 | 1 => RowChange::Delete { old: old() },
            2 => {
                // Another key, or the same in another way.
                let values = self.values(sent % KEYS, way / 2, step);
                RowChange::Update { old: Some(old()), new: sent_as(&values) }
            }
            _ => {
                let new = values.iter().enumerate().map(|(at, value)| {
                    if self.table.key.contains(&at) {
                        row.values[at].as_deref().map_or(TupleValue::Null, TupleValue::Text)
                    } else if sent >> at & 1 == 1 {
                        TupleValue::UnchangedToast
                    } else {
                        TupleValue::Text(value)
                    }
                });
                let new = Tuple::new(new).expect("a row");
                RowChange::Update { old: None, new }
            }
        }
    }

    fn values(&self, key: u8, way: u8, step: usize) -> Vec<Bytes> {
        let value = |at| match self.table.key.iter().position(|place| *place == at) {
            Some(0) => key_value(key, way),
            Some(_) => key_value(key % 2, way / 4),
            None => format!("v{step}.{at}"),
        };
        (0..self.table.width).map(|at| value(at).into()).collect()
    }
}

fn sent_as(values: &[Bytes]) -> Tuple {
    Tuple::new(values.iter().map(|value| TupleValue::Text(value))).expect("a row")
}

/// Deletes, updates and inserts stand in this order between changes that are executed as they are.
fn assert_order(segments: &[Segment]) {
    let mut last = 0;
    for segment in segments {
        last = match segment {
            Segment::Ordered(_) => 0,
            Segment::Set(work) => {
                let rank = match work.key.op {
                    RowOp::Delete => 1,
                    RowOp::Update => 2,
                    RowOp::Insert => 3,
                };
                assert!(last <= rank, "{segments:?}");
                assert!(!work.rows.is_empty());
                rank
            }
        };
    }
}

const EVERY: [Coalescing; 3] = [Coalescing::Auto, Coalescing::Always, Coalescing::Off];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_coalesced_history_leaves_the_same_rows(history in histories()) {
        let Run { table, at_start, log, at_end } = history.run();
        for coalescing in EVERY {
            let segments = coalesce(&table, &log, coalescing);
            assert_order(&segments);
            let mut rows = at_start.clone();
            prop_assert_eq!(rows.execute(&table, &log, &segments), Ok(()), "{:?} {:?}", coalescing, segments);
            prop_assert_eq!(&rows, &at_end, "{:?} {:?}", coalescing, segments);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_global_rejects: 40_000, ..ProptestConfig::default() })]

    /// INV-6
    #[test]
    fn a_row_that_the_target_lacks_is_noticed_coalesced_as_it_is_in_order(
        history in histories(),
        which in any::<prop::sample::Index>(),
    ) {
        let Run { table, mut at_start, log, .. } = history.run();
        prop_assume!(!at_start.0.is_empty());
        let missing = which.get(&at_start.0.keys().cloned().collect::<Vec<_>>()).clone();
        at_start.0.remove(&missing);
        let mut in_order = at_start.clone();
        let expected = in_order.execute(&table, &log, &coalesce(&table, &log, Coalescing::Off));
        for coalescing in EVERY {
            let mut rows = at_start.clone();
            let found = rows.execute(&table, &log, &coalesce(&table, &log, coalescing));
            prop_assert_eq!(found.is_ok(), expected.is_ok());
            prop_assert!(expected.is_err() || rows == in_order);
        }
    }

    /// A row that only the target has is in the way of an insert; if the insert comes to nothing, nothing notices, and
    /// nothing happens to the row.
    #[test]
    fn a_row_that_only_the_target_has_is_noticed_or_left_alone(history in histories(), key in 0..KEYS) {
        let Run { table, mut at_start, log, at_end } = history.run();
        let values = history.values(key, 0, 999).into_iter().map(Some).collect();
        let added = Row { values, extra: "" };
        prop_assume!(at_start.insert(&table, added.clone()).is_ok());
        for coalescing in EVERY {
            let mut rows = at_start.clone();
            if rows.execute(&table, &log, &coalesce(&table, &log, coalescing)).is_ok() {
                let mut expected = at_end.clone();
                prop_assert!(expected.insert(&table, added.clone()).is_ok(), "it was in the way");
                prop_assert_eq!(&rows, &expected);
            }
        }
    }

    /// INV-6
    #[test]
    fn a_history_that_contradicts_itself_stays_as_it_is(
        history in histories(),
        at in any::<prop::sample::Index>(),
    ) {
        let Run { table, mut log, .. } = history.run();
        log.retain(|logged| !table.must_stay_in_order(&logged.change));
        let once: Vec<_> = (0..log.len()).filter(|at| log[*at].change.key.op != RowOp::Update).collect();
        prop_assume!(log.len() >= SET_ROWS_MIN && !once.is_empty());
        let at = *at.get(&once);
        log.insert(at, log[at].clone());
        for coalescing in EVERY {
            prop_assert_eq!(coalesce(&table, &log, coalescing), [Segment::Ordered(0..log.len())]);
        }
    }
}
