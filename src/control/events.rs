//! `GET /v1/events`: the status as it changes, as server-sent events. A slow reader misses intermediate states and
//! never holds anything up: each stream looks at the latest status when its turn comes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::dto::{StatusQuery, StatusRecord, TablesListed};
use super::problem::{ApiError, ProblemRecord};
use super::routes::{Shared, tables_listed};
use crate::migration::Status;
use crate::runtime::Shutdown;

/// Streams served at the same time (INV-11).
const STREAMS_MAX: usize = 64;
/// At most four events a second on each stream.
const EVENT_EVERY: Duration = Duration::from_millis(250);
/// A comment line this often keeps proxies from closing a quiet stream.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Counts the open streams, and ends them at shutdown.
#[derive(Clone)]
pub(super) struct EventStreams {
    free: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl EventStreams {
    pub(super) fn new(shutdown: Shutdown) -> Self {
        Self { free: Arc::new(Semaphore::new(STREAMS_MAX)), shutdown }
    }
}

/// The status now, and again whenever it changes, at most four times a second. Event name `status`, data as in
/// `GET /v1/status`.
#[utoipa::path(get, path = "/v1/events", tag = "migration", params(StatusQuery), responses(
    (status = 200, description = "Server-sent events named `status`.", body = StatusRecord,
     content_type = "text/event-stream"),
    (status = 422, description = "The query is not understood.", body = ProblemRecord),
    (status = 503, description = "Too many streams are open.", body = ProblemRecord),
))]
pub(super) async fn stream(
    State(shared): State<Shared>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Response {
    let tables = match tables_listed(query) {
        Ok(tables) => tables,
        Err(refused) => return refused.into_response(),
    };
    let Ok(permit) = shared.streams.free.clone().try_acquire_owned() else {
        return ApiError::TooManyStreams { streams_max: STREAMS_MAX }.into_response();
    };
    let shutdown = shared.streams.shutdown.clone();
    let changes = shared.api.board.subscribe();
    let reader = Reader { changes, first: true, shared, tables, _permit: permit };
    let events = events(reader).take_until(async move { shutdown.requested().await });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE_EVERY)).into_response()
}

/// What one stream carries from event to event.
struct Reader {
    changes: watch::Receiver<Status>,
    first: bool,
    shared: Shared,
    tables: TablesListed,
    /// Held for as long as the stream is open.
    _permit: OwnedSemaphorePermit,
}

fn events(reader: Reader) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(reader, async |mut reader| {
        if !reader.first {
            tokio::time::sleep(EVENT_EVERY).await;
            reader.changes.changed().await.ok()?;
        }
        reader.first = false;
        let record = reader.shared.record(&reader.changes.borrow_and_update(), reader.tables);
        let event = Event::default().event("status").json_data(record).ok()?;
        Some((Ok(event), reader))
    })
}
