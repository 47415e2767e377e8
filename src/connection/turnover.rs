//! A server that is about to be another one: who operates it (CloudNativePG) has chosen another primary and is not done yet. The address
//! may still lead to the old one, which takes commits that the new one will not have. Whoever watches the operator says so
//! here, and nothing is connected to meanwhile. What was said holds for a while only: a watch that went blind must not keep
//! a migration waiting, and the checks within each session are made in any case.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// How long what was said holds, unless it is said again.
const VALID: Duration = Duration::from_secs(30);

/// Whether a server is being replaced now. Clones share what is known; without anybody who watches it never is.
#[derive(Clone, Default)]
pub struct Turnover {
    said: Arc<RwLock<Option<Said>>>,
    /// How often it was replaced, as far as that was seen.
    times: Arc<AtomicU64>,
    /// The timeline that is written now; 0 if it is not known.
    timeline: Arc<AtomicU32>,
}

/// In words, and when.
type Said = (Arc<str>, Instant);

/// The server that was there at a moment. What it has flushed says nothing of one that has replaced it since.
#[derive(Clone, Debug)]
pub struct Incumbent {
    turnover: Turnover,
    times: u64,
}

impl Incumbent {
    /// Whether it is still there, and not being replaced.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        !self.was_replaced() && self.turnover.under_way().is_none()
    }

    /// Whether another one has taken its place, even if it answers all the same.
    #[must_use]
    pub fn was_replaced(&self) -> bool {
        self.turnover.times.load(Ordering::Acquire) != self.times
    }
}

impl Turnover {
    /// It is being replaced: how, in words for a person, e.g. `cluster shop/shop changes its primary from shop-1 to shop-2`.
    pub fn begins(&self, how: &str) {
        self.set(Some((how.into(), Instant::now())));
    }

    /// Another server has taken its place. Sessions with the old one may still be open.
    pub fn has_happened(&self) {
        self.times.fetch_add(1, Ordering::AcqRel);
    }

    /// This timeline is written now: a primary with an earlier one has been replaced.
    pub fn writes(&self, timeline: u32) {
        self.timeline.fetch_max(timeline, Ordering::AcqRel);
    }

    /// The timeline that is written now, as far as it is known.
    #[must_use]
    pub fn timeline(&self) -> Option<u32> {
        Some(self.timeline.load(Ordering::Acquire)).filter(|timeline| *timeline > 0)
    }

    /// The server that is there now. To be asked for before it is connected to.
    #[must_use]
    pub fn incumbent(&self) -> Incumbent {
        Incumbent { turnover: self.clone(), times: self.times.load(Ordering::Acquire) }
    }

    /// It is not, or not any more.
    pub fn is_over(&self) {
        self.set(None);
    }

    /// How it is being replaced, if it is.
    #[must_use]
    pub fn under_way(&self) -> Option<Arc<str>> {
        let said = self.said.read().unwrap_or_else(PoisonError::into_inner);
        said.as_ref().filter(|(_, at)| at.elapsed() < VALID).map(|(how, _)| Arc::clone(how))
    }

    fn set(&self, said: Option<Said>) {
        *self.said.write().unwrap_or_else(PoisonError::into_inner) = said;
    }
}

/// Settings are the same whatever happens to the server just now.
impl PartialEq for Turnover {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Turnover {}

impl fmt::Debug for Turnover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turnover").field(&self.under_way()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_seen_by_every_clone_until_it_is_over() {
        let watched = Turnover::default();
        let seen = watched.clone();
        assert_eq!(seen.under_way(), None);
        watched.begins("a becomes b");
        assert_eq!(seen.under_way().as_deref(), Some("a becomes b"));
        watched.is_over();
        assert_eq!(seen.under_way(), None);
    }

    #[test]
    fn an_incumbent_is_steady_until_it_is_being_replaced_and_never_again_once_it_was() {
        let watched = Turnover::default();
        let first = watched.clone().incumbent();
        assert!(first.is_steady());
        watched.begins("a becomes b");
        assert!(!first.is_steady() && !first.was_replaced());
        watched.has_happened();
        watched.is_over();
        assert!(!first.is_steady() && first.was_replaced());
        assert!(watched.incumbent().is_steady());
    }

    #[test]
    fn what_nobody_has_said_for_long_does_not_hold_any_more() {
        let turnover = Turnover::default();
        let long_ago = Instant::now().checked_sub(VALID).expect("an instant");
        turnover.set(Some(("a becomes b".into(), long_ago)));
        assert_eq!(turnover.under_way(), None);
    }
}
