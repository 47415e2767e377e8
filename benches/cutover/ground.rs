//! The two servers and what is on them: pgbench's tables, 96 more, 50 sequences. The settings are those of `make bench`:
//! everything that makes a server keep its data is on, and no checkpoint or vacuum is put off but by size.

use std::collections::BTreeMap;

use pgsluice::demo::binaries::{Installation, discover};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster, PASSWORD, SUPERUSER};
use pgsluice::demo::replicator::ReplicatorCommand;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::Outcome;
use super::options::Role;

const TARGET_MAJOR: u32 = 17;
const DATABASE: &str = "app";
/// Who owns the database where it is no superuser's; also the password.
const OWNER: &str = "mover";
/// pgbench's scale: 100,000 accounts each. More than there are clients, so that they do not queue for a branch.
pub(crate) const SCALE: u32 = 10;
const TABLES: &str = include_str!("ground.sql");

/// Over the defaults of throwaway servers.
const SETTINGS: [(&str, &str); 6] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "20GB"),
    ("checkpoint_timeout", "30min"),
    ("jit", "on"),
];

/// Both servers, and the folder of the program between them.
pub(crate) struct Ground {
    /// PostgreSQL 14; 15 where the role is no superuser, because only then can it be given the right that a way back needs.
    pub(crate) source: LocalCluster,
    /// PostgreSQL 17.
    pub(crate) target: LocalCluster,
    directory: TempDir,
    role: Role,
}

impl Ground {
    /// Starts both and fills the source.
    pub(crate) async fn prepare(role: Role) -> Outcome<Self> {
        let mut options = ClusterOptions::new();
        for (name, value) in SETTINGS {
            options = options.setting(name, value);
        }
        let source = LocalCluster::start(&installation(role.source_major())?, &options).await?;
        let target = LocalCluster::start(&installation(TARGET_MAJOR)?, &options).await?;
        for side in [&source, &target] {
            let client = connect(&side.url("postgres")).await?;
            let owner = match role {
                Role::Superuser => SUPERUSER,
                Role::Owner => {
                    let create = format!(
                        "CREATE ROLE {OWNER} LOGIN REPLICATION PASSWORD '{OWNER}';
                         GRANT SET ON PARAMETER session_replication_role TO {OWNER}"
                    );
                    client.batch_execute(&create).await?;
                    OWNER
                }
            };
            client.batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {owner}")).await?;
        }
        let ground = Self { source, target, directory: tempfile::tempdir()?, role };
        ground.pgbench_tables().await?;
        let client = connect(&ground.url(&ground.source)).await?;
        client.batch_execute(TABLES).await?;
        client.batch_execute("VACUUM (ANALYZE)").await?;
        Ok(ground)
    }

    /// Connection string of the database on a side, for the clients and for the program.
    pub(crate) fn url(&self, side: &LocalCluster) -> String {
        match self.role {
            Role::Superuser => side.url(DATABASE),
            Role::Owner => side.url_as(OWNER, OWNER, DATABASE),
        }
    }

    /// The program between them; its traffic adapter calls `webhook`.
    pub(crate) fn replicator(&self, webhook: &str, configuration: &str) -> ReplicatorCommand {
        ReplicatorCommand {
            binary: env!("CARGO_BIN_EXE_pgsluice").into(),
            directory: self.directory.path().to_owned(),
            source_url: self.url(&self.source),
            target_url: self.url(&self.target),
            postgres_bin_dir: self.target.installation().bindir.clone(),
            more_configuration: format!(
                "{configuration}\n[[traffic]]\nadapter = \"webhook\"\nurl = {webhook:?}\n"
            ),
        }
    }

    /// What both servers have been told, what they say about themselves, and what is on the source.
    pub(crate) async fn facts(&self) -> Outcome<BTreeMap<String, String>> {
        let mut facts: BTreeMap<String, String> =
            SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for (name, side) in [("source_version", &self.source), ("target_version", &self.target)] {
            let client = connect(&self.url(side)).await?;
            facts.insert(name.to_owned(), client.query_one("SELECT version()", &[]).await?.get(0));
        }
        let counts = "SELECT count(*) FILTER (WHERE relkind IN ('r', 'p') AND NOT relispartition)::text,
                count(*) FILTER (WHERE relispartition AND relkind = 'r')::text,
                count(*) FILTER (WHERE relkind = 'S')::text
           FROM pg_class WHERE relnamespace = 'public'::regnamespace";
        let row = connect(&self.url(&self.source)).await?.query_one(counts, &[]).await?;
        for (index, name) in ["tables", "partitions", "sequences"].into_iter().enumerate() {
            facts.insert(name.to_owned(), row.get(index));
        }
        Ok(facts)
    }

    async fn pgbench_tables(&self) -> Outcome<()> {
        let program = self.source.installation().program("pgbench");
        if !program.exists() {
            let missing = program.display();
            return Err(format!("{missing} is missing: install PostgreSQL's client programs").into());
        }
        let (user, password) = match self.role {
            Role::Superuser => (SUPERUSER, PASSWORD),
            Role::Owner => (OWNER, OWNER),
        };
        let output = tokio::process::Command::new(program)
            .args(["-h", "127.0.0.1", "-p", &self.source.port().to_string(), "-U", user])
            .args(["-i", "-q", &format!("-s{SCALE}"), DATABASE])
            .env("PGPASSWORD", password)
            .output()
            .await?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// A session of this program's own.
pub(crate) async fn connect(url: &str) -> Outcome<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn installation(major: u32) -> Outcome<Installation> {
    discover()
        .remove(&major)
        .ok_or_else(|| format!("no PostgreSQL {major} found: run scripts/install-postgres.sh").into())
}
