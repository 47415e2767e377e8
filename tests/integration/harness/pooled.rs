//! Clients that reach a database through a pooler in transaction mode, each with a memory of what was committed: three
//! round trips a transaction, so that a pause meets transactions in the middle.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use super::clusters::connect;

/// Between two transactions of a client.
const REST: Duration = Duration::from_millis(2);

/// The table the clients write to: nothing in it would stop a doubled row.
pub(crate) const LEDGER: &str =
    "CREATE TABLE ledger (id bigserial PRIMARY KEY, client int NOT NULL, number bigint NOT NULL)";

/// How a client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Once.
    Stays,
    /// For every transaction.
    ComesAnew,
}

/// Running clients.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    committed: AtomicU64,
    record: Mutex<Record>,
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// How many transactions each client saw committed.
    pub(crate) committed: BTreeMap<i32, i64>,
    pub(crate) errors: Vec<String>,
    /// The longest time from the wish to begin a transaction to its commit.
    pub(crate) longest_wait: Duration,
}

impl Clients {
    pub(crate) fn start(url: &str, habits: &[(usize, Habit)]) -> Self {
        let (shared, mut tasks) = (Arc::new(Shared::default()), JoinSet::new());
        let all = habits.iter().flat_map(|(count, habit)| std::iter::repeat_n(*habit, *count));
        for (id, habit) in (0..).zip(all) {
            tasks.spawn(live(url.to_owned(), id, habit, Arc::clone(&shared)));
        }
        Self { shared, tasks }
    }

    pub(crate) fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// From now on the longest wait is measured anew; what it was.
    pub(crate) fn measure_anew(&self) -> Duration {
        std::mem::take(&mut self.shared.record.lock().expect("no panic").longest_wait)
    }

    /// Waits until they have committed this many more, and for thirty seconds at most.
    pub(crate) async fn commit(&self, more: u64) {
        let (before, begun_at) = (self.committed(), Instant::now());
        while self.committed() < before + more {
            let record = self.shared.record.lock().expect("no panic").clone();
            assert!(begun_at.elapsed() < Duration::from_secs(30), "clients do not get on: {record:?}");
            tokio::time::sleep(REST).await;
        }
    }

    /// Lets every client end its transaction.
    pub(crate) async fn stop(mut self) -> Record {
        self.shared.stopped.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client");
        }
        self.shared.record.lock().expect("no panic").clone()
    }
}

async fn live(url: String, id: i32, habit: Habit, shared: Arc<Shared>) {
    let mut session = None;
    for number in 1.. {
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        let begun_at = Instant::now();
        let outcome = transaction(&url, &mut session, id, number).await;
        if habit == Habit::ComesAnew || outcome.is_err() {
            session = None;
        }
        {
            let mut record = shared.record.lock().expect("no panic");
            record.longest_wait = record.longest_wait.max(begun_at.elapsed());
            match outcome {
                Ok(()) => *record.committed.entry(id).or_default() = number,
                Err(error) => {
                    // The ledger needs no gaps to be judged: a client that saw an error has ended its work.
                    record.errors.push(format!("client {id}: {error:?}"));
                    return;
                }
            }
        }
        shared.committed.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(REST).await;
    }
}

async fn transaction(
    url: &str,
    session: &mut Option<Client>,
    id: i32,
    number: i64,
) -> Result<(), tokio_postgres::Error> {
    let client = match session {
        Some(client) => client,
        None => {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            session.insert(client)
        }
    };
    client.batch_execute("BEGIN").await?;
    client.batch_execute(&format!("INSERT INTO ledger (client, number) VALUES ({id}, {number})")).await?;
    client.batch_execute("COMMIT").await
}

/// Compares what clients saw committed with what the servers hold, all together: `(missing, doubled)`.
pub(crate) async fn judge(urls: &[String], record: &Record) -> (i64, i64) {
    let mut found: BTreeMap<(i32, i64), i64> = BTreeMap::new();
    for url in urls {
        let query = "SELECT client, number, count(*) FROM ledger GROUP BY 1, 2";
        for row in connect(url).await.query(query, &[]).await.expect("the ledger") {
            *found.entry((row.get(0), row.get(1))).or_default() += row.get::<_, i64>(2);
        }
    }
    let seen = record.committed.iter().flat_map(|(client, last)| (1..=*last).map(|number| (*client, number)));
    let missing = seen.filter(|row| !found.contains_key(row)).count();
    let doubled: i64 = found.values().map(|count| count - 1).sum();
    (i64::try_from(missing).expect("few"), doubled)
}
