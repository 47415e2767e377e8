//! What a start finds of an earlier operation, and what becomes of it. The fence row on the source is the truth:
//! without it the source is the primary and whatever was interrupted is undone, with it the cutover happened and
//! is finished. Runs before streaming.

use std::time::Duration;

use jiff::Timestamp;

use super::driver::{CutoverContext, RunningCutover, ended, launch};
use super::journal::{self, Recorded};
use super::opening::lost_side_remedy;
use super::operation::Purpose;
use super::report::{CutoverReport, Outcome};
use super::state::{Cutover, State};
use super::unfenced::turn_out_again;
use super::{CutoverError, Nonce, SqlFailure};
use crate::connection::connect_sql;
use crate::migration::CutoverMode;
use crate::model::{Lsn, Side};
use crate::source::fence::{self, FenceError, FenceRow};
use crate::target::gate;
use crate::traffic::{OperatorsWord, Traffic};

/// How long the fence transaction of a process that is gone may take to end.
const TRUTH_BOUND: Duration = Duration::from_secs(15);

/// What was found and done.
#[derive(Debug)]
pub enum Recovered {
    /// Nothing was interrupted and the source is the primary.
    NothingToDo,
    /// An operation was interrupted before the point of no return; it is undone and the source is the primary.
    Aborted(CutoverReport),
    /// The cutover happened: the target is the primary, and nothing is to be streamed. If it was interrupted, the
    /// running operation opens the target and moves the clients.
    RolledForward(CutoverReport, RunningCutover),
    /// It cannot be said, or what is found does not fit together: neither side may be opened, nothing streamed.
    InDoubt(CutoverReport),
}

/// Finds out from both servers what became of the last operation, and finishes or undoes it.
///
/// # Errors
/// A server cannot be reached or asked; nothing was done.
pub async fn recover(ctx: CutoverContext) -> Result<Recovered, CutoverError> {
    let target = connect_sql(&ctx.config.target.connection, Side::Target, "cutover recovery").await?;
    let last = if journal::exists(&target).await? {
        journal::last(&target, ctx.config.direction).await?
    } else {
        None
    };
    let source = match connect_sql(&ctx.config.source.connection, Side::Source, "cutover recovery").await {
        Ok(source) => source,
        Err(error) => {
            // After a cutover the source may be switched off: what is recorded as completed was committed.
            let closed_by = fence::read_truth(&target, TRUTH_BOUND).await?;
            let is_left = |report: &CutoverReport| {
                closed_by.as_ref().is_some_and(|closed_by| closed_by.epoch > report.epoch)
            };
            let completed =
                last.map(|last| last.report).filter(is_completed_cutover).filter(|report| !is_left(report));
            return completed.map(already_completed).ok_or(error.into());
        }
    };
    fence::pass(&*source).await.map_err(SqlFailure::of(Side::Source, "pass the fence"))?;
    for (side, session) in [(Side::Source, &source), (Side::Target, &target)] {
        if let Err(error) = fence::stand_down(session).await {
            tracing::warn!(%error, "writers still pass the turnstile of an earlier operation");
        }
        turn_out_again(side, session).await;
    }
    let truth = match fence::read_truth(&source, TRUTH_BOUND).await {
        Ok(truth) => truth,
        Err(error @ FenceError::StillOpen) => {
            let mut report = last.map_or_else(|| unknown(&ctx, 0), |last| last.report);
            report.outcome = Outcome::InDoubt { reason: format!("{error}."), remedy: error.remedy() };
            ctx.board.update(|status| status.cutover = Some(report.clone()));
            return Ok(Recovered::InDoubt(report));
        }
        Err(error) => return Err(error.into()),
    };
    let gate_is_open = gate::is_open(&target).await?;
    // Fenced in turn by a later operation in the other direction: what the journal has here is history.
    let closed_by = fence::read_truth(&target, TRUTH_BOUND).await?;
    let is_history = |epoch: i64| closed_by.as_ref().is_some_and(|closed_by| closed_by.epoch > epoch);
    // Operations that came after it may have ended without telling the adapters anything.
    let left_behind = match &last {
        Some(_) => journal::unfinished(&target, ctx.config.direction).await?,
        None => None,
    };
    let left_behind =
        left_behind.filter(|left| !is_history(left.report.epoch) && !was_committed(&left.report));
    drop((source, target));
    let recovered = match (last, truth) {
        (None, None) => Recovered::NothingToDo,
        (Some(last), None) if is_history(last.report.epoch) => Recovered::NothingToDo,
        // Its COMMIT may have been under way when this start began: the direction has turned since.
        (_, Some(row)) if is_history(row.epoch) => Recovered::NothingToDo,
        (Some(last), None) if gate_is_open || was_committed(&last.report) => fence_is_gone(last.report),
        (Some(last), None) => without_fence(&ctx, left_behind.unwrap_or(last)).await?,
        (last, Some(row)) => with_fence(&ctx, last, row).await?,
    };
    match &recovered {
        Recovered::NothingToDo => {}
        Recovered::Aborted(report) | Recovered::InDoubt(report) | Recovered::RolledForward(report, _) => {
            ctx.board.update(|status| status.cutover = Some(report.clone()));
        }
    }
    Ok(recovered)
}

