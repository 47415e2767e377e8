//! The way of reading near the end of the WAL: the walsender sends each transaction as it commits, with the least delay.
//! Feedback goes out by the clock, whatever apply is doing (INV-7). When reading falls far behind, it ends the stream in
//! good order and the attempt with it: the next one reads the backlog in bulk.

use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use pgsluice_proto::command::start_replication;
use pgsluice_proto::session::{Now, ReplicationSession, SessionConfig, SessionEvent, StreamEnd};

use crate::config::BulkMode;
use crate::connection::{ConnectionSettings, WireSocket, connect_sql};
use crate::model::{Lsn, PgTimestamp, Side};
use crate::runtime::Shutdown;
use crate::stream::error::StreamError;
use crate::target::DurableLsn;
use crate::telemetry::ReadingWay;

use super::outlet::Incoming;
use super::{FRAME_BYTES_MAX, Feed, Place, SILENCE_LIMIT, STATUS_INTERVAL};

/// How long it may take to ask the source how far it is.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// Far behind is who is it at so many looks in a row.
const FAR_BEHIND_LOOKS: u32 = 3;

/// How long what has come may take to be durable on the target before the next attempt; it would be read again.
const TAKEN_MAX: Duration = Duration::from_secs(10);

/// Reads until shutdown.
///
/// # Errors
/// [`StreamError::FarBehind`] when reading is that; others when the connection is of no more use.
pub(super) async fn follow(feed: &mut Feed, place: Place, shutdown: &Shutdown) -> Result<(), StreamError> {
    feed.outlet.metrics().reads(ReadingWay::Streaming);
    let command = start_replication(&feed.slot, Some(place.position), &feed.options)?;
    let (socket, rest) = place.connection.into_socket(&command).await?;
    let config = SessionConfig {
        start: Some(place.position),
        status_interval: STATUS_INTERVAL,
        silence_limit: Some(SILENCE_LIMIT),
        frame_bytes_max: FRAME_BYTES_MAX,
    };
    let now = feed.epoch.elapsed();
    let mut session = ReplicationSession::new(config, now);
    session.handle_bytes(&rest, now);
    let mut following = Following { socket, session, distance: Distance::new(feed.bulk), ended: false };
    following.note_durable(feed)?;
    following.run(feed, shutdown).await
}

struct Following {
    socket: WireSocket,
    session: ReplicationSession,
    distance: Distance,
    /// The stream was ended in good order, as asked for.
    ended: bool,
}

impl Following {
    async fn run(&mut self, feed: &mut Feed, shutdown: &Shutdown) -> Result<(), StreamError> {
        let mut out = BytesMut::new();
        loop {
            self.collect(feed)?;
            if self.ended && feed.outlet.is_empty() {
                return self.taken(feed, shutdown).await;
            }
            self.transmit(feed.epoch, &mut out).await?;
            if self.distance.look_is_due() && feed.may_read_in_bulk() {
                self.distance.begin_look(&feed.settings);
            }
            let wake_at = self
                .session
                .poll_timeout()
                .map_or(STATUS_INTERVAL, |at| at.saturating_sub(feed.epoch.elapsed()));
            tokio::select! {
                biased;
                () = shutdown.requested() => {
                    return self.say_goodbye(feed, &mut out).await;
                }
                changed = feed.durable.changed() => {
                    changed.map_err(|_| StreamError::TaskGone("watches what is durable"))?;
                    self.note_durable(feed)?;
                }
                end = self.distance.look() => self.note_distance(feed, end),
                room = feed.outlet.room(), if !feed.outlet.is_empty() => feed.outlet.hand_over(room?)?,
                read = self.socket.read_into(self.session.read_buffer()), if feed.outlet.is_empty() && !self.ended => {
                    read?;
                    self.session.handle_read(feed.epoch.elapsed());
                }
                () = tokio::time::sleep(wake_at) => self.note_time(feed)?,
            }
        }
    }

    fn collect(&mut self, feed: &mut Feed) -> Result<(), StreamError> {
        while feed.outlet.has_space() {
            let Some(event) = self.session.poll_event().map_err(Box::new)? else { break };
            match event {
                SessionEvent::Data(data) => {
                    self.distance.bytes += data.payload.len() as u64;
                    self.distance.commits += u64::from(ends_a_transaction(&data.payload));
                    feed.outlet.push(Incoming::Data(data.payload));
                }
                SessionEvent::Keepalive(keepalive) => {
                    feed.outlet.push(Incoming::Keepalive(keepalive.wal_end));
                }
                SessionEvent::Ended(StreamEnd::Requested) => self.ended = true,
                SessionEvent::Ended(StreamEnd::ByServer) => return Err(StreamError::EndedBySource),
                SessionEvent::Notice(fields) => tracing::debug!(notice = %fields, "the source remarked"),
                SessionEvent::Started | SessionEvent::ParameterStatus { .. } => {}
            }
        }
        if let Some(received) = self.session.received() {
            feed.outlet.received(received);
        }
        Ok(())
    }

    async fn transmit(&mut self, epoch: Instant, out: &mut BytesMut) -> Result<(), StreamError> {
        let now = Now { monotonic: epoch.elapsed(), wall: wall_clock() };
        self.session.poll_transmit(now, out).map_err(Box::new)?;
        if out.is_empty() {
            return Ok(());
        }
        self.socket.send(out).await?;
        out.clear();
        Ok(())
    }

    fn note_durable(&mut self, feed: &mut Feed) -> Result<(), StreamError> {
        let durable = *feed.durable.borrow_and_update();
        if let Some(durable) = durable {
            self.session.handle_durable(durable.lsn()).map_err(Box::new)?;
        }
        Ok(())
    }

