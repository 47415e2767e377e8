//! Keeps account of an attempt: what became of each table, from its last chunk over the stream's passing its snapshots to its last
//! index. Tells the builders what is due, and the operator what could not be built. Never copies or builds itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::SnapshotError;
use super::attempt::{Attempt, CopyTable, Event, LOOK_INTERVAL};
use super::building::RETRY_AFTER;
use super::copying::CopyContext;
use super::plan_records;
use super::schedule::{Work, order};
use super::take::read_snapshot;
use crate::connection::SqlSession;
use crate::migration::{Blocking, Phase, Problem};
use crate::model::{Lsn, Oid, TableName};

/// Transactions remembered for later snapshots before it is looked which of them are visible.
const REMEMBERED_MAX: usize = 100_000;
/// A source that stands still is written to at most this often.
const NUDGE_INTERVAL: Duration = Duration::from_secs(1);

/// What became of each table.
pub(super) struct Account {
    open: HashMap<Oid, Standing>,
    /// Tables that the source does not have any more.
    gone: Vec<Oid>,
    /// Indexes that could not be built, and why.
    refused: HashMap<TableName, (String, String)>,
    told: Option<String>,
    /// How far the stream was at the last look.
    applied_before: Option<Lsn>,
    nudged_at: Option<Instant>,
}

/// A table whose copy is not over.
struct Standing {
    is_passed: bool,
    /// Indexes that are not there yet; `None` until they are being built.
    building: Option<HashSet<TableName>>,
}

impl Standing {
    fn is_built(&self) -> bool {
        self.building.as_ref().is_some_and(HashSet::is_empty)
    }

    /// A table under one snapshot is consistent as soon as it is in. One whose chunks have several is only when the stream has
    /// passed them all: until then, two rows may have what is unique.
    fn build(&mut self, attempt: &Attempt, oid: Oid) {
        if self.building.is_some() {
            return;
        }
        let Some(table) = attempt.tables.get(&oid) else { return };
        let is_consistent = self.is_passed || (table.plan.ranges.len() == 1 && attempt.board.is_joined(oid));
        if !is_consistent {
            return;
        }
        self.building = Some(table.others_due.iter().map(|build| build.index.clone()).collect());
        for _ in &table.keys_due {
            attempt.progress.index_built(&table.plan.name);
        }
        attempt.builds.push(table.others_due.iter().map(|build| (Arc::clone(build), oid)));
    }
}

impl Account {
    pub(super) fn new(attempt: &Attempt) -> Self {
        let standing = |table: &CopyTable| Standing { is_passed: table.is_passed, building: None };
        Self {
            open: attempt.tables.iter().map(|(oid, table)| (*oid, standing(table))).collect(),
            gone: attempt.gone.iter().map(|plan| plan.table.oid).collect(),
            refused: HashMap::new(),
            told: None,
            applied_before: None,
            nudged_at: None,
        }
    }

