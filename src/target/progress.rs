//! The progress record: up to which commit of the source the target has everything. Written in the same target
//! transaction as the changes it covers (INV-2), read on every connect.

use crate::connection::SqlSession;
use crate::model::Lsn;

use super::durability::WAL_END;
use super::records::{MigrationIdentity, RecordError};

/// Name of the only stream there is; several will share the table once changes are applied in parallel.
pub const MAIN_STREAM: &str = "main";

/// Statement that moves the record; parameters, all text: stream name, new position, position it holds now.
/// Prepared once by the apply session and pipelined before its COMMIT. Compare and set: it touches no row when
/// somebody else has moved the record, and then the batch must not be committed.
pub const ADVANCE_SQL: &str = "UPDATE pgsluice.progress \
     SET commit_lsn = $2::text::pg_lsn, updated_at = clock_timestamp() \
     WHERE stream = $1::text AND commit_lsn = $3::text::pg_lsn";

/// SQL that begins the record at the slot's consistent point, for the transaction that records the copy's end.
#[must_use]
pub fn begin_sql(identity: &MigrationIdentity, consistent_lsn: Lsn) -> String {
    use pgsluice_proto::command::quote_literal;
    format!(
        "INSERT INTO pgsluice.progress (stream, source_system_id, slot, commit_lsn) VALUES ({}, {}, {}, '{}')
         ON CONFLICT (stream) DO UPDATE
         SET source_system_id = excluded.source_system_id, slot = excluded.slot,
             commit_lsn = excluded.commit_lsn, updated_at = clock_timestamp()",
        quote_literal(MAIN_STREAM),
        quote_literal(&identity.source_system_id),
        quote_literal(&identity.slot),
        consistent_lsn,
    )
}

/// The record of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// System identifier of the source it belongs to.
    pub source_system_id: String,
    /// Slot it belongs to.
    pub slot: String,
    /// Everything the source committed up to here is on the target.
    pub commit_lsn: Lsn,
    /// End of the target's WAL when this was read: the record is durable once that is flushed.
    pub target_wal_end: Lsn,
}

/// Reads the record; `None` when the copy has not ended.
///
/// # Errors
/// [`RecordError`].
pub async fn read(target: &SqlSession) -> Result<Option<Progress>, RecordError> {
    let row = target
        .query_opt(
            &format!(
                "SELECT source_system_id, slot, commit_lsn::text, ({WAL_END})::text
                 FROM pgsluice.progress WHERE stream = $1"
            ),
            &[&MAIN_STREAM],
        )
        .await?;
    row.map(|row| {
        Ok(Progress {
            source_system_id: row.get(0),
            slot: row.get(1),
            commit_lsn: parse_lsn(row.get(2))?,
            target_wal_end: parse_lsn(row.get(3))?,
        })
    })
    .transpose()
}

fn parse_lsn(text: &str) -> Result<Lsn, RecordError> {
    text.parse().map_err(|_| RecordError::Unknown { what: "a malformed LSN".into() })
}
