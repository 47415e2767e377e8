//! Owns the walsender's socket: reads what comes, puts it into a queue bounded in bytes, and sends feedback by the
//! clock, whatever apply is doing (INV-7). Looks into no message.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use pgsluice_proto::copy_both::XLogData;
use pgsluice_proto::session::{Now, ReplicationSession, SessionEvent, StreamEnd};
use tokio::sync::{mpsc, watch};

use crate::connection::ReplicationSocket;
use crate::model::{Lsn, PgTimestamp};
use crate::runtime::{ByteBudget, BytePermit, Shutdown};
use crate::target::DurableLsn;

use crate::telemetry::Metrics;

use super::error::StreamError;
use super::handle::StreamPublisher;

/// How often the source hears from us at least; CloudNativePG's `wal_sender_timeout` is 5 s.
pub(super) const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the source may be silent before its connection counts as lost. Not shorter: while it skips through a large
/// transaction of unpublished tables, an older server answers nobody.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// The longest message accepted; PostgreSQL never makes one of more than 1 GiB.
pub(super) const FRAME_BYTES_MAX: usize = 1_100 * 1_024 * 1_024;
/// Messages handed over at once, in bytes, unless a single one is larger.
const CHUNK_BYTES: usize = 64 * 1_024;

/// What the walsender sent, in order.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message of the output plugin.
    Data(XLogData),
    /// Everything before this position has been sent.
    Keepalive(Lsn),
}

/// Some messages, and the room they take in the queue: dropping the chunk gives it back.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The messages.
    pub messages: Vec<Incoming>,
    _permit: BytePermit,
}

/// The reading end of one connection.
#[derive(Debug)]
pub(super) struct Reader {
    /// The socket, on which `START_REPLICATION` has been sent.
    pub socket: ReplicationSocket,
    /// The state machine of that command.
    pub session: ReplicationSession,
    /// What is durable on the target, to be confirmed.
    pub durable: watch::Receiver<Option<DurableLsn>>,
    /// Where chunks go.
    pub queue: mpsc::UnboundedSender<Chunk>,
    /// What bounds that queue.
    pub budget: ByteBudget,
    /// Where the received position is published.
    pub publisher: StreamPublisher,
    /// Where the queue's size is shown.
    pub(super) metrics: Arc<Metrics>,
    /// When the monotonic clock began.
    pub epoch: Instant,
}

/// Messages read and not yet in the queue.
#[derive(Debug, Default)]
struct Pending {
    messages: Vec<Incoming>,
    bytes: usize,
}

impl Reader {
    /// Reads until shutdown is requested.
    ///
    /// # Errors
    /// [`StreamError`] when the connection is of no more use.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<(), StreamError> {
        let mut out = BytesMut::new();
        let mut pending = Pending::default();
        loop {
            self.collect(&mut pending)?;
            self.transmit(&mut out).await?;
            let wake_at = self
                .session
                .poll_timeout()
                .map_or(STATUS_INTERVAL, |at| at.saturating_sub(self.epoch.elapsed()));
            tokio::select! {
                biased;
                () = shutdown.requested() => return self.say_goodbye(&mut out).await,
                changed = self.durable.changed() => {
                    changed.map_err(|_| StreamError::TaskGone("watches what is durable"))?;
                    self.note_durable()?;
                }
                permit = self.budget.take(pending.bytes), if !pending.messages.is_empty() => {
                    let permit = permit.ok_or(StreamError::TaskGone("applies changes"))?;
                    let chunk = Chunk { messages: std::mem::take(&mut pending.messages), _permit: permit };
                    pending.bytes = 0;
                    self.queue.send(chunk).map_err(|_| StreamError::TaskGone("applies changes"))?;
                    self.metrics.set_queue_bytes(self.budget.bytes_in_use());
                }
                read = self.socket.read_into(self.session.read_buffer()), if pending.messages.is_empty() => {
                    read?;
                    self.session.handle_read(self.epoch.elapsed());
                }
                () = tokio::time::sleep(wake_at) => self.note_time(&pending)?,
            }
        }
    }

    fn collect(&mut self, pending: &mut Pending) -> Result<(), StreamError> {
        while pending.bytes < CHUNK_BYTES {
            let Some(event) = self.session.poll_event().map_err(Box::new)? else { break };
            match event {
                SessionEvent::Data(data) => {
                    pending.bytes += data.payload.len() + size_of::<Incoming>();
                    pending.messages.push(Incoming::Data(data));
                }
                SessionEvent::Keepalive(keepalive) => {
                    pending.bytes += size_of::<Incoming>();
                    pending.messages.push(Incoming::Keepalive(keepalive.wal_end));
                }
                SessionEvent::Ended(StreamEnd::ByServer | StreamEnd::Requested) => {
                    return Err(StreamError::EndedBySource);
                }
                SessionEvent::Notice(fields) => tracing::debug!(notice = %fields, "the source remarked"),
                SessionEvent::Started | SessionEvent::ParameterStatus { .. } => {}
            }
        }
        if let Some(received) = self.session.received() {
            self.publisher.received(received);
        }
        Ok(())
    }

    async fn transmit(&mut self, out: &mut BytesMut) -> Result<(), StreamError> {
        let now = Now { monotonic: self.epoch.elapsed(), wall: wall_clock() };
        self.session.poll_transmit(now, out).map_err(Box::new)?;
        if out.is_empty() {
            return Ok(());
        }
        self.socket.send(out).await?;
        out.clear();
        Ok(())
    }

    fn note_durable(&mut self) -> Result<(), StreamError> {
        let durable = *self.durable.borrow_and_update();
        if let Some(durable) = durable {
            self.session.handle_durable(durable.lsn()).map_err(Box::new)?;
        }
        Ok(())
    }

    fn note_time(&mut self, pending: &Pending) -> Result<(), StreamError> {
        if !pending.messages.is_empty() {
            // The silence is ours: nothing is read while the queue is full.
            self.session.handle_read(self.epoch.elapsed());
        }
        self.metrics.set_queue_bytes(self.budget.bytes_in_use());
        Ok(self.session.handle_timeout(self.epoch.elapsed()).map_err(Box::new)?)
    }

    /// Tells the source where we are a last time, and leaves without waiting for what it was about to send.
    async fn say_goodbye(&mut self, out: &mut BytesMut) -> Result<(), StreamError> {
        self.note_durable()?;
        self.session.finish();
        self.transmit(out).await
    }
}

fn wall_clock() -> PgTimestamp {
    let since_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PgTimestamp::from_unix_micros(i64::try_from(since_unix.as_micros()).unwrap_or(i64::MAX))
}
