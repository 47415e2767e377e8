//! The CloudNativePG cluster that a side of the migration is, as its operator sees it: which primary it has and which one it is to
//! have, whether it has a backup, and how it is reached. What is read from objects is pure ([`state`], [`credentials`]); the
//! [`ClusterWatch`] reads them again and again. None of it is trusted with data: each session asks its server whether it is a primary,
//! which system and which timeline it is, whatever the operator says (INV-4).

mod credentials;
mod follow;
mod state;

pub use credentials::CredentialsError;
pub use follow::{ClusterWatch, CnpgError, Sight, TargetCluster};
pub use state::{Backup, ClusterState, Synchronous};
