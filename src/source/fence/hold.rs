//! The fence transaction itself: taken and proven, then committed or rolled back, on one session that does
//! nothing else. While it is open, the locks are its; when its session ends, for whatever reason, the server has
//! rolled it back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::try_join;
use pgsluice_proto::command::{quote_ident, quote_literal};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::arm::deny_function;
use super::ddl::{self, DdlGuard};
use super::habits;
use super::obstacle::{Obstacle, ask, lock_holders, terminate, writing_transactions};
use super::plan::{FencePlan, Relations, read_plan, relations};
use super::{ENABLED, FenceError, PASS_SETTING};
use crate::config::OnWriters;
use crate::connection::SqlSession;
use crate::cutover::{Nonce, SourceFenced, SqlFailure};
use crate::model::{Lsn, Side, TableName};
use crate::runtime::Backoff;

/// The longest one try waits for one lock. Whoever comes after us waits as long too, so it is short.
const LOCK_TRY_MAX: Duration = Duration::from_millis(200);
/// Our own session looks for a deadlock this soon, where it may: so it is us who gives way and not an application,
/// and an autovacuum in the way is told to stop at once instead of after the server's `deadlock_timeout`.
const OWN_DEADLOCK_TIMEOUT: Duration = Duration::from_millis(20);
/// Between tries: writers run free meanwhile.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_LONGEST: Duration = Duration::from_millis(100);
/// How often those who still write are looked at.
const PROOF_POLL_FIRST: Duration = Duration::from_millis(1);
const PROOF_POLL_LONGEST: Duration = Duration::from_millis(10);
/// How much longer than the pause the server lets our silent session live: the dead man's handle.
const DEAD_MANS_MARGIN: Duration = Duration::from_secs(5);
/// How long a ROLLBACK may take before the session is ended instead.
const ROLLBACK_BOUND: Duration = Duration::from_millis(500);
/// Statements of the lock batch before the first lock of a table or sequence.
const PREAMBLE_STATEMENTS: usize = 5;

/// What a fence is taken for.
#[derive(Clone, Debug)]
pub struct FenceTerms {
    /// The operation.
    pub epoch: i64,
    /// The attempt.
    pub nonce: Nonce,
    /// Name of the publication.
    pub publication: String,
    /// Where the source's clients are sent.
    pub moved_to: String,
    /// The pause allowed: bounds the dead man's handle. The caller bounds the waits, by dropping the future.
    pub max_pause: Duration,
    /// What happens to those in the way.
    pub on_writers: OnWriters,
}

/// The session that holds, or will hold, the fence transaction.
pub struct Fence {
    session: SqlSession,
    plan: FencePlan,
    ddl_guard: DdlGuard,
    /// Which tables and sequences there were when the plan was read under the locks.
    relations: Relations,
    /// The order of locking: indexes into tables, then sequences. That of the writers as far as it was seen, then by name;
    /// whatever was contended is moved to the front, because who holds it may be waiting for what we had locked before it.
    order: Vec<usize>,
    lock_try: Duration,
    phase: Phase,
    obstacle: Option<String>,
    tries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No transaction is open.
    Idle,
    /// The batch that opens the transaction and asks for the locks is on its way.
    Locking,
    /// A transaction is open and no statement of it waits for a lock.
    Open,
}

/// What became of the COMMIT.
#[derive(Debug)]
pub enum CommitAnswer {
    /// The source said so.
    Committed,
    /// The source did not say so, or not clearly: only the fence row knows.
    Unknown(String),
}

enum Try {
    Held,
    /// Somebody is in the way who cannot be waited for with the locks held.
    Contended,
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence")
            .field("phase", &self.phase)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}

impl Fence {
    /// Prepares `session`, which must do nothing else from now on. Nothing is locked yet.
    ///
    /// # Errors
    /// The session's settings cannot be read.
    pub async fn prepare(session: SqlSession, plan: FencePlan) -> Result<Self, FenceError> {
        // Compiling the catalog queries takes longer than running them.
        session
            .batch_execute("SET jit = off")
            .await
            .map_err(SqlFailure::of(Side::Source, "prepare the fence's session"))?;
        let set = format!("SET deadlock_timeout = {}", OWN_DEADLOCK_TIMEOUT.as_millis());
        // Superusers, or a role with GRANT SET ON PARAMETER from version 15. Without it autovacuum may hold us up.
        let own_deadlock_check = session.batch_execute(&set).await.is_ok();
        let row = session
            .query_typed_one(
                "SELECT extract(epoch FROM current_setting('deadlock_timeout')::interval)::float8",
                &[],
            )
            .await
            .map_err(SqlFailure::of(Side::Source, "read deadlock_timeout"))?;
        let deadlock_timeout = Duration::try_from_secs_f64(row.get(0)).unwrap_or(LOCK_TRY_MAX);
        // Where we cannot look first, we must have given up before the applications look.
        let lock_try = if own_deadlock_check { LOCK_TRY_MAX } else { LOCK_TRY_MAX.min(deadlock_timeout / 2) };
        let ddl_guard = ddl::look(&session).await?;
        let order = (0..plan.tables.len() + plan.sequences.len()).collect();
        let relations = Relations::default();
        Ok(Self {
            session,
            plan,
            ddl_guard,
            relations,
            order,
            lock_try,
            phase: Phase::Idle,
            obstacle: None,
            tries: 0,
        })
    }

