//! Rehearsals, cutovers and rollbacks of a running pgsluice, asked for by its API as an operator's script would. Each is
//! repeated until it completes; those that did not are kept with their reason.

use std::time::{Duration, Instant};

use pgsluice::control::dto::{CutoverModeRecord, CutoverRecord, CutoverRequestRecord};
use pgsluice::demo::replicator::{Replicator, ReplicatorError};

use super::Outcome;

/// How long clients have the machine for themselves before each operation.
const REST: Duration = Duration::from_millis(300);
/// An operation is asked for below this lag.
const LAG_BYTES_MAX: u64 = 1 << 20;
/// Longest wait for that.
const LAG_WAIT: Duration = Duration::from_secs(120);
/// Longest wait for the end of one operation.
const OPERATION_WAIT: Duration = Duration::from_secs(120);
/// An operation that does not complete is tried again so often.
const ATTEMPTS_MAX: usize = 30;
/// Rarely enough that looking takes nothing from what is looked at.
const POLL: Duration = Duration::from_millis(25);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Everything of a cutover but the commit.
    Rehearsal,
    /// To the target.
    Cutover,
    /// Back to the source.
    Rollback,
}

/// A completed operation.
pub(crate) struct Completed {
    /// The clients had the machine for themselves from then on.
    pub(crate) rested_from: Instant,
    /// When it was asked for.
    pub(crate) asked_at: Instant,
    /// When its end was seen.
    pub(crate) ended_at: Instant,
    /// What the API says of it.
    pub(crate) record: CutoverRecord,
}

/// All operations of one kind.
#[derive(Default)]
pub(crate) struct Series {
    /// Those that count.
    pub(crate) completed: Vec<Completed>,
    /// Rolled back by themselves, as the API reports them.
    pub(crate) aborted: Vec<CutoverRecord>,
    /// Refused before anything was done, and why.
    pub(crate) refused: Vec<String>,
}

/// Whether an operation completed, in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It did.
    Completed,
    /// It did not, however often it was tried.
    GivenUp,
}

impl Kind {
    /// One word for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rehearsal => "rehearsal",
            Self::Cutover => "cutover",
            Self::Rollback => "rollback",
        }
    }

    /// In which the program must be.
    const fn phase(self) -> &'static str {
        match self {
            Self::Rehearsal | Self::Cutover => "streaming",
            Self::Rollback => "rollback_window",
        }
    }
}

impl Series {
    /// Repeats an operation until it completes.
    pub(crate) async fn add(&mut self, replicator: &mut Replicator, kind: Kind) -> Outcome<Ended> {
        for _ in 0..ATTEMPTS_MAX {
            let rested_from = Instant::now();
            tokio::time::sleep(REST).await;
            little_lag(replicator, kind.phase()).await?;
            let asked_at = Instant::now();
            let accepted = match ask(replicator, kind).await {
                Ok(accepted) => accepted,
                Err(ReplicatorError::Refused(problem)) => {
                    eprintln!("  {} refused: {}", kind.name(), problem.detail);
                    self.refused.push(problem.detail);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let record = end_of(replicator, accepted.epoch).await?;
            let ended_at = Instant::now();
            if record.outcome == "completed" {
                self.completed.push(Completed { rested_from, asked_at, ended_at, record });
                return Ok(Ended::Completed);
            }
            eprintln!("  {} {}: {}", kind.name(), record.outcome, reason_of(&record));
            self.aborted.push(record);
        }
        Ok(Ended::GivenUp)
    }
}

/// Why an operation did not complete.
pub(crate) fn reason_of(record: &CutoverRecord) -> String {
    record.reason.clone().unwrap_or_else(|| record.outcome.clone())
}

/// Waits until little is to be applied: what an operator waits for.
pub(crate) async fn little_lag(replicator: &mut Replicator, phase: &str) -> Outcome<()> {
    let deadline = Instant::now() + LAG_WAIT;
    loop {
        let status = replicator.api().status().await?;
        if status.phase == phase && status.lag.bytes.is_some_and(|bytes| bytes <= LAG_BYTES_MAX) {
            return Ok(());
        }
        if replicator.ended().is_some() || Instant::now() > deadline {
            let (phase_now, lag) = (&status.phase, status.lag.bytes);
            let log = last_lines(&replicator.log());
            return Err(format!(
                "the program is not in phase {phase} with little lag after {LAG_WAIT:?}, but in phase {phase_now} with \
                 {lag:?} bytes to apply; the end of its log:\n{log}"
            )
            .into());
        }
        tokio::time::sleep(2 * POLL).await;
    }
}

async fn ask(replicator: &Replicator, kind: Kind) -> Result<CutoverRecord, ReplicatorError> {
    let key = format!("bench-{:016x}", rand::random::<u64>());
    // The pause allowed is the configuration's.
    let request = |mode| CutoverRequestRecord { mode, max_pause_ms: None, unverified: true };
    match kind {
        Kind::Rehearsal => {
            replicator.api().start_cutover(request(Some(CutoverModeRecord::Rehearsal)), &key).await
        }
        Kind::Cutover => {
            replicator.api().start_cutover(request(Some(CutoverModeRecord::Cutover)), &key).await
        }
        Kind::Rollback => replicator.api().start_rollback(request(None)).await,
    }
}

async fn end_of(replicator: &mut Replicator, epoch: i64) -> Outcome<CutoverRecord> {
    let deadline = Instant::now() + OPERATION_WAIT;
    loop {
        let seen = replicator.api().cutover().await?;
        if seen.epoch == epoch && seen.ended_at.is_some() {
            return Ok(seen);
        }
        if replicator.ended().is_some() || Instant::now() > deadline {
            let log = last_lines(&replicator.log());
            let state = seen.state;
            return Err(format!(
                "operation {epoch} is {state} and did not end in {OPERATION_WAIT:?}; the end of the log:\n{log}"
            )
            .into());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
