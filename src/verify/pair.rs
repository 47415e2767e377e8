//! A pair of transactions, one on each side, whose snapshots contain the same. Tables are locked against DDL and TRUNCATE before their
//! side's snapshot is taken, so that neither can miss what the other has. How long a pair may live is bounded, and so is every wait.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pgsluice_proto::command::quote_literal;

use super::error::VerifyError;
use super::meeting::{Meeting, Passing};
use super::nudge::Nudge;
use super::table::ComparedTable;
use crate::connection::{SqlSession, TextQuery, TextRow};
use crate::model::{Lsn, Oid, Side};
use crate::snapshot::{Snapshot, wait_for_commits_in_doubt};

/// How long the stream may take to halt: the tables are locked against DDL meanwhile, and who waits for a lock holds up others.
const HALT_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long it may then take to come as far as the source's snapshot, and later past it.
const STREAM_WAIT_MAX: Duration = Duration::from_secs(20);
/// How long DDL that is under way may hold a table before the piece is put off: less than `deadlock_timeout`, so that nobody else is
/// ended because of us.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two tries to get a snapshot that has everything.
const AGAIN_AFTER_FIRST: Duration = Duration::from_millis(20);
const AGAIN_AFTER_LONGEST: Duration = Duration::from_secs(2);

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
    pub(super) async fn ask(
        &self,
        sql: impl Fn(Side) -> String,
    ) -> Result<(Vec<TextRow>, Vec<TextRow>), VerifyError> {
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
        let begun_at = Instant::now();
        let mut again_after = AGAIN_AFTER_FIRST;
        loop {
            // An earlier process may have applied what the source does not show yet.
            meeting.remember(wait_for_commits_in_doubt(&self.source)).await?;
            let turn = meeting.turn().await;
            self.source.rows(&begin(Side::Source, tables, held_max)).await.map_err(VerifyError::source)?;
            let halt = in_time(HALT_WAIT_MAX, async { Ok(turn.halt().await?) }).await?;
            let taken_at = Instant::now();
            let Snapped { snapshot, lsn } = in_time(HALT_WAIT_MAX, self.snap_source(tables)).await?;
            let Ok(approach) = halt.go_on_to(snapshot, lsn) else {
                // A commit that waits for a standby: neither DDL nor the stream need wait for it as well.
                self.source.rows("ROLLBACK").await.map_err(VerifyError::source)?;
                if begun_at.elapsed() > STREAM_WAIT_MAX {
                    return Err(VerifyError::Behind { waited: begun_at.elapsed() });
                }
                tokio::time::sleep(again_after).await;
                again_after = (again_after * 2).min(AGAIN_AFTER_LONGEST);
                continue;
            };
            let longest = STREAM_WAIT_MAX.min(held_max / 2);
            let same = in_time(longest, nudge.until(async { Ok(approach.reached().await?) })).await?;
            in_time(HALT_WAIT_MAX, self.snap_target(tables, held_max)).await?;
            return Ok(Pair { lsn, passing: same.part(), taken_at, held_max });
        }
    }

    /// The source's snapshot, and whether its tables are those that are meant.
    async fn snap_source(&self, tables: &[&ComparedTable]) -> Result<Snapped, VerifyError> {
        let sql = format!(
            "SELECT pg_current_snapshot() AS snapshot, pg_current_wal_insert_lsn() AS lsn, {} AS oids",
            oids(Side::Source, tables)
        );
        let rows = self.source.rows(&sql).await.map_err(VerifyError::source)?;
        let unreadable = || VerifyError::Unreadable { side: Side::Source };
        let row = rows.first().ok_or_else(unreadable)?;
        check_identity(Side::Source, tables, row)?;
        Ok(Snapped {
            snapshot: row.get("snapshot").and_then(|text| text.parse().ok()).ok_or_else(unreadable)?,
            lsn: row.get("lsn").and_then(|text| text.parse().ok()).ok_or_else(unreadable)?,
        })
    }

    /// The target's snapshot, and whether its tables are those that are meant, and have all of their rows.
    async fn snap_target(&self, tables: &[&ComparedTable], held_max: Duration) -> Result<(), VerifyError> {
        let sources: Vec<String> = tables.iter().map(|table| table.source_oid.0.to_string()).collect();
        let sql = format!(
            "{}; SELECT {} AS oids, (SELECT count(*) FROM pgsluice.relation WHERE state = 'joined' AND source_oid IN ({})) AS joined",
            begin(Side::Target, tables, held_max),
            oids(Side::Target, tables),
            sources.join(", ")
        );
        let rows = self.target.rows(&sql).await.map_err(VerifyError::target)?;
        let row = rows.last().ok_or(VerifyError::Unreadable { side: Side::Target })?;
        check_identity(Side::Target, tables, row)?;
        if row.get("joined").and_then(|text| text.parse().ok()) == Some(tables.len()) {
            return Ok(());
        }
        Err(VerifyError::CopiedAgain)
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

/// What the source's snapshot contains, and a position of its WAL after every commit in it.
struct Snapped {
    snapshot: Snapshot,
    lsn: Lsn,
}

fn begin(side: Side, tables: &[&ComparedTable], held_max: Duration) -> String {
    let names: Vec<String> = tables.iter().map(|table| table.rows_of(side)).collect();
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = {}; LOCK TABLE {} IN ACCESS SHARE MODE",
        LOCK_TIMEOUT.as_millis(),
        held_max.as_millis(),
        names.join(", ")
    )
}

/// The OIDs of what has the tables' names now that they are locked.
fn oids(side: Side, tables: &[&ComparedTable]) -> String {
    let names = tables.iter().map(|table| quote_literal(&table.name(side).to_string()));
    let found: Vec<String> = names.map(|name| format!("{name}::regclass::oid")).collect();
    format!("concat_ws(',', {})", found.join(", "))
}

/// Names were read before: a table that is called so by now may be another one.
fn check_identity(side: Side, tables: &[&ComparedTable], row: &TextRow) -> Result<(), VerifyError> {
    let meant: Vec<String> = tables.iter().map(|table| table.oid(side).0.to_string()).collect();
    if row.get("oids") == Some(meant.join(",").as_str()) {
        Ok(())
    } else {
        Err(VerifyError::Renamed { side })
    }
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
