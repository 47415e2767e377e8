//! Who copies: native logical replication, pgcopydb, and builds of pgsluice. Every run has an empty target database of its own;
//! what a contender's users have to do before it can begin is done before the clock starts.

use std::path::PathBuf;

use super::Outcome;
use super::ground::Ground;
use super::native;
use super::options::Options;
use super::pgcopydb::Pgcopydb;
use super::report::{BASELINE, NATIVE, PGCOPYDB, PGSLUICE};
use super::servers::Servers;
use super::sluice::SluiceRun;

/// One contender, in one of its settings.
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
    /// `CREATE SUBSCRIPTION`.
    Native {
        /// `max_sync_workers_per_subscription`.
        workers: u32,
    },
    /// `pgcopydb clone`.
    Pgcopydb {
        /// `--table-jobs` and `--index-jobs`.
        jobs: u32,
    },
    /// `pgsluice run`.
    Sluice {
        /// The executable.
        binary: PathBuf,
        /// More of its configuration.
        configuration: String,
    },
}

/// Who made the tables on the target when the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Definitions {
    /// Nobody: the contender does, within its time.
    Missing,
    /// They are there, with all indexes and constraints.
    InPlace,
}

/// One run of a contender, ready to start.
pub(crate) enum Run {
    /// By the target's subscription.
    Native,
    /// By a program that ends when it has copied everything.
    Pgcopydb(Box<Pgcopydb>),
    /// By a program that goes on.
    Sluice(Box<SluiceRun>),
}

/// Everybody who takes part, in every setting to try.
pub(crate) fn all(options: &Options) -> Vec<Contender> {
    let native = options.sync_workers.iter().map(|workers| Kind::Native { workers: *workers });
    let pgcopydb = options.pgcopydb_jobs.iter().map(|jobs| Kind::Pgcopydb { jobs: *jobs });
    let mut all: Vec<Contender> = native.map(|kind| Contender { name: NATIVE, kind }).collect();
    all.extend(pgcopydb.map(|kind| Contender { name: PGCOPYDB, kind }));
    let mut sluice = |name, binary| {
        let kind = Kind::Sluice { binary, configuration: options.configuration.clone() };
        all.push(Contender { name, kind });
    };
    sluice(PGSLUICE, PathBuf::from(env!("CARGO_BIN_EXE_pgsluice")));
    if let Some(baseline) = &options.baseline {
        sluice(BASELINE, baseline.clone());
    }
    all.retain(|contender| options.includes(contender.name));
    all
}

impl Contender {
    /// Its setting, in words.
    pub(crate) fn setting(&self) -> String {
        match &self.kind {
            Kind::Native { workers } => format!("{workers} workers"),
            Kind::Pgcopydb { jobs } => format!("{jobs} jobs"),
            Kind::Sluice { .. } => "default".to_owned(),
        }
    }

    /// Whether its users make the tables themselves.
    pub(crate) const fn wants(&self) -> Definitions {
        match self.kind {
            Kind::Native { .. } => Definitions::InPlace,
            Kind::Pgcopydb { .. } | Kind::Sluice { .. } => Definitions::Missing,
        }
    }

    /// A run into an empty database, or into one with definitions. What is left from a run that failed is gone first.
    pub(crate) async fn prepare(
        &self,
        servers: &Servers,
        ground: &Ground,
        database: &str,
        definitions: Definitions,
    ) -> Outcome<Run> {
        servers.target.execute("postgres", &format!("CREATE DATABASE {database}")).await?;
        if definitions == Definitions::InPlace {
            native::make_definitions(servers, ground, database).await?;
        }
        match &self.kind {
            Kind::Native { workers } => {
                native::allow_workers(servers, *workers).await?;
                Ok(Run::Native)
            }
            Kind::Pgcopydb { jobs } => {
                Ok(Run::Pgcopydb(Box::new(Pgcopydb::new(servers, ground, database, *jobs)?)))
            }
            Kind::Sluice { binary, configuration } => {
                let mode = match definitions {
                    Definitions::Missing => "copy",
                    Definitions::InPlace => "existing",
                };
                let configuration = format!("schema.mode = \"{mode}\"\n{configuration}");
                let source = servers.source_url(&ground.database);
                let run = SluiceRun::new(servers, (source, database), binary, &configuration)?;
                Ok(Run::Sluice(Box::new(run)))
            }
        }
    }
}

impl Run {
    /// From the start of the work until everything is copied.
    pub(crate) async fn copy(&mut self, servers: &Servers, ground: &Ground, database: &str) -> Outcome<()> {
        match self {
            Self::Native => {
                let connection = servers.subscription_connection(&ground.database);
                native::subscribe(servers, &connection, database).await?;
                native::wait_until_ready(servers, database).await
            }
            Self::Pgcopydb(run) => run.copy().await,
            Self::Sluice(run) => {
                run.start()?;
                run.wait_until_streaming(servers, database).await
            }
        }
    }

    /// Waits for what comes after the copy; false if nothing does.
    pub(crate) async fn gather_statistics(&mut self) -> Outcome<bool> {
        match self {
            Self::Native | Self::Pgcopydb(_) => Ok(false),
            Self::Sluice(run) => run.wait_for_statistics().await.map(|()| true),
        }
    }

    /// Its process, if that still runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Native | Self::Pgcopydb(_) => None,
            Self::Sluice(run) => run.pid(),
        }
    }

    /// What went on outside of the servers in processes that have ended.
    pub(crate) fn ended_processes(&self) -> Option<(f64, f64)> {
        match self {
            Self::Pgcopydb(run) => Some((run.cpu_seconds, run.peak_resident_mib)),
            Self::Native | Self::Sluice(_) => None,
        }
    }

    /// Stops it, and removes what it has on the source; rows stay.
    pub(crate) async fn finish(self, servers: &Servers, ground: &Ground, database: &str) -> Outcome<()> {
        match self {
            Self::Native => native::unsubscribe(servers, database).await,
            Self::Pgcopydb(_) => Ok(()),
            Self::Sluice(mut run) => {
                run.stop().await?;
                run.forget(servers, &ground.database).await
            }
        }
    }
}
