//! Undo on both sides, after success, abort or abandonment: slots, publications, fences, gate and records, of the
//! migration and of its way back. Every step can be repeated, and an interrupted cleanup is finished by the next one. The
//! fence of a committed cutover stays unless the operator says otherwise, because it is what keeps applications
//! from writing to a database that nobody reads any more (INV-8).

use std::time::Duration;

use pgsluice_proto::command::quote_ident;
use tokio_postgres::types::Type;

use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::migration::CutoverMode;
use crate::model::{Direction, Side, counted};
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
    /// The source is gone for good: only the target is cleaned.
    pub without_source: bool,
    /// Also remove the fence of a rollback: the target accepts writes again.
    pub unfence_target: bool,
    /// The target is gone for good: only the source is cleaned, and opened.
    pub without_target: bool,
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
    /// A committed cutover or rollback was not finished.
    #[error(
        "operation {epoch} is committed on the {left}, and the journal of the {reached} does not say that it is finished: the \
         {reached} may not be open, or not have everything"
    )]
    Unfinished {
        /// Its epoch.
        epoch: i64,
        /// The side that was fenced.
        left: Side,
        /// The side that is to be opened.
        reached: Side,
    },
    /// Asked to clean the target alone, which is not known to be the primary.
    #[error(
        "the target's journal does not say that it is the primary: without the source nothing may be cleaned"
    )]
    NotCutOver,
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
                "Start `pgsluice run`: it finishes the operation. If the side that was to be opened is lost, open the one that was left \
                 again: `pgsluice cleanup --unfence-source` (after a rollback: --unfence-target), with --without-target \
                 (--without-source) if the other cannot be reached."
                    .into()
            }
            Self::NotCutOver => {
                "Run `pgsluice cleanup` without --without-source while the source can be reached.".into()
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
    let mut list = List { options, actions: Vec::new() };
    let target = if options.without_target { None } else { Some(connect(config, Side::Target).await?) };
    let source = if options.without_source { None } else { Some(connect(config, Side::Source).await?) };
    let back = config.way_back();
    for (session, slot) in [(&target, &back.source.slot), (&source, &config.source.slot)] {
        if let Some(session) = session {
            lock::become_replicator(session).await?;
            not_in_use(session, slot).await?;
        }
    }
    let kept = match (&source, &target) {
        (Some(source), Some(target)) => finished(source, target, options).await?,
        (None, Some(target)) if !options.unfence_target => {
            is_the_primary(target).await?;
            Kept::default()
        }
        _ => Kept::default(),
    };
    if let Some(source) = &source {
        clean(config, Side::Source, source, kept.source, &mut list).await?;
    }
    if let Some(target) = &target {
        clean(&back, Side::Target, target, kept.target, &mut list).await?;
    }
    Ok(list.actions)
}

/// Fences that stay, because the database has moved from there.
#[derive(Debug, Default)]
struct Kept {
    source: Option<FenceRow>,
    target: Option<FenceRow>,
}

/// One side: what is read from it, what closes it, our records. `config` is that in which it is the source.
async fn clean(
    config: &Config,
    side: Side,
    session: &SqlSession,
    kept: Option<FenceRow>,
    list: &mut List,
) -> Result<(), CleanupError> {
    remove_stream(config, side, session, list).await?;
    let records = if kept.is_some() { Records::BesideAFence } else { Records::All };
    let exists = has_schema(side, session).await?;
    remove_fence(side, session, kept, list).await?;
    if side == Side::Target {
        remove_gate(session, list).await?;
    }
    if exists {
        remove_records(side, session, records, list).await?;
    }
    Ok(())
}

async fn connect(config: &Config, side: Side) -> Result<SqlSession, CleanupError> {
    let settings = match side {
        Side::Source => &config.source.connection,
        Side::Target => &config.target.connection,
    };
    let session = connect_sql(settings, side, "cleanup").await.map_err(CutoverError::from)?;
    // Where the fence stays, our own records are removed all the same.
    fence::pass(&*session).await.map_err(SqlFailure::of(side, "pass the fence"))?;
    Ok(session)
}

async fn not_in_use(session: &SqlSession, slot: &str) -> Result<(), CleanupError> {
    match slot::inspect(session, slot).await?.and_then(|state| state.active_pid) {
        Some(pid) => Err(SlotError::Active { slot: slot.to_owned(), pid }.into()),
        None => Ok(()),
    }
}

/// Removing what closes the side that is reached by an operation that is committed but not finished would open it unchecked.
/// The fences that stay come back.
async fn finished(
    source: &SqlSession,
    target: &SqlSession,
    options: CleanupOptions,
) -> Result<Kept, CleanupError> {
    let of_source = fence::read_truth(source, TRUTH_BOUND).await?;
    let of_target = fence::read_truth(target, TRUTH_BOUND).await?;
    let last_on_target = of_target.as_ref().map(|row| row.epoch) > of_source.as_ref().map(|row| row.epoch);
    let (row, left, reached, session, direction) = if last_on_target {
        (&of_target, Side::Target, Side::Source, source, Direction::Back)
    } else {
        (&of_source, Side::Source, Side::Target, target, Direction::Forward)
    };
    let Some(row) = row else { return Ok(Kept::default()) };
    let is_finished = if journal::exists(session).await? {
        journal::last(session, direction).await?.is_some_and(|last| finishes(&last, row))
    } else {
        // An earlier cleanup removed the journal, which it does last; where nothing is closed there is nothing to open.
        gate::guarded_tables(session).await?.is_empty() && fence::closed_tables(session).await?.is_empty()
    };
    // Only the side that was left last may be opened against the journal: it has everything.
    let is_told = match left {
        Side::Source => options.unfence_source,
        Side::Target => options.unfence_target,
    };
    if !is_finished && !is_told {
        return Err(CleanupError::Unfinished { epoch: row.epoch, left, reached });
    }
    Ok(Kept {
        source: of_source.filter(|_| !options.unfence_source && !last_on_target),
        target: of_target.filter(|_| !options.unfence_target && last_on_target),
    })
}

