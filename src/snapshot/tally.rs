//! What the copy has done, in numbers: table by table, in sums that are kept up with every change, and as a rate. Pure:
//! the clock is passed in. What changed since it was taken last is remembered, so that telling it costs what changed
//! and not what there is, however many tables there are.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::SnapshotSummary;
use crate::migration::{CopyView, TableProgress, TableState};
use crate::model::TableName;
use crate::source::SourceTable;

/// The rate is that of so long a time: long enough to be steady, short enough to show that the copy stands still.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// How COPY data compares to sizes on the source is believed once tables of so much of the whole are copied.
const SAMPLE_PERCENT: u64 = 5;

/// Counts of all tables.
#[derive(Debug)]
pub(super) struct Tally {
    tables: BTreeMap<TableName, TableCount>,
    /// Always the sum over `tables`.
    sums: Sums,
    /// Tables that changed since [`take_changed`](Self::take_changed), each once.
    changed: Vec<TableName>,
    /// Everything relayed by this process, also what was rolled back: what the rate is of.
    relayed_bytes: u64,
    repeated_bytes: u64,
    rate: Rate,
}

#[derive(Debug)]
struct TableCount {
    /// As told. While chunks are under way its rows are counted by COPY messages, which may be off by one for each
    /// chunk; a finished chunk counts as the target counted it.
    progress: TableProgress,
    chunks: u64,
    chunks_left: u64,
    /// Rows of finished chunks.
    rows_joined: u64,
    /// Rows of chunks under way.
    rows_under_way: u64,
    is_changed: bool,
}

/// What is summed up over tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    rows_copied: u64,
    bytes_copied: u64,
    bytes_estimated: u64,
    tables_joined: u64,
    /// Of joined tables alone.
    joined_bytes_copied: u64,
    joined_bytes_estimated: u64,
    chunks: u64,
    chunks_left: u64,
    indexes_built: u64,
    indexes_total: u64,
}

impl Tally {
    /// Every table is pending, and has changed.
    pub(super) fn new(tables: &[SourceTable], now: Instant) -> Self {
        let count = |table: &SourceTable| (table.name.clone(), TableCount::new(table));
        let tables: BTreeMap<TableName, TableCount> = tables.iter().map(count).collect();
        let sums = tables.values().fold(Sums::default(), |sums, count| sums.plus(&count.sums()));
        let changed = tables.keys().cloned().collect();
        Self { tables, sums, changed, relayed_bytes: 0, repeated_bytes: 0, rate: Rate::since(now) }
    }

    /// One more chunk of a table.
    pub(super) fn planned(&mut self, table: &TableName) {
        self.change(table, |count| {
            count.chunks += 1;
            count.chunks_left += 1;
        });
    }

    /// What an earlier run has copied.
    pub(super) fn resumed(&mut self, table: &TableName, rows: u64, bytes: u64, chunks_left: u64) {
        self.change(table, |count| {
            count.rows_joined = rows;
            count.progress.bytes_copied = bytes;
            count.chunks = count.chunks.max(chunks_left);
            count.chunks_left = chunks_left;
            count.progress.state = match chunks_left {
                0 => TableState::Joined,
                left if left < count.chunks || rows > 0 || bytes > 0 => TableState::Copying,
                _ => TableState::Pending,
            };
        });
    }

    /// A chunk begins; whether it is the first of its table.
    pub(super) fn begin(&mut self, table: &TableName) -> bool {
        if self.tables.get(table).is_none_or(|count| count.progress.state != TableState::Pending) {
            return false;
        }
        self.change(table, |count| count.progress.state = TableState::Copying);
        true
    }

    /// COPY data is on its way.
    pub(super) fn relayed(&mut self, table: &TableName, rows: u64, bytes: u64) {
        self.relayed_bytes += bytes;
        self.change(table, |count| {
            count.rows_under_way += rows;
            count.progress.bytes_copied += bytes;
        });
    }

    /// What was on its way was rolled back.
    pub(super) fn undone(&mut self, table: &TableName, bytes: u64, rows: u64) {
        self.repeated_bytes += bytes;
        self.change(table, |count| {
            count.rows_under_way = count.rows_under_way.saturating_sub(rows);
            count.progress.bytes_copied = count.progress.bytes_copied.saturating_sub(bytes);
        });
    }

    /// A chunk is committed with `rows` rows, of which `relayed` were on their way.
    pub(super) fn joined(&mut self, table: &TableName, rows: u64, relayed: u64) {
        self.change(table, |count| {
            count.rows_joined += rows;
            count.rows_under_way = count.rows_under_way.saturating_sub(relayed);
            count.chunks_left = count.chunks_left.saturating_sub(1);
            if count.chunks_left == 0 {
                count.progress.state = TableState::Joined;
            }
        });
    }

    /// So many indexes more are to be built for a table.
    pub(super) fn indexes_planned(&mut self, table: &TableName, indexes: u64) {
        self.change(table, |count| count.progress.indexes_total += indexes);
    }

    /// One of them is there.
    pub(super) fn index_built(&mut self, table: &TableName) {
        self.change(table, |count| count.progress.indexes_built += 1);
    }

    /// What all finished chunks hold.
    pub(super) fn summary(&self) -> SnapshotSummary {
        let rows = self.tables.values().map(|count| count.rows_joined).sum();
        SnapshotSummary { rows, bytes: self.sums.bytes_copied }
    }

    /// Whether there is anything to tell that was not told: a change, or a rate that falls.
    pub(super) fn has_news(&self) -> bool {
        !self.changed.is_empty() || self.rate.bytes_per_second > 0.0
    }

