//! A build of pgsluice, run as an operator runs it: a configuration file and `run`. The copy is over when the record on the
//! target says so; the API is not asked, because answering for thousands of tables would be work of the program.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use tempfile::TempDir;
use tokio_postgres::error::SqlState;

use super::Outcome;
use super::native::COPY_WAIT;
use super::servers::Servers;

/// How often the target is asked: as often as of the others, and seldom enough to cost nothing.
const POLL: Duration = Duration::from_millis(50);
/// What the program says when it has them.
const STATISTICS_ARE_THERE: &str = "the target has its statistics";
/// Longest wait for the program's end.
const END_WAIT: Duration = Duration::from_secs(15);

/// One run of the program.
pub(crate) struct SluiceRun {
    command: ReplicatorCommand,
    replicator: Option<Replicator>,
    name: String,
    /// Its configuration and log.
    _directory: TempDir,
}

impl SluiceRun {
    /// Ready to start, from a connection string of the source into a database; slot and publication have its name.
    pub(crate) fn new(
        servers: &Servers,
        (source_url, database): (String, &str),
        binary: &Path,
        configuration: &str,
    ) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let command = ReplicatorCommand {
            binary: binary.to_owned(),
            directory: directory.path().to_owned(),
            source_url,
            target_url: servers.target_url(database),
            postgres_bin_dir: servers.target.bindir(),
            more_configuration: format!(
                "source.slot = \"{database}\"\nsource.publication = \"{database}\"\n{configuration}"
            ),
        };
        Ok(Self { command, replicator: None, name: database.to_owned(), _directory: directory })
    }

    /// Starts the program.
    pub(crate) fn start(&mut self) -> Outcome<()> {
        self.replicator = Some(self.command.start()?);
        Ok(())
    }

    /// Its process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.replicator.as_ref().map(Replicator::id)
    }

    /// Waits until everything is copied, built and recorded. Statistics come after that.
    pub(crate) async fn wait_until_streaming(&mut self, servers: &Servers, database: &str) -> Outcome<()> {
        let client = servers.target.client(database).await?;
        let deadline = Instant::now() + COPY_WAIT;
        loop {
            let phase = "SELECT phase = 'streaming' FROM pgsluice.migration";
            match client.query_opt(phase, &[]).await {
                Ok(Some(row)) if row.get(0) => return Ok(()),
                Ok(_) => {}
                // The record is not made yet.
                Err(error)
                    if [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME]
                        .iter()
                        .any(|state| error.code() == Some(state)) => {}
                Err(error) => return Err(error.into()),
            }
            let replicator = self.replicator.as_mut().ok_or("the program does not run")?;
            if Instant::now() > deadline || replicator.ended().is_some() {
                return Err(format!("the copy did not get done; the log:\n{}", replicator.log()).into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until it also has the target's statistics, by its log.
    pub(crate) async fn wait_for_statistics(&mut self) -> Outcome<()> {
        let replicator = self.replicator.as_mut().ok_or("the program does not run")?;
        let deadline = Instant::now() + COPY_WAIT;
        while !replicator.log().contains(STATISTICS_ARE_THERE) {
            if Instant::now() > deadline || replicator.ended().is_some() {
                return Err(format!("the statistics did not come; the log:\n{}", replicator.log()).into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Stops the program as an operator does.
    pub(crate) async fn stop(&mut self) -> Outcome<()> {
        if let Some(mut replicator) = self.replicator.take() {
            replicator.signal(Signal::SIGTERM);
            replicator.wait_for_end(END_WAIT).await?;
        }
        Ok(())
    }

    /// Removes slot and publication of a program that has ended.
    pub(crate) async fn forget(&self, servers: &Servers, source_database: &str) -> Outcome<()> {
        let client = servers.source.client(source_database).await?;
        let drop_slots = "SELECT pg_terminate_backend(active_pid, 10000), pg_drop_replication_slot(slot_name)
              FROM pg_replication_slots WHERE slot_name = $1::text";
        client.execute(drop_slots, &[&self.name]).await?;
        Ok(client.batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", self.name)).await?)
    }
}
