//! How a server is reached: libpq connection strings, TLS by libpq's `sslmode` names, SQL sessions
//! (tokio-postgres) and the replication connection (postgres-protocol by hand, because released tokio-postgres
//! has no replication mode). Both kinds share the settings, the transport with its TLS, and the errors.

mod authentication;
mod certificate;
mod connection_string;
mod error;
mod pinned;
mod replication;
mod replication_stream;
mod settings;
mod sql;
mod sql_error;
mod tls;
mod transport;

pub use error::{
    ConnectError, ConnectFailure, ReplicationError, ServerMessage, disposition_of, disposition_of_sqlstate,
};
pub use pinned::PINNED_SETTINGS;
pub use replication::{ReplicationConnection, ReplicationRow, ReplicationSocket};
pub use replication_stream::ReplicationStream;
pub use settings::{ChannelBinding, ConnectionSettings, SettingsError, SslMode};
pub use sql::{CancelHandle, SqlSession, connect_sql};
pub use sql_error::SqlError;
pub use tls::TlsError;
