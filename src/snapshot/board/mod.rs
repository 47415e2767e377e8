//! What the copy and the stream know of one another while both run: the state of every chunk, the transactions that later
//! snapshots must contain, and whether the stream stands still. The copy moves chunks on, the stream asks what becomes of its
//! changes; neither ever waits for the other under the lock. Here is what both share; [`copy`] is the copy's side of it, [`stream`]
//! the stream's. Both meet in a [`standstill`], and what is known here is held against the target's records ([`belief`]).

mod belief;
mod copy;
mod standstill;
mod stream;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use self::standstill::Still;
use super::key::{KeyKind, KeyRange};
use super::lifecycle::{ChunkState, TableCopy};
use super::reliance::Reliance;
use crate::model::Oid;

/// The column by whose ranges a table is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangedBy {
    /// Its name.
    pub column: String,
    /// How its values are compared.
    pub kind: KeyKind,
}

/// A table on the board.
#[derive(Clone, Debug)]
pub struct CopyEntry {
    /// Its chunks.
    pub copy: TableCopy,
    /// `None`: it is one chunk.
    pub ranged_by: Option<RangedBy>,
}

impl CopyEntry {
    /// A table of these chunks, in the order of their keys.
    #[must_use]
    pub const fn new(chunks: Vec<(KeyRange, ChunkState)>, ranged_by: Option<RangedBy>) -> Self {
        Self { copy: TableCopy::new(chunks), ranged_by }
    }
}

/// A chunk: which table, by its OID on the source, and which of its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId {
    /// `pg_class.oid` on the source.
    pub table: Oid,
    /// Counted from 0 in the order of their keys.
    pub number: usize,
}

/// Where copy and stream meet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CopyBoard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Asked for every change of the stream.
    is_active: AtomicBool,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    tables: HashMap<Oid, CopyEntry>,
    reliance: Option<Reliance>,
    /// Chunks that have become pending again.
    again: Vec<ChunkId>,
    trust: Trust,
    still: Still,
    /// Tables whose copy is not over, passed or not.
    planned: HashSet<Oid>,
    /// How often it was loaded.
    loads: u64,
}

/// Whether the board says what the target has recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trust {
    /// Nothing is known yet, or something else was found on the target: the copy reads it anew.
    #[default]
    No,
    Yes,
}

impl CopyBoard {
    /// A board of a migration whose copy is over.
    #[must_use]
    pub fn idle() -> Self {
        let inner = Mutex::new(Inner { trust: Trust::Yes, ..Inner::default() });
        Self(Arc::new(Shared { inner, is_active: AtomicBool::new(false), changed: watch::Sender::new(0) }))
    }

    /// A board of a migration that copies; nothing can be asked before [`load`](Self::load).
    #[must_use]
    pub fn copying() -> Self {
        let board = Self::idle();
        board.lock().trust = Trust::No;
        board.0.is_active.store(true, Ordering::Release);
        board
    }

    /// Whether anything is being copied.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.0.is_active.load(Ordering::Acquire)
    }

    /// To be told of changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.0.changed.send_modify(|version| *version += 1);
    }
}

#[cfg(test)]
mod tests;
