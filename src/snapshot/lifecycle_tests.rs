//! The algorithm against a model of PostgreSQL: transactions that overlap, roll back in part, are prepared, and become
//! visible later than they are in the WAL; snapshots of chunks at any moment; a stream that reads at its own pace; a process
//! that is killed. Whatever happens, both sides hold the same rows in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::snapshot::reliance::Reliance;

/// A row: a small value, and one that is out of line.
type Row = (u32, u32);
type Rows = BTreeMap<i64, Row>;

const KEYS: i64 = 12;
/// Where the ids begin: so that some histories pass the end of 32 bits.
const FIRST_XIDS: [u64; 3] = [700, (1 << 32) - 20, (5 << 32) - 3];

#[derive(Clone, Debug)]
enum Change {
    Insert(i64, Row),
    /// `toast` is `None` where the statement did not change it, and the WAL does not have it.
    Update {
        from: i64,
        to: i64,
        value: u32,
        toast: Option<u32>,
    },
    Delete(i64),
    Truncate,
}

/// A transaction that has not ended, or is in the WAL and not visible.
#[derive(Clone, Debug)]
struct Open {
    changes: Vec<Change>,
    locks: BTreeSet<i64>,
    in_wal: bool,
}

struct Source {
    next: u64,
    /// What every snapshot taken now sees.
    visible: Rows,
    open: BTreeMap<u64, Open>,
    /// The highest id that has ended, as `latestCompletedXid`.
    latest_ended: u64,
    wal: VecDeque<(Xid, Vec<Change>)>,
}

fn low(full: u64) -> Xid {
    Xid(u32::try_from(full % (1 << 32)).unwrap())
}

fn make(rows: &mut Rows, change: &Change) {
    match *change {
        Change::Insert(key, row) => assert_eq!(rows.insert(key, row), None, "INV-6: there already"),
        Change::Update { from, to, value, toast } => {
            let before = rows.remove(&from).expect("INV-6: not there");
            assert_eq!(rows.insert(to, (value, toast.unwrap_or(before.1))), None, "INV-6: there already");
        }
        Change::Delete(key) => assert!(rows.remove(&key).is_some(), "INV-6: not there"),
        Change::Truncate => rows.clear(),
    }
}

