//! What is told while an operation runs: one report, published to the status board and to whoever waits for the
//! end, and written to the journal. Measures steps and the pause; decides nothing.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::journal::JournalQueue;
use super::report::{CutoverReport, Outcome, StepOutcome, StepReport};
use super::state::{Action, State};
use crate::migration::{Blocking, CutoverMode, Phase, Problem, StatusBoard};

/// The report of the running operation and everybody who is to see it.
#[derive(Debug)]
pub(super) struct OperationLog {
    report: CutoverReport,
    publisher: watch::Sender<CutoverReport>,
    board: StatusBoard,
    journal: JournalQueue,
    pause: Pause,
    step_began: Instant,
    /// The problem on the board, if it is of this operation.
    trouble: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Pause {
    NotBegun,
    Since(Instant),
    Over,
}

impl OperationLog {
    pub(super) fn new(
        publisher: watch::Sender<CutoverReport>,
        board: StatusBoard,
        journal: JournalQueue,
    ) -> Self {
        let report = publisher.borrow().clone();
        let log = Self {
            report,
            publisher,
            board,
            journal,
            pause: Pause::NotBegun,
            step_began: Instant::now(),
            trouble: None,
        };
        log.publish();
        log
    }

    pub(super) const fn report(&self) -> &CutoverReport {
        &self.report
    }

    pub(super) const fn journal(&self) -> &JournalQueue {
        &self.journal
    }

    fn publish(&self) {
        self.publisher.send_replace(self.report.clone());
        self.board.update(|status| status.cutover = Some(self.report.clone()));
    }

    /// The operation is in this state now. Written before the state's actions begin.
    pub(super) fn enter(&mut self, state: &State) {
        self.report.state = state.as_str();
        tracing::info!(epoch = self.report.epoch, state = state.as_str(), "cutover");
        self.journal.state(self.report.epoch, state.as_str());
        self.publish();
    }

    /// Writers may be made to wait from now on.
    pub(super) fn begin_pause(&mut self) {
        if let Pause::NotBegun = self.pause {
            self.pause = Pause::Since(Instant::now());
        }
    }

    /// Nobody waits any more.
    pub(super) fn end_pause(&mut self) {
        if let Pause::Since(began) = self.pause {
            self.report.pause = Some(began.elapsed());
            self.pause = Pause::Over;
        }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, action: Action) {
        self.step_began = Instant::now();
        self.report.steps.push(StepReport {
            name: action.as_str(),
            started_at: Timestamp::now(),
            duration: Duration::ZERO,
            in_pause: matches!(self.pause, Pause::Since(_)),
            outcome: StepOutcome::Running,
            detail: None,
        });
        self.write_step();
    }

    /// The step that began last has ended.
    pub(super) fn end(&mut self, outcome: StepOutcome, detail: Option<String>) {
        let duration = self.step_began.elapsed();
        if let Some(step) = self.report.steps.last_mut() {
            step.duration = duration;
            step.outcome = outcome;
            step.detail = detail;
        }
        self.write_step();
    }

    fn write_step(&self) {
        let Some((step, before)) = self.report.steps.split_last() else { return };
        self.journal.step(self.report.epoch, before.len(), step.clone());
        self.publish();
    }

    /// The source does not say whether the fence is committed.
    pub(super) fn in_doubt(&mut self, reason: String, remedy: String) {
        self.trouble(&reason, &remedy, Blocking::WaitingForOperator);
        self.report.outcome = Outcome::InDoubt { reason, remedy };
        self.publish();
    }

    /// The doubt is over.
    pub(super) fn certain_again(&mut self) {
        self.report.outcome = Outcome::Running;
        self.no_trouble();
        self.publish();
    }

    /// Something fails and is tried again. Logged once, however often it happens.
    pub(super) fn trouble(&mut self, message: &str, remedy: &str, blocking: Blocking) {
        if self.trouble.as_deref() == Some(message) {
            return;
        }
        tracing::warn!(epoch = self.report.epoch, message, remedy, "cutover");
        let problem = Problem {
            message: message.to_owned(),
            remedy: remedy.to_owned(),
            at: Timestamp::now(),
            blocking,
        };
        self.board.update(|status| status.problem = Some(problem));
        self.trouble = Some(message.to_owned());
    }

    /// It works again.
    pub(super) fn no_trouble(&mut self) {
        let Some(ours) = self.trouble.take() else { return };
        self.board.update(|status| {
            if status.problem.as_ref().is_some_and(|problem| problem.message == ours) {
                status.problem = None;
            }
        });
    }

    /// The operation has ended.
    pub(super) fn finish(&mut self, outcome: Outcome, certificate: Option<serde_json::Value>) {
        self.report.outcome = outcome;
        self.report.ended_at = Some(Timestamp::now());
        self.report.certificate = certificate;
        tracing::info!(
            epoch = self.report.epoch,
            outcome = self.report.outcome.as_str(),
            pause_ms = self.report.pause.map(|pause| pause.as_secs_f64() * 1_000.0),
            "cutover ended"
        );
    }

    /// Tells those who wait that the end is written down. Of a completed cutover the phase is told in the same breath: nobody
    /// may see it ended and the migration still streaming in the old direction.
    pub(super) fn publish_end(&self) {
        let is_cut_over =
            self.report.mode == CutoverMode::Cutover && self.report.outcome == Outcome::Completed;
        self.board.update(|status| {
            status.cutover = Some(self.report.clone());
            if is_cut_over {
                status.phase = Phase::CutOver;
            }
        });
        self.publisher.send_replace(self.report.clone());
    }
}
