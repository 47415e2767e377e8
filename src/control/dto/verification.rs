//! `POST /v1/verify` and `GET /v1/verify`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::TableName;
use crate::verify::{
    RowDifference, Scope, StructureComparison, StructureDifference, VerificationOutcome, VerificationReport,
};

/// Body of `POST /v1/verify`. Unknown fields are errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerificationRequestRecord {
    /// What is compared; everything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ScopeRecord>,
    /// The part of the servers' time that it takes, in percent; as configured (`verify.share_percent`) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100, example = 5)]
    pub share_percent: Option<u8>,
    /// Sessions on each side that compare at the same time; as configured (`verify.jobs`) when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 64, example = 1)]
    pub jobs: Option<u8>,
    /// Repair the rows that the last verification has named, before anything is compared: from source to target, in the stream's
    /// order. Needs `verify.repair = true`.
    #[serde(default, skip_serializing_if = "super::cutover::is_false")]
    pub repair: bool,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScopeRecord {
    /// Rows and structure.
    Everything,
    /// Rows alone.
    Rows,
    /// Structure alone.
    Structure,
}

impl From<Scope> for ScopeRecord {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Everything => Self::Everything,
            Scope::Rows => Self::Rows,
            Scope::Structure => Self::Structure,
        }
    }
}

impl From<ScopeRecord> for Scope {
    fn from(scope: ScopeRecord) -> Self {
        match scope {
            ScopeRecord::Everything => Self::Everything,
            ScopeRecord::Rows => Self::Rows,
            ScopeRecord::Structure => Self::Structure,
        }
    }
}

/// One verification, while it runs and afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VerificationRecord {
    /// Counts up with each one.
    pub number: i64,
    /// `forward`, or `back`: then source and target, in all that is said of it, are exchanged.
    pub direction: String,
    /// What is compared.
    pub scope: ScopeRecord,
    /// `running`, `clean` (every row is the same), `differences` or `incomplete` (not everything could be compared; what was is
    /// the same).
    pub outcome: String,
    /// Why it is incomplete; null otherwise.
    pub reason: Option<String>,
    /// What to do about that; null otherwise.
    pub remedy: Option<String>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended; null while it runs.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Tables to compare.
    pub tables_total: u64,
    /// Tables that are compared.
    pub tables_compared: u64,
    /// Rows of the source that were compared.
    pub rows_compared: u64,
    /// Size of the tables on the source, in bytes, with TOAST and without indexes.
    pub bytes_total: u64,
    /// The part of it that is compared, as far as sizes tell.
    pub bytes_compared: u64,
    /// The first position of the source's WAL as of which rows were compared; null before.
    pub first_lsn: Option<String>,
    /// The last one; null before.
    pub last_lsn: Option<String>,
    /// Rows that are not the same on both sides, as far as they were looked for.
    pub differences: u64,
    /// Whether there may be more: of very many in one place, only some are looked for.
    pub differences_at_least: bool,
    /// The first of them (at most 1000), one by one.
    pub rows: Vec<RowDifferenceRecord>,
    /// How many there are in each table that has any.
    pub differing_tables: Vec<DifferingTableRecord>,
    /// Rows that differed, were in flight, and were looked at again until that was decided.
    pub rows_looked_at_again: u64,
    /// Rows that were repaired before.
    pub rows_repaired: u64,
    /// Tables with rows that were to be repaired and were not.
    pub not_repaired: Vec<LeftOutRecord>,
    /// Tables that were not compared.
    pub left_out: Vec<LeftOutRecord>,
    /// Pairs of snapshots that were taken.
    pub snapshots: u64,
    /// The longest time that a pair was held, in milliseconds.
    pub longest_snapshot_ms: f64,
    /// How the structure of both sides compares; null until that is known.
    pub structure: Option<StructureRecord>,
}

/// The current or last verification, as the status tells it: without the rows and objects that differ (`GET /v1/verify` has them).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerificationSummaryRecord {
    /// Counts up with each one.
    pub number: i64,
    /// What is compared.
    pub scope: ScopeRecord,
    /// `running`, `clean`, `differences` or `incomplete`.
    #[schema(example = "clean")]
    pub outcome: String,
    /// Why it is incomplete; null otherwise.
    pub reason: Option<String>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended; null while it runs.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Tables to compare.
    pub tables_total: u64,
    /// Tables that are compared.
    pub tables_compared: u64,
    /// Rows of the source that were compared.
    pub rows_compared: u64,
    /// Size of the tables on the source, in bytes, with TOAST and without indexes.
    pub bytes_total: u64,
    /// The part of it that is compared, as far as sizes tell.
    pub bytes_compared: u64,
    /// Rows that are not the same on both sides.
    pub differences: u64,
    /// Objects of the structure that are not the same, without notes; null until they are compared.
    pub structural_differences: Option<u64>,
}

