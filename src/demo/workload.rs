//! Live traffic on the craft store: several clients, each with one connection and a memory of what it saw committed. A
//! client repeats a transaction until it is acknowledged, and looks into the ledger where it cannot know. It goes where it
//! is told ([`Workload::redirect`]), as an application does whose connection string changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::actions;
use super::store::Scale;

/// Transactions per second that a limit never goes below: a limit is not a stop.
const RATE_MIN: f64 = 0.1;
/// Longest wait before a client tries to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for another server to be announced once this one takes no writes.
const READ_ONLY_PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for a server to answer a connection attempt.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// Key of a client's errors that have no SQLSTATE: the connection was lost or refused.
const CONNECTION_LOST: &str = "connection";

/// Makes the text of one transaction of a client, its `seq`th. In it the client must write its entry into a table
/// `ledger` with the columns `client` and `seq`.
pub type Transactions = Arc<dyn Fn(&mut StdRng, usize, u64) -> String + Send + Sync>;

/// What traffic is made.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadOptions {
    /// Clients that write at the same time.
    pub writers: usize,
    /// Same seed, same transactions in the same order by client.
    pub seed: u64,
    /// Size of the store they write to.
    pub scale: Scale,
    /// All clients together do no more than this; `None`: as fast as they can.
    pub transactions_per_second_max: Option<f64>,
}

/// Running traffic. Dropping it breaks the clients off.
pub struct Workload {
    clients: JoinSet<ClientRecord>,
    orders: watch::Sender<Orders>,
    counters: Arc<Counters>,
}

/// What the clients are told.
#[derive(Clone, Debug)]
struct Orders {
    url: String,
    work: Work,
    /// From the beginning of one transaction to that of the next, at least.
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    GoOn,
    Stop,
}

#[derive(Default)]
struct Counters {
    acknowledged: AtomicU64,
    errors: AtomicU64,
}

/// What one client remembers.
#[derive(Clone, Debug, Default)]
pub struct ClientRecord {
    /// Its number, as in `ledger.client`.
    pub client: usize,
    /// The transactions it saw committed, as in `ledger.seq`.
    pub acknowledged: Vec<u64>,
    /// When it saw them committed, in the same order.
    pub acknowledged_at: Vec<Instant>,
    /// Errors it saw, by SQLSTATE, or `connection`.
    pub errors_by_code: BTreeMap<String, u64>,
    /// The longest time between two acknowledged transactions.
    pub longest_wait: Duration,
    /// Commits whose outcome it did not see and had to look up.
    pub commits_in_doubt: u64,
}

/// What all clients remember, once they have stopped.
#[derive(Clone, Debug, Default)]
pub struct WorkloadRecord {
    /// One record per client.
    pub clients: Vec<ClientRecord>,
}

impl WorkloadRecord {
    /// Transactions that some client saw committed.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.clients.iter().map(|client| client.acknowledged.len() as u64).sum()
    }

    /// Errors that clients saw, by SQLSTATE, or `connection`.
    #[must_use]
    pub fn errors_by_code(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (code, count) in self.clients.iter().flat_map(|client| &client.errors_by_code) {
            *all.entry(code.clone()).or_default() += count;
        }
        all
    }

    /// The longest time that any client waited between two acknowledged transactions.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.clients.iter().map(|client| client.longest_wait).max().unwrap_or_default()
    }
}

impl Workload {
    /// Starts the craft store's clients; they connect by themselves.
    #[must_use]
    pub fn start(url: impl Into<String>, options: WorkloadOptions) -> Self {
        let scale = options.scale;
        let transactions: Transactions =
            Arc::new(move |random, client, seq| actions::next(random, scale, client, seq).sql);
        let workload = Self::of(url, options.writers, options.seed, &transactions);
        workload.limit(options.transactions_per_second_max);
        workload
    }

