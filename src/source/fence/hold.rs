//! The fence transaction itself: taken and proven, then committed or rolled back, on one session that does
//! nothing else. While it is open, the locks are its; when its session ends, for whatever reason, the server has
//! rolled it back.
//!
//! It has two layers. The outer one holds the definitions of all tables [still](super::still), which nobody notices who reads or
//! writes. The inner one closes the turnstile and freezes the sequences; it is what writers wait for. While somebody is in the way all of
//! it is let go and tried again, because whoever is in the way may be waiting for either.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use futures_util::future::try_join3;
use pgsluice_proto::command::{quote_ident, quote_literal};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::arm::is_contended;
use super::ddl::{self, DdlGuard};
use super::obstacle::{Obstacle, ask, lock_holders, prepared_transactions, terminate, writing_transactions};
use super::plan::{FencePlan, Fingerprint, fingerprint, read_plan};
use super::{FenceError, lockout, turnstile};
use crate::config::OnWriters;
use crate::connection::SqlSession;
use crate::cutover::{Nonce, SourceFenced, SqlFailure};
use crate::model::{Lsn, Side, TableName};
use crate::runtime::Backoff;

/// The longest one try waits for one lock, and for those who write elsewhere. Whoever comes after us waits as long too, so it is
/// short.
const LOCK_TRY_MAX: Duration = Duration::from_millis(200);
/// Our own session looks for a deadlock this soon, where it may: so it is us who gives way and not an application.
const OWN_DEADLOCK_TIMEOUT: Duration = Duration::from_millis(20);
/// Between tries: writers run free meanwhile.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(10);
pub(super) const BACKOFF_LONGEST: Duration = Duration::from_millis(100);
/// How often those who still write are looked at.
const PROOF_POLL_FIRST: Duration = Duration::from_millis(1);
const PROOF_POLL_LONGEST: Duration = Duration::from_millis(10);
/// How long a ROLLBACK may take before the session is ended instead.
const ROLLBACK_BOUND: Duration = Duration::from_millis(500);
/// Statements of the inner layer before the first lock.
const INNER_PREAMBLE: usize = 2;

/// From the inner layer to the outer one.
pub(super) const BACK: &str = "ROLLBACK TO SAVEPOINT pgsluice_fence; RELEASE SAVEPOINT pgsluice_fence";

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
    /// Whether clients are [locked out](super::lockout) by it.
    pub lock_out: bool,
}

/// The session that holds, or will hold, the fence transaction.
pub struct Fence {
    pub(super) session: SqlSession,
    pub(super) plan: FencePlan,
    pub(super) ddl_guard: DdlGuard,
    /// What there was when the plan was read with the definitions held still.
    pub(super) fingerprint: Fingerprint,
    first: First,
    pub(super) lock_try: Duration,
    pub(super) phase: Phase,
    obstacle: Option<String>,
    tries: u32,
}

