use super::stages::{Halt, TooEarly};
use super::stream::STREAMED_MAX;
use super::*;

fn snapshot(text: &str) -> Snapshot {
    text.parse().unwrap()
}

fn lsn(position: u64) -> Lsn {
    Lsn::new(position)
}

/// What the stream does with its next transaction, and with what it has to settle before.
fn next(meeting: &Meeting, xid: u32, commit_lsn: u64) -> Pace {
    let pace = meeting.pace(Xid(xid), lsn(commit_lsn));
    match pace {
        Pace::WaitsSettled => meeting.reached(),
        Pace::Goes | Pace::GoesNoted => meeting.begins(Xid(xid)),
        Pace::Waits => {}
    }
    pace
}

#[tokio::test]
async fn the_stream_goes_as_far_as_the_snapshot_and_tells_what_comes_out_of_order() {
    let meeting = Meeting::default();
    meeting.begin_to_remember();
    assert_eq!(next(&meeting, 10, 100), Pace::Goes);
    let asked = tokio::spawn({
        let meeting = meeting.clone();
        async move { meeting.turn().await.halt().await }
    });
    while next(&meeting, 11, 110) != Pace::Waits {
        tokio::task::yield_now().await;
    }
    let halt = asked.await.unwrap().unwrap();
    // 11 and 13 are visible, 12 is not, though it commits before 13.
    let approach = halt.go_on_to(snapshot("12:14:12"), lsn(140)).unwrap();
    assert_eq!(next(&meeting, 11, 110), Pace::Goes);
    assert_eq!(next(&meeting, 12, 120), Pace::WaitsSettled);
    let same = approach.reached().await.unwrap();
    assert_eq!(next(&meeting, 12, 120), Pace::Waits);
    let passing = same.part();
    assert_eq!(next(&meeting, 12, 120), Pace::Goes);
    assert_eq!(next(&meeting, 13, 130), Pace::GoesNoted);
    meeting.touched(Oid(2));
    assert_eq!(next(&meeting, 14, 150), Pace::Goes);
    let touched = passing.passed().await.unwrap();
    assert_eq!(touched, HashSet::from([Oid(2)]));
}

#[tokio::test]
async fn a_stream_without_changes_is_met_as_well() {
    let meeting = Meeting::default();
    meeting.begin_to_remember();
    let asked = tokio::spawn({
        let meeting = meeting.clone();
        async move { meeting.turn().await.halt().await }
    });
    while !asked.is_finished() {
        assert!(!meeting.has_to_settle_at(lsn(90)));
        tokio::task::yield_now().await;
    }
    let approach = asked.await.unwrap().unwrap().go_on_to(snapshot("5:5:"), lsn(100)).unwrap();
    assert!(!meeting.has_to_settle_at(lsn(99)));
    assert!(meeting.has_to_settle_at(lsn(100)));
    meeting.reached();
    let passing = approach.reached().await.unwrap().part();
    assert!(!meeting.has_to_settle_at(lsn(100)));
    assert_eq!(passing.passed().await, Ok(HashSet::new()));
    drop(meeting.turn().await);
    meeting.forget();
    assert!(!meeting.is_active());
}

#[tokio::test]
async fn a_snapshot_that_lacks_what_was_streamed_is_refused() {
    let meeting = Meeting::default();
    assert!(meeting.begin_to_remember() && !meeting.begin_to_remember());
    assert_eq!(next(&meeting, 10, 100), Pace::Goes);
    let halt = halted(&meeting).await;
    assert_eq!(halt.go_on_to(snapshot("10:11:10"), lsn(110)).err(), Some(TooEarly));
    assert_eq!(meeting.pace(Xid(11), lsn(120)), Pace::Goes, "the stream does not wait for it");
    assert!(halted(&meeting).await.go_on_to(snapshot("11:11:"), lsn(110)).is_ok());
    meeting.forget();
    assert!(!meeting.is_active());
}

#[tokio::test]
async fn another_stream_ends_the_meeting_and_dropping_it_lets_the_stream_go_on() {
    let meeting = Meeting::default();
    meeting.begin_to_remember();
    let approach = halted(&meeting).await.go_on_to(snapshot("5:5:"), lsn(100)).unwrap();
    meeting.stream_begins();
    assert_eq!(meeting.pace(Xid(7), lsn(200)), Pace::Goes);
    assert_eq!(approach.reached().await.err(), Some(Interrupted));
    let halt = halted(&meeting).await;
    assert_eq!(meeting.pace(Xid(7), lsn(200)), Pace::Waits);
    drop(halt);
    assert_eq!(meeting.pace(Xid(7), lsn(200)), Pace::Goes);
}

#[tokio::test]
async fn what_commits_after_the_snapshot_is_not_in_it_whatever_its_id() {
    let meeting = Meeting::default();
    meeting.begin_to_remember();
    let approach = halted(&meeting).await.go_on_to(snapshot("12:14:12"), lsn(140)).unwrap();
    // Ids are used again: this is not the 11 that the snapshot contains.
    assert_eq!(next(&meeting, 11, 140), Pace::WaitsSettled);
    let passing = approach.reached().await.unwrap().part();
    assert_eq!(next(&meeting, 11, 140), Pace::Goes);
    assert_eq!(passing.passed().await, Ok(HashSet::new()));
}

#[tokio::test]
async fn a_snapshot_is_refused_if_more_was_streamed_than_can_be_remembered() {
    let meeting = Meeting::default();
    meeting.begin_to_remember();
    let streamed_max = u32::try_from(STREAMED_MAX).unwrap();
    for xid in 0..=streamed_max {
        meeting.begins(Xid(xid));
    }
    let later = snapshot(&format!("{0}:{0}:", streamed_max + 1));
    assert_eq!(halted(&meeting).await.go_on_to(later.clone(), lsn(110)).err(), Some(TooEarly));
    assert!(meeting.begin_to_remember(), "it begins anew");
    assert!(halted(&meeting).await.go_on_to(later, lsn(110)).is_ok());
}

#[tokio::test]
async fn a_repair_is_expected_once_and_only_while_somebody_waits_for_it() {
    let meeting = Meeting::default();
    assert!(!meeting.expects_repair("a"));
    let expected = meeting.expect_repair("a".into());
    assert!(meeting.expects_repair("a") && !meeting.expects_repair("b"));
    meeting.repaired("a", Ok(3));
    assert!(!meeting.expects_repair("a"), "the stream may come to it again");
    assert_eq!(expected.done().await, Ok(3));
    let given_up = meeting.expect_repair("c".into());
    drop(given_up);
    assert!(!meeting.expects_repair("c"));
    meeting.repaired("c", Ok(1));
    assert!(!meeting.expects_repair("c"));
}

async fn halted(meeting: &Meeting) -> Halt {
    let asked = tokio::spawn({
        let meeting = meeting.clone();
        async move { meeting.turn().await.halt().await }
    });
    while !asked.is_finished() {
        let _ = meeting.has_to_settle_at(lsn(1));
        tokio::task::yield_now().await;
    }
    asked.await.unwrap().unwrap()
}
