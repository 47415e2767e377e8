//! The progress records: up to which commit of the source the target has everything, one for each connection that
//! applies. Written in the same target transaction as the changes it covers (INV-2), read on every connect.

use crate::connection::SqlSession;
use crate::model::Lsn;

use super::durability::WAL_END;
use super::records::{MigrationIdentity, RecordError};

/// Name of the first connection's record; with one connection, of the only one.
const MAIN_STREAM: &str = "main";

/// Name of the record of one of the connections that apply, from 0.
#[must_use]
pub fn stream_name(lane: usize) -> String {
    if lane == 0 { MAIN_STREAM.to_owned() } else { format!("lane_{lane}") }
}

/// SQL expression: up to where every connection has applied what the source committed; NULL without records.
pub const APPLIED_BY_ALL: &str = "SELECT min(commit_lsn) FROM pgsluice.progress";

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
        "DELETE FROM pgsluice.progress WHERE stream <> 'main';
         INSERT INTO pgsluice.progress (stream, source_system_id, slot, commit_lsn) VALUES ({}, {}, {}, '{}')
         ON CONFLICT (stream) DO UPDATE
         SET source_system_id = excluded.source_system_id, slot = excluded.slot,
             commit_lsn = excluded.commit_lsn, updated_at = clock_timestamp()",
        quote_literal(MAIN_STREAM),
        quote_literal(&identity.source_system_id),
        quote_literal(&identity.slot),
        consistent_lsn,
    )
}

/// What the records say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// System identifier of the source they belong to.
    pub source_system_id: String,
    /// Slot they belong to.
    pub slot: String,
    /// Everything the source committed up to here is on the target: the least of `lanes`.
    pub commit_lsn: Lsn,
    /// The same for the tables of each connection.
    pub lanes: Vec<Lsn>,
    /// End of the target's WAL when this was read: the records are durable once that is flushed.
    pub target_wal_end: Lsn,
}

impl Progress {
    /// How many connections can apply: as many as wanted, if all records are at the same position. Otherwise as many as
    /// before, because each has its own tables, and another number would give a table to one that is elsewhere.
    #[must_use]
    pub fn connections(&self, wanted: usize) -> usize {
        let is_aligned = self.lanes.iter().all(|lane| *lane == self.commit_lsn);
        if is_aligned { wanted } else { self.lanes.len() }
    }
}

/// Reads the records; `None` when the copy has not ended.
///
/// # Errors
/// [`RecordError`].
pub async fn read(target: &SqlSession) -> Result<Option<Progress>, RecordError> {
    let sql = format!(
        "SELECT source_system_id, slot, commit_lsn::text, ({WAL_END})::text, stream
           FROM pgsluice.progress ORDER BY stream <> 'main', length(stream), stream"
    );
    let rows = target.query(&sql, &[]).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut lanes = Vec::with_capacity(rows.len());
    for (lane, row) in rows.iter().enumerate() {
        let stream: &str = row.get(4);
        if stream != stream_name(lane) || row.get::<_, &str>(1) != first.get::<_, &str>(1) {
            return Err(RecordError::Unknown { what: format!("progress of a connection \"{stream}\"") });
        }
        lanes.push(parse_lsn(row.get(2))?);
    }
    Ok(Some(Progress {
        source_system_id: first.get(0),
        slot: first.get(1),
        commit_lsn: lanes.iter().min().copied().unwrap_or(Lsn::new(0)),
        lanes,
        target_wal_end: parse_lsn(first.get(3))?,
    }))
}

/// Makes as many records as there are connections, all at the same position. What is begun there is on the target before
/// any of them is moved.
///
/// # Errors
/// What the target answered; the records are as they were then.
pub async fn divide(target: &SqlSession, connections: usize) -> Result<(), RecordError> {
    let names: Vec<String> = (0..connections).map(stream_name).collect();
    target
        .execute(
            "WITH gone AS (DELETE FROM pgsluice.progress WHERE stream <> ALL ($1))
             INSERT INTO pgsluice.progress (stream, source_system_id, slot, commit_lsn)
             SELECT name, source_system_id, slot, commit_lsn
               FROM unnest($1::text[]) AS name, pgsluice.progress WHERE stream = 'main'
             ON CONFLICT (stream) DO NOTHING",
            &[&names],
        )
        .await?;
    Ok(())
}

fn parse_lsn(text: &str) -> Result<Lsn, RecordError> {
    text.parse().map_err(|_| RecordError::Unknown { what: "a malformed LSN".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(lanes: &[u64]) -> Progress {
        let lanes: Vec<Lsn> = lanes.iter().map(|at| Lsn::new(*at)).collect();
        Progress {
            source_system_id: "7001".into(),
            slot: "pgsluice".into(),
            commit_lsn: lanes.iter().min().copied().expect("one at least"),
            lanes,
            target_wal_end: Lsn::new(9),
        }
    }

    #[test]
    fn tables_change_connections_only_while_all_are_at_the_same_position() {
        assert_eq!(progress(&[500]).connections(4), 4);
        assert_eq!(progress(&[500, 500]).connections(1), 1);
        assert_eq!(progress(&[500, 501]).connections(1), 2);
        assert_eq!(progress(&[500, 501]).connections(4), 2);
    }

    #[test]
    fn the_first_record_keeps_its_name() {
        assert_eq!([stream_name(0), stream_name(1), stream_name(12)], ["main", "lane_1", "lane_12"]);
    }
}
