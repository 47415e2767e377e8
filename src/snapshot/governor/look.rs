//! What the governor goes by, asked of the source: two queries, which read statistics only. Never decides anything.

use super::verdict::{Pressure, StandbyBehind};
use crate::connection::SqlSession;
use crate::snapshot::SnapshotError;
use crate::source::slot;

/// The physical standby that has most to replay, and how many sessions the role may not look into. A walsender that
/// reads a logical slot is a subscriber (or our own) and replays nothing that is waited for; neither do programs that
/// only keep or copy WAL, nor a standby that is just starting: they say nothing of what they replayed.
///
/// Without the right to see more of others' sessions than their pid, everything else of them is NULL.
const LOOK_AT_STANDBYS: &str = "
SELECT worst.application_name, worst.pid, worst.lag_bytes, hidden.count AS hidden
  FROM (SELECT count(*) FROM pg_stat_replication WHERE state IS NULL
           AND pid NOT IN (SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL)
       ) AS hidden
  LEFT JOIN (SELECT application_name, pid,
                    greatest((CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
                              - replay_lsn)::int8, 0) AS lag_bytes
               FROM pg_stat_replication
              WHERE replay_lsn IS NOT NULL
                AND pid NOT IN (SELECT active_pid FROM pg_replication_slots
                                 WHERE slot_type = 'logical' AND active_pid IS NOT NULL)
              ORDER BY lag_bytes DESC LIMIT 1) AS worst ON true";

/// The oldest transaction with an id of its own, of any database: WAL is one for all of them. Its query is not read: it
/// may contain row values (INV-10).
const LOOK_AT_WRITERS: &str = "
SELECT *
  FROM (SELECT pid, NULL AS gid, datname::text AS database, usename::text AS usename, application_name, state,
               extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_seconds
          FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND xact_start IS NOT NULL
         UNION ALL
        SELECT NULL, gid, database::text, NULL, NULL, NULL, extract(epoch FROM clock_timestamp() - prepared)::float8
          FROM pg_prepared_xacts) AS writers
 ORDER BY age_seconds DESC LIMIT 1";

/// Looks at the WAL that `slot` keeps, at what may hold it up, and at the standbys of `source`.
///
/// # Errors
/// [`SnapshotError::Slot`], [`SnapshotError::Source`].
pub async fn look(source: &SqlSession, slot: &str) -> Result<Pressure, SnapshotError> {
    let state = slot::inspect(source, slot).await.map_err(SnapshotError::slot)?;
    let standbys = source.query_typed_one(LOOK_AT_STANDBYS, &[]).await.map_err(SnapshotError::source)?;
    let writers = source.query_typed(LOOK_AT_WRITERS, &[]).await.map_err(SnapshotError::source)?;
    let unsigned = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let standby = unsigned(standbys.get("lag_bytes")).map(|lag_bytes| StandbyBehind {
        application_name: standbys.get::<_, Option<String>>("application_name").unwrap_or_default(),
        pid: standbys.get::<_, Option<i32>>("pid").unwrap_or_default(),
        lag_bytes,
    });
    Ok(Pressure {
        wal_retained_bytes: state.and_then(|state| state.retained_bytes),
        oldest_writer: writers.first().map(slot::decode_old),
        standby,
        hidden_senders: unsigned(standbys.get("hidden")).unwrap_or_default(),
    })
}
