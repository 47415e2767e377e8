//! One piece of the backlog: a session on the source with a temporary copy of the slot, the query that decodes from it,
//! and its rows. What the query has passed is known before its first row is sent, so that another session can go on from
//! there while these rows are taken.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use pgsluice_proto::command::{CommandError, PgoutputOptions, SlotName, quote_literal};
use pgsluice_proto::copy_out::{CopyOutError, CopyOutEvent, CopyOutSession};
use tokio::time::Instant;

use crate::connection::{TextRow, WireConnection, WireError, WireSocket};
use crate::model::Lsn;
use crate::stream::error::StreamError;
use crate::stream::options;
use crate::target::WAL_END;

use super::bulk::BulkError;
use super::outlet::Incoming;
use super::pieces::{PieceFacts, Pieces, WalEnd};
use super::{FRAME_BYTES_MAX, Feed, SILENCE_LIMIT};

/// How long a piece may take until its first row comes: until then the source decodes, and says nothing.
const FIRST_ROW_MAX: Duration = Duration::from_secs(20);
/// How long the queue may be full in the middle of a piece: its query keeps a snapshot on the source.
pub(super) const BLOCKED_MAX: Duration = Duration::from_secs(60);
/// How long what is done meanwhile may take after the last row: moving the slot passes over all WAL since an old transaction began.
const MEANWHILE_MAX: Duration = Duration::from_secs(600);
/// Should we be gone while the source decodes, it would otherwise not notice before it sends.
const NOTICE_LOST_CLIENT: &str = "SET client_connection_check_interval = '1s'";

/// A large transaction is decoded more than twice as fast where it need not be put on disk meanwhile, and a piece somewhat faster:
/// a session may use half of what the server's buffers take for the one, an eighth for the other, and not less than it is set
/// to. Only one of two sessions decodes at a time. In kB; `shared_buffers` is counted in blocks of 8 kB.
const USE_MEMORY: &str = "SELECT pg_catalog.set_config(s.name,
        greatest(s.setting::bigint, least(b.setting::bigint * 8 / w.part, w.kilobytes_max))::text, false)
    FROM (VALUES ('logical_decoding_work_mem', 2, 1048576), ('work_mem', 8, 131072)) AS w (name, part, kilobytes_max)
    JOIN pg_catalog.pg_settings AS s ON s.name = w.name JOIN pg_catalog.pg_settings AS b ON b.name = 'shared_buffers'";

const USE_NO_MORE_MEMORY: &str = "RESET logical_decoding_work_mem; RESET work_mem";
const FREE_SLOTS: &str =
    "SELECT pg_catalog.current_setting('max_replication_slots')::int - count(*) >= 2 AS enough
    FROM pg_catalog.pg_replication_slots";

/// A session with a copy of the slot, waiting for commands. When it is lost the copy is gone with it.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) connection: WireConnection,
    copy: SlotName,
    has_copy: bool,
}

