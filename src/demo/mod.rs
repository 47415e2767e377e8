//! The demo migration: throwaway servers, a craft store with live traffic, and the judges that say whether anything was
//! lost. Judges and workload know PostgreSQL only, nothing of the replication they judge. The tests use the same pieces.

mod actions;
pub mod binaries;
pub mod cluster;
pub mod compare;
pub mod ledger;
pub mod store;
mod template;
pub mod workload;
