//! Proof values of what the target keeps. A [`CommitReceipt`] exists only for a committed target transaction, a
//! [`DurableLsn`] only for receipts that the durability watch has seen flushed: the status message to the source
//! accepts nothing else, so acknowledging before it is durable does not compile (INV-3).

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::standbys::{self, StandbyShortage, Standbys};
use crate::config::Durability;
use crate::connection::{Incumbent, SqlSession};
use crate::model::Lsn;
use crate::runtime::Shutdown;

/// A target transaction has committed, and with it everything the source committed up to `source_lsn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitReceipt {
    /// Commit end LSN on the source that the progress record now holds.
    source_lsn: Lsn,
    /// A position in the *target's* WAL not before the end of the commit record.
    target_lsn: Lsn,
}

impl CommitReceipt {
    /// Only for the code that has just seen COMMIT succeed on the target.
    pub(crate) const fn of_commit(source_lsn: Lsn, target_lsn: Lsn) -> Self {
        Self { source_lsn, target_lsn }
    }

    /// Everything the source committed up to here is in the committed transaction or an earlier one.
    #[must_use]
    pub const fn source_lsn(self) -> Lsn {
        self.source_lsn
    }

    /// The target's WAL must be flushed to here for the commit to survive.
    #[must_use]
    pub const fn target_lsn(self) -> Lsn {
        self.target_lsn
    }
}

/// A source position up to which everything is durable on the target. What the walsender may be told is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableLsn(Lsn);

impl DurableLsn {
    /// The receipt's position, if the target's WAL is flushed far enough.
    #[must_use]
    pub fn confirmed_by(receipt: CommitReceipt, target_flushed: Lsn) -> Option<Self> {
        (receipt.target_lsn <= target_flushed).then_some(Self(receipt.source_lsn))
    }

    /// The position, in the source's WAL.
    #[must_use]
    pub const fn lsn(self) -> Lsn {
        self.0
    }
}

/// SQL expression: the end of the last WAL record. Where that record ends with its page (or segment), the insert position is
/// already behind the next page's header, which nothing flushes before there is another record: waiting for it could
/// take forever on a quiet server. Header sizes: `SizeOfXLogShortPHD`, `SizeOfXLogLongPHD` in `xlog_internal.h`.
pub const WAL_END: &str = "SELECT CASE
        WHEN (p - '0/0') % pg_size_bytes(current_setting('wal_segment_size')) = 40 THEN p - 40::numeric
        WHEN (p - '0/0') % current_setting('wal_block_size')::numeric = 24 THEN p - 24::numeric
        ELSE p END
    FROM pg_current_wal_insert_lsn() AS p";

/// How often the target is asked how far it has flushed, while something waits for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The same, once it is told that standbys are missing.
const SLOW_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long nothing may become durable, although something waits, before it is told.
const STALL_TOLD_AFTER: Duration = Duration::from_secs(10);
/// Receipts remembered at once (INV-11). More are thinned out: a later one covers the earlier ones.
const RECEIPTS_MAX: usize = 256;

/// Receipts whose durability is not known yet, in commit order.
#[derive(Debug, Default)]
struct Outstanding {
    receipts: VecDeque<CommitReceipt>,
    /// The furthest position a receipt was taken for.
    reached: Option<Lsn>,
}

impl Outstanding {
    /// Connections that commit at the same time may hand their receipts over in another order than they made them: one that
    /// says no more than an earlier one is passed over, so that what is confirmed never goes back.
    fn add(&mut self, receipt: CommitReceipt) {
        if self.reached.is_some_and(|reached| receipt.source_lsn <= reached) {
            return;
        }
        self.reached = Some(receipt.source_lsn);
        if self.receipts.len() >= RECEIPTS_MAX {
            let mut index = 0_usize;
            self.receipts.retain(|_| {
                index += 1;
                index.is_multiple_of(2)
            });
        }
        self.receipts.push_back(receipt);
    }

    /// The newest receipt that is durable, if any became so.
    fn confirm(&mut self, target_flushed: Lsn) -> Option<DurableLsn> {
        let mut newest = None;
        while let Some(durable) =
            self.receipts.front().and_then(|first| DurableLsn::confirmed_by(*first, target_flushed))
        {
            newest = Some(durable);
            self.receipts.pop_front();
        }
        newest
    }
}

/// What the watch has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DurabilityNews {
    /// Everything up to here is durable now.
    Durable(DurableLsn),
    /// Nothing has become durable for a while, for want of standbys. Said again and again as long as it is so.
    Waits(StandbyShortage),
}

/// Watches, on a connection of its own, how far the target has flushed, and turns receipts into durable positions.
#[derive(Debug)]
pub struct DurabilityWatch {
    session: SqlSession,
    durability: Durability,
    /// The server of the session.
    incumbent: Incumbent,
    outstanding: Outstanding,
    /// Since when something waits and nothing became durable.
    waits_since: Instant,
}

/// How far the target is safe, as it said when it was asked.
enum Sight {
    Primary(Option<Lsn>),
    WithStandbys(Standbys, NonZeroU32),
}

