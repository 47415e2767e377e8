//! How long the program needs for a backlog of small transactions, beside another build of it: the same backlog, in turn,
//! several times; prints medians and their ratio. Run by `make bench-backlog BASELINE=path/to/other/pgsluice`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::demo::binaries::{Installation, discover};
use pgsluice::demo::cluster::{ClusterOptions, LocalCluster};
use pgsluice::demo::compare::{ComparedSide, compare_rows};
use pgsluice::demo::replicator::ReplicatorCommand;
use tokio_postgres::{Client, NoTls};

const TRANSACTIONS: u32 = 40_000;
const ROUNDS: u32 = 3;
const WAIT: Duration = Duration::from_secs(600);

/// TPC-B's tables and transaction, small; the same for every run.
const SCHEMA: &str = "
    CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88));
    CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
    CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
    CREATE TABLE history (hid bigserial PRIMARY KEY, tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
    INSERT INTO branches SELECT i, 0, '' FROM generate_series(1, 5) i;
    INSERT INTO tellers SELECT i, i % 5 + 1, 0, '' FROM generate_series(1, 50) i;
    INSERT INTO accounts SELECT i, i % 5 + 1, 0, '' FROM generate_series(1, 200000) i;
    CREATE PROCEDURE backlog(transactions int) LANGUAGE plpgsql AS $$
    DECLARE a int; t int; b int; d int;
    BEGIN
        PERFORM setseed(0.5);
        FOR n IN 1..transactions LOOP
            a := 1 + random() * 199999; t := 1 + random() * 49; b := 1 + random() * 4; d := random() * 1000;
            UPDATE accounts SET abalance = abalance + d WHERE aid = a;
            UPDATE tellers SET tbalance = tbalance + d WHERE tid = t;
            UPDATE branches SET bbalance = bbalance + d WHERE bid = b;
            INSERT INTO history (tid, bid, aid, delta, mtime) VALUES (t, b, a, d, now());
            COMMIT;
        END LOOP;
    END $$";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut installed = discover();
    let newest = installed.pop_last().ok_or("no PostgreSQL found: run scripts/install-postgres.sh")?.1;
    let oldest = installed.pop_first().map_or_else(|| newest.clone(), |(_, oldest)| oldest);
    let options = ClusterOptions::new()
        .setting("max_wal_size", "4GB")
        .setting("synchronous_commit", "off")
        .setting("checkpoint_timeout", "30min");
    let source = LocalCluster::start(&oldest, &options).await?;
    let target = LocalCluster::start(&newest, &options).await?;
    let mut binaries = vec![("this build", PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")))];
    if let Some(baseline) = std::env::var_os("PGSLUICE_BASELINE").filter(|path| !path.is_empty()) {
        binaries.push(("baseline", PathBuf::from(baseline)));
    }
    println!("a backlog of {TRANSACTIONS} transactions, {} -> {}", oldest.version, newest.version);
    let mut seconds = vec![Vec::new(); binaries.len()];
    for round in 1..=ROUNDS {
        for (index, (name, binary)) in binaries.iter().enumerate() {
            let database = format!("round_{round}_{index}");
            let took = run(&source, &target, &newest, binary, &database).await?;
            println!("round {round}, {name}: {:.2} s", took.as_secs_f64());
            seconds[index].push(took.as_secs_f64());
        }
    }
    let medians: Vec<f64> = seconds.iter_mut().map(|all| median(all)).collect();
    for ((name, _), median) in binaries.iter().zip(&medians) {
        println!("median, {name}: {median:.2} s, {:.0} transactions/s", f64::from(TRANSACTIONS) / median);
    }
    if let [this, baseline] = medians[..] {
        println!("throughput of this build to baseline: {:.2}", baseline / this);
    }
    Ok(())
}

/// From the program's start to the last transaction's commit on the target; the rows are compared afterwards.
async fn run(
    source: &LocalCluster,
    target: &LocalCluster,
    tools: &Installation,
    binary: &Path,
    database: &str,
) -> Result<Duration, Box<dyn Error>> {
    for cluster in [source, target] {
        connect(&cluster.url("postgres"))
            .await?
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .await?;
    }
    let (source_url, target_url) = (source.url(database), target.url(database));
    let (writer, reader) = (connect(&source_url).await?, connect(&target_url).await?);
    writer.batch_execute(SCHEMA).await?;
    let directory = tempfile::tempdir()?;
    let command = ReplicatorCommand {
        binary: binary.to_owned(),
        directory: directory.path().to_owned(),
        source_url: source_url.clone(),
        target_url: target_url.clone(),
        postgres_bin_dir: tools.bindir.clone(),
        more_configuration: format!("source.slot = \"{database}\""),
    };
    let mut replicator = command.start()?;
    replicator.wait_until_streaming(Duration::from_secs(120)).await?;
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(Duration::from_secs(10)).await?;
    writer.batch_execute(&format!("CALL backlog({TRANSACTIONS})")).await?;
    let started = Instant::now();
    let mut replicator = command.start()?;
    while transactions_on(&reader).await? < i64::from(TRANSACTIONS) {
        if started.elapsed() > WAIT || replicator.ended().is_some() {
            return Err(format!("the backlog was not applied; the log:\n{}", replicator.log()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = started.elapsed();
    let compared = compare_rows(&ComparedSide::now(source_url), &ComparedSide::now(target_url)).await?;
    if !compared.rows_are_identical() {
        return Err(format!("the rows differ: {compared:#?}").into());
    }
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(Duration::from_secs(10)).await?;
    Ok(took)
}

/// The last key of the history: quicker to find than a count.
async fn transactions_on(reader: &Client) -> Result<i64, Box<dyn Error>> {
    Ok(reader.query_one("SELECT coalesce(max(hid), 0) FROM history", &[]).await?.get(0))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
