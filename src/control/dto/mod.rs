//! The records of the HTTP API, separate from the domain's types. Field names are a contract: add freely, never
//! rename. Also read by the client commands, so every record is written and read by the same type.

mod cluster;
mod cutover;
mod overview;
mod status;
mod tables;
mod verification;

pub use cluster::ClusterRecord;
pub use cutover::{CutoverModeRecord, CutoverRecord, CutoverRequestRecord, StepRecord};
pub use overview::{ConfiguredRecord, CopyRecord, DatabaseRecord, StatusQuery, TablesListed};
pub use status::{
    FindingRecord, LagRecord, MigrationProblemRecord, PositionsRecord, StandbysRecord, StatusRecord,
    TableRecord, ThroughputRecord,
};
pub use tables::{AddTablesRecord, TableStandingRecord, TablesRecord};
pub use verification::{
    DifferingTableRecord, KeyColumnRecord, LeftOutRecord, ObjectDifferenceRecord, RowDifferenceRecord,
    ScopeRecord, StructureRecord, VerificationRecord, VerificationRequestRecord, VerificationSummaryRecord,
};
