//! The way of reading when far behind: pieces of the backlog, decoded by an SQL function and sent by COPY, which costs both
//! sides a fraction of what the walsender's packets cost, one for each message.
//!
//! What is read is a *copy* of the slot, temporary and of this connection, so that the slot itself stays where the target
//! is (INV-3): when the connection is lost the copy is gone with it, and the next attempt begins at the target's progress. A
//! piece ends with a transaction, and the copy's position then says up to where everything has been sent.

use std::time::Duration;

use pgsluice_proto::command::{CommandError, SlotName, identify_system, quote_literal};
use pgsluice_proto::copy_both::XLogData;
use pgsluice_proto::copy_out::{CopyOutError, CopyOutEvent, CopyOutSession};
use pgsluice_proto::frame::ErrorFields;
use tokio::time::Instant;

use crate::connection::{ReplicationConnection, ReplicationError, ReplicationRow};
use crate::model::{Lsn, PgTimestamp};
use crate::runtime::Shutdown;
use crate::stream::error::StreamError;
use crate::stream::options;
use crate::target::DurableLsn;
use crate::telemetry::{BulkEnd, ReadingWay};

use super::outlet::Incoming;
use super::pieces::{Next, PieceFacts, Pieces};
use super::{FRAME_BYTES_MAX, Feed, Place, SILENCE_LIMIT};

/// How long a piece may take until its first row comes: until then the source decodes, and says nothing.
const FIRST_ROW_MAX: Duration = Duration::from_secs(20);
/// How long the queue may be full in the middle of a piece: its query keeps a snapshot on the source.
const BLOCKED_MAX: Duration = Duration::from_secs(60);
/// How often the slot is moved. Each time, the source reads the WAL since the last time once more.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(10);
/// Should we be gone while the source decodes, it would otherwise not notice before it sends.
const NOTICE_LOST_CLIENT: &str = "SET client_connection_check_interval = '1s'";
/// SQLSTATE `configuration_limit_exceeded`: no slot is free.
const LIMIT_EXCEEDED: &str = "53400";
/// SQLSTATE `insufficient_privilege`.
const NOT_ALLOWED: &str = "42501";