    /// Every table that changed since it was called last.
    pub(super) fn take_changed(&mut self) -> Vec<(TableName, TableProgress)> {
        let changed = std::mem::take(&mut self.changed);
        let take = |table: TableName| {
            let count = self.tables.get_mut(&table)?;
            count.is_changed = false;
            Some((table, count.progress.clone()))
        };
        changed.into_iter().filter_map(take).collect()
    }

    /// The sums, the rate and what is left.
    pub(super) fn view(&mut self, now: Instant) -> CopyView {
        self.rate.observe(now, self.relayed_bytes);
        if self.sums.tables_joined == self.tables.len() as u64 {
            self.rate.bytes_per_second = 0.0;
        }
        let bytes_per_second = self.rate.bytes_per_second;
        CopyView {
            rows_copied: self.sums.rows_copied,
            bytes_copied: self.sums.bytes_copied,
            bytes_estimated: self.sums.bytes_estimated,
            tables_joined: self.sums.tables_joined,
            tables_total: self.tables.len() as u64,
            chunks_joined: self.sums.chunks - self.sums.chunks_left,
            chunks_total: self.sums.chunks,
            bytes_per_second,
            eta_seconds: self.sums.eta_seconds(bytes_per_second),
            indexes_built: self.sums.indexes_built,
            indexes_total: self.sums.indexes_total,
            bytes_repeated: self.repeated_bytes,
        }
    }

    /// A table that is not known counts nowhere.
    fn change(&mut self, table: &TableName, change: impl FnOnce(&mut TableCount)) {
        let Some(count) = self.tables.get_mut(table) else { return };
        let before = count.sums();
        change(count);
        count.progress.rows_copied = count.rows_joined + count.rows_under_way;
        self.sums = self.sums.minus(&before).plus(&count.sums());
        if !std::mem::replace(&mut count.is_changed, true) {
            self.changed.push(table.clone());
        }
    }
}

impl TableCount {
    fn new(table: &SourceTable) -> Self {
        let progress = TableProgress {
            rows_estimated: table.rows_estimated.unwrap_or_default(),
            bytes_estimated: table.total_bytes,
            ..TableProgress::default()
        };
        Self { progress, chunks: 0, chunks_left: 0, rows_joined: 0, rows_under_way: 0, is_changed: true }
    }

    fn sums(&self) -> Sums {
        let progress = &self.progress;
        let of_joined = |bytes| if progress.state == TableState::Joined { bytes } else { 0 };
        Sums {
            rows_copied: progress.rows_copied,
            bytes_copied: progress.bytes_copied,
            bytes_estimated: progress.bytes_estimated,
            tables_joined: of_joined(1),
            joined_bytes_copied: of_joined(progress.bytes_copied),
            joined_bytes_estimated: of_joined(progress.bytes_estimated),
            chunks: self.chunks,
            chunks_left: self.chunks_left,
            indexes_built: progress.indexes_built,
            indexes_total: progress.indexes_total,
        }
    }
}

impl Sums {
    fn plus(self, other: &Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    /// Never more than was added.
    fn minus(self, other: &Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    fn with(self, other: &Self, each: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            rows_copied: each(self.rows_copied, other.rows_copied),
            bytes_copied: each(self.bytes_copied, other.bytes_copied),
            bytes_estimated: each(self.bytes_estimated, other.bytes_estimated),
            tables_joined: each(self.tables_joined, other.tables_joined),
            joined_bytes_copied: each(self.joined_bytes_copied, other.joined_bytes_copied),
            joined_bytes_estimated: each(self.joined_bytes_estimated, other.joined_bytes_estimated),
            chunks: each(self.chunks, other.chunks),
            chunks_left: each(self.chunks_left, other.chunks_left),
            indexes_built: each(self.indexes_built, other.indexes_built),
            indexes_total: each(self.indexes_total, other.indexes_total),
        }
    }

    /// How long the rest takes at this rate. Sizes are those of tables on the source, with what they carry beside the
    /// values; what COPY sends of it is learned from the tables that are done.
    #[expect(clippy::cast_precision_loss, reason = "a forecast is an approximation")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; as saturates")]
    fn eta_seconds(&self, bytes_per_second: f64) -> Option<u64> {
        let estimated_left = self.bytes_estimated - self.joined_bytes_estimated;
        let is_sample = self.joined_bytes_copied > 0
            && self.joined_bytes_estimated >= self.bytes_estimated / 100 * SAMPLE_PERCENT;
        let copied_per_estimated = if is_sample && self.joined_bytes_estimated > 0 {
            self.joined_bytes_copied as f64 / self.joined_bytes_estimated as f64
        } else {
            1.0
        };
        let under_way = (self.bytes_copied - self.joined_bytes_copied) as f64;
        let left = estimated_left as f64 * copied_per_estimated - under_way;
        // A forecast that has run out is none.
        (bytes_per_second > 0.0 && left > 0.0).then(|| (left / bytes_per_second).ceil() as u64)
    }
}

/// Bytes over the last seconds.
#[derive(Debug)]
struct Rate {
    /// Oldest first; none older than [`RATE_WINDOW`].
    samples: VecDeque<(Instant, u64)>,
    bytes_per_second: f64,
}

impl Rate {
    fn since(now: Instant) -> Self {
        Self { samples: VecDeque::from([(now, 0)]), bytes_per_second: 0.0 }
    }

    fn observe(&mut self, now: Instant, bytes: u64) {
        while self.samples.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > RATE_WINDOW) {
            self.samples.pop_front();
        }
        let (since, bytes_then) = *self.samples.front().unwrap_or(&(now, bytes));
        self.samples.push_back((now, bytes));
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate is an approximation")]
        let rate = if seconds > 0.0 { (bytes - bytes_then) as f64 / seconds } else { 0.0 };
        self.bytes_per_second = rate;
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