    /// Reads once what the pause will read again, so that the server has it in memory then.
    ///
    /// # Errors
    /// A statement fails.
    pub async fn warm_up(&self, publication: &str) -> Result<(), FenceError> {
        read_plan(&self.session, publication).await?;
        self.read_sequences().await?;
        Ok(())
    }

    /// Looks for a moment in which order writers take their tables, and takes it over. They do not notice.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn learn_order(&mut self, control: &Client) -> Result<(), FenceError> {
        let oids: Vec<u32> =
            (0..self.order.len()).filter_map(|item| self.item(item)).map(|(oid, _)| oid).collect();
        let seen = habits::seen_held(control, &oids).await?;
        self.order.sort_by_key(|item| {
            // By index, which is the order of `oids`.
            std::cmp::Reverse(oids.get(*item).and_then(|oid| seen.get(oid)).copied().unwrap_or_default())
        });
        Ok(())
    }

    /// Waits until the session has ended: the server has rolled the fence back. Cancel safe.
    pub async fn lost(&self) {
        self.session.closed().await;
    }

    /// Who was in the way last, for the message when the pause is over.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// How often the locks were asked for.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.tries
    }

    /// What it covers.
    #[must_use]
    pub const fn plan(&self) -> &FencePlan {
        &self.plan
    }

    /// Opens the fence transaction and proves that nobody writes any more, trying again while somebody is in the
    /// way. Unbounded by itself: the caller drops the future when the pause is over or the operator aborts, and
    /// calls [`release`](Self::release).
    ///
    /// # Errors
    /// A statement fails, or the tables are not those that were armed. Call [`release`](Self::release) then, too.
    pub async fn take(&mut self, control: &Client, terms: &FenceTerms) -> Result<SourceFenced, FenceError> {
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
        self.release(control).await?;
        loop {
            self.tries += 1;
            if let Try::Held = self.attempt(control, terms).await? {
                let tables: Arc<[TableName]> = self.plan.table_names().into();
                return Ok(SourceFenced::proven(terms.nonce.clone(), tables));
            }
            self.release(control).await?;
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn attempt(&mut self, control: &Client, terms: &FenceTerms) -> Result<Try, FenceError> {
        self.phase = Phase::Locking;
        if let Try::Contended = self.lock(control, terms).await? {
            return Ok(Try::Contended);
        }
        self.close_the_gate(terms).await?;
        self.prove(control, terms).await
    }

    /// Every lock, in one message. The first statement that fails names who is contended.
    async fn lock(&mut self, control: &Client, terms: &FenceTerms) -> Result<Try, FenceError> {
        let dead_man = terms.max_pause + DEAD_MANS_MARGIN;
        let mut batch = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}; SET LOCAL {PASS_SETTING} = {}; \
             LOCK TABLE pgsluice.fence IN EXCLUSIVE MODE",
            self.lock_try.as_millis().max(1),
            dead_man.as_millis(),
            // What this session defines under its own fence passes.
            quote_literal(terms.nonce.as_str())
        );
        for item in &self.order {
            batch.push_str("; ");
            match self.lock_statement(*item) {
                Some(statement) => batch.push_str(&statement),
                None => continue,
            }
        }
        let outcome = run_counting(&self.session, &batch).await;
        self.phase = Phase::Open;
        let Err((done, error)) = outcome else { return Ok(Try::Held) };
        let contended =
            matches!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED));
        let failing = done.checked_sub(PREAMBLE_STATEMENTS).filter(|at| *at < self.order.len());
        let (true, Some(at)) = (contended, failing) else {
            return Err(SqlFailure::of(Side::Source, "lock the published tables")(error).into());
        };
        let item = self.order.remove(at);
        self.order.insert(0, item);
        self.note_lock_holders(control, item, terms.on_writers).await?;
        Ok(Try::Contended)
    }

    fn lock_statement(&self, item: usize) -> Option<String> {
        if let Some(table) = self.plan.tables.get(item) {
            return Some(format!("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE", table.name));
        }
        let sequence = self.plan.sequences.get(item.checked_sub(self.plan.tables.len())?)?;
        // Changes nothing at all, not even the catalog, and takes the lock that nextval waits for; works for identity
        // sequences too. Other no-ops (START WITH, say) write a new file for each sequence: ten times as slow.
        Some(format!("ALTER SEQUENCE {} OWNER TO {}", sequence.name, quote_ident(&sequence.owner)))
    }

    fn item(&self, item: usize) -> Option<(u32, &TableName)> {
        match self.plan.tables.get(item) {
            Some(table) => Some((table.oid, &table.name)),
            None => {
                let sequence = self.plan.sequences.get(item.checked_sub(self.plan.tables.len())?)?;
                Some((sequence.oid, &sequence.name))
            }
        }
    }

    async fn note_lock_holders(
        &mut self,
        control: &Client,
        item: usize,
        on_writers: OnWriters,
    ) -> Result<(), FenceError> {
        let Some((oid, name)) = self.item(item) else { return Ok(()) };
        let holders = lock_holders(control, oid, self.session.backend_pid()).await?;
        if let Some(first) = holders.first() {
            self.obstacle = Some(format!("the lock of {} was held by {first}", name.plain()));
        }
        match on_writers {
            OnWriters::Wait => Ok(()),
            OnWriters::Terminate => terminate(control, &holders).await,
        }
    }

    /// With all locks held: the fence row, what the triggers ask, and the catalog read again, in one round trip.
    async fn close_the_gate(&mut self, terms: &FenceTerms) -> Result<(), FenceError> {
        let mut batch = format!(
            "INSERT INTO pgsluice.fence (epoch, nonce, moved_to) VALUES ({}, {}, {}) \
             ON CONFLICT (epoch) DO UPDATE SET nonce = excluded.nonce, moved_to = excluded.moved_to; {}",
            terms.epoch,
            quote_literal(terms.nonce.as_str()),
            quote_literal(&terms.moved_to),
            deny_function(terms)
        );
        if self.ddl_guard == DdlGuard::Present {
            batch.push_str(&format!("; {}", ddl::deny_function(terms)));
        }
        let enabling = async {
            let failed = SqlFailure::of(Side::Source, "change what the deny triggers ask");
            self.session.batch_execute(&batch).await.map_err(|error| FenceError::from(failed(error)))
        };
        // The set first: what is made after it was read is not in it, and is found before the commit.
        let reading = async {
            let relations = relations(&self.session).await?;
            Ok((relations, read_plan(&self.session, &terms.publication).await?))
        };
        let ((), (relations, now)) = try_join(enabling, reading).await?;
        let mut differing = self.plan.difference(&now);
        // Somebody took a trigger off, or disabled it.
        let bare = now.tables.iter().filter(|table| table.deny_trigger != Some(ENABLED));
        differing.extend(bare.map(|table| table.name.clone()));
        if !differing.is_empty() {
            return Err(FenceError::SetChanged { differing });
        }
        self.relations = relations;
        Ok(())
    }

    /// Waits until no other transaction of this database has a transaction id.
    async fn prove(&mut self, control: &Client, terms: &FenceTerms) -> Result<Try, FenceError> {
        let mut poll = PROOF_POLL_FIRST;
        loop {
            let writing = writing_transactions(control, self.session.backend_pid()).await?;
            let Some(first) = writing.first() else { return Ok(Try::Held) };
            self.obstacle = Some(format!("waiting for {first}"));
            if let OnWriters::Terminate = terms.on_writers {
                terminate(control, &writing).await?;
            } else if writing.iter().any(Obstacle::waits_for_us) {
                return Ok(Try::Contended);
            }
            tokio::time::sleep(poll).await;
            poll = (poll * 2).min(PROOF_POLL_LONGEST);
        }
    }

    /// Reads every sequence under the fence: name, `last_value`, `is_called`, in the plan's order.
    ///
    /// # Errors
    /// The sequences cannot be read.
    pub async fn read_sequences(&self) -> Result<Vec<crate::cutover::SequenceValue>, SqlFailure> {
        crate::target::sequences::read(&self.session, Side::Source, &self.plan.sequence_names()).await
    }

    /// Whether the tables and sequences are still those that are locked, at a moment in which nobody is about to change that:
    /// asked right before the commit, because the locks do not keep anybody from making a table, and what is written to it
    /// would be left behind. Waits for whoever writes outside the locked tables; the caller bounds it by dropping the future.
    ///
    /// # Errors
    /// [`FenceError::SetChanged`], or the catalog cannot be read.
    pub async fn still_complete(&self, control: &Client, terms: &FenceTerms) -> Result<(), FenceError> {
        let mut poll = PROOF_POLL_FIRST;
        loop {
            // First who writes, then what there is: what they made is seen if they have ended in between.
            let writing = writing_transactions(control, self.session.backend_pid()).await?;
            if relations(&self.session).await? != self.relations {
                let now = read_plan(&self.session, &terms.publication).await?;
                return Err(FenceError::SetChanged { differing: self.plan.difference(&now) });
            }
            // Whoever waits for the fence's locks will be refused, and with it all that it did.
            if writing.iter().all(Obstacle::waits_for_us) {
                return Ok(());
            }
            tokio::time::sleep(poll).await;
            poll = (poll * 2).min(PROOF_POLL_LONGEST);
        }
    }

    /// COMMIT: the point of no return. `marker_lsn` goes into the fence row with it, and `turn`, statements that make this
    /// side the one that is reached, are part of the same transaction.
    ///
    /// Not cancel safe: whoever drops the future does not know, and must ask
    /// [`read_truth`](super::read_truth).
    pub async fn commit(&mut self, terms: &FenceTerms, marker_lsn: Lsn, turn: &str) -> CommitAnswer {
        let (epoch, nonce) = (terms.epoch, quote_literal(terms.nonce.as_str()));
        // If the transaction has failed or is gone, the row is not there, and nothing of this is done.
        let batch = format!(
            "SET LOCAL synchronous_commit = on; \
             UPDATE pgsluice.fence SET marker_lsn = '{marker_lsn}', committed_at = clock_timestamp() \
             WHERE epoch = {epoch} AND nonce = {nonce}; \
             DO $$ BEGIN IF NOT EXISTS (SELECT FROM pgsluice.fence WHERE epoch = {epoch} AND nonce = {nonce}) THEN \
               RAISE EXCEPTION 'the fence transaction is no longer there'; END IF; END $$; {turn}{} COMMIT",
            if turn.is_empty() { "" } else { ";" }
        );
        match self.session.simple_query(&batch).await {
            Ok(messages) => {
                self.phase = Phase::Idle;
                let mut done = messages.iter().filter_map(|message| match message {
                    SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
                    _ => None,
                });
                // The first is SET's.
                if done.nth(1) == Some(1) {
                    CommitAnswer::Committed
                } else {
                    CommitAnswer::Unknown("the fence transaction was no longer there".into())
                }
            }
            Err(error) => {
                CommitAnswer::Unknown(SqlFailure::of(Side::Source, "commit the fence")(error).to_string())
            }
        }
    }

    /// ROLLBACK: locks, triggers, sequences and row are as if nothing had been; whoever waited goes on. Whatever
    /// the session was doing is cancelled first. Repeating it changes nothing.
    ///
    /// # Errors
    /// The source cannot be asked; then the server rolls back by itself when it notices that the session is gone,
    /// at the latest by `idle_in_transaction_session_timeout`.
    pub async fn release(&mut self, control: &Client) -> Result<(), FenceError> {
        if self.phase == Phase::Idle {
            return Ok(());
        }
        let pid = self.session.backend_pid();
        if self.phase == Phase::Locking {
            // `take` was dropped while a lock was waited for. A cancellation that comes late meets ROLLBACK, which
            // is why that is tried twice.
            ask(control, "SELECT pg_cancel_backend($1)", pid).await?;
        }
        if !self.rolled_back_within(ROLLBACK_BOUND).await && !self.rolled_back_within(ROLLBACK_BOUND).await {
            ask(control, "SELECT pg_terminate_backend($1, 1000)", pid).await?;
        }
        self.phase = Phase::Idle;
        Ok(())
    }

    async fn rolled_back_within(&self, bound: Duration) -> bool {
        matches!(tokio::time::timeout(bound, self.session.batch_execute("ROLLBACK")).await, Ok(Ok(())))
    }
}

/// Runs a batch; an error comes with the number of statements that were done before it.
async fn run_counting(client: &Client, batch: &str) -> Result<(), (usize, tokio_postgres::Error)> {
    let mut done = 0;
    let stream = client.simple_query_raw(batch).await.map_err(|error| (done, error))?;
    let mut stream = std::pin::pin!(stream);
    loop {
        match stream.try_next().await {
            Ok(Some(SimpleQueryMessage::CommandComplete(_))) => done += 1,
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err((done, error)),
        }
    }
}
