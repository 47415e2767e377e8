//! How large the pieces of a backlog are, and when there are no more of them. Pure. A piece is decoded whole before its
//! first row is sent, is kept on the source's disk meanwhile, and each one is decoded from the slot's restart position again:
//! few large pieces cost the source least time, small ones the least room. While one is applied the next is decoded: it
//! should not take much longer.

use std::time::Duration;

use crate::config::BulkMode;
use crate::model::Lsn;

/// Changes of the first piece: few, so that applying begins at once.
const CHANGES_FIRST: u32 = 20_000;
const CHANGES_FIRST_ALWAYS: u32 = 100;
/// Changes of the largest piece.
const CHANGES_MAX: u32 = 2_000_000;
/// A piece is at most so many times as large as the one before it: a source decodes about twice as fast as a target applies
/// beside it, so that the target has just enough to do meanwhile.
const GROWTH: u32 = 2;
/// Bytes of messages that a piece should have at most: it is a temporary file on the source.
const BYTES_MAX: u64 = 256 << 20;
/// Bytes of WAL that a piece is decoded from at most, until one of them is empty.
const WAL_BYTES_MAX: u64 = 512 << 20;
/// A piece that takes longer to be handed over is followed by a smaller one: its query keeps a snapshot on the source.
const HANDED_OVER_IN: Duration = Duration::from_secs(20);
/// Nearer to the end of the WAL than this, a backlog is not worth a piece.
const NEAR_BYTES: u64 = 1 << 20;
/// So much is streamed if pieces do not bring the end nearer: the source writes as fast as they are made.
const SHORT_BYTES: u64 = 16 << 20;
/// So far from the end of the WAL a piece ends while records are being written there: the function waits for the rest of one
/// that is flushed in part, which on a quiet source takes up to 15 s (until the next `xl_running_xacts`).
const END_GAP_BYTES: u64 = 64 << 10;
/// A piece for which the source was waited for so long must bring at least so many changes for each second of it.
const WAIT_WORTH: Duration = Duration::from_secs(4);
const CHANGES_A_SECOND_MIN: u64 = 10_000;
/// A piece of so many changes has shown what pieces are worth here.
const CHANGES_FAIR: u32 = 500_000;

/// What became of a piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PieceFacts {
    /// Messages asked for.
    pub asked: u32,
    /// Messages in it.
    pub changes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long its first row, or its end, was waited for.
    pub waited: Duration,
    /// Until its last row was handed over.
    pub took: Duration,
}

/// The end of the source's WAL at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WalEnd {
    /// Flushed up to here.
    pub flushed: Lsn,
    /// Nothing is written beyond: the last record is complete.
    pub is_whole: bool,
}

/// What to do after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another piece.
    Piece,
    /// The end is near: stream.
    Follow,
    /// The source takes too long to make pieces: stream.
    NotWorthIt,
}

/// The sizes of one backlog's pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    mode: BulkMode,
    changes: u32,
    /// No piece may be larger, as far as is known.
    changes_max: u32,
    wal_bytes: u64,
    is_worth_it: bool,
}

impl Pieces {
    /// Before the first piece.
    pub(super) const fn new(mode: BulkMode) -> Self {
        let changes = match mode {
            BulkMode::Always => CHANGES_FIRST_ALWAYS,
            BulkMode::Auto | BulkMode::Off => CHANGES_FIRST,
        };
        Self { mode, changes, changes_max: CHANGES_MAX, wal_bytes: WAL_BYTES_MAX, is_worth_it: true }
    }

    /// Whether a backlog from `position` to the source's `end` is read in bulk.
    pub(super) const fn begins(mode: BulkMode, position: Lsn, end: Lsn) -> bool {
        let distance = end.distance_from(position);
        match mode {
            BulkMode::Off => false,
            BulkMode::Auto => distance > NEAR_BYTES,
            BulkMode::Always => distance > END_GAP_BYTES,
        }
    }

    /// Changes after which the next piece ends, with its last transaction.
    pub(super) const fn changes(self) -> u32 {
        self.changes
    }

    /// The position at which the next piece ends at the latest.
    pub(super) fn upto(self, position: Lsn, end: WalEnd) -> Lsn {
        let farthest = position.as_u64().saturating_add(self.wal_bytes);
        let gap = if end.is_whole { 0 } else { END_GAP_BYTES };
        Lsn::new(farthest.min(end.flushed.as_u64().saturating_sub(gap)))
    }

