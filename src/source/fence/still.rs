//! The outer layer of the fence transaction: the definitions of all tables held still, and the proof that they are those that were
//! armed. Nobody who reads or writes notices it. It is all or nothing: no lock of it is kept while another is waited for.

use std::time::{Duration, Instant};

use pgsluice_proto::command::quote_literal;
use tokio_postgres::Client;

use super::arm::{DEFINITION_TRY, definition_lock, is_contended};
use super::hold::{BACK, BACKOFF_FIRST, BACKOFF_LONGEST, Phase, run_counting, write_the_fence};
use super::obstacle::lock_holders;
use super::plan::{FencedTable, fingerprint, read_plan};
use super::{ENABLED, Fence, FenceError, FenceTerms, PASS_SETTING, turnstile};
use crate::cutover::SqlFailure;
use crate::model::Side;
use crate::runtime::Backoff;

/// How much longer than the pause the server lets our silent session live: the dead man's handle.
const DEAD_MANS_MARGIN: Duration = Duration::from_secs(5);
/// How long holding the definitions still may be tried.
const HOLD_STILL_BOUND: Duration = Duration::from_secs(10);
/// Statements before the first table's lock.
const PREAMBLE: usize = 5;

impl Fence {
    /// Opens the transaction and holds the definitions of all tables still: from now on none is altered, vacuumed, attached or
    /// detached, and none gets an index or loses a trigger; reading and writing go on. What there is then must be what was
    /// armed. Nothing is held while somebody is waited for.
    ///
    /// # Errors
    /// A lock is not to be had, or the tables are not those that were armed. Call [`release`](Self::release) then.
    pub async fn hold_still(&mut self, control: &Client, terms: &FenceTerms) -> Result<(), FenceError> {
        let began = Instant::now();
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
        self.release(control).await?;
        while let Some(table) = self.ask_for_definitions(terms).await? {
            let holders = lock_holders(control, table.oid, self.session.backend_pid()).await?;
            self.release(control).await?;
            // With nothing else held, long enough for the server to end an autovacuum's visit.
            let is_free = self.wait_alone(&table).await?;
            if !is_free || began.elapsed() >= HOLD_STILL_BOUND {
                return Err(FenceError::DefinitionInUse {
                    table: table.name,
                    bound_seconds: began.elapsed().as_secs(),
                    obstacle: holders.into_iter().next().map(Box::new),
                });
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        // A process that died may have taken it out of the way since; with the fence's table locked nobody does any more.
        if !turnstile::is_in_the_way(&self.session).await? {
            return Err(FenceError::Bypassed);
        }
        // The fingerprint first: what is made after it was read differs from it.
        self.fingerprint = fingerprint(&self.session, &terms.publication).await?;
        self.as_planned(&terms.publication).await?;
        self.phase = Phase::Still;
        Ok(())
    }

    /// Reads and writes once what the pause will, and takes it back: what would refuse it is known now, and the server has in
    /// memory what it needs. With the definitions held still.
    ///
    /// # Errors
    /// A statement fails.
    pub async fn warm_up(&self, terms: &FenceTerms) -> Result<(), FenceError> {
        self.read_sequences().await?;
        let failed = SqlFailure::of(Side::Source, "try the fence's statements");
        self.session.batch_execute("SAVEPOINT pgsluice_fence").await.map_err(&failed)?;
        write_the_fence(&self.session, self.ddl_guard, terms).await?;
        self.session.batch_execute(BACK).await.map_err(failed)?;
        Ok(())
    }

    /// The outer layer, all of it or nothing: the table that could not be had, if there is one.
    async fn ask_for_definitions(&mut self, terms: &FenceTerms) -> Result<Option<FencedTable>, FenceError> {
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
        for table in &self.plan.tables {
            batch.push_str(&format!("; {}", definition_lock(table)));
        }
        self.phase = Phase::Locking;
        let outcome = run_counting(&self.session, &batch).await;
        self.phase = Phase::Closed;
        let Err((done, error)) = outcome else { return Ok(None) };
        match done.checked_sub(PREAMBLE).and_then(|at| self.plan.tables.get(at)) {
            Some(table) if is_contended(&error) => Ok(Some(table.clone())),
            _ => Err(SqlFailure::of(Side::Source, "hold the tables' definitions still")(error).into()),
        }
    }

    /// Whether the definition of `table` was to be had within a while; nothing is held afterwards.
    async fn wait_alone(&mut self, table: &FencedTable) -> Result<bool, FenceError> {
        let milliseconds = DEFINITION_TRY.as_millis();
        let batch =
            format!("BEGIN; SET LOCAL lock_timeout = {milliseconds}; {}; COMMIT", definition_lock(table));
        self.phase = Phase::Locking;
        let outcome = self.session.batch_execute(&batch).await;
        self.phase = Phase::Closed;
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if is_contended(&error) => {
                let failed = SqlFailure::of(Side::Source, "let a table's definition go");
                self.session.batch_execute("ROLLBACK").await.map_err(failed)?;
                Ok(false)
            }
            Err(error) => Err(SqlFailure::of(Side::Source, "hold a table's definition still")(error).into()),
        }
    }

    /// Reads the catalog again: tables, sequences and triggers must be those that were armed.
    pub(super) async fn as_planned(&self, publication: &str) -> Result<(), FenceError> {
        let now = read_plan(&self.session, publication).await?;
        let mut differing = self.plan.difference(&now);
        // Somebody took a trigger off, or disabled it.
        let bare = now.tables.iter().filter(|table| table.deny_trigger != Some(ENABLED));
        differing.extend(bare.map(|table| table.name.clone()));
        if differing.is_empty() { Ok(()) } else { Err(FenceError::SetChanged { differing }) }
    }
}