/// What the inner layer asks for first. Writers that draw from a sequence before they write hold what the fence wants last;
/// writers that do it while they write, what it wants first. The other way round is tried when one of them was in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Turnstile,
    Sequences,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No transaction is open.
    Idle,
    /// A batch that asks for locks is on its way.
    Locking,
    /// The outer layer is there, and nothing that a writer could notice.
    Still,
    /// Both layers are there, as far as they came.
    Closed,
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
        let set = format!("SET deadlock_timeout = {}", OWN_DEADLOCK_TIMEOUT.as_millis());
        // Superusers, or a role with GRANT SET ON PARAMETER from version 15.
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
        Ok(Self {
            session,
            plan,
            ddl_guard,
            fingerprint: Fingerprint::default(),
            first: First::Turnstile,
            lock_try,
            phase: Phase::Idle,
            obstacle: None,
            tries: 0,
        })
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

    /// Closes the fence and proves that nobody writes any more, trying again while somebody is in the
    /// way. Unbounded by itself: the caller drops the future when the pause is over or the operator aborts, and
    /// calls [`release`](Self::release).
    ///
    /// # Errors
    /// A statement fails, or the tables are not those that were armed. Call [`release`](Self::release) then, too.
    pub async fn take(&mut self, control: &Client, terms: &FenceTerms) -> Result<SourceFenced, FenceError> {
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
        loop {
            if self.phase != Phase::Still {
                self.hold_still(control, terms).await?;
            }
            self.tries += 1;
            if let Try::Held = self.attempt(control, terms).await? {
                let tables: Arc<[TableName]> = self.plan.table_names().into();
                return Ok(SourceFenced::proven(terms.nonce.clone(), tables));
            }
            // All of it: whoever is in the way may be waiting for a definition.
            self.release(control).await?;
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn attempt(&mut self, control: &Client, terms: &FenceTerms) -> Result<Try, FenceError> {
        let pid = self.session.backend_pid();
        // Whoever is inside now is in the way, not who comes in when a try is given up.
        let before = match terms.on_writers {
            OnWriters::Terminate => turnstile::inside(control, pid).await?,
            OnWriters::Wait => HashMap::new(),
        };
        self.phase = Phase::Locking;
        let outcome = run_counting(&self.session, &self.closing()).await;
        self.phase = Phase::Closed;
        if let Err((done, error)) = outcome {
            return self.contended(control, terms, &before, done, error).await;
        }
        let Self { session, obstacle, .. } = self;
        let proven = prove(control, pid, terms.on_writers, obstacle);
        let written = write_the_fence(session, self.ddl_guard, terms);
        let unchanged = fingerprint(session, &terms.publication);
        let (proven, (), found) = match try_join3(proven, written, unchanged).await {
            Err(error @ FenceError::DatabaseInUse) => {
                self.obstacle = Some(error.to_string());
                return Ok(Try::Contended);
            }
            all => all?,
        };
        if found != self.fingerprint {
            self.as_planned(&terms.publication).await?;
            self.fingerprint = found;
        }
        Ok(proven)
    }

    /// Every lock that writers wait for, in one message. The first statement that fails tells who is contended.
    fn closing(&self) -> String {
        let sequences = self.plan.sequences.iter().map(|sequence| {
            // Changes nothing at all, not even the catalog, and takes the lock that nextval waits for; works for identity
            // sequences too. Other no-ops (START WITH, say) write a new file for each sequence: ten times as slow.
            format!("ALTER SEQUENCE {} OWNER TO {}", sequence.name, quote_ident(&sequence.owner))
        });
        let mut locks: Vec<String> = sequences.collect();
        match self.first {
            First::Turnstile => locks.insert(0, turnstile::CLOSE.to_owned()),
            First::Sequences => locks.push(turnstile::CLOSE.to_owned()),
        }
        format!(
            "SAVEPOINT pgsluice_fence; SET LOCAL lock_timeout = {}; {}",
            self.lock_try.as_millis().max(1),
            locks.join("; ")
        )
    }

    /// A lock was not to be had: notes by whom, and turns the order round if that may help.
    async fn contended(
        &mut self,
        control: &Client,
        terms: &FenceTerms,
        before: &HashMap<String, Obstacle>,
        done: usize,
        error: tokio_postgres::Error,
    ) -> Result<Try, FenceError> {
        let sequences = &self.plan.sequences;
        let at = done.checked_sub(INNER_PREAMBLE).filter(|at| *at <= sequences.len());
        let (true, Some(at)) = (is_contended(&error), at) else {
            return Err(SqlFailure::of(Side::Source, "close the fence")(error).into());
        };
        let sequence = match self.first {
            First::Turnstile => at.checked_sub(1).and_then(|at| sequences.get(at)),
            First::Sequences => sequences.get(at),
        };
        let pid = self.session.backend_pid();
        let (holders, what) = match sequence {
            Some(sequence) => (
                lock_holders(control, sequence.oid, pid).await?,
                format!("sequence {}", sequence.name.plain()),
            ),
            None => {
                let mut inside = turnstile::inside(control, pid).await?;
                if terms.on_writers == OnWriters::Terminate {
                    inside.retain(|transaction, _| before.contains_key(transaction));
                }
                let mut holders: Vec<Obstacle> = inside.into_values().collect();
                holders.extend(prepared_transactions(control).await?);
                // The oldest first: it is the one that is told.
                holders.sort_by_key(|holder| std::cmp::Reverse(holder.age()));
                (holders, "what it has written".to_owned())
            }
        };
        if let Some(first) = holders.first() {
            self.obstacle = Some(format!("{first}, holds {what}"));
        }
        self.first = if sequence.is_some() { First::Sequences } else { First::Turnstile };
        if terms.on_writers == OnWriters::Terminate {
            terminate(control, &holders).await?;
        }
        Ok(Try::Contended)
    }

    /// Reads every sequence under the fence: name, `last_value`, `is_called`, in the plan's order.
    ///
    /// # Errors
    /// The sequences cannot be read.
    pub async fn read_sequences(&self) -> Result<Vec<crate::cutover::SequenceValue>, SqlFailure> {
        crate::target::sequences::read(&self.session, Side::Source, &self.plan.sequence_names()).await
    }

    /// Whether the tables and sequences are still those that were armed, at a moment in which nobody is about to change that:
    /// asked right before the commit, because the locks do not keep anybody from making a table, and what is written to it
    /// would be left behind. Waits for whoever writes outside the fenced tables; the caller bounds it by dropping the future.
    ///
    /// # Errors
    /// [`FenceError::SetChanged`], or the catalog cannot be read.
    pub async fn still_complete(&self, control: &Client, terms: &FenceTerms) -> Result<(), FenceError> {
        let mut poll = PROOF_POLL_FIRST;
        loop {
            // First who writes, then what there is: what they made is seen if they have ended in between.
            let writing = writing_transactions(control, self.session.backend_pid()).await?;
            if fingerprint(&self.session, &terms.publication).await? != self.fingerprint {
                let now = read_plan(&self.session, &terms.publication).await?;
                return Err(FenceError::SetChanged { differing: self.plan.difference(&now) });
            }
            if let Some(first) = writing.iter().find(|each| each.has_made()) {
                return Err(FenceError::MadeMeanwhile { obstacle: Box::new(first.clone()) });
            }
            if writing.iter().all(Obstacle::is_harmless) {
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
            // The future was dropped while a lock was waited for. A cancellation that comes late meets ROLLBACK, which
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

/// The fence row, the verdict of the deny triggers, that of the event trigger, and the lockout.
pub(super) async fn write_the_fence(
    session: &Client,
    guard: DdlGuard,
    terms: &FenceTerms,
) -> Result<(), FenceError> {
    let mut batch = format!(
        "INSERT INTO pgsluice.fence (epoch, nonce, moved_to) VALUES ({}, {}, {}) \
         ON CONFLICT (epoch) DO UPDATE SET nonce = excluded.nonce, moved_to = excluded.moved_to; {}",
        terms.epoch,
        quote_literal(terms.nonce.as_str()),
        quote_literal(&terms.moved_to),
        turnstile::verdict(terms)
    );
    if guard == DdlGuard::Present {
        batch.push_str(&format!("; {}", ddl::deny_function(terms)));
    }
    let failed = SqlFailure::of(Side::Source, "change the verdict of the deny triggers");
    session.batch_execute(&batch).await.map_err(failed)?;
    if terms.lock_out {
        lockout::lock_out(session).await?;
    }
    Ok(())
}

/// Waits until no other transaction of this database has a transaction id, but for those that wait for the fence: they have
/// written to no fenced table, or they would be inside the turnstile, and do nothing while it is held. One that has made a
/// relation is let go instead, and so is everybody if it takes long. `obstacle`: who is waited for.
async fn prove(
    control: &Client,
    fence_pid: i32,
    on_writers: OnWriters,
    obstacle: &mut Option<String>,
) -> Result<Try, FenceError> {
    let (began, mut poll) = (Instant::now(), PROOF_POLL_FIRST);
    loop {
        let mut writing = writing_transactions(control, fence_pid).await?;
        writing.retain(|each| !each.is_harmless());
        let Some(first) = writing.first() else { return Ok(Try::Held) };
        *obstacle = Some(format!("waiting for {first}"));
        if writing.iter().any(Obstacle::has_made) || began.elapsed() >= LOCK_TRY_MAX {
            return Ok(Try::Contended);
        }
        if let OnWriters::Terminate = on_writers {
            terminate(control, &writing).await?;
        }
        tokio::time::sleep(poll).await;
        poll = (poll * 2).min(PROOF_POLL_LONGEST);
    }
}

/// Runs a batch; an error comes with the number of statements that were done before it.
pub(super) async fn run_counting(client: &Client, batch: &str) -> Result<(), (usize, tokio_postgres::Error)> {
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