    /// What follows a piece that led from `before` to `position`. `end_then` was the end of the source's WAL when it was
    /// asked for, `end_now` is it now.
    pub(super) fn next(&mut self, [before, position]: [Lsn; 2], [end_then, end_now]: [WalEnd; 2]) -> Next {
        if !self.goes_on([before, position], [end_then.flushed, end_now.flushed]) {
            return Next::Follow;
        }
        if !self.is_worth_it {
            return Next::NotWorthIt;
        }
        self.changes = self.changes.saturating_mul(GROWTH).min(self.changes_max);
        Next::Piece
    }

    /// Draws the conclusions of a piece that was handed over. The one after it may have been asked for already.
    pub(super) fn learn(&mut self, piece: PieceFacts) {
        // A small piece may be dear because of what is read again for it; a larger one is not dearer for that.
        let could_bring_more = piece.changes >= u64::from(piece.asked) && piece.asked < CHANGES_FAIR;
        let worth = piece.waited.as_secs().saturating_mul(CHANGES_A_SECOND_MIN);
        if piece.waited >= WAIT_WORTH && piece.changes < worth && !could_bring_more {
            self.is_worth_it = false;
        }
        if piece.changes == 0 {
            self.wal_bytes = self.wal_bytes.saturating_mul(4);
        }
        let mut changes_max = u64::from(CHANGES_MAX);
        if let Some(each) = piece.bytes.checked_div(piece.changes) {
            changes_max = changes_max.min(BYTES_MAX / each.max(1));
        }
        if piece.took > HANDED_OVER_IN {
            changes_max = changes_max.min(piece.changes / 2);
        }
        let least = u64::from(CHANGES_FIRST_ALWAYS);
        self.changes_max = u32::try_from(changes_max.max(least)).unwrap_or(CHANGES_MAX);
        self.changes = self.changes.min(self.changes_max);
    }

