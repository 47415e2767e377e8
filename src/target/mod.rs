//! The side that is reached: its progress records, schema, sequences and durability.
//! Never decides when something is applied; only knows how the target keeps it.

mod durability;
pub mod gate;
pub mod sequences;

pub use durability::{CommitReceipt, DurableLsn};
