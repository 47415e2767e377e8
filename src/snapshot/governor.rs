//! Spares the source: no further chunk is begun while the slot keeps too much of its WAL, or while one of its standbys
//! is too far behind. Chunks under way are never touched: they end by themselves, and with them what they hold. What
//! is decided ([`judge`]) is pure; [`look`] asks the source; [`Governor`] brings both together, and tells the operator.

mod look;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

pub use look::look;
pub use verdict::{Limits, Pressure, Reason, StandbyBehind, Verdict, judge};

use super::SnapshotError;
use crate::config::SnapshotConfig;
use crate::connection::SqlSession;
use crate::migration::{Blocking, Problem, StatusBoard};
use crate::telemetry::{CopyPause, Metrics};

/// How often the source is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Decides whether the next chunk may begin. One task [`watch`](Self::watch)es the source; any number of workers ask.
#[derive(Debug)]
pub struct Governor {
    limits: Limits,
    slot: String,
    board: StatusBoard,
    metrics: Arc<Metrics>,
    /// `None` until the source was looked at.
    verdict: watch::Sender<Option<Verdict>>,
}

impl Governor {
    /// Nothing is limited that `config` does not limit.
    #[must_use]
    pub fn new(config: &SnapshotConfig, slot: &str, board: StatusBoard, metrics: Arc<Metrics>) -> Self {
        let limits = Limits {
            wal_retained_bytes: config.max_wal_retained_bytes,
            standby_lag_bytes: config.max_standby_lag_bytes,
        };
        let verdict = watch::Sender::new((!limits.limit_anything()).then_some(Verdict::Go));
        Self { limits, slot: slot.to_owned(), board, metrics, verdict }
    }

    /// Returns when the next chunk may begin: at once where nothing is limited, and otherwise by what
    /// [`watch`](Self::watch) saw last. Cancel safe.
    pub async fn may_begin(&self) {
        let mut verdict = self.verdict.subscribe();
        // The sender is `self`: it cannot be gone.
        let _ = verdict.wait_for(|verdict| *verdict == Some(Verdict::Go)).await;
    }