    /// Starts clients that do something else, as fast as they can. Same seed, same transactions in the same order by client.
    #[must_use]
    pub fn of(url: impl Into<String>, writers: usize, seed: u64, transactions: &Transactions) -> Self {
        let (orders, _) = watch::channel(Orders { url: url.into(), work: Work::GoOn, pause: Duration::ZERO });
        let counters = Arc::new(Counters::default());
        let mut clients = JoinSet::new();
        for number in 0..writers {
            let client = StoreClient {
                random: StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number as u64)),
                transactions: Arc::clone(transactions),
                orders: orders.subscribe(),
                counters: Arc::clone(&counters),
                session: None,
                record: ClientRecord { client: number, ..ClientRecord::default() },
            };
            clients.spawn(client.run());
        }
        Self { clients, orders, counters }
    }

    /// Sets how much all clients together do at most; `None`: as fast as they can. Takes effect at once.
    pub fn limit(&self, transactions_per_second_max: Option<f64>) {
        let clients = self.clients.len().max(1) as f64;
        let pause = transactions_per_second_max
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(clients / rate.max(RATE_MIN)));
        self.orders.send_modify(|orders| orders.pause = pause);
    }

    /// Transactions acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.counters.acknowledged.load(Ordering::Relaxed)
    }

    /// Errors that clients have seen so far.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.counters.errors.load(Ordering::Relaxed)
    }

    /// A handle that moves the clients, for whoever decides on that.
    #[must_use]
    pub fn router(&self) -> Router {
        Router { orders: self.orders.clone() }
    }

    /// Tells every client to use another server from its next transaction on.
    pub fn redirect(&self, url: impl Into<String>) {
        self.router().redirect(url);
    }

    /// Lets every client finish the transaction it is in, and returns what they remember.
    pub async fn stop(mut self) -> WorkloadRecord {
        self.orders.send_modify(|orders| orders.work = Work::Stop);
        let mut record = WorkloadRecord::default();
        while let Some(client) = self.clients.join_next().await {
            match client {
                Ok(client) => record.clients.push(client),
                Err(error) => tracing::error!(%error, "a client of the workload broke off"),
            }
        }
        record.clients.sort_by_key(|client| client.client);
        record
    }
}

/// Moves the clients of a [`Workload`]. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    orders: watch::Sender<Orders>,
}

impl Router {
    /// Tells every client to use another server from its next transaction on.
    pub fn redirect(&self, url: impl Into<String>) {
        let url = url.into();
        self.orders.send_modify(|orders| orders.url = url);
    }
}

struct StoreClient {
    random: StdRng,
    transactions: Transactions,
    orders: watch::Receiver<Orders>,
    counters: Arc<Counters>,
    session: Option<Session>,
    record: ClientRecord,
}

/// A connection and where it goes to.
struct Session {
    client: Client,
    url: String,
    pid: i32,
}

/// How an attempt at a transaction ended.
enum Attempt {
    Committed,
    /// The server said no, and has written nothing.
    Refused,
    /// It takes no writes: the fence, so another server will be announced.
    ReadOnly,
    /// The connection was lost before the answer came.
    InDoubt {
        lost_url: String,
        lost_pid: i32,
    },
}

impl StoreClient {
    async fn run(mut self) -> ClientRecord {
        let mut last_acknowledged = None;
        for seq in 1.. {
            let begun = tokio::time::Instant::now();
            let sql = (self.transactions)(&mut self.random, self.record.client, seq);
            if !self.acknowledge(seq, &sql).await {
                break;
            }
            let now = Instant::now();
            let waited = last_acknowledged.map_or(Duration::ZERO, |last| now.duration_since(last));
            self.record.longest_wait = self.record.longest_wait.max(waited);
            last_acknowledged = Some(now);
            self.record.acknowledged.push(seq);
            self.record.acknowledged_at.push(now);
            self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
            if !self.wait_for_the_next(begun).await {
                break;
            }
        }
        self.record
    }

    /// Keeps the pace; `false` when told to stop.
    async fn wait_for_the_next(&mut self, begun: tokio::time::Instant) -> bool {
        loop {
            let (work, pause) = {
                let orders = self.orders.borrow_and_update();
                (orders.work, orders.pause)
            };
            if work == Work::Stop {
                return false;
            }
            let due = begun + pause;
            if due <= tokio::time::Instant::now() {
                return true;
            }
            let _ = tokio::time::timeout_at(due, self.orders.changed()).await;
        }
    }

    /// Repeats a transaction until it is committed; `false` when told to stop before that.
    async fn acknowledge(&mut self, seq: u64, sql: &str) -> bool {
        loop {
            let attempt = self.attempt(sql).await;
            let committed = match &attempt {
                Attempt::Committed => true,
                Attempt::Refused | Attempt::ReadOnly => false,
                Attempt::InDoubt { lost_url, lost_pid } => match self.look_up(seq, lost_url, *lost_pid).await
                {
                    Some(committed) => committed,
                    None => return false,
                },
            };
            if committed {
                return true;
            }
            if self.orders.borrow().work == Work::Stop {
                return false;
            }
            let pause = match attempt {
                Attempt::ReadOnly => READ_ONLY_PAUSE,
                _ if self.session.is_none() => RECONNECT_PAUSE,
                _ => continue,
            };
            // Back as soon as another server is announced.
            let _ = tokio::time::timeout(pause, self.orders.changed()).await;
        }
    }

