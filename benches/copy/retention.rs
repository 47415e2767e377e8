//! Case (m): what the source must keep while a large table is copied under a steady writer: pgsluice beside native logical
//! replication, which holds one snapshot for as long as the copy of a table takes, as every copy under an exported snapshot does.
//! A narrow way from the source makes the copy long, for both in the same way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::Outcome;
use super::fingerprint::{fingerprint, require_identical};
use super::ground::Ground;
use super::held::{Held, OWN_SESSIONS, Watch};
use super::narrow_link::NarrowLink;
use super::native;
use super::options::Options;
use super::report::{NATIVE, PGSLUICE, RetentionReport};
use super::servers::{Server, Servers, settle};
use super::sluice::SluiceRun;

/// At full size; some 230 bytes each, on their way as on disk.
const ROWS: u64 = 2_400_000;
/// So that the copy takes more than a minute.
const LINK_BYTES_PER_SECOND: u64 = 8 * 1024 * 1024;
/// So that the table has some twenty of them, as one of 5 GB has in the default configuration.
const CHUNK_BYTES: &str = "32MiB";
const TRANSACTIONS_PER_SECOND: u64 = 200;
/// Longest wait for what was committed last.
const LAST_WAIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// With room on every page, so that the second contender's writer finds what the first one's found.
const TABLES: &str = "
    CREATE TABLE bench_marks (id int PRIMARY KEY);
    CREATE TABLE large (id bigint PRIMARY KEY, n int NOT NULL, payload text NOT NULL) WITH (fillfactor = 90);
    CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, what text NOT NULL)";

/// Measures the case, once for each contender.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Outcome<RetentionReport> {
    let rows = options.scaled(ROWS);
    let database = "case_m".to_owned();
    servers.source.execute("postgres", &format!("CREATE DATABASE {database}")).await?;
    let client = servers.source.client(&database).await?;
    client.batch_execute(&format!("SET synchronous_commit = off; {TABLES}")).await?;
    let fill = format!(
        "INSERT INTO large SELECT i, 0, repeat(md5(i::text), 6) FROM generate_series(1::bigint, {rows}) i"
    );
    client.batch_execute(&fill).await?;
    drop(client);
    let ground = Ground::look_at(servers, database).await?;
    let mut contenders = BTreeMap::new();
    for (mark, name) in [(1, NATIVE), (2, PGSLUICE)] {
        if options.includes(name) {
            let link = NarrowLink::start(servers.source.port(), LINK_BYTES_PER_SECOND).await?;
            let retention = Retention { servers, options, ground: &ground, link, rows };
            let held = retention.of(name, mark).await?;
            println!("    {name:10}{}", describe(&held));
            contenders.insert(name.to_owned(), held);
        }
    }
    let table_bytes = ground.table_bytes;
    ground.remove(servers).await?;
    Ok(RetentionReport {
        table_bytes,
        link_bytes_per_second: LINK_BYTES_PER_SECOND,
        transactions_per_second: TRANSACTIONS_PER_SECOND,
        chunk_bytes: CHUNK_BYTES.to_owned(),
        contenders,
    })
}

struct Retention<'a> {
    servers: &'a Servers,
    options: &'a Options,
    ground: &'a Ground,
    link: NarrowLink,
    rows: u64,
}

