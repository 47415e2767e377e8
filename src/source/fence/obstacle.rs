//! Who is in the fence's way: transactions that hold a lock it needs, that have a transaction id while it needs
//! there to be none, or that are prepared. Works with ordinary rights: what another role runs is not visible then,
//! its process, role and age are.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::FenceError;
use crate::cutover::SqlFailure;
use crate::model::{Side, TableName};

/// Somebody in the way.
#[derive(Clone, Debug, PartialEq)]
pub enum Obstacle {
    /// A session.
    Session {
        /// `pg_stat_activity.pid`.
        pid: i32,
        /// Its role, or what kind of background process it is.
        role: String,
        /// `application_name`.
        application: String,
        /// `idle in transaction`, `active`, …; empty when we may not see it.
        state: String,
        /// Age of its transaction.
        age: Duration,
        /// How it stands to the fence.
        standing: Standing,
    },
    /// A prepared transaction.
    Prepared {
        /// `pg_prepared_xacts.gid`.
        gid: String,
        /// Who prepared it.
        owner: String,
        /// Since when.
        age: Duration,
    },
}

/// How somebody with a transaction id stands to a fence that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It goes on.
    Free,
    /// It waits for the fence, or for somebody who does, and has made no relation: it goes no further while the fence is held.
    HeldUp,
    /// It waits as well, and has made a relation that nobody else can see yet. Whatever it waits for, a sequence, say, may let it
    /// go on after the commit, and what it has written there would be left behind.
    HeldUpHavingMade,
}

impl Obstacle {
    /// The process to terminate, if there is one and the operator allows it.
    const fn pid(&self) -> Option<i32> {
        match self {
            Self::Session { pid, .. } => Some(*pid),
            Self::Prepared { .. } => None,
        }
    }

    /// How long its transaction has been open.
    pub(super) const fn age(&self) -> Duration {
        match self {
            Self::Session { age, .. } | Self::Prepared { age, .. } => *age,
        }
    }

    /// Whether it can do nothing while the fence is held, and nothing of it counts afterwards.
    pub(super) const fn is_harmless(&self) -> bool {
        matches!(self, Self::Session { standing: Standing::HeldUp, .. })
    }

    /// Whether it waits for the fence and cannot be left waiting.
    pub(super) const fn has_made(&self) -> bool {
        matches!(self, Self::Session { standing: Standing::HeldUpHavingMade, .. })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session { pid, role, application, state, age, .. } => {
                write!(f, "process {pid} of {role}")?;
                if !application.is_empty() {
                    write!(f, " ({application})")?;
                }
                if !state.is_empty() {
                    write!(f, ", {state}")?;
                }
                write!(f, ", transaction open for {:.1} s", age.as_secs_f64())
            }
            Self::Prepared { gid, owner, age } => {
                write!(f, "prepared transaction '{gid}' of {owner}, {:.1} s old", age.as_secs_f64())
            }
        }
    }
}

/// What is selected of a session in `pg_stat_activity a`.
pub(super) const SESSION: &str = "a.pid, coalesce(a.usename::text, a.backend_type, 'a background process'),
    coalesce(a.application_name, ''), coalesce(a.state, ''),
    coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8";

pub(super) fn session(row: &Row) -> Obstacle {
    Obstacle::Session {
        pid: row.get(0),
        role: row.get(1),
        application: row.get(2),
        state: row.get(3),
        age: seconds(row.get(4)),
        standing: Standing::Free,
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

/// Those that have a transaction id in this database, except ours and autovacuum's. A transaction's lock on its own id is
/// given up only after its commit record is written, so whoever is not in `pg_locks` is before the marker in the WAL.
pub(super) async fn writing_transactions(
    control: &Client,
    fence_pid: i32,
) -> Result<Vec<Obstacle>, FenceError> {
    let failed = SqlFailure::of(Side::Source, "look for transactions that are still writing");
    let sql = format!(
        "SELECT {SESSION}, EXISTS (SELECT FROM pg_locks n
             WHERE n.pid = a.pid AND n.locktype = 'relation' AND n.granted AND n.mode = 'AccessExclusiveLock'
               AND n.database = l_database.oid AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = n.relation))
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
         JOIN pg_database l_database ON l_database.datname = current_database()
         WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
           AND a.datname = current_database() AND a.pid <> $1 AND a.pid <> pg_backend_pid()
           AND a.usesysid IS NOT NULL"
    );
    // A session's activity is read once per transaction; this session is never in one.
    let (sessions, prepared) = futures_util::future::try_join(
        control.query_typed(&sql, &[(&fence_pid, Type::INT4)]),
        control.query_typed(PREPARED, &[]),
    )
    .await
    .map_err(&failed)?;
    let held_up = if sessions.is_empty() { HashSet::new() } else { held_up(control, fence_pid).await? };
    let session = |row: &Row| {
        let mut found = session(row);
        if let Obstacle::Session { pid, standing, .. } = &mut found {
            *standing = match (held_up.contains(pid), row.get(5)) {
                (false, _) => Standing::Free,
                (true, false) => Standing::HeldUp,
                (true, true) => Standing::HeldUpHavingMade,
            };
        }
        found
    };
    Ok(prepared.iter().map(prepared_transaction).chain(sessions.iter().map(session)).collect())
}

