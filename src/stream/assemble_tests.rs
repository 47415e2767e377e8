//! What the assembler lets through, and what it refuses.

use super::*;

fn begin(xid: u32, commit: u64) -> LogicalMessage {
    LogicalMessage::Begin {
        final_lsn: Lsn::new(commit),
        commit_time: PgTimestamp::from_unix_micros(0),
        xid: Xid(xid),
    }
}

fn commit(at: u64) -> LogicalMessage {
    LogicalMessage::Commit {
        flags: 0,
        commit_lsn: Lsn::new(at),
        end_lsn: Lsn::new(at + 48),
        commit_time: PgTimestamp::from_unix_micros(0),
    }
}

fn insert() -> LogicalMessage {
    LogicalMessage::Insert { relation: Oid(1), new: Tuple::default() }
}

#[test]
fn a_keepalive_inside_a_transaction_is_not_a_position() {
    let mut assembler = Assembler::default();
    assert!(assembler.keepalive(Lsn::new(5)).is_some());
    assembler.message(begin(7, 100)).expect("a begin");
    assert_eq!(assembler.keepalive(Lsn::new(500)), None, "trap 6: changes before 500 are unapplied");
    assembler.message(commit(100)).expect("its commit");
    assert_eq!(assembler.keepalive(Lsn::new(500)), Some(StreamEvent::Position(Lsn::new(500))));
}

#[test]
fn transactions_are_ordered_by_commit_and_never_by_begin() {
    // Trap 1: a transaction that began earlier may commit later; only a step back in *commit* order is wrong.
    let mut assembler = Assembler::default();
    for (xid, at) in [(11, 130), (10, 140)] {
        assembler.message(begin(xid, at)).expect("in commit order");
        assembler.message(insert()).expect("a change");
        assembler.message(commit(at)).expect("its commit");
    }
    assert_eq!(
        assembler.message(begin(12, 135)),
        Err(AssembleError::OutOfOrder { before: Lsn::new(140), found: Lsn::new(135) })
    );
}

#[test]
fn changes_and_commits_out_of_place_are_refused() {
    let mut assembler = Assembler::default();
    assert!(assembler.message(insert()).is_err());
    assert!(assembler.message(commit(10)).is_err());
    assembler.message(begin(1, 50)).expect("a begin");
    assert!(assembler.message(begin(2, 60)).is_err());
    assert_eq!(
        assembler.message(commit(51)),
        Err(AssembleError::WrongCommit { expected: Lsn::new(50), found: Lsn::new(51) })
    );
}

#[test]
fn only_our_transactional_messages_are_markers() {
    let message = |transactional, prefix: &str| LogicalMessage::Message {
        transactional,
        lsn: Lsn::new(9),
        prefix: prefix.into(),
        content: Bytes::from_static(b"nonce").into(),
    };
    let mut assembler = Assembler::default();
    assert_eq!(assembler.message(message(false, MARKER_PREFIX)), Ok(Assembled::Nothing));
    assembler.message(begin(1, 50)).expect("a begin");
    assert_eq!(assembler.message(message(true, "somebody.else")), Ok(Assembled::Nothing));
    assert_eq!(
        assembler.message(message(true, MARKER_PREFIX)),
        Ok(Assembled::Event(StreamEvent::Marker { nonce: "nonce".into() }))
    );
}

fn stream_start(xid: u32, first_segment: bool) -> LogicalMessage {
    LogicalMessage::StreamStart { xid: Xid(xid), first_segment }
}

fn streamed(xid: u32) -> LogicalMessage {
    LogicalMessage::Streamed { xid: Xid(xid), message: Box::new(insert()) }
}

fn stream_commit(xid: u32, at: u64) -> LogicalMessage {
    LogicalMessage::StreamCommit {
        xid: Xid(xid),
        flags: 0,
        commit_lsn: Lsn::new(at),
        end_lsn: Lsn::new(at + 48),
        commit_time: PgTimestamp::from_unix_micros(0),
    }
}

#[test]
fn parts_of_unended_transactions_are_refused_unless_asked_for_and_where_they_do_not_belong() {
    assert!(Assembler::default().message(stream_start(1, true)).is_err());
    for wrong in [
        vec![streamed(1)],
        vec![LogicalMessage::StreamStop],
        vec![stream_commit(1, 10)],
        vec![stream_start(1, false)],
        vec![stream_start(1, true), stream_start(2, true)],
        vec![stream_start(1, true), insert()],
        vec![stream_start(1, true), begin(2, 10)],
        vec![stream_start(1, true), stream_commit(1, 10)],
        vec![stream_start(1, true), LogicalMessage::StreamStop, streamed(1)],
        vec![stream_start(1, true), LogicalMessage::StreamStop, stream_start(1, true)],
        vec![begin(1, 10), stream_start(2, true)],
        vec![begin(1, 10), streamed(1)],
    ] {
        let mut assembler = Assembler::new(InProgress::Accepted);
        let (last, before) = wrong.split_last().expect("one");
        for message in before {
            assembler.message(message.clone()).expect("in its place");
        }
        assert!(assembler.message(last.clone()).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_transaction_put_aside_is_ordered_by_its_commit_like_any_other() {
    let mut assembler = Assembler::new(InProgress::Accepted);
    for message in
        [stream_start(1, true), streamed(1), LogicalMessage::StreamStop, begin(2, 200), commit(200)]
    {
        assembler.message(message).expect("in order");
    }
    let step = assembler.message(stream_commit(1, 150)).expect("a commit");
    let Assembled::Aside(AsideStep::Replay { begin, .. }) = step else { panic!("{step:?}") };
    let refused = assembler.message(begin);
    assert_eq!(refused, Err(AssembleError::OutOfOrder { before: Lsn::new(200), found: Lsn::new(150) }));
}

#[test]
fn a_keepalive_is_a_position_while_transactions_are_aside_but_not_inside_a_part_of_one() {
    let mut assembler = Assembler::new(InProgress::Accepted);
    assembler.message(stream_start(1, true)).expect("a part");
    assert_eq!(assembler.keepalive(Lsn::new(5)), None);
    assembler.message(LogicalMessage::StreamStop).expect("its end");
    assert_eq!(assembler.keepalive(Lsn::new(5)), Some(StreamEvent::Position(Lsn::new(5))));
}
