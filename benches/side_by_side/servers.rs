//! The two servers of a comparison, and how they are reached: by this program directly, and by the replicators over TCP,
//! with TLS or a longer way if that is asked for. Both servers have the same settings, and those are part of the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use pgsluice::demo::binaries::{Installation, discover};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster, PASSWORD, SUPERUSER, ServerTls};
use tokio_postgres::{Client, NoTls};

use super::Outcome;
use super::delay::DelayedLink;
use super::options::{Encryption, Options};

const SOURCE_MAJOR: u32 = 14;
const TARGET_MAJOR: u32 = 17;

/// Over the defaults of throwaway servers. Everything that makes a server keep its data is on, as in production; autovacuum
/// and `synchronous_commit` are as PostgreSQL has them.
const SETTINGS: [(&str, &str); 11] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "20GB"),
    ("checkpoint_timeout", "30min"),
    ("jit", "on"),
    ("max_replication_slots", "40"),
    ("max_wal_senders", "40"),
    // Room for native replication's workers, however many it is given.
    ("max_worker_processes", "40"),
    ("max_logical_replication_workers", "32"),
    // pg_dump locks every table, and who restores its definitions in one transaction locks every index too.
    ("max_locks_per_transaction", "256"),
];

/// One server.
pub(crate) struct Server {
    cluster: LocalCluster,
    /// Its main process.
    pub(crate) postmaster: u32,
}

/// Both, and the way between them.
pub(crate) struct Servers {
    /// PostgreSQL 14.
    pub(crate) source: Server,
    /// PostgreSQL 17.
    pub(crate) target: Server,
    encryption: Encryption,
    /// From pgsluice to the target.
    link_to_target: Option<DelayedLink>,
    /// From the target, where native replication's apply worker is, to the source.
    link_to_source: Option<DelayedLink>,
}

impl Servers {
    /// Starts both.
    pub(crate) async fn start(options: &Options) -> Outcome<Self> {
        let (source, target) = (installation(SOURCE_MAJOR)?, installation(TARGET_MAJOR)?);
        let mut cluster = ClusterOptions::new().authentication(options.authentication);
        for (name, value) in SETTINGS {
            cluster = cluster.setting(name, value);
        }
        if options.encryption == Encryption::Tls {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
            cluster = cluster.tls(ServerTls {
                certificate_pem: made.cert.pem(),
                key_pem: made.signing_key.serialize_pem(),
            });
        }
        let source = Server::start(&source, &cluster).await?;
        let target = Server::start(&target, &cluster).await?;
        let (mut link_to_target, mut link_to_source) = (None, None);
        if let Some(delay) = options.delay {
            link_to_target = Some(DelayedLink::start(target.port(), delay).await?);
            link_to_source = Some(DelayedLink::start(source.port(), delay).await?);
        }
        Ok(Self { source, target, encryption: options.encryption, link_to_target, link_to_source })
    }

    /// How pgsluice, and the readers that measure the limits, reach the source.
    pub(crate) fn source_url(&self, database: &str) -> String {
        self.source_url_by(self.source.port(), database)
    }

    /// The same by a port that leads to it.
    pub(crate) fn source_url_by(&self, port: u16, database: &str) -> String {
        self.url(port, database)
    }

    /// How pgsluice reaches the target.
    pub(crate) fn target_url(&self, database: &str) -> String {
        self.url(port(self.link_to_target.as_ref(), &self.target), database)
    }

    /// How native replication's apply worker, which is a process of the target, reaches the source.
    pub(crate) fn subscription_connection(&self, database: &str) -> String {
        self.subscription_connection_by(port(self.link_to_source.as_ref(), &self.source), database)
    }

    /// The same by a port that leads to it.
    pub(crate) fn subscription_connection_by(&self, port: u16, database: &str) -> String {
        let sslmode = self.sslmode();
        // No client certificate: the server's user may not even look into the home folder of whoever runs this.
        format!(
            "host=127.0.0.1 port={port} user={SUPERUSER} password={PASSWORD} dbname={database} sslmode={sslmode} \
             sslcert=/nonexistent"
        )
    }

    /// What both servers have been told, and what they say about themselves.
    pub(crate) async fn facts(&self) -> Outcome<BTreeMap<String, String>> {
        let mut facts: BTreeMap<String, String> =
            SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for (side, server) in [("source", &self.source), ("target", &self.target)] {
            let client = server.client("postgres").await?;
            facts.insert(format!("{side}_version"), client.query_one("SELECT version()", &[]).await?.get(0));
        }
        Ok(facts)
    }

    fn url(&self, port: u16, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{port}/{database}?sslmode={}", self.sslmode())
    }

    const fn sslmode(&self) -> &'static str {
        match self.encryption {
            Encryption::Plain => "disable",
            Encryption::Tls => "require",
        }
    }
}

impl Server {
    async fn start(installation: &Installation, options: &ClusterOptions) -> Outcome<Self> {
        let cluster = LocalCluster::start(installation, options).await?;
        let status = fs::read_to_string(cluster.data_dir().join("postmaster.pid"))?;
        let postmaster = status.lines().next().ok_or("postmaster.pid is empty")?.parse()?;
        Ok(Self { cluster, postmaster })
    }

    /// Where it listens.
    pub(crate) const fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// A session of this program's own: plain, and without delay.
    pub(crate) async fn client(&self, database: &str) -> Outcome<Client> {
        let (client, connection) = tokio_postgres::connect(&self.cluster.url(database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs one statement that wants no transaction around it.
    pub(crate) async fn execute(&self, database: &str, sql: &str) -> Outcome<()> {
        Ok(self.client(database).await?.batch_execute(sql).await?)
    }

    /// Removes a database with whatever uses it.
    pub(crate) async fn drop_database(&self, name: &str) -> Outcome<()> {
        self.execute("postgres", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
    }

    /// Where its programs are.
    pub(crate) fn bindir(&self) -> PathBuf {
        self.cluster.installation().bindir.clone()
    }

    /// Runs `pgbench` against a database; answers with what it printed.
    pub(crate) async fn pgbench(&self, database: &str, arguments: &[String]) -> Outcome<String> {
        let program = self.cluster.installation().program("pgbench");
        if !program.exists() {
            return Err(
                format!("{} is missing: install PostgreSQL's client programs", program.display()).into()
            );
        }
        let output = tokio::process::Command::new(program)
            .args(["-h", "127.0.0.1", "-p", &self.port().to_string(), "-U", SUPERUSER])
            .args(arguments)
            .arg(database)
            .env("PGPASSWORD", PASSWORD)
            .env("PGOPTIONS", "-c synchronous_commit=off")
            .output()
            .await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// Lets a server write out what it has, so that a run does not pay for what came before it.
pub(crate) async fn settle(servers: &Servers) -> Outcome<()> {
    for server in [&servers.source, &servers.target] {
        server.execute("postgres", "CHECKPOINT").await?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}

fn port(link: Option<&DelayedLink>, server: &Server) -> u16 {
    link.map_or_else(|| server.port(), DelayedLink::port)
}

fn installation(major: u32) -> Outcome<Installation> {
    discover()
        .remove(&major)
        .ok_or_else(|| format!("no PostgreSQL {major} found: run scripts/install-postgres.sh").into())
}
