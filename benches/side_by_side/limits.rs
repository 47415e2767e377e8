//! What no replicator that reads in one of the two ways can be faster than: the time in which a reader that does nothing
//! gets the whole backlog from a walsender, and the time of one bulk read of it. Nothing is confirmed to the source.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use pgsluice::connection::{ConnectionSettings, WireConnection, connect_sql};
use pgsluice::model::{Lsn, PgTimestamp, Side};
use pgsluice_proto::command::{PgoutputOptions, SlotName, start_replication};
use pgsluice_proto::session::{Now, ReplicationSession, SessionConfig, SessionEvent};

use super::Outcome;
use super::ground::{BacklogEnd, Ground, NATIVE_PUBLICATION};
use super::servers::Servers;

/// How long the source may be silent: it sends nothing while it reads a large transaction.
const SILENCE_LIMIT: Duration = Duration::from_secs(600);
const FRAME_BYTES_MAX: usize = 1_100 * 1_024 * 1_024;

/// Reads the stream up to the mark's commit; answers with the bytes of its messages.
pub(crate) async fn read_stream(
    servers: &Servers,
    ground: &Ground,
    slot: &str,
    end: &BacklogEnd,
) -> Outcome<u64> {
    let settings = ConnectionSettings::parse(&servers.source_url(&ground.database))?;
    let connection = WireConnection::connect_walsender(&settings, Side::Source, "bench", &[]).await?;
    let command = start_replication(&SlotName::new(slot)?, None, &plugin_options())?;
    let (mut socket, rest) = connection.into_socket(&command).await?;
    let config = SessionConfig {
        start: None,
        status_interval: Duration::from_secs(1),
        silence_limit: Some(SILENCE_LIMIT),
        frame_bytes_max: FRAME_BYTES_MAX,
    };
    let epoch = Instant::now();
    let mut session = ReplicationSession::new(config, Duration::ZERO);
    session.handle_bytes(&rest, Duration::ZERO);
    let end: Lsn = end.before_mark.parse().map_err(|_| "a malformed LSN")?;
    let (mut out, mut bytes) = (BytesMut::new(), 0);
    loop {
        while let Some(event) = session.poll_event()? {
            match event {
                SessionEvent::Data(data) => {
                    bytes += data.payload.len() as u64;
                    if data.payload.first() == Some(&b'C') && data.wal_start >= Some(end) {
                        return Ok(bytes);
                    }
                }
                SessionEvent::Ended(_) => return Err("the source ended the stream".into()),
                _ => {}
            }
        }
        let now = Now { monotonic: epoch.elapsed(), wall: PgTimestamp::from_unix_micros(0) };
        session.poll_transmit(now, &mut out)?;
        if !out.is_empty() {
            socket.send(&out).await?;
            out.clear();
        }
        let wake_at = session.poll_timeout().unwrap_or(SILENCE_LIMIT).saturating_sub(epoch.elapsed());
        tokio::select! {
            read = socket.read_into(session.read_buffer()) => {
                read?;
                session.handle_read(epoch.elapsed());
            }
            () = tokio::time::sleep(wake_at) => session.handle_timeout(epoch.elapsed())?,
        }
    }
}

/// Reads everything in one call, without consuming it; answers with the bytes of the result.
pub(crate) async fn read_bulk(servers: &Servers, ground: &Ground, slot: &str) -> Outcome<u64> {
    let settings = ConnectionSettings::parse(&servers.source_url(&ground.database))?;
    let session = connect_sql(&settings, Side::Source, "bench").await?;
    let options: Vec<String> = plugin_options()
        .pairs()?
        .iter()
        .flat_map(|(name, value)| [format!("'{name}'"), format!("'{value}'")])
        .collect();
    let sql = format!(
        "COPY (SELECT lsn, xid, data FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, {}))
           TO STDOUT (FORMAT binary)",
        options.join(", ")
    );
    let mut rows = pin!(session.copy_out(&sql).await?);
    let mut bytes = 0;
    while let Some(piece) = rows.try_next().await? {
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}

/// What pgsluice asks for where every type allows it.
fn plugin_options() -> PgoutputOptions {
    PgoutputOptions { binary: true, ..PgoutputOptions::new(vec![NATIVE_PUBLICATION.to_owned()]) }
}
