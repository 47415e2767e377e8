//! Where the stream meets verification: it halts between two transactions when it is asked to, goes on as far as a snapshot of the
//! source goes, and tells which tables are touched by what that snapshot contains besides.

use super::{Gatherer, Noted};
use crate::model::Oid;
use crate::stream::assemble::TransactionStart;
use crate::stream::error::StreamError;
use crate::verify::Pace;

impl Gatherer {
    /// How a transaction may begin; `None`: it has to wait until the [meeting](Self::wait_for_verification) has changed.
    pub(super) async fn meets_before(
        &mut self,
        start: TransactionStart,
    ) -> Result<Option<Noted>, StreamError> {
        if !self.meeting.is_active() {
            return Ok(Some(Noted::No));
        }
        // Before the look: what changes after it is waited for.
        self.meeting_changed.mark_unchanged();
        // A connection that is ahead of the others after a start has more than what was begun here: nobody is met before that.
        let is_even = self.lanes.iter().all(|lane| start.commit_lsn >= lane.recorded);
        let pace = if is_even { self.meeting.pace(start.xid, start.commit_lsn) } else { Pace::Goes };
        let noted = match pace {
            Pace::Goes => Noted::No,
            Pace::GoesNoted => Noted::ForVerification,
            Pace::Waits => return Ok(None),
            Pace::WaitsSettled => {
                self.settle().await?;
                self.meeting.reached();
                return Ok(None);
            }
        };
        self.meeting.begins(start.xid);
        Ok(Some(noted))
    }

    /// Meets verification while nothing comes.
    pub(in crate::stream) async fn meet_if_asked(&mut self) -> Result<(), StreamError> {
        if self.transaction.is_some() || !self.meeting.is_active() {
            return Ok(());
        }
        self.meeting_changed.mark_unchanged();
        let is_even = self.lanes.iter().all(|lane| self.position >= lane.recorded);
        if is_even && self.meeting.has_to_settle_at(self.position) {
            self.settle().await?;
            self.meeting.reached();
        }
        Ok(())
    }

    /// Waits until the meeting has changed. Cancel safe.
    pub(in crate::stream) async fn wait_for_verification(&mut self) {
        // The sender lives as long as the meeting does.
        let _ = self.meeting_changed.changed().await;
    }

    /// A change of the transaction under way is of this table.
    pub(super) fn note(&self, relation: Oid) {
        if self.transaction.as_ref().is_some_and(|transaction| transaction.noted == Noted::ForVerification) {
            self.meeting.touched(relation);
        }
    }
}
