//! The migration task's side of tables that come and go: it owns the watch and at most one join, decides what joins next,
//! and never lets one begin beside a cutover. The records it goes by are on the target; in memory there is nothing that a
//! restart would lose.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::command::Refusal;
use super::status::{JoinNote, StatusBoard};
use super::task::Migration;
use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::join::{
    self, Assessment, JoinContext, JoinError, Joinable, Seen, TableWatch, View, Wanted, assess,
};
use crate::model::{Lsn, Oid, Side};
use crate::runtime::Shutdown;
use crate::snapshot::CopyBoard;
use crate::stream::StreamHandle;

/// A table that could not join is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long a join may take to give up its slot and sessions at shutdown.
const STOP_GRACE: Duration = Duration::from_millis(1_500);
/// How long a look may take before a stream begins or a command is answered.
const LOOK_TIME_MAX: Duration = Duration::from_secs(4);

/// What is under way.
#[derive(Clone, Debug)]
enum Work {
    Join(Vec<Joinable>),
    ForeignKeys,
}

/// The tables' part of the operation.
pub(super) struct Joining {
    config: Arc<Config>,
    board: StatusBoard,
    stream: StreamHandle,
    copy: CopyBoard,
    context: JoinContext,
    seen: Seen,
    look: Arc<Notify>,
    /// The watch and, when there is one, the work.
    tasks: JoinSet<()>,
    running: Option<(Work, JoinSet<Result<(), JoinError>>)>,
    failed: BTreeMap<Oid, Instant>,
    foreign_keys_failed: Option<Instant>,
    /// What was looked at before this is not how it is any more.
    changed_at: Instant,
}

impl Joining {
    /// Starts the watch.
    pub(super) fn new(migration: &Migration, copy: CopyBoard) -> Self {
        let (config, board) = (Arc::clone(&migration.config), migration.board.clone());
        let (watch, seen, look) =
            TableWatch::new(Arc::clone(&config), board.clone(), migration.stream.clone());
        let mut tasks = JoinSet::new();
        let shutdown: Shutdown = migration.shutdown.child();
        tasks.spawn(watch.run(shutdown.clone()));
        let context = JoinContext {
            config: Arc::clone(&config),
            board: board.clone(),
            metrics: Arc::clone(&migration.metrics),
            shutdown,
        };
        Self {
            config,
            board,
            stream: migration.stream.clone(),
            copy,
            context,
            seen,
            look,
            tasks,
            running: None,
            failed: BTreeMap::new(),
            foreign_keys_failed: None,
            changed_at: Instant::now(),
        }
    }

    /// Whether a join, or what comes after it, is under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Resolves when the tables were looked at or a join has ended. Cancel safe.
    pub(super) async fn happens(&mut self) {
        let ended = async {
            match &mut self.running {
                Some((_, work)) => work.join_next().await,
                None => pending().await,
            }
        };
        tokio::select! {
            changed = self.seen.changed() => if changed.is_err() { pending::<()>().await },
            ended = ended => self.account_for(ended),
        }
    }

