//! What each action of the state machine does to the two servers and to the clients. An action returns what
//! happened; it never decides what is next.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::operation::Operation;
use super::proof::{CaughtUp, SequencesAligned, SourceFenced};
use super::state::{Action, Event, State, Why};
use super::{CutoverError, SqlFailure, way_back};
use crate::connection::connect_sql;
use crate::migration::Blocking;
use crate::model::{Lsn, Side, counted};
use crate::runtime::Backoff;
use crate::source::fence::{self, CommitAnswer};
use crate::stream::MARKER_PREFIX;
use crate::target::sequences;
use crate::traffic::Step;

/// How long the source may take to answer COMMIT before the answer is looked up instead.
const COMMIT_BOUND: Duration = Duration::from_secs(10);
/// How long clients that are being paused may wait for a definition because of us.
const HELD_STILL_MAX: Duration = Duration::from_millis(100);
/// How long a rollback may wait for the source; after that the server does it by itself.
const RELEASE_BOUND: Duration = Duration::from_secs(3);
/// How long the slot of the way back may take to be dropped.
const DISARM_BOUND: Duration = Duration::from_secs(5);
/// How long one look at the fence row may wait for the fence transaction to end.
const TRUTH_BOUND: Duration = Duration::from_secs(1);
/// Between tries of what must succeed in the end.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(100);
pub(super) const RETRY_LONGEST: Duration = Duration::from_secs(5);
impl Operation {
    /// Performs one action.
    pub(super) async fn perform(&mut self, action: Action, state: &State) -> Result<Event, CutoverError> {
        match (action, state) {
            (Action::Arm, _) => self.arm().await,
            (Action::PauseTraffic, _) => self.pause_traffic().await,
            (Action::TakeFence, _) => self.take_fence().await,
            (Action::AwaitMarker, State::Draining { fenced }) => self.await_marker(fenced).await,
            (Action::AlignSequences, State::Aligning { fenced, .. }) => self.align_sequences(fenced).await,
            (Action::SecureTarget, State::Securing { fenced, caught_up, aligned }) => {
                self.secure_target(fenced, caught_up, aligned).await
            }
            (Action::CommitFence, State::Committing { proofs }) => {
                self.commit_fence(proofs.caught_up.marker_lsn()).await
            }
            (Action::ReleaseFence, _) => self.release_fence().await,
            (Action::ReadTruth, _) => self.read_truth().await,
            (Action::OpenTarget, _) => {
                self.begin_to_turn_out();
                self.open_target().await
            }
            (Action::RetargetTraffic, _) => {
                self.traffic_until_done(Step::Retarget).await;
                Ok(Event::TrafficRetargeted)
            }
            (Action::ResumeTraffic, _) => {
                self.traffic_until_done(Step::Resume).await;
                Ok(Event::TrafficResumed)
            }
            (Action::UndoTraffic, _) => self.undo_traffic().await,
            (Action::Disarm, _) => self.disarm().await,
            (action, state) => Err(CutoverError::refuted(
                format!("pgsluice made a mistake: {} while {}", action.as_str(), state.as_str()),
                "Nothing was committed. Please report this with the log around it.",
            )),
        }
    }

    /// Where that takes long, the definitions are let go meanwhile: clients go on until they are paused, others would wait
    /// behind a `TRUNCATE` of theirs, and a pooler that waits for its transaction would wait for us.
    async fn pause_traffic(&mut self) -> Result<Event, CutoverError> {
        self.traffic_touched = true;
        let Self { traffic, traffic_context, armed, control, .. } = self;
        let paused = traffic.perform(Step::Pause, traffic_context);
        tokio::pin!(paused);
        let notes = tokio::select! {
            notes = &mut paused => notes?,
            () = tokio::time::sleep(HELD_STILL_MAX) => {
                if let (Some(armed), Some(control)) = (armed, control) {
                    armed.fence.release(control).await?;
                }
                paused.await?
            }
        };
        self.notes = notes;
        Ok(Event::TrafficPaused)
    }

    async fn take_fence(&mut self) -> Result<Event, CutoverError> {
        let (Some(armed), Some(control)) = (self.armed.as_mut(), self.control.as_ref()) else {
            return Err(self
                .armed()
                .err()
                .unwrap_or_else(|| CutoverError::refuted("no session", "Start again.")));
        };
        Ok(Event::SourceFenced(armed.fence.take(control, &self.terms).await?))
    }

