//! Brings a replication connection from nothing to a running stream: IDENTIFY_SYSTEM, slot check and
//! START_REPLICATION on one connection, so that all three speak of the same server (INV-4).

use std::time::Duration;

use pgsluice_proto::command::{SlotName, identify_system, quote_literal, start_replication};
use pgsluice_proto::session::{ReplicationSession, SessionConfig};

use crate::config::Config;
use crate::connection::{ReplicationConnection, ReplicationError, ReplicationRow, ReplicationSocket};
use crate::model::{Lsn, Side};
use crate::target::progress::Progress;
use crate::target::records::MigrationRecord;

use super::error::StreamError;
use super::options::Asked;
use super::reader::{FRAME_BYTES_MAX, SILENCE_LIMIT, STATUS_INTERVAL};
use super::resume::{SlotFacts, SourceFacts, start_position};

/// A stream that has been asked for: its socket, its state machine, and where it begins.
#[derive(Debug)]
pub(super) struct StartedStream {
    /// The socket on which `START_REPLICATION` was sent.
    pub socket: ReplicationSocket,
    /// The state machine of that command; its clock starts at zero.
    pub session: ReplicationSession,
    /// The position asked for.
    pub start: Lsn,
}

/// Connects, checks, and asks for the stream from where the target is.
///
/// # Errors
/// [`StreamError::Resume`] if going on would lose changes; connection errors otherwise.
pub(super) async fn start(
    config: &Config,
    record: &MigrationRecord,
    progress: Option<&Progress>,
    asked: &Asked,
) -> Result<StartedStream, StreamError> {
    let slot = SlotName::new(&record.identity.slot)?;
    let mut connection =
        ReplicationConnection::connect(&config.source.connection, Side::Source, "stream", &[])
            .await
            .map_err(|error| StreamError::Connect { side: Side::Source, error: Box::new(error) })?;
    let facts = read_facts(&mut connection, &slot).await?;
    let start = start_position(record, progress, &facts)?;
    let options = asked.plugin_options(&record.identity.publication);
    let command = start_replication(&slot, Some(start), &options)?;
    let (socket, rest) = connection.into_socket(&command).await?;
    let config = SessionConfig {
        start: Some(start),
        status_interval: STATUS_INTERVAL,
        silence_limit: Some(SILENCE_LIMIT),
        frame_bytes_max: FRAME_BYTES_MAX,
    };
    let mut session = ReplicationSession::new(config, Duration::ZERO);
    session.handle_bytes(&rest, Duration::ZERO);
    Ok(StartedStream { socket, session, start })
}

async fn read_facts(
    connection: &mut ReplicationConnection,
    slot: &SlotName,
) -> Result<SourceFacts, StreamError> {
    let system = one_row(connection.simple_query(&identify_system()).await?, "IDENTIFY_SYSTEM")?;
    let slots = connection
        .simple_query(&format!(
            "SELECT plugin, database, confirmed_flush_lsn, wal_status FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote_literal(slot.as_str())
        ))
        .await?;
    let text = |row: &ReplicationRow, column| row.get(column).unwrap_or_default().to_owned();
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
        slot,
    })
}

fn one_row(rows: Vec<ReplicationRow>, expected: &'static str) -> Result<ReplicationRow, ReplicationError> {
    rows.into_iter().next().ok_or(ReplicationError::Unexpected { found: "no row", expected })
}
