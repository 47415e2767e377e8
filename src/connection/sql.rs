//! SQL sessions: tokio-postgres over our own [`Transport`](super::transport::Transport), with pinned settings. A
//! [`SqlSession`] owns the task that drives its socket; dropping it closes the socket at once, so that the server
//! rolls back whatever was open. It never reconnects by itself.

use std::future::{Ready, ready};
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use pgsluice_proto::command::ServerVersion;
use tokio_postgres::config::{SslMode as NativeSslMode, SslNegotiation as NativeNegotiation};
use tokio_postgres::tls::{ChannelBinding as NativeBinding, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Client, Config, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::{ConnectError, ConnectFailure, ServerMessage};
use super::pinned::{self, FIRST_QUERY, PINNED_SETTINGS};
use super::settings::{ChannelBinding, ConnectionSettings, ServerRole};
use super::transport::{self, Endpoint, Transport};
use crate::model::Side;

/// How long an orderly close waits for the server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// An SQL session with pinned settings. Dereferences to the tokio-postgres client.
#[derive(Debug)]
pub struct SqlSession {
    client: Client,
    /// Drives the socket. Owned by the session and aborted with it, so it can outlive nobody.
    driver: AbortOnDropHandle<()>,
    ended: CancellationToken,
    facts: SessionFacts,
    cancel: CancelHandle,
}

/// What a session learns of its server when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionFacts {
    pub(super) backend_pid: i32,
    pub(super) server_version: ServerVersion,
    pub(super) in_recovery: bool,
}

/// The capability to cancel what a session is doing, from anywhere. Cheap to clone.
#[derive(Clone)]
pub struct CancelHandle {
    token: CancelToken,
    settings: ConnectionSettings,
    side: Side,
    endpoint: Endpoint,
}

/// Connects an SQL session. It calls itself `pgsluice <purpose>` in `pg_stat_activity`, and runs with
/// [`PINNED_SETTINGS`].
///
/// # Errors
/// After every host and address was tried, each within `connect_timeout`.
pub async fn connect_sql(
    settings: &ConnectionSettings,
    side: Side,
    purpose: &'static str,
) -> Result<SqlSession, ConnectError> {
    let config = native_config(settings, purpose);
    transport::establish(settings, side, |transport| start(settings, side, &config, transport)).await
}

/// What tokio-postgres needs for a transport that is already secured.
fn native_config(settings: &ConnectionSettings, purpose: &str) -> Config {
    let mut config = plain_config(settings, purpose);
    config.options(pinned::as_options(settings.options.as_deref(), PINNED_SETTINGS));
    config
}

/// The same without any setting of the session.
pub(super) fn plain_config(settings: &ConnectionSettings, purpose: &str) -> Config {
    let mut config = Config::new();
    config
        .user(&settings.user)
        .dbname(&settings.database)
        .application_name(pinned::application_name(purpose))
        .channel_binding(match settings.channel_binding {
            ChannelBinding::Disable => tokio_postgres::config::ChannelBinding::Disable,
            ChannelBinding::Prefer => tokio_postgres::config::ChannelBinding::Prefer,
            ChannelBinding::Require => tokio_postgres::config::ChannelBinding::Require,
        })
        // TLS is done already where it is to be done: "direct" sends no SSLRequest, and `AlreadySecured` passes the
        // transport through.
        .ssl_mode(NativeSslMode::Require)
        .ssl_negotiation(NativeNegotiation::Direct);
    if let Some(password) = &settings.password {
        config.password(password.current().as_bytes());
    }
    config
}

async fn start(
    settings: &ConnectionSettings,
    side: Side,
    config: &Config,
    transport: Transport,
) -> Result<SqlSession, ConnectFailure> {
    let endpoint = transport.endpoint().clone();
    let (client, connection) = config.connect_raw(transport, AlreadySecured).await.map_err(failure_of)?;
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ends_with_this_task = guard;
        // Whoever uses the client gets the error too, and logs it where it is handled.
        if let Err(error) = connection.await {
            tracing::debug!(%side, %error, "connection ended");
        }
    }));
    let facts = SessionFacts::ask(&client).await?;
    facts.check_role(settings.role)?;
    let cancel = CancelHandle { token: client.cancel_token(), settings: settings.clone(), side, endpoint };
    Ok(SqlSession { client, driver, ended, facts, cancel })
}