impl Ahead {
    /// A session that has no copy yet.
    pub(super) async fn new(mut connection: WireConnection, slot: &SlotName) -> Result<Self, StreamError> {
        let copy = copy_name(slot, connection.backend_pid())?;
        // Wishes: a source that does not grant them is read all the same.
        for wish in [NOTICE_LOST_CLIENT, USE_MEMORY] {
            match connection.simple_query(wish).await {
                Ok(_) => {}
                Err(WireError::Server(error)) => {
                    tracing::debug!(%error, "the source refused a setting")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { connection, copy, has_copy: false })
    }

    /// The name of its copy.
    pub(super) const fn copy(&self) -> &SlotName {
        &self.copy
    }

    /// Takes a copy of `slot` in place of the one it had, and moves it to `position` if it is not there yet: nothing is to be
    /// read twice.
    pub(super) async fn take_copy(&mut self, slot: &SlotName, position: Lsn) -> Result<(), WireError> {
        self.drop_copy().await?;
        let (from, to) = (quote_literal(slot.as_str()), quote_literal(self.copy.as_str()));
        let copied = self
            .connection
            .simple_query(&format!(
                "SELECT lsn FROM pg_catalog.pg_copy_logical_replication_slot({from}, {to}, true)"
            ))
            .await?;
        self.has_copy = true;
        if self::position(&copied, "lsn")? < position {
            advance(&mut self.connection, &self.copy, position).await?;
        }
        Ok(())
    }

    /// Drops the copy, which would hold WAL back on the source for as long as the session lives.
    pub(super) async fn drop_copy(&mut self) -> Result<(), WireError> {
        if self.has_copy {
            let copy = quote_literal(self.copy.as_str());
            self.connection
                .simple_query(&format!("SELECT pg_catalog.pg_drop_replication_slot({copy})"))
                .await?;
            self.has_copy = false;
        }
        Ok(())
    }

    /// What the session was given for pieces is not for a stream that may last for weeks.
    pub(super) async fn into_connection(mut self) -> Result<WireConnection, WireError> {
        self.drop_copy().await?;
        self.connection.simple_query(USE_NO_MORE_MEMORY).await?;
        Ok(self.connection)
    }

    /// Whether the source has a slot for another copy, and one more for a table that joins meanwhile.
    pub(super) async fn has_free_slots(&mut self) -> Result<bool, WireError> {
        let rows = self.connection.simple_query(FREE_SLOTS).await?;
        Ok(rows.first().and_then(|row| row.get("enough")) == Some("t"))
    }

    /// Moves the migration's slot.
    pub(super) async fn confirm(&mut self, slot: &SlotName, to: Lsn) -> Result<(), WireError> {
        advance(&mut self.connection, slot, to).await
    }

    /// Up to where a copy has been read.
    pub(super) async fn position_of(&mut self, copy: &SlotName) -> Result<Lsn, WireError> {
        let query = format!(
            "SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote_literal(copy.as_str())
        );
        position(&self.connection.simple_query(&query).await?, "confirmed_flush_lsn")
    }

    /// The end of the source's WAL.
    pub(super) async fn wal_end(&mut self) -> Result<WalEnd, WireError> {
        // What is flushed is read first: if nothing is written beyond it later, nothing was then.
        let query = format!(
            "WITH f AS MATERIALIZED (SELECT pg_catalog.pg_current_wal_flush_lsn() AS flushed)
             SELECT flushed, ({WAL_END}) <= flushed AS is_whole FROM f"
        );
        let rows = self.connection.simple_query(&query).await?;
        let is_whole = rows.first().and_then(|row| row.get("is_whole")) == Some("t");
        Ok(WalEnd { flushed: position(&rows, "flushed")?, is_whole })
    }

    /// Asks for the piece from `position` on.
    pub(super) async fn decode(
        self,
        options: &PgoutputOptions,
        pieces: &Pieces,
        position: Lsn,
        end: WalEnd,
    ) -> Result<Piece, StreamError> {
        let sql = self.sql(options, pieces, pieces.upto(position, end))?;
        let (socket, rest) = self.connection.into_socket(&sql).await?;
        let session = CopyOutSession::new(FRAME_BYTES_MAX, rest);
        Ok(Piece { socket, session, copy: self.copy, before: position, end, asked: pieces.changes() })
    }

    fn sql(&self, options: &PgoutputOptions, pieces: &Pieces, upto: Lsn) -> Result<String, CommandError> {
        let mut pairs = String::new();
        for (name, value) in options::whole_transactions(options).pairs()? {
            pairs = pairs + ", " + &quote_literal(name) + ", " + &quote_literal(&value);
        }
        Ok(format!(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes({}, {}, {}{pairs})) TO STDOUT (FORMAT binary)",
            quote_literal(self.copy.as_str()),
            quote_literal(&upto.to_string()),
            pieces.changes(),
        ))
    }
}

/// A piece that was asked for.
#[derive(Debug)]
pub(super) struct Piece {
    socket: WireSocket,
    session: CopyOutSession,
    copy: SlotName,
    /// Where it begins.
    pub(super) before: Lsn,
    /// The end of the source's WAL when it was asked for.
    pub(super) end: WalEnd,
    asked: u32,
}

/// Something that is done meanwhile.
pub(super) type Meanwhile<T> = Pin<Box<dyn Future<Output = Result<T, StreamError>> + Send>>;

impl Piece {
    /// The copy that it is read from.
    pub(super) const fn copy(&self) -> &SlotName {
        &self.copy
    }

