//! Makes the replication connection and finds out whether the stream may go on there: IDENTIFY_SYSTEM and the check of the
//! slot are on the very connection that reads, so that all of it speaks of the same server (INV-4).

use pgsluice_proto::command::{SlotName, identify_system, quote_literal};

use crate::config::Config;
use crate::connection::{TextRow, WireConnection, WireError};
use crate::model::{Lsn, Side};
use crate::target::progress::Progress;
use crate::target::records::MigrationRecord;

use super::error::StreamError;
use super::reader::Place;
use super::resume::{SlotFacts, SourceFacts, start_position};

/// A source that was found to be the right one, and where its changes are to be read from.
#[derive(Debug)]
pub(super) struct ReadySource {
    /// The connection on which the checks were made, and where the target is.
    pub place: Place,
    /// The slot.
    pub slot: SlotName,
    /// The end of the source's WAL.
    pub source_end: Lsn,
}

/// Connects. What was reached is still to be checked.
///
/// # Errors
/// [`StreamError::Connect`].
pub(super) async fn connect(config: &Config) -> Result<WireConnection, StreamError> {
    WireConnection::connect_walsender(&config.source.connection, Side::Source, "stream", &[])
        .await
        .map_err(|error| StreamError::Connect { side: Side::Source, error: Box::new(error) })
}

/// Checks what was reached.
///
/// # Errors
/// [`StreamError::Resume`] if going on would lose changes; connection errors otherwise.
pub(super) async fn check(
    mut connection: WireConnection,
    record: &MigrationRecord,
    progress: Option<&Progress>,
) -> Result<ReadySource, StreamError> {
    let slot = SlotName::new(&record.identity.slot)?;
    let facts = read_facts(&mut connection, &slot).await?;
    let position = start_position(record, progress, &facts)?;
    Ok(ReadySource { place: Place { connection, position }, slot, source_end: facts.wal_end })
}

async fn read_facts(connection: &mut WireConnection, slot: &SlotName) -> Result<SourceFacts, StreamError> {
    let system = one_row(connection.simple_query(&identify_system()).await?, "IDENTIFY_SYSTEM")?;
    let slots = connection
        .simple_query(&format!(
            "SELECT plugin, database, confirmed_flush_lsn, wal_status FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote_literal(slot.as_str())
        ))
        .await?;
    let text = |row: &TextRow, column| row.get(column).unwrap_or_default().to_owned();
    let slot = match slots.first() {
        None => None,
        Some(row) => Some(SlotFacts {
            plugin: text(row, "plugin"),
            database: text(row, "database"),
            confirmed_lsn: match row.get("confirmed_flush_lsn") {
                None => None,
                Some(text) => Some(text.parse().map_err(|_| StreamError::MalformedLsn)?),
            },
            wal_lost: row.get("wal_status") == Some("lost"),
        }),
    };
    Ok(SourceFacts {
        system_id: text(&system, "systemid"),
        timeline: text(&system, "timeline").parse().unwrap_or_default(),
        wal_end: text(&system, "xlogpos").parse().map_err(|_| StreamError::MalformedLsn)?,
        slot,
    })
}

fn one_row(rows: Vec<TextRow>, expected: &'static str) -> Result<TextRow, WireError> {
    rows.into_iter().next().ok_or(WireError::Unexpected { found: "no row", expected })
}
