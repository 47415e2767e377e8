//! The source's post-data, read while slot and plan are made: the copy's first rows need not wait for `pg_dump`. What is read ahead is
//! a convenience and nothing else: if it failed, or is old, it is read when it is needed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use super::SnapshotError;
use crate::config::{Config, SchemaMode};
use crate::connection::connect_sql;
use crate::model::Side;
use crate::runtime::Shutdown;
use crate::target::schema::{self, Division};

/// Definitions may have changed since: making the slot can wait for long transactions.
const FRESH: Duration = Duration::from_secs(10);

/// What is read ahead. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct PostDataAhead(Arc<Mutex<Option<Reading>>>);

type Reading = AbortOnDropHandle<Option<(Instant, Division)>>;

impl PostDataAhead {
    /// Begins to read it, in sessions of its own. What was begun before is given up.
    pub fn begin(&self, config: Arc<Config>, shutdown: Shutdown) {
        if config.schema.mode != SchemaMode::Copy {
            return;
        }
        let reading = tokio::spawn(async move {
            let read = read(&config, &shutdown).await;
            read.inspect_err(|error| tracing::debug!(%error, "the post-data could not be read ahead"))
                .ok()
                .map(|division| (Instant::now(), division))
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(reading));
    }

    /// Waits for what was begun, and takes it if it is fresh.
    pub(super) async fn take(&self) -> Option<Division> {
        let reading = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let (read_at, division) = reading.await.ok()??;
        (read_at.elapsed() < FRESH).then_some(division)
    }
}

async fn read(config: &Config, shutdown: &Shutdown) -> Result<Division, SnapshotError> {
    let source = connect_sql(&config.source.connection, Side::Source, "copy control").await?;
    let target = connect_sql(&config.target.connection, Side::Target, "copy records").await?;
    let read = schema::read_post_data(config, &source, &target, shutdown).await;
    tokio::join!(source.close(), target.close());
    read.map_err(SnapshotError::schema)
}
