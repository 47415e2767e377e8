//! Undo on both sides, after success, abort or abandonment: slot, publication and fence on the source; gate and
//! records on the target. Every step can be repeated, and an interrupted cleanup is finished by the next one. The
//! fence of a committed cutover stays unless the operator says otherwise, because it is what keeps applications
//! from writing to a database that nobody reads any more (INV-8).

use std::time::Duration;

use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::migration::CutoverMode;
use crate::model::{Direction, Side};
use crate::source::fence::{self, ArmBound, FenceRow};
use crate::source::publication::{self, PublicationError, PublicationOwner};
use crate::source::slot::{self, SlotError, WhenActive};
use crate::target::gate::{self, GateError};
use crate::target::lock::{self, LockError};

use super::journal::{self, Recorded};
use super::{CutoverError, Outcome, SqlFailure};

/// How long the fence row may take to be read.
const TRUTH_BOUND: Duration = Duration::from_secs(5);
/// How long one table's lock may be waited for, over all tries.
const LOCK_BOUND: Duration = Duration::from_secs(60);

/// What the operator asks of a cleanup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanupOptions {
    /// Only list what would be removed.
    pub dry_run: bool,
    /// Also remove the fence of a committed cutover: the source accepts writes again.
    pub unfence_source: bool,
}

/// What became of one thing that this program left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupAction {
    /// Where it is.
    pub side: Side,
    /// What it is, e.g. `replication slot pgsluice`.
    pub subject: String,
    /// What became of it.
    pub outcome: CleanupOutcome,
}

/// See [`CleanupAction::outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CleanupOutcome {
    /// It would be removed (dry run).
    Planned,
    /// It is gone.
    Removed,
    /// It stays.
    Kept {
        /// Why, and what removes it.
        why: String,
    },
}

impl CleanupOutcome {
    /// The name in tables and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Planned => "would be removed",
            Self::Removed => "removed",
            Self::Kept { .. } => "kept",
        }
    }
}

/// Why a cleanup stopped; what it removed so far stays removed, the rest is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A server, the fence or the gate.
    #[error(transparent)]
    Cutover(#[from] CutoverError),
    /// The slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The publication.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// A replicator works on the target.
    #[error(transparent)]
    InUse(#[from] LockError),
    /// A committed cutover was not finished.
    #[error(
        "cutover {epoch} is committed on the source, and the target's journal does not say that it is finished: the target \
         may not be open, or not have everything"
    )]
    Unfinished {
        /// Its epoch.
        epoch: i64,
    },
}

impl CleanupError {
    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Cutover(error) => error.remedy(),
            Self::Slot(error) => error.remedy(),
            Self::Publication(error) => error.remedy(),
            Self::InUse(error) => error.remedy(),
            Self::Unfinished { .. } => {
                "Start `pgsluice run`: it finishes the cutover. If the target is lost and the \
                 source is to be the primary again, use `pgsluice cleanup --unfence-source`."
                    .into()
            }
        }
    }
}

impl From<fence::FenceError> for CleanupError {
    fn from(error: fence::FenceError) -> Self {
        Self::Cutover(error.into())
    }
}

impl From<GateError> for CleanupError {
    fn from(error: GateError) -> Self {
        Self::Cutover(error.into())
    }
}

impl From<SqlFailure> for CleanupError {
    fn from(failure: SqlFailure) -> Self {
        Self::Cutover(failure.into())
    }
}

/// Removes everything this program left on both sides, or lists it.
///
/// # Errors
/// A replicator is running, a committed cutover is unfinished (both before anything is removed), or a statement
/// fails.
pub async fn cleanup(config: &Config, options: CleanupOptions) -> Result<Vec<CleanupAction>, CleanupError> {
    let source = connect(config, Side::Source).await?;
    let target = connect(config, Side::Target).await?;
    if let Some(pid) = slot::inspect(&source, &config.source.slot).await?.and_then(|state| state.active_pid) {
        return Err(SlotError::Active { slot: config.source.slot.clone(), pid }.into());
    }
    lock::become_replicator(&target).await?;
    let fence_row = fence::read_truth(&source, TRUTH_BOUND).await?;
    finished(&target, fence_row.as_ref(), options).await?;

    let mut list = List { options, actions: Vec::new() };
    remove_slot(config, &source, &mut list).await?;
    remove_publication(config, &source, &mut list).await?;
    remove_fence(&source, fence_row, &mut list).await?;
    remove_gate(&target, &mut list).await?;
    remove_records(&target, &mut list).await?;
    Ok(list.actions)
}

async fn connect(config: &Config, side: Side) -> Result<SqlSession, CleanupError> {
    let settings = match side {
        Side::Source => &config.source.connection,
        Side::Target => &config.target.connection,
    };
    Ok(connect_sql(settings, side, "cleanup").await.map_err(CutoverError::from)?)
}

