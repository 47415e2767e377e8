//! One transaction of five million rows, and one of a gibibyte of long values, each sent whole and while in progress:
//! the rows are the same on both sides, the program's resident set stays below its bound (INV-12), and the seconds are
//! printed. Run by `scripts/large-transactions.sh`; takes many minutes and some 30 GB of disk.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgsluice::demo::binaries::{Installation, discover};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster};
use pgsluice::demo::compare::{ComparedSide, compare_rows};
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use tokio_postgres::{Client, NoTls};

const RESIDENT_MIB_MAX: u64 = 128;
const APPLY_WAIT: Duration = Duration::from_secs(1_800);
const SCHEMA: &str = "
    CREATE TABLE narrow (id bigint PRIMARY KEY, payload text NOT NULL, at timestamptz DEFAULT now());
    CREATE TABLE long_values (id bigint PRIMARY KEY, payload bytea NOT NULL);
    ALTER TABLE long_values ALTER payload SET STORAGE EXTERNAL;
    CREATE TABLE marks (id int PRIMARY KEY);";

/// A transaction, and what it is called.
struct Large {
    about: String,
    sql: String,
}

/// The sizes: `PGSLUICE_LARGE_ROWS` rows and `PGSLUICE_LARGE_MIB` mebibytes.
fn large() -> Result<[Large; 2], Box<dyn Error>> {
    let number =
        |name: &str, default: u64| std::env::var(name).map_or(Ok(default), |text| text.parse::<u64>());
    let (rows, mib) = (number("PGSLUICE_LARGE_ROWS", 5_000_000)?, number("PGSLUICE_LARGE_MIB", 1_024)?);
    Ok([
        Large {
            about: format!("{rows} rows"),
            sql: format!(
                "INSERT INTO narrow SELECT i, md5(i::text) || repeat('x', 60) FROM generate_series(1, {rows}) i"
            ),
        },
        // A mebibyte of hashes a row, another one for each: nothing compresses it.
        Large {
            about: format!("{mib} MiB of long values"),
            sql: format!(
                "INSERT INTO long_values SELECT i, (SELECT string_agg(sha512((i || '/' || j)::bytea), '') FROM generate_series(1, 16384) j)
                   FROM generate_series(1, {mib}) i"
            ),
        },
    ])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut installed = discover();
    let newest = installed.pop_last().ok_or("no PostgreSQL found: run scripts/install-postgres.sh")?.1;
    let oldest = installed.pop_first().map_or_else(|| newest.clone(), |(_, oldest)| oldest);
    println!("{} -> {}, each in one transaction", oldest.version, newest.version);
    for large in large()? {
        for in_progress in ["off", "on"] {
            run(&large, in_progress, &oldest, &newest).await?;
        }
    }
    Ok(())
}

async fn run(
    large: &Large,
    in_progress: &str,
    oldest: &Installation,
    newest: &Installation,
) -> Result<(), Box<dyn Error>> {
    let options = ClusterOptions::new().setting("max_wal_size", "8GB");
    let source = LocalCluster::start(oldest, &options).await?;
    let target = LocalCluster::start(newest, &options).await?;
    let (source_url, target_url) = (source.url("postgres"), target.url("postgres"));
    let (writer, reader) = (connect(&source_url).await?, connect(&target_url).await?);
    writer.batch_execute(SCHEMA).await?;
    let directory = tempfile::tempdir()?;
    let command = ReplicatorCommand {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")),
        directory: directory.path().to_owned(),
        source_url: source_url.clone(),
        target_url: target_url.clone(),
        postgres_bin_dir: newest.bindir.clone(),
        more_configuration: format!("source.stream_in_progress = \"{in_progress}\""),
    };
    let mut replicator = command.start()?;
    replicator.wait_until_streaming(Duration::from_secs(120)).await?;
    let started = Instant::now();
    writer.batch_execute(&large.sql).await?;
    let wrote = started.elapsed();
    let committed = Instant::now();
    // A transaction of its own that comes after it: there once everything is.
    writer.batch_execute("INSERT INTO marks VALUES (1)").await?;
    wait_for_mark(&reader, &mut replicator, committed).await?;
    let applied = committed.elapsed();
    let highest = highest_resident_mib(replicator.id())?;
    let comparison = compare_rows(&ComparedSide::now(source_url), &ComparedSide::now(target_url)).await?;
    println!(
        "{}, in progress {in_progress}: written in {:.0} s, applied {:.0} s after its commit, at most {highest} MiB \
         resident (bound {RESIDENT_MIB_MAX}), {} rows compared, {} differences",
        large.about,
        wrote.as_secs_f64(),
        applied.as_secs_f64(),
        comparison.rows_compared,
        comparison.row_differences()
    );
    if highest > RESIDENT_MIB_MAX {
        return Err("the resident set went over its bound".into());
    }
    if !comparison.rows_are_identical() {
        return Err("source and target differ".into());
    }
    Ok(())
}

async fn wait_for_mark(
    reader: &Client,
    replicator: &mut Replicator,
    committed: Instant,
) -> Result<(), Box<dyn Error>> {
    while reader.query_opt("SELECT 1 FROM marks", &[]).await?.is_none() {
        if committed.elapsed() > APPLY_WAIT {
            return Err(format!("not applied after {APPLY_WAIT:?}; its log:\n{}", replicator.log()).into());
        }
        if let Some(status) = replicator.ended() {
            return Err(format!("the program ended with {status}; its log:\n{}", replicator.log()).into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// `VmHWM` of a process.
fn highest_resident_mib(pid: u32) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
    Ok(kib.div_ceil(1024))
}