    /// Takes all rows. `begin` is called once it is known where the piece ends: when its first row has come, or none will; what
    /// it gives is done while rows are taken, and waited for.
    pub(super) async fn take<T>(
        mut self,
        feed: &mut Feed,
        begin: impl FnOnce(&Feed) -> Option<Meanwhile<T>>,
    ) -> Result<(Ahead, PieceFacts, Option<T>), StreamError> {
        let begun_at = Instant::now();
        let mut facts = PieceFacts { asked: self.asked, ..PieceFacts::default() };
        let mut heard_at = begun_at;
        let mut begin = Some(begin);
        let (mut meanwhile, mut done) = (None, None);
        let mut ended = false;
        loop {
            if !ended {
                ended = self.collect(feed, &mut facts)?;
            }
            if (ended || facts.changes > 0)
                && let Some(begin) = begin.take()
            {
                facts.waited = begun_at.elapsed();
                meanwhile = begin(feed);
            }
            if ended && feed.outlet.is_empty() && meanwhile.is_none() {
                break;
            }
            let reads = feed.outlet.has_space() && !ended;
            let is_blocked = !reads && !feed.outlet.is_empty();
            let limit = match (is_blocked, begin.is_some()) {
                (true, _) => BLOCKED_MAX,
                (false, true) => FIRST_ROW_MAX,
                (false, false) if ended => MEANWHILE_MAX,
                (false, false) => SILENCE_LIMIT,
            };
            tokio::select! {
                biased;
                result = result_of(&mut meanwhile) => (meanwhile, done) = (None, Some(result?)),
                read = self.socket.read_into(self.session.read_buffer()), if reads => {
                    read?;
                    heard_at = Instant::now();
                }
                room = feed.outlet.room(), if !feed.outlet.is_empty() => {
                    feed.outlet.hand_over(room?)?;
                    heard_at = Instant::now();
                }
                () = tokio::time::sleep_until(heard_at + limit) => {
                    return Err(if is_blocked { BulkError::Blocked(limit) } else { BulkError::TooSlow(limit) }.into());
                }
            }
        }
        facts.took = begun_at.elapsed();
        let connection = self.socket.into_connection(self.session.into_buffer());
        Ok((Ahead { connection, copy: self.copy, has_copy: true }, facts, done))
    }

    /// Takes the rows that have come, as long as a chunk has space; whether that was the last one.
    fn collect(&mut self, feed: &mut Feed, facts: &mut PieceFacts) -> Result<bool, StreamError> {
        while feed.outlet.has_space() {
            match self.session.poll_event() {
                Ok(None) => break,
                Ok(Some(CopyOutEvent::Ended)) => return Ok(true),
                Ok(Some(CopyOutEvent::Row(payload))) => {
                    facts.changes += 1;
                    facts.bytes += payload.len() as u64;
                    feed.outlet.push(Incoming::Data(payload));
                }
                Err(CopyOutError::Server(fields)) => return Err(BulkError::Interrupted(fields).into()),
                Err(error) => return Err(BulkError::Malformed(error).into()),
            }
        }
        Ok(false)
    }
}

/// Waits for what is done meanwhile, for ever if that is nothing. Cancel safe.
async fn result_of<T>(meanwhile: &mut Option<Meanwhile<T>>) -> Result<T, StreamError> {
    match meanwhile {
        Some(meanwhile) => meanwhile.await,
        None => std::future::pending().await,
    }
}

/// Moves a slot, on a connection that reads none.
async fn advance(connection: &mut WireConnection, slot: &SlotName, to: Lsn) -> Result<(), WireError> {
    let (slot, to) = (quote_literal(slot.as_str()), quote_literal(&to.to_string()));
    connection
        .simple_query(&format!("SELECT pg_catalog.pg_replication_slot_advance({slot}, {to})"))
        .await
        .map(|_| ())
}

fn position(rows: &[TextRow], column: &str) -> Result<Lsn, WireError> {
    rows.first()
        .and_then(|row| row.get(column))
        .and_then(|text| text.parse().ok())
        .ok_or(WireError::Unexpected { found: "no position", expected: "one" })
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
