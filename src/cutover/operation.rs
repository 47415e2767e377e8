//! One operation from its first action to its end: asks the state machine, performs what it says
//! (`actions`), and answers with what happened. Every await before the point of no return gives way to the
//! operator's abort, to the pause's bound and to a shutdown; what comes after it is tried until it succeeds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::certificate::Servers;
use super::driver::{Claim, CutoverContext, stream_waits};
use super::log::OperationLog;
use super::report::{Outcome, StepOutcome};
use super::state::{Action, Cutover, Event, State, Why};
use super::undo::NotUndone;
use super::unfenced::TurningOut;
use super::way_back::WayBack;
use super::{Again, CutoverError, Nonce, SqlFailure};
use crate::config::Durability;
use crate::connection::{SqlSession, connect_sql};
use crate::migration::CutoverMode;
use crate::model::{Lsn, Side};
use crate::runtime::Shutdown;
use crate::source::fence::{self, Fence, FenceTerms};
use crate::traffic::{Notes, Traffic, TrafficContext};

/// How long taking the turnstile out of the writers' way may take before it is left to the next start.
const STAND_DOWN_BOUND: Duration = Duration::from_secs(3);

/// What an operation is started with.
pub(super) struct Purpose {
    pub(super) nonce: Nonce,
    pub(super) max_pause: Duration,
    pub(super) traffic: Traffic,
    /// Whether a process before this one may have told the adapters anything, and made a way back.
    pub(super) is_resumed: bool,
    /// What is known for the certificate from a process before this one.
    pub(super) evidence: serde_json::Value,
    /// Where the marker is, if the fence was committed by a process before this one.
    pub(super) marker_lsn: Option<Lsn>,
    /// Sessions that are there already.
    pub(super) control: Option<SqlSession>,
    pub(super) target: Option<SqlSession>,
}

/// A running operation.
pub(super) struct Operation {
    pub(super) ctx: CutoverContext,
    pub(super) log: OperationLog,
    claim: Arc<watch::Sender<Claim>>,
    pub(super) terms: FenceTerms,
    pub(super) traffic: Traffic,
    pub(super) traffic_context: TrafficContext,
    /// What the adapters said of the last step they were told.
    pub(super) notes: Notes,
    /// Whether an adapter was told anything that would have to be undone.
    pub(super) traffic_touched: bool,
    /// Whether that was given up.
    pub(super) not_undone: Option<NotUndone>,
    /// On the source: looks, cancels, terminates.
    pub(super) control: Option<SqlSession>,
    /// On the target: sequences, gate.
    pub(super) target: Option<SqlSession>,
    /// Once armed.
    pub(super) armed: Option<Armed>,
    /// What the certificate says, as far as it is known.
    pub(super) evidence: serde_json::Value,
    /// Where the marker of the committed fence is.
    pub(super) marker_lsn: Option<Lsn>,
    /// What the two servers say of themselves.
    pub(super) servers: Servers,
    /// Who was connected to the source when it was armed: names and how many sessions.
    pub(super) clients: Vec<(String, i64)>,
    /// Whether something of a way back was made that would have to be taken back.
    pub(super) armed_way_back: bool,
    /// From where the way back streams, once that is known: statements for the fence's transaction.
    pub(super) turn: String,
    /// Under way from the commit on, if clients are locked out.
    pub(super) turning_out: Option<TurningOut>,
}

/// What arming makes.
pub(super) struct Armed {
    pub(super) fence: Fence,
    /// On the source: writes the marker, with `synchronous_commit = on`.
    pub(super) marker: SqlSession,
    /// Unless there is to be none, and not in a rehearsal.
    pub(super) way_back: Option<WayBack>,
}

/// How far the operation's run came.
enum Turn {
    Event(Event),
    /// A shutdown after the point of no return: the next start goes on.
    LeftToTheNextStart,
}

/// What may end the operation before the point of no return.
struct Stops {
    claim: watch::Receiver<Claim>,
    shutdown: Shutdown,
    deadline: Option<Instant>,
}

enum Stop {
    Aborted,
    ShuttingDown,
    PauseOver,
}

impl Stops {
    async fn next(&mut self) -> Stop {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Ok(_) = self.claim.wait_for(|claim| *claim == Claim::Aborted) => Stop::Aborted,
            () = self.shutdown.requested() => Stop::ShuttingDown,
            () = deadline => Stop::PauseOver,
        }
    }
}

