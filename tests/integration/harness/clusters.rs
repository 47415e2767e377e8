//! Throwaway clusters by major version.

use std::io::Write as _;
use std::sync::Once;

use pgsluice::demo::binaries::{Installation, discover};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster};
use tokio_postgres::{Client, NoTls};

/// The installation of a major version; a missing one fails the test, because a skipped test proves nothing.
pub(crate) fn installation(major: u32) -> Installation {
    let mut installed = discover();
    SAID.call_once(|| say_which(installed.values()));
    installed.remove(&major).unwrap_or_else(|| {
        panic!("PostgreSQL {major} is not installed on this machine: run scripts/install-postgres.sh {major}")
    })
}

static SAID: Once = Once::new();

/// Says once which servers the tests use, past the test runner's capture.
fn say_which<'a>(installed: impl Iterator<Item = &'a Installation>) {
    let found: Vec<_> =
        installed.map(|each| format!("{} ({})", each.version, each.bindir.display())).collect();
    let _ = writeln!(std::io::stderr(), "servers: plain processes of local binaries: {}", found.join(", "));
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
