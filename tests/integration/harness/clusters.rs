//! Throwaway clusters by major version.

use pgsluice::demo::binaries::{Installation, discover};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster};
use tokio_postgres::{Client, NoTls};

/// The installation of a major version; a missing one fails the test, because a skipped test proves nothing.
pub(crate) fn installation(major: u32) -> Installation {
    discover().remove(&major).unwrap_or_else(|| {
        panic!("PostgreSQL {major} is not installed on this machine: run scripts/install-postgres.sh {major}")
    })
}

/// Small servers: several run at once on two cores.
pub(crate) fn options() -> ClusterOptions {
    ClusterOptions::new().setting("shared_buffers", "16MB")
}

pub(crate) async fn start(major: u32) -> LocalCluster {
    start_with(major, options()).await
}

pub(crate) async fn start_with(major: u32, options: ClusterOptions) -> LocalCluster {
    LocalCluster::start(&installation(major), &options).await.expect("a throwaway cluster")
}

/// A session that ends with the returned client.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}