impl Operation {
    pub(super) fn new(
        ctx: CutoverContext,
        log: OperationLog,
        claim: Arc<watch::Sender<Claim>>,
        purpose: Purpose,
        traffic_context: TrafficContext,
    ) -> Self {
        let moved_to = ctx.config.cutover.moved_to.clone();
        let terms = FenceTerms {
            epoch: log.report().epoch,
            nonce: purpose.nonce,
            publication: ctx.config.source.publication.clone(),
            moved_to: moved_to.unwrap_or_else(|| traffic_context.target.to_string()),
            max_pause: purpose.max_pause,
            on_writers: ctx.config.cutover.on_writers,
            lock_out: ctx.config.cutover.lock_out,
        };
        Self {
            ctx,
            log,
            claim,
            terms,
            traffic: purpose.traffic,
            traffic_context,
            notes: Notes::new(),
            traffic_touched: purpose.is_resumed,
            not_undone: None,
            control: purpose.control,
            target: purpose.target,
            armed: None,
            evidence: purpose.evidence,
            marker_lsn: purpose.marker_lsn,
            servers: Servers::default(),
            clients: Vec::new(),
            armed_way_back: purpose.is_resumed,
            turn: String::new(),
            turning_out: None,
        }
    }

    pub(super) fn mode(&self) -> CutoverMode {
        self.log.report().mode
    }

    /// Runs to the end, or until a shutdown past the point of no return.
    pub(super) async fn run(mut self, begun: (Cutover, Vec<Action>)) {
        let (mut cutover, mut actions) = begun;
        let mut stops =
            Stops { claim: self.claim.subscribe(), shutdown: self.ctx.shutdown.clone(), deadline: None };
        loop {
            self.log.enter(cutover.state());
            if cutover.state().is_final() {
                break;
            }
            if matches!(cutover.state(), State::Pausing | State::Fencing) && stops.deadline.is_none() {
                self.log.begin_pause();
                stops.deadline = Some(Instant::now() + self.terms.max_pause);
            }
            let event = match self.turn(cutover.state(), &actions, &mut stops).await {
                Turn::Event(event) => self.unless_aborted(event),
                Turn::LeftToTheNextStart => return,
            };
            if matches!(event, Event::FenceReleased | Event::RolledBack | Event::TrafficResumed) {
                self.log.end_pause();
            }
            match cutover.next(event) {
                Ok((next, todo)) => (cutover, actions) = (next, todo),
                Err(illegal) => return self.confused(&illegal).await,
            }
        }
        self.finish(cutover.state()).await;
    }

    /// All proofs are there: from here on it is too late to abort, unless the operator was first.
    fn unless_aborted(&self, event: Event) -> Event {
        if !matches!(event, Event::TargetDurable(_)) || self.mode() == CutoverMode::Rehearsal {
            return event;
        }
        let ours = self.claim.send_if_modified(|claim| {
            let free = *claim == Claim::Free;
            if free {
                *claim = Claim::Committing;
            }
            free
        });
        if ours { event } else { Event::Stop(Why::Requested) }
    }

    /// Performs one action, before the eyes of the probe if there is one.
    async fn probed(&mut self, action: Action, state: &State) -> Result<Event, CutoverError> {
        let Some(probe) = self.ctx.probe.clone() else { return self.perform(action, state).await };
        probe.before(action).await;
        loop {
            let outcome = self.perform(action, state).await;
            if let (Ok(_), Again::Yes) = (&outcome, probe.after(action).await) {
                continue;
            }
            return outcome;
        }
    }

    /// Performs a state's actions; the last one's event counts.
    async fn turn(&mut self, state: &State, actions: &[Action], stops: &mut Stops) -> Turn {
        let mut last = Event::RolledBack;
        for action in actions {
            self.log.begin(*action);
            let event = if state.can_be_stopped() {
                tokio::select! {
                    biased;
                    stop = stops.next() => Ok(Event::Stop(self.why(stop, *action))),
                    event = self.probed(*action, state) => event,
                }
            } else if matches!(state, State::Committing { .. } | State::RollingBack { .. }) {
                // Neither may be left half done. Both are bounded; what takes longest, the undo, gives way to a shutdown by itself.
                self.probed(*action, state).await
            } else {
                tokio::select! {
                    biased;
                    event = self.probed(*action, state) => event,
                    () = stops.shutdown.requested() => return Turn::LeftToTheNextStart,
                }
            };
            last = match event {
                Ok(event) => {
                    let outcome = match &event {
                        Event::Stop(_) | Event::CommitUnknown => StepOutcome::Failed,
                        _ if matches!(action, Action::UndoTraffic | Action::Disarm) => StepOutcome::Undone,
                        _ => StepOutcome::Done,
                    };
                    let detail = self.detail(*action, &event);
                    self.log.end(outcome, detail);
                    event
                }
                Err(error) => {
                    self.log.end(StepOutcome::Failed, Some(error.to_string()));
                    if let State::RollingBack { .. } = state {
                        // The other action of the rollback is still to be done, and the end is the same.
                        tracing::warn!(%error, "part of the rollback failed");
                        Event::RolledBack
                    } else {
                        Event::Stop(Why::from(error))
                    }
                }
            };
            if let Event::Stop(_) = last {
                break;
            }
        }
        // Whichever of its actions came last, a rollback has one end only; a rehearsal's has one action less.
        if matches!(state, State::RollingBack { .. }) {
            last = Event::RolledBack;
        }
        Turn::Event(last)
    }

