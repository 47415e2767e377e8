//! What a copy makes the source keep, looked at ten times a second: WAL, by its replication slots, and dead rows, by the oldest
//! snapshot that one of its sessions or slots holds. How old a snapshot is, is told in transactions and in seconds: since the
//! moment in which the oldest transaction that it does not contain began.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::Outcome;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// `application_name` of sessions that are this program's own and do not count.
pub(crate) const OWN_SESSIONS: &str = "bench";

/// The maxima over one copy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Held {
    /// How long the copy took.
    pub(crate) copy_seconds: f64,
    /// WAL that the slots kept.
    pub(crate) wal_bytes_max: i64,
    /// WAL that was written meanwhile.
    pub(crate) wal_bytes_written: i64,
    /// Transactions that began since the oldest snapshot.
    pub(crate) snapshot_transactions_max: i64,
    /// Transactions that began during the whole copy.
    pub(crate) transactions_written: i64,
    /// How old the oldest snapshot was.
    pub(crate) snapshot_seconds_max: f64,
    /// The longest that one session was seen with the same oldest transaction.
    pub(crate) session_seconds_max: f64,
    /// Chunks that pgsluice recorded.
    pub(crate) chunks: Option<i64>,
    /// The longest of them, if it recorded when they began.
    pub(crate) longest_chunk_seconds: Option<f64>,
    /// Looks.
    pub(crate) looks: usize,
}

/// Goes on looking until it is told to stop.
pub(crate) struct Watch {
    stop: oneshot::Sender<()>,
    looking: JoinHandle<Outcome<Held>>,
}

impl Watch {
    /// Begins, over a session on the source.
    pub(crate) fn start(client: Client) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, looking: tokio::spawn(look_until(client, stopped)) }
    }

    /// Ends it.
    pub(crate) async fn finish(self) -> Outcome<Held> {
        let _ = self.stop.send(());
        self.looking.await?
    }
}

/// `txid` is the number of the next transaction, which has no epoch here: a throwaway server has too few for one.
const LOOK_SQL: &str = "
    WITH sessions AS (
        SELECT pid, backend_xmin::text::int8 AS oldest FROM pg_stat_activity
         WHERE datname = current_database() AND application_name <> $1 AND backend_xmin IS NOT NULL
           AND backend_type IN ('client backend', 'walsender')
    )
    SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8,
           (SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::int8 FROM pg_replication_slots),
           txid_snapshot_xmax(txid_current_snapshot()),
           (SELECT min(oldest)
              FROM (SELECT oldest FROM sessions UNION ALL SELECT xmin::text::int8 FROM pg_replication_slots) AS held),
           (SELECT array_agg(pid) FROM sessions),
           (SELECT array_agg(oldest) FROM sessions)";

async fn look_until(client: Client, mut stopped: oneshot::Receiver<()>) -> Outcome<Held> {
    client.batch_execute(&format!("SET application_name = '{OWN_SESSIONS}'")).await?;
    let statement = client.prepare(LOOK_SQL).await?;
    let mut held = Held::default();
    // When the next transaction's number was first seen to be this.
    let mut first_seen: BTreeMap<i64, Instant> = BTreeMap::new();
    // Since when each session has been seen with its oldest transaction.
    let mut sessions: HashMap<(i32, i64), Instant> = HashMap::new();
    let mut began_at: Option<(i64, i64)> = None;
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = &mut stopped => return Ok(held),
        }
        let row = client.query_one(&statement, &[&OWN_SESSIONS]).await?;
        let now = Instant::now();
        let (written, next): (i64, i64) = (row.get(0), row.get(2));
        let (wal_began, next_began) = *began_at.get_or_insert((written, next));
        first_seen.entry(next).or_insert(now);
        held.looks += 1;
        held.wal_bytes_written = written - wal_began;
        held.transactions_written = next - next_began;
        held.wal_bytes_max = held.wal_bytes_max.max(row.get::<_, Option<i64>>(1).unwrap_or(0));
        let pids: Vec<i32> = row.get::<_, Option<_>>(4).unwrap_or_default();
        let oldest_of_each: Vec<i64> = row.get::<_, Option<_>>(5).unwrap_or_default();
        // A walsender says nothing of when its transaction began, so sessions are recognized from look to look.
        let seen: Vec<(i32, i64)> = pids.into_iter().zip(oldest_of_each).collect();
        sessions.retain(|session, _| seen.contains(session));
        for session in seen {
            let seconds = now.duration_since(*sessions.entry(session).or_insert(now)).as_secs_f64();
            held.session_seconds_max = held.session_seconds_max.max(seconds);
        }
        let Some(oldest) = row.get::<_, Option<i64>>(3) else { continue };
        held.snapshot_transactions_max = held.snapshot_transactions_max.max(next - oldest);
        // It was the next one when a look found that number, or between that look and the one after it.
        let taken = first_seen.range(..=oldest).next_back().or_else(|| first_seen.first_key_value());
        let seconds = taken.map_or(0.0, |(_, at)| now.duration_since(*at).as_secs_f64());
        held.snapshot_seconds_max = held.snapshot_seconds_max.max(seconds);
    }
}
