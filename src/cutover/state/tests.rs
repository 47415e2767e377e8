//! The state machine by table and by random walk, against a small model of the two databases.

use proptest::prelude::*;

use super::super::proof::samples;
use super::*;

/// What the actions do to the world, as far as INV-8 and INV-9 are concerned.
#[derive(Debug, Default)]
struct World {
    fence_open: bool,
    fence_committed: bool,
    target_open: bool,
    clients_paused: bool,
}

impl World {
    fn perform(&mut self, action: Action, commits: bool) {
        match action {
            Action::PauseTraffic => self.clients_paused = true,
            Action::TakeFence => self.fence_open = true,
            Action::CommitFence => {
                assert!(self.fence_open, "nothing to commit");
                self.fence_committed = commits;
                self.fence_open = false;
            }
            Action::ReleaseFence => self.fence_open = false,
            Action::OpenTarget => self.target_open = true,
            Action::ResumeTraffic | Action::UndoTraffic => self.clients_paused = false,
            Action::Arm
            | Action::Disarm
            | Action::AwaitMarker
            | Action::AlignSequences
            | Action::SecureTarget
            | Action::ReadTruth
            | Action::RetargetTraffic => {}
        }
    }

    fn source_writable(&self) -> bool {
        !self.fence_committed
    }
}

fn failed() -> Why {
    Why::Failed { reason: "it failed".into(), remedy: "mend it".into() }
}

fn walk(mode: CutoverMode, events: Vec<Event>) -> (Cutover, Vec<Action>) {
    let (mut cutover, mut all) = Cutover::begin(mode);
    for event in events {
        let (next, actions) = cutover.next(event).expect("a legal walk");
        cutover = next;
        all.extend(actions);
    }
    (cutover, all)
}

fn up_to_all_proofs(mode: CutoverMode) -> Vec<Event> {
    let proofs = samples::proofs("n");
    let mut events = vec![Event::Armed];
    if mode == CutoverMode::Cutover {
        events.push(Event::TrafficPaused);
    }
    events.extend([
        Event::SourceFenced(proofs.fenced),
        Event::CaughtUp(proofs.caught_up),
        Event::SequencesAligned(proofs.aligned),
        Event::TargetDurable(proofs.durable),
    ]);
    events
}

#[test]
fn a_cutover_opens_the_target_only_after_the_commit() {
    let mut events = up_to_all_proofs(CutoverMode::Cutover);
    events.extend([
        Event::FenceCommitted,
        Event::TargetOpened,
        Event::TrafficRetargeted,
        Event::TrafficResumed,
    ]);
    let (cutover, actions) = walk(CutoverMode::Cutover, events);
    assert_eq!(*cutover.state(), State::Completed);
    let position = |action| actions.iter().position(|done| *done == action).expect("was done");
    assert!(position(Action::CommitFence) < position(Action::OpenTarget));
    assert!(position(Action::OpenTarget) < position(Action::RetargetTraffic));
    assert!(!actions.contains(&Action::ReleaseFence));
}

#[test]
fn a_rehearsal_neither_commits_nor_touches_traffic_nor_opens() {
    let mut events = up_to_all_proofs(CutoverMode::Rehearsal);
    events.push(Event::FenceReleased);
    let (cutover, actions) = walk(CutoverMode::Rehearsal, events);
    assert_eq!(*cutover.state(), State::Completed);
    assert_eq!(
        actions,
        [
            Action::Arm,
            Action::TakeFence,
            Action::AwaitMarker,
            Action::AlignSequences,
            Action::SecureTarget,
            Action::ReleaseFence
        ]
    );
}

#[test]
fn an_unanswered_commit_holds_until_the_truth_is_read() {
    let mut events = up_to_all_proofs(CutoverMode::Cutover);
    events.push(Event::CommitUnknown);
    let (held, actions) = walk(CutoverMode::Cutover, events);
    assert_eq!(*held.state(), State::InDoubt);
    assert_eq!(actions.last(), Some(&Action::ReadTruth));
    let stopped = held.clone().next(Event::Stop(Why::Requested));
    assert!(stopped.is_err(), "nobody can abort what may be committed");
    let (forward, _) = held.clone().next(Event::FenceCommitted).expect("roll forward");
    assert_eq!(*forward.state(), State::Opening);
    let (back, actions) = held.next(Event::FenceNotCommitted(failed())).expect("roll back");
    assert_eq!(*back.state(), State::RollingBack { why: failed() });
    assert_eq!(actions, [Action::ReleaseFence, Action::UndoTraffic, Action::Disarm]);
}

