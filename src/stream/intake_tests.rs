//! Transactions sent while they run give the same events as the same transactions sent whole, whatever the order in
//! which their parts come and whichever of their subtransactions are rolled back.

use std::collections::{HashSet, VecDeque};
use std::path::Path;

use bytes::BytesMut;
use pgsluice_proto::pgoutput::{Tuple, TupleValue, encode};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::spool::SpoolError;
use super::*;
use crate::config::SpoolConfig;
use crate::model::{Oid, PgTimestamp, Xid};

const VERSION: ProtocolVersion = ProtocolVersion::V2;

/// What a transaction does.
#[derive(Clone, Debug)]
enum Work {
    Insert(u16),
    Truncate,
    Marker,
    Foreign,
    Subtransaction { work: Vec<Work>, outcome: Outcome },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Kept,
    RolledBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Whole,
    InParts,
}

#[derive(Clone, Debug)]
struct Transaction {
    work: Vec<Work>,
    sent: Sent,
    outcome: Outcome,
}

fn work() -> impl Strategy<Value = Vec<Work>> {
    let leaf = prop_oneof![
        6 => any::<u16>().prop_map(Work::Insert),
        1 => Just(Work::Truncate),
        1 => Just(Work::Marker),
        1 => Just(Work::Foreign),
    ];
    let one = leaf.prop_recursive(4, 48, 6, |inner| {
        (vec(inner, 0..6), outcome()).prop_map(|(work, outcome)| Work::Subtransaction { work, outcome })
    });
    vec(one, 0..10)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Outcome::Kept), Just(Outcome::RolledBack)]
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let sent = prop_oneof![1 => Just(Sent::Whole), 3 => Just(Sent::InParts)];
    let outcome = prop_oneof![4 => Just(Outcome::Kept), 1 => Just(Outcome::RolledBack)];
    (work(), sent, outcome).prop_map(|(work, sent, outcome)| Transaction { work, sent, outcome })
}

/// What the source decodes of a transaction, in the order of its WAL.
enum Decoded {
    Message(Xid, LogicalMessage),
    /// A subtransaction ended, and with it those inside it that had not been rolled back before.
    RolledBack(Vec<Xid>),
}

#[derive(Default)]
struct Xids(u32);

impl Xids {
    fn next(&mut self) -> Xid {
        self.0 += 1;
        Xid(self.0)
    }
}

fn row(value: &[u8]) -> Tuple {
    Tuple::new([TupleValue::Text(value)]).expect("a row")
}

/// Decodes, and returns the xids of what was kept.
fn decode(work: &[Work], xid: Xid, xids: &mut Xids, out: &mut Vec<Decoded>) -> Vec<Xid> {
    let mut kept = Vec::new();
    for one in work {
        let prefix = |prefix: &str| LogicalMessage::Message {
            transactional: true,
            lsn: Lsn::new(7),
            prefix: prefix.to_owned(),
            content: Bytes::from_static(b"word").into(),
        };
        let message = match one {
            Work::Insert(value) => {
                LogicalMessage::Insert { relation: Oid(1), new: row(value.to_string().as_bytes()) }
            }
            Work::Truncate => {
                LogicalMessage::Truncate { relations: vec![Oid(1)], options: Default::default() }
            }
            Work::Marker => prefix(super::super::handle::MARKER_PREFIX),
            Work::Foreign => prefix("somebody else's"),
            Work::Subtransaction { work, outcome } => {
                let sub = xids.next();
                let mut ended = decode(work, sub, xids, out);
                ended.push(sub);
                match outcome {
                    Outcome::Kept => kept.extend(ended),
                    Outcome::RolledBack => out.push(Decoded::RolledBack(ended)),
                }
                continue;
            }
        };
        out.push(Decoded::Message(xid, message));
    }
    kept
}

/// Messages that come one after the other without those of another transaction between them.
enum Unit {
    Messages(Vec<LogicalMessage>),
    /// The end, with what to expect of it: nothing if it was rolled back.
    Commit {
        xid: Xid,
        sent: Sent,
        expected: Vec<LogicalMessage>,
    },
}

