//! What keeps tasks in order: the supervisor that spawns them by name, the shutdown signal they listen to,
//! the backoff between tries and the byte budget that bounds queues. Nothing here knows of PostgreSQL.

mod backoff;
mod byte_budget;
mod supervisor;

pub use backoff::Backoff;
pub use byte_budget::{ByteBudget, BytePermit};
pub use supervisor::{Shutdown, Supervisor, TaskEnd};
