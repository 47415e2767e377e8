//! The demo migration: throwaway servers, a craft store with live traffic, and the judges that say whether anything was
//! lost. Judges and workload know PostgreSQL only, nothing of the replication they judge. The tests use the same pieces.

/// The PostgreSQL installations of this machine.
pub mod binaries;
/// Throwaway servers.
pub mod cluster;
mod leash;
/// Throwaway PgBouncers.
pub mod pooler;
mod standby;
mod template;

mod actions;
/// The craft store.
pub mod store;
/// Its clients.
pub mod workload;

/// The judge of rows and sequences.
pub mod compare;
/// The judge of the clients' memory.
pub mod ledger;

mod director;
mod progress;
/// The program as a child process.
pub mod replicator;
mod report;
mod run;

pub use report::{DemoReport, LagSample, StepShare};
pub use run::{DemoArgs, DemoError, run};
