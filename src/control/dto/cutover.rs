//! `POST /v1/cutover` and `GET /v1/cutover`.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cutover::{CutoverReport, Outcome, StepOutcome, StepReport};
use crate::migration::CutoverMode;
use crate::model::Direction;

/// Body of `POST /v1/cutover` and `POST /v1/rollback`. Unknown fields are errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CutoverRequestRecord {
    /// `cutover` or `rollback`, as the route says (the default), or `rehearsal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<CutoverModeRecord>,
    /// The longest write pause in milliseconds; as configured when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 600_000, example = 1000)]
    pub max_pause_ms: Option<u64>,
    /// Cut over although no verification vouches for the rows. The certificate says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unverified: bool,
}

/// serde wants to be given a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) const fn is_false(value: &bool) -> bool {
    !*value
}

/// Whether the fence is committed at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CutoverModeRecord {
    /// The real one.
    Cutover,
    /// The real one, back from the target to the source.
    Rollback,
    /// Everything but the commit, traffic and opening: measures the pause and leaves the source as it was.
    Rehearsal,
}

impl CutoverModeRecord {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cutover => "cutover",
            Self::Rollback => "rollback",
            Self::Rehearsal => "rehearsal",
        }
    }
}

impl From<(CutoverMode, Direction)> for CutoverModeRecord {
    fn from(operation: (CutoverMode, Direction)) -> Self {
        match operation {
            (CutoverMode::Cutover, Direction::Forward) => Self::Cutover,
            (CutoverMode::Cutover, Direction::Back) => Self::Rollback,
            (CutoverMode::Rehearsal, _) => Self::Rehearsal,
        }
    }
}

/// One cutover, rollback or rehearsal, while it runs and afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CutoverRecord {
    /// Identity of the operation; counts up with each one.
    pub epoch: i64,
    /// Real or rehearsal.
    pub mode: CutoverModeRecord,
    /// `forward`, or `back`: then source and target, in all that is said of it, are exchanged.
    #[serde(default = "forward")]
    pub direction: String,
    /// The client's `Idempotency-Key`; null when it sent none.
    pub idempotency_key: Option<String>,
    /// State of the operation, e.g. `arming`, `fencing`, `completed`.
    pub state: String,
    /// `running`, `completed`, `aborted` (the source is as before) or `in_doubt` (neither side is open).
    pub outcome: String,
    /// Why it was aborted or is in doubt; null otherwise.
    pub reason: Option<String>,
    /// What to do about that; null otherwise.
    pub remedy: Option<String>,
    /// The steps so far.
    pub steps: Vec<StepRecord>,
    /// How long writers waited, in milliseconds; null until measured.
    pub pause_ms: Option<f64>,
    /// The evidence that nothing was lost; null until completed.
    #[schema(value_type = Option<Object>)]
    pub certificate: Option<serde_json::Value>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended; null while it runs.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// One step of the operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepRecord {
    /// Its name, e.g. `lock_tables`.
    pub name: String,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// How long it took, or has taken so far, in milliseconds.
    pub duration_ms: f64,
    /// Whether writers waited while it ran.
    pub in_pause: bool,
    /// `running`, `done`, `failed` or `undone`.
    pub outcome: String,
    /// More for a person; null when there is nothing to add.
    pub detail: Option<String>,
    /// This step's part of the pause, 0 to 1; null outside the pause and until the pause is measured.
    pub share_of_pause: Option<f64>,
}

impl From<&CutoverReport> for CutoverRecord {
    fn from(report: &CutoverReport) -> Self {
        let (reason, remedy) = match &report.outcome {
            Outcome::Running | Outcome::Completed => (None, None),
            Outcome::Aborted { reason, remedy } | Outcome::InDoubt { reason, remedy } => {
                (Some(reason.clone()), Some(remedy.clone()))
            }
        };
        Self {
            epoch: report.epoch,
            mode: (report.mode, report.direction).into(),
            direction: report.direction.as_str().to_owned(),
            idempotency_key: report.idempotency_key.clone(),
            state: report.state.to_owned(),
            outcome: report.outcome.as_str().to_owned(),
            reason,
            remedy,
            steps: report.steps.iter().map(|step| StepRecord::of(step, report.pause)).collect(),
            pause_ms: report.pause.map(milliseconds),
            certificate: report.certificate.clone(),
            started_at: report.started_at,
            ended_at: report.ended_at,
        }
    }
}

impl StepRecord {
    fn of(step: &StepReport, pause: Option<Duration>) -> Self {
        let outcome = match step.outcome {
            StepOutcome::Running => "running",
            StepOutcome::Done => "done",
            StepOutcome::Failed => "failed",
            StepOutcome::Undone => "undone",
        };
        let pause = pause.filter(|pause| step.in_pause && !pause.is_zero());
        Self {
            name: step.name.to_owned(),
            started_at: step.started_at,
            duration_ms: milliseconds(step.duration),
            in_pause: step.in_pause,
            outcome: outcome.to_owned(),
            detail: step.detail.clone(),
            share_of_pause: pause.map(|pause| step.duration.as_secs_f64() / pause.as_secs_f64()),
        }
    }
}

fn forward() -> String {
    Direction::Forward.as_str().to_owned()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
