//! What the copy and the stream know of one another while both run: the state of every chunk, the transactions that later
//! snapshots must contain, and whether the stream stands still. The copy moves chunks on, the stream asks what becomes of its
//! changes; neither ever waits for the other under the lock.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::key::{KeyKind, KeyRange};
use super::lifecycle::{ChunkState, Effect, TableCopy, Touched};
use super::reliance::Reliance;
use super::visibility::Snapshot;
use crate::model::{Oid, Xid};

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

/// Whether the stream stands still between two transactions, with everything before applied on all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Still {
    #[default]
    NotAsked,
    Asked,
    Reached,
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

/// For the copy.
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

    /// Has the stream stand still; [`Standstill::reached`] says when it does.
    #[must_use]
    pub fn stand_still(&self) -> Standstill {
        self.lock().still = Still::Asked;
        self.tell();
        Standstill(self.clone())
    }

    /// Nothing is copied any more.
    pub fn end(&self) {
        self.0.is_active.store(false, Ordering::Release);
        self.tell();
    }
}

/// As long as it lives, the stream applies nothing once it stands still.
#[derive(Debug)]
pub struct Standstill(CopyBoard);

impl Standstill {
    /// Waits until everything up to one commit of the source is applied, and nothing after it. Cancel safe.
    pub async fn reached(&self) {
        let mut changed = self.0.watch();
        while self.0.lock().still != Still::Reached {
            // The sender lives as long as the board does.
            let _ = changed.changed().await;
        }
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        self.0.lock().still = Still::NotAsked;
        self.0.tell();
    }
}

/// For the stream.
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

    /// Whether the stream is asked to stand still.
    #[must_use]
    pub fn wants_standstill(&self) -> bool {
        self.is_active() && self.lock().still != Still::NotAsked
    }

    /// Between two transactions, with everything gathered committed: the stream stands still if it is asked to.
    pub fn stands_still(&self) {
        let mut inner = self.lock();
        if inner.still == Still::Asked {
            inner.still = Still::Reached;
            drop(inner);
            self.tell();
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

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: ChunkId = ChunkId { table: Oid(7), number: 0 };

    fn snapshot(text: &str) -> Arc<Snapshot> {
        Arc::new(text.parse().unwrap())
    }

    fn board(state: ChunkState) -> CopyBoard {
        let board = CopyBoard::copying();
        let entry = CopyEntry { copy: TableCopy::new(vec![(KeyRange::ALL, state)]), ranged_by: None };
        board.load(HashMap::from([(Oid(7), entry)]), HashSet::new(), "10:10:".parse().unwrap());
        board
    }

    #[test]
    fn a_snapshot_without_what_was_passed_over_is_refused() {
        let board = board(ChunkState::Pending);
        let effect = board.effect(Oid(7), Touched::One(None), Xid(20));
        assert_eq!(effect, Some(Effect::Discard { relies_on_later: true }));
        board.enter(CHUNK, ChunkState::Snapshotting);
        assert_eq!(board.snapshot_taken(&[CHUNK], &snapshot("20:21:20")), Err(Xid(20)));
        assert_eq!(board.state(CHUNK), Some(ChunkState::Snapshotting));
        assert_eq!(board.snapshot_taken(&[CHUNK], &snapshot("21:21:")), Ok(()));
        assert_eq!(board.effect(Oid(8), Touched::One(None), Xid(20)), Some(Effect::Apply), "another table");
    }

    #[test]
    fn what_a_stream_condemned_without_committing_it_is_in_again() {
        let joined = ChunkState::Joined(snapshot("15:15:"));
        let board = board(joined.clone());
        assert_eq!(board.condemn(Oid(7), None, Xid(30)), [CHUNK]);
        let believed = board.believed();
        let _ = board.compare(&believed, &HashMap::from([(CHUNK, Some(snapshot("15:15:")))]));
        assert_eq!(board.state(CHUNK), Some(joined));
        assert_eq!(board.condemn(Oid(7), None, Xid(30)), [CHUNK]);
        let _ = board.compare(&board.believed(), &HashMap::from([(CHUNK, None)]));
        assert_eq!((board.state(CHUNK), board.take_again()), (Some(ChunkState::Pending), vec![CHUNK]));
        assert!(!board.is_distrusted());
    }

    #[test]
    fn what_a_stream_has_condemned_stays_so_when_the_copy_reads_the_records_anew() {
        let board = board(ChunkState::Joined(snapshot("15:15:")));
        assert_eq!(board.condemn(Oid(7), None, Xid(30)), [CHUNK]);
        let joined = ChunkState::Joined(snapshot("15:15:"));
        let entry = CopyEntry::new(vec![(KeyRange::ALL, joined)], None);
        board.load(HashMap::from([(Oid(7), entry)]), HashSet::new(), "10:10:".parse().unwrap());
        assert_eq!(board.state(CHUNK), Some(ChunkState::Condemned));
        board.condemned(&[CHUNK]);
        assert_eq!(board.take_again(), [CHUNK]);
    }

    #[test]
    fn a_target_that_has_lost_a_chunk_makes_the_copy_read_its_records_anew() {
        let board = board(ChunkState::Joined(snapshot("15:15:")));
        let _ = board.compare(&board.believed(), &HashMap::from([(CHUNK, None)]));
        assert!(board.is_distrusted());
        board.load(HashMap::new(), HashSet::new(), "10:10:".parse().unwrap());
        let _ = board.compare(&board.believed(), &HashMap::from([(CHUNK, None)]));
        assert!(board.is_distrusted(), "a table that was done with is not");
    }

    #[tokio::test]
    async fn the_stream_stands_still_for_as_long_as_it_is_asked_to() {
        let board = board(ChunkState::Pending);
        board.stands_still();
        assert!(!board.wants_standstill());
        let still = board.stand_still();
        assert!(board.wants_standstill());
        board.stands_still();
        still.reached().await;
        let _ = board.compare(&board.believed(), &HashMap::new());
        assert!(board.wants_standstill(), "another stream has to reach it again");
        drop(still);
        assert!(!board.wants_standstill());
    }
}
