//! Errors of the API as RFC 9457 problem documents, each with a `remedy`: what to do next. No other module of the
//! API chooses a status code.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::migration::Refusal;

const KIND_PREFIX: &str = "urn:pgsluice:problem:";

/// A problem document (RFC 9457), `application/problem+json`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProblemRecord {
    /// Which kind of problem, as a stable name: `urn:pgsluice:problem:` and a word.
    #[serde(rename = "type")]
    #[schema(example = "urn:pgsluice:problem:conflict")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    #[schema(example = 409)]
    pub status: u16,
    /// What happened this time, and what it means for the data.
    pub detail: String,
    /// What to do next.
    pub remedy: String,
}

impl ProblemRecord {
    /// The command comes too late: the source is no longer known to be the primary.
    pub const PAST_THE_POINT_OF_NO_RETURN: &str = "past-the-point-of-no-return";
    /// Nobody answered in time: the command may still be carried out.
    pub const UNRESPONSIVE: &str = "unresponsive";

    /// Whether it is of the kind of this name, which is the last word of its type.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.kind.strip_prefix(KIND_PREFIX) == Some(name)
    }
}

/// Every way a request can fail.
#[derive(Debug)]
pub(super) enum ApiError {
    /// No or a wrong bearer token.
    Unauthorized,
    /// Mutating requests are not possible on this listener, or not from this origin.
    Forbidden { detail: String, remedy: &'static str },
    /// The body or a header is not what it should be.
    Invalid { detail: String, remedy: String },
    /// The body is larger than any valid body.
    TooLarge,
    /// The migration refused the command; nothing was changed.
    Refused(Refusal),
    /// There is nothing to show yet.
    NothingYet { detail: &'static str, remedy: &'static str },
    /// No such route.
    NoSuchRoute { path: String },
    /// The route exists, the method does not.
    NoSuchMethod,
    /// The migration is not ready: not streaming, or the lag is above the bound.
    NotReady { detail: String },
    /// The migration task does not answer.
    Unresponsive,
    /// Too many event streams are open.
    TooManyStreams { streams_max: usize },
    /// The metrics could not be rendered.
    Internal { detail: String },
}

impl ApiError {
    fn record(self) -> ProblemRecord {
        let (status, name, title) = self.class();
        let (detail, remedy) = self.words();
        ProblemRecord {
            kind: format!("{KIND_PREFIX}{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            remedy,
        }
    }

    const fn class(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A bearer token is needed"),
            Self::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden", "Commands are refused here"),
            Self::Invalid { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", "The request is not understood")
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large"),
            Self::Refused(Refusal::Conflict { .. }) => {
                (StatusCode::CONFLICT, "conflict", "Another operation is in the way")
            }
            Self::Refused(Refusal::PastThePointOfNoReturn { .. }) => (
                StatusCode::CONFLICT,
                ProblemRecord::PAST_THE_POINT_OF_NO_RETURN,
                "The cutover is past the point of no return",
            ),
            Self::Refused(Refusal::NotReady { .. }) => {
                (StatusCode::CONFLICT, "not-possible-yet", "The migration is not in the right state")
            }
            Self::Refused(Refusal::Unsuitable { .. }) => {
                (StatusCode::CONFLICT, "unsuitable-table", "The table cannot join as it is")
            }
            Self::NothingYet { .. } => (StatusCode::NOT_FOUND, "nothing-yet", "There is nothing to show yet"),
            Self::NoSuchRoute { .. } => (StatusCode::NOT_FOUND, "no-such-route", "No such route"),
            Self::NoSuchMethod => {
                (StatusCode::METHOD_NOT_ALLOWED, "no-such-method", "No such method on this route")
            }
            Self::NotReady { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not ready"),
            Self::Unresponsive => (
                StatusCode::SERVICE_UNAVAILABLE,
                ProblemRecord::UNRESPONSIVE,
                "The migration does not answer",
            ),
            Self::TooManyStreams { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "too-many-streams", "Too many event streams")
            }
            Self::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    fn words(self) -> (String, String) {
        match self {
            Self::Unauthorized => (
                "Nothing was changed: the request carries no bearer token, or not the right one.".into(),
                "Send `Authorization: Bearer` with the content of the file named by api.token_file.".into(),
            ),
            Self::Forbidden { detail, remedy } => (detail, remedy.into()),
            Self::Invalid { detail, remedy } => (detail, remedy),
            Self::TooLarge => (
                "Nothing was changed: the body is larger than any valid one.".into(),
                "Send {\"mode\": \"cutover\"} or {\"mode\": \"rehearsal\"}; see /openapi.json.".into(),
            ),
            Self::Refused(
                Refusal::Conflict { message, remedy }
                | Refusal::PastThePointOfNoReturn { message, remedy }
                | Refusal::Unsuitable { message, remedy }
                | Refusal::NotReady { message, remedy },
            ) => (message, remedy),
            Self::NothingYet { detail, remedy } => (detail.into(), remedy.into()),
            Self::NoSuchRoute { path } => (
                format!("There is no {path} here."),
                format!("The routes are {}.", super::routes::ROUTES.join(", ")),
            ),
            Self::NoSuchMethod => {
                ("The route exists, with another method.".into(), "See /openapi.json for the methods.".into())
            }
            Self::NotReady { detail } => {
                (detail, "See /v1/status for the phase, the lag and the last problem.".into())
            }
            Self::Unresponsive => (
                "The migration task did not answer in time. The command may still be carried out.".into(),
                "Look at /v1/status before sending it again; the same Idempotency-Key makes repeating safe."
                    .into(),
            ),
            Self::TooManyStreams { streams_max } => (
                format!("{streams_max} event streams are open, which is as many as are served."),
                "Close one, or read /v1/status instead.".into(),
            ),
            Self::Internal { detail } => (detail, "Please report this with the log around it.".into()),
        }
    }
}

/// The body of the answer to a plain request on the port of HTTPS.
pub(super) fn https_only() -> String {
    let record = ProblemRecord {
        kind: format!("{KIND_PREFIX}https-only"),
        title: "This port speaks HTTPS".to_owned(),
        status: StatusCode::BAD_REQUEST.as_u16(),
        detail: "Nothing was changed: the API speaks HTTPS only, and the request came in plain HTTP."
            .to_owned(),
        remedy: "Use https:// in the address. In Kubernetes: `scheme: HTTPS` in probes and PodMonitors."
            .to_owned(),
    };
    serde_json::to_string(&record).unwrap_or_default()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let challenge = matches!(self, Self::Unauthorized);
        let record = self.record();
        let status = StatusCode::from_u16(record.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(record)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"pgsluice\""));
        }
        response
    }
}