    /// Looks at the source every second, and ends only with an error. When it is dropped, however that comes, what it
    /// told is taken back.
    ///
    /// # Errors
    /// What [`look`] could not read.
    pub async fn watch(&self, source: &SqlSession) -> SnapshotError {
        if !self.limits.limit_anything() {
            return std::future::pending().await;
        }
        let mut told = Told::new(self);
        let mut before = Verdict::Go;
        loop {
            let pressure = match look(source, &self.slot).await {
                Ok(pressure) => pressure,
                Err(error) => return error,
            };
            told.hidden_standbys(&pressure);
            let verdict = judge(&pressure, self.limits, &self.slot, &before);
            told.verdict(&verdict);
            self.verdict.send_replace(Some(verdict.clone()));
            before = verdict;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// What the operator was told, on the status board and by a metric.
struct Told<'a> {
    governor: &'a Governor,
    pause: Option<Reason>,
    standbys_are_hidden: bool,
}

impl<'a> Told<'a> {
    fn new(governor: &'a Governor) -> Self {
        Self { governor, pause: None, standbys_are_hidden: false }
    }

    fn verdict(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Go => self.over(),
            Verdict::Pause(reason) => self.pause(reason),
        }
    }

    /// Said again as long as it is so, because another problem may have come and gone meanwhile; that comes first.
    fn pause(&mut self, reason: &Reason) {
        let (message, remedy) = (reason.to_string(), reason.remedy());
        if self.pause.as_ref() != Some(reason) {
            tracing::warn!(problem = %message, %remedy, "copy pauses");
            self.take_back();
            self.governor.metrics.copy_pauses(Some(reason.kind()));
            self.pause = Some(reason.clone());
        }
        let board = &self.governor.board;
        if board.with(|status| status.problem.is_none()) {
            let problem = Problem { message, remedy, at: Timestamp::now(), blocking: Blocking::Retrying };
            board.update(|status| status.problem = Some(problem));
        }
    }

    fn over(&mut self) {
        if self.pause.is_some() {
            tracing::info!("copy goes on");
            self.take_back();
            self.pause = None;
            self.governor.metrics.copy_pauses(None);
        }
    }

    fn take_back(&self) {
        let Some(message) = self.pause.as_ref().map(ToString::to_string) else { return };
        let board = &self.governor.board;
        if board.with(|status| status.problem.as_ref().is_some_and(|problem| problem.message == message)) {
            board.update(|status| status.problem = None);
        }
    }

    /// A limit without effect is worse than none: it is said once.
    fn hidden_standbys(&mut self, pressure: &Pressure) {
        let is_blind = self.governor.limits.standby_lag_bytes.is_some() && pressure.hidden_senders > 0;
        if is_blind && !std::mem::replace(&mut self.standbys_are_hidden, true) {
            tracing::warn!(
                remedy = "On the source, as a superuser: GRANT pg_read_all_stats to the role of source.url.",
                "the role may not see how far the source's standbys are: snapshot.max_standby_lag_bytes has no effect"
            );
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.over();
    }
}

impl Reason {
    /// For the metric.
    const fn kind(&self) -> CopyPause {
        match self {
            Self::WalRetained { .. } => CopyPause::WalRetained,
            Self::StandbyLag { .. } => CopyPause::StandbyLag,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn governor(board: &StatusBoard, limit_bytes: Option<u64>) -> Governor {
        let mut config = crate::control::fixture::config().snapshot;
        config.max_standby_lag_bytes = limit_bytes;
        Governor::new(&config, "pgsluice", board.clone(), Metrics::new().expect("metrics"))
    }

    fn pause() -> Verdict {
        let standby = StandbyBehind { application_name: "replica".into(), pid: 7, lag_bytes: 2048 };
        Verdict::Pause(Reason::StandbyLag { standby, limit_bytes: 1024 })
    }

    fn message(board: &StatusBoard) -> Option<String> {
        board.with(|status| status.problem.as_ref().map(|problem| problem.message.clone()))
    }

    #[test]
    fn a_pause_is_told_and_taken_back_and_never_hides_or_clears_another_problem() {
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        let governor = governor(&board, Some(1024));
        let mut told = Told::new(&governor);
        told.verdict(&pause());
        assert!(message(&board).is_some_and(|message| message.contains("replica")));
        let paused = "pgsluice_snapshot_paused{reason=\"standby_lag\"} 1";
        assert!(governor.metrics.render().expect("metrics").contains(paused));
        told.verdict(&Verdict::Go);
        assert_eq!(message(&board), None);

        let other = Problem {
            message: "the target is full".into(),
            remedy: "add a disk".into(),
            at: Timestamp::UNIX_EPOCH,
            blocking: Blocking::Retrying,
        };
        board.update(|status| status.problem = Some(other));
        told.verdict(&pause());
        told.verdict(&Verdict::Go);
        assert_eq!(message(&board).as_deref(), Some("the target is full"));
        board.update(|status| status.problem = None);
        told.verdict(&pause());
        assert!(message(&board).is_some());
        drop(told);
        assert_eq!(message(&board), None, "a copy that ends leaves no pause behind");
        assert!(!governor.metrics.render().expect("metrics").contains(paused));
    }

    #[tokio::test]
    async fn workers_wait_for_the_first_look_and_while_it_pauses() {
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        governor(&board, None).may_begin().await;

        let governor = governor(&board, Some(1024));
        let waits = async |governor: &Governor| {
            tokio::time::timeout(Duration::from_millis(20), governor.may_begin()).await.is_err()
        };
        assert!(waits(&governor).await, "nobody has looked yet");
        governor.verdict.send_replace(Some(pause()));
        assert!(waits(&governor).await);
        let goes_on = async {
            tokio::task::yield_now().await;
            governor.verdict.send_replace(Some(Verdict::Go));
        };
        tokio::join!(governor.may_begin(), goes_on);
    }
}