fn units(
    transaction: &Transaction,
    xids: &mut Xids,
    cuts: &mut impl Iterator<Item = usize>,
) -> VecDeque<Unit> {
    let xid = xids.next();
    let mut decoded = Vec::new();
    decode(&transaction.work, xid, xids, &mut decoded);
    let mut rolled_back = HashSet::new();
    for one in &decoded {
        if let Decoded::RolledBack(ended) = one {
            rolled_back.extend(ended.iter().copied());
        }
    }
    let expected = decoded.iter().filter_map(|one| match one {
        Decoded::Message(by, message) if !rolled_back.contains(by) => Some(message.clone()),
        _ => None,
    });
    let commit = Unit::Commit { xid, sent: transaction.sent, expected: expected.collect() };
    match (transaction.sent, transaction.outcome) {
        (Sent::Whole, Outcome::Kept) => return VecDeque::from([commit]),
        (Sent::Whole, Outcome::RolledBack) => return VecDeque::new(),
        (Sent::InParts, _) => {}
    }
    let mut units = VecDeque::new();
    let mut block: Option<Vec<LogicalMessage>> = Some(vec![start(xid, true)]);
    for one in decoded {
        match one {
            Decoded::Message(by, message) => {
                let open = block.get_or_insert_with(|| vec![start(xid, false)]);
                open.push(LogicalMessage::Streamed { xid: by, message: Box::new(message) });
                if cuts.next().is_none_or(|cut| cut % 3 == 0) {
                    end_block(&mut block, &mut units);
                }
            }
            Decoded::RolledBack(ended) => {
                end_block(&mut block, &mut units);
                units.extend(ended.into_iter().map(|subxid| {
                    Unit::Messages(vec![LogicalMessage::StreamAbort { xid, subxid, info: None }])
                }));
            }
        }
    }
    end_block(&mut block, &mut units);
    units.push_back(match transaction.outcome {
        Outcome::Kept => commit,
        Outcome::RolledBack => {
            Unit::Messages(vec![LogicalMessage::StreamAbort { xid, subxid: xid, info: None }])
        }
    });
    units
}

fn start(xid: Xid, first_segment: bool) -> LogicalMessage {
    LogicalMessage::StreamStart { xid, first_segment }
}

fn end_block(block: &mut Option<Vec<LogicalMessage>>, units: &mut VecDeque<Unit>) {
    if let Some(mut messages) = block.take() {
        messages.push(LogicalMessage::StreamStop);
        units.push_back(Unit::Messages(messages));
    }
}

/// Two streams of the same transactions: as the source sends them, and as if each had been sent whole.
fn streams(transactions: &[Transaction], choices: &[usize]) -> [Vec<LogicalMessage>; 2] {
    let mut choices = choices.iter().copied().cycle();
    let mut xids = Xids::default();
    let mut waiting: Vec<_> =
        transactions.iter().map(|transaction| units(transaction, &mut xids, &mut choices)).collect();
    let [mut in_parts, mut whole] = [Vec::new(), Vec::new()];
    loop {
        waiting.retain(|units| !units.is_empty());
        if waiting.is_empty() {
            return [in_parts, whole];
        }
        let chosen = choices.next().unwrap_or_default() % waiting.len();
        match waiting[chosen].pop_front().expect("not empty") {
            Unit::Messages(messages) => in_parts.extend(messages),
            Unit::Commit { xid, sent, expected } => {
                let (at, flags) = (Lsn::new(1_000 + 100 * in_parts.len() as u64), 0);
                let (end_lsn, commit_time) =
                    (Lsn::new(at.as_u64() + 48), PgTimestamp::from_unix_micros(i64::from(xid.0)));
                let mut all = vec![LogicalMessage::Begin { final_lsn: at, commit_time, xid }];
                all.extend(expected);
                all.push(LogicalMessage::Commit { flags, commit_lsn: at, end_lsn, commit_time });
                match sent {
                    Sent::Whole => in_parts.extend(all.iter().cloned()),
                    Sent::InParts => in_parts.push(LogicalMessage::StreamCommit {
                        xid,
                        flags,
                        commit_lsn: at,
                        end_lsn,
                        commit_time,
                    }),
                }
                whole.extend(all);
            }
        }
    }
}

fn spool_in(directory: &Path, max_bytes: u64) -> Spool {
    Spool::create(&SpoolConfig { directory: directory.to_owned(), max_bytes }).expect("a spool")
}

