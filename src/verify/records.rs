//! Verifications as the target keeps them: `pgsluice.verification`, one row for each, with positions, counts and what was found. The
//! cutover goes by them after a restart, and the operator can read them with psql.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::difference::DifferenceKind;
use super::report::{
    RowDifference, Scope, StructureComparison, StructureDifference, TableComparison, VerificationOutcome,
    VerificationReport,
};
use crate::connection::SqlSession;
use crate::model::{Direction, Lsn, TableName};
use crate::target::records::RecordError;

/// Verifications that are kept (INV-11).
const KEPT_MAX: i64 = 100;

const ENSURE: &str = "
CREATE TABLE IF NOT EXISTS pgsluice.verification (
    number bigint PRIMARY KEY,
    direction text NOT NULL,
    scope text NOT NULL,
    outcome text NOT NULL,
    reason text,
    remedy text,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    tables_total bigint NOT NULL DEFAULT 0,
    tables_compared bigint NOT NULL DEFAULT 0,
    rows_compared bigint NOT NULL DEFAULT 0,
    bytes_total bigint NOT NULL DEFAULT 0,
    first_lsn pg_lsn,
    last_lsn pg_lsn,
    differences bigint NOT NULL DEFAULT 0,
    rows_looked_at_again bigint NOT NULL DEFAULT 0,
    snapshots bigint NOT NULL DEFAULT 0,
    longest_snapshot_ms double precision NOT NULL DEFAULT 0,
    details jsonb
)";