impl Source {
    fn new(random: &mut StdRng) -> Self {
        let first = FIRST_XIDS[random.random_range(0..FIRST_XIDS.len())];
        let rows = (0..KEYS).filter(|_| random.random_bool(0.6)).map(|key| (key, (0, key as u32))).collect();
        Self {
            next: first,
            visible: rows,
            open: BTreeMap::new(),
            latest_ended: first - 1,
            wal: VecDeque::new(),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let xmax = self.latest_ended + 1;
        let running: Vec<u64> = self.open.keys().copied().filter(|xid| *xid < xmax).collect();
        let xmin = running.first().copied().unwrap_or(xmax);
        let list: Vec<String> = running.iter().map(u64::to_string).collect();
        format!("{xmin}:{xmax}:{}", list.join(",")).parse().unwrap()
    }

    fn is_being_emptied(&self) -> bool {
        self.open.values().any(|open| open.changes.iter().any(|change| matches!(change, Change::Truncate)))
    }

    fn step(&mut self, random: &mut StdRng) {
        match random.random_range(0..10) {
            0..2 if self.open.len() < 4 => {
                let open = Open { changes: Vec::new(), locks: BTreeSet::new(), in_wal: false };
                self.open.insert(self.next, open);
                self.next += 1;
            }
            2..6 => self.change(random),
            6..8 => self.end(random),
            _ => self.become_visible(random),
        }
    }

    /// A random transaction that has not committed makes a random change, or a subtransaction of it is rolled back.
    fn change(&mut self, random: &mut StdRng) {
        let running: Vec<u64> =
            self.open.iter().filter(|(_, open)| !open.in_wal).map(|(xid, _)| *xid).collect();
        if running.is_empty() || self.is_being_emptied() {
            return;
        }
        let xid = running[random.random_range(0..running.len())];
        let is_alone = self.open.len() == 1;
        let locked: BTreeSet<i64> = self
            .open
            .iter()
            .filter(|(other, _)| **other != xid)
            .flat_map(|(_, open)| open.locks.iter().copied())
            .collect();
        let open = self.open.get_mut(&xid).unwrap();
        let mut own = self.visible.clone();
        open.changes.iter().for_each(|change| make(&mut own, change));
        if random.random_range(0..12) == 0 {
            // Rolled back to a savepoint; its locks may stay, which only keeps others out.
            open.changes.truncate(random.random_range(0..=open.changes.len()));
            return;
        }
        if is_alone && random.random_range(0..25) == 0 {
            open.changes.push(Change::Truncate);
            return;
        }
        let (key, other) = (random.random_range(0..KEYS), random.random_range(0..KEYS));
        let value = random.random_range(0..1_000);
        let toast = random.random_bool(0.4).then(|| random.random_range(0..1_000));
        let to = if random.random_bool(0.4) && !own.contains_key(&other) { other } else { key };
        if locked.contains(&key) || locked.contains(&to) {
            return;
        }
        open.locks.extend([key, to]);
        open.changes.push(match own.get(&key) {
            None => Change::Insert(key, (value, toast.unwrap_or(7))),
            Some(_) if random.random_bool(0.25) => Change::Delete(key),
            Some(_) => Change::Update { from: key, to, value, toast },
        });
    }

    /// One commits, also one that was prepared, or rolls back.
    fn end(&mut self, random: &mut StdRng) {
        let running: Vec<u64> =
            self.open.iter().filter(|(_, open)| !open.in_wal).map(|(xid, _)| *xid).collect();
        let Some(xid) = running.get(random.random_range(0..running.len().max(1))).copied() else { return };
        if random.random_bool(0.15) {
            self.open.remove(&xid);
            self.latest_ended = self.latest_ended.max(xid);
            return;
        }
        let open = self.open.get_mut(&xid).unwrap();
        open.in_wal = true;
        self.wal.push_back((low(xid), open.changes.clone()));
        if random.random_bool(0.6) {
            self.show(xid);
        }
    }

    fn become_visible(&mut self, random: &mut StdRng) {
        let waiting: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.in_wal).map(|(xid, _)| *xid).collect();
        if !waiting.is_empty() {
            self.show(waiting[random.random_range(0..waiting.len())]);
        }
    }

    fn show(&mut self, xid: u64) {
        let open = self.open.remove(&xid).unwrap();
        self.latest_ended = self.latest_ended.max(xid);
        open.changes.iter().for_each(|change| make(&mut self.visible, change));
    }

    fn show_all(&mut self) {
        let waiting: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.in_wal).map(|(xid, _)| *xid).collect();
        waiting.into_iter().for_each(|xid| self.show(xid));
    }
}

/// Copy and stream of one process, and what the target has committed.
struct Sluice {
    source: Source,
    table: TableCopy,
    ranges: Vec<KeyRange>,
    reliance: Reliance,
    /// Rows on their way, by chunk.
    under_way: BTreeMap<usize, Rows>,
    target: Rows,
    /// Transactions of the WAL that are applied.
    applied: usize,
    /// Of the next one: changes that are through, the target with them, and what its commit condemns.
    half: Option<(usize, Rows, BTreeSet<usize>)>,
    /// What would be read from the target after a crash.
    recorded: Vec<ChunkState>,
    held: u64,
    condemned: u64,
}

