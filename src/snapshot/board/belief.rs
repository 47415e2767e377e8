//! What the board takes to be recorded on the target, held against what is: where the target has lost the end of it, the copy reads its
//! records anew.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::standstill::Still;
use super::{ChunkId, CopyBoard, Trust};
use crate::model::Oid;
use crate::snapshot::lifecycle::ChunkState;
use crate::snapshot::visibility::Snapshot;

/// What the board took to be recorded on the target, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Believed {
    /// Tables on the board.
    tables: HashSet<Oid>,
    /// Their chunks that are in or condemned.
    chunks: HashMap<ChunkId, ChunkState>,
    /// The loading that it was of.
    loads: u64,
}

impl CopyBoard {
    /// What the target must have recorded, if nothing was lost.
    #[must_use]
    pub fn believed(&self) -> Believed {
        let inner = self.lock();
        let mut believed = Believed {
            tables: inner.tables.keys().copied().collect(),
            chunks: HashMap::new(),
            loads: inner.loads,
        };
        for (table, entry) in &inner.tables {
            for number in 0..entry.copy.len() {
                if let Some(state @ (ChunkState::Joined(_) | ChunkState::Condemned)) =
                    entry.copy.state(number)
                {
                    believed.chunks.insert(ChunkId { table: *table, number }, state.clone());
                }
            }
        }
        believed
    }

    /// Holds what was believed before against what the target has recorded, at the beginning of a stream: a target that failed
    /// over may have lost the end of it, and a stream that broke off may not have committed what it condemned.
    /// `recorded` has every chunk of every table that the stream has not passed: the snapshot of those that are in.
    ///
    /// `false`: it has been loaded meanwhile, and all of this is to be done again.
    #[must_use]
    pub fn compare(&self, believed: &Believed, recorded: &HashMap<ChunkId, Option<Arc<Snapshot>>>) -> bool {
        let mut inner = self.lock();
        if inner.loads != believed.loads {
            return false;
        }
        if inner.still == Still::Reached {
            inner.still = Still::Asked;
        }
        let mut is_lost = recorded.keys().any(|chunk| !believed.tables.contains(&chunk.table));
        for (chunk, state) in &believed.chunks {
            let Some(entry) = inner.tables.get_mut(&chunk.table) else { continue };
            let state = if *state == ChunkState::Condemned {
                entry.copy.state(chunk.number).cloned()
            } else {
                Some(state.clone())
            };
            let Some(state) = state else { continue };
            match (state, recorded.get(chunk)) {
                // The stream has passed its table meanwhile.
                (_, None) => {}
                (ChunkState::Condemned, Some(Some(snapshot))) => {
                    entry.copy.enter(chunk.number, ChunkState::Joined(Arc::clone(snapshot)));
                }
                (ChunkState::Condemned, Some(None)) => {
                    entry.copy.enter(chunk.number, ChunkState::Pending);
                    inner.again.push(*chunk);
                }
                (_, Some(Some(_))) => {}
                (_, Some(None)) => is_lost = true,
            }
        }
        if is_lost {
            inner.trust = Trust::No;
        }
        drop(inner);
        self.tell();
        true
    }
}
