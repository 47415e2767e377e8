//! Where whatever is read goes: messages are gathered into chunks and put into a queue bounded in bytes (INV-11, INV-12).
//! Both ways of reading share it, so that the applying end does not notice which one is used. Looks into no message.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::model::Lsn;
use crate::runtime::{ByteBudget, BytePermit};
use crate::stream::error::StreamError;
use crate::stream::handle::StreamPublisher;
use crate::telemetry::Metrics;

/// Messages handed over at once, in bytes, unless a single one is larger.
const CHUNK_BYTES: usize = 64 * 1_024;

/// What the source sent, in order.
#[derive(Debug)]
pub(in crate::stream) enum Incoming {
    /// A message of the output plugin.
    Data(Bytes),
    /// Everything before this position has been sent.
    Keepalive(Lsn),
}

/// Some messages, and the room they take in the queue: dropping the chunk gives it back.
#[derive(Debug)]
pub(in crate::stream) struct Chunk {
    /// The messages.
    pub messages: Vec<Incoming>,
    _permit: BytePermit,
}

/// The reading end's side of the queue.
#[derive(Debug)]
pub(in crate::stream) struct Outlet {
    queue: mpsc::UnboundedSender<Chunk>,
    budget: ByteBudget,
    publisher: StreamPublisher,
    metrics: Arc<Metrics>,
    /// Messages read and not yet in the queue, and their size.
    pending: Vec<Incoming>,
    pending_bytes: usize,
}

impl Outlet {
    /// An outlet into `queue`, which holds as much as `budget` allows.
    #[must_use]
    pub(in crate::stream) fn new(
        queue: mpsc::UnboundedSender<Chunk>,
        budget: ByteBudget,
        publisher: StreamPublisher,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { queue, budget, publisher, metrics, pending: Vec::new(), pending_bytes: 0 }
    }

    /// Where work is counted.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes a message.
    pub(super) fn push(&mut self, incoming: Incoming) {
        self.pending_bytes += size_of::<Incoming>();
        if let Incoming::Data(data) = &incoming {
            self.pending_bytes += data.len();
        }
        self.pending.push(incoming);
    }

    /// Whether a chunk is not full yet.
    pub(super) const fn has_space(&self) -> bool {
        self.pending_bytes < CHUNK_BYTES
    }

    /// Whether nothing waits for its place in the queue.
    pub(super) const fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Waits until the queue has room for what was taken. Cancel safe.
    ///
    /// # Errors
    /// [`StreamError::TaskGone`] when nobody takes from the queue any more.
    pub(super) async fn room(&self) -> Result<BytePermit, StreamError> {
        self.budget.take(self.pending_bytes).await.ok_or(StreamError::TaskGone("applies changes"))
    }

    /// Puts what was taken into the queue.
    ///
    /// # Errors
    /// As [`Self::room`].
    pub(super) fn hand_over(&mut self, room: BytePermit) -> Result<(), StreamError> {
        let chunk = Chunk { messages: std::mem::take(&mut self.pending), _permit: room };
        self.pending_bytes = 0;
        self.queue.send(chunk).map_err(|_| StreamError::TaskGone("applies changes"))?;
        self.show_size();
        Ok(())
    }

    /// Puts all that was taken into the queue, once there is room. Cancel safe.
    ///
    /// # Errors
    /// As [`Self::room`].
    pub(super) async fn flush(&mut self) -> Result<(), StreamError> {
        if self.is_empty() {
            return Ok(());
        }
        let room = self.room().await?;
        self.hand_over(room)
    }

    /// Shows how much is in the queue.
    pub(super) fn show_size(&self) {
        self.metrics.set_queue_bytes(self.budget.bytes_in_use());
    }

    /// The source was read up to here.
    pub(super) fn received(&self, lsn: Lsn) {
        self.publisher.received(lsn);
    }
}
