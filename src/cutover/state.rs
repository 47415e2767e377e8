//! The cutover's state machine. Pure: [`Cutover::next`] takes what happened and answers where the operation
//! stands now and what is to be done; it performs nothing, reads no clock and knows no server. Every pair of
//! state and event that is not listed is an error, so a driver that is confused stops instead of guessing.

use std::time::Duration;

use super::proof::{CaughtUp, Proofs, SequencesAligned, SourceFenced, TargetDurable};
use crate::migration::CutoverMode;

/// One operation, cutover or rehearsal, as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cutover {
    mode: CutoverMode,
    state: State,
}

/// Where an operation stands. All of them are written to the journal by name ([`State::as_str`]) before their
/// actions begin; the proofs inside are not written, because proofs are never loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Set when the operation is accepted. Everything that writers do not notice is prepared: connections, deny
    /// triggers (which let everybody pass), the target's gate (closed), the adapters. Found after a restart: aborted.
    Arming,
    /// Set once armed (cutover only). The adapters pause clients; the pause clock runs from here.
    /// Found after a restart: the adapters undo, aborted.
    Pausing,
    /// Set once clients are paused. The fence transaction is being opened and proven.
    /// Found after a restart: the server has rolled it back with our connection; aborted.
    Fencing,
    /// Set once the fence is proven. The marker goes through the stream. After a restart as in `Fencing`.
    Draining {
        /// Proof that nobody writes.
        fenced: SourceFenced,
    },
    /// Set once the marker was applied. Sequences are carried over. After a restart as in `Fencing`.
    Aligning {
        /// Proof that nobody writes.
        fenced: SourceFenced,
        /// Proof that the target has everything.
        caught_up: CaughtUp,
    },
    /// Set once sequences agree. Waits until the target has all of it on disk (and on its standbys, if asked
    /// for). After a restart as in `Fencing`.
    Securing {
        /// Proof that nobody writes.
        fenced: SourceFenced,
        /// Proof that the target has everything.
        caught_up: CaughtUp,
        /// Proof that sequences agree.
        aligned: SequencesAligned,
    },
    /// Set once all proofs are there (cutover only), and durable in the journal before COMMIT is sent: the point
    /// of no return. Found after a restart: the fence row on the source says which way.
    Committing {
        /// What allows it.
        proofs: Proofs,
    },
    /// Set once all proofs are there (rehearsal only). The fence is rolled back, the forecast is complete.
    /// Found after a restart: aborted, the source is as before anyway.
    Releasing {
        /// What would have allowed the commit.
        proofs: Proofs,
    },
    /// Set when the source did not answer COMMIT. Neither side is open; the fence row is asked for until it can
    /// be read (INV-8). After a restart as in `Committing`.
    InDoubt,
    /// Set once the fence is committed. The target's gate is opened. Found after a restart: goes on from here.
    Opening,
    /// Set once the target is open. The adapters move clients. Found after a restart: goes on from `Opening`.
    Retargeting,
    /// Set once clients are moved. The adapters let them go on. Found after a restart: goes on from `Opening`.
    Resuming,
    /// Set when something before the point of no return asks for an end. The fence is released, the adapters
    /// undo. Found after a restart: done again, then aborted.
    RollingBack {
        /// Why.
        why: Why,
    },
    /// Final: the target is the primary (a rehearsal: the forecast is measured, the source is as before).
    Completed,
    /// Final: the source is as before (INV-9).
    Aborted {
        /// Why.
        why: Why,
    },
}

