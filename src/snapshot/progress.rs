//! Publishes what the copy has done: often enough to watch, rarely enough not to cost anything, and only what has
//! changed, so that ten thousand tables cost no more than ten. Written by the copying tasks; nothing here decides
//! anything, and nothing here counts ([`Tally`] does).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::SnapshotSummary;
use super::plan::Chunk;
use super::tally::Tally;
use crate::migration::StatusBoard;
use crate::model::TableName;
use crate::source::SourceTable;
use crate::telemetry::Metrics;

/// Between two publications.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);

/// Progress of all tables.
pub(super) struct CopyProgress {
    board: StatusBoard,
    metrics: Arc<Metrics>,
    counts: Mutex<Counts>,
}

struct Counts {
    tally: Tally,
    published: Instant,
    /// Tables written to the board so far, each as often as it was.
    #[cfg(test)]
    entries_published: usize,
}

impl CopyProgress {
    /// Publishes every table as pending.
    #[must_use]
    pub(super) fn new(board: StatusBoard, metrics: Arc<Metrics>, tables: &[SourceTable]) -> Self {
        let now = Instant::now();
        let counts = Counts {
            tally: Tally::new(tables, now),
            published: now,
            #[cfg(test)]
            entries_published: 0,
        };
        let progress = Self { board, metrics, counts: Mutex::new(counts) };
        progress.publish(&mut progress.lock(), now);
        progress
    }

    /// Takes note of how many chunks make a table.
    pub(super) fn planned(&self, chunks: &[Chunk]) {
        self.count(|tally| chunks.iter().for_each(|chunk| tally.planned(&chunk.table)));
    }

    /// An earlier run has copied so much of a table, and left so many of its chunks (0: it is joined). Said after
    /// [`planned`](Self::planned).
    pub(super) fn resumed(&self, table: &TableName, rows: u64, bytes: u64, chunks_left: u64) {
        self.count(|tally| tally.resumed(table, rows, bytes, chunks_left));
    }

    /// A chunk of this table begins.
    pub(super) fn begin(&self, table: &TableName) -> Beginning {
        if self.count(|tally| tally.begin(table)) { Beginning::FirstChunk } else { Beginning::AnotherChunk }
    }

    /// COPY data is on its way to the target.
    pub(super) fn relayed(&self, table: &TableName, rows: u64, bytes: u64) {
        self.metrics.snapshot_copied(0, bytes);
        self.count(|tally| tally.relayed(table, rows, bytes));
    }

    /// A chunk under way was rolled back: what [`relayed`](Self::relayed) announced of it does not count, and will be
    /// copied again.
    pub(super) fn undone(&self, table: &TableName, bytes: u64, rows: u64) {
        self.count(|tally| tally.undone(table, bytes, rows));
    }

    /// A chunk is committed, with `rows` rows, of which `relayed` were announced by [`relayed`](Self::relayed).
    pub(super) fn joined(&self, table: &TableName, rows: u64, relayed: u64) {
        self.metrics.snapshot_copied(rows, 0);
        self.count(|tally| tally.joined(table, rows, relayed));
    }

    /// So many indexes of a table are to be built after its copy.
    pub(super) fn indexes_planned(&self, table: &TableName, indexes: u64) {
        self.count(|tally| tally.indexes_planned(table, indexes));
    }

    /// One of them is built, or was there already.
    pub(super) fn index_built(&self, table: &TableName) {
        self.count(|tally| tally.index_built(table));
    }

    /// What all finished chunks hold. Publishes everything that is not published yet.
    pub(super) fn summary(&self) -> SnapshotSummary {
        let mut counts = self.lock();
        self.publish(&mut counts, Instant::now());
        counts.tally.summary()
    }

    /// Publishes what the last change left unpublished, and that the rate falls when nothing changes any more. Never
    /// ends; to be dropped with the copy.
    pub(super) async fn keep_published(&self) {
        loop {
            tokio::time::sleep(PUBLISH_INTERVAL).await;
            let mut counts = self.lock();
            if counts.tally.has_news() {
                self.publish(&mut counts, Instant::now());
            }
        }
    }