    /// The marker is written by another session, after the proof: everything that was ever committed before it is
    /// decoded before it. Never "lag = 0" (trap 24).
    async fn await_marker(&mut self, fenced: &SourceFenced) -> Result<Event, CutoverError> {
        let mut stream = self.ctx.stream.clone();
        let armed = self.armed()?;
        let nonce = fenced.nonce().as_str();
        let row = armed
            .marker
            .query_typed_one(
                "SELECT pg_logical_emit_message(true, $1, $2)::text",
                &[(&MARKER_PREFIX, Type::TEXT), (&nonce, Type::TEXT)],
            )
            .await
            .map_err(SqlFailure::of(Side::Source, "write the marker"))?;
        let marker_lsn: Lsn = row.get::<_, String>(0).parse().map_err(|error| {
            CutoverError::refuted(
                format!("the source answered the marker with something that is no WAL position ({error})"),
                "Check that the source is PostgreSQL itself and not a proxy.",
            )
        })?;
        let applied = tokio::select! {
            applied = stream.marker_applied(nonce, marker_lsn) => applied?,
            () = armed.fence.lost() => return Err(fence_lost()),
        };
        match CaughtUp::of_marker(fenced, &applied, marker_lsn) {
            Some(caught_up) => Ok(Event::CaughtUp(caught_up)),
            None => Err(CutoverError::refuted(
                format!("the stream reports the marker of {marker_lsn} as applied before it was written"),
                "Nothing was committed. Please report this with the log around it.",
            )),
        }
    }

    async fn align_sequences(&mut self, fenced: &SourceFenced) -> Result<Event, CutoverError> {
        let (Some(armed), Some(target)) = (&self.armed, &self.target) else {
            return Err(CutoverError::refuted("the sessions are gone", "Start the operation again."));
        };
        let wanted = armed.fence.read_sequences().await?;
        let all_read = wanted.len() == armed.fence.plan().sequences.len();
        let found = sequences::set(target, &wanted).await?;
        match SequencesAligned::verified(fenced, wanted, &found) {
            Some(aligned) if all_read => Ok(Event::SequencesAligned(aligned)),
            _ => Err(CutoverError::refuted(
                "a sequence of the target does not stand where it was set to",
                "Look for somebody who uses sequences on the target before the cutover, and start it again.",
            )),
        }
    }

    async fn commit_fence(&mut self, marker_lsn: Lsn) -> Result<Event, CutoverError> {
        self.marker_lsn = Some(marker_lsn);
        let Some(armed) = self.armed.as_mut() else { return Ok(Event::CommitUnknown) };
        let answer =
            tokio::time::timeout(COMMIT_BOUND, armed.fence.commit(&self.terms, marker_lsn, &self.turn)).await;
        Ok(match answer {
            Ok(CommitAnswer::Committed) => Event::FenceCommitted,
            Ok(CommitAnswer::Unknown(problem)) => {
                tracing::warn!(%problem, "the source did not confirm the commit of the fence");
                Event::CommitUnknown
            }
            Err(_) => Event::CommitUnknown,
        })
    }