async fn events(intake: &mut Intake, messages: &[LogicalMessage]) -> Result<Vec<StreamEvent>, StreamError> {
    let mut events = Vec::new();
    for message in messages {
        let mut payload = BytesMut::new();
        encode(message, VERSION, &mut payload).expect("encodable");
        let mut next = match intake.message(payload.freeze())? {
            Heard::Nothing => None,
            Heard::Event(event) => Some(event),
            Heard::Aside(aside) => intake.put_aside(aside).await?,
        };
        while let Some(event) = next {
            events.push(event);
            next = intake.more().await?;
        }
    }
    Ok(events)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Files of transactions below `parent`.
fn files_in(parent: &Path) -> usize {
    let spools = std::fs::read_dir(parent).expect("folder").flatten();
    let files = spools.flat_map(|spool| std::fs::read_dir(spool.path()).expect("spool").flatten());
    files.filter(|file| file.file_name() != "lock").count()
}

proptest! {
    #[test]
    fn transactions_in_parts_are_applied_as_if_they_had_come_whole(
        transactions in vec(transaction(), 1..6),
        choices in vec(0_usize..1_000, 1..60),
    ) {
        let parent = tempfile::tempdir().expect("folder");
        let [in_parts, whole] = streams(&transactions, &choices);
        let mut kept = Intake::new(VERSION, Some(spool_in(parent.path(), 1 << 20)));
        let mut plain = Intake::new(VERSION, None);
        let (found, expected) =
            run(async { (events(&mut kept, &in_parts).await, events(&mut plain, &whole).await) });
        prop_assert_eq!(found.expect("a stream in order"), expected.expect("a stream in order"));
        prop_assert_eq!(files_in(parent.path()), 0, "every transaction has ended");
        drop(kept);
        prop_assert_eq!(std::fs::read_dir(parent.path()).expect("folder").count(), 0);
    }
}

fn insert(xid: u32, bytes: usize) -> LogicalMessage {
    let message = LogicalMessage::Insert { relation: Oid(1), new: row(&vec![b'x'; bytes]) };
    LogicalMessage::Streamed { xid: Xid(xid), message: Box::new(message) }
}

fn part(xid: u32, first: bool, bytes: usize) -> [LogicalMessage; 3] {
    [start(Xid(xid), first), insert(xid, bytes), LogicalMessage::StreamStop]
}

#[test]
fn the_spool_is_bounded_and_what_has_ended_gives_its_room_back() {
    let parent = tempfile::tempdir().expect("folder");
    let mut intake = Intake::new(VERSION, Some(spool_in(parent.path(), 10_000)));
    run(async {
        for xid in 1..20 {
            events(&mut intake, &part(xid, true, 4_000)).await.expect("room");
            events(&mut intake, &part(xid, false, 4_000)).await.expect("room");
            let abort = LogicalMessage::StreamAbort { xid: Xid(xid), subxid: Xid(xid), info: None };
            events(&mut intake, &[abort]).await.expect("room again");
        }
        events(&mut intake, &part(20, true, 6_000)).await.expect("room");
        let error = events(&mut intake, &part(21, true, 6_000)).await.expect_err("too much");
        assert!(matches!(error, StreamError::Spool(SpoolError::Full { bytes_max: 10_000 })), "{error}");
    });
}

#[test]
fn a_file_that_lost_its_end_is_an_error_and_never_a_shorter_transaction() {
    let parent = tempfile::tempdir().expect("folder");
    let spool = spool_in(parent.path(), 1 << 20);
    let mut intake = Intake::new(VERSION, Some(spool));
    run(async {
        events(&mut intake, &part(5, true, 100)).await.expect("room");
        let spool = std::fs::read_dir(parent.path()).expect("folder").next().expect("one").expect("entry");
        let file = std::fs::File::options().write(true).open(spool.path().join("5")).expect("its file");
        file.set_len(50).expect("cut");
        let commit = LogicalMessage::StreamCommit {
            xid: Xid(5),
            flags: 0,
            commit_lsn: Lsn::new(10),
            end_lsn: Lsn::new(20),
            commit_time: PgTimestamp::from_unix_micros(0),
        };
        let error = events(&mut intake, &[commit]).await.expect_err("cut off");
        assert!(matches!(error, StreamError::Spool(SpoolError::Io { .. })), "{error}");
    });
}
