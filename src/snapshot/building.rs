//! Builds what a copied table still lacks: its other indexes, several at the same time. An index that cannot be built keeps nothing
//! else from going on, and is tried again; nothing is copied again because of it.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::GenericClient;

use super::SnapshotError;
use super::attempt::{Attempt, Event};
use super::worker::connect_target;
use crate::connection::SqlSession;
use crate::model::{Disposition, Oid, TableName};
use crate::target::schema::{IndexBuild, SchemaError, build_index, existing_indexes};

/// An index that could not be built is tried again after this long.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Builds of one table that lock one another out are tried again at once, almost.
const AFTER_DEADLOCK: Duration = Duration::from_millis(100);

/// An index and its table.
pub(super) type Build = (Arc<IndexBuild>, Oid);

pub(super) struct Builder {
    attempt: Arc<Attempt>,
    target: SqlSession,
}

/// Builds what the stream finds rows of a table by. Without it there is no going on.
pub(super) async fn build_key(
    target: &impl GenericClient,
    table: &TableName,
    key: &IndexBuild,
) -> Result<(), SnapshotError> {
    target.batch_execute(&key.statements()).await.map_err(|error| SnapshotError::Index {
        table: table.clone(),
        object: format!("index {}", key.index.plain()),
        error: error.into(),
        statement: key.sql.clone(),
    })
}

impl Builder {
    pub(super) async fn connect(attempt: Arc<Attempt>) -> Result<Self, SnapshotError> {
        let target = connect_target(&attempt, "indexes").await?;
        Ok(Self { attempt, target })
    }

    /// Works until it is dropped.
    pub(super) async fn run(self) -> Result<(), SnapshotError> {
        loop {
            let (build, table) = self.attempt.builds.next().await;
            self.index(build, table).await?;
        }
    }

    async fn index(&self, build: Arc<IndexBuild>, table: Oid) -> Result<(), SnapshotError> {
        let error = match build_index(&self.target, &build, &self.attempt.shutdown).await {
            Ok(()) => {
                self.built(&build, table);
                return Ok(());
            }
            Err(SchemaError::Stopped) => return Err(SnapshotError::Stopped),
            Err(error) if self.target.is_closed() => return Err(SnapshotError::schema(error)),
            Err(error) => error,
        };
        // Built by hand, or by a session whose answer was lost.
        let schemas = std::iter::once(build.index.schema.clone()).collect();
        if existing_indexes(&self.target, &schemas)
            .await
            .map_err(SnapshotError::schema)?
            .contains(&build.index)
        {
            self.built(&build, table);
            return Ok(());
        }
        let is_passing = matches!(error.disposition(), Disposition::Retry);
        if !is_passing {
            let _ = self.attempt.events.send(Event::NotBuilt {
                index: build.index.clone(),
                message: error.to_string(),
                remedy: error.remedy(),
            });
        }
        let (attempt, delay) =
            (Arc::clone(&self.attempt), if is_passing { AFTER_DEADLOCK } else { RETRY_AFTER });
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            attempt.builds.push([(build, table)]);
        });
        Ok(())
    }

    fn built(&self, build: &IndexBuild, table: Oid) {
        self.attempt.progress.index_built(&build.table);
        let _ = self.attempt.events.send(Event::Built { table, index: build.index.clone() });
    }
}
