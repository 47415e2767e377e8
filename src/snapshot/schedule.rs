//! What is left to copy, and what is left to build: two queues that any number of workers take from. Decides the order, and
//! nothing else: the largest tables first, because whatever is begun last decides when all of it ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::board::ChunkId;
use super::spread::Spread;
use crate::model::Oid;

/// Tables up to this size are copied several at a time, under one snapshot.
const SMALL_TABLE_BYTES: u64 = 1024 * 1024;
/// So much at a time, and so many.
const BATCH_BYTES: u64 = 8 * 1024 * 1024;
const BATCH_TABLES_MAX: usize = 50;

/// Work for a session on the source and one on the target.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Whole tables, one after the other, under one snapshot and in one transaction of the target.
    Whole(Vec<Oid>),
    /// A range of keys.
    Range(ChunkId),
    /// A table that is to be copied by several sessions under one snapshot.
    Spread(Oid),
    /// Its blocks from the first up to the second.
    Part(Arc<Spread>, super::BlockRange),
}

/// A queue that workers wait at.
#[derive(Debug)]
pub(super) struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    added: Notify,
}

impl<T> Queue<T> {
    pub(super) fn new(items: impl IntoIterator<Item = T>) -> Self {
        Self { items: Mutex::new(items.into_iter().collect()), added: Notify::new() }
    }

    /// Behind everything else.
    pub(super) fn push(&self, items: impl IntoIterator<Item = T>) {
        self.lock().extend(items);
        self.added.notify_waiters();
    }

    /// Before everything else.
    pub(super) fn push_first(&self, items: impl IntoIterator<Item = T>) {
        let mut queue = self.lock();
        let items: Vec<T> = items.into_iter().collect();
        for item in items.into_iter().rev() {
            queue.push_front(item);
        }
        drop(queue);
        self.added.notify_waiters();
    }

    /// The next one, as soon as there is one. Cancel safe.
    pub(super) async fn next(&self) -> T {
        loop {
            let added = self.added.notified();
            tokio::pin!(added);
            // Before the look: what is added in between is not missed.
            added.as_mut().enable();
            if let Some(item) = self.lock().pop_front() {
                return item;
            }
            added.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table of which something is to be copied.
#[derive(Clone, Debug)]
pub(super) struct Outstanding {
    pub(super) table: Oid,
    /// On the source, with TOAST.
    pub(super) bytes: u64,
    /// Numbers of the chunks that are to be copied, of tables that are cut by ranges.
    pub(super) ranges: Option<Vec<usize>>,
    /// Whether several sessions should share it.
    pub(super) is_spread: bool,
}

/// What is to be done for these tables, the largest first, small ones together.
pub(super) fn order(mut tables: Vec<Outstanding>) -> Vec<Work> {
    tables.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.table.cmp(&b.table)));
    let mut work = Vec::new();
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    for outstanding in tables {
        let Outstanding { table, bytes, ranges, is_spread } = outstanding;
        match ranges {
            Some(ranges) => {
                work.extend(ranges.into_iter().map(|number| Work::Range(ChunkId { table, number })));
            }
            None if is_spread => work.push(Work::Spread(table)),
            None if bytes > SMALL_TABLE_BYTES => work.push(Work::Whole(vec![table])),
            None => {
                if !batch.is_empty() && (batch_bytes + bytes > BATCH_BYTES || batch.len() >= BATCH_TABLES_MAX)
                {
                    work.push(Work::Whole(std::mem::take(&mut batch)));
                    batch_bytes = 0;
                }
                batch.push(table);
                batch_bytes += bytes;
            }
        }
    }
    if !batch.is_empty() {
        work.push(Work::Whole(batch));
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outstanding(table: u32, bytes: u64) -> Outstanding {
        Outstanding { table: Oid(table), bytes, ranges: None, is_spread: false }
    }

    #[test]
    fn the_largest_come_first_and_small_tables_together() {
        let mut tables: Vec<Outstanding> = (100..220).map(|table| outstanding(table, 100)).collect();
        tables.push(outstanding(1, SMALL_TABLE_BYTES + 1));
        tables.push(Outstanding { is_spread: true, ..outstanding(2, 1 << 40) });
        tables.push(Outstanding { ranges: Some(vec![0, 2]), ..outstanding(3, 1 << 41) });
        let told: Vec<String> = order(tables)
            .iter()
            .map(|work| match work {
                Work::Whole(tables) => format!("{} from {}", tables.len(), tables[0].0),
                Work::Range(chunk) => format!("{} of {}", chunk.number, chunk.table.0),
                Work::Spread(table) => format!("spread {}", table.0),
                Work::Part(..) => "part".to_owned(),
            })
            .collect();
        let expected =
            ["0 of 3", "2 of 3", "spread 2", "1 from 1", "50 from 100", "50 from 150", "20 from 200"];
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn a_worker_that_waits_is_given_what_is_added() {
        let queue = Arc::new(Queue::new([1]));
        assert_eq!(queue.next().await, 1);
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.push([3]);
        queue.push_first([2]);
        let first = waiting.await.unwrap();
        assert_eq!(first + queue.next().await, 5);
    }
}
