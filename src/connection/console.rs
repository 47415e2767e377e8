//! Sessions on PgBouncer's admin console: its own few commands, by the simple query protocol alone. It is no database:
//! it knows no SQL, and refuses settings in the startup packet. A [`ConsoleSession`] owns the task that drives its
//! socket, as an SQL session does; it never reconnects by itself.

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use tokio_util::task::AbortOnDropHandle;

use super::error::{ConnectFailure, ServerMessage};
use super::settings::ConnectionSettings;
use super::sql::{AlreadySecured, failure_of, plain_config};
use super::transport::{self, Transport};
use crate::model::Side;

/// A session on an admin console.
#[derive(Debug)]
pub struct ConsoleSession {
    client: Client,
    /// Drives the socket, and ends with the session.
    _driver: AbortOnDropHandle<()>,
}

/// A command of the console failed.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// PgBouncer refused it.
    #[error("{0}")]
    Refused(ServerMessage),
    /// The connection ended. Whether the command was carried out is not known.
    #[error("the connection to the console was lost ({0})")]
    Lost(String),
}

/// Connects to the console that `settings` lead to. It calls itself `pgsluice traffic`.
///
/// # Errors
/// After every host and address was tried, each within `connect_timeout`.
pub async fn connect_console(settings: &ConnectionSettings) -> Result<ConsoleSession, ConnectFailure> {
    let config = plain_config(settings, "traffic");
    let start = |transport: Transport| {
        let config = config.clone();
        async move {
            let (client, connection) =
                config.connect_raw(transport, AlreadySecured).await.map_err(failure_of)?;
            let driver = AbortOnDropHandle::new(tokio::spawn(async move {
                // Whoever waits for an answer gets the error too.
                let _ = connection.await;
            }));
            Ok(ConsoleSession { client, _driver: driver })
        }
    };
    // The console belongs to neither side; the error's side is dropped.
    transport::establish(settings, Side::Source, start).await.map_err(super::ConnectError::into_failure)
}

impl ConsoleSession {
    /// Sends one command; returns the rows of its answer, if it has any.
    ///
    /// # Errors
    /// It was refused, or the connection ended.
    pub async fn ask(&self, command: &str) -> Result<Vec<SimpleQueryRow>, ConsoleError> {
        let answer = self.client.simple_query(command).await.map_err(|error| match error.as_db_error() {
            Some(error) => ConsoleError::Refused(ServerMessage::from(error)),
            None => ConsoleError::Lost(error.to_string()),
        })?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(answer.into_iter().filter_map(row).collect())
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}
