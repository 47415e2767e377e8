//! Routes that start or steer an operation. Each becomes one [`Command`] to the migration task and waits a bounded
//! time for its answer; the work itself goes on in the background and is followed by `GET`.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;

use super::dto::{AddTablesRecord, CutoverModeRecord, CutoverRecord, CutoverRequestRecord, TablesRecord};
use super::problem::{ApiError, ProblemRecord};
use super::routes::Shared;
use crate::migration::{Command, CutoverMode, CutoverRequest, Refusal};
use crate::model::{Direction, TableName};

/// How long the migration task may take to accept or refuse a command.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(8);
/// Bounds of `max_pause_ms`: shorter than a lock can be taken and given back makes no sense, and longer than ten
/// minutes is not a pause.
const PAUSE_MS_MIN: u64 = 10;
const PAUSE_MS_MAX: u64 = 600_000;
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Starts a cutover or rehearsal.
///
/// The answer comes at once; follow the operation with `GET /v1/cutover`. The same `Idempotency-Key` again answers
/// with the same operation instead of starting another.
#[utoipa::path(post, path = "/v1/cutover", tag = "cutover",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters.")),
    request_body(content = CutoverRequestRecord, description = "An empty body means {\"mode\": \"cutover\"}."),
    responses(
        (status = 202, description = "Accepted; `Location` names where to follow it.", body = CutoverRecord),
        (status = 401, description = "No or a wrong token.", body = ProblemRecord),
        (status = 403, description = "Commands are refused on this listener.", body = ProblemRecord),
        (status = 409, description = "One is running, or the migration is not streaming.", body = ProblemRecord),
        (status = 422, description = "The body or the key is not understood.", body = ProblemRecord),
        (status = 503, description = "The migration task does not answer.", body = ProblemRecord),
    ), security(("bearer" = [])))]
pub(super) async fn start_cutover(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body.map_err(|_| ApiError::TooLarge)?;
    let request = cutover_request(&headers, &body, Direction::Forward)?;
    let report = ask(&shared, |reply| Command::StartCutover { request, reply }).await?;
    tracing::info!(epoch = report.epoch, mode = ?report.mode, "cutover accepted over http");
    let location = [(header::LOCATION, "/v1/cutover")];
    Ok((StatusCode::ACCEPTED, location, Json(CutoverRecord::from(&report))).into_response())
}

/// The current or last cutover or rehearsal.
#[utoipa::path(get, path = "/v1/cutover", tag = "cutover", responses(
    (status = 200, description = "The operation.", body = CutoverRecord),
    (status = 404, description = "None was asked for yet.", body = ProblemRecord),
))]
pub(super) async fn show_cutover(State(shared): State<Shared>) -> Result<Json<CutoverRecord>, ApiError> {
    let record = shared.api.board.with(|status| status.cutover.as_ref().map(CutoverRecord::from));
    record.map(Json).ok_or(ApiError::NothingYet {
        detail: "No cutover or rehearsal was asked for yet.",
        remedy: "Start one with POST /v1/cutover, or `pgsluice rehearse`.",
    })
}

/// Rolls the running operation back, if it is before the point of no return.
#[utoipa::path(post, path = "/v1/cutover/abort", tag = "cutover",
    responses(
        (status = 202, description = "Being rolled back.", body = CutoverRecord),
        (status = 401, description = "No or a wrong token.", body = ProblemRecord),
        (status = 403, description = "Commands are refused on this listener.", body = ProblemRecord),
        (status = 409, description = "Nothing is running, or the fence is committed.", body = ProblemRecord),
        (status = 503, description = "The migration task does not answer.", body = ProblemRecord),
    ), security(("bearer" = [])))]
pub(super) async fn abort_cutover(State(shared): State<Shared>) -> Result<Response, ApiError> {
    let report = ask(&shared, |reply| Command::AbortCutover { reply }).await?;
    tracing::info!(epoch = report.epoch, "cutover abort accepted over http");
    Ok((StatusCode::ACCEPTED, Json(CutoverRecord::from(&report))).into_response())
}

/// The operator's word that a `manual` traffic adapter waits for.
#[utoipa::path(post, path = "/v1/cutover/confirm", tag = "cutover",
    responses(
        (status = 202, description = "The operation goes on.", body = CutoverRecord),
        (status = 401, description = "No or a wrong token.", body = ProblemRecord),
        (status = 403, description = "Commands are refused on this listener.", body = ProblemRecord),
        (status = 409, description = "Nothing waits for it.", body = ProblemRecord),
        (status = 503, description = "The migration task does not answer.", body = ProblemRecord),
    ), security(("bearer" = [])))]
pub(super) async fn confirm_traffic(State(shared): State<Shared>) -> Result<Response, ApiError> {
    let report = ask(&shared, |reply| Command::ConfirmTraffic { reply }).await?;
    Ok((StatusCode::ACCEPTED, Json(CutoverRecord::from(&report))).into_response())
}

/// Every table: whether it is in the migration, and if not, why and what to do.
#[utoipa::path(get, path = "/v1/tables", tag = "migration",
    responses((status = 200, description = "The tables.", body = TablesRecord)))]
pub(super) async fn show_tables(State(shared): State<Shared>) -> Json<TablesRecord> {
    Json(shared.api.board.with(|status| TablesRecord::from(status)))
}

