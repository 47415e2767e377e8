//! Who competes: native logical replication, and builds of pgsluice. A contender has one base on the target (a database with
//! the source's rows as they were before the backlog, never connected to again) and one base slot on the source; every run
//! gets a copy of both, so that nobody inherits anything from the run before.

use std::path::PathBuf;

use super::Outcome;
use super::cpu::Watched;
use super::ground::{BacklogEnd, Ground};
use super::native;
use super::servers::Servers;
use super::sluice::{self, SluiceRun};

/// One contender.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// As in the report.
    pub(crate) name: &'static str,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What a contender is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// `CREATE SUBSCRIPTION`, with `binary` as said.
    Native {
        /// `true` or `false`.
        binary: &'static str,
    },
    /// A build of the program.
    Sluice {
        /// The executable.
        binary: PathBuf,
        /// More of its configuration.
        configuration: String,
    },
}

/// One run of a contender: its own target database and its own slot.
pub(crate) struct Run {
    /// Name of both the target's database and the slot.
    pub(crate) name: String,
    kind: RunKind,
}

enum RunKind {
    Native,
    Sluice(Box<SluiceRun>),
}

impl Contender {
    /// Base database and slot. Before the backlog is committed.
    pub(crate) async fn prepare_base(&self, servers: &Servers, ground: &Ground) -> Outcome<()> {
        let base = self.base(ground);
        match &self.kind {
            Kind::Native { .. } => native::prepare_base(servers, ground, &base).await,
            Kind::Sluice { binary, configuration } => {
                sluice::prepare_base(servers, ground, &base, binary, configuration).await
            }
        }
    }

    /// A run's database and slot, ready to start.
    pub(crate) async fn prepare_run(&self, servers: &Servers, ground: &Ground, name: String) -> Outcome<Run> {
        let base = self.base(ground);
        let copy = format!("CREATE DATABASE {name} TEMPLATE {base} STRATEGY file_copy");
        servers.target.execute("postgres", &copy).await?;
        ground.copy_slot(servers, &base, &name).await?;
        let kind = match &self.kind {
            Kind::Native { binary } => {
                native::subscribe(servers, ground, &name, binary).await?;
                RunKind::Native
            }
            Kind::Sluice { binary, configuration } => RunKind::Sluice(Box::new(
                SluiceRun::prepare(servers, ground, &base, &name, binary, configuration).await?,
            )),
        };
        Ok(Run { name, kind })
    }

    /// Removes the base database; the slots go with the ground.
    pub(crate) async fn remove_base(&self, servers: &Servers, ground: &Ground) -> Outcome<()> {
        servers.target.drop_database(&self.base(ground)).await
    }

    fn base(&self, ground: &Ground) -> String {
        format!("{}_base_{}", ground.database, self.name)
    }
}

impl Run {
    /// Lets it go.
    pub(crate) async fn start(&mut self, servers: &Servers) -> Outcome<()> {
        match &mut self.kind {
            RunKind::Native => native::enable(servers, &self.name).await,
            RunKind::Sluice(run) => run.start(),
        }
    }

    /// Waits until everything up to the mark is on the target.
    pub(crate) async fn wait_for(&mut self, servers: &Servers, end: &BacklogEnd) -> Outcome<()> {
        let client = servers.target.client(&self.name).await?;
        match &mut self.kind {
            RunKind::Native => native::wait_for(&client, end).await,
            RunKind::Sluice(run) => run.wait_for(&client, end).await,
        }
    }

    /// Whose CPU time counts.
    pub(crate) fn watched(&self, servers: &Servers) -> Watched {
        let replicator = match &self.kind {
            RunKind::Native => None,
            RunKind::Sluice(run) => run.pid(),
        };
        Watched { source: servers.source.postmaster, target: servers.target.postmaster, replicator }
    }

    /// Stops replicating; it can be started again.
    pub(crate) async fn stop(&mut self, servers: &Servers) -> Outcome<()> {
        match &mut self.kind {
            RunKind::Native => native::disable(servers, &self.name).await,
            RunKind::Sluice(run) => run.stop().await,
        }
    }

    /// Removes database and slot.
    pub(crate) async fn remove(self, servers: &Servers, ground: &Ground) -> Outcome<()> {
        if matches!(self.kind, RunKind::Native) {
            native::unsubscribe(servers, &self.name).await?;
        }
        ground.drop_slot(servers, &self.name).await?;
        servers.target.drop_database(&self.name).await
    }
}
