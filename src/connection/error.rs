//! Why a connection could not be made, and what to do about it. Texts are for a tired person: what happened and what to do; never a secret or a
//! row value (INV-10), which is why the server's `DETAIL` and `CONTEXT` are not kept.

use std::io;
use std::time::Duration;

use pgsluice_proto::frame::{ErrorFields, FrameError};
use pgsluice_proto::{DecodeError, EncodeError};

use super::disposition::disposition_of_sqlstate;
use super::settings::{ConnectionSettings, SslMode};
use super::tls::TlsError;
use crate::model::{Disposition, Side};

/// What a server said when it refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLSTATE {sqlstate})")]
pub struct ServerMessage {
    /// Five characters, PostgreSQL documentation appendix A.
    pub sqlstate: String,
    /// The primary message, without detail, hint or context.
    pub message: String,
}

impl From<&tokio_postgres::error::DbError> for ServerMessage {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        Self { sqlstate: error.code().code().to_owned(), message: error.message().to_owned() }
    }
}

impl From<&ErrorFields> for ServerMessage {
    fn from(fields: &ErrorFields) -> Self {
        Self { sqlstate: fields.code.clone(), message: fields.message.clone() }
    }
}

/// A connection could not be established. At the start of the program this is a configuration error (exit code 2);
/// later [`disposition`](Self::disposition) says what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the {side} at {server}: {failure}")]
pub struct ConnectError {
    side: Side,
    /// [`ConnectionSettings::describe`].
    server: String,
    failure: Box<ConnectFailure>,
}

/// The reasons of a [`ConnectError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The server is being replaced by another one, and is not connected to meanwhile.
    #[error("{how}")]
    Turnover {
        /// As its operator says.
        how: std::sync::Arc<str>,
    },
    /// The name leads to no address.
    #[error("the name `{host}` cannot be resolved ({source})")]
    Dns {
        /// The name.
        host: String,
        /// As the resolver said.
        source: io::Error,
    },
    /// The machine answers; nothing listens there.
    #[error("nothing listens at {address}")]
    Refused {
        /// Address and port, or the socket's path.
        address: String,
    },
    /// No way to the machine, or not for us.
    #[error("{address} cannot be reached ({source})")]
    Unreachable {
        /// Address and port, or the socket's path.
        address: String,
        /// As the operating system said.
        source: io::Error,
    },
    /// No answer, or not a complete one.
    #[error("{address} did not complete the connection within {} s", .after.as_secs_f32())]
    Timeout {
        /// Address and port, or the socket's path.
        address: String,
        /// `connect_timeout`.
        after: Duration,
    },
    /// `sslmode` demands TLS and the server has it switched off.
    #[error("the server does not offer TLS, and sslmode={} demands it", .mode.as_str())]
    TlsNotOffered {
        /// The mode that demands it.
        mode: SslMode,
    },
    /// TLS failed: certificates, versions, names.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server wants a password and none is configured.
    #[error("the server asks for a password, and none is configured")]
    PasswordMissing,
    /// 28P01.
    #[error("the server refused the user name or password: {0}")]
    AuthenticationFailed(ServerMessage),
    /// 28000: mostly no matching line in `pg_hba.conf`, or a role that may not log in or replicate.
    #[error("the server does not let this connection in: {0}")]
    NotAllowed(ServerMessage),
    /// GSSAPI, SSPI, OAuth.
    #[error("the server asks for an authentication method that is not supported ({method})")]
    UnsupportedAuthentication {
        /// Its name or number in the protocol.
        method: String,
    },
    /// The server did not prove that it knows the password too: it may not be the one it pretends to be.
    #[error("the server could not prove that it knows the password ({problem})")]
    ServerNotProven {
        /// What was wrong with its SCRAM messages.
        problem: String,
    },
    /// `channel_binding=require` and the authentication did not use it.
    #[error("channel_binding=require, and the server did not authenticate with channel binding")]
    ChannelBindingUnavailable,
    /// 3D000.
    #[error("the database does not exist: {0}")]
    DatabaseMissing(ServerMessage),
    /// 53300.
    #[error("the server has no free connection slot: {0}")]
    TooManyConnections(ServerMessage),
    /// 57P03: starting, stopping, recovering.
    #[error("the server does not accept connections now: {0}")]
    NotAcceptingConnections(ServerMessage),
    /// `target_session_attrs` and every server listed has the other role.
    #[error("the server is {found}, and target_session_attrs asks for {wanted}")]
    WrongRole {
        /// `primary` or `standby`.
        wanted: &'static str,
        /// The other one.
        found: &'static str,
    },
    /// Any other error of the server during startup.
    #[error("the server refused the connection: {0}")]
    Server(ServerMessage),
    /// The connection ended before it was ready.
    #[error("the connection was lost while it was being made ({0})")]
    Lost(io::Error),
    /// The other end does not speak PostgreSQL's protocol, or not as expected.
    #[error("the answer is not PostgreSQL's protocol: {0}")]
    Protocol(String),
}

