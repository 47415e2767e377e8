//! Memory of the program through one transaction of five million rows (INV-12): prints the highest resident set and fails
//! above the bound. Run by `scripts/bench-memory.sh`; takes a few minutes.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgsluice::demo::binaries::discover;
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster};
use pgsluice::demo::replicator::ReplicatorCommand;
use tokio_postgres::{Client, NoTls};

const ROWS: u64 = 5_000_000;
const RESIDENT_MIB_MAX: u64 = 128;
const APPLY_WAIT: Duration = Duration::from_secs(1_800);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut installed = discover();
    let newest = installed.pop_last().ok_or("no PostgreSQL found: run scripts/install-postgres.sh")?.1;
    let oldest = installed.pop_first().map_or_else(|| newest.clone(), |(_, oldest)| oldest);
    let options = ClusterOptions::new().setting("max_wal_size", "8GB");
    let source = LocalCluster::start(&oldest, &options).await?;
    let target = LocalCluster::start(&newest, &options).await?;
    let (source_url, target_url) = (source.url("postgres"), target.url("postgres"));
    let (writer, reader) = (connect(&source_url).await?, connect(&target_url).await?);
    writer
        .batch_execute(
            "CREATE TABLE big (id bigint PRIMARY KEY, payload text NOT NULL, at timestamptz DEFAULT now())",
        )
        .await?;

    let directory = tempfile::tempdir()?;
    let command = ReplicatorCommand {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")),
        directory: directory.path().to_owned(),
        source_url,
        target_url,
        postgres_bin_dir: newest.bindir.clone(),
        more_configuration: String::new(),
    };
    let mut replicator = command.start()?;
    replicator.wait_until_streaming(Duration::from_secs(120)).await?;
    let before = highest_resident_mib(replicator.id())?;

    println!("one transaction of {ROWS} rows on {} -> {}", oldest.version, newest.version);
    let started = Instant::now();
    writer
        .batch_execute(&format!(
            "INSERT INTO big SELECT i, md5(i::text) || repeat('x', 60) FROM generate_series(1, {ROWS}) i"
        ))
        .await?;
    println!("committed on the source after {:.1} s", started.elapsed().as_secs_f64());
    let committed = Instant::now();
    while applied_rows(&reader).await? < ROWS {
        if committed.elapsed() > APPLY_WAIT {
            return Err(format!("not applied after {APPLY_WAIT:?}; its log:\n{}", replicator.log()).into());
        }
        if let Some(status) = replicator.ended() {
            return Err(format!("the program ended with {status}; its log:\n{}", replicator.log()).into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let highest = highest_resident_mib(replicator.id())?;
    println!("applied {:.1} s after its commit", committed.elapsed().as_secs_f64());
    println!("resident set: {before} MiB before, at most {highest} MiB (bound {RESIDENT_MIB_MAX} MiB)");
    if highest > RESIDENT_MIB_MAX {
        return Err("the resident set went over its bound".into());
    }
    Ok(())
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// All or nothing: it is one transaction there too. The highest key is quicker to find than a count.
async fn applied_rows(reader: &Client) -> Result<u64, Box<dyn Error>> {
    let row = reader.query_one("SELECT coalesce(max(id), 0) FROM big", &[]).await?;
    Ok(u64::try_from(row.get::<_, i64>(0))?)
}

/// `VmHWM` of a process.
fn highest_resident_mib(pid: u32) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
    Ok(kib.div_ceil(1024))
}