/// Reading in bulk ended in a piece: the attempt to stream ends with it, and the next one streams. Never on the same
/// connection: after an error in the middle of decoding, the plugin of that session believes for good that it has announced the
/// tables of that piece (`RelationSyncCache` of pgoutput, seen in 14), and sends their changes without.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The source stopped.
    #[error("the source refused a piece of the backlog, or stopped in the middle of it: {0}")]
    Interrupted(#[source] Box<ErrorFields>),
    /// What came is no such copy.
    #[error("the source sent a piece of the backlog that cannot be read: {0}")]
    Malformed(#[source] CopyOutError),
    /// Nothing came.
    #[error("the source has decoded a piece of the backlog for {} s without a row", .0.as_secs())]
    TooSlow(Duration),
    /// The target did not take it.
    #[error("the target has taken nothing of a piece of the backlog for {} s, and its query must not stay open on the source", .0.as_secs())]
    Blocked(Duration),
}

impl BulkError {
    /// For the metric `pgsluice_bulk_ends_total{reason}`.
    pub(in crate::stream) const fn end(&self) -> BulkEnd {
        match self {
            Self::Interrupted(_) | Self::Malformed(_) => BulkEnd::Interrupted,
            Self::TooSlow(_) => BulkEnd::TooSlow,
            Self::Blocked(_) => BulkEnd::Blocked,
        }
    }
}

/// Reads the backlog until it is short, or until the source does not allow it or is too slow; `None` is shutdown.
///
/// # Errors
/// [`StreamError`] when the connection is of no more use, or the middle of a transaction was read.
pub(super) async fn read(
    feed: &mut Feed,
    place: Place,
    shutdown: &Shutdown,
) -> Result<Option<Place>, StreamError> {
    let reading = async {
        feed.outlet.metrics().reads(ReadingWay::Bulk);
        let mut ahead = match Ahead::begin(feed, place).await? {
            Begun::Ahead(ahead) => ahead,
            Begun::Refused(place, error) => return Ok(refused(feed, place, &error)),
        };
        loop {
            let (read, next) = ahead.piece(feed).await?;
            let end = match next {
                Next::Piece => {
                    ahead = read.confirm(feed).await?;
                    continue;
                }
                Next::Follow => BulkEnd::NearTheEnd,
                Next::NotWorthIt => BulkEnd::TooSlow,
            };
            let place = read.leave(feed).await?;
            feed.outlet.metrics().bulk_ended(end);
            match end {
                BulkEnd::NearTheEnd => feed.withheld.lift(),
                _ => {
                    feed.withheld.for_a_while();
                    tracing::warn!(
                        "the source takes long to decode pieces of the backlog; it streams instead"
                    );
                }
            }
            return Ok(place);
        }
    };
    tokio::select! {
        biased;
        // The connection is dropped, and the copied slot goes with it.
        () = shutdown.requested() => Ok(None),
        place = reading => place.map(Some),
    }
}

/// Nothing was decoded on the connection, so the walsender streams on it.
fn refused(feed: &Feed, place: Place, error: &ReplicationError) -> Place {
    feed.withheld.for_a_while();
    let end = match error.sqlstate() {
        Some(LIMIT_EXCEEDED) => BulkEnd::NoFreeSlot,
        Some(NOT_ALLOWED) => BulkEnd::NotAllowed,
        _ => BulkEnd::Refused,
    };
    feed.outlet.metrics().bulk_ended(end);
    tracing::warn!(%error, "the backlog cannot be read in bulk; it is streamed, which takes longer");
    place
}

enum Begun {
    Ahead(Ahead),
    Refused(Place, ReplicationError),
}

/// A connection with a copy of the slot that is ahead of it.
struct Ahead {
    connection: ReplicationConnection,
    copy: SlotName,
    /// Everything before has been handed over.
    position: Lsn,
    source_end: Lsn,
    pieces: Pieces,
    /// Up to here the slot was moved, and when.
    confirmed: Option<DurableLsn>,
    confirmed_at: Instant,
    changes: u64,
}

impl Ahead {
    /// Copies the slot, and moves the copy to where the target is: nothing is to be read twice.
    async fn begin(feed: &Feed, place: Place) -> Result<Begun, StreamError> {
        let Place { mut connection, position } = place;
        let copy = copy_name(&feed.slot, connection.backend_pid())?;
        let source_end = match copy_slot(&mut connection, &feed.slot, &copy, position).await {
            Ok(source_end) => source_end,
            Err(error @ ReplicationError::Server(_)) => {
                return Ok(Begun::Refused(Place { connection, position }, error));
            }
            Err(error) => return Err(error.into()),
        };
        tracing::info!(
            %position, %source_end, bytes = source_end.distance_from(position), "reading the backlog in bulk"
        );
        let (confirmed, confirmed_at) = (None, Instant::now());
        let pieces = Pieces::new(feed.bulk);
        Ok(Begun::Ahead(Self {
            connection,
            copy,
            position,
            source_end,
            pieces,
            confirmed,
            confirmed_at,
            changes: 0,
        }))
    }

    /// Reads the next piece and decides what follows it.
    async fn piece(mut self, feed: &mut Feed) -> Result<(Self, Next), StreamError> {
        let (before, end_then) = (self.position, self.source_end);
        let sql = self.sql(feed)?;
        let (mut socket, rest) = self.connection.into_socket(&sql).await?;
        let mut copy = CopyOutSession::new(FRAME_BYTES_MAX, rest);
        let begun_at = Instant::now();
        let mut facts = PieceFacts::default();
        let mut heard_at = begun_at;
        loop {
            match collect(&mut copy, feed, &mut facts) {
                Ok(Collected::More) => {}
                Ok(Collected::Ended) => break,
                Err(CopyOutError::Server(fields)) => return Err(BulkError::Interrupted(fields).into()),
                Err(error) => return Err(BulkError::Malformed(error).into()),
            }
            if facts.changes > 0 && facts.waited.is_zero() {
                facts.waited = begun_at.elapsed();
            }
            let reads = feed.outlet.has_space();
            let silence_max = if facts.changes == 0 { FIRST_ROW_MAX } else { SILENCE_LIMIT };
            let limit = if reads { silence_max } else { BLOCKED_MAX };
            tokio::select! {
                biased;
                read = socket.read_into(copy.read_buffer()), if reads => {
                    read?;
                    heard_at = Instant::now();
                }
                room = feed.outlet.room(), if !feed.outlet.is_empty() => {
                    feed.outlet.hand_over(room?)?;
                    heard_at = Instant::now();
                }
                () = tokio::time::sleep_until(heard_at + limit) => {
                    return Err(if reads { BulkError::TooSlow(limit) } else { BulkError::Blocked(limit) }.into());
                }
            }
        }
        self.connection = socket.into_connection(copy.into_buffer());
        if facts.changes == 0 {
            facts.waited = begun_at.elapsed();
        }
        facts.took = begun_at.elapsed();
        self.note_position(feed).await?;
        self.changes += facts.changes;
        feed.outlet.metrics().bulk_piece(facts.changes);
        let next = self.pieces.after(facts, [before, self.position], [end_then, self.source_end]);
        tracing::debug!(
            position = %self.position, changes = facts.changes, bytes = facts.bytes, waited = ?facts.waited,
            took = ?facts.took, ?next, "a piece of the backlog was read"
        );
        Ok((self, next))
    }

    fn sql(&self, feed: &Feed) -> Result<String, CommandError> {
        let mut pairs = String::new();
        for (name, value) in options::whole_transactions(&feed.options).pairs()? {
            pairs = pairs + ", " + &quote_literal(name) + ", " + &quote_literal(&value);
        }
        Ok(format!(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes({}, {}, {}{pairs})) TO STDOUT (FORMAT binary)",
            quote_literal(self.copy.as_str()),
            quote_literal(&self.pieces.upto(self.position, self.source_end).to_string()),
            self.pieces.changes(),
        ))
    }

    /// The copy stands where the piece ended. What is not for us before it is passed as well: to the applying end this is
    /// what a keepalive says.
    async fn note_position(&mut self, feed: &mut Feed) -> Result<(), StreamError> {
        let query = format!(
            "SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote_literal(self.copy.as_str())
        );
        let rows = self.connection.simple_query(&query).await?;
        // Older servers can set a slot back when it is asked for less than it has.
        self.position = self.position.max(position(&rows, "confirmed_flush_lsn")?);
        self.source_end = source_end(&mut self.connection).await?;
        feed.outlet.push(Incoming::Keepalive(self.position));
        feed.outlet.received(self.position);
        // No query is open now, but nobody is told meanwhile that the slot is in use.
        match tokio::time::timeout(BLOCKED_MAX, feed.outlet.flush()).await {
            Ok(flushed) => flushed,
            Err(_) => Err(BulkError::Blocked(BLOCKED_MAX).into()),
        }
    }

    /// Moves the slot to what is durable, if that has gone on and it was not done lately (INV-3, INV-7: the source forgets
    /// the WAL of a backlog while it is read).
    async fn confirm(mut self, feed: &mut Feed) -> Result<Self, StreamError> {
        if self.confirmed_at.elapsed() >= CONFIRM_INTERVAL {
            let durable = *feed.durable.borrow_and_update();
            if let Some(durable) = durable.filter(|durable| self.confirmed < Some(*durable)) {
                advance(&mut self.connection, &feed.slot, durable.lsn()).await?;
                self.confirmed = Some(durable);
            }
            self.confirmed_at = Instant::now();
        }
        Ok(self)
    }

    /// Drops the copy, which would hold WAL back on the source for as long as the connection lives.
    async fn leave(mut self, feed: &mut Feed) -> Result<Place, StreamError> {
        let drop =
            format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(self.copy.as_str()));
        self.connection.simple_query(&drop).await?;
        // The less has to be passed over again by the walsender, the sooner it sends.
        self.confirmed_at = self.confirmed_at.checked_sub(CONFIRM_INTERVAL).unwrap_or(self.confirmed_at);
        let left = self.confirm(feed).await?;
        tracing::info!(position = %left.position, changes = left.changes, "the backlog was read");
        Ok(left.into_place())
    }

    fn into_place(self) -> Place {
        Place { connection: self.connection, position: self.position }
    }
}

