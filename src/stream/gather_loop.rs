//! Takes chunks from the reader and has their events gathered. What is gathered is handed over as soon as a connection
//! is free for it: one transaction when idle, more the further the stream is behind. An event that has to wait is
//! given again until it is taken; meanwhile nothing is open on the target.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::runtime::Shutdown;

use super::assemble::StreamEvent;
use super::error::StreamError;
use super::gather::{AtOnce, Gatherer, Step};
use super::hold::{Holding, LOOK_INTERVAL, Reason};
use super::intake::{Aside, Heard, Intake};
use super::reader::{Chunk, Incoming};

/// How long a stream may move on before the progress records, and with them the slot, follow.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// The same while tables are being copied.
const PROGRESS_INTERVAL_COPYING: Duration = Duration::from_millis(100);

/// How long what is gathered may take to be committed when nothing more comes.
const LAST_COMMIT_MAX: Duration = Duration::from_secs(1);

/// The gathering end of one connection.
pub(super) struct GatherLoop {
    pub(super) gatherer: Gatherer,
    pub(super) intake: Intake,
    pub(super) max_batch_delay: Duration,
    pub(super) last_record: Instant,
    pub(super) holding: Holding,
    pub(super) shutdown: Shutdown,
}

impl GatherLoop {
    /// Gathers until the reader ends.
    ///
    /// # Errors
    /// [`StreamError`]; nothing that is not recorded as progress is on the target then.
    pub(super) async fn run(mut self, mut chunks: mpsc::UnboundedReceiver<Chunk>) -> Result<(), StreamError> {
        loop {
            let chunk = match chunks.try_recv() {
                Ok(chunk) => chunk,
                Err(mpsc::error::TryRecvError::Empty) => match self.idle(&mut chunks).await? {
                    Some(chunk) => chunk,
                    None if chunks.is_closed() && chunks.is_empty() => break,
                    None => continue,
                },
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            };
            self.gather(chunk).await?;
            if self.last_record.elapsed() >= PROGRESS_INTERVAL && self.gatherer.has_unrecorded_position() {
                self.record_position().await?;
            }
        }
        self.leave().await;
        Ok(())
    }

    /// The reader has ended: whole transactions are committed if that is quick, so that the next start repeats little and finds
    /// all connections at the same position.
    async fn leave(&mut self) {
        if self.gatherer.is_between_transactions()
            && !matches!(tokio::time::timeout(LAST_COMMIT_MAX, self.gatherer.settle()).await, Ok(Ok(())))
        {
            tracing::debug!("what was gathered last was not committed; the next start repeats it");
        }
    }

    async fn gather(&mut self, mut chunk: Chunk) -> Result<(), StreamError> {
        for incoming in chunk.messages.drain(..) {
            let event = match incoming {
                Incoming::Keepalive(wal_end) => self.intake.keepalive(wal_end),
                Incoming::Data(payload) => match self.intake.message(payload)? {
                    Heard::Nothing => None,
                    Heard::Event(event) => Some(event),
                    Heard::Aside(aside) => {
                        self.take_what_comes_of(aside).await?;
                        None
                    }
                },
            };
            let Some(event) = event else { continue };
            match self.gatherer.event_at_once(&event)? {
                AtOnce::Taken => self.goes_on(),
                AtOnce::Then(due) => {
                    self.gatherer.catch_up(due).await?;
                    self.goes_on();
                }
                AtOnce::Later => self.take(&event).await?,
            }
        }
        // The chunk is dropped here: its room in the queue is given back once its changes are gathered.
        Ok(())
    }

    async fn take_what_comes_of(&mut self, aside: Aside) -> Result<(), StreamError> {
        let mut next = self.intake.put_aside(aside).await?;
        while let Some(event) = next {
            self.take(&event).await?;
            next = self.intake.more().await?;
        }
        Ok(())
    }