    /// The fence row decides, once the fence transaction has ended in whatever way (INV-8).
    async fn read_truth(&mut self) -> Result<Event, CutoverError> {
        // Our session's end makes the server roll back what it has not committed.
        self.armed = None;
        self.control = None;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            match self.ask_for_the_truth().await {
                Ok(truth) => {
                    self.log.certain_again();
                    return Ok(match truth {
                        Some(row) if row.nonce == self.terms.nonce => Event::FenceCommitted,
                        _ => Event::FenceNotCommitted(Why::Failed {
                            reason: "The connection to the source was lost before the fence was committed; the \
                                     source has rolled it back."
                                .into(),
                            remedy: "The source accepts writes as before. Find out why the connection was lost, then \
                                     start the cutover again."
                                .into(),
                        }),
                    });
                }
                Err(error) => {
                    let reason = format!(
                        "The source did not answer the fence's COMMIT, and cannot be asked about it: {error}. Neither \
                         side is open to writes through pgsluice until it says."
                    );
                    self.log.in_doubt(reason, error.remedy());
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn ask_for_the_truth(&self) -> Result<Option<fence::FenceRow>, CutoverError> {
        let session =
            connect_sql(&self.ctx.config.source.connection, Side::Source, "cutover control").await?;
        Ok(fence::read_truth(&session, TRUTH_BOUND).await?)
    }

    async fn release_fence(&mut self) -> Result<Event, CutoverError> {
        let Some(mut armed) = self.armed.take() else { return Ok(Event::FenceReleased) };
        // However this ends, dropping the session ends its transaction on the server.
        let released = match &self.control {
            Some(control) => tokio::time::timeout(RELEASE_BOUND, armed.fence.release(control)).await,
            None => Ok(Ok(())),
        };
        match released {
            Ok(outcome) => outcome?,
            Err(_) => {
                return Err(CutoverError::refuted(
                    "the source did not answer the ROLLBACK of the fence in time",
                    "The server rolls it back by itself, at the latest by idle_in_transaction_session_timeout.",
                ));
            }
        }
        Ok(Event::FenceReleased)
    }

    /// After the point of no return an adapter that fails is told again until it succeeds; the commit stands.
    async fn traffic_until_done(&mut self, step: Step) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            match self.traffic.perform(step, &self.traffic_context).await {
                Ok(notes) => {
                    self.notes = notes;
                    self.log.no_trouble();
                    return;
                }
                Err(error) => {
                    let message =
                        format!("The target is the primary, and clients are not moved yet: {error}.");
                    self.log.trouble(&message, &error.remedy, Blocking::Retrying);
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// The slot of the way back would keep the target's WAL for nobody.
    async fn disarm(&mut self) -> Result<Event, CutoverError> {
        let (true, Some(back)) = (self.armed_way_back, &self.ctx.way_back) else {
            return Ok(Event::RolledBack);
        };
        let removed = async {
            let target = connect_sql(&self.ctx.config.target.connection, Side::Target, "cutover").await?;
            fence::pass(&*target).await.map_err(SqlFailure::of(Side::Target, "pass the fence"))?;
            way_back::remove(back, &target).await
        };
        match tokio::time::timeout(DISARM_BOUND, removed).await {
            Ok(removed) => removed.map(|()| Event::RolledBack),
            Err(_) => Err(CutoverError::refuted(
                "the slot of the way back stays on the target: it did not answer in time",
                "The next operation or `pgsluice cleanup` drops it.",
            )),
        }
    }

    /// What the adapters said of the step that has just ended.
    fn told(&self) -> Option<String> {
        (!self.notes.is_empty()).then(|| self.notes.join("; "))
    }

    /// A few words for a person about a step that has ended.
    pub(super) fn detail(&self, action: Action, event: &Event) -> Option<String> {
        match event {
            Event::Stop(why) => Some(why.reason()),
            Event::Armed => Some([vec![connected(&self.clients)], self.notes.clone()].concat().join("; ")),
            Event::SourceFenced(fenced) => {
                let tries = self.armed.as_ref().map_or(1, |armed| armed.fence.tries());
                let tables = counted(fenced.tables().len(), "table", "tables");
                Some(format!("{tables}, {}", counted(tries, "try", "tries")))
            }
            Event::CaughtUp(caught_up) => Some(format!("marker at {}", caught_up.marker_lsn())),
            Event::SequencesAligned(aligned) => {
                Some(counted(aligned.values().len(), "sequence", "sequences"))
            }
            Event::TargetDurable(durable) => Some(format!("durable to {}", durable.durable().lsn())),
            Event::CommitUnknown => Some("the source did not answer".into()),
            _ if action == Action::PauseTraffic && self.traffic.is_empty() => Some("no adapters".into()),
            Event::TrafficPaused | Event::TrafficRetargeted | Event::TrafficResumed => self.told(),
            _ if action == Action::UndoTraffic => self.told(),
            _ => None,
        }
    }
}

/// As in `12 sessions of clients: web 8, worker 4`.
fn connected(clients: &[(String, i64)]) -> String {
    const SHOWN_MAX: usize = 5;
    if clients.is_empty() {
        return "no client is connected directly".to_owned();
    }
    let all: i64 = clients.iter().map(|(_, sessions)| sessions).sum();
    let shown: Vec<String> =
        clients.iter().take(SHOWN_MAX).map(|(name, sessions)| format!("{name} {sessions}")).collect();
    let more = if clients.len() > SHOWN_MAX { ", …" } else { "" };
    format!("{} of clients: {}{more}", counted(all, "session", "sessions"), shown.join(", "))
}

pub(super) fn fence_lost() -> CutoverError {
    CutoverError::refuted(
        "the connection that holds the fence was lost",
        "The source has rolled the fence back. Find out why the connection was lost, then start again.",
    )
}
