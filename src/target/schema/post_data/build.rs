//! Building what was divided: an index in a session of ours, the rest by `psql`.

use std::time::Duration;

use super::super::process::ScratchDirectory;
use super::super::{SchemaCopied, SchemaError, restore};
use super::{Division, IndexBuild};
use crate::config::Config;
use crate::connection::SqlSession;
use crate::runtime::Shutdown;

/// How long a server may take to give a statement up.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(3);

/// Builds one index in a session that has run [`Division::session_sql`]: all of it or nothing.
///
/// When the program is asked to stop, the server is asked to cancel the statement, and its answer is waited for. A
/// constraint locks its table against everything while its index is built, an index against writes. Two builds of one
/// table can meet in a deadlock, which is a [`Disposition::Retry`](crate::model::Disposition::Retry).
///
/// # Errors
/// [`SchemaError::Index`] names index and statement; [`SchemaError::Stopped`].
pub async fn build_index(
    target: &SqlSession,
    build: &IndexBuild,
    shutdown: &Shutdown,
) -> Result<(), SchemaError> {
    let statements = build.statements();
    let mut building = std::pin::pin!(target.batch_execute(&statements));
    let built = tokio::select! {
        built = &mut building => built,
        () = shutdown.requested() => {
            // Otherwise the server would go on building an index for nobody.
            if let Err(error) = target.cancel_handle().cancel().await {
                tracing::warn!(%error, index = %build.index, "the index that is being built cannot be cancelled");
                return Err(SchemaError::Stopped);
            }
            // It may have been finished in this moment, and then it is there.
            let ended = tokio::time::timeout(CANCEL_TIMEOUT, building).await;
            return if matches!(ended, Ok(Ok(()))) { Ok(()) } else { Err(SchemaError::Stopped) };
        }
    };
    built.map_err(|error| SchemaError::Index {
        index: build.index.clone(),
        statement: build.sql.clone(),
        error: error.into(),
    })
}

/// Builds everything that is not in [`Division::by_table`], in the dump's order, and runs `extra_sql` in the same
/// transaction. The indexes of `by_table` have to be there.
///
/// Cancel safe: the target's transaction is rolled back.
///
/// # Errors
/// As [`copy_pre_data`](crate::target::schema::copy_pre_data).
pub async fn build_rest(
    config: &Config,
    division: &Division,
    extra_sql: &str,
    shutdown: &Shutdown,
) -> Result<SchemaCopied, SchemaError> {
    let scratch = ScratchDirectory::create()?;
    let script = scratch.path().join("schema.sql");
    let extra = scratch.path().join("record.sql");
    let entries = division.rest.iter().map(|entry| entry.sql.as_str());
    let parts = std::iter::once(division.preamble.as_str()).chain(entries).chain([division.trailer.as_str()]);
    scratch.write(&script, &parts.collect::<String>())?;
    scratch.write(&extra, extra_sql)?;
    tracing::info!(objects = division.rest.len(), "the rest of the schema is being built on the target");
    restore(&division.tools, &config.target.connection, &script, &extra).run(shutdown).await?;
    Ok(SchemaCopied { findings: division.findings.clone() })
}