    fn account_for(&mut self, ended: Option<Result<Result<(), JoinError>, tokio::task::JoinError>>) {
        let Some((work, _)) = self.running.take() else { return };
        self.changed_at = Instant::now();
        let outcome = match ended {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) | None => Err(JoinError::Stopped),
        };
        match (work, outcome) {
            (Work::Join(tables), Ok(())) => self.forget_failures(&tables),
            (Work::ForeignKeys, Ok(())) => self.foreign_keys_failed = None,
            (_, Err(JoinError::Stopped)) if self.context.shutdown.is_requested() => {}
            (Work::Join(tables), Err(error)) => self.note_failure(&tables, &error),
            (Work::ForeignKeys, Err(error)) => {
                if self.foreign_keys_failed.is_none() {
                    tracing::warn!(%error, remedy = error.remedy(), "foreign keys of joined tables are not built yet");
                }
                self.foreign_keys_failed = Some(Instant::now());
            }
        }
        self.look.notify_one();
    }

    fn forget_failures(&mut self, tables: &[Joinable]) {
        self.failed.retain(|oid, _| !tables.iter().any(|table| table.oid == *oid));
        self.board.update(|status| {
            status.join_notes.retain(|name, _| !tables.iter().any(|table| table.name == *name));
        });
    }

    fn note_failure(&mut self, tables: &[Joinable], error: &JoinError) {
        let note = JoinNote { message: error.to_string(), remedy: error.remedy(), is_failure: true };
        let is_news = tables
            .iter()
            .any(|table| self.board.with(|status| status.join_notes.get(&table.name) != Some(&note)));
        if is_news {
            let names: Vec<String> = tables.iter().map(|table| table.name.plain()).collect();
            tracing::warn!(%error, remedy = note.remedy, tables = ?names, "tables could not join; it is tried again");
        }
        for table in tables {
            self.failed.insert(table.oid, Instant::now());
        }
        self.board.update(|status| {
            for table in tables {
                status.join_notes.insert(table.name.clone(), note.clone());
            }
        });
    }

    /// Whether what was seen last has to be recorded while no stream runs.
    pub(super) fn needs_stream_to_stop(&mut self) -> bool {
        // What is being copied is not to be copied by anybody else; it is looked at again when that is over.
        !self.is_busy()
            && !self.copy.is_active()
            && self.latest().is_some_and(|seen| seen.needs_stream_to_stop())
    }

    /// What was seen last, if nothing has been changed since it was looked at.
    fn latest(&mut self) -> Option<Arc<Assessment>> {
        let seen = self.seen.borrow_and_update().clone();
        seen.filter(|seen| seen.looked_at.is_some_and(|at| at > self.changed_at))
    }

    /// Begins what can be done by what was seen last, if nothing is under way.
    pub(super) fn go_on(&mut self) {
        if self.is_busy() || self.context.shutdown.is_requested() {
            return;
        }
        let Some(seen) = self.latest() else { return };
        if let Some(tables) = self.next_to_join(&seen) {
            let context = self.context.clone();
            let chosen = tables.clone();
            self.start(Work::Join(tables), async move { join::join(&context, &chosen).await });
            return;
        }
        let due = self.foreign_keys_due(&seen);
        if !due.is_empty() {
            let context = self.context.clone();
            self.start(Work::ForeignKeys, async move { join::foreign_keys(&context, &due).await });
        }
    }

    fn start(&mut self, work: Work, task: impl Future<Output = Result<(), JoinError>> + Send + 'static) {
        let mut set = JoinSet::new();
        set.spawn(task);
        self.running = Some((work, set));
    }

    /// All that never failed at once; then one after the other, so that one does not hold up the rest.
    fn next_to_join(&mut self, seen: &Assessment) -> Option<Vec<Joinable>> {
        self.failed.retain(|oid, _| seen.joinable.iter().any(|table| table.oid == *oid));
        let joinable = seen.joinable.iter().filter(|table| !self.copy.is_planned(table.oid)).cloned();
        let (failed, fresh): (Vec<_>, Vec<_>) =
            joinable.partition(|table| self.failed.contains_key(&table.oid));
        if !fresh.is_empty() {
            return Some(fresh);
        }
        let oldest = failed.into_iter().min_by_key(|table| self.failed.get(&table.oid).copied())?;
        let is_due = self.failed.get(&oldest.oid).is_none_or(|at| at.elapsed() >= RETRY_AFTER);
        is_due.then(|| vec![oldest])
    }

    fn foreign_keys_due(&self, seen: &Assessment) -> Vec<Oid> {
        if self.foreign_keys_failed.is_some_and(|at| at.elapsed() < RETRY_AFTER) {
            return Vec::new();
        }
        let applied = self.stream.applied_lsn();
        let is_passed = |join_lsn: Option<Lsn>| join_lsn.is_none() || applied >= join_lsn;
        let due = seen.foreign_keys_due.iter().filter(|(_, join_lsn)| is_passed(*join_lsn));
        due.map(|(oid, _)| *oid).collect()
    }

    /// Looks, and records what only a stream that does not run yet can be told. A side that does not answer is looked at
    /// again by the watch.
    pub(super) async fn correct_records(&mut self) {
        if self.copy.is_active() {
            return;
        }
        let corrected = tokio::time::timeout(LOOK_TIME_MAX * 10, async {
            let (_, target, view) = self.look().await?;
            let assessment = assess(&view, &self.config.source.tables);
            join::demote(&target, &assessment).await?;
            Ok::<_, JoinError>(())
        });
        let corrected = corrected.await;
        self.changed_at = Instant::now();
        match corrected {
            Ok(Ok(())) => self.look.notify_one(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the tables could not be looked at before the stream began")
            }
            Err(_) => tracing::warn!("the tables could not be looked at in time before the stream began"),
        }
    }

    /// Whether the stream has halted because of a table that was detached and attached; its record is corrected then.
    pub(super) async fn explains_the_halt(&mut self) -> bool {
        if self.copy.is_active() {
            return false;
        }
        let explained = async {
            let (_, target, view) = self.look().await?;
            let assessment = assess(&view, &self.config.source.tables);
            if !assessment.needs_stream_to_stop() {
                return Ok(false);
            }
            join::demote(&target, &assessment).await?;
            Ok::<_, JoinError>(true)
        };
        let explained = tokio::time::timeout(LOOK_TIME_MAX * 10, explained).await;
        self.changed_at = Instant::now();
        matches!(explained, Ok(Ok(true)))
    }

    async fn look(&self) -> Result<(SqlSession, SqlSession, View), JoinError> {
        let source = connect_sql(&self.config.source.connection, Side::Source, "tables").await?;
        let target = connect_sql(&self.config.target.connection, Side::Target, "tables").await?;
        let view = join::look(&source, &target, &self.config.source.publication).await?;
        Ok((source, target, view))
    }

    /// Whether each of these tables can join, or has.
    pub(super) async fn check(&self, names: &[String]) -> Result<Vec<Wanted>, Refusal> {
        if names.is_empty() {
            return Err(Refusal::Unsuitable {
                message: "no table is named; nothing was changed".into(),
                remedy: "Name at least one, as schema.table.".into(),
            });
        }
        let checked = async {
            let (source, target, view) = self.look().await?;
            join::check_request(&self.config, &source, &target, &view, names).await
        };
        match tokio::time::timeout(LOOK_TIME_MAX, checked).await {
            Ok(Ok(wanted)) => Ok(wanted),
            Ok(Err(error)) => Err(refusal(&error)),
            Err(_) => Err(Refusal::NotReady {
                message: "source and target did not answer in time; nothing was changed".into(),
                remedy: "Try again when `pgsluice status` shows no problem.".into(),
            }),
        }
    }

    /// Records what was asked for.
    pub(super) async fn record(&mut self, wanted: &[Wanted]) -> Result<(), Refusal> {
        if wanted.is_empty() {
            return Ok(());
        }
        let recorded = async {
            let target = connect_sql(&self.config.target.connection, Side::Target, "tables").await?;
            join::record_request(&target, wanted).await
        };
        let recorded = recorded.await;
        self.changed_at = Instant::now();
        self.board.update(|status| {
            status.join_notes.retain(|name, _| !wanted.iter().any(|each| each.name == *name));
        });
        recorded.map_err(|error| refusal(&error))
    }

    /// Looks and publishes before it returns, so that whoever asked finds what they asked for.
    pub(super) async fn look_now(&self) {
        if let Ok(Ok((_, _, view))) = tokio::time::timeout(LOOK_TIME_MAX, self.look()).await {
            let assessment = assess(&view, &self.config.source.tables);
            self.board.update(|status| status.standings.clone_from(&assessment.standings));
        }
        self.look.notify_one();
    }

    /// Ends watch and join; what has begun is gone on with by the next start.
    pub(super) async fn stop(&mut self) {
        self.context.shutdown.request();
        let ended = async {
            if let Some((_, work)) = &mut self.running {
                while work.join_next().await.is_some() {}
            }
            while self.tasks.join_next().await.is_some() {}
        };
        let _ = tokio::time::timeout(STOP_GRACE, ended).await;
    }
}

fn refusal(error: &JoinError) -> Refusal {
    let (message, remedy) = (error.to_string(), error.remedy());
    match error {
        JoinError::Unsuitable { .. } => {
            Refusal::Unsuitable { message: format!("{message}; nothing was changed"), remedy }
        }
        _ => Refusal::NotReady { message, remedy },
    }
}
