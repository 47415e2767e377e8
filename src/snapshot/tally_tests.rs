use proptest::prelude::*;

use super::*;

fn name(number: usize) -> TableName {
    TableName::new("public", format!("t{number}"))
}

fn tally(bytes: &[u64], now: Instant) -> Tally {
    let table = |(number, bytes): (usize, &u64)| SourceTable {
        total_bytes: *bytes,
        ..SourceTable::sample(name(number))
    };
    let tables: Vec<SourceTable> = bytes.iter().enumerate().map(table).collect();
    Tally::new(&tables, now)
}

fn seen(tally: &Tally, number: usize) -> TableProgress {
    tally.tables[&name(number)].progress.clone()
}

#[test]
fn rows_are_counted_while_they_travel_and_corrected_when_their_chunk_is_committed() {
    let mut tally = tally(&[1000], Instant::now());
    let table = name(0);
    tally.planned(&table);
    tally.planned(&table);
    assert!(tally.begin(&table));
    assert!(!tally.begin(&table));
    tally.relayed(&table, 11, 100);
    tally.relayed(&table, 6, 50);
    tally.joined(&table, 10, 11);
    let copying = seen(&tally, 0);
    assert_eq!((copying.state, copying.rows_copied, copying.bytes_copied), (TableState::Copying, 16, 150));
    tally.joined(&table, 5, 6);
    let joined = seen(&tally, 0);
    assert_eq!((joined.state, joined.rows_copied), (TableState::Joined, 15));
    assert_eq!(tally.summary(), SnapshotSummary { rows: 15, bytes: 150 });
}

#[test]
fn what_is_rolled_back_does_not_count_and_is_said_to_be_repeated() {
    let now = Instant::now();
    let mut tally = tally(&[1000], now);
    let table = name(0);
    tally.planned(&table);
    tally.planned(&table);
    tally.begin(&table);
    tally.relayed(&table, 4, 40);
    tally.relayed(&table, 6, 60);
    tally.undone(&table, 60, 6);
    let view = tally.view(now);
    assert_eq!((view.rows_copied, view.bytes_copied, view.bytes_repeated), (4, 40, 60));
    tally.joined(&table, 4, 4);
    assert!(!tally.begin(&table), "its first chunk was begun before");
    tally.relayed(&table, 6, 60);
    tally.joined(&table, 6, 6);
    assert_eq!(tally.summary(), SnapshotSummary { rows: 10, bytes: 100 });
    assert_eq!(tally.view(now).bytes_repeated, 60);
}

#[test]
fn what_an_earlier_run_copied_counts_but_not_for_the_rate() {
    let now = Instant::now();
    let mut tally = tally(&[1000, 1000, 1000], now);
    for number in [0, 0, 0, 1, 2] {
        tally.planned(&name(number));
    }
    tally.resumed(&name(0), 20, 400, 1);
    tally.resumed(&name(1), 50, 900, 0);
    tally.resumed(&name(2), 0, 0, 1);
    let states = [0, 1, 2].map(|number| seen(&tally, number).state);
    assert_eq!(states, [TableState::Copying, TableState::Joined, TableState::Pending]);
    let view = tally.view(now + Duration::from_secs(1));
    assert_eq!((view.rows_copied, view.bytes_copied, view.tables_joined), (70, 1300, 1));
    assert_eq!((view.chunks_joined, view.chunks_total), (3, 5));
    assert_eq!((view.bytes_per_second, view.eta_seconds), (0.0, None));
    assert!(!tally.begin(&name(0)), "its first chunk was an earlier run's");
    assert!(tally.begin(&name(2)));
    tally.relayed(&name(0), 10, 200);
    tally.joined(&name(0), 10, 10);
    assert_eq!(seen(&tally, 0).state, TableState::Joined);
}

