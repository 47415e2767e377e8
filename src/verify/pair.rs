//! A pair of transactions, one on each side, whose snapshots contain the same. Tables are locked against DDL and TRUNCATE before their
//! side's snapshot is taken, so that neither can miss what the other has. How long a pair may live is bounded, and so is every wait.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::error::VerifyError;
use super::meeting::{Meeting, Passing};
use super::nudge::Nudge;
use super::table::ComparedTable;
use crate::connection::{SqlSession, TextQuery, TextRow};
use crate::model::{Lsn, Oid, Side};
use crate::snapshot::wait_for_commits_in_doubt;

/// How long the stream may take to halt: the tables are locked against DDL meanwhile, and who waits for a lock holds up others.
const HALT_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long it may then take to come as far as the source's snapshot, and later past it.
const STREAM_WAIT_MAX: Duration = Duration::from_secs(20);
/// How long DDL that is under way may hold a table of the source before the piece is put off.
const SOURCE_LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// The same of the target, where the stream waits meanwhile.
const TARGET_LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// A stream that has not come as far as the snapshot by then may wait for a commit.
const NUDGE_AFTER: Duration = Duration::from_millis(25);
/// Between two tries to get a snapshot that has everything.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Two sessions that compare together.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) source: SqlSession,
    pub(super) target: SqlSession,
}

/// An open pair: both sessions are in their transactions. [`Pair::end`] closes it.
#[derive(Debug)]
pub(super) struct Pair {
    /// Everything that both have was committed on the source before this position of its WAL.
    pub(super) lsn: Lsn,
    passing: Passing,
    taken_at: Instant,
    held_max: Duration,
}

/// What a pair that is closed leaves behind.
#[derive(Debug)]
pub(super) struct Parted {
    /// Tables, by their OID on the source, that the two snapshots may tell apart.
    pub(super) touched: HashSet<Oid>,
    /// How long the snapshots were held.
    pub(super) held: Duration,
}

impl Sessions {
    pub(super) const fn of(&self, side: Side) -> &SqlSession {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    /// Asks both sides at once.
    async fn ask(&self, sql: impl Fn(Side) -> String) -> Result<(Vec<TextRow>, Vec<TextRow>), VerifyError> {
        let (source_sql, target_sql) = (sql(Side::Source), sql(Side::Target));
        tokio::try_join!(async { self.source.rows(&source_sql).await.map_err(VerifyError::source) }, async {
            self.target.rows(&target_sql).await.map_err(VerifyError::target)
        },)
    }

    /// Takes a pair for these tables; its statements end when `held_max` is over.
    ///
    /// # Errors
    /// [`VerifyError`]; [`abandon`](Self::abandon) makes the sessions usable again.
    pub(super) async fn take_pair(
        &self,
        (meeting, nudge): (&Meeting, &Nudge),
        tables: &[&ComparedTable],
        held_max: Duration,
    ) -> Result<Pair, VerifyError> {
        // An earlier process may have applied what the source does not show yet.
        meeting.remember(wait_for_commits_in_doubt(&self.source)).await?;
        loop {
            self.source.rows(&begin(Side::Source, tables)).await.map_err(VerifyError::source)?;
            let halt = in_time(HALT_WAIT_MAX, async { Ok(meeting.halt().await?) }).await?;
            let taken_at = Instant::now();
            let rows = self
                .source
                .rows("SELECT pg_current_snapshot() AS snapshot, pg_current_wal_insert_lsn() AS lsn")
                .await
                .map_err(VerifyError::source)?;
            let unreadable = || VerifyError::Unreadable { side: Side::Source };
            let row = rows.first().ok_or_else(unreadable)?;
            let snapshot = row.get("snapshot").and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
            let lsn: Lsn = row.get("lsn").and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
            let Ok(approach) = halt.go_on_to(snapshot, lsn) else {
                self.source.rows("ROLLBACK").await.map_err(VerifyError::source)?;
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            };
            let same = in_time(STREAM_WAIT_MAX.min(held_max / 2), async {
                let reached = approach.reached();
                tokio::pin!(reached);
                tokio::select! {
                    reached = &mut reached => return Ok(reached?),
                    () = tokio::time::sleep(NUDGE_AFTER) => nudge.source().await?,
                }
                Ok(reached.await?)
            })
            .await?;
            let waited = taken_at.elapsed();
            if waited > held_max / 2 {
                // Too little would be left of the time that the snapshot may be held.
                return Err(VerifyError::Behind { waited });
            }
            let sql = format!("{}; SELECT 1 AS snapshot_taken", begin(Side::Target, tables));
            self.target.rows(&sql).await.map_err(VerifyError::target)?;
            return Ok(Pair { lsn, passing: same.part(), taken_at, held_max });
        }
    }

    /// Ends whatever transactions are open.
    ///
    /// # Errors
    /// A session is lost.
    pub(super) async fn abandon(&self) -> Result<(), VerifyError> {
        self.ask(|_| "ROLLBACK".to_owned()).await.map(|_| ())
    }
}

impl Pair {
    /// Asks both sides at once, for no longer than the pair may live.
    ///
    /// # Errors
    /// [`VerifyError::TooLong`], and what the servers answered.
    pub(super) async fn ask(
        &self,
        sessions: &Sessions,
        sql: impl Fn(Side) -> String,
    ) -> Result<(Vec<TextRow>, Vec<TextRow>), VerifyError> {
        // A timeout of 0 would be none.
        let left_ms = self.held_max.saturating_sub(self.taken_at.elapsed()).as_millis().max(1);
        sessions.ask(|side| format!("SET LOCAL statement_timeout = {left_ms}; {}", sql(side))).await
    }

    /// Closes both transactions, and waits until it is known which tables were in flight.
    ///
    /// # Errors
    /// [`VerifyError::Interrupted`]: it will not be known.
    pub(super) async fn end(self, sessions: &Sessions) -> Result<Parted, VerifyError> {
        // First: the stream may need what they lock.
        sessions.abandon().await?;
        let held = self.taken_at.elapsed();
        Ok(Parted {
            touched: in_time(STREAM_WAIT_MAX, async { Ok(self.passing.passed().await?) }).await?,
            held,
        })
    }
}

fn begin(side: Side, tables: &[&ComparedTable]) -> String {
    let names: Vec<String> = tables.iter().map(|table| table.rows_of(side)).collect();
    let lock_timeout = match side {
        Side::Source => SOURCE_LOCK_TIMEOUT,
        Side::Target => TARGET_LOCK_TIMEOUT,
    };
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {}; LOCK TABLE {} IN ACCESS SHARE MODE",
        lock_timeout.as_millis(),
        names.join(", ")
    )
}

async fn in_time<T>(
    longest: Duration,
    waiting: impl Future<Output = Result<T, VerifyError>>,
) -> Result<T, VerifyError> {
    match tokio::time::timeout(longest, waiting).await {
        Ok(reached) => reached,
        Err(_) => Err(VerifyError::Behind { waited: longest }),
    }
}
