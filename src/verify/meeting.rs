//! Where verification and stream meet. A verification has the stream halt between two transactions, takes a snapshot of the source,
//! has the stream go on exactly as far as that snapshot goes, and takes one of the target there: both then contain the same, but for
//! transactions whose commits the source shows in another order than its WAL has them. Which tables those touch is noted as they pass,
//! so that what differs because of them is never taken for a difference. Decides by transaction ids; knows no server.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::model::{Lsn, Oid, Xid};
use crate::snapshot::Snapshot;

/// Transactions remembered at most until a snapshot shows them (INV-11). Beyond, remembering begins anew.
const STREAMED_MAX: usize = 1 << 20;

/// The meeting place. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meeting(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Asked at every transaction of the stream.
    is_active: AtomicBool,
    changed: watch::Sender<u64>,
    /// One pair of snapshots is taken at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Held until what was streamed before is visible.
    beginning: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    place: Place,
    /// Transactions that the stream has begun since remembering began and that no snapshot has shown; `None`: nothing is remembered.
    streamed: Option<HashSet<Xid>>,
    /// Repairs that are on their way, by their nonce, and what has become of them. Anybody who may write to the source can write what
    /// looks like one: only these are carried out.
    repairs: HashMap<String, Option<Result<u64, String>>>,
}

/// How far the meeting is. Each is entered by the side that is named.
#[derive(Clone, Debug, Default)]
enum Place {
    /// Nobody wants to meet. Verification, by dropping what it holds.
    #[default]
    Apart,
    /// Verification wants the stream to halt before its next transaction.
    Asked,
    /// The stream halts.
    Halted,
    /// Verification has a snapshot of the source: the stream goes on with what that contains.
    Bounded(Bound),
    /// The stream halts; all it was given is committed on the target.
    Reached(Bound),
    /// Verification has a snapshot of the target: the stream goes on, and what the source's snapshot contains besides is noted.
    Passing(Bound, HashSet<Oid>),
    /// The stream has passed everything that the source's snapshot contains.
    Passed(HashSet<Oid>),
    /// The stream broke off meanwhile: what the target has is not known any more.
    Broken,
}

#[derive(Clone, Debug)]
struct Bound {
    snapshot: Arc<Snapshot>,
    /// Every commit that the snapshot contains is before this position of the source's WAL.
    lsn: Lsn,
}

/// What becomes of a transaction that the stream is about to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It begins.
    Goes,
    /// It begins, and the tables it touches are to be [noted](Meeting::touched).
    GoesNoted,
    /// It waits until the meeting has [changed](Meeting::watch).
    Waits,
    /// It waits; everything before it is to be committed, and then [`reached`](Meeting::reached) called.
    WaitsSettled,
}

/// The stream broke off, or does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream was interrupted")]
pub struct Interrupted;

/// Something was streamed that the snapshot does not contain, or more than could be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot lacks a transaction that was streamed")]
pub struct TooEarly;

impl Default for Meeting {
    fn default() -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::default(),
            is_active: AtomicBool::new(false),
            changed: watch::Sender::new(0),
            turn: Arc::default(),
            beginning: tokio::sync::Mutex::default(),
        }))
    }
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, place: Place) {
        let mut inner = self.lock();
        inner.place = place;
        self.0.is_active.store(inner.is_active(), Ordering::Release);
        drop(inner);
        self.tell();
    }

    fn tell(&self) {
        self.0.changed.send_modify(|version| *version += 1);
    }

    /// To be told of changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

impl Inner {
    const fn is_active(&self) -> bool {
        self.streamed.is_some() || !matches!(self.place, Place::Apart | Place::Passed(_) | Place::Broken)
    }
}

/// For verification. The values are stages of one meeting; dropping one lets the stream go on.
impl Meeting {
    /// Remembers what is streamed from here on. What was streamed before has to become visible by itself: `settled` is how that is
    /// waited for, once.
    ///
    /// # Errors
    /// Those of `settled`; then nothing is remembered.
    pub async fn remember<E>(&self, settled: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let _only = self.0.beginning.lock().await;
        if self.begin_to_remember() {
            settled.await.inspect_err(|_| self.forget())?;
        }
        Ok(())
    }

    fn begin_to_remember(&self) -> bool {
        let mut inner = self.lock();
        let is_new = inner.streamed.is_none();
        inner.streamed.get_or_insert_default();
        drop(inner);
        self.0.is_active.store(true, Ordering::Release);
        is_new
    }

    /// Nothing need be remembered any more.
    pub fn forget(&self) {
        let mut inner = self.lock();
        inner.streamed = None;
        self.0.is_active.store(inner.is_active(), Ordering::Release);
    }