impl Sluice {
    fn new(random: &mut StdRng) -> Self {
        let mut source = Source::new(random);
        for _ in 0..random.random_range(0..30) {
            source.step(random);
        }
        let mut bounds: Vec<i64> = (1..KEYS).filter(|_| random.random_bool(0.25)).collect();
        bounds.insert(0, i64::MIN);
        let key = |bound: Option<&i64>| bound.copied().filter(|bound| *bound > i64::MIN).map(Key::Integer);
        let ranges: Vec<KeyRange> = (0..bounds.len())
            .map(|index| KeyRange { first: key(bounds.get(index)), end: key(bounds.get(index + 1)) })
            .collect();
        // The slot: what is in the WAL counts as committed, visible or not; what runs is decoded as a whole.
        let slot = {
            let mut later = Source {
                visible: source.visible.clone(),
                open: source.open.clone(),
                wal: VecDeque::new(),
                ..source
            };
            later.show_all();
            let snapshot = later.snapshot();
            source.wal.clear();
            snapshot
        };
        let states = vec![ChunkState::Pending; ranges.len()];
        Self {
            source,
            table: TableCopy::new(ranges.iter().copied().zip(states.iter().cloned()).collect()),
            ranges,
            reliance: Reliance::new(slot),
            under_way: BTreeMap::new(),
            target: Rows::new(),
            applied: 0,
            half: None,
            recorded: states,
            held: 0,
            condemned: 0,
        }
    }

    fn copy_step(&mut self, random: &mut StdRng) {
        let chunk = random.random_range(0..self.ranges.len());
        match self.table.state(chunk).cloned().unwrap() {
            ChunkState::Pending => self.table.enter(chunk, ChunkState::Snapshotting),
            ChunkState::Snapshotting => {
                let snapshot = self.source.snapshot();
                // The lock on the table is not to be had while it is being emptied, and then a new snapshot is taken.
                if self.source.is_being_emptied() || self.reliance.lacking_in(&snapshot).is_some() {
                    return;
                }
                self.reliance.seen(&snapshot);
                let rows = self.source.visible.iter().map(|(key, row)| (*key, *row));
                let rows = rows.filter(|(key, _)| self.ranges[chunk].contains(Key::Integer(*key))).collect();
                self.under_way.insert(chunk, rows);
                self.table.enter(chunk, ChunkState::Copying(Arc::new(snapshot)));
            }
            ChunkState::Copying(_) if random.random_bool(0.1) => {
                self.under_way.remove(&chunk);
                self.table.enter(chunk, ChunkState::Pending);
            }
            ChunkState::Copying(snapshot) => {
                let rows = self.under_way.remove(&chunk).unwrap();
                let range = self.ranges[chunk];
                let place = |target: &mut Rows| {
                    target.retain(|key, _| !range.contains(Key::Integer(*key)));
                    target.extend(rows.iter().map(|(key, row)| (*key, *row)));
                };
                place(&mut self.target);
                if let Some((_, half, _)) = &mut self.half {
                    place(half);
                }
                self.recorded[chunk] = ChunkState::Joined(Arc::clone(&snapshot));
                self.table.enter(chunk, ChunkState::Joined(snapshot));
            }
            ChunkState::Condemned | ChunkState::Joined(_) => {}
        }
    }

    /// The next change of the stream, or the commit after the last one.
    fn stream_step(&mut self) {
        let Some((xid, changes)) = self.source.wal.get(self.applied).cloned() else { return };
        let (at, mut half, mut condemned) =
            self.half.take().unwrap_or_else(|| (0, self.target.clone(), BTreeSet::new()));
        let Some(change) = changes.get(at) else {
            // Commit: rows, progress and what is condemned in one transaction.
            self.target = half;
            self.applied += 1;
            for chunk in condemned {
                self.recorded[chunk] = ChunkState::Pending;
                self.table.enter(chunk, ChunkState::Pending);
            }
            return;
        };
        match self.effect(change, xid) {
            Effect::Hold => {
                self.held += 1;
                self.half = Some((at, half, condemned));
                return;
            }
            Effect::Discard { relies_on_later } => self.rely(relies_on_later, xid),
            Effect::Apply => make(&mut half, change),
            Effect::RowGone { relies_on_later } => {
                self.rely(relies_on_later, xid);
                let Change::Update { from, .. } = change else { unreachable!() };
                make(&mut half, &Change::Delete(*from));
            }
            Effect::RowNew { chunk, relies_on_later } => {
                self.rely(relies_on_later, xid);
                let Change::Update { to, value, toast, .. } = change else { unreachable!() };
                match toast {
                    Some(toast) => make(&mut half, &Change::Insert(*to, (*value, *toast))),
                    None => self.condemn(&[chunk], xid, &mut condemned),
                }
            }
            Effect::Condemn(chunks) => self.condemn(&chunks, xid, &mut condemned),
        }
        self.half = Some((at + 1, half, condemned));
    }