    fn note_time(&mut self, feed: &Feed) -> Result<(), StreamError> {
        if !feed.outlet.is_empty() {
            // The silence is ours: nothing is read while the queue is full.
            self.session.handle_read(feed.epoch.elapsed());
        }
        feed.outlet.show_size();
        Ok(self.session.handle_timeout(feed.epoch.elapsed()).map_err(Box::new)?)
    }

    /// Far behind for a while, the stream is ended; the walsender first sends the rest of the transaction that it is at.
    fn note_distance(&mut self, feed: &Feed, end: Option<Lsn>) {
        let received = self.session.received();
        if self.distance.is_far(received, end) && feed.may_read_in_bulk() {
            // Should the source not come to the end of its transaction, the next attempt is not to end the same way.
            feed.withheld.for_a_while();
            tracing::info!(?received, source_end = ?end, "streaming has fallen far behind");
            self.session.finish();
        }
    }

    /// Waits until the target has what has come. The connection is given up: a walsender that has ended a logical stream ends
    /// the next one at once (seen in 14), and a new connection is checked by a new attempt (INV-4).
    async fn taken(&mut self, feed: &mut Feed, shutdown: &Shutdown) -> Result<(), StreamError> {
        let received = self.session.received();
        let taken = feed.durable.wait_for(|durable| durable.map(DurableLsn::lsn) >= received);
        tokio::select! {
            () = shutdown.requested() => Ok(()),
            _ = tokio::time::timeout(TAKEN_MAX, taken) => Err(StreamError::FarBehind),
        }
    }

    /// Tells the source where we are a last time, and leaves without waiting for what it was about to send.
    async fn say_goodbye(&mut self, feed: &mut Feed, out: &mut BytesMut) -> Result<(), StreamError> {
        self.note_durable(feed)?;
        self.session.finish();
        self.transmit(feed.epoch, out).await
    }
}

/// How far behind reading is. The walsender does not say: in logical replication it names no position but its own.
struct Distance {
    limits: Limits,
    /// Received since the last look.
    bytes: u64,
    /// Transactions received since the last look.
    commits: u64,
    looked_at: Instant,
    looks_far: u32,
    look: Option<Pin<Box<dyn Future<Output = Option<Lsn>> + Send>>>,
}

/// When it is worth looking, and what is far.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How often it is looked, while much comes in.
    interval: Duration,
    /// Bytes of messages between two looks that are much.
    much_bytes: u64,
    /// WAL that is not received yet.
    far_bytes: u64,
}

impl Limits {
    const fn new(mode: BulkMode) -> Self {
        match mode {
            BulkMode::Always => {
                Self { interval: Duration::from_millis(100), much_bytes: 1, far_bytes: 64 << 10 }
            }
            BulkMode::Auto | BulkMode::Off => {
                Self { interval: Duration::from_secs(2), much_bytes: 1 << 20, far_bytes: 64 << 20 }
            }
        }
    }
}

impl Distance {
    fn new(mode: BulkMode) -> Self {
        Self {
            limits: Limits::new(mode),
            bytes: 0,
            commits: 0,
            looked_at: Instant::now(),
            looks_far: 0,
            look: None,
        }
    }

    /// Whether it is time to look, and much came in: who idles is not behind. Nor is who receives one large transaction, whose
    /// changes are old when it commits: bulk would not bring it sooner, and ending the stream in its middle begins it anew.
    fn look_is_due(&mut self) -> bool {
        if self.look.is_some() || self.looked_at.elapsed() < self.limits.interval {
            return false;
        }
        self.looked_at = Instant::now();
        let is_much = std::mem::take(&mut self.bytes) >= self.limits.much_bytes;
        let is_worth_it = std::mem::take(&mut self.commits) > 0 && is_much;
        if !is_worth_it {
            self.looks_far = 0;
        }
        is_worth_it
    }

    /// Asks the source in the background.
    fn begin_look(&mut self, settings: &ConnectionSettings) {
        let settings = settings.clone();
        self.look = Some(Box::pin(async move {
            tokio::time::timeout(LOOK_MAX, source_end(&settings)).await.ok().flatten()
        }));
    }

    /// Waits for the answer, if there is a question. Cancel safe.
    async fn look(&mut self) -> Option<Lsn> {
        let Some(look) = &mut self.look else { return std::future::pending().await };
        let end = look.await;
        self.look = None;
        end
    }

    /// Whether reading has been far behind for some looks.
    fn is_far(&mut self, received: Option<Lsn>, end: Option<Lsn>) -> bool {
        let distance = match (received, end) {
            (Some(received), Some(end)) => end.distance_from(received),
            _ => 0,
        };
        self.looks_far = if distance > self.limits.far_bytes { self.looks_far + 1 } else { 0 };
        self.looks_far >= FAR_BEHIND_LOOKS
    }
}

/// Whether a message is a Commit or a Stream Commit, by its first byte (protocol section "Logical Replication Message
/// Formats").
fn ends_a_transaction(payload: &[u8]) -> bool {
    matches!(payload.first(), Some(b'C' | b'c'))
}

/// The end of the source's WAL; `None` if it does not say.
async fn source_end(settings: &ConnectionSettings) -> Option<Lsn> {
    let session = connect_sql(settings, Side::Source, "position").await.ok()?;
    let row = session.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.ok()?;
    let end = row.get::<_, &str>(0).parse().ok();
    session.close().await;
    end
}

fn wall_clock() -> PgTimestamp {
    let since_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PgTimestamp::from_unix_micros(i64::try_from(since_unix.as_micros()).unwrap_or(i64::MAX))
}
