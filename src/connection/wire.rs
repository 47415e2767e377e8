//! A connection of our own framing, for what comes in bulk: a walsender reached with `replication=database`, which takes the
//! commands of the replication grammar and plain SQL, and gives its socket away for a stream; or an ordinary backend, whose
//! COPY is relayed ([`wire_copy`](super::wire_copy)). It owns the socket; it keeps no position, decides nothing about
//! acknowledgement, and never reconnects.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol" and "Message Flow".

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgsluice_proto::command::ServerVersion;
use pgsluice_proto::frame::{BackendMessage, ErrorFields, FrameReader, frontend};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::authentication::{Authentication, Progress};
use super::error::{ConnectError, ConnectFailure, ServerMessage};
use super::pinned::{self, FIRST_QUERY, PINNED_SETTINGS};
use super::secret::Secret;
use super::settings::ConnectionSettings;
use super::sql::SessionFacts;
use super::text_query::TextRow;
use super::transport::{self, Transport};
use super::wire_error::WireError;
use crate::model::Side;

/// Bytes asked of the socket at once. Messages are slices of such a piece, and keep it alive while they live.
const READ_BYTES: usize = 128 * 1024;
/// With less space than this a new piece is begun.
const READ_BYTES_MIN: usize = 16 * 1024;
/// The longest message accepted: PostgreSQL builds none above its `MaxAllocSize`, 1 GiB.
pub(super) const FRAME_BYTES_MAX: usize = 1 << 30;
/// The longest message accepted before the server has authenticated itself.
const STARTUP_FRAME_BYTES_MAX: usize = 64 * 1024;
/// The largest result of a simple query on this connection, in bytes of values.
const RESULT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long sending a short message may take. The server reads them even while it is itself waiting to send.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection, waiting for commands. Dropping it closes the socket, so that the server rolls back whatever was open.
#[derive(Debug)]
pub struct WireConnection {
    pub(super) socket: WireSocket,
    pub(super) reader: FrameReader,
}

/// The bytes of such a connection, for whoever frames them.
#[derive(Debug)]
pub struct WireSocket {
    transport: Transport,
    facts: SessionFacts,
}

impl WireConnection {
    /// Connects to a walsender and authenticates, with [`PINNED_SETTINGS`] and then `extra_parameters` as settings of the
    /// session. The role needs REPLICATION.
    ///
    /// # Errors
    /// After every host and address was tried, each within `connect_timeout`.
    pub async fn connect_walsender(
        settings: &ConnectionSettings,
        side: Side,
        purpose: &'static str,
        extra_parameters: &[(&str, &str)],
    ) -> Result<Self, ConnectError> {
        let parameters = [&[("replication", "database")], extra_parameters].concat();
        Self::connect(settings, side, purpose, &parameters).await
    }

    /// Connects to an ordinary backend, with [`PINNED_SETTINGS`]: the same as [`connect_sql`](super::connect_sql) makes.
    ///
    /// # Errors
    /// After every host and address was tried, each within `connect_timeout`.
    pub async fn connect_backend(
        settings: &ConnectionSettings,
        side: Side,
        purpose: &'static str,
    ) -> Result<Self, ConnectError> {
        Self::connect(settings, side, purpose, &[]).await
    }

    async fn connect(
        settings: &ConnectionSettings,
        side: Side,
        purpose: &'static str,
        extra_parameters: &[(&str, &str)],
    ) -> Result<Self, ConnectError> {
        let name = pinned::application_name(purpose);
        let mut parameters = vec![
            ("user", settings.user.as_str()),
            ("database", settings.database.as_str()),
            ("application_name", name.as_str()),
        ];
        parameters.extend(settings.options.as_deref().map(|options| ("options", options)));
        parameters.extend_from_slice(PINNED_SETTINGS);
        parameters.extend_from_slice(extra_parameters);
        let mut startup = BytesMut::new();
        frontend::startup(parameters, &mut startup)
            .map_err(|error| ConnectError::new(side, settings, error.into()))?;
        transport::establish(settings, side, |transport| Self::start(settings, &startup, transport)).await
    }

