//! The source of (i) and (k), and what everything on the target must be like in the end. Nothing here knows who copies it.

use super::Outcome;
use super::fingerprint::{Fingerprint, fingerprint, require_identical};
use super::objects::{self, Objects};
use super::options::{CaseId, Options};
use super::servers::{Server, Servers};

/// Of native replication; pgsluice makes its own.
pub(crate) const NATIVE_PUBLICATION: &str = "bench_native";

/// Accounts at full size; pgbench makes 100,000 for each unit of scale.
pub(crate) const ACCOUNTS: u64 = 2_000_000;
const ACCOUNTS_OF_A_UNIT: u64 = 100_000;

/// A source database, with what it holds.
pub(crate) struct Ground {
    /// Its name.
    pub(crate) database: String,
    /// Its definitions as `pg_dump` writes them.
    pub(crate) definitions: String,
    rows: Fingerprint,
    objects: Objects,
    /// Tables with what is stored out of line.
    pub(crate) table_bytes: i64,
    /// Indexes.
    pub(crate) index_bytes: i64,
}

impl Ground {
    /// Makes a database by running `fill` on it, and looks at it.
    pub(crate) async fn prepare(servers: &Servers, case: CaseId, options: &Options) -> Outcome<Self> {
        let database = format!("case_{}", case.letter());
        let source = &servers.source;
        source.execute("postgres", &format!("CREATE DATABASE {database}")).await?;
        if matches!(case, CaseId::Accounts | CaseId::Both) {
            accounts(source, &database, options).await?;
        }
        if matches!(case, CaseId::Mixed | CaseId::Both) {
            mixed(source, &database, options).await?;
        }
        Self::look_at(servers, database).await
    }

    /// A database that is there.
    pub(crate) async fn look_at(servers: &Servers, database: String) -> Outcome<Self> {
        let source = &servers.source;
        // Or autovacuum would do it in the middle of somebody's run.
        source.execute(&database, "VACUUM (FREEZE, ANALYZE)").await?;
        let publish = format!("CREATE PUBLICATION {NATIVE_PUBLICATION} FOR ALL TABLES");
        source.execute(&database, &publish).await?;
        let client = source.client(&database).await?;
        let sizes = "SELECT sum(pg_table_size(oid))::int8, sum(pg_indexes_size(oid))::int8
              FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let sizes = client.query_one(sizes, &[]).await?;
        let definitions = dump_definitions(servers, &database).await?;
        Ok(Self {
            definitions,
            rows: fingerprint(&client).await?,
            objects: objects::of(&client).await?,
            table_bytes: sizes.get(0),
            index_bytes: sizes.get(1),
            database,
        })
    }

    /// Rows of all tables.
    pub(crate) fn rows(&self) -> i64 {
        self.rows.values().map(|(rows, _)| rows).sum()
    }

    /// Every row, index and constraint of the source must be on the target, and valid.
    pub(crate) async fn require_complete(&self, target: &Server, database: &str, who: &str) -> Outcome<()> {
        let client = target.client(database).await?;
        objects::require_all(&self.objects, &objects::of(&client).await?, who)?;
        require_identical(&self.rows, &fingerprint(&client).await?, who)
    }

    /// Removes the database from the source.
    pub(crate) async fn remove(self, servers: &Servers) -> Outcome<()> {
        servers.source.drop_database(&self.database).await
    }
}

async fn accounts(source: &Server, database: &str, options: &Options) -> Outcome<()> {
    let units = (options.scaled(ACCOUNTS) / ACCOUNTS_OF_A_UNIT).max(1);
    source.pgbench(database, &["-i".into(), "-q".into(), format!("-s{units}")]).await?;
    // As pgbench leaves it, the history has no key, and nobody could replicate a change of it.
    source.execute(database, "ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await
}

async fn mixed(source: &Server, database: &str, options: &Options) -> Outcome<()> {
    let run = async |sql: &str| {
        let client = source.client(database).await?;
        client.batch_execute("SET synchronous_commit = off; SET maintenance_work_mem = '256MB'").await?;
        Ok::<_, super::Failure>(client.batch_execute(&scaled(sql, options)?).await?)
    };
    run(include_str!("mixed/definitions.sql")).await?;
    tokio::try_join!(run(include_str!("mixed/first.sql")), run(include_str!("mixed/second.sql")))?;
    run(include_str!("mixed/foreign_keys.sql")).await
}

/// Replaces `:rows(1000)` by that number at the chosen scale.
fn scaled(sql: &str, options: &Options) -> Outcome<String> {
    let mut parts = sql.split(":rows(");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (full, rest) = part.split_once(')').ok_or("a number of rows without its end")?;
        text.push_str(&options.scaled(full.parse()?).to_string());
        text.push_str(rest);
    }
    Ok(text)
}

async fn dump_definitions(servers: &Servers, database: &str) -> Outcome<String> {
    let output = tokio::process::Command::new(servers.target.bindir().join("pg_dump"))
        .args(["--schema-only", "--no-publications", "--dbname", &servers.source_url(database)])
        .output()
        .await?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("pg_dump failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}