pub(super) fn failure_of(error: tokio_postgres::Error) -> ConnectFailure {
    if let Some(db_error) = error.as_db_error() {
        return ConnectFailure::of_server(ServerMessage::from(db_error));
    }
    if error.is_closed() {
        return ConnectFailure::Lost(io::ErrorKind::UnexpectedEof.into());
    }
    // tokio-postgres keeps the kinds of its errors private; their texts are what is left to tell them apart.
    let kind = error.to_string();
    let cause = error.into_source();
    let text = cause.as_ref().map(ToString::to_string).unwrap_or_default();
    match (kind.as_str(), text.as_str(), cause.map(|cause| cause.downcast::<io::Error>())) {
        ("invalid configuration", "password missing", _) => ConnectFailure::PasswordMissing,
        ("authentication error", "server did not use channel binding", _) => {
            ConnectFailure::ChannelBindingUnavailable
        }
        ("authentication error", "unsupported authentication method" | "unsupported SASL mechanism", _) => {
            ConnectFailure::UnsupportedAuthentication { method: text }
        }
        ("authentication error", _, _) => ConnectFailure::ServerNotProven { problem: text },
        ("error communicating with the server", _, Some(Ok(source))) => ConnectFailure::Lost(*source),
        _ => ConnectFailure::Protocol(format!("{kind}: {text}")),
    }
}

impl SessionFacts {
    async fn ask(client: &Client) -> Result<Self, ConnectFailure> {
        let messages = client.simple_query(FIRST_QUERY).await.map_err(failure_of)?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let column = |name: &str| row.and_then(|row| row.try_get(name).ok().flatten());
        Self::from_columns(column)
    }

    /// From the columns of [`FIRST_QUERY`].
    pub(super) fn from_columns<'a>(column: impl Fn(&str) -> Option<&'a str>) -> Result<Self, ConnectFailure> {
        let number = |name: &str| column(name).and_then(|text| text.parse::<u32>().ok());
        let read = || {
            Some(Self {
                backend_pid: i32::try_from(number("backend_pid")?).ok()?,
                server_version: ServerVersion(number("server_version")?),
                in_recovery: column("in_recovery")? == "t",
            })
        };
        read().ok_or_else(|| ConnectFailure::Protocol("the server's first answer has another shape".into()))
    }

    pub(super) const fn check_role(self, wanted: ServerRole) -> Result<(), ConnectFailure> {
        match (wanted, self.in_recovery) {
            (ServerRole::Primary, true) => {
                Err(ConnectFailure::WrongRole { wanted: "a primary", found: "a standby" })
            }
            (ServerRole::Standby, false) => {
                Err(ConnectFailure::WrongRole { wanted: "a standby", found: "a primary" })
            }
            _ => Ok(()),
        }
    }
}

impl SqlSession {
    /// The server process of this session, as in `pg_stat_activity.pid`.
    #[must_use]
    pub const fn backend_pid(&self) -> i32 {
        self.facts.backend_pid
    }

    /// The server's version.
    #[must_use]
    pub const fn server_version(&self) -> ServerVersion {
        self.facts.server_version
    }

    /// Whether the server was a standby when the session began.
    #[must_use]
    pub const fn in_recovery(&self) -> bool {
        self.facts.in_recovery
    }

    /// What it takes to cancel a statement of this session.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Waits until the connection has ended, for whatever reason. Cancel safe.
    pub async fn closed(&self) {
        self.ended.cancelled().await;
    }

    /// Says goodbye to the server and waits for the connection's end, for at most two seconds.
    pub async fn close(self) {
        let Self { client, mut driver, .. } = self;
        drop(client);
        // On a timeout the driver is aborted, as by a drop.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut driver).await;
    }
}

impl Deref for SqlSession {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for SqlSession {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl CancelHandle {
    /// Asks the server, on a connection of its own, to cancel what the session is doing. Whether there was anything
    /// to cancel is not said; the session's own statement fails with 57014 if there was.
    ///
    /// # Errors
    /// The server could not be asked.
    pub async fn cancel(&self) -> Result<(), ConnectError> {
        let transport = transport::reopen(&self.settings, self.side, &self.endpoint).await?;
        let request = self.token.cancel_query_raw(transport, AlreadySecured);
        let after = self.settings.connect_timeout;
        let failure = match tokio::time::timeout(after, request).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => failure_of(error),
            Err(_) => ConnectFailure::Timeout { address: self.settings.host(), after },
        };
        Err(ConnectError::new(self.side, &self.settings, failure))
    }
}

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelHandle({} at {})", self.side, self.settings)
    }
}

/// Hands tokio-postgres a transport on which TLS, if any, has been done.
pub(super) struct AlreadySecured;

impl TlsConnect<Transport> for AlreadySecured {
    type Stream = Transport;
    type Error = io::Error;
    type Future = Ready<Result<Transport, io::Error>>;

    fn connect(self, transport: Transport) -> Self::Future {
        ready(Ok(transport))
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> NativeBinding {
        self.channel_binding()
            .map_or_else(NativeBinding::none, |binding| NativeBinding::tls_server_end_point(binding.to_vec()))
    }
}
