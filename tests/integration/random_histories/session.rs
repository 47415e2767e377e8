//! One session of a history: a task with a connection to the source that runs its statements one after the other. A
//! statement that blocks keeps its session busy and nobody else. Errors are part of a history; only those that show
//! that a statement was never right are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::history::{Kind, Statement};

/// A statement that takes longer is left behind, and the next session has its turn.
const STEP_WAIT: Duration = Duration::from_millis(30);
/// A source that was stopped is up again by then.
const RECONNECT_WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
const SETTINGS: &str = "SET lock_timeout = '3s'; SET statement_timeout = '10s'; SET deadlock_timeout = '40ms'; SET client_min_messages = error";

/// What the statements of a session came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) committed: u64,
    pub(super) aborted: u64,
    /// Statements by kind: those that succeeded, and all.
    pub(super) by_kind: BTreeMap<Kind, (u64, u64)>,
    /// How often each SQLSTATE was the answer.
    pub(super) refusals: BTreeMap<String, u64>,
    /// Statements that no server could have run.
    pub(super) wrong: Vec<String>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.aborted += other.aborted;
        for (kind, (succeeded, all)) in other.by_kind {
            let sum = self.by_kind.entry(kind).or_default();
            *sum = (sum.0 + succeeded, sum.1 + all);
        }
        for (code, count) in other.refusals {
            *self.refusals.entry(code).or_default() += count;
        }
        self.wrong.extend(other.wrong);
    }
}

type Job = (Statement, oneshot::Sender<()>);

pub(super) struct Session {
    queue: mpsc::UnboundedSender<Job>,
    waiting: Arc<AtomicUsize>,
    in_transaction: Arc<AtomicBool>,
    task: JoinHandle<Tally>,
}

impl Session {
    pub(super) fn start(url: &str) -> Self {
        let (queue, jobs) = mpsc::unbounded_channel();
        let (waiting, in_transaction) = (Arc::default(), Arc::default());
        let worker = Worker {
            url: url.to_owned(),
            client: None,
            waiting: Arc::clone(&waiting),
            in_transaction: Arc::clone(&in_transaction),
            failed: false,
            tally: Tally::default(),
        };
        Self { queue, waiting, in_transaction, task: tokio::spawn(worker.run(jobs)) }
    }

    /// Sends a statement; returns after the reply, or after a short while.
    pub(super) async fn step(&self, statement: Statement) {
        let busy = self.waiting.fetch_add(1, Ordering::SeqCst) > 0;
        let (done, reply) = oneshot::channel();
        let _ = self.queue.send((statement, done));
        if !busy {
            let _ = tokio::time::timeout(STEP_WAIT, reply).await;
        }
    }

    /// Whether it holds, or may yet take, what others wait for.
    pub(super) fn is_open(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0 || self.in_transaction.load(Ordering::SeqCst)
    }

    /// Rolls back what is open, after everything that was sent; returns once the session has ended.
    pub(super) async fn end(self) -> Tally {
        drop(self.queue);
        self.task.await.expect("a session's task")
    }

    /// Ends it wherever it is.
    pub(super) fn abandon(self) {
        self.task.abort();
    }
}

struct Worker {
    url: String,
    client: Option<Client>,
    waiting: Arc<AtomicUsize>,
    in_transaction: Arc<AtomicBool>,
    failed: bool,
    tally: Tally,
}

impl Worker {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) -> Tally {
        while let Some((statement, done)) = jobs.recv().await {
            self.statement(&statement).await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            let _ = done.send(());
        }
        if let Some(client) = self.client.take() {
            // A lost connection has rolled it back already.
            let _ = client.batch_execute("ROLLBACK").await;
        }
        self.tally
    }

    async fn statement(&mut self, statement: &Statement) {
        let Some(client) = self.connected().await else {
            self.tally.wrong.push("the source cannot be connected to".into());
            return;
        };
        let outcome = client.batch_execute(&statement.sql).await;
        let counts = self.tally.by_kind.entry(statement.kind).or_default();
        *counts = (counts.0 + u64::from(outcome.is_ok()), counts.1 + 1);
        self.follow(statement.kind, outcome.is_ok());
        if let Err(error) = outcome {
            let code = error.code().map_or_else(|| "connection".to_owned(), |code| code.code().to_owned());
            if is_wrong(&code) {
                self.tally.wrong.push(format!("{code}: {}: {error:?}", statement.sql));
            }
            *self.tally.refusals.entry(code).or_default() += 1;
        }
    }

    /// Follows whether a transaction is open, and counts those that end.
    fn follow(&mut self, kind: Kind, succeeded: bool) {
        let was_open = self.in_transaction.load(Ordering::SeqCst);
        match kind {
            Kind::Begin => {
                self.in_transaction.store(succeeded, Ordering::SeqCst);
                self.failed = false;
            }
            Kind::Commit | Kind::Prepare | Kind::Rollback => {
                self.in_transaction.store(false, Ordering::SeqCst);
                match kind {
                    Kind::Commit if was_open && succeeded && !self.failed => self.tally.committed += 1,
                    Kind::Prepare if was_open && succeeded && !self.failed => {}
                    _ => self.tally.aborted += 1,
                }
            }
            Kind::CommitPrepared => self.tally.committed += u64::from(succeeded),
            Kind::RollbackPrepared => self.tally.aborted += u64::from(succeeded),
            Kind::RollbackTo if succeeded => self.failed = false,
            _ if was_open => self.failed |= !succeeded,
            _ if succeeded => self.tally.committed += 1,
            _ => self.tally.aborted += 1,
        }
    }

    /// A connection lost with its server is made again; what was open is gone.
    async fn connected(&mut self) -> Option<&Client> {
        if self.client.as_ref().is_some_and(Client::is_closed) {
            self.client = None;
            self.in_transaction.store(false, Ordering::SeqCst);
        }
        let deadline = Instant::now() + RECONNECT_WAIT;
        while self.client.is_none() && Instant::now() < deadline {
            match connect(&self.url).await {
                Ok(client) => self.client = Some(client),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
        self.client.as_ref()
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(SETTINGS).await?;
    Ok(client)
}

/// Syntax errors, unknown names, wrong types: the generator's mistakes. A shrunk history may have unknown names.
fn is_wrong(code: &str) -> bool {
    code.starts_with("42") && !matches!(code, "42704") || matches!(code, "22P02" | "22007" | "428C9")
}