    /// A repair is about to be written on the source. Dropping what comes back has it passed over.
    #[must_use]
    pub fn expect_repair(&self, nonce: String) -> ExpectedRepair {
        self.lock().repairs.insert(nonce.clone(), None);
        ExpectedRepair { meeting: self.clone(), nonce }
    }

    /// Waits until no other meeting is under way. Cancel safe.
    pub async fn turn(&self) -> Turn {
        Turn(Stage { meeting: self.clone(), _turn: Arc::clone(&self.0.turn).lock_owned().await })
    }
}

/// A repair on its way.
#[derive(Debug)]
pub struct ExpectedRepair {
    meeting: Meeting,
    nonce: String,
}

impl ExpectedRepair {
    /// Waits until the stream has come to it: how many rows it has replaced, or why it has not. Cancel safe.
    ///
    /// # Errors
    /// Why, in words.
    pub async fn done(&self) -> Result<u64, String> {
        let mut changed = self.meeting.watch();
        loop {
            if let Some(Some(outcome)) = self.meeting.lock().repairs.get(&self.nonce) {
                return outcome.clone();
            }
            // The sender lives as long as the meeting does.
            let _ = changed.changed().await;
        }
    }
}

impl Drop for ExpectedRepair {
    fn drop(&mut self) {
        self.meeting.lock().repairs.remove(&self.nonce);
    }
}

#[derive(Debug)]
struct Stage {
    meeting: Meeting,
    _turn: OwnedMutexGuard<()>,
}

impl Stage {
    async fn until(&self, is_there: impl Fn(&Place) -> bool) -> Result<(), Interrupted> {
        let mut changed = self.meeting.watch();
        loop {
            match &self.meeting.lock().place {
                Place::Broken => return Err(Interrupted),
                place if is_there(place) => return Ok(()),
                _ => {}
            }
            // The sender lives as long as the meeting does.
            let _ = changed.changed().await;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.meeting.enter(Place::Apart);
    }
}

/// Nobody else meets the stream.
#[derive(Debug)]
pub struct Turn(Stage);

impl Turn {
    /// Has the stream halt. Not cancel safe.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub async fn halt(self) -> Result<Halt, Interrupted> {
        self.0.meeting.enter(Place::Asked);
        self.0.until(|place| matches!(place, Place::Halted)).await?;
        Ok(Halt(self.0))
    }
}

/// The stream halts between two transactions.
#[derive(Debug)]
pub struct Halt(Stage);

impl Halt {
    /// The stream goes on with what this snapshot of the source contains, all of which was committed before `lsn`.
    ///
    /// # Errors
    /// [`TooEarly`]: a later snapshot is needed.
    pub fn go_on_to(self, snapshot: Snapshot, lsn: Lsn) -> Result<Approach, TooEarly> {
        let mut inner = self.0.meeting.lock();
        let Some(streamed) = &mut inner.streamed else { return Err(TooEarly) };
        streamed.retain(|xid| !snapshot.contains(*xid));
        if !streamed.is_empty() {
            return Err(TooEarly);
        }
        let is_halted = matches!(inner.place, Place::Halted);
        drop(inner);
        if is_halted {
            self.0.meeting.enter(Place::Bounded(Bound { snapshot: Arc::new(snapshot), lsn }));
        }
        Ok(Approach(self.0))
    }
}

/// The stream goes on as far as the source's snapshot goes.
#[derive(Debug)]
pub struct Approach(Stage);

impl Approach {
    /// Waits until the target has what the source's snapshot contains, and nothing else. Not cancel safe.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub async fn reached(self) -> Result<Same, Interrupted> {
        self.0.until(|place| matches!(place, Place::Reached(_))).await?;
        Ok(Same(self.0))
    }
}

/// Both sides have the same: now is the time for a snapshot of the target.
#[derive(Debug)]
pub struct Same(Stage);

impl Same {
    /// The stream goes on, to whatever comes.
    #[must_use]
    pub fn part(self) -> Passing {
        let mut inner = self.0.meeting.lock();
        if let Place::Reached(bound) = &inner.place {
            inner.place = Place::Passing(bound.clone(), HashSet::new());
        }
        drop(inner);
        self.0.meeting.tell();
        // The turn is given back as soon as the stream has passed, whoever is still comparing.
        Passing(AbortOnDropHandle::new(tokio::spawn(passed(self.0))))
    }
}

async fn passed(stage: Stage) -> Result<HashSet<Oid>, Interrupted> {
    stage.until(|place| matches!(place, Place::Passed(_))).await?;
    match &mut stage.meeting.lock().place {
        Place::Passed(touched) => Ok(std::mem::take(touched)),
        _ => Err(Interrupted),
    }
}

