//! Behaviour of the whole program against real PostgreSQL servers. One binary; one module per behaviour; the harness
//! starts throwaway clusters. Tests that run for several version pairs are named `pair_SOURCE_TARGET::…`.

mod harness;

mod connection;
mod dashboards;
mod live_workload;
mod local_cluster;
mod replication_connection;
mod row_comparison;
