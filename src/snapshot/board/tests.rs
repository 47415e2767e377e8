use super::*;
use crate::model::Xid;
use crate::snapshot::lifecycle::{Effect, Touched};
use crate::snapshot::visibility::Snapshot;

const CHUNK: ChunkId = ChunkId { table: Oid(7), number: 0 };

fn snapshot(text: &str) -> Arc<Snapshot> {
    Arc::new(text.parse().unwrap())
}

fn board(state: ChunkState) -> CopyBoard {
    let board = CopyBoard::copying();
    let entry = CopyEntry { copy: TableCopy::new(vec![(KeyRange::ALL, state)]), ranged_by: None };
    board.load(HashMap::from([(Oid(7), entry)]), HashSet::new(), "10:10:".parse().unwrap());
    board
}

#[test]
fn a_snapshot_without_what_was_passed_over_is_refused() {
    let board = board(ChunkState::Pending);
    let effect = board.effect(Oid(7), Touched::One(None), Xid(20));
    assert_eq!(effect, Some(Effect::Discard { relies_on_later: true }));
    board.enter(CHUNK, ChunkState::Snapshotting);
    assert_eq!(board.snapshot_taken(&[CHUNK], &snapshot("20:21:20")), Err(Xid(20)));
    assert_eq!(board.state(CHUNK), Some(ChunkState::Snapshotting));
    assert_eq!(board.snapshot_taken(&[CHUNK], &snapshot("21:21:")), Ok(()));
    assert_eq!(board.effect(Oid(8), Touched::One(None), Xid(20)), Some(Effect::Apply), "another table");
}

#[test]
fn what_a_stream_condemned_without_committing_it_is_in_again() {
    let joined = ChunkState::Joined(snapshot("15:15:"));
    let board = board(joined.clone());
    assert_eq!(board.condemn(Oid(7), None, Xid(30)), [CHUNK]);
    let believed = board.believed();
    let _ = board.compare(&believed, &HashMap::from([(CHUNK, Some(snapshot("15:15:")))]));
    assert_eq!(board.state(CHUNK), Some(joined));
    assert_eq!(board.condemn(Oid(7), None, Xid(30)), [CHUNK]);
    let _ = board.compare(&board.believed(), &HashMap::from([(CHUNK, None)]));
    assert_eq!((board.state(CHUNK), board.take_again()), (Some(ChunkState::Pending), vec![CHUNK]));
    assert!(!board.is_distrusted());
}

#[test]
fn what_a_stream_has_condemned_stays_so_when_the_copy_reads_the_records_anew() {
    let board = board(ChunkState::Joined(snapshot("15:15:")));
    assert_eq!(board.condemn(Oid(7), None, Xid(30)), [CHUNK]);
    let joined = ChunkState::Joined(snapshot("15:15:"));
    let entry = CopyEntry::new(vec![(KeyRange::ALL, joined)], None);
    board.load(HashMap::from([(Oid(7), entry)]), HashSet::new(), "10:10:".parse().unwrap());
    assert_eq!(board.state(CHUNK), Some(ChunkState::Condemned));
    board.condemned(&[CHUNK]);
    assert_eq!(board.take_again(), [CHUNK]);
}

#[test]
fn a_target_that_has_lost_a_chunk_makes_the_copy_read_its_records_anew() {
    let board = board(ChunkState::Joined(snapshot("15:15:")));
    let _ = board.compare(&board.believed(), &HashMap::from([(CHUNK, None)]));
    assert!(board.is_distrusted());
    board.load(HashMap::new(), HashSet::new(), "10:10:".parse().unwrap());
    let _ = board.compare(&board.believed(), &HashMap::from([(CHUNK, None)]));
    assert!(board.is_distrusted(), "a table that was done with is not");
}

#[tokio::test]
async fn the_stream_stands_still_for_as_long_as_it_is_asked_to() {
    let board = board(ChunkState::Pending);
    board.stands_still();
    assert!(!board.wants_standstill());
    let still = board.stand_still();
    assert!(board.wants_standstill());
    board.stands_still();
    still.reached().await;
    let _ = board.compare(&board.believed(), &HashMap::new());
    assert!(board.wants_standstill(), "another stream has to reach it again");
    drop(still);
    assert!(!board.wants_standstill());
}