/// Why an operation ends without a cutover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The operator asked for it.
    Requested,
    /// The pause allowed is over.
    PauseExceeded {
        /// The pause allowed.
        max_pause: Duration,
        /// What was being done, and who was in the way.
        during: String,
    },
    /// This process is being stopped.
    ShuttingDown,
    /// The process that ran it is gone.
    Interrupted {
        /// State in the journal.
        state: String,
    },
    /// Something failed.
    Failed {
        /// What, as a sentence.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything is prepared.
    Armed,
    /// Clients are paused.
    TrafficPaused,
    /// The fence is held and proven.
    SourceFenced(SourceFenced),
    /// The marker was applied.
    CaughtUp(CaughtUp),
    /// Sequences agree.
    SequencesAligned(SequencesAligned),
    /// The target has it for good.
    TargetDurable(TargetDurable),
    /// The source answered COMMIT, or its fence row was read.
    FenceCommitted,
    /// The source refused COMMIT, or its fence row is known not to be there and not to come.
    FenceNotCommitted(Why),
    /// The source did not answer COMMIT.
    CommitUnknown,
    /// The rehearsal's fence is rolled back.
    FenceReleased,
    /// The target's gate is open.
    TargetOpened,
    /// Clients are moved.
    TrafficRetargeted,
    /// Clients go on.
    TrafficResumed,
    /// Fence and traffic are as before.
    RolledBack,
    /// An end is asked for, by the operator, the clock, a failure or a shutdown.
    Stop(Why),
}

/// What is to be done next. Each can be repeated without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Prepare everything writers do not notice.
    Arm,
    /// Have the adapters pause clients.
    PauseTraffic,
    /// Open the fence transaction and prove it.
    TakeFence,
    /// Write the marker and wait until it was applied.
    AwaitMarker,
    /// Carry the sequences over and read them back.
    AlignSequences,
    /// Wait until the target is durable and the journal says `committing`.
    SecureTarget,
    /// COMMIT the fence.
    CommitFence,
    /// ROLLBACK the fence.
    ReleaseFence,
    /// Ask the source whether the fence is committed, until it says.
    ReadTruth,
    /// Open the target's gate.
    OpenTarget,
    /// Have the adapters move clients.
    RetargetTraffic,
    /// Have the adapters let clients go on.
    ResumeTraffic,
    /// Have the adapters put back what they did.
    UndoTraffic,
    /// Take back what arming made that costs something while it is not needed.
    Disarm,
}

/// An event that makes no sense in a state: a defect of the driver, never of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cutover is {state} and cannot take the event {event}")]
pub struct IllegalTransition {
    /// [`State::as_str`].
    pub state: &'static str,
    /// [`Event::as_str`].
    pub event: &'static str,
}

impl Cutover {
    /// A new operation and its first actions.
    #[must_use]
    pub fn begin(mode: CutoverMode) -> (Self, Vec<Action>) {
        (Self { mode, state: State::Arming }, vec![Action::Arm])
    }

    /// An operation whose fence is known to be committed although the process that committed it is gone.
    #[must_use]
    pub fn committed_earlier() -> (Self, Vec<Action>) {
        (Self { mode: CutoverMode::Cutover, state: State::Opening }, vec![Action::OpenTarget])
    }

