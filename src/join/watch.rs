//! Looks at both sides every two seconds, or less often where a look takes long, while changes are streamed and no cutover is under
//! way, publishes where every table stands, and says once of each table that is outside. Decides nothing: the migration task does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::mark::let_pass;
use super::standing::{Assessment, OutsideReason};
use super::{JoinError, assess, look, settle};
use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::cutover::{CutoverReport, Outcome};
use crate::migration::StatusBoard;
use crate::model::{Side, TableName};
use crate::runtime::Shutdown;
use crate::stream::StreamHandle;

/// Between two looks, unless it is asked for one.
const INTERVAL: Duration = Duration::from_secs(2);
/// Looks are so much further apart than they take: many tables, or a busy server, are looked at less often.
const INTERVAL_PER_LOOK: u32 = 10;
const INTERVAL_MAX: Duration = Duration::from_secs(30);
/// A look that takes longer has lost its connection.
const LOOK_TIME_MAX: Duration = Duration::from_secs(30);

/// What was seen last; `None` before the first look.
pub type Seen = watch::Receiver<Option<Arc<Assessment>>>;

/// The watch. Its owner spawns [`TableWatch::run`].
#[derive(Debug)]
pub struct TableWatch {
    config: Arc<Config>,
    board: StatusBoard,
    stream: StreamHandle,
    seen: watch::Sender<Option<Arc<Assessment>>>,
    now: Arc<Notify>,
}

impl TableWatch {
    /// A watch, where its findings arrive, and what makes it look at once.
    #[must_use]
    pub fn new(config: Arc<Config>, board: StatusBoard, stream: StreamHandle) -> (Self, Seen, Arc<Notify>) {
        let (sender, seen) = watch::channel(None);
        let now = Arc::new(Notify::new());
        (Self { config, board, stream, seen: sender, now: Arc::clone(&now) }, seen, now)
    }

    /// Watches until shutdown. A side that does not answer is asked again at the next round.
    pub async fn run(self, shutdown: Shutdown) {
        let mut sessions = None;
        let mut told = BTreeSet::new();
        loop {
            let begun_at = Instant::now();
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.round(&mut sessions, &mut told) => {}
            }
            let interval = (begun_at.elapsed() * INTERVAL_PER_LOOK).clamp(INTERVAL, INTERVAL_MAX);
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.now.notified() => {}
                () = self.next_look(interval) => {}
            }
        }
    }

    /// Not while an operation runs: a look at many tables takes a processor for a while on both servers, and writers may be
    /// waiting. What an operation has to know it looks up itself.
    async fn next_look(&self, interval: Duration) {
        let is_operating =
            |report: &CutoverReport| report.ended_at.is_none() && report.outcome == Outcome::Running;
        loop {
            tokio::time::sleep(interval).await;
            if !self.board.with(|status| status.cutover.as_ref().is_some_and(is_operating)) {
                return;
            }
        }
    }

    async fn round(
        &self,
        sessions: &mut Option<(SqlSession, SqlSession)>,
        told: &mut BTreeSet<(TableName, OutsideReason)>,
    ) {
        let Ok(looked) = tokio::time::timeout(LOOK_TIME_MAX, self.assess(sessions)).await else {
            *sessions = None;
            return;
        };
        match looked {
            Ok(assessment) => {
                tell(&assessment, told);
                publish(&self.board, &assessment);
                self.seen.send_replace(Some(Arc::new(assessment)));
            }
            Err(error) => {
                tracing::debug!(%error, "the tables could not be looked at");
                *sessions = None;
            }
        }
    }

    async fn assess(&self, sessions: &mut Option<(SqlSession, SqlSession)>) -> Result<Assessment, JoinError> {
        let (source, target) = match sessions {
            Some(sessions) => sessions,
            None => sessions.insert(connect(&self.config).await?),
        };
        let unknown = self.stream.unknown_table();
        let view = look(source, target, &self.config.source.publication).await?;
        if let Some((oid, name)) = unknown {
            let_pass(target, &view, oid, &name).await?;
        }
        let assessment = assess(&view, &self.config.source.tables);
        if !assessment.needs_stream_to_stop() {
            settle(target, &assessment).await?;
        }
        Ok(assessment)
    }
}

async fn connect(config: &Config) -> Result<(SqlSession, SqlSession), JoinError> {
    let source = connect_sql(&config.source.connection, Side::Source, "table watch").await?;
    let target = connect_sql(&config.target.connection, Side::Target, "table watch").await?;
    Ok((source, target))
}

/// Publishes where every table stands; wakes nobody when nothing has changed.
pub(super) fn publish(board: &StatusBoard, assessment: &Assessment) {
    if board.with(|status| status.standings != assessment.standings) {
        board.update(|status| status.standings.clone_from(&assessment.standings));
    }
}

fn tell(assessment: &Assessment, told: &mut BTreeSet<(TableName, OutsideReason)>) {
    let outside: Vec<_> = assessment
        .standings
        .iter()
        .filter_map(|standing| Some((&standing.table, standing.outside.as_ref()?)))
        .collect();
    told.retain(|(table, reason)| {
        outside.iter().any(|(known, why)| *known == table && why.reason == *reason)
    });
    for (table, outside) in outside {
        if told.insert((table.clone(), outside.reason)) {
            let (reason, remedy) = (outside.reason.as_str(), &outside.remedy);
            match outside.reason {
                OutsideReason::Joining | OutsideReason::ForeignKeysDue => {
                    tracing::info!(table = %table.plain(), reason, "table joins the migration");
                }
                _ => {
                    tracing::warn!(table = %table.plain(), reason, remedy, "table outside the migration: {}", outside.explanation)
                }
            }
        }
    }
}
