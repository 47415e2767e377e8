//! pgsluice moves a live PostgreSQL database into another PostgreSQL cluster with a write pause measured in
//! milliseconds: nothing lost, nothing applied twice, and everything undone until the point of no return.
//!
//! The groups of modules below are in the order in which a migration needs them.

/// What the operator wants: raw (serde) into a [`config::Config`] that cannot be wrong.
pub mod config;
/// The nouns everybody shares: names, shapes, positions, dispositions. No IO.
pub mod model;

/// How a server is reached: connection strings, TLS, SQL sessions, connections of our own framing.
pub mod connection;
/// Tables that come, go or change their place while the migration runs.
pub mod join;
/// What could stop the migration, found before anything is changed.
pub mod preflight;
/// The initial copy.
pub mod snapshot;
/// The side that is left: catalog, publication, slot, fence.
pub mod source;
/// Changes as they happen: assemble, apply, acknowledge what is durable.
pub mod stream;
/// The side that is reached: schema, progress records, sequences, durability watch.
pub mod target;
/// Whether both sides are the same: what the target lacks, with the statement that mends it.
pub mod verify;

/// The fenced switchover: a pure state machine, its journal and its driver.
pub mod cutover;
/// The API of Kubernetes, as far as clients are moved by it.
pub mod kubernetes;
/// How clients are moved: one trait, several adapters.
pub mod traffic;

/// The HTTP API: routes, records, authentication, OpenAPI.
pub mod control;
/// The long-running migration: its phases, its commands, its published status.
pub mod migration;
/// Tasks, shutdown, backoff and bounds.
pub mod runtime;
/// Every metric, the lag computation, logging.
pub mod telemetry;

/// Composition root: wires the modules above together, and nothing else.
pub mod app;
/// The command line: arguments, and the commands that talk to a running instance.
pub mod cli;
/// Throwaway clusters, a live workload and the judges of a migration: `pgsluice demo`, and what the tests stand on.
pub mod demo;