    async fn start(
        settings: &ConnectionSettings,
        startup: &[u8],
        transport: Transport,
    ) -> Result<Self, ConnectFailure> {
        let binding = transport.channel_binding().map(<[u8]>::to_vec);
        let password = settings.password.as_ref().map(Secret::current);
        let mut authentication = Authentication::new(
            &settings.user,
            password.as_deref(),
            settings.channel_binding,
            binding.as_deref(),
        );
        let unknown = SessionFacts { backend_pid: 0, server_version: ServerVersion(0), in_recovery: false };
        let mut socket = WireSocket { transport, facts: unknown };
        let mut reader = FrameReader::new(STARTUP_FRAME_BYTES_MAX);
        socket.send(startup).await.map_err(during_startup)?;
        loop {
            match next_message(&mut socket, &mut reader).await.map_err(during_startup)? {
                BackendMessage::Authentication(request) => {
                    let mut answer = BytesMut::new();
                    if authentication.handle(request, &mut answer)? == Progress::Continue {
                        socket.send(&answer).await.map_err(during_startup)?;
                    }
                }
                BackendMessage::ReadyForQuery(_) => break,
                // Settings, key data and notices: nothing to act on.
                _ => {}
            }
        }
        authentication.check_finished()?;
        let mut rest = FrameReader::new(FRAME_BYTES_MAX);
        *rest.buffer_mut() = reader.into_buffer();
        let mut connection = Self { socket, reader: rest };
        let rows = connection.simple_query(FIRST_QUERY).await.map_err(during_startup)?;
        let facts = SessionFacts::from_columns(|name| rows.first().and_then(|row| row.get(name)))?;
        facts.check_role(settings.role)?;
        connection.socket.facts = facts;
        Ok(connection)
    }

    /// The server process of this connection, as in `pg_stat_activity.pid`.
    #[must_use]
    pub const fn backend_pid(&self) -> i32 {
        self.socket.facts.backend_pid
    }

    /// The server's version.
    #[must_use]
    pub const fn server_version(&self) -> ServerVersion {
        self.socket.facts.server_version
    }

    /// Whether what is sent is encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.socket.transport.is_encrypted()
    }

    /// Runs a command of the replication grammar, or plain SQL, and collects its rows. Waits as long as the server needs
    /// (creating a slot waits for transactions): bound it from outside, and drop the connection when the bound is reached.
    /// Not cancel safe.
    ///
    /// # Errors
    /// After [`WireError::Server`] the connection can be used on; after any other it cannot.
    pub async fn simple_query(&mut self, command: &str) -> Result<Vec<TextRow>, WireError> {
        self.send_query(command).await?;
        let mut columns: Arc<[String]> = Arc::from([]);
        let mut rows = Vec::new();
        let mut result_bytes = 0;
        let mut refused = None;
        loop {
            match next_message_or_error(&mut self.socket, &mut self.reader).await? {
                BackendMessage::RowDescription(names) => columns = names.into(),
                BackendMessage::DataRow(values) => {
                    result_bytes += values.iter().flatten().map(Bytes::len).sum::<usize>();
                    if result_bytes > RESULT_BYTES_MAX {
                        return Err(WireError::ResultTooLarge { bytes_max: RESULT_BYTES_MAX });
                    }
                    rows.push(TextRow::new(Arc::clone(&columns), as_text(values)?));
                }
                BackendMessage::ErrorResponse(fields) => match reported(&fields) {
                    WireError::Server(message) => refused = Some(message),
                    ended => return Err(ended),
                },
                BackendMessage::ReadyForQuery(_) => break,
                message @ (BackendMessage::CopyBothResponse(_)
                | BackendMessage::CopyInResponse(_)
                | BackendMessage::CopyOutResponse(_)) => {
                    return Err(WireError::Unexpected { found: message.kind(), expected: "rows" });
                }
                // CommandComplete, EmptyQueryResponse, notices, changed settings.
                _ => {}
            }
        }
        refused.map_or(Ok(rows), |message| Err(WireError::Server(message)))
    }

    /// Sends a command and hands over the bytes that follow: the socket, and what was already read from it. For a
    /// driver of [`pgsluice_proto::session::ReplicationSession`] or [`pgsluice_proto::copy_out::CopyOutSession`].
    ///
    /// # Errors
    /// The command could not be sent.
    pub async fn into_socket(mut self, command: &str) -> Result<(WireSocket, BytesMut), WireError> {
        self.send_query(command).await?;
        Ok((self.socket, self.reader.into_buffer()))
    }

    /// Says goodbye, so that the server frees what the connection holds without waiting for a timeout.
    pub async fn close(mut self) {
        self.socket.goodbye().await;
    }

    pub(super) async fn send_query(&mut self, command: &str) -> Result<(), WireError> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message)?;
        self.socket.send(&message).await
    }
}

