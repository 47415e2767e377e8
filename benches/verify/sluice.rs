//! A migration that streams, and its verifications.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgsluice::control::dto::{ScopeRecord, VerificationRecord, VerificationRequestRecord};
use pgsluice::demo::replicator::{Replicator, ReplicatorCommand};
use tempfile::TempDir;

use super::Outcome;
use super::ground::Ground;
use super::servers::Servers;

const COPY_WAIT: Duration = Duration::from_secs(900);
const VERIFY_WAIT: Duration = Duration::from_secs(1_800);
const END_WAIT: Duration = Duration::from_secs(15);
/// How often the program is asked: seldom enough to cost nothing.
const POLL: Duration = Duration::from_millis(20);

/// The program, streaming.
pub(crate) struct Migrated {
    /// What the target's database is called.
    pub(crate) database: String,
    replicator: Replicator,
    _directory: TempDir,
}

impl Migrated {
    /// Copies the ground and streams from then on.
    pub(crate) async fn begin(servers: &Servers, ground: &Ground, configuration: &str) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let database = ground.database.clone();
        servers.target.execute("postgres", &format!("CREATE DATABASE {database}")).await?;
        let command = ReplicatorCommand {
            binary: Path::new(env!("CARGO_BIN_EXE_pgsluice")).to_owned(),
            directory: directory.path().to_owned(),
            source_url: servers.source_url(&database),
            target_url: servers.target_url(&database),
            postgres_bin_dir: servers.target.bindir(),
            more_configuration: configuration.to_owned(),
        };
        let mut replicator = command.start()?;
        replicator.wait_until_streaming(COPY_WAIT).await?;
        while !replicator.log().contains("the target has its statistics") {
            tokio::time::sleep(POLL * 10).await;
        }
        servers.target.execute(&database, "VACUUM (FREEZE, ANALYZE)").await?;
        Ok(Self { database, replicator, _directory: directory })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.replicator.id()
    }

    /// Starts comparing rows; `share_percent`: as configured without it.
    pub(crate) async fn start(
        &self,
        share_percent: Option<u8>,
        jobs: Option<u8>,
    ) -> Outcome<VerificationRecord> {
        let request =
            VerificationRequestRecord { scope: Some(ScopeRecord::Rows), share_percent, jobs, repair: false };
        Ok(self.replicator.api().start_verification(request).await?)
    }

    /// Compares rows, from the request to the report, which must be clean.
    pub(crate) async fn verify(&self, share_percent: u8, jobs: u8) -> Outcome<VerificationRecord> {
        let accepted = self.start(Some(share_percent), Some(jobs)).await?;
        self.end_of(accepted.number, POLL).await
    }

    /// Waits for the end of a verification, which must be clean; asks every `poll`.
    pub(crate) async fn end_of(&self, number: i64, poll: Duration) -> Outcome<VerificationRecord> {
        let begun = Instant::now();
        loop {
            let seen = self.replicator.api().verification().await?;
            if seen.number == number && seen.outcome != "running" {
                return if seen.outcome == "clean" {
                    Ok(seen)
                } else {
                    Err(format!("not clean: {seen:#?}").into())
                };
            }
            if begun.elapsed() > VERIFY_WAIT {
                return Err(format!("the verification does not end: {seen:#?}").into());
            }
            tokio::time::sleep(poll).await;
        }
    }

    /// The current or last one.
    pub(crate) async fn seen(&self) -> Outcome<VerificationRecord> {
        Ok(self.replicator.api().verification().await?)
    }

    /// Ends the one that runs, if one does.
    pub(crate) async fn stop_verification(&self) -> Outcome<()> {
        self.replicator.api().stop_verification().await.ok();
        while self.seen().await?.outcome == "running" {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Stops the program as an operator does.
    pub(crate) async fn stop(&mut self) -> Outcome<()> {
        self.replicator.signal(Signal::SIGTERM);
        self.replicator.wait_for_end(END_WAIT).await?;
        Ok(())
    }
}
