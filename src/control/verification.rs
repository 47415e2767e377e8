//! Routes of verification: starting it, stopping it, and its report.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::dto::{VerificationRecord, VerificationRequestRecord};
use super::operations::ask;
use super::problem::{ApiError, ProblemRecord};
use super::routes::Shared;
use crate::migration::{Command, VerificationRequest};
use crate::verify::SharePercent;

const JOBS_MAX: u8 = 64;

/// Starts a verification: both sides are compared, row by row, while traffic goes on.
///
/// The answer comes at once; follow the verification with `GET /v1/verify`.
#[utoipa::path(post, path = "/v1/verify", tag = "verification",
    request_body(content = VerificationRequestRecord, description = "An empty body means: everything, as configured."),
    responses(
        (status = 202, description = "Accepted; `Location` names where to follow it.", body = VerificationRecord),
        (status = 401, description = "No or a wrong token.", body = ProblemRecord),
        (status = 403, description = "Commands are refused on this listener.", body = ProblemRecord),
        (status = 409, description = "One is running, or the migration is not streaming.", body = ProblemRecord),
        (status = 422, description = "The body is not understood.", body = ProblemRecord),
        (status = 503, description = "The migration task does not answer.", body = ProblemRecord),
    ), security(("bearer" = [])))]
pub(super) async fn start_verification(
    State(shared): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body.map_err(|_| ApiError::TooLarge)?;
    let request = request(&body)?;
    let report = ask(&shared, |reply| Command::StartVerification { request, reply }).await?;
    tracing::info!(number = report.number, "verification accepted over http");
    let location = [(header::LOCATION, "/v1/verify")];
    Ok((StatusCode::ACCEPTED, location, Json(VerificationRecord::from(&report))).into_response())
}

/// The current or last verification.
#[utoipa::path(get, path = "/v1/verify", tag = "verification", responses(
    (status = 200, description = "The verification.", body = VerificationRecord),
    (status = 404, description = "None was asked for yet.", body = ProblemRecord),
))]
pub(super) async fn show_verification(
    State(shared): State<Shared>,
) -> Result<Json<VerificationRecord>, ApiError> {
    let record = shared.api.board.with(|status| status.verification.as_ref().map(VerificationRecord::from));
    record.map(Json).ok_or(ApiError::NothingYet {
        detail: "No verification was asked for yet.",
        remedy: "Start one with POST /v1/verify, or `pgsluice verify`.",
    })
}

/// Stops the verification that runs: it ends as incomplete.
#[utoipa::path(post, path = "/v1/verify/stop", tag = "verification",
    responses(
        (status = 202, description = "Being stopped.", body = VerificationRecord),
        (status = 401, description = "No or a wrong token.", body = ProblemRecord),
        (status = 403, description = "Commands are refused on this listener.", body = ProblemRecord),
        (status = 409, description = "None is running.", body = ProblemRecord),
        (status = 503, description = "The migration task does not answer.", body = ProblemRecord),
    ), security(("bearer" = [])))]
pub(super) async fn stop_verification(State(shared): State<Shared>) -> Result<Response, ApiError> {
    let report = ask(&shared, |reply| Command::StopVerification { reply }).await?;
    tracing::info!(number = report.number, "the end of the verification accepted over http");
    Ok((StatusCode::ACCEPTED, Json(VerificationRecord::from(&report))).into_response())
}

fn request(body: &[u8]) -> Result<VerificationRequest, ApiError> {
    let remedy = "Send {\"scope\": \"everything\", \"rows\" or \"structure\"}, with \"share_percent\" and \"jobs\" if wanted.";
    let invalid = |detail: String| ApiError::Invalid {
        detail: format!("Nothing was started: {detail}."),
        remedy: remedy.into(),
    };
    if body.is_empty() {
        return Ok(VerificationRequest::default());
    }
    let record: VerificationRequestRecord = serde_json::from_slice(body)
        .map_err(|error| invalid(format!("the body is not what it should be: {error}")))?;
    let share = match record.share_percent {
        Some(percent) => Some(
            SharePercent::new(percent).ok_or_else(|| invalid("share_percent is not from 1 to 100".into()))?,
        ),
        None => None,
    };
    if record.jobs.is_some_and(|jobs| !(1..=JOBS_MAX).contains(&jobs)) {
        return Err(invalid(format!("jobs is not from 1 to {JOBS_MAX}")));
    }
    Ok(VerificationRequest {
        scope: record.scope.map(Into::into).unwrap_or_default(),
        share,
        jobs: record.jobs.map(usize::from),
        repair: record.repair,
    })
}
