//! How large the pieces of a backlog are, and when there are no more of them. Pure. A piece is decoded whole before its
//! first row is sent, is kept on the source's disk meanwhile, and each one is decoded from the slot's restart position again:
//! few large pieces cost the source least time, small ones the least room. Sizes follow what the last piece was.

use std::time::Duration;

use crate::config::BulkMode;
use crate::model::Lsn;

/// Changes of the first piece: few, so that applying begins at once.
const CHANGES_FIRST: u32 = 20_000;
const CHANGES_FIRST_ALWAYS: u32 = 100;
/// Changes of the largest piece.
const CHANGES_MAX: u32 = 2_000_000;
/// A piece is at most so many times as large as the one before it.
const GROWTH: u32 = 5;
const GROWTH_ALWAYS: u32 = 2;
/// Bytes of messages that a piece should have at most: it is a temporary file on the source.
const BYTES_MAX: u64 = 256 << 20;
/// Bytes of WAL that a piece is decoded from at most, until one of them is empty.
const WAL_BYTES_MAX: u64 = 512 << 20;
/// A piece that takes longer to be handed over is followed by a smaller one: its query keeps a snapshot on the source.
const HANDED_OVER_IN: Duration = Duration::from_secs(20);
/// Nearer to the end of the WAL than this, a backlog is not worth a piece.
const NEAR_BYTES: u64 = 16 << 20;
/// So far from the end of the WAL every piece ends: the function waits for the rest of a record that is flushed in part, which
/// on a quiet source takes up to 15 s (until the next `xl_running_xacts`).
const END_GAP_BYTES: u64 = 4 << 20;
const END_GAP_BYTES_ALWAYS: u64 = 64 << 10;
/// A piece for which the source was waited for so long must bring at least so many changes for each second of it.
const WAIT_WORTH: Duration = Duration::from_secs(4);
const CHANGES_A_SECOND_MIN: u64 = 10_000;
/// A piece of so many changes has shown what pieces are worth here.
const CHANGES_FAIR: u32 = 500_000;

/// What became of a piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PieceFacts {
    /// Messages in it.
    pub changes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Until its first row, or its end, came.
    pub waited: Duration,
    /// Until its last row was handed over.
    pub took: Duration,
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
    wal_bytes: u64,
}

impl Pieces {
    /// Before the first piece.
    pub(super) const fn new(mode: BulkMode) -> Self {
        let changes = match mode {
            BulkMode::Always => CHANGES_FIRST_ALWAYS,
            BulkMode::Auto | BulkMode::Off => CHANGES_FIRST,
        };
        Self { mode, changes, wal_bytes: WAL_BYTES_MAX }
    }

    /// Whether a backlog from `position` to the source's `end` is read in bulk.
    pub(super) const fn begins(mode: BulkMode, position: Lsn, end: Lsn) -> bool {
        let distance = end.distance_from(position);
        match mode {
            BulkMode::Off => false,
            BulkMode::Auto => distance > NEAR_BYTES,
            BulkMode::Always => distance > END_GAP_BYTES_ALWAYS,
        }
    }

    /// Changes after which the next piece ends, with its last transaction.
    pub(super) const fn changes(self) -> u32 {
        self.changes
    }

    /// The position at which the next piece ends at the latest; `end` is the end of the source's WAL.
    pub(super) fn upto(self, position: Lsn, end: Lsn) -> Lsn {
        let farthest = position.as_u64().saturating_add(self.wal_bytes);
        Lsn::new(farthest.min(end.as_u64().saturating_sub(self.end_gap_bytes())))
    }

    const fn end_gap_bytes(self) -> u64 {
        match self.mode {
            BulkMode::Always => END_GAP_BYTES_ALWAYS,
            BulkMode::Auto | BulkMode::Off => END_GAP_BYTES,
        }
    }

    /// Draws the conclusions of a piece that led from `before` to `position`. `end_then` was the end of the source's WAL
    /// when it was asked for, `end_now` is it now.
    pub(super) fn after(
        &mut self,
        piece: PieceFacts,
        [before, position]: [Lsn; 2],
        [end_then, end_now]: [Lsn; 2],
    ) -> Next {
        if !self.goes_on([before, position], [end_then, end_now]) {
            return Next::Follow;
        }
        // A small piece may be dear because of what is read again for it; a larger one is not dearer for that.
        let could_bring_more = piece.changes >= u64::from(self.changes) && self.changes < CHANGES_FAIR;
        let worth = piece.waited.as_secs().saturating_mul(CHANGES_A_SECOND_MIN);
        if piece.waited >= WAIT_WORTH && piece.changes < worth && !could_bring_more {
            return Next::NotWorthIt;
        }
        if piece.changes == 0 {
            self.wal_bytes = self.wal_bytes.saturating_mul(4);
        }
        self.resize(piece);
        Next::Piece
    }

    fn goes_on(&self, [before, position]: [Lsn; 2], [end_then, end_now]: [Lsn; 2]) -> bool {
        if position <= before {
            return false;
        }
        match self.mode {
            BulkMode::Off => false,
            BulkMode::Auto => end_now.distance_from(position) > NEAR_BYTES,
            // A piece that came to the end as it was is the last: what was written meanwhile is streamed.
            BulkMode::Always => end_then.distance_from(position) > END_GAP_BYTES_ALWAYS,
        }
    }

