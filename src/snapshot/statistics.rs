//! The target's statistics, gathered once everything is copied and built, while the stream catches up. Whether a table has some is asked
//! of the target itself: nothing is recorded, and a start in the middle goes on with the tables that have none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;

use super::SnapshotError;
use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::model::{Disposition, Side, TableName, counted};
use crate::runtime::{Backoff, Shutdown};
use crate::source::fence;

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LONGEST: Duration = Duration::from_secs(10);

/// Of the copied tables those whose statistics are missing, or older than their last rows: autovacuum may have looked at a table half of
/// which was in. The largest first; partitions have theirs with the topmost table, which is looked at as well. Where a crash has
/// cost the server its memory of when that was, any statistics will do.
const DUE: &str = "
WITH copied AS (
    SELECT to_regclass(format('%I.%I', schema_name, table_name))::oid AS oid, max(c.joined_at) AS joined_at
      FROM pgsluice.copy_table t LEFT JOIN pgsluice.copy_chunk c USING (schema_name, table_name)
     WHERE t.source_oid IS NOT NULL GROUP BY schema_name, table_name
), looked_at AS (
    SELECT oid, joined_at, coalesce(pg_partition_root(oid)::oid, oid) AS root FROM copied
    UNION ALL SELECT pg_partition_root(oid)::oid, joined_at, pg_partition_root(oid)::oid FROM copied
), seen AS (
    SELECT l.root, l.joined_at,
           greatest(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) AS analyzed_at,
           EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname) AS has_any
      FROM looked_at l JOIN pg_class c ON c.oid = l.oid JOIN pg_namespace n ON n.oid = c.relnamespace
), due AS (
    SELECT DISTINCT root FROM seen WHERE CASE WHEN analyzed_at IS NULL THEN NOT has_any ELSE analyzed_at < joined_at END
)
SELECT n.nspname::text, c.relname::text
  FROM due JOIN pg_class c ON c.oid = due.root JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(c.oid)), pg_relation_size(c.oid)) DESC";

/// What gathering needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Statistics {
    config: Arc<Config>,
    is_due: Arc<AtomicBool>,
}

type Queue = Arc<Mutex<VecDeque<TableName>>>;

impl Statistics {
    /// `is_due` until it is known that no table lacks them.
    #[must_use]
    pub fn new(config: Arc<Config>, is_due: bool) -> Self {
        Self { config, is_due: Arc::new(AtomicBool::new(is_due)) }
    }

    /// Whether there is a table without.
    #[must_use]
    pub fn are_due(&self) -> bool {
        self.is_due.load(Ordering::Acquire)
    }

    /// Gathers them, and tries again what fails, until no table lacks them or until shutdown.
    pub async fn gather(&self, shutdown: &Shutdown) {
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
        loop {
            let outcome = tokio::select! {
                outcome = self.attempt() => outcome,
                () = shutdown.requested() => return,
            };
            match outcome {
                Ok(()) => {
                    if self.is_due.swap(false, Ordering::AcqRel) {
                        tracing::info!("the target has its statistics");
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the target's statistics are not gathered yet; it is tried again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    async fn attempt(&self) -> Result<(), SnapshotError> {
        let target = self.connect().await?;
        let due = due(&target).await?;
        if due.is_empty() {
            target.close().await;
            return Ok(());
        }
        self.is_due.store(true, Ordering::Release);
        tracing::info!(
            "statistics of {} are being gathered on the target",
            counted(due.len(), "table", "tables")
        );
        let others = self.config.snapshot.index_jobs.min(due.len()).saturating_sub(1);
        let queue: Queue = Arc::new(Mutex::new(due.into()));
        let mut sessions = JoinSet::new();
        for _ in 0..others {
            sessions.spawn(analyze(self.connect().await?, Arc::clone(&queue)));
        }
        sessions.spawn(analyze(target, queue));
        while let Some(ended) = sessions.join_next().await {
            ended.map_err(|_| SnapshotError::WorkerLost)??;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<SqlSession, SnapshotError> {
        let target = connect_sql(&self.config.target.connection, Side::Target, "statistics").await?;
        // Should we be gone in the middle, the server ends it soon.
        target
            .batch_execute("SET client_connection_check_interval = '2s'")
            .await
            .map_err(SnapshotError::target)?;
        fence::pass(&*target).await.map_err(SnapshotError::target)?;
        Ok(target)
    }
}

async fn due(target: &SqlSession) -> Result<Vec<TableName>, SnapshotError> {
    match target.query(DUE, &[]).await {
        Ok(rows) => Ok(rows
            .iter()
            .map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)))
            .collect()),
        // Nothing was copied by us.
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        Err(error) => Err(SnapshotError::target(error)),
    }
}

async fn analyze(target: SqlSession, queue: Queue) -> Result<(), SnapshotError> {
    loop {
        let Some(table) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { break };
        match target.batch_execute(&format!("ANALYZE {table}")).await {
            Ok(()) => {}
            Err(error) if is_missing(&error) => tracing::debug!(table = %table.plain(), "the table is gone"),
            Err(error) => {
                let error = SnapshotError::copying(Side::Target, &table)(error);
                if target.is_closed() || matches!(error.disposition(), Disposition::Retry) {
                    return Err(error);
                }
                // An index's expression may raise an error. No cutover need wait for that.
                tracing::warn!(table = %table.plain(), %error, "this table has no statistics: run ANALYZE on the target once that is mended");
            }
        }
    }
    target.close().await;
    Ok(())
}

fn is_missing(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME)))
}
