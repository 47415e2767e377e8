//! The replication connection: a walsender reached with `replication=database`, which takes the commands of the
//! replication grammar and plain SQL, and gives its socket away for a stream. It owns the socket; it keeps no
//! position, decides nothing about acknowledgement, and never reconnects.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol" and "Message Flow".

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgsluice_proto::command::ServerVersion;
use pgsluice_proto::frame::{BackendMessage, FrameReader, frontend};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::authentication::{Authentication, Progress};
use super::error::{ConnectError, ConnectFailure, ServerMessage};
use super::pinned::{self, FIRST_QUERY, PINNED_SETTINGS};
use super::replication_error::ReplicationError;
use super::secret::Secret;
use super::settings::ConnectionSettings;
use super::sql::SessionFacts;
use super::transport::{self, Transport};
use crate::model::Side;

/// Bytes asked of the socket at once. Messages are slices of such a piece, and keep it alive while they live.
const READ_BYTES: usize = 128 * 1024;
/// With less space than this a new piece is begun.
const READ_BYTES_MIN: usize = 16 * 1024;
/// The longest message accepted: PostgreSQL builds none above its `MaxAllocSize`, 1 GiB.
const FRAME_BYTES_MAX: usize = 1 << 30;
/// The longest message accepted before the server has authenticated itself.
const STARTUP_FRAME_BYTES_MAX: usize = 64 * 1024;
/// The largest result of a simple query on this connection, in bytes of values.
const RESULT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long sending a short message may take. The server reads them even while it is itself waiting to send.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection to a walsender, waiting for commands.
#[derive(Debug)]
pub struct ReplicationConnection {
    socket: ReplicationSocket,
    reader: FrameReader,
}

/// The bytes of a replication connection, for whoever frames them.
#[derive(Debug)]
pub struct ReplicationSocket {
    transport: Transport,
    facts: SessionFacts,
}

/// One row of a simple query's result; values are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationRow {
    columns: Arc<[String]>,
    values: Vec<Option<String>>,
}

impl ReplicationConnection {
    /// Connects and authenticates, with [`PINNED_SETTINGS`] and then `extra_parameters` as settings of the session.
    /// The role needs REPLICATION.
    ///
    /// # Errors
    /// After every host and address was tried, each within `connect_timeout`.
    pub async fn connect(
        settings: &ConnectionSettings,
        side: Side,
        purpose: &'static str,
        extra_parameters: &[(&str, &str)],
    ) -> Result<Self, ConnectError> {
        let name = pinned::application_name(purpose);
        let mut parameters = vec![
            ("user", settings.user.as_str()),
            ("database", settings.database.as_str()),
            ("replication", "database"),
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
        let mut socket = ReplicationSocket { transport, facts: unknown };
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

    /// The walsender's process, as in `pg_stat_replication.pid`.
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

    /// Runs one command of the replication grammar, or one plain SQL statement, and collects its rows. Waits as long
    /// as the server needs (creating a slot waits for transactions): bound it from outside, and drop the connection
    /// when the bound is reached. Not cancel safe.
    ///
    /// # Errors
    /// After [`ReplicationError::Server`] the connection can be used on; after any other it cannot.
    pub async fn simple_query(&mut self, command: &str) -> Result<Vec<ReplicationRow>, ReplicationError> {
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
                        return Err(ReplicationError::ResultTooLarge { bytes_max: RESULT_BYTES_MAX });
                    }
                    rows.push(ReplicationRow { columns: Arc::clone(&columns), values: as_text(values)? });
                }
                BackendMessage::ErrorResponse(fields) => refused = Some(ServerMessage::from(&*fields)),
                BackendMessage::ReadyForQuery(_) => break,
                message @ (BackendMessage::CopyBothResponse(_)
                | BackendMessage::CopyInResponse(_)
                | BackendMessage::CopyOutResponse(_)) => {
                    return Err(ReplicationError::Unexpected { found: message.kind(), expected: "rows" });
                }
                // CommandComplete, EmptyQueryResponse, notices, changed settings.
                _ => {}
            }
        }
        refused.map_or(Ok(rows), |message| Err(ReplicationError::Server(message)))
    }

    /// Sends a command and hands over the bytes that follow: the socket, and what was already read from it. For a
    /// driver of [`pgsluice_proto::session::ReplicationSession`] or [`pgsluice_proto::copy_out::CopyOutSession`].
    ///
    /// # Errors
    /// The command could not be sent.
    pub async fn into_socket(
        mut self,
        command: &str,
    ) -> Result<(ReplicationSocket, BytesMut), ReplicationError> {
        self.send_query(command).await?;
        Ok((self.socket, self.reader.into_buffer()))
    }

    /// Says goodbye, so that the server frees what the connection holds without waiting for a timeout.
    pub async fn close(mut self) {
        self.socket.goodbye().await;
    }

    async fn send_query(&mut self, command: &str) -> Result<(), ReplicationError> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message)?;
        self.socket.send(&message).await
    }
}

