//! The side that is left: what is in its catalog, the publication and the slot this program keeps there, and the
//! fence. Never decides when any of it is created or dropped; that is the migration's and the cutover's.

pub mod catalog;
pub(crate) mod column_type;
pub mod definition;
pub mod fence;
pub mod publication;
pub mod published;
pub mod slot;

pub use catalog::{
    CatalogError, ColumnIdentity, Generated, IdentityKind, MissingIdentity, Persistence, ReplicaIdentity,
    SourceColumn, SourceTable, TableKind,
};
