//! Native logical replication's copy: a subscription whose tables are there already, with all indexes and constraints, because
//! native replication makes none. Its workers are processes of the target.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio_postgres::Client;

use super::Outcome;
use super::ground::{Ground, NATIVE_PUBLICATION};
use super::servers::Servers;

/// How often the target is asked whether everything is there: as often as of the others, and seldom enough to cost nothing.
const POLL: Duration = Duration::from_millis(50);
/// Longest wait for one copy.
pub(crate) const COPY_WAIT: Duration = Duration::from_secs(1_800);

/// Tables, indexes and constraints as the source has them.
pub(crate) async fn make_definitions(servers: &Servers, ground: &Ground, database: &str) -> Outcome<()> {
    let mut psql = tokio::process::Command::new(servers.target.bindir().join("psql"))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", &servers.target_url(database)])
        // Outside of the clock: nobody need wait for the disk after each of thousands of statements.
        .env("PGOPTIONS", "-c synchronous_commit=off")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let mut input = psql.stdin.take().ok_or("psql takes no input")?;
    input.write_all(ground.definitions.as_bytes()).await?;
    drop(input);
    if psql.wait().await?.success() { Ok(()) } else { Err("psql could not make the definitions".into()) }
}

/// How many tables one subscription may copy at the same time.
pub(crate) async fn allow_workers(servers: &Servers, workers: u32) -> Outcome<()> {
    let set = format!("ALTER SYSTEM SET max_sync_workers_per_subscription = {workers}");
    servers.target.execute("postgres", &set).await?;
    servers.target.execute("postgres", "SELECT pg_reload_conf()").await
}

/// Begins. Subscription and slot have the database's name.
pub(crate) async fn subscribe(servers: &Servers, connection: &str, database: &str) -> Outcome<()> {
    let sql = format!(
        "CREATE SUBSCRIPTION {database} CONNECTION '{connection}' PUBLICATION {NATIVE_PUBLICATION}
         WITH (binary = true, copy_data = true)"
    );
    servers.target.execute(database, &sql).await
}

/// Waits until every table is copied and handed over to the apply worker.
pub(crate) async fn wait_until_ready(servers: &Servers, database: &str) -> Outcome<()> {
    let client = servers.target.client(database).await?;
    let deadline = Instant::now() + COPY_WAIT;
    while !is_ready(&client).await? {
        if Instant::now() > deadline {
            return Err(format!("native replication has not copied everything after {COPY_WAIT:?}").into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Removes subscription and slot.
pub(crate) async fn unsubscribe(servers: &Servers, database: &str) -> Outcome<()> {
    servers.target.execute(database, &format!("DROP SUBSCRIPTION {database}")).await
}

async fn is_ready(client: &Client) -> Outcome<bool> {
    let sql = "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel";
    Ok(client.query_one(sql, &[]).await?.try_get::<_, Option<bool>>(0)?.unwrap_or(false))
}