    /// An operation that did not commit its fence before the process that ran it was gone.
    #[must_use]
    pub fn interrupted(mode: CutoverMode, journaled_state: String) -> (Self, Vec<Action>) {
        Self { mode, state: State::Arming }.roll_back(Why::Interrupted { state: journaled_state })
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Where the operation stands after `event`, and what is to be done.
    ///
    /// # Errors
    /// [`IllegalTransition`] for every pair that is not listed; the operation is consumed, because whoever sent
    /// the event does not know where it is.
    pub fn next(self, event: Event) -> Result<(Self, Vec<Action>), IllegalTransition> {
        let illegal = IllegalTransition { state: self.state.as_str(), event: event.as_str() };
        let mode = self.mode;
        let (state, actions) = match (self.state, event) {
            (State::Arming, Event::Armed) => match mode {
                CutoverMode::Cutover => (State::Pausing, vec![Action::PauseTraffic]),
                CutoverMode::Rehearsal => (State::Fencing, vec![Action::TakeFence]),
            },
            (State::Pausing, Event::TrafficPaused) => (State::Fencing, vec![Action::TakeFence]),
            (State::Fencing, Event::SourceFenced(fenced)) => {
                (State::Draining { fenced }, vec![Action::AwaitMarker])
            }
            (State::Draining { fenced }, Event::CaughtUp(caught_up)) => {
                (State::Aligning { fenced, caught_up }, vec![Action::AlignSequences])
            }
            (State::Aligning { fenced, caught_up }, Event::SequencesAligned(aligned)) => {
                (State::Securing { fenced, caught_up, aligned }, vec![Action::SecureTarget])
            }
            (State::Securing { fenced, caught_up, aligned }, Event::TargetDurable(durable)) => {
                let proofs = Proofs::of_one_attempt(fenced, caught_up, aligned, durable).ok_or(illegal)?;
                match mode {
                    CutoverMode::Cutover => (State::Committing { proofs }, vec![Action::CommitFence]),
                    CutoverMode::Rehearsal => (State::Releasing { proofs }, vec![Action::ReleaseFence]),
                }
            }
            (State::Committing { .. } | State::InDoubt, Event::FenceCommitted) => {
                (State::Opening, vec![Action::OpenTarget])
            }
            (State::Committing { .. } | State::InDoubt, Event::FenceNotCommitted(why)) => {
                return Ok(Self { mode, state: State::InDoubt }.roll_back(why));
            }
            (State::Committing { .. }, Event::CommitUnknown) => (State::InDoubt, vec![Action::ReadTruth]),
            (State::Opening, Event::TargetOpened) => (State::Retargeting, vec![Action::RetargetTraffic]),
            (State::Retargeting, Event::TrafficRetargeted) => (State::Resuming, vec![Action::ResumeTraffic]),
            (State::Resuming, Event::TrafficResumed) | (State::Releasing { .. }, Event::FenceReleased) => {
                (State::Completed, Vec::new())
            }
            (State::RollingBack { why }, Event::RolledBack) => (State::Aborted { why }, Vec::new()),
            (state, Event::Stop(why)) if state.can_be_stopped() => {
                return Ok(Self { mode, state }.roll_back(why));
            }
            _ => return Err(illegal),
        };
        Ok((Self { mode, state }, actions))
    }

    /// Every way to an end before the point of no return goes through here: release, undo, and last what nobody waits for
    /// (INV-9).
    fn roll_back(self, why: Why) -> (Self, Vec<Action>) {
        let actions = match self.mode {
            CutoverMode::Cutover => vec![Action::ReleaseFence, Action::UndoTraffic, Action::Disarm],
            CutoverMode::Rehearsal => vec![Action::ReleaseFence],
        };
        (Self { mode: self.mode, state: State::RollingBack { why } }, actions)
    }
}

impl State {
    /// The name in the journal, the API and the metric `pgsluice_cutover_state{state}`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Arming => "arming",
            Self::Pausing => "pausing",
            Self::Fencing => "fencing",
            Self::Draining { .. } => "draining",
            Self::Aligning { .. } => "aligning",
            Self::Securing { .. } => "securing",
            Self::Committing { .. } => "committing",
            Self::Releasing { .. } => "releasing",
            Self::InDoubt => "in_doubt",
            Self::Opening => "opening",
            Self::Retargeting => "retargeting",
            Self::Resuming => "resuming",
            Self::RollingBack { .. } => "rolling_back",
            Self::Completed => "completed",
            Self::Aborted { .. } => "aborted",
        }
    }

    /// Every name, in the order an operation goes through them.
    pub const NAMES: [&'static str; 15] = [
        "arming",
        "pausing",
        "fencing",
        "draining",
        "aligning",
        "securing",
        "committing",
        "releasing",
        "in_doubt",
        "opening",
        "retargeting",
        "resuming",
        "rolling_back",
        "completed",
        "aborted",
    ];

    /// The names of the states that are reached only by a committed fence and are not final.
    pub const AFTER_COMMIT: [&'static str; 3] = ["opening", "retargeting", "resuming"];

    /// Whether an abort is still possible: before the point of no return, and not already ending.
    #[must_use]
    pub const fn can_be_stopped(&self) -> bool {
        match self {
            Self::Arming
            | Self::Pausing
            | Self::Fencing
            | Self::Draining { .. }
            | Self::Aligning { .. }
            | Self::Securing { .. }
            | Self::Releasing { .. } => true,
            Self::Committing { .. }
            | Self::InDoubt
            | Self::Opening
            | Self::Retargeting
            | Self::Resuming
            | Self::RollingBack { .. }
            | Self::Completed
            | Self::Aborted { .. } => false,
        }
    }

    /// Whether nothing more happens.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Completed | Self::Aborted { .. })
    }
}

