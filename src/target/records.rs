//! What this program remembers about a migration, on the target, in schema `pgsluice`: one row that says which
//! migration this is and which phase it reached. Each phase is recorded in the transaction that completes it.
//! Positions of the stream are in `progress.rs`, tables of the stream in `relations.rs`, copied tables in `snapshot`, cutovers in `cutover::journal`.

use jiff::Timestamp;

use crate::connection::{SqlError, SqlSession};
use crate::model::Lsn;

/// How far a migration has come; persisted, and always the phase to *do next* after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordedPhase {
    /// Set when the record is created: the target has no tables of ours yet (or they are taken as they are).
    Schema,
    /// Set in the transaction that made the tables: slot and plan are to be made.
    Snapshot,
    /// Set in the transaction that recorded slot and plan: the stream runs, and tables and indexes are copied beside it.
    Copying,
    /// Set in the transaction that built what was left: changes of every table are applied.
    Streaming,
    /// Set after the fence was committed and the target opened.
    CutOver,
}

impl From<tokio_postgres::Error> for RecordError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error.into())
    }
}

impl RecordedPhase {
    /// The value in `pgsluice.migration.phase`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Snapshot => "snapshot",
            Self::Copying => "copying",
            Self::Streaming => "streaming",
            Self::CutOver => "cut_over",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Schema, Self::Snapshot, Self::Copying, Self::Streaming, Self::CutOver]
            .into_iter()
            .find(|phase| phase.as_str() == text)
    }

    /// SQL that moves the record to this phase, for the transaction that completes the one before.
    #[must_use]
    pub fn record_sql(self) -> String {
        format!("UPDATE pgsluice.migration SET phase = '{}', phase_since = now()", self.as_str())
    }
}

/// Which two databases belong together, and by which slot. Compared on every start and every reconnect (INV-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationIdentity {
    /// `pg_control_system().system_identifier` of the source.
    pub source_system_id: String,
    /// Name of the source's database.
    pub source_database: String,
    /// The same of the target: a record restored into another cluster is not this migration.
    pub target_system_id: String,
    /// Slot on the source.
    pub slot: String,
    /// Publication on the source.
    pub publication: String,
}

/// The row of `pgsluice.migration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationRecord {
    /// Which migration.
    pub identity: MigrationIdentity,
    /// What is to be done next.
    pub phase: RecordedPhase,
    /// Consistent point of the slot and its exported snapshot; `None` before there is one.
    pub snapshot_lsn: Option<Lsn>,
    /// Timeline of the source when the slot was created.
    pub source_timeline: Option<i32>,
    /// When the migration began.
    pub created_at: Timestamp,
    /// What the slot's snapshot contains, as `pg_current_snapshot()` prints it; `None` before there is one, and for a way
    /// back, which copies nothing.
    pub slot_snapshot: Option<String>,
}

/// Why the records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The target refused a statement.
    #[error("the target's migration records cannot be used: {0}")]
    Sql(#[from] SqlError),
    /// The records hold something this version does not know.
    #[error("pgsluice.migration on the target holds {what}, which this version does not know")]
    Unknown {
        /// Column and value.
        what: String,
    },
}

