//! Which route does what: the table of the API, and the routes that only read.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::dto::{ConfiguredRecord, StatusQuery, StatusRecord, TablesListed};
use super::events::EventStreams;
use super::problem::{ApiError, ProblemRecord};
use super::{Access, ApiState, events, openapi, operations, page, verification};
use crate::config::Config;
use crate::migration::{Phase, Status};
use crate::model::Side;
use crate::runtime::Shutdown;
use crate::telemetry::CertificateOf;

/// Every path, for the answer to a wrong one.
pub(super) const ROUTES: [&str; 14] = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/v1/status",
    "/v1/events",
    "/v1/tables",
    "/v1/cutover",
    "/v1/cutover/abort",
    "/v1/cutover/confirm",
    "/v1/verify",
    "/v1/verify/stop",
    "/v1/rollback",
];

/// No valid body is longer.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// How long a request may take until its answer begins.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// What handlers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) api: ApiState,
    pub(super) access: Arc<Access>,
    pub(super) streams: EventStreams,
}

impl Shared {
    /// The status as the API tells it.
    pub(super) fn record(&self, status: &Status, tables: TablesListed) -> StatusRecord {
        StatusRecord::of(status, tables, ConfiguredRecord::of(&self.api.config, self.access.as_str()))
    }
}

/// Which tables a request wants to see.
pub(super) fn tables_listed(
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<TablesListed, ApiError> {
    query.map(|Query(query)| query.tables).map_err(|error| ApiError::Invalid {
        detail: format!("The query is not what it should be: {}.", error.body_text()),
        remedy: "Use ?tables=under_way for the tables that are being copied now, or no query for all.".into(),
    })
}

pub(super) fn build(api: ApiState, access: Access, shutdown: &Shutdown) -> Router {
    let shared = Shared { api, access: Arc::new(access), streams: EventStreams::new(shutdown.clone()) };
    let commands = Router::new()
        .route("/v1/tables", post(operations::add_tables))
        .route("/v1/cutover", post(operations::start_cutover))
        .route("/v1/cutover/abort", post(operations::abort_cutover))
        .route("/v1/cutover/confirm", post(operations::confirm_traffic))
        .route("/v1/verify", post(verification::start_verification))
        .route("/v1/verify/stop", post(verification::stop_verification))
        .route("/v1/rollback", post(operations::start_rollback))
        .route_layer(middleware::from_fn_with_state(shared.clone(), admit));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi::serve))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events::stream))
        .route("/v1/tables", get(operations::show_tables))
        .route("/v1/cutover", get(operations::show_cutover))
        .route("/v1/verify", get(verification::show_verification))
        .merge(commands)
        .merge(page::routes())
        .fallback(no_such_route)
        .method_not_allowed_fallback(async || ApiError::NoSuchMethod)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(bounded))
        .with_state(shared)
}

/// Commands pass only by the access rule; checked before the body is read.
async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match shared.access.admit(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            tracing::warn!(path = request.uri().path(), "command refused by access rule");
            refused.into_response()
        }
    }
}

/// Bounds the time until an answer begins (INV-11). An event stream's answer begins at once.
async fn bounded(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::Unresponsive.into_response(),
    }
}

/// Liveness: the process serves requests. Not tied to the migration: a restart would not mend that.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "Alive.", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Readiness: changes are streamed and the lag is under `cutover.max_lag_bytes`, or the cutover is done.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "Ready.", body = String),
    (status = 503, description = "Not streaming, or the lag is above the bound.", body = ProblemRecord),
))]
pub(super) async fn readyz(State(shared): State<Shared>) -> Result<&'static str, ApiError> {
    let lag_bytes_max = shared.api.config.cutover.max_lag_bytes;
    shared.api.board.with(|status| match (status.phase, status.lag.bytes) {
        (Phase::CutOver, _) => Ok("ready\n"),
        (Phase::Streaming | Phase::RollbackWindow, Some(lag_bytes)) if lag_bytes <= lag_bytes_max => Ok("ready\n"),
        (Phase::Streaming | Phase::RollbackWindow, Some(lag_bytes)) => Err(ApiError::NotReady {
            detail: format!(
                "Streaming, and {lag_bytes} bytes behind, which is above cutover.max_lag_bytes = {lag_bytes_max}. \
                 Nothing is lost; the target is catching up."
            ),
        }),
        (Phase::Streaming | Phase::RollbackWindow, None) => {
            Err(ApiError::NotReady { detail: "Streaming, and the lag is not known yet.".to_owned() })
        }
        (phase, _) => {
            Err(ApiError::NotReady { detail: format!("Not streaming yet: the phase is {}.", phase.as_str()) })
        }
    })
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "Prometheus text format 0.0.4.", body = String)))]
pub(super) async fn metrics(State(shared): State<Shared>) -> Result<Response, ApiError> {
    shared.api.board.with(|status| shared.api.metrics.publish(status));
    let Config { source, target, .. } = &*shared.api.config;
    for (side, connection) in [(Side::Source, &source.connection), (Side::Target, &target.connection)] {
        let expires_at = connection.certificate_expires_at();
        shared.api.metrics.certificate_expires(CertificateOf::Server(side), expires_at);
    }
    let text = shared.api.metrics.render().map_err(|error| ApiError::Internal {
        detail: format!("The metrics could not be rendered: {error}."),
    })?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

/// The status of the migration.
#[utoipa::path(get, path = "/v1/status", tag = "migration", params(StatusQuery), responses(
    (status = 200, description = "The status.", body = StatusRecord),
    (status = 422, description = "The query is not understood.", body = ProblemRecord),
))]
pub(super) async fn status(
    State(shared): State<Shared>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Json<StatusRecord>, ApiError> {
    let tables = tables_listed(query)?;
    Ok(Json(shared.api.board.with(|status| shared.record(status, tables))))
}

async fn no_such_route(uri: Uri) -> ApiError {
    ApiError::NoSuchRoute { path: uri.path().to_owned() }
}
