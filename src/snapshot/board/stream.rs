//! What the stream asks the board: what becomes of a change, and whether it can be asked at all. What a change relies on later snapshots
//! for is remembered as it is answered.

use super::{ChunkId, CopyBoard, Inner, RangedBy};
use crate::model::{Oid, Xid};
use crate::snapshot::lifecycle::{ChunkState, Effect, Touched};

impl CopyBoard {
    /// How the chunk of a row of this relation is found; `None` if it is not being copied.
    #[must_use]
    pub fn routing(&self, relation: Oid) -> Option<Option<RangedBy>> {
        self.lock().tables.get(&relation).map(|entry| entry.ranged_by.clone())
    }

    /// Whether the relation is being copied.
    #[must_use]
    pub fn has(&self, relation: Oid) -> bool {
        self.lock().tables.contains_key(&relation)
    }

    /// What becomes of a change of transaction `xid`; `None` when its chunk cannot be told. What is discarded is
    /// remembered for later snapshots.
    #[must_use]
    pub fn effect(&self, relation: Oid, touched: Touched, xid: Xid) -> Option<Effect> {
        let mut inner = self.lock();
        let effect = match inner.tables.get(&relation) {
            None => Some(Effect::Apply),
            Some(entry) => entry.copy.effect(touched, xid),
        };
        inner.rely(effect.as_ref(), xid);
        effect
    }

    /// The same of the table's being emptied.
    #[must_use]
    pub fn truncated(&self, relation: Oid, xid: Xid) -> Effect {
        let mut inner = self.lock();
        let effect = inner.tables.get(&relation).map_or(Effect::Apply, |entry| entry.copy.truncated(xid));
        inner.rely(Some(&effect), xid);
        effect
    }

    /// Transaction `xid` makes these chunks worthless; `chunks` is `None` for all of the table that are in. Those chunks
    /// come back: they are to be recorded as pending in the transaction that applies `xid`.
    #[must_use]
    pub fn condemn(&self, relation: Oid, chunks: Option<&[usize]>, xid: Xid) -> Vec<ChunkId> {
        let mut inner = self.lock();
        if let Some(reliance) = &mut inner.reliance {
            reliance.on(xid);
        }
        let Some(entry) = inner.tables.get_mut(&relation) else { return Vec::new() };
        let all: Vec<usize> = (0..entry.copy.len()).collect();
        let mut condemned = Vec::new();
        for number in chunks.unwrap_or(&all) {
            if let Some(ChunkState::Joined(_)) = entry.copy.state(*number) {
                entry.copy.enter(*number, ChunkState::Condemned);
                condemned.push(ChunkId { table: relation, number: *number });
            }
        }
        condemned
    }

    /// What was condemned is recorded as pending, by a committed transaction.
    pub fn condemned(&self, chunks: &[ChunkId]) {
        let mut inner = self.lock();
        for chunk in chunks {
            if let Some(entry) = inner.tables.get_mut(&chunk.table)
                && entry.copy.state(chunk.number) == Some(&ChunkState::Condemned)
            {
                entry.copy.enter(chunk.number, ChunkState::Pending);
                inner.again.push(*chunk);
            }
        }
        drop(inner);
        self.tell();
    }

    /// Whether a chunk of the relation is on its way.
    #[must_use]
    pub fn is_under_way(&self, relation: Oid) -> bool {
        let inner = self.lock();
        let Some(entry) = inner.tables.get(&relation) else { return false };
        let is_under_way =
            |state: &ChunkState| matches!(state, ChunkState::Snapshotting | ChunkState::Copying(_));
        (0..entry.copy.len()).filter_map(|number| entry.copy.state(number)).any(is_under_way)
    }

    /// Whether the initial copy of the table is not over: nobody else may copy it.
    #[must_use]
    pub fn is_planned(&self, table: Oid) -> bool {
        self.is_active() && self.lock().planned.contains(&table)
    }

    /// Waits until the board says what the target has recorded. Cancel safe.
    pub async fn trusted(&self) {
        let mut changed = self.watch();
        while self.is_active() && self.is_distrusted() {
            let _ = changed.changed().await;
        }
    }
}

impl Inner {
    fn rely(&mut self, effect: Option<&Effect>, xid: Xid) {
        let relies = matches!(
            effect,
            Some(
                Effect::Discard { relies_on_later: true }
                    | Effect::RowGone { relies_on_later: true }
                    | Effect::RowNew { relies_on_later: true, .. }
            )
        );
        if let (true, Some(reliance)) = (relies, &mut self.reliance) {
            reliance.on(xid);
        }
    }
}