    fn goes_on(&self, [before, position]: [Lsn; 2], [end_then, end_now]: [Lsn; 2]) -> bool {
        if position <= before {
            return false;
        }
        let rest = end_now.distance_from(position);
        match self.mode {
            BulkMode::Off => false,
            BulkMode::Auto => {
                let was_the_rest = end_then.distance_from(position) <= NEAR_BYTES;
                let brings_little = was_the_rest && rest > position.distance_from(before) / 2;
                rest > NEAR_BYTES && !(brings_little && rest <= SHORT_BYTES)
            }
            // A piece that came to the end as it was is the last: what was written meanwhile is streamed.
            BulkMode::Always => end_then.distance_from(position) > END_GAP_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn quick(changes: u64, bytes: u64) -> PieceFacts {
        let asked = u32::try_from(changes).expect("few");
        PieceFacts { asked, changes, bytes, waited: Duration::from_millis(50), took: Duration::from_secs(1) }
    }

    fn lsns(first: u64, second: u64) -> [Lsn; 2] {
        [Lsn::new(first), Lsn::new(second)]
    }

    fn end(flushed: u64) -> WalEnd {
        WalEnd { flushed: Lsn::new(flushed), is_whole: true }
    }

    #[test]
    fn pieces_grow_from_small_to_the_largest_and_never_beyond() {
        let mut pieces = Pieces::new(BulkMode::Auto);
        let mut sizes = vec![pieces.changes()];
        for _ in 0..8 {
            pieces.learn(quick(u64::from(pieces.changes()), u64::from(pieces.changes()) * 50));
            assert_eq!(pieces.next(lsns(1, 2), [end(500 * MIB), end(500 * MIB)]), Next::Piece);
            sizes.push(pieces.changes());
        }
        assert_eq!(
            sizes,
            [20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_280_000, 2_000_000, 2_000_000]
        );
    }

    #[test]
    fn wide_rows_and_slow_targets_make_pieces_smaller_also_the_one_asked_for_before() {
        let next = |pieces: &mut Pieces| {
            pieces.next(lsns(1, 2), [end(500 * MIB), end(500 * MIB)]);
            pieces.changes()
        };
        let mut pieces = Pieces::new(BulkMode::Auto);
        assert_eq!(next(&mut pieces), 40_000);
        pieces.learn(quick(20_000, 20_000 * 100_000));
        assert_eq!(u64::from(next(&mut pieces)), BYTES_MAX / 100_000);
        pieces.learn(quick(2_684, 2_684));
        assert_eq!(next(&mut pieces), 5_368, "it grows again");

        let mut pieces = Pieces::new(BulkMode::Auto);
        pieces.learn(PieceFacts { took: Duration::from_secs(21), ..quick(20_000, 20_000) });
        assert_eq!(next(&mut pieces), 10_000);
    }

    #[test]
    fn near_the_end_it_is_streamed_and_a_backlog_that_has_grown_is_gone_on_with() {
        let after = |before, position, end_then, end_now| {
            let positions = lsns(before * MIB, position * MIB);
            Pieces::new(BulkMode::Auto).next(positions, [end(end_then * MIB), end(end_now * MIB)])
        };
        assert_eq!(after(1, 100, 100, 101), Next::Follow);
        assert_eq!(after(1, 100, 100, 102), Next::Piece);
        assert_eq!(after(98, 100, 104, 104), Next::Piece, "there is more than the piece was asked for");
        assert_eq!(after(90, 100, 100, 106), Next::Follow, "the source writes as fast");
        assert_eq!(after(90, 100, 100, 117), Next::Piece, "but that is too much for a stream");
        assert!(!Pieces::begins(BulkMode::Auto, Lsn::new(1), Lsn::new(MIB)));
        assert!(Pieces::begins(BulkMode::Auto, Lsn::new(1), Lsn::new(2 * MIB)));
        assert!(!Pieces::begins(BulkMode::Off, Lsn::new(1), Lsn::new(1 << 40)));
    }

    #[test]
    fn forced_pieces_are_small_and_end_where_the_source_was_when_the_last_began() {
        let mut pieces = Pieces::new(BulkMode::Always);
        assert!(Pieces::begins(BulkMode::Always, Lsn::new(1), Lsn::new(MIB)));
        assert_eq!(pieces.changes(), 100);
        assert_eq!(pieces.next(lsns(1, 50), [end(MIB), end(2 * MIB)]), Next::Piece);
        assert_eq!(pieces.changes(), 200);
        assert_eq!(pieces.next(lsns(50, MIB), [end(MIB), end(2 * MIB)]), Next::Follow);
    }

    #[test]
    fn a_piece_reaches_the_end_only_if_no_record_is_being_written_there() {
        let pieces = Pieces::new(BulkMode::Auto);
        let writing = WalEnd { flushed: Lsn::new(MIB), is_whole: false };
        assert_eq!(pieces.upto(Lsn::new(50), writing).as_u64(), MIB - END_GAP_BYTES);
        assert_eq!(pieces.upto(Lsn::new(50), end(MIB)).as_u64(), MIB);
    }

    #[test]
    fn a_piece_that_leads_nowhere_is_the_last() {
        let mut pieces = Pieces::new(BulkMode::Auto);
        assert_eq!(pieces.next(lsns(7, 7), [end(500 * MIB), end(500 * MIB)]), Next::Follow);
    }

    /// One transaction over gigabytes of WAL, or a slot held back by an old one: each piece reads all of it again.
    #[test]
    fn empty_pieces_reach_further_and_long_waits_for_little_end_it() {
        let mut pieces = Pieces::new(BulkMode::Auto);
        let upto = |pieces: &Pieces| pieces.upto(Lsn::new(0), end(1 << 40)).as_u64();
        assert_eq!(upto(&pieces), 512 * MIB);
        pieces.learn(quick(0, 0));
        assert_eq!(upto(&pieces), 2048 * MIB);
        assert_eq!(pieces.upto(Lsn::new(0), end(20 * MIB)).as_u64(), 20 * MIB, "not beyond the end");
        let after = |asked, changes| {
            let mut pieces = Pieces::new(BulkMode::Auto);
            pieces.learn(PieceFacts { asked, waited: Duration::from_secs(5), ..quick(changes, 1) });
            pieces.next(lsns(1, 2), [end(500 * MIB), end(500 * MIB)])
        };
        assert_eq!(after(60_000, 49_999), Next::NotWorthIt);
        assert_eq!(after(2_000_000, 49_999), Next::NotWorthIt);
        assert_eq!(after(60_000, 60_000), Next::Piece);
        assert_eq!(after(20_000, 20_000), Next::Piece, "the first piece is small, and says little");
    }
}
