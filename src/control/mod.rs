//! The HTTP API: routes, records, authentication, problem documents, OpenAPI. It reads the published status and the
//! metrics, and sends commands to the one migration task; it holds no state of the migration and decides nothing
//! about it. Records of the API are its own types, so the domain can change without changing the contract.

mod access;
pub mod dto;
mod events;
#[cfg(test)]
pub(crate) mod fixture;
mod listener;
mod openapi;
mod operations;
mod page;
mod problem;
mod rotation;
mod routes;
mod secured;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tls_fixture;
#[cfg(test)]
mod tls_tests;
mod verification;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::connection::IdentityError;
use crate::migration::{Command, StatusBoard};
use crate::runtime::Shutdown;
use crate::telemetry::Metrics;

use listener::{BoundedListener, CONNECTIONS_MAX, Patience};
use rotation::RotatingIdentity;

pub use access::Access;
pub use openapi::document as openapi_document;
pub use problem::ProblemRecord;

/// Requests still running when shutdown is asked for may take this long.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// What the routes need. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// Read for status, readiness and events.
    pub board: StatusBoard,
    /// Rendered for `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Where commands go; bounded, and waited for only a bounded time.
    pub commands: mpsc::Sender<Command>,
    /// The lag bound of readiness, and the token.
    pub config: Arc<Config>,
}

/// Why the API stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The listener has no address, or accepting failed for good.
    #[error("the HTTP API cannot be served: {0}. Check api.listen and the process's file limit")]
    Listener(#[from] io::Error),
    /// The certificate or its key was usable when the configuration was read, and is not any more.
    #[error("the HTTP API cannot be secured: {0}. Check api.tls_cert_file and api.tls_key_file")]
    Identity(#[from] IdentityError),
    /// TLS cannot be set up.
    #[error("the HTTP API cannot be secured: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves the API until shutdown. Event streams end with the shutdown signal, other requests may finish for
/// up to two seconds.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: Shutdown) -> Result<(), ControlError> {
    let listen = listener.local_addr()?;
    let access = Access::of(state.config.api.token.clone(), listen);
    let identity = state.config.api.tls.clone().map(RotatingIdentity::new).transpose()?;
    let acceptor = identity.as_ref().map(RotatingIdentity::acceptor).transpose()?;
    let scheme = if acceptor.is_some() { "https" } else { "http" };
    tracing::info!(%listen, scheme, access = access.describe(), "http api listening");
    let metrics = Arc::clone(&state.metrics);
    let router = router(state, access, &shutdown);

    let listener = BoundedListener::new(listener, CONNECTIONS_MAX, Patience::default()).secured_by(acceptor);
    let signal = shutdown.clone();
    let serving =
        axum::serve(listener, router).with_graceful_shutdown(async move { signal.requested().await });
    let overdue = async {
        shutdown.requested().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    let rotation = async {
        match identity {
            Some(identity) => identity.watch(&metrics).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = async { serving.await } => Ok(served?),
        () = rotation => Ok(()),
        () = overdue => {
            tracing::warn!(after_seconds = DRAIN_MAX.as_secs(), "http requests were cut off at shutdown");
            Ok(())
        }
    }
}

/// All routes, without a socket: what [`serve`] serves and what the tests call.
pub fn router(state: ApiState, access: Access, shutdown: &Shutdown) -> Router {
    routes::build(state, access, shutdown)
}
