//! In which order writers take their tables. A table that a transaction takes first it holds longest, so it is seen held most
//! often: locking in that order, the fence waits for transactions that need nothing it has locked already. Writers
//! that take the same tables in different orders have no such order; for them the fence gives way and tries again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::FenceError;
use crate::cutover::SqlFailure;
use crate::model::Side;

/// How long writers are looked at, while arming, and how often.
const LOOK_FOR: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How often each relation was seen held by a writer; none of those that never were. Takes no lock.
pub(super) async fn seen_held(control: &Client, oids: &[u32]) -> Result<HashMap<u32, i64>, FenceError> {
    // The server reads all locks for it whatever is asked, so the selection is made there.
    let sql = "SELECT relation, count(*) FROM pg_locks
         WHERE locktype = 'relation' AND granted AND mode = 'RowExclusiveLock' AND relation = ANY ($1)
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
         GROUP BY relation";
    let mut seen = HashMap::new();
    let began = Instant::now();
    while began.elapsed() < LOOK_FOR {
        let rows = control
            .query_typed(sql, &[(&oids, Type::OID_ARRAY)])
            .await
            .map_err(SqlFailure::of(Side::Source, "look in which order writers take their tables"))?;
        for row in &rows {
            *seen.entry(row.get(0)).or_default() += row.get::<_, i64>(1);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(seen)
}