enum Collected {
    More,
    Ended,
}

/// Takes the rows that have come, as long as a chunk has space.
fn collect(
    copy: &mut CopyOutSession,
    feed: &mut Feed,
    facts: &mut PieceFacts,
) -> Result<Collected, CopyOutError> {
    while feed.outlet.has_space() {
        match copy.poll_event()? {
            None => break,
            Some(CopyOutEvent::Ended) => return Ok(Collected::Ended),
            Some(CopyOutEvent::Row(payload)) => {
                facts.changes += 1;
                facts.bytes += payload.len() as u64;
                let sent_at = PgTimestamp::from_unix_micros(0);
                let data = XLogData { wal_start: None, wal_end: None, sent_at, payload };
                feed.outlet.push(Incoming::Data(data));
            }
        }
    }
    Ok(Collected::More)
}

/// Copies the slot and moves the copy to `position`; answers with the end of the source's WAL.
async fn copy_slot(
    connection: &mut ReplicationConnection,
    slot: &SlotName,
    copy: &SlotName,
    position: Lsn,
) -> Result<Lsn, ReplicationError> {
    connection.simple_query(NOTICE_LOST_CLIENT).await?;
    let (from, to) = (quote_literal(slot.as_str()), quote_literal(copy.as_str()));
    let rows = connection
        .simple_query(&format!(
            "SELECT lsn FROM pg_catalog.pg_copy_logical_replication_slot({from}, {to}, true)"
        ))
        .await?;
    if self::position(&rows, "lsn")? < position {
        advance(connection, copy, position).await?;
    }
    source_end(connection).await
}

