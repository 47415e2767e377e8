//! What the tests stand on: clusters, the program as a child process, faults, the judges.

pub(crate) mod browser;
pub(crate) mod clusters;
pub(crate) mod fleet;
pub(crate) mod memory;
pub(crate) mod pooled;
pub(crate) mod proxy;
pub(crate) mod secrets;
pub(crate) mod seed;
pub(crate) mod session_log;
pub(crate) mod sessions;
pub(crate) mod sides;
pub(crate) mod stage;
pub(crate) mod threshold;
pub(crate) mod two_tables;
pub(crate) mod unanswered;
pub(crate) mod wait;
