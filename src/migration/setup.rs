//! The phases before the stream: definitions, slot and plan of the copy. Each begins where the record says and moves the record
//! in the transaction that completes it. Until the plan is recorded, what was interrupted starts over; from then on the
//! stream runs, and the copy beside it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::{Config, SchemaMode};
use crate::connection::{SqlSession, timeline};
use crate::model::{Disposition, Side};
use crate::runtime::{Backoff, Shutdown};
use crate::snapshot::{self, PlannedTable, PostDataAhead};
use crate::source::SourceTable;
use crate::source::published::{self, PublishedRelation};
use crate::source::slot::{ExportedSlot, OldTransaction, WhenActive};
use crate::source::{catalog, publication, slot};
use crate::target::records::{self, MigrationIdentity, RecordedPhase};
use crate::target::relations::{self, RelationRecord};
use crate::target::{gate, progress, schema};

use super::error::MigrationError;
use super::status::{Blocking, Phase, Problem, StatusBoard};

/// How long closing the target may wait for locks; nobody but us uses it yet.
const GATE_LOCK_WAIT: Duration = Duration::from_secs(30);
/// How often a copy is begun in one run of the program, and how long it waits in between.
pub(super) const COPY_TRIES_MAX: u32 = 10;
const COPY_BACKOFF_FIRST: Duration = Duration::from_millis(100);
const COPY_BACKOFF_LONGEST: Duration = Duration::from_secs(30);

/// One walk through the phases.
pub(super) struct Setup<'a> {
    /// The operator's configuration.
    pub(super) config: &'a Arc<Config>,
    /// Where progress is published.
    pub(super) board: &'a StatusBoard,
    /// The signal to stop.
    pub(super) shutdown: &'a Shutdown,
    /// What the copy will need next.
    pub(super) post_data: &'a PostDataAhead,
    /// Which migration.
    pub(super) identity: &'a MigrationIdentity,
    /// Control session on the source.
    pub(super) source: SqlSession,
    /// Control session on the target; holds the replicator's lock.
    pub(super) target: SqlSession,
}

