//! Who may write to the target. A replicator that was killed can leave a session behind whose COMMIT is still under
//! way; if its successor read the progress record before that, changes would be applied twice. Advisory locks close
//! that gap: the successor starts only when no session of a predecessor is left, and there is one replicator only.

use std::time::Duration;

use crate::connection::{SqlError, SqlSession};

/// First key of all advisory locks of this program: "pgsl".
const LOCK_SPACE: i32 = 0x7067_736c;
/// Held by the one replicator of this database.
const REPLICATOR_LOCK: i32 = 1;
/// Held, shared, by every other session that writes rows.
const WRITERS_LOCK: i32 = 2;
/// Held, shared, by every session that applies changes beside the replicator's own.
const APPLIERS_LOCK: i32 = 3;

/// How often the lock is asked for while another session has it.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long a predecessor's sessions may take to end; a server notices a dead client's closed socket at once.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(30);

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The target refused a statement.
    #[error("the target's lock for replicators cannot be asked for: {0}")]
    Sql(#[from] SqlError),
    /// Another replicator is at work.
    #[error("another pgsluice session (pid {pid} on the target, client {client}) has worked on this target for the last {}s", PREDECESSOR_WAIT.as_secs())]
    Taken {
        /// Backend that has it.
        pid: i32,
        /// Its client's address, or `local`.
        client: String,
    },
}

impl From<tokio_postgres::Error> for LockError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error.into())
    }
}

impl LockError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Sql(_) => {
                "Check that the target is up and reachable. pgsluice goes on by itself, or with its next start.".into()
            }
            Self::Taken { pid, .. } => format!(
                "Stop the other pgsluice first: only one may run for a target. If none is running, its connection was cut \
                 off without a word; end it with SELECT pg_terminate_backend({pid}); on the target."
            ),
        }
    }
}

/// Makes `session` the target's one replicator, for as long as it lives. Waits for a predecessor to end, and for every session
/// that applied changes for it: none of them can still commit.
///
/// # Errors
/// [`LockError::Taken`] when they do not end in time.
pub async fn become_replicator(session: &SqlSession) -> Result<(), LockError> {
    take(session, REPLICATOR_LOCK).await?;
    take(session, APPLIERS_LOCK).await?;
    session.execute("SELECT pg_advisory_unlock($1, $2)", &[&LOCK_SPACE, &APPLIERS_LOCK]).await?;
    Ok(())
}

/// Whether the server of `session` is the one on which a replicator of this database is at work.
///
/// # Errors
/// What the target answered.
pub async fn is_replicator_here(session: &SqlSession) -> Result<bool, tokio_postgres::Error> {
    Ok(holder(session, REPLICATOR_LOCK).await?.is_some())
}

/// Waits until no session of a predecessor can still write. Only the replicator may ask.
///
/// # Errors
/// [`LockError::Taken`] when they do not end in time.
pub async fn wait_for_predecessors(session: &SqlSession) -> Result<(), LockError> {
    take(session, WRITERS_LOCK).await?;
    session.execute("SELECT pg_advisory_unlock($1, $2)", &[&LOCK_SPACE, &WRITERS_LOCK]).await?;
    Ok(())
}

/// Marks `session` as one that applies changes beside the replicator's own.
///
/// # Errors
/// What the target answered.
pub async fn join_appliers(session: &SqlSession) -> Result<(), tokio_postgres::Error> {
    session.execute("SELECT pg_advisory_lock_shared($1, $2)", &[&LOCK_SPACE, &APPLIERS_LOCK]).await?;
    Ok(())
}

/// Marks `session` as one that writes rows, so that a successor waits for its end.
///
/// # Errors
/// What the target answered.
pub async fn join_writers(session: &SqlSession) -> Result<(), tokio_postgres::Error> {
    session.execute("SELECT pg_advisory_lock_shared($1, $2)", &[&LOCK_SPACE, &WRITERS_LOCK]).await?;
    Ok(())
}

/// The same as SQL, for a session that `psql` opens.
#[must_use]
pub fn join_writers_sql() -> String {
    format!("SELECT pg_advisory_lock_shared({LOCK_SPACE}, {WRITERS_LOCK})")
}

/// Gives the replicator's place up, so that another session of this process can take it.
///
/// # Errors
/// What the target answered.
pub async fn resign(session: &SqlSession) -> Result<(), tokio_postgres::Error> {
    session.execute("SELECT pg_advisory_unlock($1, $2)", &[&LOCK_SPACE, &REPLICATOR_LOCK]).await?;
    Ok(())
}

async fn take(session: &SqlSession, lock: i32) -> Result<(), LockError> {
    let deadline = tokio::time::Instant::now() + PREDECESSOR_WAIT;
    loop {
        let row = session.query_one("SELECT pg_try_advisory_lock($1, $2)", &[&LOCK_SPACE, &lock]).await?;
        if row.get(0) {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline
            && let Some((pid, client)) = holder(session, lock).await?
        {
            return Err(LockError::Taken { pid, client });
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn holder(session: &SqlSession, lock: i32) -> Result<Option<(i32, String)>, tokio_postgres::Error> {
    let row = session
        .query_opt(
            "SELECT l.pid, coalesce(host(a.client_addr), 'local')
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.classid::bigint = $1::int AND l.objid::bigint = $2::int
             LIMIT 1",
            &[&LOCK_SPACE, &lock],
        )
        .await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}
