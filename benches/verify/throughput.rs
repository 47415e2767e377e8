//! Case (n): the same rows compared by every contender in turn, several rounds of it, with nothing else going on.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Instant;

use tokio::process::Command;

use super::Outcome;
use super::cpu::{CpuSeconds, Watched, peak_resident_mib};
use super::ground::Ground;
use super::options::Options;
use super::report::{MD5, Measured, OneRun, PGCOPYDB, PGSLUICE, ThroughputReport};
use super::servers::{Server, Servers, settle};
use super::sluice::Migrated;

/// Sessions on each side in which pgsluice compares here.
const JOBS: u8 = 2;

/// Measures it.
pub(crate) async fn measure(
    servers: &Servers,
    ground: &Ground,
    migrated: &Migrated,
    options: &Options,
) -> Outcome<ThroughputReport> {
    let mut measured: BTreeMap<String, Measured> = BTreeMap::new();
    let mut contenders: Vec<&str> =
        [PGCOPYDB, MD5, PGSLUICE].into_iter().filter(|name| options.includes(name)).collect();
    let (mut rows, mut longest_ms) = (0, 0.0_f64);
    for round in 1..=options.rounds {
        // Nobody is always the first.
        let count = contenders.len().max(1);
        contenders.rotate_left(round % count);
        for contender in &contenders {
            settle(servers).await?;
            let watched = Watched {
                source: servers.source.postmaster,
                target: servers.target.postmaster,
                replicator: Some(migrated.pid()),
            };
            let before = CpuSeconds::now(watched)?;
            let started = Instant::now();
            match *contender {
                PGCOPYDB => pgcopydb(servers, ground, &migrated.database).await?,
                MD5 => md5_on_both(servers, ground, &migrated.database).await?,
                _ => {
                    let report = migrated.verify(100, JOBS).await?;
                    rows = report.rows_compared;
                    longest_ms = longest_ms.max(report.longest_snapshot_ms);
                }
            }
            let seconds = started.elapsed().as_secs_f64();
            let cpu = CpuSeconds::now(watched)?.since(&before);
            println!(
                "    {contender}: {seconds:.2} s, CPU s source {:.2}, target {:.2}",
                cpu.source_server, cpu.target_server
            );
            let run = OneRun { seconds, cpu_source: cpu.source_server, cpu_target: cpu.target_server };
            measured.entry((*contender).to_owned()).or_default().runs.push(run);
        }
    }
    Ok(ThroughputReport {
        rows,
        table_bytes: ground.table_bytes,
        contenders: measured,
        longest_snapshot_seconds: longest_ms / 1_000.0,
        peak_resident_mib: peak_resident_mib(migrated.pid())?,
    })
}

async fn pgcopydb(servers: &Servers, ground: &Ground, database: &str) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    let mut path = servers.target.bindir().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let output = Command::new(program()?)
        .args(["compare", "data", "--source", &servers.source_url(&ground.database)])
        .args(["--target", &servers.target_url(database), "--dir"])
        .arg(directory.path().join("work"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .await?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "pgcopydb compare data ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

/// Its first line about itself, for the report.
pub(crate) async fn pgcopydb_version() -> Outcome<String> {
    let output = Command::new(program()?).arg("--version").output().await?;
    let said = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&said).into_owned();
    let of_itself = text.lines().find(|line| line.contains("pgcopydb version"));
    let version = of_itself.and_then(|line| line.split("pgcopydb version").nth(1)?.split_whitespace().next());
    Ok(format!("pgcopydb {}", version.unwrap_or("?")))
}

fn program() -> Outcome<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/bin");
    std::env::split_paths(&path)
        .chain([own])
        .map(|folder| folder.join("pgcopydb-compare"))
        .find(|program| program.is_file())
        .ok_or_else(|| "pgcopydb-compare is missing: run scripts/install-pgcopydb-compare.sh, or leave it out by PGSLUICE_BENCH_ONLY=md5,pgsluice".into())
}

/// What people write by themselves: one statement for each table, on both sides at once, as parallel as PostgreSQL makes it.
async fn md5_on_both(servers: &Servers, ground: &Ground, database: &str) -> Outcome<()> {
    let (source, target) = tokio::try_join!(
        md5_of_all(&servers.source, &ground.database),
        md5_of_all(&servers.target, database)
    )?;
    if source == target { Ok(()) } else { Err("md5 found a difference".into()) }
}

async fn md5_of_all(server: &Server, database: &str) -> Outcome<BTreeMap<String, (i64, String)>> {
    let client = server.client(database).await?;
    client.batch_execute("SET TimeZone = 'UTC'; SET extra_float_digits = 3").await?;
    let tables = "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
                   ORDER BY pg_table_size(c.oid) DESC, 1";
    let mut sums = BTreeMap::new();
    for row in client.query(tables, &[]).await? {
        let table: String = row.get(0);
        let sql = format!(
            "SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint), 0)::text FROM ONLY {table} t"
        );
        let row = client.query_one(&sql, &[]).await?;
        sums.insert(table, (row.get(0), row.get(1)));
    }
    Ok(sums)
}
