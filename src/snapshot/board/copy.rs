//! What the copy does at the board: it loads what the target has recorded, moves chunks on, and asks which of them come again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ChunkId, CopyBoard, CopyEntry, Trust};
use crate::model::{Oid, Xid};
use crate::snapshot::lifecycle::ChunkState;
use crate::snapshot::reliance::Reliance;
use crate::snapshot::visibility::Snapshot;

impl CopyBoard {
    /// Begins with what the target has recorded. What a stream of this process has relied on stays, and so does what it has
    /// condemned: that is not committed yet.
    pub fn load(&self, mut tables: HashMap<Oid, CopyEntry>, planned: HashSet<Oid>, slot: Snapshot) {
        let mut inner = self.lock();
        inner.loads += 1;
        inner.planned = planned;
        for (table, known) in &inner.tables {
            let Some(entry) = tables.get_mut(table) else { continue };
            for number in 0..known.copy.len() {
                let is_recorded = matches!(entry.copy.state(number), Some(ChunkState::Joined(_)));
                if is_recorded && known.copy.state(number) == Some(&ChunkState::Condemned) {
                    entry.copy.enter(number, ChunkState::Condemned);
                }
            }
        }
        inner.tables = tables;
        inner.reliance.get_or_insert_with(|| Reliance::new(slot));
        inner.again.clear();
        inner.trust = Trust::Yes;
        drop(inner);
        self.tell();
    }

    /// Moves a chunk to another state.
    pub fn enter(&self, chunk: ChunkId, state: ChunkState) {
        if let Some(entry) = self.lock().tables.get_mut(&chunk.table) {
            entry.copy.enter(chunk.number, state);
        }
        self.tell();
    }

    /// A snapshot is taken for these chunks, which the stream holds meanwhile.
    ///
    /// # Errors
    /// A transaction that it lacks although its changes were passed over: another one has to be taken.
    pub fn snapshot_taken(&self, chunks: &[ChunkId], snapshot: &Arc<Snapshot>) -> Result<(), Xid> {
        let mut inner = self.lock();
        if let Some(reliance) = &mut inner.reliance {
            if let Some(xid) = reliance.lacking_in(snapshot) {
                return Err(xid);
            }
            reliance.seen(snapshot);
        }
        for chunk in chunks {
            if let Some(entry) = inner.tables.get_mut(&chunk.table) {
                entry.copy.enter(chunk.number, ChunkState::Copying(Arc::clone(snapshot)));
            }
        }
        drop(inner);
        self.tell();
        Ok(())
    }

    /// The state of a chunk.
    #[must_use]
    pub fn state(&self, chunk: ChunkId) -> Option<ChunkState> {
        self.lock().tables.get(&chunk.table).and_then(|entry| entry.copy.state(chunk.number).cloned())
    }

    /// Whether all chunks of a table are in.
    #[must_use]
    pub fn is_joined(&self, table: Oid) -> bool {
        self.lock().tables.get(&table).is_none_or(|entry| entry.copy.is_joined())
    }

    /// The stream has passed every snapshot of the table: its changes are applied as those of any other. Not if a chunk of it was
    /// condemned meanwhile; whether it is forgotten comes back.
    #[must_use]
    pub fn forget_if_joined(&self, table: Oid) -> bool {
        let mut inner = self.lock();
        let is_joined = inner.tables.get(&table).is_none_or(|entry| entry.copy.is_joined());
        if is_joined {
            inner.tables.remove(&table);
        }
        drop(inner);
        self.tell();
        is_joined
    }

    /// The source does not have the table any more, and the stream has passed that.
    pub fn forget(&self, table: Oid) {
        let mut inner = self.lock();
        inner.tables.remove(&table);
        inner.planned.remove(&table);
        drop(inner);
        self.tell();
    }

    /// A table's indexes are built: it is like any other.
    pub fn finished(&self, table: Oid) {
        self.lock().planned.remove(&table);
        self.tell();
    }

    /// How many transactions are remembered for later snapshots.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.lock().reliance.as_ref().map_or(0, Reliance::remembered)
    }

    /// Forgets what no snapshot can lack that is taken after this one.
    pub fn seen(&self, snapshot: &Snapshot) {
        if let Some(reliance) = &mut self.lock().reliance {
            reliance.seen(snapshot);
        }
    }

    /// Chunks that have to be copied again since this was last asked.
    #[must_use]
    pub fn take_again(&self) -> Vec<ChunkId> {
        std::mem::take(&mut self.lock().again)
    }

    /// Whether the target has something else than the board says.
    #[must_use]
    pub fn is_distrusted(&self) -> bool {
        self.lock().trust == Trust::No
    }

    /// Nothing is copied any more.
    pub fn end(&self) {
        self.0.is_active.store(false, Ordering::Release);
        self.tell();
    }
}
