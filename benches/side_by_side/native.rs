//! Native logical replication as a contender: a subscription with default options (but for `binary`, where that is the
//! point), without initial copy, on a slot that is there already. Its apply worker is a process of the target.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::Outcome;
use super::ground::{BacklogEnd, Ground, NATIVE_PUBLICATION};
use super::servers::Servers;

/// How often the target is asked whether everything is there.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// Longest wait for one run.
pub(crate) const RUN_WAIT: Duration = Duration::from_secs(900);
/// Longest wait for the apply worker's end.
const WORKER_WAIT: Duration = Duration::from_secs(30);

/// The base: the source's tables and rows as `pg_dump` makes them, and a slot.
pub(crate) async fn prepare_base(servers: &Servers, ground: &Ground, base: &str) -> Outcome<()> {
    servers.target.execute("postgres", &format!("CREATE DATABASE {base}")).await?;
    let dump = servers.target.bindir().join("pg_dump");
    let psql = servers.target.bindir().join("psql");
    let status = tokio::process::Command::new("/bin/sh")
        .args([
            "-c",
            "\"$1\" --no-publications --dbname \"$2\" | \"$3\" -X -q -v ON_ERROR_STOP=1 --dbname \"$4\"",
            "copy",
        ])
        .arg(dump)
        .arg(servers.source_url(&ground.database))
        .arg(psql)
        .arg(servers.target_url(base))
        .stdout(Stdio::null())
        .status()
        .await?;
    if !status.success() {
        return Err("copying the source's rows for native replication failed".into());
    }
    servers.target.execute(base, "VACUUM (ANALYZE)").await?;
    let source = servers.source.client(&ground.database).await?;
    source.execute("SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')", &[&base]).await?;
    Ok(())
}

/// A subscription that does not run yet, of the database's name, on the slot of the same name.
pub(crate) async fn subscribe(servers: &Servers, ground: &Ground, name: &str, binary: &str) -> Outcome<()> {
    let connection = servers.subscription_connection(&ground.database);
    let sql = format!(
        "CREATE SUBSCRIPTION {name} CONNECTION '{connection}' PUBLICATION {NATIVE_PUBLICATION}
         WITH (create_slot = false, slot_name = '{name}', copy_data = false, enabled = false, binary = {binary})"
    );
    servers.target.execute(name, &sql).await
}

/// Lets the subscription run.
pub(crate) async fn enable(servers: &Servers, name: &str) -> Outcome<()> {
    servers.target.execute(name, &format!("ALTER SUBSCRIPTION {name} ENABLE")).await
}

/// Stops it, and waits for its worker's end.
pub(crate) async fn disable(servers: &Servers, name: &str) -> Outcome<()> {
    let client = servers.target.client(name).await?;
    client.batch_execute(&format!("ALTER SUBSCRIPTION {name} DISABLE")).await?;
    let deadline = Instant::now() + WORKER_WAIT;
    let running = "SELECT count(*) FROM pg_stat_subscription WHERE subname = $1::text AND pid IS NOT NULL";
    while client.query_one(running, &[&name]).await?.get::<_, i64>(0) > 0 {
        if Instant::now() > deadline {
            return Err("the apply worker does not end".into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Removes it; its slot stays.
pub(crate) async fn unsubscribe(servers: &Servers, name: &str) -> Outcome<()> {
    let client = servers.target.client(name).await?;
    client.batch_execute(&format!("ALTER SUBSCRIPTION {name} DISABLE")).await?;
    client.batch_execute(&format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")).await?;
    Ok(client.batch_execute(&format!("DROP SUBSCRIPTION {name}")).await?)
}

/// Waits until the mark is there: one worker applies everything in order.
pub(crate) async fn wait_for(target: &Client, end: &BacklogEnd) -> Outcome<()> {
    let deadline = Instant::now() + RUN_WAIT;
    while !has_mark(target, end.mark).await? {
        if Instant::now() > deadline {
            return Err(format!("native replication has not applied the backlog after {RUN_WAIT:?}").into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Whether a mark is visible on the target.
pub(crate) async fn has_mark(target: &Client, mark: i32) -> Outcome<bool> {
    let sql = "SELECT EXISTS (SELECT FROM bench_marks WHERE id = $1)";
    Ok(target.query_one(sql, &[&mark]).await?.get(0))
}