/// Removing the gate of a cutover that is committed but not finished would open the target unchecked.
async fn finished(
    target: &SqlSession,
    fence_row: Option<&FenceRow>,
    options: CleanupOptions,
) -> Result<(), CleanupError> {
    let Some(row) = fence_row else { return Ok(()) };
    if options.unfence_source {
        return Ok(());
    }
    let is_finished = if journal::exists(target).await? {
        journal::last(target, Direction::Forward).await?.is_some_and(|last| finishes(&last, row))
    } else {
        // An earlier cleanup removed the journal, which it does last; without a gate there is nothing to open.
        gate::guarded_tables(target).await?.is_empty()
    };
    if is_finished { Ok(()) } else { Err(CleanupError::Unfinished { epoch: row.epoch }) }
}

/// Whether the journal knows the very cutover that fenced the source, and its end. A target that lost commits does
/// not, and neither does another target.
fn finishes(last: &Recorded, row: &FenceRow) -> bool {
    last.report.mode == CutoverMode::Cutover
        && last.report.outcome == Outcome::Completed
        && last.report.epoch == row.epoch
        && last.nonce == row.nonce
}

/// What was done so far.
struct List {
    options: CleanupOptions,
    actions: Vec<CleanupAction>,
}

impl List {
    /// Notes something that is removed next, and says whether it really is to be.
    fn removes(&mut self, side: Side, subject: impl Into<String>) -> bool {
        let outcome = if self.options.dry_run { CleanupOutcome::Planned } else { CleanupOutcome::Removed };
        self.actions.push(CleanupAction { side, subject: subject.into(), outcome });
        !self.options.dry_run
    }

    fn keeps(&mut self, side: Side, subject: impl Into<String>, why: impl Into<String>) {
        let outcome = CleanupOutcome::Kept { why: why.into() };
        self.actions.push(CleanupAction { side, subject: subject.into(), outcome });
    }
}

async fn remove_slot(config: &Config, source: &SqlSession, list: &mut List) -> Result<(), CleanupError> {
    let name = &config.source.slot;
    if slot::inspect(source, name).await?.is_some()
        && list.removes(Side::Source, format!("replication slot {name}"))
    {
        slot::drop_slot(source, name, WhenActive::Refuse).await?;
    }
    Ok(())
}

async fn remove_publication(
    config: &Config,
    source: &SqlSession,
    list: &mut List,
) -> Result<(), CleanupError> {
    let name = &config.source.publication;
    let subject = format!("publication {name}");
    let Some(state) = publication::inspect(source, name).await? else { return Ok(()) };
    if state.owner == PublicationOwner::Other {
        list.keeps(Side::Source, subject, "It was not made by pgsluice. Drop it yourself if nobody uses it.");
    } else if list.removes(Side::Source, subject) {
        publication::drop(source, name).await?;
    }
    Ok(())
}

async fn remove_fence(
    source: &SqlSession,
    row: Option<FenceRow>,
    list: &mut List,
) -> Result<(), CleanupError> {
    let triggers = fence::armed_tables(source).await?.len();
    if triggers == 0 && !fence::is_armed(source).await? {
        return Ok(());
    }
    match row {
        Some(row) if !list.options.unfence_source => list.keeps(
            Side::Source,
            format!("fence on {triggers} tables"),
            format!(
                "The database has moved to {}; the fence keeps applications from writing here by mistake. Drop the \
                 database when it is no longer needed, or open it again with --unfence-source.",
                row.moved_to
            ),
        ),
        _ => {
            if list.removes(Side::Source, format!("deny triggers of {triggers} tables, schema pgsluice")) {
                fence::disarm(source, ArmBound(LOCK_BOUND)).await?;
            }
        }
    }
    Ok(())
}

async fn remove_gate(target: &SqlSession, list: &mut List) -> Result<(), CleanupError> {
    let tables = gate::guarded_tables(target).await?.len();
    if tables > 0 && list.removes(Side::Target, format!("gate triggers of {tables} tables")) {
        gate::remove(target, LOCK_BOUND).await?;
    }
    Ok(())
}

/// Records of the migration, its copy, its progress and its cutovers: everything is in one schema.
async fn remove_records(target: &SqlSession, list: &mut List) -> Result<(), CleanupError> {
    let failed = SqlFailure::of(Side::Target, "remove the migration's records");
    let row = target
        .query_typed_one("SELECT to_regnamespace('pgsluice') IS NOT NULL", &[])
        .await
        .map_err(&failed)?;
    if row.get(0) && list.removes(Side::Target, "schema pgsluice with the migration's records") {
        target.batch_execute("DROP SCHEMA IF EXISTS pgsluice CASCADE").await.map_err(&failed)?;
    }
    Ok(())
}