impl WireSocket {
    /// The connection again, once what a driver did with its socket is over and the server is ready for a command.
    /// `rest` is what was read beyond it.
    #[must_use]
    pub fn into_connection(self, rest: BytesMut) -> WireConnection {
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        *reader.buffer_mut() = rest;
        WireConnection { socket: self, reader }
    }

    /// Waits for bytes and appends them to `buffer`: whatever is there, up to 128 KiB. Cancel safe.
    ///
    /// # Errors
    /// [`WireError::Lost`], also when the server has closed the connection.
    pub async fn read_into(&mut self, buffer: &mut BytesMut) -> Result<(), WireError> {
        if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
            buffer.reserve(READ_BYTES);
        }
        match self.transport.read_buf(buffer).await {
            Ok(0) => Err(WireError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(WireError::Lost(error)),
        }
    }

    /// Sends all of `bytes`, within ten seconds. Not cancel safe: a message cut short spoils the connection.
    ///
    /// # Errors
    /// The connection broke, or the server took nothing within the bound.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let sending = async {
            self.transport.write_all(bytes).await?;
            self.transport.flush().await
        };
        match tokio::time::timeout(SEND_TIMEOUT, sending).await {
            Ok(sent) => sent.map_err(WireError::Lost),
            Err(_) => Err(WireError::Timeout { awaited: "take a message", after: SEND_TIMEOUT }),
        }
    }

    /// Terminate, and the end of the transport. The connection is over whether or not the server hears it.
    async fn goodbye(&mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        if self.send(&message).await.is_ok() {
            let _ = tokio::time::timeout(SEND_TIMEOUT, self.transport.shutdown()).await;
        }
    }
}

/// After an error that is not of the session the server is ready for the next command.
pub(super) fn reported(fields: &ErrorFields) -> WireError {
    let message = ServerMessage::from(fields);
    if fields.severity == "ERROR" { WireError::Server(message) } else { WireError::Ended(message) }
}

fn as_text(values: Vec<Option<Bytes>>) -> Result<Vec<Option<String>>, WireError> {
    let text = |value: Bytes| {
        String::from_utf8(value.into())
            .map_err(|_| WireError::Unexpected { found: "a value that is not UTF-8", expected: "text" })
    };
    values.into_iter().map(|value| value.map(text).transpose()).collect()
}

/// The next message, whatever it is. Cancel safe.
async fn next_message_or_error(
    socket: &mut WireSocket,
    reader: &mut FrameReader,
) -> Result<BackendMessage, WireError> {
    loop {
        if let Some(frame) = reader.next_frame()? {
            return Ok(BackendMessage::parse(frame)?);
        }
        socket.read_into(reader.buffer_mut()).await?;
    }
}

/// The next message; an ErrorResponse is an error. Cancel safe.
async fn next_message(
    socket: &mut WireSocket,
    reader: &mut FrameReader,
) -> Result<BackendMessage, WireError> {
    match next_message_or_error(socket, reader).await? {
        BackendMessage::ErrorResponse(fields) => Err(WireError::Server(ServerMessage::from(&*fields))),
        message => Ok(message),
    }
}

fn during_startup(error: WireError) -> ConnectFailure {
    match error {
        WireError::Server(message) | WireError::Ended(message) => ConnectFailure::of_server(message),
        WireError::Lost(source) => ConnectFailure::Lost(source),
        other => ConnectFailure::Protocol(other.to_string()),
    }
}
