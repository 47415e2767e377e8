//! A build of pgsluice as a contender, run as an operator runs it. Its base is a migration that has copied the rows and was
//! stopped; a run is pointed at its own copies by the slot's name in the records on the target and in the configuration.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use tempfile::TempDir;
use tokio_postgres::Client;

use super::Outcome;
use super::ground::{BacklogEnd, Ground};
use super::native::{POLL, RUN_WAIT, has_mark};
use super::servers::Servers;

/// Longest wait for the copy, and for the program's end.
const COPY_WAIT: Duration = Duration::from_secs(300);
const END_WAIT: Duration = Duration::from_secs(15);

/// One run of the program.
pub(crate) struct SluiceRun {
    command: ReplicatorCommand,
    replicator: Option<Replicator>,
    /// Its configuration and log.
    _directory: TempDir,
}

/// The base: a migration up to the stream, stopped there. Slot, publication and target database have the same name.
pub(crate) async fn prepare_base(
    servers: &Servers,
    ground: &Ground,
    base: &str,
    binary: &Path,
    configuration: &str,
) -> Outcome<()> {
    servers.target.execute("postgres", &format!("CREATE DATABASE {base}")).await?;
    let mut run = SluiceRun::new(servers, ground, base, base, base, binary, configuration)?;
    run.start()?;
    if let Some(replicator) = &mut run.replicator {
        replicator.wait_until_streaming(COPY_WAIT).await?;
    }
    run.stop().await?;
    servers.target.execute(base, "VACUUM (ANALYZE)").await
}

impl SluiceRun {
    /// Points the records of a copied database at the copied slot.
    pub(crate) async fn prepare(
        servers: &Servers,
        ground: &Ground,
        base: &str,
        name: &str,
        binary: &Path,
        configuration: &str,
    ) -> Outcome<Self> {
        let target = servers.target.client(name).await?;
        for table in ["migration", "progress"] {
            target.execute(&format!("UPDATE pgsluice.{table} SET slot = $1"), &[&name]).await?;
        }
        Self::new(servers, ground, name, name, base, binary, configuration)
    }

    fn new(
        servers: &Servers,
        ground: &Ground,
        database: &str,
        slot: &str,
        publication: &str,
        binary: &Path,
        configuration: &str,
    ) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let command = ReplicatorCommand {
            binary: binary.to_owned(),
            directory: directory.path().to_owned(),
            source_url: servers.source_url(&ground.database),
            target_url: servers.target_url(database),
            postgres_bin_dir: servers.target.bindir(),
            more_configuration: format!(
                "source.slot = \"{slot}\"\nsource.publication = \"{publication}\"\n{configuration}"
            ),
        };
        Ok(Self { command, replicator: None, _directory: directory })
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

    /// Waits until the mark is there and every stream's progress record has passed what came before it: with several
    /// connections, the mark's may be ahead of the others'.
    pub(crate) async fn wait_for(&mut self, target: &Client, end: &BacklogEnd) -> Outcome<()> {
        let deadline = Instant::now() + RUN_WAIT;
        while !has_mark(target, end.mark).await? || !all_have_passed(target, &end.before_mark).await? {
            let Some(replicator) = &mut self.replicator else {
                return Err("the program does not run".into());
            };
            if Instant::now() > deadline || replicator.ended().is_some() {
                return Err(format!("the backlog was not applied; the log:\n{}", replicator.log()).into());
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
}

async fn all_have_passed(target: &Client, position: &String) -> Outcome<bool> {
    let sql = "SELECT coalesce(min(commit_lsn) >= $1::text::pg_lsn, false) FROM pgsluice.progress";
    Ok(target.query_one(sql, &[position]).await?.get(0))
}
