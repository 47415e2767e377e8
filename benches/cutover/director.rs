//! Moves the clients, as part of each operation: an HTTP service that the `webhook` traffic adapter calls. The sides are told
//! apart by their ports; in a rollback the adapter itself exchanges them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use pgsluice::demo::workload;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Outcome;
use super::ground::Ground;

/// What the adapter posts, as far as it matters here.
#[derive(Deserialize)]
struct Call {
    step: String,
    source: Endpoint,
    target: Endpoint,
}

#[derive(Deserialize)]
struct Endpoint {
    port: u16,
}

/// The service. Dropping it ends it.
pub(crate) struct Director {
    url: String,
    _service: JoinSet<()>,
}

struct Clients {
    router: workload::Router,
    /// Port and connection string of both sides.
    sides: [(u16, String); 2],
}

impl Director {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn start(ground: &Ground, router: workload::Router) -> Outcome<Self> {
        let sides = [&ground.source, &ground.target].map(|side| (side.port(), ground.url(side)));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let clients = Arc::new(Clients { router, sides });
        let routes = Router::new().route("/", post(perform)).with_state(clients);
        let mut service = JoinSet::new();
        service.spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                eprintln!("the traffic service ended: {error}");
            }
        });
        Ok(Self { url, _service: service })
    }

    /// Where the adapter is to post to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

async fn perform(State(clients): State<Arc<Clients>>, Json(call): Json<Call>) -> (StatusCode, String) {
    let there = match call.step.as_str() {
        "retarget" => call.target,
        "undo" => call.source,
        // Direct connections: nobody can hold the clients back but the fence.
        _ => return (StatusCode::OK, "nothing to do\n".into()),
    };
    match clients.sides.iter().find(|(port, _)| *port == there.port) {
        Some((_, url)) => {
            clients.router.redirect(url.clone());
            (StatusCode::OK, "the clients were told\n".into())
        }
        None => (StatusCode::BAD_REQUEST, format!("no side has port {}\n", there.port)),
    }
}