const ENSURE: &str = "
CREATE SCHEMA IF NOT EXISTS pgsluice;
COMMENT ON SCHEMA pgsluice IS 'pgsluice keeps its progress here; `pgsluice cleanup` removes it';
CREATE TABLE IF NOT EXISTS pgsluice.migration (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    source_system_id text NOT NULL,
    source_database text NOT NULL,
    target_system_id text NOT NULL,
    slot text NOT NULL,
    publication text NOT NULL,
    phase text NOT NULL,
    phase_since timestamptz NOT NULL DEFAULT now(),
    snapshot_lsn pg_lsn,
    source_timeline integer,
    slot_snapshot text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS pgsluice.progress (
    stream text PRIMARY KEY,
    source_system_id text NOT NULL,
    slot text NOT NULL,
    commit_lsn pg_lsn NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);";

/// Reads the record; `None` when there is no migration on this target.
///
/// # Errors
/// [`RecordError`].
pub async fn read(target: &SqlSession) -> Result<Option<MigrationRecord>, RecordError> {
    let known = target.query_one("SELECT to_regclass('pgsluice.migration') IS NOT NULL", &[]).await?;
    if !known.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = target
        .query_opt(
            "SELECT source_system_id, source_database, target_system_id, slot, publication, phase,
                    snapshot_lsn::text, source_timeline, (extract(epoch FROM created_at) * 1000)::bigint, slot_snapshot
             FROM pgsluice.migration",
            &[],
        )
        .await?;
    row.map(|row| decode(&row)).transpose()
}

fn decode(row: &tokio_postgres::Row) -> Result<MigrationRecord, RecordError> {
    let phase: String = row.get(5);
    let snapshot_lsn: Option<String> = row.get(6);
    Ok(MigrationRecord {
        identity: MigrationIdentity {
            source_system_id: row.get(0),
            source_database: row.get(1),
            target_system_id: row.get(2),
            slot: row.get(3),
            publication: row.get(4),
        },
        phase: RecordedPhase::parse(&phase)
            .ok_or_else(|| RecordError::Unknown { what: format!("phase \"{phase}\"") })?,
        snapshot_lsn: snapshot_lsn
            .map(|text| {
                text.parse().map_err(|_| RecordError::Unknown { what: "a malformed snapshot_lsn".into() })
            })
            .transpose()?,
        source_timeline: row.get(7),
        created_at: Timestamp::from_millisecond(row.get(8))
            .map_err(|_| RecordError::Unknown { what: "an impossible created_at".into() })?,
        slot_snapshot: row.get(9),
    })
}

/// Creates schema, tables and the record, in phase [`RecordedPhase::Schema`]. The first change on the target.
///
/// # Errors
/// [`RecordError`]; nothing is created then.
pub async fn create(target: &mut SqlSession, identity: &MigrationIdentity) -> Result<(), RecordError> {
    let transaction = target.transaction().await?;
    transaction.batch_execute(ENSURE).await?;
    transaction.batch_execute(super::relations::ENSURE).await?;
    transaction
        .execute(
            "INSERT INTO pgsluice.migration
                 (source_system_id, source_database, target_system_id, slot, publication, phase)
             VALUES ($1, $2, $3, $4, $5, 'schema')",
            &[
                &identity.source_system_id,
                &identity.source_database,
                &identity.target_system_id,
                &identity.slot,
                &identity.publication,
            ],
        )
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Creates schema and tables of a side that will be reached by the way back, without a record: that comes with
/// [`stream_from_sql`].
///
/// # Errors
/// [`RecordError`].
pub async fn ensure(target: &SqlSession) -> Result<(), RecordError> {
    Ok(target.batch_execute(&format!("BEGIN; {ENSURE} {}; COMMIT", super::relations::ENSURE)).await?)
}

/// SQL that makes the record one of a migration that streams from `lsn` of its source on: part of the transaction that
/// fences this side.
#[must_use]
pub fn stream_from_sql(identity: &MigrationIdentity, lsn: Lsn, timeline: i32) -> String {
    use pgsluice_proto::command::quote_literal;
    let MigrationIdentity { source_system_id, source_database, target_system_id, slot, publication } =
        identity;
    let values = [source_system_id, source_database, target_system_id, slot, publication]
        .map(|text| quote_literal(text))
        .join(", ");
    format!(
        "INSERT INTO pgsluice.migration AS m
             (source_system_id, source_database, target_system_id, slot, publication, phase, snapshot_lsn, source_timeline)
         VALUES ({values}, '{}', '{lsn}', {timeline})
         ON CONFLICT (only_row) DO UPDATE SET source_system_id = excluded.source_system_id,
             source_database = excluded.source_database, target_system_id = excluded.target_system_id,
             slot = excluded.slot, publication = excluded.publication, phase = excluded.phase, phase_since = now(),
             snapshot_lsn = excluded.snapshot_lsn, source_timeline = excluded.source_timeline",
        RecordedPhase::Streaming.as_str()
    )
}

/// Moves the record to another phase on its own (where no other transaction completes the one before).
///
/// # Errors
/// [`RecordError`].
pub async fn enter(target: &SqlSession, phase: RecordedPhase) -> Result<(), RecordError> {
    Ok(target.batch_execute(&phase.record_sql()).await?)
}

/// Records that the target is the primary, and forgets up to where it had been brought: nothing is applied any more. Not
/// where it has been fenced in turn since, or is about to be: then its records are those of another stream.
///
/// # Errors
/// [`RecordError`]; nothing is recorded then.
pub async fn end_stream(target: &SqlSession) -> Result<(), RecordError> {
    let ending = format!(
        "BEGIN; DO $$ BEGIN
           IF to_regclass('pgsluice.fence') IS NOT NULL THEN
             -- Waits for a fence whose COMMIT is under way.
             LOCK TABLE pgsluice.fence IN SHARE MODE;
             IF EXISTS (SELECT FROM pgsluice.fence) THEN RETURN; END IF;
           END IF;
           {}; DELETE FROM pgsluice.progress;
         END $$; COMMIT",
        RecordedPhase::CutOver.record_sql()
    );
    if let Err(error) = target.batch_execute(&ending).await {
        // If the connection is lost, the error says so and there is nothing to roll back.
        let _ = target.batch_execute("ROLLBACK").await;
        return Err(error.into());
    }
    Ok(())
}

/// SQL that remembers where the slot begins and what its snapshot contains, for the transaction that records the plan.
#[must_use]
pub fn slot_created_sql(consistent_lsn: Lsn, timeline: i32, snapshot: &str) -> String {
    use pgsluice_proto::command::quote_literal;
    format!(
        "UPDATE pgsluice.migration SET snapshot_lsn = '{consistent_lsn}', source_timeline = {timeline}, slot_snapshot = {}",
        quote_literal(snapshot)
    )
}