    fn effect(&self, change: &Change, xid: Xid) -> Effect {
        let key = |key: i64| Some(Key::Integer(key));
        match *change {
            Change::Insert(at, _) | Change::Delete(at) => self.table.effect(Touched::One(key(at)), xid),
            Change::Update { from, to, .. } => self.table.effect(Touched::Moved(key(from), key(to)), xid),
            Change::Truncate => Some(self.table.truncated(xid)),
        }
        .unwrap()
    }

    fn rely(&mut self, relies_on_later: bool, xid: Xid) {
        if relies_on_later {
            self.reliance.on(xid);
        }
    }

    fn condemn(&mut self, chunks: &[usize], xid: Xid, condemned: &mut BTreeSet<usize>) {
        self.condemned += 1;
        self.reliance.on(xid);
        for chunk in chunks {
            self.table.enter(*chunk, ChunkState::Condemned);
            condemned.insert(*chunk);
        }
    }

    /// Nothing is left but what the target has recorded. The next process takes no snapshot while a commit that is in the
    /// WAL is not visible: it does not know which of them were streamed.
    fn crash(&mut self) {
        self.source.show_all();
        self.under_way.clear();
        self.half = None;
        let chunks = self.ranges.iter().copied().zip(self.recorded.iter().cloned());
        self.table = TableCopy::new(chunks.collect());
        let slot = self.reliance.clone();
        self.reliance = slot.forgetful();
    }
}

impl Reliance {
    fn forgetful(self) -> Self {
        Self { streamed: std::collections::HashSet::new(), last: None, ..self }
    }
}

fn run(seed: u64) -> (u64, u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut sluice = Sluice::new(&mut random);
    for _ in 0..random.random_range(50..400) {
        match random.random_range(0..100) {
            0..45 => sluice.source.step(&mut random),
            45..65 => sluice.copy_step(&mut random),
            65..99 => sluice.stream_step(),
            _ => sluice.crash(),
        }
    }
    // The source rests; everything else comes to its end.
    let running: Vec<u64> =
        sluice.source.open.iter().filter(|(_, open)| !open.in_wal).map(|(xid, _)| *xid).collect();
    for xid in running {
        sluice.source.open.remove(&xid);
        sluice.source.latest_ended = sluice.source.latest_ended.max(xid);
    }
    sluice.source.show_all();
    let mut steps = 0;
    while !(sluice.table.is_joined() && sluice.applied == sluice.source.wal.len()) {
        sluice.copy_step(&mut random);
        sluice.stream_step();
        steps += 1;
        assert!(steps < 20_000, "seed {seed}: it does not come to an end");
    }
    assert_eq!(sluice.target, sluice.source.visible, "seed {seed}");
    (sluice.held, sluice.condemned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn whatever_happens_both_sides_hold_the_same_rows_in_the_end(seed: u64) {
        run(seed);
    }
}

#[test]
fn the_histories_hold_changes_and_condemn_chunks() {
    let (mut held, mut condemned) = (0, 0);
    for seed in 0..200 {
        let counts = run(seed);
        held += counts.0;
        condemned += counts.1;
    }
    assert!(held > 100 && condemned > 20, "{held} held, {condemned} condemned");
}

#[test]
fn a_chunk_of_a_table_without_ranges_takes_rows_of_any_key() {
    let table = TableCopy::new(vec![(KeyRange::ALL, ChunkState::Snapshotting)]);
    assert_eq!(table.effect(Touched::One(None), Xid(5)), Some(Effect::Hold));
    let two = TableCopy::new(vec![
        (KeyRange { first: None, end: Some(Key::Integer(3)) }, ChunkState::Pending),
        (KeyRange { first: Some(Key::Integer(3)), end: None }, ChunkState::Pending),
    ]);
    assert_eq!(two.effect(Touched::One(None), Xid(5)), None);
    assert_eq!(two.chunk_of(Some(Key::Integer(2))), Some(0));
    assert_eq!(two.chunk_of(Some(Key::Integer(3))), Some(1));
}