    fn count<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        let mut counts = self.lock();
        let outcome = change(&mut counts.tally);
        let now = Instant::now();
        if now.duration_since(counts.published) >= PUBLISH_INTERVAL {
            self.publish(&mut counts, now);
        }
        outcome
    }

    fn publish(&self, counts: &mut Counts, now: Instant) {
        counts.published = now;
        let changed = counts.tally.take_changed();
        #[cfg(test)]
        {
            counts.entries_published += changed.len();
        }
        let view = counts.tally.view(now);
        self.board.update(|status| {
            status.tables.extend(changed);
            status.copy = Some(view);
        });
    }

    /// A poisoned count is still a count.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However a copy ends: its rate ends with it.
impl Drop for CopyProgress {
    fn drop(&mut self) {
        self.board.update(|status| {
            if let Some(copy) = &mut status.copy {
                (copy.bytes_per_second, copy.eta_seconds) = (0.0, None);
            }
        });
    }
}

/// Whether a chunk is its table's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Nothing of the table was under way before.
    FirstChunk,
    /// Something was.
    AnotherChunk,
}

#[cfg(test)]
mod tests {
    use super::super::BlockRange;
    use super::*;
    use crate::migration::TableState;

    fn tables(count: usize) -> Vec<SourceTable> {
        let name = |number| TableName::new("public", format!("t{number}"));
        (0..count).map(|number| SourceTable::sample(name(number))).collect()
    }

    fn progress(tables: &[SourceTable]) -> CopyProgress {
        let board = StatusBoard::new(jiff::Timestamp::UNIX_EPOCH);
        CopyProgress::new(board, Metrics::new().expect("metrics"), tables)
    }

    fn chunk(table: &SourceTable, number: u32) -> Chunk {
        Chunk { table: table.name.clone(), number, blocks: BlockRange::ALL }
    }

    #[test]
    fn the_board_gets_every_table_at_once_and_in_the_end_everything_that_was_copied() {
        let tables = tables(2);
        let progress = progress(&tables);
        let table = &tables[0].name;
        assert_eq!(progress.board.read().tables.len(), 2);
        progress.planned(&[chunk(&tables[0], 0), chunk(&tables[0], 1)]);
        assert_eq!(progress.begin(table), Beginning::FirstChunk);
        assert_eq!(progress.begin(table), Beginning::AnotherChunk);
        progress.relayed(table, 11, 100);
        progress.joined(table, 10, 11);
        progress.relayed(table, 6, 50);
        progress.joined(table, 5, 6);
        assert_eq!(progress.summary(), SnapshotSummary { rows: 15, bytes: 150 });
        let status = progress.board.read();
        let seen = &status.tables[table];
        assert_eq!((seen.state, seen.rows_copied, seen.bytes_copied), (TableState::Joined, 15, 150));
        assert_eq!(status.copy.map(|copy| (copy.tables_joined, copy.chunks_joined)), Some((1, 2)));
    }

    /// Publication that went by the clock alone would be as often as the machine is slow; entries are what it costs.
    #[test]
    fn ten_thousand_tables_are_published_once_for_each_change_and_not_all_of_them_each_time() {
        const TABLES: usize = 10_000;
        let tables = tables(TABLES);
        let progress = progress(&tables);
        let chunks: Vec<Chunk> = tables.iter().map(|table| chunk(table, 0)).collect();
        progress.planned(&chunks);
        for (number, table) in tables.iter().enumerate() {
            progress.begin(&table.name);
            progress.relayed(&table.name, 10, 100);
            progress.joined(&table.name, 10, 10);
            // Far more often than by the clock.
            if number % 10 == 0 {
                progress.publish(&mut progress.lock(), Instant::now());
            }
        }
        assert_eq!(progress.summary(), SnapshotSummary { rows: 100_000, bytes: 1_000_000 });
        let published = progress.lock().entries_published;
        // As pending, as planned, and as joined; a publication by the clock may fall between begin and joined.
        assert!((3 * TABLES - 10..=3 * TABLES + 500).contains(&published), "{published}");
        let joined = |status: &crate::migration::Status| {
            status.tables.values().filter(|table| table.state == TableState::Joined).count()
        };
        assert_eq!(progress.board.with(joined), TABLES);
    }

    #[tokio::test]
    async fn what_is_left_unpublished_is_published_soon_without_another_change() {
        let tables = tables(1);
        let progress = progress(&tables);
        progress.planned(&[chunk(&tables[0], 0)]);
        progress.begin(&tables[0].name);
        let mut changes = progress.board.subscribe();
        let seen =
            changes.wait_for(|status| status.tables.values().all(|table| table.state == TableState::Copying));
        tokio::select! {
            seen = seen => assert!(seen.is_ok()),
            () = progress.keep_published() => {}
        }
    }
}
