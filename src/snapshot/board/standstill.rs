//! The copy has the stream stand still for a moment, between two transactions.

use super::CopyBoard;

/// Whether the stream stands still between two transactions, with everything before applied on all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Still {
    #[default]
    NotAsked,
    Asked,
    Reached,
}

impl CopyBoard {
    /// Has the stream stand still; [`Standstill::reached`] says when it does.
    #[must_use]
    pub fn stand_still(&self) -> Standstill {
        self.lock().still = Still::Asked;
        self.tell();
        Standstill(self.clone())
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
