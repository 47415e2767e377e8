//! The demo's own way of moving clients: an HTTP service that the `webhook` traffic adapter calls. Between the fence and
//! the first write on the target it takes a snapshot of each side, for the judge to compare later: at that moment, and
//! never again, both sides must hold the same rows.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::compare::{ComparedSide, connect};
use super::run::DemoError;
use super::workload;

/// What the webhook adapter posts, as far as it matters here.
#[derive(Deserialize)]
struct Call {
    step: String,
}

/// Both sides as they were while neither took writes.
pub(super) struct SidesAtTheFence {
    pub(super) source: ComparedSide,
    pub(super) target: ComparedSide,
    /// The snapshots live as long as the transactions that exported them.
    _exporters: Sessions,
}

/// One session on each side, opened early: the clients wait while they are used.
struct Sessions {
    source: Client,
    target: Client,
}

/// The service. Dropping it ends it.
pub(super) struct Director {
    state: Arc<Shared>,
    url: String,
    _service: JoinSet<()>,
}

struct Shared {
    source_url: String,
    target_url: String,
    clients: workload::Router,
    fence: Mutex<Fence>,
}

/// What becomes of the sessions.
enum Fence {
    NotReached(Sessions),
    Reached(SidesAtTheFence),
    Taken,
}

impl Director {
    /// Listens on a free port of 127.0.0.1.
    pub(super) async fn start(
        source_url: String,
        target_url: String,
        clients: workload::Router,
    ) -> Result<Self, DemoError> {
        let sessions = Sessions { source: connect(&source_url).await?, target: connect(&target_url).await? };
        let fence = Mutex::new(Fence::NotReached(sessions));
        let state = Arc::new(Shared { source_url, target_url, clients, fence });
        let (listener, url) = listen()
            .await
            .map_err(|source| DemoError::Io { action: "starting the traffic service".into(), source })?;
        let router = Router::new().route("/", post(perform)).with_state(Arc::clone(&state));
        let mut service = JoinSet::new();
        service.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the demo's traffic service ended");
            }
        });
        Ok(Self { state, url, _service: service })
    }

    /// Where the webhook adapter is to post to.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The two snapshots, once the clients were moved.
    pub(super) async fn take_sides_at_the_fence(&self) -> Option<SidesAtTheFence> {
        match std::mem::replace(&mut *self.state.fence.lock().await, Fence::Taken) {
            Fence::Reached(sides) => Some(sides),
            Fence::NotReached(_) | Fence::Taken => None,
        }
    }
}

async fn perform(State(state): State<Arc<Shared>>, Json(call): Json<Call>) -> (StatusCode, String) {
    match call.step.as_str() {
        "retarget" => match state.retarget().await {
            Ok(()) => (StatusCode::OK, "the clients were told to use the target\n".into()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("taking the snapshots: {error}\n")),
        },
        "undo" => {
            state.clients.redirect(state.source_url.clone());
            (StatusCode::OK, "the clients stay on the source\n".into())
        }
        // The demo's clients have direct connections: nobody can hold them back but the fence.
        _ => (StatusCode::OK, "nothing to do\n".into()),
    }
}

impl Shared {
    async fn retarget(&self) -> Result<(), tokio_postgres::Error> {
        let mut fence = self.fence.lock().await;
        // The step may be repeated; the first time is the one when the target is still untouched.
        if let Fence::NotReached(sessions) = &*fence {
            let (source, target) =
                tokio::try_join!(export_snapshot(&sessions.source), export_snapshot(&sessions.target))?;
            if let Fence::NotReached(sessions) = std::mem::replace(&mut *fence, Fence::Taken) {
                *fence = Fence::Reached(SidesAtTheFence {
                    source: ComparedSide::at_snapshot(&self.source_url, source),
                    target: ComparedSide::at_snapshot(&self.target_url, target),
                    _exporters: sessions,
                });
            }
        }
        self.clients.redirect(self.target_url.clone());
        Ok(())
    }
}

async fn export_snapshot(client: &Client) -> Result<String, tokio_postgres::Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    Ok(client.query_one("SELECT pg_export_snapshot()", &[]).await?.get(0))
}

async fn listen() -> std::io::Result<(TcpListener, String)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    Ok((listener, url))
}