/// The stream passes the rest of what the source's snapshot contains.
#[derive(Debug)]
pub struct Passing(AbortOnDropHandle<Result<HashSet<Oid>, Interrupted>>);

impl Passing {
    /// The tables, by their OID on the source, that the two snapshots may tell apart. Not cancel safe.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub async fn passed(self) -> Result<HashSet<Oid>, Interrupted> {
        self.0.await.unwrap_or(Err(Interrupted))
    }
}

/// For the stream.
impl Meeting {
    /// Whether anything is wanted of the stream.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.0.is_active.load(Ordering::Acquire)
    }

    /// Whether a transaction may begin; everything before it is gathered, and the target has nothing of what comes after it.
    #[must_use]
    pub fn pace(&self, xid: Xid, commit_lsn: Lsn) -> Pace {
        let mut inner = self.lock();
        let (next, pace) = match &mut inner.place {
            Place::Apart | Place::Passed(_) | Place::Broken => (None, Pace::Goes),
            Place::Asked => (Some(Place::Halted), Pace::Waits),
            Place::Halted | Place::Reached(_) => (None, Pace::Waits),
            Place::Bounded(bound) if bound.contains(xid, commit_lsn) => (None, Pace::Goes),
            Place::Bounded(_) => (None, Pace::WaitsSettled),
            Place::Passing(bound, _) if bound.contains(xid, commit_lsn) => (None, Pace::GoesNoted),
            Place::Passing(bound, touched) if commit_lsn >= bound.lsn => {
                (Some(Place::Passed(std::mem::take(touched))), Pace::Goes)
            }
            Place::Passing(..) => (None, Pace::Goes),
        };
        self.advance(inner, next);
        pace
    }

    /// The stream has come to this position and is between two transactions; `true`: everything gathered is to be committed, and then
    /// [`reached`](Self::reached) called.
    #[must_use]
    pub fn has_to_settle_at(&self, position: Lsn) -> bool {
        let mut inner = self.lock();
        let (next, has_to_settle) = match &mut inner.place {
            Place::Asked => (Some(Place::Halted), false),
            Place::Bounded(bound) => (None, position >= bound.lsn),
            Place::Passing(bound, touched) if position >= bound.lsn => {
                (Some(Place::Passed(std::mem::take(touched))), false)
            }
            _ => (None, false),
        };
        self.advance(inner, next);
        has_to_settle
    }

    fn advance(&self, mut inner: MutexGuard<'_, Inner>, next: Option<Place>) {
        let Some(next) = next else { return };
        inner.place = next;
        self.0.is_active.store(inner.is_active(), Ordering::Release);
        drop(inner);
        self.tell();
    }

    /// Everything that the source's snapshot contains is committed on the target.
    pub fn reached(&self) {
        let inner = self.lock();
        if let Place::Bounded(bound) = &inner.place {
            let bound = bound.clone();
            self.advance(inner, Some(Place::Reached(bound)));
        }
    }

    /// A transaction begins.
    pub fn begins(&self, xid: Xid) {
        let mut inner = self.lock();
        match &mut inner.streamed {
            Some(streamed) if streamed.len() >= STREAMED_MAX => inner.streamed = None,
            Some(streamed) => {
                streamed.insert(xid);
            }
            None => {}
        }
    }

    /// A transaction that is to be noted touches this table.
    pub fn touched(&self, relation: Oid) {
        if let Place::Passing(_, touched) = &mut self.lock().place {
            touched.insert(relation);
        }
    }

    /// Whether a repair is one that was asked for.
    #[must_use]
    pub fn expects_repair(&self, nonce: &str) -> bool {
        matches!(self.lock().repairs.get(nonce), Some(None))
    }

    /// The stream has come to a repair.
    pub fn repaired(&self, nonce: &str, outcome: Result<u64, String>) {
        if let Some(known) = self.lock().repairs.get_mut(nonce) {
            *known = Some(outcome);
        }
        self.tell();
    }

    /// Another stream begins, perhaps at another position.
    pub fn stream_begins(&self) {
        let inner = self.lock();
        if !matches!(inner.place, Place::Apart) {
            self.advance(inner, Some(Place::Broken));
        }
    }
}

impl Bound {
    fn contains(&self, xid: Xid, commit_lsn: Lsn) -> bool {
        commit_lsn < self.lsn && self.snapshot.contains(xid)
    }
}

#[cfg(test)]
#[path = "meeting_tests.rs"]
mod tests;