impl Retention<'_> {
    async fn of(&self, name: &str, mark: i32) -> Outcome<Held> {
        let (servers, ground) = (self.servers, self.ground);
        let database = format!("{}_{name}", ground.database);
        servers.target.execute("postgres", &format!("CREATE DATABASE {database}")).await?;
        if name == NATIVE {
            native::make_definitions(servers, ground, &database).await?;
        }
        settle(servers).await?;
        let writer = Writer::start(&servers.source, &ground.database, self.rows).await?;
        let watch = Watch::start(servers.source.client(&ground.database).await?);
        let started = Instant::now();
        let (held, sluice) = if name == NATIVE {
            let connection = servers.subscription_connection_by(self.link.port(), &ground.database);
            native::subscribe(servers, &connection, &database).await?;
            native::wait_until_ready(servers, &database).await?;
            (ended(watch, started).await?, None)
        } else {
            let mut run = self.sluice(&database)?;
            run.start()?;
            run.wait_until_streaming(servers, &database).await?;
            let mut held = ended(watch, started).await?;
            chunks(&servers.target.client(&database).await?, &mut held).await?;
            (held, Some(run))
        };
        writer.stop().await?;
        self.require_identical(&database, mark, name).await?;
        match sluice {
            None => native::unsubscribe(servers, &database).await?,
            Some(mut run) => {
                run.stop().await?;
                run.forget(servers, &ground.database).await?;
            }
        }
        servers.target.drop_database(&database).await?;
        Ok(held)
    }

    fn sluice(&self, database: &str) -> Outcome<SluiceRun> {
        let source = self.servers.source_url_by(self.link.port(), &self.ground.database);
        let configuration =
            format!("snapshot.chunk_bytes = \"{CHUNK_BYTES}\"\n{}", self.options.configuration);
        let binary = Path::new(env!("CARGO_BIN_EXE_pgsluice"));
        SluiceRun::new(self.servers, (source, database), binary, &configuration)
    }

    /// Waits for everything that was written during the copy, then compares.
    async fn require_identical(&self, database: &str, mark: i32, who: &str) -> Outcome<()> {
        let source = self.servers.source.client(&self.ground.database).await?;
        source.execute("INSERT INTO bench_marks VALUES ($1)", &[&mark]).await?;
        let target = self.servers.target.client(database).await?;
        let deadline = Instant::now() + LAST_WAIT;
        let has_mark = "SELECT EXISTS (SELECT FROM bench_marks WHERE id = $1)";
        while !target.query_one(has_mark, &[&mark]).await?.get::<_, bool>(0) {
            if Instant::now() > deadline {
                return Err(format!("{who}: what was committed last did not come").into());
            }
            tokio::time::sleep(POLL).await;
        }
        require_identical(&fingerprint(&source).await?, &fingerprint(&target).await?, who)
    }
}

async fn ended(watch: Watch, started: Instant) -> Outcome<Held> {
    let copy_seconds = started.elapsed().as_secs_f64();
    Ok(Held { copy_seconds, ..watch.finish().await? })
}

/// What pgsluice recorded of its chunks.
async fn chunks(target: &Client, held: &mut Held) -> Outcome<()> {
    let sql = "SELECT count(*), max(extract(epoch FROM joined_at - begun_at))::float8
          FROM pgsluice.copy_chunk WHERE table_name = 'large'";
    let row = target.query_one(sql, &[]).await?;
    held.chunks = row.get(0);
    held.longest_chunk_seconds = row.get(1);
    Ok(())
}

/// Commits transactions at a steady rate until it is stopped: a row of the large table changes, a row of the log is new.
struct Writer {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<Outcome<()>>,
}

impl Writer {
    async fn start(source: &Server, database: &str, rows: u64) -> Outcome<Self> {
        let client = source.client(database).await?;
        client
            .batch_execute(&format!("SET application_name = '{OWN_SESSIONS}'; SET synchronous_commit = off"))
            .await?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writing = tokio::spawn(async move {
            let interval = Duration::from_secs(1) / u32::try_from(TRANSACTIONS_PER_SECOND)?;
            let mut due = tokio::time::interval(interval);
            for n in 0_u64.. {
                due.tick().await;
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // A prime step meets rows all over the table.
                let id = 1 + n.wrapping_mul(2_147_483_647) % rows;
                let sql = format!(
                    "BEGIN; UPDATE large SET n = n + 1 WHERE id = {id};
                     INSERT INTO log (at, what) VALUES (now(), 'changed {id}'); COMMIT"
                );
                client.batch_execute(&sql).await?;
            }
            Ok(())
        });
        Ok(Self { stop, writing })
    }

    async fn stop(self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.writing.await?
    }
}

fn describe(held: &Held) -> String {
    format!(
        "copied in {:.1} s; WAL kept {:.1} of {:.1} MB; oldest snapshot {} of {} transactions, {:.1} s; one session {:.1} s",
        held.copy_seconds,
        held.wal_bytes_max as f64 / 1e6,
        held.wal_bytes_written as f64 / 1e6,
        held.snapshot_transactions_max,
        held.transactions_written,
        held.snapshot_seconds_max,
        held.session_seconds_max
    )
}