#[test]
fn a_stop_before_the_commit_always_ends_with_release_and_undo() {
    let events = up_to_all_proofs(CutoverMode::Cutover);
    for length in 0..events.len() {
        let (cutover, _) = walk(CutoverMode::Cutover, events[..length].to_vec());
        let (cutover, actions) = cutover.next(Event::Stop(Why::Requested)).expect("can be stopped");
        assert_eq!(actions, [Action::ReleaseFence, Action::UndoTraffic, Action::Disarm]);
        let (cutover, actions) = cutover.next(Event::RolledBack).expect("ends");
        assert_eq!(*cutover.state(), State::Aborted { why: Why::Requested });
        assert!(actions.is_empty());
    }
}

#[test]
fn proofs_of_another_attempt_do_not_reach_the_commit() {
    let ours = samples::proofs("ours");
    let other = samples::proofs("other");
    let (cutover, _) = walk(
        CutoverMode::Cutover,
        vec![
            Event::Armed,
            Event::TrafficPaused,
            Event::SourceFenced(ours.fenced),
            Event::CaughtUp(ours.caught_up),
            Event::SequencesAligned(other.aligned),
        ],
    );
    assert!(cutover.next(Event::TargetDurable(ours.durable)).is_err());
}

#[test]
fn what_was_interrupted_is_released_and_what_was_committed_goes_on() {
    let (cutover, actions) = Cutover::interrupted(CutoverMode::Cutover, "draining".into());
    assert_eq!(cutover.state().as_str(), "rolling_back");
    assert_eq!(actions, [Action::ReleaseFence, Action::UndoTraffic, Action::Disarm]);
    let (cutover, actions) = Cutover::committed_earlier();
    assert_eq!((cutover.state().as_str(), actions), ("opening", vec![Action::OpenTarget]));
}

fn any_event() -> impl Strategy<Value = Event> {
    let proofs = || samples::proofs("n");
    prop_oneof![
        Just(Event::Armed),
        Just(Event::TrafficPaused),
        Just(Event::SourceFenced(proofs().fenced)),
        Just(Event::CaughtUp(proofs().caught_up)),
        Just(Event::SequencesAligned(proofs().aligned)),
        Just(Event::TargetDurable(proofs().durable)),
        Just(Event::FenceCommitted),
        Just(Event::FenceNotCommitted(failed())),
        Just(Event::CommitUnknown),
        Just(Event::FenceReleased),
        Just(Event::TargetOpened),
        Just(Event::TrafficRetargeted),
        Just(Event::TrafficResumed),
        Just(Event::RolledBack),
        Just(Event::Stop(Why::Requested)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// INV-8 and INV-9 over random events, illegal ones included (they change nothing).
    #[test]
    fn no_sequence_of_events_opens_both_sides_or_leaves_a_fence_behind(
        rehearsal in any::<bool>(),
        commits in any::<bool>(),
        events in prop::collection::vec(any_event(), 0..120),
    ) {
        let mode = if rehearsal { CutoverMode::Rehearsal } else { CutoverMode::Cutover };
        let (mut cutover, actions) = Cutover::begin(mode);
        let mut world = World::default();
        actions.into_iter().for_each(|action| world.perform(action, commits));
        for event in events {
            // What the source answers is what it did.
            match event {
                Event::FenceCommitted if !commits => continue,
                Event::FenceNotCommitted(_) if commits => continue,
                _ => {}
            }
            let Ok((next, actions)) = cutover.clone().next(event) else { continue };
            if let State::Committing { .. } = next.state() {
                prop_assert_eq!(mode, CutoverMode::Cutover);
            }
            cutover = next;
            actions.into_iter().for_each(|action| world.perform(action, commits));
            prop_assert!(!(world.target_open && world.source_writable()), "INV-8 in {:?}", cutover);
            if let State::Aborted { .. } = cutover.state() {
                prop_assert!(!world.fence_open && !world.fence_committed && !world.target_open);
                prop_assert!(!world.clients_paused, "INV-9");
            }
            if *cutover.state() == State::Completed {
                prop_assert!(!world.fence_open && !world.clients_paused);
                prop_assert_eq!(world.fence_committed, mode == CutoverMode::Cutover);
            }
            prop_assert!(State::NAMES.contains(&cutover.state().as_str()));
        }
    }
}