impl DurabilityWatch {
    /// A watch that asks over `session`, which must be on the server that gives the receipts
    /// ([`same_server`](super::same_server::same_server)): a position in the WAL of another one means nothing.
    #[must_use]
    pub fn new(session: SqlSession, durability: Durability, incumbent: Incumbent) -> Self {
        let (outstanding, waits_since) = (Outstanding::default(), Instant::now());
        Self { session, durability, incumbent, outstanding, waits_since }
    }

    /// Takes receipts as they come and hands what becomes of them to `tell`, until the sender is gone or shutdown is
    /// requested.
    ///
    /// # Errors
    /// What the target answered; receipts not confirmed until then stay unconfirmed.
    pub async fn run(
        mut self,
        mut receipts: mpsc::Receiver<CommitReceipt>,
        shutdown: Shutdown,
        mut tell: impl FnMut(DurabilityNews) + Send,
    ) -> Result<(), tokio_postgres::Error> {
        loop {
            if self.outstanding.receipts.is_empty() {
                match receipts.recv().await {
                    Some(receipt) => self.outstanding.add(receipt),
                    None => return Ok(()),
                }
                self.waits_since = Instant::now();
            }
            while let Ok(receipt) = receipts.try_recv() {
                self.outstanding.add(receipt);
            }
            let sight = self.look().await?;
            let is_steady = self.incumbent.is_steady();
            let flushed = sight.flushed().filter(|_| is_steady);
            if let Some(durable) = flushed.and_then(|lsn| self.outstanding.confirm(lsn)) {
                self.waits_since = Instant::now();
                tell(DurabilityNews::Durable(durable));
            }
            if self.outstanding.receipts.is_empty() {
                continue;
            }
            let stalled = self.waits_since.elapsed() >= STALL_TOLD_AFTER;
            if stalled
                && is_steady
                && let Some(shortage) = sight.shortage()
            {
                tell(DurabilityNews::Waits(shortage));
            }
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(if stalled { SLOW_POLL_INTERVAL } else { POLL_INTERVAL }) => {}
            }
        }
    }

    async fn look(&self) -> Result<Sight, tokio_postgres::Error> {
        match self.durability {
            Durability::Local => {
                let row = self.session.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
                Ok(Sight::Primary(row.get::<_, &str>(0).parse().ok()))
            }
            Durability::Standbys(wanted) => {
                Ok(Sight::WithStandbys(standbys::look(&self.session).await?, wanted))
            }
        }
    }
}

impl Sight {
    /// Flushed here and, if asked for, on enough standbys. `None` when fewer are connected.
    fn flushed(&self) -> Option<Lsn> {
        match self {
            Self::Primary(flushed) => *flushed,
            Self::WithStandbys(standbys, wanted) => standbys.flushed_by(*wanted),
        }
    }

    fn shortage(&self) -> Option<StandbyShortage> {
        match self {
            Self::Primary(_) => None,
            Self::WithStandbys(standbys, wanted) => Some(standbys.shortage(*wanted)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(source: u64, target: u64) -> CommitReceipt {
        CommitReceipt::of_commit(Lsn::new(source), Lsn::new(target))
    }

    #[test]
    fn only_receipts_below_the_flushed_position_become_durable() {
        // Trap 2: a commit with synchronous_commit = off is not durable because it was committed.
        let mut outstanding = Outstanding::default();
        for (source, target) in [(10, 100), (20, 200), (30, 300)] {
            outstanding.add(receipt(source, target));
        }
        assert_eq!(outstanding.confirm(Lsn::new(99)), None);
        assert_eq!(outstanding.confirm(Lsn::new(250)).map(DurableLsn::lsn), Some(Lsn::new(20)));
        assert_eq!(outstanding.confirm(Lsn::new(250)), None);
        assert_eq!(outstanding.confirm(Lsn::new(300)).map(DurableLsn::lsn), Some(Lsn::new(30)));
    }

    #[test]
    fn receipts_that_overtook_each_other_confirm_nothing_backwards() {
        let mut outstanding = Outstanding::default();
        for (source, target) in [(20, 200), (10, 100), (20, 300), (30, 300)] {
            outstanding.add(receipt(source, target));
        }
        assert_eq!(outstanding.confirm(Lsn::new(250)).map(DurableLsn::lsn), Some(Lsn::new(20)));
        outstanding.add(receipt(15, 150));
        assert_eq!(outstanding.confirm(Lsn::new(299)), None);
        assert_eq!(outstanding.confirm(Lsn::new(300)).map(DurableLsn::lsn), Some(Lsn::new(30)));
    }

    #[test]
    fn thinning_out_receipts_keeps_the_newest_and_never_confirms_too_much() {
        let mut outstanding = Outstanding::default();
        for at in 1..=10_000_u64 {
            outstanding.add(receipt(at, at * 10));
        }
        assert!(outstanding.receipts.len() <= RECEIPTS_MAX);
        let confirmed = outstanding.confirm(Lsn::new(50_000)).map(DurableLsn::lsn);
        assert!(confirmed.is_none_or(|lsn| lsn <= Lsn::new(5_000)));
        assert_eq!(outstanding.confirm(Lsn::new(100_000)).map(DurableLsn::lsn), Some(Lsn::new(10_000)));
    }
}
