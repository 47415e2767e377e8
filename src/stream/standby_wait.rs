//! Tells on the status board that nothing is confirmed to the source for want of standbys of the target, and when that is
//! over. Changes are applied all the same, so a problem of the stream itself comes first.

use jiff::Timestamp;

use crate::migration::{Blocking, Problem, StatusBoard};
use crate::target::standbys::StandbyShortage;

/// What one attempt tells of the target's standbys.
#[derive(Debug)]
pub(super) struct StandbyWait {
    board: StatusBoard,
    told: Option<StandbyShortage>,
}

impl StandbyWait {
    /// Nothing is waited for yet.
    pub(super) const fn new(board: StatusBoard) -> Self {
        Self { board, told: None }
    }

    /// Nothing can be confirmed. Said again as long as it is so, because another problem may have come and gone meanwhile.
    pub(super) fn for_want_of(&mut self, shortage: StandbyShortage) {
        let (message, remedy) = (shortage.to_string(), shortage.remedy());
        if self.told.as_ref() != Some(&shortage) {
            tracing::warn!(problem = %message, %remedy, "nothing is confirmed to the source");
            self.take_back();
            self.told = Some(shortage);
        }
        if self.board.with(|status| status.problem.is_none()) {
            let blocking = Blocking::WaitingForOperator;
            let problem = Problem { message, remedy, at: Timestamp::now(), blocking };
            self.board.update(|status| status.problem = Some(problem));
        }
    }

    /// Something was confirmed.
    pub(super) fn over(&mut self) {
        if self.told.is_some() {
            tracing::info!(
                "standbys of the target have what is applied: it is confirmed to the source again"
            );
            self.take_back();
            self.told = None;
        }
    }

    fn take_back(&self) {
        let Some(message) = self.told.as_ref().map(ToString::to_string) else { return };
        if self.board.with(|status| status.problem.as_ref().is_some_and(|problem| problem.message == message))
        {
            self.board.update(|status| status.problem = None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn shortage(connected: usize) -> StandbyShortage {
        StandbyShortage { wanted: NonZeroU32::MIN, connected, blind_role: None }
    }

    fn message(board: &StatusBoard) -> Option<String> {
        board.with(|status| status.problem.as_ref().map(|problem| problem.message.clone()))
    }

    #[test]
    fn a_shortage_is_told_changed_and_taken_back_and_never_hides_another_problem() {
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        let mut wait = StandbyWait::new(board.clone());
        wait.for_want_of(shortage(0));
        assert_eq!(message(&board), Some(shortage(0).to_string()));
        wait.for_want_of(shortage(1));
        assert_eq!(message(&board), Some(shortage(1).to_string()));
        wait.over();
        assert_eq!(message(&board), None);

        let other = Problem {
            message: "a table differs".into(),
            remedy: "ALTER TABLE".into(),
            at: Timestamp::UNIX_EPOCH,
            blocking: Blocking::WaitingForOperator,
        };
        board.update(|status| status.problem = Some(other));
        wait.for_want_of(shortage(0));
        assert_eq!(message(&board).as_deref(), Some("a table differs"));
        wait.over();
        assert_eq!(message(&board).as_deref(), Some("a table differs"));
        board.update(|status| status.problem = None);
        wait.for_want_of(shortage(0));
        assert_eq!(message(&board), Some(shortage(0).to_string()));
    }
}
