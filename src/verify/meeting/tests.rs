use super::stages::{Halt, TooEarly};
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
