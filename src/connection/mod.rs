//! How a server is reached: libpq connection strings, TLS by libpq's `sslmode` names, SQL sessions
//! (tokio-postgres) and the replication connection (postgres-protocol by hand, because released tokio-postgres
//! has no replication mode). Both sides use the same settings, the same TLS and the same errors.

use std::collections::BTreeMap;

/// Where a server is and who connects: parsed from a URI or a key=value string. Prints without secrets (INV-10).
#[derive(Clone, Debug, Default)]
pub struct ConnectionSettings {
    placeholder: BTreeMap<String, String>,
}
