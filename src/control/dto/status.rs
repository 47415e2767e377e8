//! `GET /v1/status`, and the data of `GET /v1/events`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ClusterRecord, ConfiguredRecord, CopyRecord, CutoverRecord, TableStandingRecord, TablesListed,
    TablesRecord, VerificationSummaryRecord,
};
use crate::migration::{
    Blocking, LagView, Positions, Problem, StandbyView, Status, TableProgress, Throughput,
};
use crate::model::{Direction, TableName, as_sentence};
use crate::preflight::Finding;

/// Everything the migration says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusRecord {
    /// Version of the program.
    pub version: String,
    /// `starting`, `preflight`, `schema`, `slot`, `snapshot`, `indexes`, `streaming`, `cut_over`, `rollback_window` or `halted`.
    #[schema(example = "streaming")]
    pub phase: String,
    /// `forward`, or `back` from a cutover to the end of its way back: then source and target, in positions, lag and problems,
    /// are exchanged.
    #[serde(default)]
    #[schema(example = "forward")]
    pub direction: String,
    /// Since when it is in this phase.
    #[schema(value_type = String, format = DateTime)]
    pub phase_since: Timestamp,
    /// When the process started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// What this process was configured with; null where a status is made without it.
    #[serde(default)]
    pub configured: Option<ConfiguredRecord>,
    /// The initial copy of all tables, in sums.
    #[serde(default)]
    pub copy: CopyRecord,
    /// The initial copy, table by table, ordered by schema and name.
    pub tables: Vec<TableRecord>,
    /// Tables that are not, or not yet, in the migration with all of their changes; empty until changes are streamed.
    #[serde(default)]
    pub tables_outside: Vec<TableStandingRecord>,
    /// Positions in the source's WAL.
    pub positions: PositionsRecord,
    /// How far the target is behind.
    pub lag: LagRecord,
    /// What was applied lately.
    pub throughput: ThroughputRecord,
    /// WAL the slot keeps on the source, in bytes; null until known.
    pub slot_retained_wal_bytes: Option<u64>,
    /// WAL that may still be written before the source gives the slot up, in bytes; null where it sets no limit, or until known.
    #[serde(default)]
    pub slot_safe_wal_bytes: Option<u64>,
    /// How far the slot holds vacuum of the source's catalogs back, in transactions; null until known.
    #[serde(default)]
    pub slot_xmin_age_transactions: Option<u64>,
    /// The target's standbys; null until they were looked at.
    #[serde(default)]
    pub standbys: Option<StandbysRecord>,
    /// The CloudNativePG cluster that is moved into, with `target.cnpg.cluster`; null without.
    #[serde(default)]
    pub cluster: Option<ClusterRecord>,
    /// What preflight found.
    pub findings: Vec<FindingRecord>,
    /// The last problem; null when there is none.
    pub problem: Option<MigrationProblemRecord>,
    /// The current or last verification, in short; null when there was none. `GET /v1/verify` tells what differs.
    #[serde(default)]
    pub verification: Option<VerificationSummaryRecord>,
    /// Until when the last verification that has ended lets a cutover begin; null if it does not. Nothing needs one unless
    /// `configured.verified_within_hours` is set.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub verified_until: Option<Timestamp>,
    /// The current or last cutover or rehearsal; null when there was none.
    pub cutover: Option<CutoverRecord>,
}

/// One table's initial copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pending`, `snapshotting`, `copying` or `joined`.
    pub state: String,
    /// Rows copied so far.
    pub rows_copied: u64,
    /// Bytes of COPY data so far.
    pub bytes_copied: u64,
    /// Rows expected, from the source's statistics.
    pub rows_estimated: u64,
    /// Bytes expected, from the table's size on the source.
    pub bytes_estimated: u64,
    /// Of `indexes_total`, those that are there.
    #[serde(default)]
    pub indexes_built: u64,
    /// Indexes that are built for it after its copy, by this process.
    #[serde(default)]
    pub indexes_total: u64,
}

/// Positions in the source's WAL as PostgreSQL prints them, e.g. `16/B374D848`; null until known.
/// received ≥ applied ≥ durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PositionsRecord {
    /// End of the source's WAL when last asked.
    pub source: Option<String>,
    /// Up to here the stream was received.
    pub received: Option<String>,
    /// Up to here every commit is applied to the target.
    pub applied: Option<String>,
    /// Up to here the target keeps it; confirmed to the source.
    pub durable: Option<String>,
}

/// Lag, measured on unapplied changes; null until streaming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LagRecord {
    /// Bytes of the source's WAL not yet applied.
    pub bytes: Option<u64>,
    /// Age of the oldest WAL not yet applied.
    pub seconds: Option<f64>,
}

/// Rates over the last few seconds, and totals of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ThroughputRecord {
    /// Source transactions a second.
    pub transactions_per_second: f64,
    /// Row changes a second.
    pub rows_per_second: f64,
    /// Source transactions applied by this process.
    pub transactions_total: u64,
    /// Row changes applied by this process.
    pub rows_total: u64,
}

/// The target's standbys, as its primary sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StandbysRecord {
    /// How many must have a change before it is confirmed to the source; 0 with `target.durability = "local"`.
    pub wanted: u32,
    /// How many are connected; null while not known, or where the role may not see them.
    pub connected: Option<u32>,
    /// Bytes of the target's WAL that the one furthest behind has not flushed; null without one.
    pub lag_bytes: Option<u64>,
}

