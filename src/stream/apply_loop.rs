//! Takes chunks from the reader, has their events applied, and commits when the queue runs dry or the batch is full.
//! An event that has to wait is given again until it is taken; meanwhile nothing is open on the target.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::runtime::Shutdown;
use crate::target::CommitReceipt;

use super::apply::{Applier, Step};
use super::assemble::StreamEvent;
use super::error::StreamError;
use super::hold::{Holding, LOOK_INTERVAL, Reason};
use super::intake::Intake;
use super::reader::{Chunk, Incoming};

/// How long an idle stream may move on before the progress record, and with it the slot, follows.
const IDLE_PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// A batch is committed at the next source commit once it has been open this long, however few bytes it has: progress
/// stays visible, and a restart repeats little.
const BATCH_OPEN_MAX: Duration = Duration::from_secs(1);

/// The applying end of one connection.
pub(super) struct ApplyLoop {
    pub(super) applier: Applier,
    pub(super) intake: Intake,
    pub(super) receipts: mpsc::Sender<CommitReceipt>,
    pub(super) max_batch_bytes: u64,
    pub(super) max_batch_delay: Duration,
    pub(super) last_record: Instant,
    pub(super) holding: Holding,
    pub(super) shutdown: Shutdown,
}

impl ApplyLoop {
    /// Applies until the reader ends.
    ///
    /// # Errors
    /// [`StreamError`]; nothing of the open batch is on the target then.
    pub(super) async fn run(mut self, mut chunks: mpsc::UnboundedReceiver<Chunk>) -> Result<(), StreamError> {
        loop {
            let chunk = match chunks.try_recv() {
                Ok(chunk) => chunk,
                Err(mpsc::error::TryRecvError::Empty) => match self.idle(&mut chunks).await? {
                    Some(chunk) => chunk,
                    None if chunks.is_closed() => return Ok(()),
                    None => continue,
                },
                Err(mpsc::error::TryRecvError::Disconnected) => return Ok(()),
            };
            self.apply(chunk).await?;
        }
    }

    async fn apply(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        for incoming in &chunk.messages {
            match incoming {
                Incoming::Keepalive(wal_end) => {
                    if let Some(event) = self.intake.keepalive(*wal_end) {
                        self.take(&event, 0).await?;
                    }
                }
                Incoming::Data(data) => {
                    let mut next = self.intake.message(&data.payload).await?;
                    while let Some((event, bytes)) = next {
                        self.take(&event, bytes).await?;
                        next = self.intake.more().await?;
                    }
                    if self.applier.can_commit() && self.batch_is_full() {
                        self.commit().await?;
                    }
                }
            }
        }
        // The chunk is dropped here: its room in the queue is given back once its changes are on their way.
        Ok(())
    }

    /// Has an event applied, however long it has to wait.
    async fn take(&mut self, event: &StreamEvent, bytes: usize) -> Result<(), StreamError> {
        loop {
            match self.applier.event(event, bytes).await? {
                Step::Waits(reason) => self.hold(reason).await?,
                Step::Taken(receipt) => {
                    if !self.applier.has_to_wait_later() {
                        self.holding.over();
                    }
                    return match receipt {
                        Some(receipt) => self.hand_over(receipt).await,
                        None => Ok(()),
                    };
                }
            }
        }
    }

    /// Holds the stream for a moment. What came before is committed first: it need not wait as well, and its locks must
    /// not keep the operator from what he has to do.
    async fn hold(&mut self, reason: Reason) -> Result<(), StreamError> {
        if self.applier.has_work_before_the_wait() {
            self.commit().await?;
        }
        self.holding.by(reason);
        tokio::select! {
            () = self.shutdown.requested() => Err(StreamError::TaskGone("applies changes")),
            () = tokio::time::sleep(LOOK_INTERVAL) => Ok(()),
        }
    }

    fn batch_is_full(&self) -> bool {
        let (bytes, begun_at) = self.applier.batch_size();
        bytes >= self.max_batch_bytes || begun_at.is_some_and(|at| at.elapsed() >= BATCH_OPEN_MAX)
    }

    /// Nothing is queued: commit what is open, or wait for more; `None` after having done something.
    async fn idle(
        &mut self,
        chunks: &mut mpsc::UnboundedReceiver<Chunk>,
    ) -> Result<Option<Chunk>, StreamError> {
        if self.applier.can_commit() {
            let open_for = self.applier.batch_size().1.map_or(Duration::ZERO, |at| at.elapsed());
            let rest = self.max_batch_delay.saturating_sub(open_for);
            if !rest.is_zero()
                && let Ok(Some(chunk)) = tokio::time::timeout(rest, chunks.recv()).await
            {
                return Ok(Some(chunk));
            }
            self.commit().await?;
            return Ok(None);
        }
        let until_record = IDLE_PROGRESS_INTERVAL.saturating_sub(self.last_record.elapsed());
        let record_due = self.applier.has_unrecorded_position();
        tokio::select! {
            chunk = chunks.recv() => Ok(chunk),
            () = tokio::time::sleep(until_record), if record_due => {
                self.commit().await?;
                Ok(None)
            }
        }
    }

    async fn commit(&mut self) -> Result<(), StreamError> {
        let receipt = self.applier.commit().await?;
        self.hand_over(receipt).await
    }

    async fn hand_over(&mut self, receipt: CommitReceipt) -> Result<(), StreamError> {
        self.last_record = Instant::now();
        self.receipts.send(receipt).await.map_err(|_| StreamError::TaskGone("watches what is durable"))
    }
}
