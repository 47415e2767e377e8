//! Which of several processes may run the migration: the one that has the Lease. The others serve their API, say who has it, and
//! touch neither database. A Lease only keeps two pods from getting in each other's way, the locks on the target keep the data
//! safe: an API server that does not answer stops nothing, and a cutover that runs is finished whatever the Lease says
//! (`docs/decisions/2026-11-30-a-lease-keeps-a-second-pod-waiting.md`).

use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::command::{Command, Refusal};
use super::status::{Blocking, Problem, Status, StatusBoard};
use crate::kubernetes::KubernetesError;
use crate::kubernetes::lease::{Holder, LEASE_DURATION, Lease, RENEW_EVERY, RETRY_EVERY, Standing};
use crate::runtime::Shutdown;

/// Somebody else has the Lease, although this process was at work.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the Lease \"{name}\" was taken by {holder}, so this pgsluice has stopped. Nothing is lost: each change and its progress are \
     committed together, and the other one resumes here"
)]
pub struct LeaseLost {
    /// The Lease.
    pub name: String,
    /// Who has it now.
    pub holder: String,
}

impl LeaseLost {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        "Find out why two run: only one Deployment may be there for a target, with one replica. Or the API server could not be reached for \
         longer than the Lease is valid. The next start of this one waits until the Lease is free."
            .into()
    }
}

/// Keeps the Lease for a migration.
#[derive(Debug)]
pub struct LeaseKeeper {
    lease: Lease,
    board: StatusBoard,
    shutdown: Shutdown,
    /// Told once when the migration may begin; closed if it never does.
    turn: watch::Sender<bool>,
    started_at: Instant,
    /// Whether anybody has the Lease whom we know of.
    known_holder: bool,
    /// The trouble that was told last, so that it is told once.
    told: Option<String>,
}

impl LeaseKeeper {
    /// A keeper, and what tells that the migration may begin.
    #[must_use]
    pub fn new(lease: Lease, board: StatusBoard, shutdown: Shutdown) -> (Self, watch::Receiver<bool>) {
        let (turn, seen) = watch::channel(false);
        let keeper = Self {
            lease,
            board,
            shutdown,
            turn,
            started_at: Instant::now(),
            known_holder: false,
            told: None,
        };
        (keeper, seen)
    }