impl ReplicationSocket {
    /// The connection again, once what a driver did with its socket is over and the server is ready for a command.
    /// `rest` is what was read beyond it.
    #[must_use]
    pub fn into_connection(self, rest: BytesMut) -> ReplicationConnection {
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        *reader.buffer_mut() = rest;
        ReplicationConnection { socket: self, reader }
    }

    /// Waits for bytes and appends them to `buffer`: whatever is there, up to 128 KiB. Cancel safe.
    ///
    /// # Errors
    /// [`ReplicationError::Lost`], also when the server has closed the connection.
    pub async fn read_into(&mut self, buffer: &mut BytesMut) -> Result<(), ReplicationError> {
        if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
            buffer.reserve(READ_BYTES);
        }
        match self.transport.read_buf(buffer).await {
            Ok(0) => Err(ReplicationError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(ReplicationError::Lost(error)),
        }
    }

    /// Sends all of `bytes`, within ten seconds. Not cancel safe: a message cut short spoils the connection.
    ///
    /// # Errors
    /// The connection broke, or the server took nothing within the bound.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ReplicationError> {
        let sending = async {
            self.transport.write_all(bytes).await?;
            self.transport.flush().await
        };
        match tokio::time::timeout(SEND_TIMEOUT, sending).await {
            Ok(sent) => sent.map_err(ReplicationError::Lost),
            Err(_) => Err(ReplicationError::Timeout { awaited: "take a message", after: SEND_TIMEOUT }),
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

impl ReplicationRow {
    /// The value of a column; `None` if it is NULL or there is no such column.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&str> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.values.get(index)?.as_deref()
    }

    /// The columns' names.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The values, in the order of the columns.
    #[must_use]
    pub fn values(&self) -> &[Option<String>] {
        &self.values
    }
}

fn as_text(values: Vec<Option<Bytes>>) -> Result<Vec<Option<String>>, ReplicationError> {
    let text = |value: Bytes| {
        String::from_utf8(value.into()).map_err(|_| ReplicationError::Unexpected {
            found: "a value that is not UTF-8",
            expected: "text",
        })
    };
    values.into_iter().map(|value| value.map(text).transpose()).collect()
}

/// The next message, whatever it is. Cancel safe.
async fn next_message_or_error(
    socket: &mut ReplicationSocket,
    reader: &mut FrameReader,
) -> Result<BackendMessage, ReplicationError> {
    loop {
        if let Some(frame) = reader.next_frame()? {
            return Ok(BackendMessage::parse(frame)?);
        }
        socket.read_into(reader.buffer_mut()).await?;
    }
}

/// The next message; an ErrorResponse is an error. Cancel safe.
async fn next_message(
    socket: &mut ReplicationSocket,
    reader: &mut FrameReader,
) -> Result<BackendMessage, ReplicationError> {
    match next_message_or_error(socket, reader).await? {
        BackendMessage::ErrorResponse(fields) => Err(ReplicationError::Server(ServerMessage::from(&*fields))),
        message => Ok(message),
    }
}

fn during_startup(error: ReplicationError) -> ConnectFailure {
    match error {
        ReplicationError::Server(message) => ConnectFailure::of_server(message),
        ReplicationError::Lost(source) => ConnectFailure::Lost(source),
        other => ConnectFailure::Protocol(other.to_string()),
    }
}
