//! What each action of the state machine does to the two servers and to the clients. An action returns what
//! happened; it never decides what is next.

use std::time::Duration;

use futures_util::future::try_join;
use tokio_postgres::types::Type;

use super::arm::no_large_objects;
use super::operation::Operation;
use super::proof::{CaughtUp, SequencesAligned, SourceFenced, TargetDurable};
use super::state::{Action, Event, State, Why};
use super::{CutoverError, SqlFailure, way_back};
use crate::config::Durability;
use crate::connection::{SqlSession, connect_sql};
use crate::migration::{Blocking, CutoverMode};
use crate::model::{Direction, Lsn, Side};
use crate::runtime::Backoff;
use crate::source::fence::{self, CommitAnswer};
use crate::stream::MARKER_PREFIX;
use crate::target::progress::APPLIED_BY_ALL;
use crate::target::{CommitReceipt, DurableLsn, gate, lock, sequences, standbys};
use crate::traffic::Step;

/// How long the source may take to answer COMMIT before the answer is looked up instead.
const COMMIT_BOUND: Duration = Duration::from_secs(10);
/// How long a rollback may wait for the source; after that the server does it by itself.
const RELEASE_BOUND: Duration = Duration::from_secs(3);
/// How long one try of opening the target may take.
const OPEN_BOUND: Duration = Duration::from_secs(5);
/// How long the slot of the way back may take to be dropped.
const DISARM_BOUND: Duration = Duration::from_secs(5);
/// How long one look at the fence row may wait for the fence transaction to end.
const TRUTH_BOUND: Duration = Duration::from_secs(1);
/// Tries of an adapter's undo.
const UNDO_TRIES: usize = 3;
/// Between tries of what must succeed in the end.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How often the target is asked how far it has flushed.
const FLUSH_POLL: Duration = Duration::from_millis(1);
/// How often the target's standbys are looked at.
const STANDBY_POLL: Duration = Duration::from_millis(5);