/// One finding of preflight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingRecord {
    /// Stable id, e.g. `source.wal_level`.
    pub id: String,
    /// `info`, `warning` or `blocker`.
    pub severity: String,
    /// What it is about.
    pub subject: String,
    /// What was found, and what it means.
    pub finding: String,
    /// What fixes it.
    pub remedy: String,
}

/// The last problem of the migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationProblemRecord {
    /// What happened, and what it means for the data.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// When it was seen.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `retrying`, `waiting_for_operator` or `halted`.
    pub blocking: String,
}

impl StatusRecord {
    /// The status, with some of its tables, and what was configured.
    #[must_use]
    pub fn of(status: &Status, tables: TablesListed, configured: ConfiguredRecord) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            direction: status.direction.as_str().to_owned(),
            phase: status.phase.as_str().to_owned(),
            phase_since: status.phase_since,
            started_at: status.started_at,
            configured: Some(configured),
            copy: status.into(),
            tables: status
                .tables
                .iter()
                .filter(|(_, table)| tables.includes(table))
                .map(|(name, table)| TableRecord::of(name, table))
                .collect(),
            tables_outside: TablesRecord::from(status).outside(),
            positions: (&status.positions).into(),
            lag: status.lag.into(),
            throughput: status.throughput.into(),
            slot_retained_wal_bytes: status.slot.retained_wal_bytes,
            slot_safe_wal_bytes: status.slot.safe_wal_bytes,
            slot_xmin_age_transactions: status.slot.xmin_age_transactions,
            standbys: status.standbys.map(StandbysRecord::from),
            cluster: status.cluster.as_ref().map(ClusterRecord::from),
            findings: status.findings.iter().map(FindingRecord::from).collect(),
            problem: status
                .problem
                .as_ref()
                .map(|problem| MigrationProblemRecord::of(problem, status.direction)),
            verification: status.verification.as_ref().map(VerificationSummaryRecord::from),
            verified_until: status.vouched.until(),
            cutover: status.cutover.as_ref().map(CutoverRecord::from),
        }
    }
}

impl TableRecord {
    fn of(name: &TableName, table: &TableProgress) -> Self {
        Self {
            schema: name.schema.clone(),
            name: name.name.clone(),
            state: table.state.as_str().to_owned(),
            rows_copied: table.rows_copied,
            bytes_copied: table.bytes_copied,
            rows_estimated: table.rows_estimated,
            bytes_estimated: table.bytes_estimated,
            indexes_built: table.indexes_built,
            indexes_total: table.indexes_total,
        }
    }
}

impl From<&Positions> for PositionsRecord {
    fn from(positions: &Positions) -> Self {
        let text = |lsn: Option<crate::model::Lsn>| lsn.map(|lsn| lsn.to_string());
        Self {
            source: text(positions.source),
            received: text(positions.received),
            applied: text(positions.applied),
            durable: text(positions.durable),
        }
    }
}

impl From<LagView> for LagRecord {
    fn from(lag: LagView) -> Self {
        Self { bytes: lag.bytes, seconds: lag.seconds }
    }
}

impl From<Throughput> for ThroughputRecord {
    fn from(throughput: Throughput) -> Self {
        Self {
            transactions_per_second: throughput.transactions_per_second,
            rows_per_second: throughput.rows_per_second,
            transactions_total: throughput.transactions_total,
            rows_total: throughput.rows_total,
        }
    }
}

impl From<StandbyView> for StandbysRecord {
    fn from(standbys: StandbyView) -> Self {
        Self { wanted: standbys.wanted, connected: standbys.connected, lag_bytes: standbys.lag_bytes }
    }
}

impl From<&Finding> for FindingRecord {
    fn from(finding: &Finding) -> Self {
        Self {
            id: finding.id.to_owned(),
            severity: finding.severity.as_str().to_owned(),
            subject: finding.subject.clone(),
            finding: finding.finding.clone(),
            remedy: finding.remedy.clone(),
        }
    }
}

/// What a problem of the way back begins with: what it says of source and target is meant the other way round.
const ON_THE_WAY_BACK: &str =
    "On the way back, where the source is the new primary and the target is the side that was left:";
/// Definitions of a fenced side are changed by whoever carries the fence's nonce.
const PASS: &str = "On the side that was left begin with: SELECT set_config('pgsluice.pass', nonce, false) FROM pgsluice.fence; \
     so that its fence lets you.";

impl MigrationProblemRecord {
    fn of(problem: &Problem, direction: Direction) -> Self {
        let blocking = match problem.blocking {
            Blocking::Retrying => "retrying",
            Blocking::WaitingForOperator => "waiting_for_operator",
            Blocking::Halted => "halted",
        };
        let (mut message, mut remedy) = (as_sentence(&problem.message), problem.remedy.clone());
        if direction == Direction::Back {
            message = format!("{ON_THE_WAY_BACK} {}", problem.message);
            if problem.blocking == Blocking::WaitingForOperator {
                remedy = format!("{remedy} {PASS}");
            }
        }
        Self { message, remedy, at: problem.at, blocking: blocking.to_owned() }
    }
}