impl Event {
    /// A name for messages and logs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Armed => "armed",
            Self::TrafficPaused => "traffic_paused",
            Self::SourceFenced(_) => "source_fenced",
            Self::CaughtUp(_) => "caught_up",
            Self::SequencesAligned(_) => "sequences_aligned",
            Self::TargetDurable(_) => "target_durable",
            Self::FenceCommitted => "fence_committed",
            Self::FenceNotCommitted(_) => "fence_not_committed",
            Self::CommitUnknown => "commit_unknown",
            Self::FenceReleased => "fence_released",
            Self::TargetOpened => "target_opened",
            Self::TrafficRetargeted => "traffic_retargeted",
            Self::TrafficResumed => "traffic_resumed",
            Self::RolledBack => "rolled_back",
            Self::Stop(_) => "stop",
        }
    }
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 14] = [
        Self::Arm,
        Self::PauseTraffic,
        Self::TakeFence,
        Self::AwaitMarker,
        Self::AlignSequences,
        Self::SecureTarget,
        Self::CommitFence,
        Self::ReleaseFence,
        Self::ReadTruth,
        Self::OpenTarget,
        Self::RetargetTraffic,
        Self::ResumeTraffic,
        Self::UndoTraffic,
        Self::Disarm,
    ];

    /// The step's name in the report and the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arm => "arm",
            Self::PauseTraffic => "pause_traffic",
            Self::TakeFence => "fence_source",
            Self::AwaitMarker => "apply_marker",
            Self::AlignSequences => "align_sequences",
            Self::SecureTarget => "secure_target",
            Self::CommitFence => "commit_fence",
            Self::ReleaseFence => "release_fence",
            Self::ReadTruth => "read_truth",
            Self::OpenTarget => "open_target",
            Self::RetargetTraffic => "retarget_traffic",
            Self::ResumeTraffic => "resume_traffic",
            Self::UndoTraffic => "undo_traffic",
            Self::Disarm => "disarm",
        }
    }
}

impl Why {
    /// What happened, as a sentence.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Requested => "The operator aborted it.".into(),
            Self::PauseExceeded { max_pause, during } => format!(
                "The write pause reached its bound of {} ms while {during}; everything was rolled back.",
                max_pause.as_millis()
            ),
            Self::ShuttingDown => "pgsluice was stopped while it ran; everything was rolled back.".into(),
            Self::Interrupted { state } => format!(
                "The process that ran it ended while the operation was {state}, before the point of no return."
            ),
            Self::Failed { reason, .. } => reason.clone(),
        }
    }

    /// What to do before trying again.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Requested => "Start it again whenever you like; nothing has to be repaired.".into(),
            Self::PauseExceeded { .. } => {
                "The source accepts writes as before. Try again at a quieter moment, \
                 rehearse to see which step takes the time, or allow a longer pause with max_pause_ms."
                    .into()
            }
            Self::ShuttingDown | Self::Interrupted { .. } => {
                "The source accepts writes as before. Start the cutover again once pgsluice is streaming."
                    .into()
            }
            Self::Failed { remedy, .. } => remedy.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
