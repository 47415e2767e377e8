//! Whether reading in bulk is not to be tried for now, because it did not work. Shared by the attempts to stream of one
//! process; forgotten with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long it is not tried again after it failed.
const WITHHELD_FOR: Duration = Duration::from_secs(300);

/// Until when reading in bulk is withheld. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::stream) struct Withheld(Arc<Mutex<Option<Instant>>>);

impl Withheld {
    /// Withholds it from now on for five minutes.
    pub(in crate::stream) fn for_a_while(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// It is worth trying again.
    pub(in crate::stream) fn lift(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether it is withheld.
    pub(super) fn is_on(&self) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < WITHHELD_FOR)
    }
}
