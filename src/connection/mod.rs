//! How a server is reached: libpq connection strings, TLS by libpq's `sslmode` names, SQL sessions
//! (tokio-postgres) and connections of our own framing (`wire`): released tokio-postgres has no replication mode, and takes
//! rows out of a COPY one by one. Both kinds share the settings, the transport with its TLS, and the errors.

mod authentication;
mod certificate;
mod connection_string;
mod console;
mod disposition;
mod error;
mod keywords;
mod pinned;
mod secret;
mod server_identity;
mod settings;
mod sql;
mod sql_error;
mod system;
mod text_query;
mod tls;
mod transport;
mod turnover;
mod wire;
mod wire_copy;
mod wire_error;

pub use console::{ConsoleError, ConsoleSession, connect_console};
pub use disposition::{disposition_of, disposition_of_sqlstate};
pub use error::{ConnectError, ConnectFailure, ServerMessage};
pub use pinned::PINNED_SETTINGS;
pub(crate) use secret::warn_if_readable_by_all;
pub use secret::{Secret, SecretKeeper};
pub use server_identity::{IdentityError, ServerIdentity};
pub use settings::{ChannelBinding, ConnectionSettings, SettingsError, SslMode};
pub use sql::{CancelHandle, SqlSession, connect_sql};
pub use sql_error::SqlError;
pub use system::{system_identity, timeline};
pub use text_query::{TextQuery, TextRow};
pub use tls::{TlsError, https_client_config};
pub use turnover::{Incumbent, Turnover};
pub use wire::{WireConnection, WireSocket};
pub use wire_copy::{WireCopy, WirePiece};
pub use wire_error::WireError;