    fn why(&self, stop: Stop, action: Action) -> Why {
        match stop {
            Stop::Aborted => Why::Requested,
            Stop::ShuttingDown => Why::ShuttingDown,
            Stop::PauseOver => {
                let doing = match action {
                    Action::PauseTraffic => "clients were being paused",
                    Action::TakeFence => "the fence was waiting for writers",
                    Action::AwaitMarker => "the target was catching up with the marker",
                    Action::AlignSequences => "sequences were being carried over",
                    Action::SecureTarget
                        if matches!(self.ctx.config.target.durability, Durability::Standbys(_)) =>
                    {
                        "the target's standbys were flushing what it has"
                    }
                    Action::SecureTarget => "the target was being made durable",
                    _ => "the operation was running",
                };
                let obstacle = match (&self.armed, action) {
                    (Some(armed), Action::TakeFence) => armed.fence.obstacle(),
                    _ => None,
                };
                let waits = stream_waits(&self.ctx.board).filter(|_| action == Action::AwaitMarker);
                let during = match (obstacle, waits) {
                    (Some(obstacle), _) => format!("{doing} ({obstacle})"),
                    (None, Some((waits, _))) => format!("{doing} ({waits})"),
                    (None, None) => doing.to_owned(),
                };
                Why::PauseExceeded { max_pause: self.terms.max_pause, during }
            }
        }
    }

    async fn finish(mut self, state: &State) {
        let (outcome, certificate) = match state {
            State::Aborted { why } => (self.aborted(why), None),
            _ => {
                let lockout = self.settle_lockout().await;
                (Outcome::Completed, Some(self.certificate(lockout)))
            }
        };
        self.log.finish(outcome, certificate);
        match state {
            State::Aborted { why } if self.not_undone.is_some() => {
                // For the journal it is unfinished, which is what makes the next start undo it.
                let unfinished = State::RollingBack { why: why.clone() };
                self.log.journal().state(self.terms.epoch, unfinished.as_str());
            }
            _ => {
                if let Err(problem) = self.log.journal().end(self.log.report().clone()).await {
                    tracing::warn!(%problem, "the end of the operation is not in the journal; the next start derives it again");
                }
            }
        }
        self.stand_down().await;
        self.log.publish_end();
    }

    /// What arming left in the writers' way, and on the side that is reached what an earlier one left. If it cannot be taken out now,
    /// the next start or cleanup does; they pass it meanwhile.
    async fn stand_down(&mut self) {
        self.armed = None;
        let config = &self.ctx.config;
        let sides = [(Side::Source, &config.source.connection), (Side::Target, &config.target.connection)];
        let each = sides.map(|(side, settings)| async move {
            let out_of_the_way = async {
                let session = connect_sql(settings, side, "cutover").await?;
                fence::pass(&*session).await.map_err(SqlFailure::of(side, "pass the fence"))?;
                fence::stand_down(&session).await?;
                Ok::<_, CutoverError>(())
            };
            match tokio::time::timeout(STAND_DOWN_BOUND, out_of_the_way).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%side, %error, "writers pass the turnstile until the next start"),
                Err(_) => {
                    tracing::warn!(%side, "writers pass the turnstile until the next start: no answer in time");
                }
            }
        });
        futures_util::future::join_all(each).await;
    }

    /// A defect of this program: stop where we are. The sessions are dropped, so that an uncommitted fence is
    /// rolled back; the next start finds out the rest from the source.
    async fn confused(mut self, illegal: &super::IllegalTransition) {
        tracing::error!(%illegal, "the cutover is confused and stops");
        self.armed = None;
        self.log.end_pause();
        self.log.finish(
            Outcome::InDoubt {
                reason: format!("pgsluice made a mistake: {illegal}. It did not go on."),
                remedy: "Restart pgsluice: it reads from the source whether the cutover happened, and finishes or \
                         undoes it. Please report this with the log around it."
                    .into(),
            },
            None,
        );
        // Not written to the journal: for it the operation is unfinished, which is what makes the next start look.
        self.log.publish_end();
    }
}

impl Operation {
    pub(super) fn armed(&mut self) -> Result<&mut Armed, CutoverError> {
        self.armed.as_mut().ok_or_else(not_armed)
    }

    pub(super) fn control(&self) -> Result<&SqlSession, CutoverError> {
        self.control.as_ref().ok_or_else(not_armed)
    }
}

fn not_armed() -> CutoverError {
    CutoverError::refuted(
        "pgsluice made a mistake: a step came before its connections were made",
        "Nothing was changed. Please report this with the log around it.",
    )
}