impl Operation {
    /// Performs one action.
    pub(super) async fn perform(&mut self, action: Action, state: &State) -> Result<Event, CutoverError> {
        match (action, state) {
            (Action::Arm, _) => self.arm().await,
            (Action::PauseTraffic, _) => {
                self.traffic_touched = true;
                self.notes = self.traffic.perform(Step::Pause, &self.traffic_context).await?;
                Ok(Event::TrafficPaused)
            }
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
            (Action::OpenTarget, _) => self.open_target().await,
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

    /// The target has the marker's transaction, the sequences and the journal's intent for good. The intent is
    /// durable before COMMIT is thought of.
    async fn secure_target(
        &mut self,
        fenced: &SourceFenced,
        caught_up: &CaughtUp,
        aligned: &SequencesAligned,
    ) -> Result<Event, CutoverError> {
        self.evidence = self.evidence_of(fenced, caught_up, aligned);
        let mut stream = self.ctx.stream.clone();
        let (Some(armed), Some(target), Some(control)) = (&self.armed, &self.target, &self.control) else {
            return Err(CutoverError::refuted("the sessions are gone", "Start the operation again."));
        };
        let receipt = caught_up.receipt();
        let local = self.ctx.config.target.durability == Durability::Local;
        // The stream's own watch looks less often; the standbys' word is its alone.
        let durable = async {
            tokio::select! {
                durable = stream.durable_at(receipt.source_lsn()) => Ok(durable?),
                durable = flushed(target, receipt), if local => durable,
            }
        };
        let intent = async {
            if self.mode() == CutoverMode::Rehearsal {
                return Ok(());
            }
            let epoch = self.terms.epoch;
            let written = self.log.journal().intent(epoch, self.evidence.clone()).await;
            written.map_err(|problem| {
                CutoverError::refuted(
                    format!("the journal on the target could not be written: {problem}"),
                    "Check that the target is up and reachable, then start again.",
                )
            })
        };
        // Only then: the intent's commit flushes the sequences as well, whatever `synchronous_commit` is set to.
        let on_standbys = async {
            intent.await?;
            wait_for_standbys(target, self.ctx.config.target.durability).await
        };
        let (durable, ()) = tokio::select! {
            secured = try_join(durable, on_standbys) => secured?,
            () = armed.fence.lost() => return Err(fence_lost()),
        };
        // As late as can be: what is made after it meets the fence, or comes within the moment of the COMMIT.
        let complete = async {
            no_large_objects(control, &self.ctx.config).await?;
            Ok::<_, CutoverError>(armed.fence.still_complete(control, &self.terms).await?)
        };
        let here = where_changes_are_applied(target);
        tokio::select! {
            complete = try_join(complete, here) => { complete?; }
            () = armed.fence.lost() => return Err(fence_lost()),
        }
        let turn = match &armed.way_back {
            Some(way_back) => way_back.turn_sql(way_back.begin(target).await?),
            None => way_back::no_turn_sql().to_owned(),
        };
        self.turn = turn;
        match TargetDurable::covering(caught_up, durable) {
            Some(durable) => Ok(Event::TargetDurable(durable)),
            None => Err(CutoverError::refuted(
                "the target's durable position does not cover the marker",
                "Nothing was committed. Please report this with the log around it.",
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

    /// Tried until it works: the fence is committed, so the target has to be opened (INV-8 holds meanwhile, with
    /// neither side open).
    async fn open_target(&mut self) -> Result<Event, CutoverError> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let opened = match tokio::time::timeout(OPEN_BOUND, self.try_to_open()).await {
                Ok(opened) => opened,
                Err(_) => Err(CutoverError::refuted(
                    "it did not answer in time",
                    "Check that the target is up and reachable; it is tried again.",
                )),
            };
            match opened {
                Ok(()) => {
                    self.log.no_trouble();
                    return Ok(Event::TargetOpened);
                }
                Err(error) => {
                    self.target = None;
                    let message =
                        format!("The fence is committed and the target cannot be opened yet: {error}.");
                    self.log.trouble(&message, &error.remedy(), Blocking::Retrying);
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn try_to_open(&mut self) -> Result<(), CutoverError> {
        let target = match self.target.take() {
            Some(session) if !session.is_closed() => session,
            _ => self.reconnected_target().await?,
        };
        // Whichever closes it: the gate of a first cutover, the fence of an earlier one. Sent together.
        let gate = async { Ok::<_, CutoverError>(gate::open(&target, self.terms.epoch).await?) };
        let fence = async { Ok(fence::lift(&target, Side::Target).await?) };
        try_join(gate, fence).await?;
        self.target = Some(target);
        Ok(())
    }

    /// A new session to the target, if that still has everything the fence covers: what answers now may be a
    /// standby that was promoted before it had received all of it.
    async fn reconnected_target(&self) -> Result<SqlSession, CutoverError> {
        let target = connect_sql(&self.ctx.config.target.connection, Side::Target, "cutover").await?;
        let Some(marker_lsn) = self.marker_lsn else { return Ok(target) };
        let row = target
            .query_typed_opt(
                &format!(
                    "SELECT min >= $1::text::pg_lsn, min::text FROM ({APPLIED_BY_ALL}) AS applied WHERE min IS NOT NULL"
                ),
                &[(&marker_lsn.to_string(), Type::TEXT)],
            )
            .await
            .map_err(SqlFailure::of(Side::Target, "read the progress record"))?;
        match row {
            Some(row) if row.get(0) => Ok(target),
            row => {
                let has = row.map_or_else(
                    || "nothing".to_owned(),
                    |row| format!("everything up to {}", row.get::<_, &str>(1)),
                );
                Err(CutoverError::refuted(
                    format!(
                        "the target has {has}, and the fence was committed at {marker_lsn}: it has lost its last moments"
                    ),
                    lost_side_remedy(self.ctx.config.direction),
                ))
            }
        }
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

    async fn undo_traffic(&mut self) -> Result<Event, CutoverError> {
        // What was said while arming is no word about this.
        self.notes.clear();
        if !self.traffic_touched {
            return Ok(Event::RolledBack);
        }
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut tries = 1;
        loop {
            match self.traffic.perform(Step::Undo, &self.traffic_context).await {
                Ok(notes) => {
                    self.notes = notes;
                    self.log.no_trouble();
                    return Ok(Event::RolledBack);
                }
                Err(error) => {
                    let message =
                        format!("The source accepts writes, and clients may still be held back: {error}.");
                    self.log.trouble(&message, &error.remedy, Blocking::Retrying);
                    if tries == UNDO_TRIES {
                        return Err(error.into());
                    }
                }
            }
            tries += 1;
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
                Some(format!("{} tables, {tries} tries", fenced.tables().len()))
            }
            Event::CaughtUp(caught_up) => Some(format!("marker at {}", caught_up.marker_lsn())),
            Event::SequencesAligned(aligned) => Some(format!("{} sequences", aligned.values().len())),
            Event::TargetDurable(durable) => Some(format!("durable to {}", durable.durable().lsn())),
            Event::CommitUnknown => Some("the source did not answer".into()),
            _ if action == Action::PauseTraffic && self.traffic.is_empty() => Some("no adapters".into()),
            Event::TrafficPaused | Event::TrafficRetargeted | Event::TrafficResumed => self.told(),
            _ if action == Action::UndoTraffic => self.told(),
            _ => None,
        }
    }
}

/// The side that is reached has lost what it had: the other one, which is fenced, has everything.
pub(super) const fn lost_side_remedy(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => {
            "Bring back the target's primary that has all of it. If it is lost, stop pgsluice, unfence the source with `pgsluice \
             cleanup --unfence-source` (with --without-target if it cannot be reached), and migrate again: the source has everything."
        }
        Direction::Back => {
            "Bring back the source's primary that has all of it. If it is lost, stop pgsluice and open the target again with `pgsluice \
             cleanup --without-source --unfence-target`: the target has everything."
        }
    }
}

/// As in `12 clients are connected directly: web 8, worker 4`.
fn connected(clients: &[(String, i64)]) -> String {
    const SHOWN_MAX: usize = 5;
    if clients.is_empty() {
        return "no client is connected directly".to_owned();
    }
    let all: i64 = clients.iter().map(|(_, sessions)| sessions).sum();
    let shown: Vec<String> =
        clients.iter().take(SHOWN_MAX).map(|(name, sessions)| format!("{name} {sessions}")).collect();
    let more = if clients.len() > SHOWN_MAX { ", …" } else { "" };
    format!("{all} sessions of clients: {}{more}", shown.join(", "))
}

fn fence_lost() -> CutoverError {
    CutoverError::refuted(
        "the connection that holds the fence was lost",
        "The source has rolled the fence back. Find out why the connection was lost, then start again.",
    )
}

/// Waits until the target has flushed the receipt's transaction. Setting the sequences and writing the journal's intent flush
/// everything before them, so this is soon.
async fn flushed(target: &SqlSession, receipt: CommitReceipt) -> Result<DurableLsn, CutoverError> {
    loop {
        let row = target
            .query_typed_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .await
            .map_err(SqlFailure::of(Side::Target, "look how far the target has flushed"))?;
        let flushed = row.get::<_, &str>(0).parse().unwrap_or(Lsn::new(0));
        if let Some(durable) = DurableLsn::confirmed_by(receipt, flushed) {
            return Ok(durable);
        }
        tokio::time::sleep(FLUSH_POLL).await;
    }
}

/// The sequences' values are not in the stream, so the stream's durability says nothing about them: the standbys
/// must have flushed what the target's primary had written by now.
async fn wait_for_standbys(target: &SqlSession, durability: Durability) -> Result<(), CutoverError> {
    let Durability::Standbys(wanted) = durability else { return Ok(()) };
    let failed = SqlFailure::of(Side::Target, "look at the target's standbys");
    let row =
        target.query_typed_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.map_err(&failed)?;
    let position: Lsn = row.get::<_, &str>(0).parse().map_err(|error| {
        CutoverError::refuted(
            format!("the target answered with something that is no WAL position ({error})"),
            "Check that the target is PostgreSQL itself and not a proxy.",
        )
    })?;
    loop {
        let standbys = standbys::look(target).await.map_err(&failed)?;
        if standbys.flushed_by(wanted).is_some_and(|flushed| flushed >= position) {
            return Ok(());
        }
        tokio::time::sleep(STANDBY_POLL).await;
    }
}

/// Before writers are asked to wait: a standby that is away would only be noticed when the pause is over.
pub(super) async fn enough_standbys(target: &SqlSession, durability: Durability) -> Result<(), CutoverError> {
    let Durability::Standbys(wanted) = durability else { return Ok(()) };
    let failed = SqlFailure::of(Side::Target, "look at the target's standbys");
    let standbys = standbys::look(target).await.map_err(&failed)?;
    if standbys.flushed_by(wanted).is_some() {
        return Ok(());
    }
    let shortage = standbys.shortage(wanted);
    Err(CutoverError::refuted(format!("the target cannot be made durable: {shortage}"), shortage.remedy()))
}

/// The stream and this operation speak to the same target: sequences set on a server that is the target no more would be
/// lost (INV-8). Its address may have moved while our session stayed with the old one.
async fn where_changes_are_applied(target: &SqlSession) -> Result<(), CutoverError> {
    let failed = SqlFailure::of(Side::Target, "look for the session that applies changes");
    if lock::is_replicator_here(target).await.map_err(&failed)? {
        return Ok(());
    }
    Err(CutoverError::refuted(
        "changes are applied to another server than the one whose sequences were set, as after a failover of the target",
        "Wait until the target's failover is over, then start the cutover again.",
    ))
}