    async fn attempt(&mut self, sql: &str) -> Attempt {
        let url = self.orders.borrow_and_update().url.clone();
        if self.session.as_ref().is_none_or(|session| session.url != url) {
            self.session = None;
            match open(&url, self.record.client).await {
                Ok(session) => self.session = Some(session),
                Err(error) => {
                    self.count(error.as_ref());
                    return Attempt::Refused;
                }
            }
        }
        let Some(session) = self.session.take() else { return Attempt::Refused };
        let outcome = session.client.batch_execute(sql).await;
        let Err(error) = outcome else {
            self.session = Some(session);
            return Attempt::Committed;
        };
        self.count(Some(&error));
        match error.code() {
            // An error of a statement, the fence's included, ends no session; a pool keeps it.
            Some(code) if !is_end_of_session(code) => {
                if session.client.batch_execute("ROLLBACK").await.is_ok() {
                    self.session = Some(session);
                }
                if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
                    Attempt::ReadOnly
                } else {
                    Attempt::Refused
                }
            }
            _ => Attempt::InDoubt { lost_url: session.url, lost_pid: session.pid },
        }
    }

    /// Whether a transaction whose answer was lost is committed. Waits until its old session has ended, because a commit
    /// may still be on its way there. `None` when told to stop, which leaves it unknown and unacknowledged.
    async fn look_up(&mut self, seq: u64, lost_url: &str, lost_pid: i32) -> Option<bool> {
        self.record.commits_in_doubt += 1;
        loop {
            let url = self.orders.borrow_and_update().url.clone();
            // Once the clients were moved, the old server takes no commits any more.
            let pid = if url == lost_url { lost_pid } else { 0 };
            if let Ok(Some(committed)) = find_in_ledger(&url, self.record.client, seq, pid).await {
                return Some(committed);
            }
            if self.orders.borrow().work == Work::Stop {
                return None;
            }
            let _ = tokio::time::timeout(RECONNECT_PAUSE, self.orders.changed()).await;
        }
    }

    fn count(&mut self, error: Option<&tokio_postgres::Error>) {
        let code = error.and_then(tokio_postgres::Error::code).map_or(CONNECTION_LOST, SqlState::code);
        *self.record.errors_by_code.entry(code.to_owned()).or_default() += 1;
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// Shutdown, crash, termination: classes 57P and 08. Terminated in the middle of COMMIT, a client is in doubt.
fn is_end_of_session(code: &SqlState) -> bool {
    code.code().starts_with("57P") || code.code().starts_with("08")
}

/// Opens a session; the error is `None` where the server did not answer in time.
async fn open(url: &str, client: usize) -> Result<Session, Option<tokio_postgres::Error>> {
    let connecting =
        tokio::time::timeout(CONNECT_WAIT, connect(url, &format!("store client {client}"))).await;
    let client = connecting.map_err(|_| None)?.map_err(Some)?;
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(Some)?;
    Ok(Session { pid: row.get(0), client, url: url.to_owned() })
}

async fn connect(url: &str, name: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = url.parse()?;
    let (client, connection) = config.application_name(name).connect(NoTls).await?;
    tokio::spawn(async move {
        // How a connection ends shows in its client's calls.
        let _ = connection.await;
    });
    Ok(client)
}

/// `None` while the session `pid` still lives.
async fn find_in_ledger(
    url: &str,
    number: usize,
    seq: u64,
    pid: i32,
) -> Result<Option<bool>, Option<tokio_postgres::Error>> {
    let session = open(url, number).await?;
    let row = session
        .client
        .query_one(
            &format!(
                "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND pid <> pg_backend_pid() \
                                                                  AND application_name = 'store client {number}')"
            ),
            &[],
        )
        .await
        .map_err(Some)?;
    if !row.get::<_, bool>(0) {
        return Ok(None);
    }
    // A statement of its own, after the session is known to be gone: with a newer snapshot.
    let row = session
        .client
        .query_one(
            &format!("SELECT EXISTS (SELECT FROM ledger WHERE client = {number} AND seq = {seq})"),
            &[],
        )
        .await
        .map_err(Some)?;
    Ok(Some(row.get(0)))
}
