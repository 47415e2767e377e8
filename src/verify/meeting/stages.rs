//! What verification does at the meeting: it remembers what is streamed, waits for its turn, and goes from stage to stage. Each stage is a
//! value that only the one before it gives; dropping one lets the stream go on.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedMutexGuard;
use tokio_util::task::AbortOnDropHandle;

use super::{Bound, Interrupted, Meeting, Place};
use crate::model::{Lsn, Oid};
use crate::snapshot::Snapshot;

/// Something was streamed that the snapshot does not contain, or more than could be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot lacks a transaction that was streamed")]
pub struct TooEarly;

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

    pub(super) fn begin_to_remember(&self) -> bool {
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

    /// Waits until no other meeting is under way. Cancel safe.
    pub async fn turn(&self) -> Turn {
        Turn(Stage { meeting: self.clone(), _turn: Arc::clone(&self.0.turn).lock_owned().await })
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