impl ConnectError {
    pub(super) fn new(side: Side, settings: &ConnectionSettings, failure: ConnectFailure) -> Self {
        Self { side, server: settings.describe(), failure: Box::new(failure) }
    }

    /// Which of the two databases.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// Why.
    #[must_use]
    pub const fn failure(&self) -> &ConnectFailure {
        &self.failure
    }

    /// The reason alone, where neither of the two sides was to be reached.
    #[must_use]
    pub(super) fn into_failure(self) -> ConnectFailure {
        *self.failure
    }

    /// The server's SQLSTATE, if it was the server that refused.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.failure.server_message().map(|message| message.sqlstate.as_str())
    }

    /// Whether the server is being replaced just now: that passes, also when nothing was reached before.
    #[must_use]
    pub fn is_turnover(&self) -> bool {
        matches!(*self.failure, ConnectFailure::Turnover { .. })
    }

    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        let side = self.side;
        self.failure.remedy().replace("{side}", side.as_str())
    }

    /// What to do about it while the program runs.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        use ConnectFailure as F;
        match self.failure() {
            F::Turnover { .. }
            | F::Dns { .. }
            | F::Refused { .. }
            | F::Unreachable { .. }
            | F::Timeout { .. }
            | F::TooManyConnections(_)
            | F::NotAcceptingConnections(_)
            | F::WrongRole { .. }
            | F::Lost(_) => Disposition::Retry,
            F::TlsNotOffered { .. }
            | F::Tls(_)
            | F::PasswordMissing
            | F::AuthenticationFailed(_)
            | F::NotAllowed(_)
            | F::UnsupportedAuthentication { .. }
            | F::ServerNotProven { .. }
            | F::ChannelBindingUnavailable
            | F::DatabaseMissing(_)
            | F::Protocol(_) => Disposition::WaitForOperator { remedy: self.remedy() },
            F::Server(message) => disposition_of_sqlstate(&message.sqlstate),
        }
    }
}

impl ConnectFailure {
    pub(super) fn of_server(message: ServerMessage) -> Self {
        match message.sqlstate.as_str() {
            "28P01" => Self::AuthenticationFailed(message),
            "28000" => Self::NotAllowed(message),
            "3D000" => Self::DatabaseMissing(message),
            "53300" => Self::TooManyConnections(message),
            "57P03" => Self::NotAcceptingConnections(message),
            _ => Self::Server(message),
        }
    }