    /// Keeps account until everything is over.
    pub(super) async fn keep(
        mut self,
        attempt: &Attempt,
        context: &CopyContext,
        (source, target): (&SqlSession, &SqlSession),
        mut events: mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), SnapshotError> {
        let mut enters_indexes = true;
        let mut looked_at: Option<Instant> = None;
        while !(self.open.is_empty() && self.gone.is_empty()) {
            if looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
                looked_at = Some(Instant::now());
                self.copy_again(attempt);
                self.pass(attempt, target).await?;
                self.forget_what_is_visible(attempt, source).await?;
                self.nudge(attempt, context, source).await?;
                self.open.iter_mut().for_each(|(table, standing)| standing.build(attempt, *table));
                self.finish(attempt, target).await?;
                let is_copied = || self.open.keys().all(|table| attempt.board.is_joined(*table));
                if enters_indexes && is_copied() {
                    enters_indexes = false;
                    context.status.enter(Phase::Indexes);
                }
            }
            match tokio::time::timeout(LOOK_INTERVAL, events.recv()).await {
                Ok(Some(event)) => self.take(attempt, context, event),
                Ok(None) => return Err(SnapshotError::WorkerLost),
                Err(_) => {}
            }
            if self.open.values().all(Standing::is_built) {
                looked_at = None;
            }
        }
        self.tell(context);
        Ok(())
    }

    fn take(&mut self, attempt: &Attempt, context: &CopyContext, event: Event) {
        match event {
            Event::Joined(table) => {
                if let Some(standing) = self.open.get_mut(&table) {
                    standing.build(attempt, table);
                }
            }
            Event::Built { table, index } => {
                self.refused.remove(&index);
                self.tell(context);
                if let Some(building) =
                    self.open.get_mut(&table).and_then(|standing| standing.building.as_mut())
                {
                    building.remove(&index);
                }
            }
            Event::NotBuilt { index, message, remedy } => {
                self.refused.insert(index, (message, remedy));
                self.tell(context);
            }
        }
    }

    /// What the stream has made worthless.
    fn copy_again(&mut self, attempt: &Attempt) {
        for chunk in attempt.board.take_again() {
            let Some(table) = attempt.tables.get(&chunk.table) else { continue };
            let outstanding = table.outstanding(attempt.config.snapshot.chunk_bytes);
            let work = match outstanding.ranges {
                Some(_) => vec![Work::Range(chunk)],
                None => order(vec![outstanding]),
            };
            tracing::info!(table = %table.plan.name.plain(), chunk = chunk.number, "a chunk is copied again");
            attempt.queue.push(work);
        }
    }

    /// Tables whose every snapshot the stream has passed, for good: what comes of them now is in none.
    async fn pass(&mut self, attempt: &Attempt, target: &SqlSession) -> Result<(), SnapshotError> {
        let is_due =
            |(table, standing): &(&Oid, &Standing)| !standing.is_passed && attempt.board.is_joined(**table);
        let due: Vec<Oid> = self.open.iter().filter(is_due).map(|(table, _)| *table).collect();
        if !due.is_empty() {
            for table in plan_records::pass(target, &due).await? {
                if !attempt.board.forget_if_joined(table) {
                    plan_records::not_passed(target, table).await?;
                    continue;
                }
                if let Some(standing) = self.open.get_mut(&table) {
                    standing.is_passed = true;
                }
            }
        }
        if !self.gone.is_empty() {
            for table in plan_records::forget(target, &self.gone, attempt.gone_seen_at).await? {
                attempt.board.forget(table);
                self.gone.retain(|known| *known != table);
            }
        }
        Ok(())
    }

    /// What is remembered for later snapshots is bounded, also while none is taken for long (INV-11).
    async fn forget_what_is_visible(
        &self,
        attempt: &Attempt,
        source: &SqlSession,
    ) -> Result<(), SnapshotError> {
        if attempt.board.remembered() > REMEMBERED_MAX {
            attempt.board.seen(&read_snapshot(source).await?);
        }
        Ok(())
    }

    /// A source on which nothing happens writes no WAL, and without it the stream does not pass a position that is just ahead
    /// of it: something is written that means nothing to anybody.
    async fn nudge(
        &mut self,
        attempt: &Attempt,
        context: &CopyContext,
        source: &SqlSession,
    ) -> Result<(), SnapshotError> {
        let applied = context.stream.applied_lsn();
        let waits =
            |(table, standing): (&Oid, &Standing)| !standing.is_passed && attempt.board.is_joined(*table);
        let stands = applied.is_some() && applied == self.applied_before;
        self.applied_before = applied;
        if stands
            && self.open.iter().any(waits)
            && self.nudged_at.is_none_or(|at| at.elapsed() >= NUDGE_INTERVAL)
        {
            self.nudged_at = Some(Instant::now());
            source
                .batch_execute("SELECT pg_logical_emit_message(true, 'pgsluice', '')")
                .await
                .map_err(SnapshotError::source)?;
        }
        Ok(())
    }

    async fn finish(&mut self, attempt: &Attempt, target: &SqlSession) -> Result<(), SnapshotError> {
        let is_over = |standing: &Standing| standing.is_passed && standing.is_built();
        let over: Vec<Oid> =
            self.open.iter().filter(|(_, standing)| is_over(standing)).map(|(table, _)| *table).collect();
        if !over.is_empty() {
            plan_records::finish(target, &over).await?;
            over.iter().for_each(|table| attempt.board.finished(*table));
            self.open.retain(|_, standing| !is_over(standing));
        }
        Ok(())
    }

    /// Says which indexes could not be built, or takes it back.
    fn tell(&mut self, context: &CopyContext) {
        let Some((message, remedy)) = self.refused.values().next() else {
            if let Some(told) = self.told.take() {
                context.status.update(|status| {
                    if status.problem.as_ref().is_some_and(|problem| problem.message == told) {
                        status.problem = None;
                    }
                });
            }
            return;
        };
        let others = self.refused.len() - 1;
        let message = if others == 0 { message.clone() } else { format!("{message} (and {others} more)") };
        if self.told.as_ref() != Some(&message) {
            tracing::error!(problem = %message, %remedy, retry_after = ?RETRY_AFTER, "an index could not be built");
            self.told = Some(message.clone());
        }
        let (at, blocking) = (Timestamp::now(), Blocking::WaitingForOperator);
        let problem = Problem { message, remedy: remedy.clone(), at, blocking };
        context.status.update(|status| status.problem = Some(problem));
    }
}