    fn resize(&mut self, piece: PieceFacts) {
        let growth = if self.mode == BulkMode::Always { GROWTH_ALWAYS } else { GROWTH };
        let mut changes = u64::from(self.changes) * u64::from(growth);
        if let Some(each) = piece.bytes.checked_div(piece.changes) {
            changes = changes.min(BYTES_MAX / each.max(1));
        }
        if piece.took > HANDED_OVER_IN {
            changes = changes.min(piece.changes / 2);
        }
        let least = u64::from(CHANGES_FIRST_ALWAYS);
        self.changes = u32::try_from(changes.clamp(least, u64::from(CHANGES_MAX))).unwrap_or(CHANGES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn quick(changes: u64, bytes: u64) -> PieceFacts {
        PieceFacts { changes, bytes, waited: Duration::from_millis(50), took: Duration::from_secs(1) }
    }

    fn lsns(first: u64, second: u64) -> [Lsn; 2] {
        [Lsn::new(first), Lsn::new(second)]
    }

    #[test]
    fn pieces_grow_from_small_to_the_largest_and_never_beyond() {
        let mut pieces = Pieces::new(BulkMode::Auto);
        let mut sizes = vec![pieces.changes()];
        for _ in 0..6 {
            let piece = quick(u64::from(pieces.changes()), u64::from(pieces.changes()) * 50);
            assert_eq!(pieces.after(piece, lsns(1, 2), lsns(500 * MIB, 500 * MIB)), Next::Piece);
            sizes.push(pieces.changes());
        }
        assert_eq!(sizes, [20_000, 100_000, 500_000, 2_000_000, 2_000_000, 2_000_000, 2_000_000]);
    }

    #[test]
    fn wide_rows_and_slow_targets_make_pieces_smaller() {
        let mut pieces = Pieces::new(BulkMode::Auto);
        let wide = quick(20_000, 20_000 * 100_000);
        assert_eq!(pieces.after(wide, lsns(1, 2), lsns(500 * MIB, 500 * MIB)), Next::Piece);
        assert_eq!(u64::from(pieces.changes()), BYTES_MAX / 100_000);

        let mut pieces = Pieces::new(BulkMode::Auto);
        let slow = PieceFacts { took: Duration::from_secs(21), ..quick(20_000, 20_000) };
        pieces.after(slow, lsns(1, 2), lsns(500 * MIB, 500 * MIB));
        assert_eq!(pieces.changes(), 10_000);
    }

    #[test]
    fn near_the_end_it_is_streamed_and_a_backlog_that_has_grown_is_gone_on_with() {
        let mut pieces = Pieces::new(BulkMode::Auto);
        let after = |pieces: &mut Pieces, end_now| {
            pieces.after(quick(1, 1), lsns(1, 100 * MIB), lsns(100 * MIB, end_now))
        };
        assert_eq!(after(&mut pieces, 116 * MIB), Next::Follow);
        assert_eq!(after(&mut pieces, 117 * MIB), Next::Piece);
        assert!(!Pieces::begins(BulkMode::Auto, Lsn::new(1), Lsn::new(16 * MIB)));
        assert!(Pieces::begins(BulkMode::Auto, Lsn::new(1), Lsn::new(17 * MIB)));
        assert!(!Pieces::begins(BulkMode::Off, Lsn::new(1), Lsn::new(1 << 40)));
    }

    #[test]
    fn forced_pieces_are_small_and_end_where_the_source_was_when_the_last_began() {
        let mut pieces = Pieces::new(BulkMode::Always);
        assert!(Pieces::begins(BulkMode::Always, Lsn::new(1), Lsn::new(MIB)));
        assert_eq!(pieces.changes(), 100);
        assert_eq!(pieces.after(quick(100, 100), lsns(1, 50), lsns(MIB, 2 * MIB)), Next::Piece);
        assert_eq!(pieces.changes(), 200);
        let end = pieces.upto(Lsn::new(50), Lsn::new(MIB));
        assert_eq!(end.as_u64(), MIB - END_GAP_BYTES_ALWAYS);
        assert_eq!(pieces.after(quick(10, 10), [Lsn::new(50), end], lsns(MIB, 2 * MIB)), Next::Follow);
    }

    #[test]
    fn a_piece_that_leads_nowhere_is_the_last() {
        let mut pieces = Pieces::new(BulkMode::Auto);
        assert_eq!(pieces.after(quick(0, 0), lsns(7, 7), lsns(500 * MIB, 500 * MIB)), Next::Follow);
    }

    /// One transaction over gigabytes of WAL, or a slot held back by an old one: each piece reads all of it again.
    #[test]
    fn empty_pieces_reach_further_and_long_waits_for_little_end_it() {
        let mut pieces = Pieces::new(BulkMode::Auto);
        let upto = |pieces: &Pieces| pieces.upto(Lsn::new(0), Lsn::new(1 << 40)).as_u64();
        assert_eq!(upto(&pieces), 512 * MIB);
        assert_eq!(pieces.after(quick(0, 0), lsns(1, 2), lsns(500 * MIB, 500 * MIB)), Next::Piece);
        assert_eq!(upto(&pieces), 2048 * MIB);
        assert_eq!(pieces.upto(Lsn::new(0), Lsn::new(20 * MIB)).as_u64(), 16 * MIB, "short of the end");
        let waited = |changes| PieceFacts { waited: Duration::from_secs(5), ..quick(changes, 1) };
        let mut after = |changes| pieces.after(waited(changes), lsns(1, 2), lsns(500 * MIB, 500 * MIB));
        assert_eq!(after(49_999), Next::NotWorthIt);
        assert_eq!(after(60_000), Next::Piece);
        let mut first = Pieces::new(BulkMode::Auto);
        let next = first.after(waited(20_000), lsns(1, 2), lsns(500 * MIB, 500 * MIB));
        assert_eq!(next, Next::Piece, "the first piece is small, and says little");
    }
}