impl Setup<'_> {
    /// Does what is left to do from `phase` on, up to the point where changes can be applied.
    ///
    /// # Errors
    /// [`MigrationError`]; the record says where the next run begins.
    pub(super) async fn run_from(&mut self, phase: RecordedPhase) -> Result<(), MigrationError> {
        if phase <= RecordedPhase::Schema {
            self.make_tables().await?;
        }
        if phase <= RecordedPhase::Snapshot {
            self.post_data.begin(Arc::clone(self.config), self.shutdown.clone());
            self.begin_copy().await?;
        }
        Ok(())
    }

    async fn make_tables(&self) -> Result<(), MigrationError> {
        self.board.enter(Phase::Schema);
        let done = RecordedPhase::Snapshot.record_sql();
        match self.config.schema.mode {
            SchemaMode::Copy => {
                let (source, target) = (&self.source, &self.target);
                let copied = schema::copy_pre_data(self.config, source, target, &done, self.shutdown).await?;
                self.board.update(|status| status.findings.extend(copied.findings));
            }
            SchemaMode::Existing => records::enter(&self.target, RecordedPhase::Snapshot).await?,
        }
        Ok(())
    }

    /// Makes slot and plan, and begins anew where another try can meet other circumstances. When a connection of ours is lost,
    /// everything is begun anew instead.
    async fn begin_copy(&mut self) -> Result<(), MigrationError> {
        let mut backoff = Backoff::new(COPY_BACKOFF_FIRST, COPY_BACKOFF_LONGEST);
        for _ in 1..COPY_TRIES_MAX {
            let error = match self.begin_copy_once().await {
                Err(MigrationError::Snapshot(error))
                    if matches!(error.disposition(), Disposition::Retry)
                        && !self.source.is_closed()
                        && !self.target.is_closed() =>
                {
                    error
                }
                outcome => return outcome,
            };
            tracing::warn!(%error, "the copy is begun again");
            tokio::select! {
                () = self.shutdown.requested() => return Err(error.into()),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
        self.begin_copy_once().await
    }

    async fn begin_copy_once(&mut self) -> Result<(), MigrationError> {
        self.board.enter(Phase::Slot);
        let slot_name = &self.identity.slot;
        // A slot of a run that was interrupted here: nobody remembers what its snapshot contains.
        slot::drop_slot(&self.source, slot_name, WhenActive::TerminateOurs).await?;
        snapshot::reset(&mut self.target).await?;
        let tables = catalog::read_tables(&self.source, &self.config.source.tables).await?;
        gate::close(&self.target, &names(&tables), GATE_LOCK_WAIT).await?;
        // Publication before slot (trap 17): every change the slot decodes is one the publication knows.
        publication::ensure(&self.source, &self.identity.publication, &tables, self.shutdown).await?;
        // Before the slot: a change of a table's shape after this reading is in the stream, and found there.
        let baseline = baseline(published::read(&self.source, &self.identity.publication).await?, &tables);
        let chunk_bytes = self.config.snapshot.chunk_bytes;
        let plan = snapshot::make_plan(&self.source, &self.target, &tables, chunk_bytes).await?;
        let exported = slot::create_exporting(
            &self.config.source.connection,
            slot_name,
            |older| self.report_waiting(older),
            self.shutdown,
        )
        .await?;
        self.board.update(|status| status.problem = None);
        if let Err(error) = self.record_plan(exported, &plan, &baseline).await {
            // Its slot would keep the source's WAL for nobody.
            if let Err(left) = slot::drop_slot(&self.source, slot_name, WhenActive::TerminateOurs).await {
                tracing::warn!(error = %left, slot = slot_name, "the slot of the failed copy stays on the source and keeps its WAL");
            }
            return Err(error);
        }
        Ok(())
    }

    /// From here on the slot is this migration's: the stream begins at it, and every chunk's snapshot is held against its own.
    async fn record_plan(
        &mut self,
        exported: ExportedSlot,
        plan: &[PlannedTable],
        baseline: &[RelationRecord],
    ) -> Result<(), MigrationError> {
        let timeline =
            timeline(&self.source).await.map_err(|error| MigrationError::sql(Side::Source, error))?;
        let contains = snapshot::read_slot_snapshot(self.config, &exported.snapshot_name).await?;
        let consistent_lsn = exported.consistent_lsn;
        let begin = [
            relations::begin_sql(baseline),
            progress::begin_sql(self.identity, consistent_lsn),
            records::slot_created_sql(consistent_lsn, timeline, &contains.to_string()),
            RecordedPhase::Copying.record_sql(),
        ];
        snapshot::register_plan(&mut self.target, plan, &begin.join("; ")).await?;
        Ok(())
    }

    /// Creating the slot waits for every transaction of the source that is older: say which (trap 18).
    fn report_waiting(&self, older: &[OldTransaction]) {
        let known = self.board.with(|status| status.problem.is_some());
        let Some(first) = older.first() else {
            return self.board.update(|status| status.problem = None);
        };
        let message = format!(
            "creating the replication slot waits for {} older transaction(s) on the source, first {first}",
            older.len()
        );
        if !known {
            tracing::warn!("{message}");
        }
        let problem = Problem {
            message,
            remedy: "Let them end, or end them with SELECT pg_terminate_backend(pid); on the source.".into(),
            at: Timestamp::now(),
            blocking: Blocking::WaitingForOperator,
        };
        self.board.update(|status| status.problem = Some(problem));
    }
}

fn names(tables: &[SourceTable]) -> Vec<crate::model::TableName> {
    tables.iter().map(|table| table.name.clone()).collect()
}

/// What the stream's tables look like as they are copied. One that is published and not copied (a partition made in
/// between) is left out: it has to join.
fn baseline(published: Vec<PublishedRelation>, copied: &[SourceTable]) -> Vec<RelationRecord> {
    let copied: std::collections::HashSet<_> = copied.iter().map(|table| table.oid).collect();
    published
        .into_iter()
        .filter(|relation| copied.contains(&relation.oid))
        .map(PublishedRelation::joined)
        .collect()
}
