//! What an interrupted cutover left behind, and what can still be asked for once the fence is committed.

use super::command::{Command, CutoverRequest, Refusal};
use super::error::MigrationError;
use super::status::StatusBoard;
use crate::cutover::{CutoverReport, Outcome, Recovered, RunningCutover};
use crate::target::records::RecordedPhase;

/// What a cutover left behind: the phase to go on with, and the operation that still opens the target.
pub(super) fn adopt_recovered(
    recovered: Recovered,
    phase: RecordedPhase,
) -> Result<(RecordedPhase, Option<RunningCutover>), MigrationError> {
    match recovered {
        Recovered::NothingToDo => Ok((phase, None)),
        Recovered::Aborted(report) => {
            let epoch = report.epoch;
            tracing::warn!(epoch, "a cutover was interrupted; it is rolled back, the source is as before");
            Ok((phase, None))
        }
        Recovered::RolledForward(report, running) => {
            tracing::info!(
                epoch = report.epoch,
                "the fence is committed: the cutover is finished now, if it was not"
            );
            Ok((RecordedPhase::CutOver, Some(running)))
        }
        Recovered::InDoubt(report) => match report.outcome {
            Outcome::InDoubt { reason, remedy } => Err(MigrationError::Halted { message: reason, remedy }),
            other => Err(MigrationError::Halted {
                message: format!("the last cutover is {}", other.as_str()),
                remedy: "Look at GET /v1/cutover and the source's pgsluice.fence.".into(),
            }),
        },
    }
}

/// After the fence's commit only its own report can be asked for, and the operator's word be given.
pub(super) fn answer_cut_over(command: Command, board: &StatusBoard, finishing: Option<&RunningCutover>) {
    match (command, finishing) {
        (Command::StartCutover { request, reply }, _) => {
            let known = known_by_key(board, &request);
            let _ = reply.send(known.ok_or_else(cut_over_already));
        }
        (Command::ConfirmTraffic { reply }, Some(running)) => {
            let _ = reply.send(running.confirm().map(|()| running.report()));
        }
        (command, _) => command.refuse(cut_over_already()),
    }
}

fn cut_over_already() -> Refusal {
    Refusal::PastThePointOfNoReturn {
        message: "the migration is cut over: the target is the primary".into(),
        remedy: "GET /v1/cutover shows the certificate. Remove what pgsluice left with `pgsluice cleanup`."
            .into(),
    }
}

/// The operation that was started with the same idempotency key.
pub(super) fn known_by_key(board: &StatusBoard, request: &CutoverRequest) -> Option<CutoverReport> {
    let key = request.idempotency_key.as_ref()?;
    board.with(|status| status.cutover.clone()).filter(|report| report.idempotency_key.as_ref() == Some(key))
}
