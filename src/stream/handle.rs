//! What the rest of the program may know of the running stream: how far it is, and which cutover marker it has
//! applied. Readers hold a [`StreamHandle`], the apply task the [`StreamPublisher`]. It survives reconnects.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::{Lsn, Oid, TableName};
use crate::target::{CommitReceipt, DurableLsn};

/// Prefix of the transactional logical message by which a cutover proves that everything before it was applied.
pub const MARKER_PREFIX: &str = "pgsluice.cutover";

/// Markers remembered (INV-11): ours is still found when others follow at once.
const MARKERS_MAX: usize = 64;

/// A cutover marker whose transaction, and every transaction committed before it, is committed on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedMarker {
    /// The message's content.
    pub nonce: String,
    /// Proof of the target transaction that covers it.
    pub receipt: CommitReceipt,
}

/// The stream has ended for good; nothing more will be applied by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream of changes has stopped")]
pub struct StreamGone;

#[derive(Debug, Default)]
struct Progress {
    received: Option<Lsn>,
    applied: Option<Lsn>,
    durable: Option<DurableLsn>,
    /// The latest last. Anybody who may write to the source can emit messages of our prefix.
    markers: VecDeque<AppliedMarker>,
    unknown: Option<(Oid, TableName)>,
    transactions: u64,
    rows: u64,
}

/// The writing end: owned by the stream's tasks.
#[derive(Clone, Debug)]
pub struct StreamPublisher(Arc<watch::Sender<Progress>>);

/// The reading end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StreamHandle(watch::Receiver<Progress>);

impl StreamPublisher {
    /// Both ends of a new stream.
    #[must_use]
    pub fn new() -> (Self, StreamHandle) {
        let (sender, receiver) = watch::channel(Progress::default());
        (Self(Arc::new(sender)), StreamHandle(receiver))
    }

    /// The stream was received up to here.
    pub fn received(&self, lsn: Lsn) {
        self.0.send_if_modified(|progress| raise(&mut progress.received, lsn));
    }

    /// Every commit up to here was applied (also: nothing to apply up to here).
    pub fn applied(&self, lsn: Lsn) {
        self.0.send_if_modified(|progress| raise(&mut progress.applied, lsn));
    }

    /// The stream goes on from `lsn`: what the target has now. Less than before when the target lost commits that were
    /// not durable yet, or, with `durability = "local"`, in a failover; a marker among them has to be applied again, and
    /// what was durable on the lost server has to become so on this one (INV-3).
    pub fn resumed(&self, lsn: Lsn) {
        self.0.send_modify(|progress| {
            progress.applied = Some(lsn);
            progress.durable = progress.durable.filter(|durable| durable.lsn() <= lsn);
            progress.markers.retain(|marker| marker.receipt.source_lsn() <= lsn);
        });
    }

    /// Everything up to here is durable on the target.
    pub fn durable(&self, lsn: DurableLsn) {
        self.0.send_if_modified(|progress| raise(&mut progress.durable, lsn));
    }

    /// So much was applied by a batch that is committed.
    pub fn counted(&self, transactions: u64, rows: u64) {
        self.0.send_modify(|progress| {
            progress.transactions += transactions;
            progress.rows += rows;
        });
    }

    /// The stream waits at a change of this table, of which the records know nothing.
    pub fn met_unknown(&self, relation: Oid, table: TableName) {
        self.0.send_modify(|progress| progress.unknown = Some((relation, table)));
    }

    /// A marker's transaction was applied.
    pub fn marker(&self, marker: AppliedMarker) {
        self.0.send_modify(|progress| {
            if progress.markers.len() >= MARKERS_MAX {
                progress.markers.pop_front();
            }
            progress.markers.push_back(marker);
        });
    }
}

fn raise<T: Ord + Copy>(slot: &mut Option<T>, value: T) -> bool {
    let higher = slot.is_none_or(|known| known < value);
    if higher {
        *slot = Some(value);
    }
    higher
}

impl StreamHandle {
    /// Up to here the stream was received; `None` before the first message.
    #[must_use]
    pub fn received_lsn(&self) -> Option<Lsn> {
        self.0.borrow().received
    }

    /// Up to here every commit was applied.
    #[must_use]
    pub fn applied_lsn(&self) -> Option<Lsn> {
        self.0.borrow().applied
    }

    /// Up to here everything is durable on the target.
    #[must_use]
    pub fn durable_lsn(&self) -> Option<DurableLsn> {
        self.0.borrow().durable
    }

    /// The last table that the stream waited for because the records knew nothing of it.
    #[must_use]
    pub fn unknown_table(&self) -> Option<(Oid, TableName)> {
        self.0.borrow().unknown.clone()
    }

    /// Source transactions and row changes applied by this process.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let progress = self.0.borrow();
        (progress.transactions, progress.rows)
    }

    /// Waits until the marker with this nonce that was written at `marker_lsn` has been applied. Cancel safe.
    ///
    /// # Errors
    /// [`StreamGone`] if the stream ends before.
    pub async fn marker_applied(
        &mut self,
        nonce: &str,
        marker_lsn: Lsn,
    ) -> Result<AppliedMarker, StreamGone> {
        let is_ours =
            |marker: &&AppliedMarker| marker.nonce == nonce && marker.receipt.source_lsn() >= marker_lsn;
        let ours = |progress: &Progress| progress.markers.iter().find(is_ours).cloned();
        let progress = self.0.wait_for(|progress| ours(progress).is_some()).await.map_err(|_| StreamGone)?;
        ours(&progress).ok_or(StreamGone)
    }

    /// Waits until everything up to `lsn` (of the source) is durable on the target. Cancel safe.
    ///
    /// # Errors
    /// [`StreamGone`] if the stream ends before.
    pub async fn durable_at(&mut self, lsn: Lsn) -> Result<DurableLsn, StreamGone> {
        let reached = |progress: &Progress| progress.durable.is_some_and(|durable| durable.lsn() >= lsn);
        let progress = self.0.wait_for(reached).await.map_err(|_| StreamGone)?;
        progress.durable.ok_or(StreamGone)
    }

    /// Waits until every commit up to `lsn` (of the source) was applied. Cancel safe.
    ///
    /// # Errors
    /// [`StreamGone`] if the stream ends before.
    pub async fn applied_at(&mut self, lsn: Lsn) -> Result<(), StreamGone> {
        self.0
            .wait_for(|progress| progress.applied.is_some_and(|applied| applied >= lsn))
            .await
            .map_err(|_| StreamGone)?;
        Ok(())
    }
}