/// Moves a slot, on a connection that reads none.
async fn advance(
    connection: &mut ReplicationConnection,
    slot: &SlotName,
    to: Lsn,
) -> Result<(), ReplicationError> {
    let (slot, to) = (quote_literal(slot.as_str()), quote_literal(&to.to_string()));
    connection
        .simple_query(&format!("SELECT pg_catalog.pg_replication_slot_advance({slot}, {to})"))
        .await
        .map(|_| ())
}

async fn source_end(connection: &mut ReplicationConnection) -> Result<Lsn, ReplicationError> {
    position(&connection.simple_query(&identify_system()).await?, "xlogpos")
}

fn position(rows: &[ReplicationRow], column: &str) -> Result<Lsn, ReplicationError> {
    rows.first()
        .and_then(|row| row.get(column))
        .and_then(|text| text.parse().ok())
        .ok_or(ReplicationError::Unexpected { found: "no position", expected: "one" })
}

/// A name that no other session gives its copy: slots are of the whole server.
fn copy_name(slot: &SlotName, backend_pid: i32) -> Result<SlotName, CommandError> {
    let suffix = format!("_ahead_{backend_pid}");
    let mut name = slot.as_str().to_owned();
    name.truncate(SlotName::BYTES_MAX.saturating_sub(suffix.len()));
    SlotName::new(name + &suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_of_a_slot_with_the_longest_name_has_a_name_too() {
        let copy = |slot: &str| {
            let slot = SlotName::new(slot).expect("a name");
            copy_name(&slot, 4_194_304).expect("a name").to_string()
        };
        assert_eq!(copy("pgsluice"), "pgsluice_ahead_4194304");
        assert_eq!(copy(&"x".repeat(63)), format!("{}_ahead_4194304", "x".repeat(49)));
    }
}
