//! What the stream does at the meeting: it asks before each transaction whether that may begin, says where it is, and notes what it touches.
//! It is answered at once, and waits elsewhere.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::{Inner, Meeting, Place};
use crate::model::{Lsn, Oid, Xid};

/// Transactions remembered at most until a snapshot shows them (INV-11). Beyond, remembering begins anew.
pub(super) const STREAMED_MAX: usize = 1 << 20;

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

    /// Another stream begins, perhaps at another position.
    pub fn stream_begins(&self) {
        let inner = self.lock();
        if !matches!(inner.place, Place::Apart) {
            self.advance(inner, Some(Place::Broken));
        }
    }
}