#[test]
fn the_rate_is_that_of_the_last_seconds_and_the_time_left_follows_it() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut tally = tally(&[100_000], start);
    tally.planned(&name(0));
    tally.begin(&name(0));
    assert_eq!(tally.view(start).eta_seconds, None, "nothing to go by");
    tally.relayed(&name(0), 1, 20_000);
    let view = tally.view(at(10));
    assert_eq!((view.bytes_per_second, view.eta_seconds), (2000.0, Some(40)));
    assert!(tally.has_news(), "a rate above zero may fall");
    tally.take_changed();
    let still = tally.view(at(30));
    assert_eq!((still.bytes_per_second, still.eta_seconds), (0.0, None));
    assert!(!tally.has_news());
}

#[test]
fn a_copy_that_is_done_has_no_rate() {
    let start = Instant::now();
    let mut tally = tally(&[100], start);
    tally.planned(&name(0));
    tally.relayed(&name(0), 1, 50);
    tally.joined(&name(0), 1, 1);
    tally.take_changed();
    let view = tally.view(start + Duration::from_secs(1));
    assert_eq!((view.bytes_per_second, view.eta_seconds), (0.0, None));
    assert!(!tally.has_news());
}

#[test]
fn the_time_left_learns_from_tables_that_are_done_how_much_copy_sends() {
    let start = Instant::now();
    let mut tally = tally(&[100_000, 100_000], start);
    for number in [0, 1] {
        tally.planned(&name(number));
        tally.begin(&name(number));
    }
    // Half of what the table takes on the source.
    tally.relayed(&name(0), 1, 50_000);
    tally.joined(&name(0), 1, 1);
    assert_eq!(tally.view(start + Duration::from_secs(10)).eta_seconds, Some(10));
    tally.relayed(&name(1), 1, 60_000);
    let over = tally.view(start + Duration::from_secs(10));
    assert_eq!(over.eta_seconds, None, "a forecast that has run out is none");
}

#[test]
fn indexes_are_counted_by_table_and_in_all() {
    let now = Instant::now();
    let mut tally = tally(&[1, 1], now);
    tally.indexes_planned(&name(0), 3);
    tally.indexes_planned(&name(1), 1);
    tally.index_built(&name(0));
    let table = seen(&tally, 0);
    assert_eq!((table.indexes_built, table.indexes_total), (1, 3));
    let view = tally.view(now);
    assert_eq!((view.indexes_built, view.indexes_total), (1, 4));
}

#[test]
fn only_what_changed_is_told_and_once() {
    let mut tally = tally(&[1, 1, 1], Instant::now());
    assert_eq!(tally.take_changed().len(), 3, "at first, everything");
    assert_eq!(tally.take_changed(), []);
    tally.relayed(&name(1), 1, 1);
    tally.relayed(&name(1), 1, 1);
    tally.relayed(&TableName::new("public", "unknown"), 1, 1);
    let changed = tally.take_changed();
    assert_eq!(changed.iter().map(|(table, _)| table).collect::<Vec<_>>(), [&name(1)]);
    assert_eq!(changed.first().map(|(_, progress)| progress.rows_copied), Some(2));
}

proptest! {
    /// In whatever order things happen to tables, the sums are those of the tables.
    #[test]
    fn the_sums_are_those_of_the_tables(steps in prop::collection::vec((0_u8..7, 0_usize..3, 0_u64..50), 0..80)) {
        let mut tally = tally(&[10, 200, 3000], Instant::now());
        for (step, table, amount) in steps {
            let table = name(table);
            match step {
                0 => tally.planned(&table),
                1 => { tally.begin(&table); }
                2 => tally.relayed(&table, amount, amount * 10),
                3 => tally.undone(&table, amount * 10, amount),
                4 => tally.joined(&table, amount, amount),
                5 => tally.resumed(&table, amount, amount * 10, amount % 4),
                _ => { tally.indexes_planned(&table, 1); tally.index_built(&table); }
            }
            let expected = tally.tables.values().fold(Sums::default(), |sums, count| sums.plus(&count.sums()));
            prop_assert_eq!(tally.sums, expected);
        }
        tally.view(Instant::now());
    }
}
