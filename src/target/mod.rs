//! The side that is reached: its records, tables, schema, sequences and durability.
//! Never decides when something is applied; only knows how the target keeps it.

mod durability;
mod emptying;
pub mod gate;
pub mod lock;
pub mod progress;
pub mod records;
pub mod relations;
pub mod same_server;
pub mod schema;
pub mod sequences;
pub mod standbys;
mod table;

pub use durability::{CommitReceipt, DurabilityNews, DurabilityWatch, DurableLsn, WAL_END};
pub use emptying::emptying_sql;
pub use table::{
    ArrayForm, ColumnIdentity, TableKind, TargetColumn, TargetTable, read as read_table, read_by_oid,
    read_tables,
};