/// Whether the journal says that the fence was committed. It may be older than the gate, which is durable at once.
fn was_committed(report: &CutoverReport) -> bool {
    is_completed_cutover(report) || State::AFTER_COMMIT.contains(&report.state)
}

/// The target was opened, or was about to be: sending clients back to the source could make two primaries (INV-8).
fn fence_is_gone(report: CutoverReport) -> Recovered {
    Recovered::InDoubt(CutoverReport {
        outcome: Outcome::InDoubt {
            reason: format!(
                "The target's journal or its open gate says that cutover {} was committed, but the source has no \
                 fence row: somebody removed the fence, or the source is not the one it was (a failover or a restore).",
                report.epoch
            ),
            remedy: "Do not let applications write to the source. If the target is the primary, remove what is left \
                     with `pgsluice cleanup`; if the source is to be migrated again, start with an empty target."
                .into(),
        },
        ..report
    })
}

/// Only for an operation that was never past the point of no return. One whose adapters could not undo in the process that
/// ended it is not finished in the journal, and is undone now.
async fn without_fence(ctx: &CutoverContext, last: Recorded) -> Result<Recovered, CutoverError> {
    let report = last.report;
    match &report.outcome {
        Outcome::Aborted { .. } | Outcome::Completed => Ok(Recovered::NothingToDo),
        // Without the row it was not committed, and its transaction has ended (INV-9).
        Outcome::Running | Outcome::InDoubt { .. } => {
            let state = report.state.to_owned();
            let begun = Cutover::interrupted(report.mode, state);
            let (_, mut running) = go_on(ctx, report, last.nonce, None, begun).await?;
            Ok(Recovered::Aborted(running.finished().await))
        }
    }
}

async fn with_fence(
    ctx: &CutoverContext,
    last: Option<Recorded>,
    row: FenceRow,
) -> Result<Recovered, CutoverError> {
    let report = match last {
        Some(last) if last.nonce == row.nonce => last.report,
        // The journal is older than the fence: the target lost its last moments (a failover to a standby that was
        // behind). What it has applied may be older too, so it must not be opened.
        other => {
            let report = other.map_or_else(|| unknown(ctx, row.epoch), |last| last.report);
            return Ok(Recovered::InDoubt(CutoverReport {
                outcome: Outcome::InDoubt {
                    reason: format!(
                        "The source is fenced by cutover {}, of which the target's journal knows nothing: the target \
                         is not the one it was, or has lost its last moments.",
                        row.epoch
                    ),
                    remedy: lost_side_remedy(ctx.config.direction).into(),
                },
                ..report
            }));
        }
    };
    if is_completed_cutover(&report) {
        return Ok(already_completed(report));
    }
    let (report, running) =
        go_on(ctx, report, row.nonce, row.marker_lsn, Cutover::committed_earlier()).await?;
    Ok(Recovered::RolledForward(report, running))
}

fn is_completed_cutover(report: &CutoverReport) -> bool {
    report.mode == CutoverMode::Cutover && report.outcome == Outcome::Completed
}

fn already_completed(report: CutoverReport) -> Recovered {
    Recovered::RolledForward(report.clone(), ended(report))
}

/// Puts an interrupted operation on its way again.
async fn go_on(
    ctx: &CutoverContext,
    mut report: CutoverReport,
    nonce: Nonce,
    marker_lsn: Option<Lsn>,
    begun: (Cutover, Vec<super::Action>),
) -> Result<(CutoverReport, RunningCutover), CutoverError> {
    report.outcome = Outcome::Running;
    let journal_session = connect_sql(&ctx.config.target.connection, Side::Target, "cutover journal").await?;
    let word = OperatorsWord::default();
    let purpose = Purpose {
        nonce,
        max_pause: ctx.config.cutover.max_pause,
        traffic: Traffic::new(&ctx.config.traffic, &word)?,
        is_resumed: true,
        evidence: report.certificate.take().unwrap_or_default(),
        marker_lsn,
        control: None,
        target: None,
    };
    Ok(launch(ctx.clone(), report, purpose, word, journal_session, begun))
}

/// A report for an operation of which only the epoch is known.
fn unknown(ctx: &CutoverContext, epoch: i64) -> CutoverReport {
    CutoverReport {
        epoch,
        mode: CutoverMode::Cutover,
        direction: ctx.config.direction,
        idempotency_key: None,
        state: State::InDoubt.as_str(),
        outcome: Outcome::Running,
        started_at: Timestamp::now(),
        ended_at: None,
        steps: Vec::new(),
        pause: None,
        certificate: None,
    }
}