/// What has no column of its own.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Details {
    rows: Vec<RowDetail>,
    tables: Vec<(String, String, u64)>,
    left_out: Vec<(String, String, String)>,
    #[serde(default)]
    at_least: bool,
    #[serde(default)]
    rows_repaired: u64,
    #[serde(default)]
    not_repaired: Vec<(String, String, String)>,
    structure: Option<StructureDetail>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RowDetail {
    schema: String,
    table: String,
    kind: String,
    key: Vec<(String, String)>,
    columns: Vec<String>,
    count: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct StructureDetail {
    objects: u64,
    differences_total: u64,
    differences: Vec<ObjectDetail>,
    #[serde(default)]
    not_compared: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ObjectDetail {
    kind: String,
    object: String,
    what: String,
    fix: Option<String>,
    note: bool,
}

/// Records a verification that begins, and gives it its number.
///
/// # Errors
/// [`RecordError`].
pub async fn open(
    target: &SqlSession,
    direction: Direction,
    scope: Scope,
    now: Timestamp,
) -> Result<i64, RecordError> {
    target.batch_execute(ENSURE).await?;
    let row = target
        .query_typed_one(
            "INSERT INTO pgsluice.verification (number, direction, scope, outcome, started_at)
             SELECT coalesce(max(number), 0) + 1, $1, $2, 'running', $3::text::timestamptz FROM pgsluice.verification
             RETURNING number",
            &[(&direction.as_str(), Type::TEXT), (&scope.as_str(), Type::TEXT), (&now.to_string(), Type::TEXT)],
        )
        .await?;
    Ok(row.get(0))
}

/// How many tables have joined since a verification compared its first rows: it does not speak for them.
///
/// # Errors
/// [`RecordError`].
pub async fn joined_since(target: &SqlSession, lsn: Lsn) -> Result<i64, RecordError> {
    let sql = "SELECT count(*) FROM pgsluice.relation WHERE state <> 'joined' OR join_lsn > $1::text::pg_lsn";
    let row = target.query_typed_one(sql, &[(&lsn.to_string(), Type::TEXT)]).await?;
    Ok(row.get(0))
}

/// Records how a verification ended.
///
/// # Errors
/// [`RecordError`].
pub async fn close(target: &SqlSession, report: &VerificationReport) -> Result<(), RecordError> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let (reason, remedy) = match &report.outcome {
        VerificationOutcome::Incomplete { reason, remedy } => (Some(reason.as_str()), Some(remedy.as_str())),
        _ => (None, None),
    };
    let position = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.to_string());
    let details = serde_json::to_string(&Details::of(report)).unwrap_or_default();
    target
        .query_typed(
            "WITH closed AS (
                 UPDATE pgsluice.verification SET outcome = $2, reason = $3, remedy = $4, ended_at = $5::text::timestamptz,
                        tables_total = $6, tables_compared = $7, rows_compared = $8, bytes_total = $9,
                        first_lsn = $10::text::pg_lsn, last_lsn = $11::text::pg_lsn, differences = $12,
                        rows_looked_at_again = $13, snapshots = $14, longest_snapshot_ms = $15, details = $16::text::jsonb
                  WHERE number = $1)
             DELETE FROM pgsluice.verification WHERE number <= $1 - $17",
            &[
                (&report.number, Type::INT8),
                (&report.outcome.as_str(), Type::TEXT),
                (&reason, Type::TEXT),
                (&remedy, Type::TEXT),
                (&report.ended_at.map(|at| at.to_string()), Type::TEXT),
                (&number(report.tables_total), Type::INT8),
                (&number(report.tables_compared), Type::INT8),
                (&number(report.rows_compared), Type::INT8),
                (&number(report.bytes_total), Type::INT8),
                (&position(report.lsn.map(|(first, _)| first)), Type::TEXT),
                (&position(report.lsn.map(|(_, last)| last)), Type::TEXT),
                (&number(report.differences), Type::INT8),
                (&number(report.rows_looked_at_again), Type::INT8),
                (&number(report.snapshots), Type::INT8),
                (&(report.longest_snapshot.as_secs_f64() * 1_000.0), Type::FLOAT8),
                (&details, Type::TEXT),
                (&KEPT_MAX, Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

/// Records at once that rows differ, before the verification has ended: a crash must not make that forgotten.
///
/// # Errors
/// [`RecordError`].
pub async fn note_differences(target: &SqlSession, number: i64) -> Result<(), RecordError> {
    target
        .query_typed(
            "UPDATE pgsluice.verification SET outcome = 'differences', differences = 1, ended_at = now()
              WHERE number = $1 AND ended_at IS NULL",
            &[(&number, Type::INT8)],
        )
        .await?;
    Ok(())
}

/// Which of the verifications that have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The last.
    Last,
    /// The last that says whether rows are the same, of those begun since the stream goes this way.
    LastConclusive,
}

impl Which {
    const fn condition(self) -> &'static str {
        match self {
            Self::Last => "",
            Self::LastConclusive => {
                " AND outcome IN ('clean', 'differences') AND scope <> 'structure'
                  AND started_at >= (SELECT phase_since FROM pgsluice.migration WHERE phase = 'streaming')"
            }
        }
    }
}

/// A verification in this direction that has ended; `None` if there is none.
///
/// # Errors
/// [`RecordError`].
pub async fn read(
    target: &SqlSession,
    direction: Direction,
    which: Which,
) -> Result<Option<VerificationReport>, RecordError> {
    let there = target.query_one("SELECT to_regclass('pgsluice.verification') IS NOT NULL", &[]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = format!(
        "SELECT number, scope, outcome, reason, remedy, (extract(epoch FROM started_at) * 1000)::bigint,
                (extract(epoch FROM ended_at) * 1000)::bigint, tables_total, tables_compared, rows_compared, bytes_total,
                first_lsn::text, last_lsn::text, differences, rows_looked_at_again, snapshots, longest_snapshot_ms,
                details::text
           FROM pgsluice.verification WHERE ended_at IS NOT NULL AND direction = $1{} ORDER BY number DESC LIMIT 1",
        which.condition()
    );
    let row = target.query_opt(&sql, &[&direction.as_str()]).await?;
    row.map(|row| decode(&row, direction)).transpose()
}

fn decode(row: &Row, direction: Direction) -> Result<VerificationReport, RecordError> {
    let unknown = |what: &str| RecordError::Unknown { what: format!("{what} of a verification") };
    let (scope, outcome): (String, String) = (row.get(1), row.get(2));
    let at = |column: usize| {
        Timestamp::from_millisecond(row.get(column)).map_err(|_| unknown("an impossible time"))
    };
    let count = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
    let lsn = |column: usize| row.get::<_, Option<String>>(column).and_then(|text| text.parse().ok());
    let text = |column: usize| row.get::<_, Option<String>>(column).unwrap_or_default();
    let outcome = match outcome.as_str() {
        "clean" => VerificationOutcome::Clean,
        "differences" => VerificationOutcome::Differences,
        "incomplete" => VerificationOutcome::Incomplete { reason: text(3), remedy: text(4) },
        _ => return Err(unknown("an outcome")),
    };
    let mut report = VerificationReport {
        outcome,
        ended_at: Some(at(6)?),
        tables_total: count(7),
        tables_compared: count(8),
        rows_compared: count(9),
        bytes_total: count(10),
        bytes_compared: count(10),
        lsn: lsn(11).zip(lsn(12)),
        differences: count(13),
        rows_looked_at_again: count(14),
        snapshots: count(15),
        longest_snapshot: Duration::try_from_secs_f64(row.get::<_, f64>(16) / 1_000.0).unwrap_or_default(),
        ..VerificationReport::begun(
            row.get(0),
            direction,
            Scope::parse(&scope).ok_or_else(|| unknown("a scope"))?,
            at(5)?,
        )
    };
    let details: Details = serde_json::from_str(&text(17)).unwrap_or_default();
    details.into_report(&mut report);
    Ok(report)
}

impl Details {
    fn of(report: &VerificationReport) -> Self {
        let row = |row: &RowDifference| RowDetail {
            schema: row.table.schema.clone(),
            table: row.table.name.clone(),
            kind: row.kind.as_str().to_owned(),
            key: row.key.clone(),
            columns: row.columns.clone(),
            count: row.count,
        };
        let object = |object: &StructureDifference| ObjectDetail {
            kind: object.kind.clone(),
            object: object.object.clone(),
            what: object.what.clone(),
            fix: object.fix.clone(),
            note: object.is_note,
        };
        let named = |tables: &[(TableName, String)]| {
            let named = |(table, reason): &(TableName, String)| {
                (table.schema.clone(), table.name.clone(), reason.clone())
            };
            tables.iter().map(named).collect()
        };
        Self {
            rows: report.rows.iter().map(row).collect(),
            tables: report
                .differing_tables
                .iter()
                .map(|each| (each.table.schema.clone(), each.table.name.clone(), each.differences))
                .collect(),
            left_out: named(&report.left_out),
            at_least: report.is_at_least,
            rows_repaired: report.rows_repaired,
            not_repaired: named(&report.not_repaired),
            structure: report.structure.as_ref().map(|structure| StructureDetail {
                objects: structure.objects,
                differences_total: structure.differences_total,
                differences: structure.differences.iter().map(object).collect(),
                not_compared: structure.not_compared.clone(),
            }),
        }
    }

    fn into_report(self, report: &mut VerificationReport) {
        let row = |row: RowDetail| {
            Some(RowDifference {
                table: TableName::new(row.schema, row.table),
                kind: DifferenceKind::parse(&row.kind)?,
                key: row.key,
                columns: row.columns,
                count: row.count,
            })
        };
        report.rows = self.rows.into_iter().filter_map(row).collect();
        report.differing_tables = self
            .tables
            .into_iter()
            .map(|(schema, name, differences)| TableComparison {
                table: TableName::new(schema, name),
                differences,
            })
            .collect();
        let named = |tables: Vec<(String, String, String)>| {
            tables.into_iter().map(|(schema, name, reason)| (TableName::new(schema, name), reason)).collect()
        };
        report.left_out = named(self.left_out);
        report.is_at_least = self.at_least;
        report.rows_repaired = self.rows_repaired;
        report.not_repaired = named(self.not_repaired);
        report.structure = self.structure.map(|structure| StructureComparison {
            objects: structure.objects,
            differences_total: structure.differences_total,
            not_compared: structure.not_compared,
            differences: structure
                .differences
                .into_iter()
                .map(|object| StructureDifference {
                    kind: object.kind,
                    object: object.object,
                    what: object.what,
                    fix: object.fix,
                    is_note: object.note,
                })
                .collect(),
        });
    }
}
