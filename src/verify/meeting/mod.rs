//! Where verification and stream meet. A verification has the stream halt between two transactions, takes a snapshot of the source,
//! has the stream go on exactly as far as that snapshot goes, and takes one of the target there: both then contain the same, but for
//! transactions whose commits the source shows in another order than its WAL has them. Which tables those touch is noted as they pass,
//! so that what differs because of them is never taken for a difference. Decides by transaction ids; knows no server. Here is what both
//! share; [`stages`] is verification's side of it, [`stream`] the stream's, and [`repairs`] what the one sends to the other.

mod repairs;
mod stages;
mod stream;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub(super) use stages::Passing;
pub use stream::Pace;

use crate::model::{Lsn, Oid, Xid};
use crate::snapshot::Snapshot;

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

impl Bound {
    fn contains(&self, xid: Xid, commit_lsn: Lsn) -> bool {
        commit_lsn < self.lsn && self.snapshot.contains(xid)
    }
}

/// The stream broke off, or does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream was interrupted")]
pub struct Interrupted;

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

#[cfg(test)]
mod tests;