impl From<&VerificationReport> for VerificationSummaryRecord {
    fn from(report: &VerificationReport) -> Self {
        let reason = match &report.outcome {
            VerificationOutcome::Incomplete { reason, .. } => Some(reason.clone()),
            VerificationOutcome::Running | VerificationOutcome::Clean | VerificationOutcome::Differences => {
                None
            }
        };
        Self {
            number: report.number,
            scope: report.scope.into(),
            outcome: report.outcome.as_str().to_owned(),
            reason,
            started_at: report.started_at,
            ended_at: report.ended_at,
            tables_total: report.tables_total,
            tables_compared: report.tables_compared,
            rows_compared: report.rows_compared,
            bytes_total: report.bytes_total,
            bytes_compared: report.bytes_compared,
            differences: report.differences,
            structural_differences: report.structure.as_ref().map(|_| report.structural_differences()),
        }
    }
}

/// A row that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowDifferenceRecord {
    /// Its table, as the source calls it.
    pub table: String,
    /// `missing` on the target, `extra` on the target, or `differs`.
    pub kind: String,
    /// The columns of its key with their values; of a row without a key its place (`ctid`) on the side that has it; empty where rows are
    /// counted, and not told apart.
    pub key: Vec<KeyColumnRecord>,
    /// The columns that are not the same; empty unless both sides have the row.
    pub columns: Vec<String>,
    /// How many equal rows; more than one only without a key.
    pub count: u64,
}

/// A column of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyColumnRecord {
    /// Its name.
    pub column: String,
    /// Its value, as text.
    pub value: String,
}

/// A table with rows that are not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DifferingTableRecord {
    /// As the source calls it.
    pub table: String,
    /// How many.
    pub differences: u64,
}

/// A table that was not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOutRecord {
    /// As the source calls it.
    pub table: String,
    /// Why.
    pub reason: String,
}

/// How the structure of both sides compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StructureRecord {
    /// Objects of the source that were compared.
    pub objects_compared: u64,
    /// Objects that are not the same, without notes.
    pub differences: u64,
    /// The first of them (at most 1000) and notes, one by one.
    pub objects: Vec<ObjectDifferenceRecord>,
    /// What could not be compared because of the servers' versions, in sentences.
    pub not_compared: Vec<String>,
}

/// An object that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObjectDifferenceRecord {
    /// What kind of object, e.g. `index`.
    pub kind: String,
    /// Its name, quoted.
    pub object: String,
    /// What is different.
    pub what: String,
    /// The statement for the target that makes it the same; null where there is none.
    pub fix: Option<String>,
    /// Whether it is only remarked.
    pub note: bool,
}

impl From<&VerificationReport> for VerificationRecord {
    fn from(report: &VerificationReport) -> Self {
        let (reason, remedy) = match &report.outcome {
            VerificationOutcome::Incomplete { reason, remedy } => {
                (Some(reason.clone()), Some(remedy.clone()))
            }
            _ => (None, None),
        };
        Self {
            number: report.number,
            direction: report.direction.as_str().to_owned(),
            scope: report.scope.into(),
            outcome: report.outcome.as_str().to_owned(),
            reason,
            remedy,
            started_at: report.started_at,
            ended_at: report.ended_at,
            tables_total: report.tables_total,
            tables_compared: report.tables_compared,
            rows_compared: report.rows_compared,
            bytes_total: report.bytes_total,
            bytes_compared: report.bytes_compared,
            first_lsn: report.lsn.map(|(first, _)| first.to_string()),
            last_lsn: report.lsn.map(|(_, last)| last.to_string()),
            differences: report.differences,
            differences_at_least: report.is_at_least,
            rows: report.rows.iter().map(RowDifferenceRecord::from).collect(),
            differing_tables: report
                .differing_tables
                .iter()
                .map(|each| DifferingTableRecord { table: each.table.plain(), differences: each.differences })
                .collect(),
            rows_looked_at_again: report.rows_looked_at_again,
            rows_repaired: report.rows_repaired,
            not_repaired: told(&report.not_repaired),
            left_out: told(&report.left_out),
            snapshots: report.snapshots,
            longest_snapshot_ms: report.longest_snapshot.as_secs_f64() * 1_000.0,
            structure: report.structure.as_ref().map(|structure| StructureRecord::of(structure, report)),
        }
    }
}

fn told(tables: &[(TableName, String)]) -> Vec<LeftOutRecord> {
    let record = |(table, reason): &(TableName, String)| LeftOutRecord {
        table: table.plain(),
        reason: reason.clone(),
    };
    tables.iter().map(record).collect()
}

impl From<&RowDifference> for RowDifferenceRecord {
    fn from(row: &RowDifference) -> Self {
        let key = row
            .key
            .iter()
            .map(|(column, value)| KeyColumnRecord { column: column.clone(), value: value.clone() });
        Self {
            table: row.table.plain(),
            kind: row.kind.as_str().to_owned(),
            key: key.collect(),
            columns: row.columns.clone(),
            count: row.count,
        }
    }
}

impl StructureRecord {
    fn of(structure: &StructureComparison, report: &VerificationReport) -> Self {
        Self {
            objects_compared: structure.objects,
            differences: report.structural_differences(),
            objects: structure.differences.iter().map(ObjectDifferenceRecord::from).collect(),
            not_compared: structure.not_compared.clone(),
        }
    }
}

impl From<&StructureDifference> for ObjectDifferenceRecord {
    fn from(difference: &StructureDifference) -> Self {
        Self {
            kind: difference.kind.clone(),
            object: difference.object.clone(),
            what: difference.what.clone(),
            fix: difference.fix.clone(),
            note: difference.is_note,
        }
    }
}