    /// Has an event gathered, however long it has to wait.
    async fn take(&mut self, event: &StreamEvent) -> Result<(), StreamError> {
        loop {
            match self.gatherer.event(event).await? {
                Step::Taken => break,
                Step::Waits(reason) => self.hold(reason).await?,
                Step::WaitsForCopy => self.wait_for_the_copy().await?,
                Step::WaitsForVerification => self.wait_for_verification().await?,
            }
        }
        self.goes_on();
        Ok(())
    }

    async fn wait_for_the_copy(&mut self) -> Result<(), StreamError> {
        tokio::select! {
            () = self.shutdown.requested() => Err(StreamError::TaskGone("applies changes")),
            waited = self.gatherer.wait_for_the_copy() => waited,
        }
    }

    async fn wait_for_verification(&mut self) -> Result<(), StreamError> {
        tokio::select! {
            () = self.shutdown.requested() => Err(StreamError::TaskGone("applies changes")),
            () = self.gatherer.wait_for_verification() => Ok(()),
        }
    }

    fn goes_on(&mut self) {
        if !self.gatherer.has_to_wait_later() {
            self.holding.over();
        }
    }

    /// Holds the stream for a moment. What came before is committed first: it need not wait as well, and its locks must
    /// not keep the operator from what he has to do.
    async fn hold(&mut self, reason: Reason) -> Result<(), StreamError> {
        self.gatherer.settle().await?;
        self.holding.by(reason);
        tokio::select! {
            () = self.shutdown.requested() => Err(StreamError::TaskGone("applies changes")),
            () = tokio::time::sleep(LOOK_INTERVAL) => Ok(()),
        }
    }

    /// Nothing is queued: hand over what is gathered, or wait for more; `None` after having done something.
    async fn idle(
        &mut self,
        chunks: &mut mpsc::UnboundedReceiver<Chunk>,
    ) -> Result<Option<Chunk>, StreamError> {
        if self.gatherer.has_whole_transactions() {
            let waited = self.gatherer.gathering_since().map_or(Duration::ZERO, |since| since.elapsed());
            let rest = self.max_batch_delay.saturating_sub(waited);
            if !rest.is_zero() {
                return Ok(tokio::time::timeout(rest, chunks.recv()).await.unwrap_or(None));
            }
            self.gatherer.hand_over_to_the_ready().await?;
            if self.gatherer.has_to_hand_over() {
                // While one connection was waited for, another one has become free.
                return Ok(None);
            }
        }
        // Before the look: what changes after it is waited for.
        let mut copy = self.gatherer.copy.watch();
        let mut meeting = self.gatherer.meeting.watch();
        if self.gatherer.stand_still_if_asked().await? {
            return tokio::select! {
                chunk = chunks.recv() => Ok(chunk),
                () = self.shutdown.requested() => Ok(None),
                waited = self.gatherer.wait_for_the_copy() => waited.map(|()| None),
            };
        }
        self.gatherer.meet_if_asked().await?;
        // The copy goes by what is recorded.
        let interval =
            if self.gatherer.copy.is_active() { PROGRESS_INTERVAL_COPYING } else { PROGRESS_INTERVAL };
        let until_record = interval.saturating_sub(self.last_record.elapsed());
        let record_due = self.gatherer.has_unrecorded_position();
        let busy = self.gatherer.is_busy();
        let is_copying = self.gatherer.copy.is_active();
        tokio::select! {
            _ = copy.changed(), if is_copying => Ok(None),
            _ = meeting.changed() => Ok(None),
            chunk = chunks.recv() => Ok(chunk),
            progressed = self.gatherer.progressed(), if busy => progressed.map(|()| None),
            () = tokio::time::sleep(until_record), if record_due => {
                self.record_position().await?;
                Ok(None)
            }
        }
    }

    async fn record_position(&mut self) -> Result<(), StreamError> {
        self.last_record = Instant::now();
        self.gatherer.record_position().await
    }
}