    pub(super) fn of_io(address: &str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                Self::Refused { address: address.to_owned() }
            }
            _ => Self::Unreachable { address: address.to_owned(), source },
        }
    }

    /// Whether the same server might say something else with or without TLS: `prefer` and `allow` try both.
    pub(super) const fn depends_on_encryption(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::TlsNotOffered { .. } | Self::NotAllowed(_))
    }

    const fn server_message(&self) -> Option<&ServerMessage> {
        match self {
            Self::AuthenticationFailed(message)
            | Self::NotAllowed(message)
            | Self::DatabaseMissing(message)
            | Self::TooManyConnections(message)
            | Self::NotAcceptingConnections(message)
            | Self::Server(message) => Some(message),
            _ => None,
        }
    }

    /// `{side}` stands for the side's name.
    fn remedy(&self) -> String {
        match self {
            Self::Turnover { .. } => {
                "Wait until the cluster has its new primary; pgsluice goes on by itself and loses nothing. If it lasts, look at the cluster with `kubectl cnpg status`."
            }
            Self::Dns { .. } => {
                "Check the host in `{side}.url`, and that this machine or pod can resolve it (in Kubernetes: service.namespace.svc)."
            }
            Self::Refused { .. } => {
                "Check host and port in `{side}.url`, that PostgreSQL is running, and that its `listen_addresses` includes that address."
            }
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                "Check host and port in `{side}.url`, and firewalls, security groups and network policies between here and there."
            }
            Self::TlsNotOffered { .. } => {
                "Switch `ssl = on` at the server, or use sslmode=prefer in `{side}.url` if the network in between is trusted."
            }
            Self::Tls(error) => return error.remedy(),
            Self::PasswordMissing => {
                "Set `{side}.password_file` to a file with the password (or put it into `{side}.url`)."
            }
            Self::AuthenticationFailed(_) => {
                "Check the user in `{side}.url` and the password in `{side}.password_file`; try them with psql."
            }
            Self::NotAllowed(_) => {
                "Add a line for this user, database and address to the server's `pg_hba.conf` and reload it (a replication connection names the database too), and check that the role has LOGIN and, on the source, REPLICATION."
            }
            Self::UnsupportedAuthentication { .. } => {
                "Let this user authenticate by scram-sha-256 (or md5, password, cert, trust) in the server's `pg_hba.conf`."
            }
            Self::ServerNotProven { .. } => {
                "Somebody may be pretending to be the server: check the address, and use sslmode=verify-full in `{side}.url`."
            }
            Self::ChannelBindingUnavailable => {
                "Channel binding needs TLS and scram-sha-256 on the server: check sslmode, `password_encryption` and `pg_hba.conf`, or use channel_binding=prefer."
            }
            Self::DatabaseMissing(_) => "Check the database's name in `{side}.url`, or create the database.",
            Self::TooManyConnections(_) => {
                "Raise `max_connections`, `max_wal_senders` or the role's CONNECTION LIMIT, or close sessions that are not needed; nothing is lost by waiting."
            }
            Self::NotAcceptingConnections(_) => "Wait until the server has started; nothing is lost by waiting.",
            Self::WrongRole { .. } => {
                "List every server of the cluster in `{side}.url`, or connect to the service that follows the primary."
            }
            Self::Server(_) => "The server's own message says what is missing; its log may say more.",
            Self::Lost(_) => "Look into the server's log; if a proxy or load balancer stands in between, check it.",
            Self::Protocol(_) => {
                "Check that host and port in `{side}.url` lead to PostgreSQL itself: replication does not work through PgBouncer or an HTTP proxy."
            }
        }
        .to_owned()
    }
}

impl From<FrameError> for ConnectFailure {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<DecodeError> for ConnectFailure {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<EncodeError> for ConnectFailure {
    fn from(error: EncodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_password_waits_for_the_operator_and_says_which_key_to_correct() {
        let settings = ConnectionSettings::parse("postgres://app:secret@db/shop").unwrap();
        let message =
            ServerMessage { sqlstate: "28P01".into(), message: "password authentication failed".into() };
        let error = ConnectError::new(Side::Source, &settings, ConnectFailure::of_server(message));
        assert_eq!(error.sqlstate(), Some("28P01"));
        assert!(error.remedy().contains("source.password_file"));
        assert!(matches!(error.disposition(), Disposition::WaitForOperator { .. }));
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}
