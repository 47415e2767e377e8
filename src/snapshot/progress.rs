//! Counts what the copy has done, and publishes it: often enough to watch, rarely enough not to cost anything.
//! Written by the copying tasks; nothing here decides anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::SnapshotSummary;
use super::plan::Chunk;
use crate::migration::{StatusBoard, TableProgress, TableState};
use crate::model::TableName;
use crate::source::SourceTable;
use crate::telemetry::Metrics;

/// Between two publications, unless a table changes its state.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);

/// Progress of all tables.
pub(super) struct CopyProgress {
    board: StatusBoard,
    metrics: Arc<Metrics>,
    counts: Mutex<Counts>,
}

struct Counts {
    tables: BTreeMap<TableName, TableCount>,
    published: Instant,
}

struct TableCount {
    /// As published. While chunks are under way its rows are counted by COPY messages, which may be off by one for
    /// each chunk; a finished chunk counts as the target counted it.
    progress: TableProgress,
    chunks_left: usize,
    /// Rows of finished chunks.
    rows_joined: u64,
    /// Rows of chunks under way.
    rows_under_way: u64,
}

impl CopyProgress {
    /// Publishes every table as pending.
    pub(super) fn new(board: StatusBoard, metrics: Arc<Metrics>, tables: &[SourceTable]) -> Self {
        let count = |table: &SourceTable| {
            let progress = TableProgress {
                state: TableState::Pending,
                rows_copied: 0,
                bytes_copied: 0,
                rows_estimated: table.rows_estimated.unwrap_or_default(),
                bytes_estimated: table.total_bytes,
            };
            let count = TableCount { progress, chunks_left: 0, rows_joined: 0, rows_under_way: 0 };
            (table.name.clone(), count)
        };
        let counts = Counts { tables: tables.iter().map(count).collect(), published: Instant::now() };
        let progress = Self { board, metrics, counts: Mutex::new(counts) };
        let mut counts = progress.lock();
        progress.publish(&mut counts);
        drop(counts);
        progress
    }

    /// Takes note of how many chunks make a table.
    pub(super) fn planned(&self, chunks: &[Chunk]) {
        let mut counts = self.lock();
        for chunk in chunks {
            if let Some(count) = counts.tables.get_mut(&chunk.table) {
                count.chunks_left += 1;
            }
        }
    }

    /// A chunk of this table begins.
    pub(super) fn begin(&self, table: &TableName) -> Beginning {
        let mut counts = self.lock();
        let Some(count) = counts.tables.get_mut(table) else { return Beginning::AnotherChunk };
        if count.progress.state != TableState::Pending {
            return Beginning::AnotherChunk;
        }
        count.progress.state = TableState::Copying;
        self.publish(&mut counts);
        Beginning::FirstChunk
    }

    /// COPY data is on its way to the target.
    pub(super) fn relayed(&self, table: &TableName, rows: u64, bytes: u64) {
        self.metrics.snapshot_copied(0, bytes);
        let mut counts = self.lock();
        if let Some(count) = counts.tables.get_mut(table) {
            count.rows_under_way += rows;
            count.progress.bytes_copied += bytes;
            count.progress.rows_copied = count.rows_joined + count.rows_under_way;
        }
        if counts.published.elapsed() >= PUBLISH_INTERVAL {
            self.publish(&mut counts);
        }
    }

    /// A chunk is committed, with `rows` rows, of which `relayed` were announced by [`relayed`](Self::relayed).
    pub(super) fn joined(&self, table: &TableName, rows: u64, relayed: u64) {
        self.metrics.snapshot_copied(rows, 0);
        let mut counts = self.lock();
        if let Some(count) = counts.tables.get_mut(table) {
            count.rows_joined += rows;
            count.rows_under_way = count.rows_under_way.saturating_sub(relayed);
            count.progress.rows_copied = count.rows_joined + count.rows_under_way;
            count.chunks_left = count.chunks_left.saturating_sub(1);
            if count.chunks_left == 0 {
                count.progress.state = TableState::Joined;
            }
        }
        self.publish(&mut counts);
    }

    /// What all finished chunks hold.
    pub(super) fn summary(&self) -> SnapshotSummary {
        let mut counts = self.lock();
        self.publish(&mut counts);
        SnapshotSummary {
            rows: counts.tables.values().map(|count| count.rows_joined).sum(),
            bytes: counts.tables.values().map(|count| count.progress.bytes_copied).sum(),
        }
    }

    fn publish(&self, counts: &mut Counts) {
        counts.published = Instant::now();
        self.board.update(|status| {
            for (table, count) in &counts.tables {
                status.tables.insert(table.clone(), count.progress.clone());
            }
        });
    }

    /// A poisoned count is still a count.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
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
    use super::*;

    #[test]
    fn rows_are_counted_while_they_travel_and_corrected_when_their_chunk_is_committed() {
        let table = TableName::new("public", "orders");
        let source_table = SourceTable::sample(table.clone());
        let board = StatusBoard::new(jiff::Timestamp::now());
        let progress = CopyProgress::new(board.clone(), Metrics::new().unwrap(), &[source_table]);
        let chunk = |number| Chunk { table: table.clone(), number, blocks: super::super::BlockRange::ALL };
        progress.planned(&[chunk(0), chunk(1)]);
        assert_eq!(progress.begin(&table), Beginning::FirstChunk);
        assert_eq!(progress.begin(&table), Beginning::AnotherChunk);
        progress.relayed(&table, 11, 100);
        progress.relayed(&table, 6, 50);
        progress.joined(&table, 10, 11);
        let seen = board.read().tables[&table].clone();
        assert_eq!((seen.state, seen.rows_copied, seen.bytes_copied), (TableState::Copying, 16, 150));
        progress.joined(&table, 5, 6);
        let seen = board.read().tables[&table].clone();
        assert_eq!((seen.state, seen.rows_copied), (TableState::Joined, 15));
        assert_eq!(progress.summary(), SnapshotSummary { rows: 15, bytes: 150 });
    }
}