/// Those that wait for the fence, or for somebody who does, whether they have a transaction id or not.
pub(super) async fn held_up(control: &Client, fence_pid: i32) -> Result<HashSet<i32>, FenceError> {
    let sql =
        "SELECT DISTINCT pid, pg_blocking_pids(pid) FROM pg_locks WHERE NOT granted AND pid IS NOT NULL";
    let rows = control
        .query_typed(sql, &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "look who waits for whom"))?;
    let blockers: Vec<(i32, Vec<i32>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(held_up_by(fence_pid, &blockers))
}

/// Those that wait for `pid`, or for somebody who does. `blockers`: processes, each with those it waits for.
fn held_up_by(pid: i32, blockers: &[(i32, Vec<i32>)]) -> HashSet<i32> {
    let mut held_up = HashSet::from([pid]);
    loop {
        let more: Vec<i32> = blockers
            .iter()
            .filter(|(waiting, by)| !held_up.contains(waiting) && by.iter().any(|by| held_up.contains(by)))
            .map(|(waiting, _)| *waiting)
            .collect();
        if more.is_empty() {
            return held_up;
        }
        held_up.extend(more);
    }
}

/// Those that hold a lock on `relation` (`pg_class.oid`) which conflicts with the fence's.
pub(super) async fn lock_holders(
    control: &Client,
    relation: u32,
    fence_pid: i32,
) -> Result<Vec<Obstacle>, FenceError> {
    let sql = format!(
        "SELECT DISTINCT {SESSION}
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted AND a.pid <> $2
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')"
    );
    let (sessions, prepared) = futures_util::future::try_join(
        control.query_typed(&sql, &[(&relation, Type::OID), (&fence_pid, Type::INT4)]),
        control.query_typed(PREPARED, &[]),
    )
    .await
    .map_err(SqlFailure::of(Side::Source, "look for who holds a table's lock"))?;
    Ok(sessions.iter().map(session).chain(prepared.iter().map(prepared_transaction)).collect())
}

const PREPARED: &str = "SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8
    FROM pg_prepared_xacts WHERE database = current_database()";

fn prepared_transaction(row: &Row) -> Obstacle {
    Obstacle::Prepared { gid: row.get(0), owner: row.get(1), age: seconds(row.get(2)) }
}