    /// Waits for the Lease, renews it, and gives it back once the migration has ended, which `ended` tells by being closed.
    ///
    /// # Errors
    /// It was lost to another process.
    pub async fn run(mut self, ended: oneshot::Receiver<()>) -> Result<(), LeaseLost> {
        let shutdown = self.shutdown.clone();
        tracing::info!(lease = self.lease.name(), identity = self.lease.identity(), "asking for the lease");
        loop {
            // A request that is cut off here may still be carried out: giving it back looks first.
            let standing = tokio::select! {
                standing = self.lease.look() => standing,
                () = shutdown.requested() => break,
            };
            let next = match standing {
                Ok(Standing::Held) => {
                    self.held();
                    RENEW_EVERY
                }
                Ok(Standing::Contended) => RETRY_EVERY,
                Ok(Standing::HeldBy(holder)) if self.is_begun() => return Err(self.lost(holder).await),
                Ok(Standing::HeldBy(holder)) => {
                    self.waits_for(&holder);
                    RETRY_EVERY
                }
                Err(error) => {
                    self.unanswered(&error);
                    RETRY_EVERY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = shutdown.requested() => break,
            }
        }
        let Self { lease, turn, .. } = self;
        drop(turn);
        // What the successor would find would be our sessions, which it has to wait for.
        let _ = ended.await;
        match lease.release().await {
            Ok(()) => tracing::info!("the lease is given back"),
            Err(error) => tracing::warn!(%error, "the lease could not be given back; it expires by itself"),
        }
        Ok(())
    }

    fn is_begun(&self) -> bool {
        *self.turn.borrow()
    }

    fn held(&mut self) {
        if self.told.take().is_some() || !self.is_begun() {
            tracing::info!(lease = self.lease.name(), "the lease is ours");
        }
        self.begin();
    }

    fn begin(&self) {
        if !self.is_begun() {
            self.board.update(|status| status.problem = None);
            self.turn.send_replace(true);
        }
    }

    fn waits_for(&mut self, holder: &Holder) {
        self.known_holder = true;
        let name = self.lease.name();
        if self.told.as_deref() != Some(&holder.identity) {
            tracing::info!(lease = name, holder = holder.identity, "another pgsluice has the lease: waiting");
            self.told = Some(holder.identity.clone());
        }
        let time = |at: &Option<String>| at.clone().unwrap_or_else(|| "an unknown time".to_owned());
        let message = format!(
            "Another pgsluice, {}, has the Lease \"{name}\" since {} and renewed it at {} (by its clock). This one waits, and \
             touches neither database.",
            holder.identity,
            time(&holder.since),
            time(&holder.renewed_at)
        );
        let remedy = format!(
            "Nothing, if that one is to run. Otherwise stop it: this one begins as soon as it has given the Lease back, or {} s after \
             it has died. There is to be one Deployment for a target, with one replica.",
            (LEASE_DURATION + RETRY_EVERY).as_secs()
        );
        self.tell(message, remedy, Blocking::Retrying);
    }

    /// Silence of the API server stops nothing. Before the beginning it is waited for as long as another's Lease could be valid,
    /// unless somebody is known to have it; a refusal is a mistake that somebody has to mend.
    fn unanswered(&mut self, error: &KubernetesError) {
        let (text, remedy) = (error.to_string(), error.remedy());
        let is_silence = error.is_silence();
        // Silence has many words: refused connections, time-outs, a proxy's.
        let kind = if is_silence { "silence".to_owned() } else { text.clone() };
        let is_news = self.told.as_ref() != Some(&kind);
        self.told = Some(kind);
        if self.is_begun() {
            if is_news {
                tracing::warn!(
                    error = text,
                    remedy,
                    "the lease could not be renewed; the migration goes on, and the locks on the target keep others out"
                );
            }
            return;
        }
        if is_silence && !self.known_holder && self.started_at.elapsed() >= LEASE_DURATION {
            tracing::warn!(
                error = text,
                remedy,
                "nobody can say who has the lease; the migration begins without it, and the locks on the target keep others out"
            );
            self.begin();
            return;
        }
        if is_news {
            tracing::warn!(error = text, remedy, "the lease cannot be asked for: waiting");
        }
        let message = format!(
            "The Lease \"{}\" cannot be asked for, so that nobody knows whether another pgsluice runs: {text}. This one waits, and \
             touches neither database.",
            self.lease.name()
        );
        let blocking = if is_silence { Blocking::Retrying } else { Blocking::WaitingForOperator };
        self.tell(message, remedy, blocking);
    }

    fn tell(&self, message: String, remedy: String, blocking: Blocking) {
        let problem = Problem { message, remedy, at: Timestamp::now(), blocking };
        self.board.update(|status| status.problem = Some(problem));
    }

    /// A cutover that runs has a bound of its own, and its clients wait: breaking it off would help nobody, and whoever has the
    /// Lease cannot begin before our sessions have ended.
    async fn lost(&self, holder: Holder) -> LeaseLost {
        let is_running =
            |status: &Status| status.cutover.as_ref().is_some_and(|report| report.ended_at.is_none());
        if self.board.with(is_running) {
            tracing::warn!(
                holder = holder.identity,
                "the lease is lost; the cutover that runs is finished before this process stops"
            );
            let mut board = self.board.subscribe();
            tokio::select! {
                _ = board.wait_for(|status| !is_running(status)) => {}
                () = self.shutdown.requested() => {}
            }
        }
        LeaseLost { name: self.lease.name().to_owned(), holder: holder.identity }
    }
}

/// Waits until the migration may begin, refusing commands; whether it may, or the program stops.
pub async fn await_turn(mut turn: watch::Receiver<bool>, commands: &mut mpsc::Receiver<Command>) -> bool {
    loop {
        tokio::select! {
            told = turn.wait_for(|is_ours| *is_ours) => return told.is_ok(),
            Some(command) = commands.recv() => command.refuse(Refusal::NotReady {
                message: "another pgsluice has the Lease, or nobody knows whether one has: this one does nothing".into(),
                remedy: "Send the command to the pgsluice that has the Lease; GET /v1/status says who that is.".into(),
            }),
        }
    }
}