/// Only the target's own journal can be asked: its last operation is a completed cutover, and it has not been left since.
async fn is_the_primary(target: &SqlSession) -> Result<(), CleanupError> {
    let is_left = fence::read_truth(target, TRUTH_BOUND).await?.is_some();
    let last =
        if journal::exists(target).await? { journal::last(target, Direction::Forward).await? } else { None };
    let is_completed = last.is_some_and(|last| {
        last.report.mode == CutoverMode::Cutover && last.report.outcome == Outcome::Completed
    });
    if is_completed && !is_left { Ok(()) } else { Err(CleanupError::NotCutOver) }
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

/// Slot and publication that are read from `side` in one direction.
async fn remove_stream(
    config: &Config,
    side: Side,
    session: &SqlSession,
    list: &mut List,
) -> Result<(), CleanupError> {
    let slot = &config.source.slot;
    if slot::inspect(session, slot).await?.is_some() && list.removes(side, format!("replication slot {slot}"))
    {
        slot::drop_slot(session, slot, WhenActive::Refuse).await?;
    }
    let name = &config.source.publication;
    let subject = format!("publication {name}");
    let Some(state) = publication::inspect(session, name).await? else { return Ok(()) };
    if state.owner == PublicationOwner::Other {
        list.keeps(side, subject, "It was not made by pgsluice. Drop it yourself if nobody uses it.");
    } else if list.removes(side, subject) {
        publication::drop(session, name).await?;
    }
    Ok(())
}

/// `kept`: the row of a fence that stays, because the database has moved from there.
async fn remove_fence(
    side: Side,
    session: &SqlSession,
    kept: Option<FenceRow>,
    list: &mut List,
) -> Result<(), CleanupError> {
    let triggers = fence::armed_tables(session).await?.len();
    let is_locked_out = fence::is_locked_out(session).await?;
    if triggers == 0 && !is_locked_out && !fence::is_armed(session).await? {
        return Ok(());
    }
    let tables = counted(triggers, "table", "tables");
    let lockout = if is_locked_out { ", and the lockout of clients" } else { "" };
    match kept {
        Some(row) => {
            list.keeps(
                side,
                format!("fence on {tables}{lockout}"),
                format!(
                    "The database has moved to {}; the fence keeps applications from writing here by mistake. Drop the \
                     database when it is no longer needed, or open it again with --unfence-{side}.",
                    row.moved_to
                ),
            );
        }
        None => {
            let subject = format!("deny triggers of {tables}, and the fence's state{lockout}");
            if list.removes(side, subject) {
                fence::disarm(session, ArmBound(LOCK_BOUND)).await?;
            }
        }
    }
    Ok(())
}

async fn remove_gate(target: &SqlSession, list: &mut List) -> Result<(), CleanupError> {
    let tables = gate::guarded_tables(target).await?.len();
    if tables > 0
        && list.removes(Side::Target, format!("gate triggers of {}", counted(tables, "table", "tables")))
    {
        gate::remove(target, LOCK_BOUND).await?;
    }
    Ok(())
}

/// What of our schema is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Records {
    /// The schema.
    All,
    /// What does not belong to a fence that stays.
    BesideAFence,
}

/// Asked before the fence is removed, which takes an empty schema with it.
async fn has_schema(side: Side, session: &SqlSession) -> Result<bool, CleanupError> {
    let row = session
        .query_typed_one("SELECT to_regnamespace('pgsluice') IS NOT NULL", &[])
        .await
        .map_err(SqlFailure::of(side, "look for the migration's records"))?;
    Ok(row.get(0))
}

/// Records of the migration, its copy, its progress and its operations: everything else in our schema.
async fn remove_records(
    side: Side,
    session: &SqlSession,
    records: Records,
    list: &mut List,
) -> Result<(), CleanupError> {
    let failed = SqlFailure::of(side, "remove the migration's records");
    if records == Records::All {
        if list.removes(side, "schema pgsluice with the migration's records") {
            session.batch_execute("DROP SCHEMA IF EXISTS pgsluice CASCADE").await.map_err(&failed)?;
        }
        return Ok(());
    }
    let sql = "SELECT c.relname::text FROM pg_class c
         WHERE c.relnamespace = to_regnamespace('pgsluice') AND c.relkind IN ('r', 'p') AND c.relname <> ALL ($1)";
    let of_the_fence: &[&str] = &fence::TABLES;
    let rows = session.query_typed(sql, &[(&of_the_fence, Type::TEXT_ARRAY)]).await.map_err(&failed)?;
    let tables: Vec<String> =
        rows.iter().map(|row| format!("pgsluice.{}", quote_ident(row.get(0)))).collect();
    if !tables.is_empty() && list.removes(side, "the migration's records in schema pgsluice") {
        let drop = format!("DROP TABLE {} CASCADE", tables.join(", "));
        session.batch_execute(&drop).await.map_err(&failed)?;
    }
    Ok(())
}