/// The prepared transactions of this database: none may be left when the fence is taken.
///
/// # Errors
/// The catalog cannot be read.
pub async fn prepared_transactions(source: &Client) -> Result<Vec<Obstacle>, FenceError> {
    let rows = source
        .query_typed(PREPARED, &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for prepared transactions"))?;
    Ok(rows.iter().map(prepared_transaction).collect())
}

/// Sessions that have held a write lock on one of `tables`, or a transaction id, for longer than `age`: the fence
/// would wait for them in vain.
///
/// # Errors
/// The catalog cannot be read.
pub async fn long_transactions(
    source: &Client,
    tables: &[(u32, TableName)],
    age: Duration,
) -> Result<Vec<Obstacle>, FenceError> {
    let oids: Vec<u32> = tables.iter().map(|(oid, _)| *oid).collect();
    let sql = format!(
        "SELECT DISTINCT {SESSION}
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.granted AND a.datname = current_database() AND a.pid <> pg_backend_pid()
           AND a.usesysid IS NOT NULL
           AND ((l.locktype = 'relation' AND l.relation = ANY ($1)
                 AND l.mode NOT IN ('AccessShareLock', 'RowShareLock'))
                OR (l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock'))
           AND clock_timestamp() - a.xact_start > make_interval(secs => $2)"
    );
    let rows = source
        .query_typed(&sql, &[(&oids, Type::OID_ARRAY), (&age.as_secs_f64(), Type::FLOAT8)])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for long transactions"))?;
    Ok(rows.iter().map(session).collect())
}

/// Tables on which an autovacuum is at work that does not give way, because it prevents a wraparound of transaction ids.
///
/// # Errors
/// The catalog cannot be read.
pub async fn wraparound_vacuums(
    source: &Client,
    tables: &[(u32, TableName)],
) -> Result<Vec<(TableName, i32)>, FenceError> {
    let oids: Vec<u32> = tables.iter().map(|(oid, _)| *oid).collect();
    // What a background process runs only some roles may see: the table's age says the same.
    let sql = "SELECT n.nspname::text, c.relname::text, l.pid
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
         JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'ShareUpdateExclusiveLock'
           AND a.usesysid IS NULL AND l.relation = ANY ($1)
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (age(c.relfrozenxid) > current_setting('autovacuum_freeze_max_age')::int
                OR mxid_age(c.relminmxid) > current_setting('autovacuum_multixact_freeze_max_age')::int)";
    let rows = source
        .query_typed(sql, &[(&oids, Type::OID_ARRAY)])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for autovacuum"))?;
    let found = |row: &Row| (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get(2));
    Ok(rows.iter().map(found).collect())
}

/// One row, one column for each enabled subscription of this database: its name.
pub(crate) const ENABLED_SUBSCRIPTIONS: &str = "SELECT subname::text FROM pg_subscription
    WHERE subenabled AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1";

/// Enabled subscriptions of this database: their apply workers fire no statement triggers, so no fence refuses them.
///
/// # Errors
/// The catalog cannot be read.
pub async fn subscriptions(source: &Client) -> Result<Vec<String>, FenceError> {
    let rows = source
        .query_typed(ENABLED_SUBSCRIPTIONS, &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "look for subscriptions"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Sessions of clients that are connected to this database directly, by `application_name` (or role), most first: they
/// meet the fence's error, because nobody holds them back.
///
/// # Errors
/// The catalog cannot be read.
pub async fn clients(source: &Client) -> Result<Vec<(String, i64)>, FenceError> {
    let sql = "SELECT coalesce(nullif(application_name, ''), usename::text, 'unknown'), count(*)
         FROM pg_stat_activity
         WHERE datname = current_database() AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
           AND coalesce(application_name, '') NOT LIKE 'pgsluice %'
           AND coalesce(backend_type, 'client backend') = 'client backend'
         GROUP BY 1 ORDER BY 2 DESC, 1";
    let rows =
        source.query_typed(sql, &[]).await.map_err(SqlFailure::of(Side::Source, "look for clients"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Ends the sessions among those in the way.
pub(super) async fn terminate(control: &Client, obstacles: &[Obstacle]) -> Result<(), FenceError> {
    for pid in obstacles.iter().filter_map(Obstacle::pid) {
        tracing::warn!(pid, "terminating a session that is in the cutover's way, as cutover.on_writers says");
        ask(control, "SELECT pg_terminate_backend($1)", pid).await?;
    }
    Ok(())
}

/// Signals a process of the source.
pub(super) async fn ask(control: &Client, sql: &'static str, pid: i32) -> Result<(), FenceError> {
    control
        .query_typed(sql, &[(&pid, Type::INT4)])
        .await
        .map_err(SqlFailure::of(Side::Source, "end a session that is in the way"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_somebody_who_waits_for_the_fence_is_held_up_too() {
        let blockers = [(1, vec![]), (2, vec![3]), (3, vec![1, 9]), (4, vec![1]), (5, vec![2])];
        assert_eq!(held_up_by(9, &blockers), HashSet::from([9, 3, 2, 5]));
        assert_eq!(held_up_by(8, &blockers), HashSet::from([8]));
    }
}