/// Takes tables into the running migration, with all their rows and from then on all their changes.
///
/// The answer comes at once; follow them with `GET /v1/tables`. Asking for a table that is in the migration, or on its
/// way, changes nothing and is answered the same.
#[utoipa::path(post, path = "/v1/tables", tag = "migration",
    request_body = AddTablesRecord,
    responses(
        (status = 202, description = "Accepted; `Location` names where to follow it.", body = TablesRecord),
        (status = 401, description = "No or a wrong token.", body = ProblemRecord),
        (status = 403, description = "Commands are refused on this listener.", body = ProblemRecord),
        (status = 409, description = "A table cannot join as it is, a cutover runs, or the migration is not streaming.", body = ProblemRecord),
        (status = 422, description = "The body is not understood.", body = ProblemRecord),
        (status = 503, description = "The migration task does not answer.", body = ProblemRecord),
    ), security(("bearer" = [])))]
pub(super) async fn add_tables(
    State(shared): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body.map_err(|_| ApiError::TooLarge)?;
    let AddTablesRecord { tables } = serde_json::from_slice(&body).map_err(|error| ApiError::Invalid {
        detail: format!("Nothing was changed: the body is not what it should be: {error}."),
        remedy: "Send {\"tables\": [\"schema.table\"]}.".into(),
    })?;
    let names = ask(&shared, |reply| Command::AddTables { tables, reply }).await?;
    tracing::info!(tables = ?names.iter().map(TableName::plain).collect::<Vec<_>>(), "tables to add accepted over http");
    let record = shared.api.board.with(|status| TablesRecord::from(status)).only(&names);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, "/v1/tables")], Json(record)).into_response())
}

/// Switches back to the source after a completed cutover, or rehearses that. Nothing that was written on the target is lost.
///
/// The same operation as a cutover, in the other direction; followed by `GET /v1/cutover`.
#[utoipa::path(post, path = "/v1/rollback", tag = "cutover",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters.")),
    request_body(content = CutoverRequestRecord, description = "An empty body means {\"mode\": \"rollback\"}."),
    responses(
        (status = 202, description = "Accepted; `Location` names where to follow it.", body = CutoverRecord),
        (status = 401, description = "No or a wrong token.", body = ProblemRecord),
        (status = 403, description = "Commands are refused on this listener.", body = ProblemRecord),
        (status = 409, description = "Nothing was cut over, there is no way back, or one is running.", body = ProblemRecord),
        (status = 422, description = "The body or the key is not understood.", body = ProblemRecord),
        (status = 503, description = "The migration task does not answer.", body = ProblemRecord),
    ), security(("bearer" = [])))]
pub(super) async fn start_rollback(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body.map_err(|_| ApiError::TooLarge)?;
    let request = cutover_request(&headers, &body, Direction::Back)?;
    let report = ask(&shared, |reply| Command::StartCutover { request, reply }).await?;
    tracing::info!(epoch = report.epoch, mode = ?report.mode, "rollback accepted over http");
    let location = [(header::LOCATION, "/v1/cutover")];
    Ok((StatusCode::ACCEPTED, location, Json(CutoverRecord::from(&report))).into_response())
}

/// Sends a command and waits for its answer, both within [`ANSWER_TIME_MAX`].
pub(super) async fn ask<T>(
    shared: &Shared,
    command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
) -> Result<T, ApiError> {
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        shared.api.commands.send(command(reply)).await.map_err(|_| ApiError::Unresponsive)?;
        answer.await.map_err(|_| ApiError::Unresponsive)
    };
    let answered = tokio::time::timeout(ANSWER_TIME_MAX, exchange).await;
    answered.map_err(|_| ApiError::Unresponsive)??.map_err(ApiError::Refused)
}

fn cutover_request(
    headers: &HeaderMap,
    body: &[u8],
    direction: Direction,
) -> Result<CutoverRequest, ApiError> {
    let real = CutoverModeRecord::from((CutoverMode::Cutover, direction));
    let remedy = format!(
        "Send {{\"mode\": \"{}\"}} or {{\"mode\": \"rehearsal\"}}, with \"max_pause_ms\" if wanted.",
        real.as_str()
    );
    let record = if body.is_empty() {
        CutoverRequestRecord::default()
    } else {
        serde_json::from_slice(body).map_err(|error| ApiError::Invalid {
            detail: format!("Nothing was changed: the body is not what it should be: {error}."),
            remedy: remedy.clone(),
        })?
    };
    let mode = match record.mode {
        Some(CutoverModeRecord::Rehearsal) => CutoverMode::Rehearsal,
        None => CutoverMode::Cutover,
        Some(mode) if mode == real => CutoverMode::Cutover,
        Some(mode) => {
            let detail = format!("Nothing was changed: a {} is not what this route is for.", mode.as_str());
            return Err(ApiError::Invalid { detail, remedy });
        }
    };
    Ok(CutoverRequest {
        mode,
        direction,
        max_pause: record.max_pause_ms.map(max_pause).transpose()?,
        idempotency_key: idempotency_key(headers)?,
        unverified: record.unverified,
        verification: None,
    })
}

fn max_pause(milliseconds: u64) -> Result<Duration, ApiError> {
    if (PAUSE_MS_MIN..=PAUSE_MS_MAX).contains(&milliseconds) {
        return Ok(Duration::from_millis(milliseconds));
    }
    Err(ApiError::Invalid {
        detail: format!("Nothing was changed: max_pause_ms = {milliseconds} is out of bounds."),
        remedy: format!("Use a number of milliseconds from {PAUSE_MS_MIN} to {PAUSE_MS_MAX}."),
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    // `to_str` admits visible ASCII, space and tab only.
    match value.to_str().map(str::trim) {
        Ok(key) if !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_BYTES_MAX => Ok(Some(key.to_owned())),
        _ => Err(ApiError::Invalid {
            detail: "Nothing was changed: the Idempotency-Key header is empty, too long or not ASCII.".into(),
            remedy: format!(
                "Use 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters, such as a UUID."
            ),
        }),
    }
}
