//! The way of reading when far behind: pieces of the backlog, decoded by an SQL function and sent by COPY, which costs both
//! sides a fraction of what the walsender's packets cost, one for each message.
//!
//! What is read is a *copy* of the slot, temporary and of the session that reads it, so that the slot itself stays where the
//! target is (INV-3): when the session is lost the copy is gone with it, and the next attempt begins at the target's progress.
//! A piece ends with a transaction, and the copy's position then says up to where everything has been sent. There are two
//! sessions if the source allows it: one sends its piece while the other decodes the next from a copy of the first one's copy.

use std::time::Duration;

use pgsluice_proto::command::{PgoutputOptions, SlotName};
use pgsluice_proto::copy_out::CopyOutError;
use pgsluice_proto::frame::ErrorFields;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::connection::{ConnectionSettings, WireConnection, WireError};
use crate::model::{Lsn, Side};
use crate::runtime::Shutdown;
use crate::stream::error::StreamError;
use crate::target::DurableLsn;
use crate::telemetry::{BulkEnd, ReadingWay};

use super::outlet::Incoming;
use super::piece::{Ahead, BLOCKED_MAX, Meanwhile, Piece};
use super::pieces::{Next, Pieces, WalEnd};
use super::{Feed, Place};

/// How often the slot is moved. Each time, the source reads the WAL since the last time once more.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(10);
/// How long streaming waits at most for the target to have what was read last.
const LAST_ROWS_MAX: Duration = Duration::from_secs(1);
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
    /// For a second session; nothing ends with it.
    #[error(
        "the source has fewer than two free replication slots: one for a second copy, one for a table that joins"
    )]
    NoSecondSlot,
}

impl BulkError {
    /// For the metric `pgsluice_bulk_ends_total{reason}`.
    pub(in crate::stream) const fn end(&self) -> BulkEnd {
        match self {
            Self::Interrupted(_) | Self::Malformed(_) => BulkEnd::Interrupted,
            Self::TooSlow(_) => BulkEnd::TooSlow,
            Self::Blocked(_) => BulkEnd::Blocked,
            Self::NoSecondSlot => BulkEnd::NoFreeSlot,
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
    feed.outlet.metrics().reads(ReadingWay::Bulk);
    tokio::select! {
        biased;
        // The connections are dropped, and the copied slots go with them.
        () = shutdown.requested() => Ok(None),
        place = read_pieces(feed, place) => place.map(Some),
    }
}

/// One piece after the other; a piece is decoded while the rows of the one before it are taken, where that is possible.
async fn read_pieces(feed: &mut Feed, place: Place) -> Result<Place, StreamError> {
    let Place { connection, position } = place;
    let mut first = Ahead::new(connection, &feed.slot).await?;
    let begun = match first.take_copy(&feed.slot, position).await {
        Ok(()) => first.wal_end().await,
        Err(error) => Err(error),
    };
    let end = match begun {
        Ok(end) => end,
        Err(error @ WireError::Server(_)) => {
            refused(feed, &error);
            return Ok(Place { connection: first.into_connection().await?, position });
        }
        Err(error) => return Err(error.into()),
    };
    tracing::info!(
        %position, source_end = %end.flushed, bytes = end.flushed.distance_from(position), "reading the backlog in bulk"
    );
    let mut plan = Plan::new(feed);
    let mut piece = plan.decode(first, position, end).await?;
    let mut spare = Some(plan.connect_beside());
    let mut changes = 0;
    loop {
        let last = Last::of(&piece);
        let prepared =
            |feed: &Feed| spare.map(|spare| plan.clone().prepare_beside(spare, last.clone(), feed));
        let (own, facts, prepared) = piece.take(feed, prepared).await?;
        changes += facts.changes;
        feed.outlet.metrics().bulk_piece(facts.changes);
        let (mut step, own) = match prepared {
            Some(Prepared::Step(step)) => (*step, Some(own)),
            Some(Prepared::Refused) | None => {
                plan.pieces.learn(facts);
                plan.durable = *feed.durable.borrow();
                (plan.step(own, last).await?, None)
            }
        };
        if own.is_some() {
            step.plan.pieces.learn(facts);
        }
        tracing::debug!(position = %step.position, ?facts, next = ?step.next, "a piece of the backlog was read");
        pass(feed, step.position).await?;
        plan = step.plan;
        match step.then {
            Then::Piece(next) => {
                piece = next;
                spare = own.map(|own| Spare::Ready(Box::new(own)));
            }
            Then::Idle(other) => {
                tracing::info!(position = %step.position, changes, "the backlog was read");
                let connection = plan.leave(feed, step.position, step.next, own.unwrap_or(other)).await?;
                return Ok(Place { connection, position: step.position });
            }
        }
    }
}

/// What is not for us before the end of a piece is passed as well: to the applying end this is what a keepalive says.
async fn pass(feed: &mut Feed, position: Lsn) -> Result<(), StreamError> {
    feed.outlet.push(Incoming::Keepalive(position));
    feed.outlet.received(position);
    match tokio::time::timeout(BLOCKED_MAX, feed.outlet.flush()).await {
        Ok(flushed) => flushed,
        Err(_) => Err(BulkError::Blocked(BLOCKED_MAX).into()),
    }
}

/// Nothing was decoded on the connection, so the walsender streams on it.
fn refused(feed: &Feed, error: &WireError) {
    feed.withheld.for_a_while();
    let end = match error.sqlstate() {
        Some(LIMIT_EXCEEDED) => BulkEnd::NoFreeSlot,
        Some(NOT_ALLOWED) => BulkEnd::NotAllowed,
        _ => BulkEnd::Refused,
    };
    feed.outlet.metrics().bulk_ended(end);
    tracing::warn!(%error, "the backlog cannot be read in bulk; it is streamed, which takes longer");
}

/// The second session. Where the source does not allow it there is none: pieces are decoded one after the other.
enum Spare {
    /// It is being made.
    Connecting(JoinHandle<Result<Ahead, StreamError>>),
    /// It waits for work.
    Ready(Box<Ahead>),
}

/// Where a piece begins and what it is read from.
#[derive(Clone)]
struct Last {
    copy: SlotName,
    before: Lsn,
    end: WalEnd,
}

impl Last {
    fn of(piece: &Piece) -> Self {
        Self { copy: piece.copy().clone(), before: piece.before, end: piece.end }
    }
}

/// What is known of the pieces to come, and what it takes to ask for them.
#[derive(Clone)]
struct Plan {
    slot: SlotName,
    options: PgoutputOptions,
    settings: ConnectionSettings,
    pieces: Pieces,
    /// Up to here everything is durable on the target.
    durable: Option<DurableLsn>,
    /// Up to here the slot was moved, and when.
    confirmed: Option<DurableLsn>,
    confirmed_at: Instant,
}

/// What follows a piece.
struct Step {
    plan: Plan,
    /// Where the piece ended.
    position: Lsn,
    next: Next,
    then: Then,
}

enum Then {
    /// It was asked for.
    Piece(Piece),
    /// Nothing; the session that would have been asked.
    Idle(Ahead),
}

/// What came of asking the second session.
enum Prepared {
    Step(Box<Step>),
    Refused,
}

impl Plan {
    fn new(feed: &Feed) -> Self {
        Self {
            slot: feed.slot.clone(),
            options: feed.options.clone(),
            settings: feed.settings.clone(),
            pieces: Pieces::new(feed.bulk),
            durable: None,
            confirmed: None,
            confirmed_at: Instant::now(),
        }
    }

    async fn decode(&self, ahead: Ahead, position: Lsn, end: WalEnd) -> Result<Piece, StreamError> {
        ahead.decode(&self.options, &self.pieces, position, end).await
    }

    /// The step after a piece whose rows are being taken, on the second session.
    fn prepare_beside(mut self, spare: Spare, last: Last, feed: &Feed) -> Meanwhile<Prepared> {
        self.durable = *feed.durable.borrow();
        Box::pin(async move {
            let stepping = async {
                let ahead = match spare {
                    Spare::Ready(ahead) => *ahead,
                    Spare::Connecting(connecting) => {
                        connecting.await.map_err(|_| StreamError::TaskGone("reads the backlog"))??
                    }
                };
                self.step(ahead, last).await
            };
            Ok(match stepping.await {
                Ok(step) => Prepared::Step(Box::new(step)),
                Err(error) => {
                    tracing::info!(%error, "pieces of the backlog are decoded one after the other, which takes longer");
                    Prepared::Refused
                }
            })
        })
    }

    /// The second session, made in the background: it is needed when the first row comes.
    fn connect_beside(&self) -> Spare {
        let (settings, slot) = (self.settings.clone(), self.slot.clone());
        Spare::Connecting(tokio::spawn(async move {
            let connection = WireConnection::connect_walsender(&settings, Side::Source, "backlog", &[])
                .await
                .map_err(|error| StreamError::Connect { side: Side::Source, error: Box::new(error) })?;
            let mut ahead = Ahead::new(connection, &slot).await?;
            if ahead.has_free_slots().await? {
                return Ok(ahead);
            }
            Err(BulkError::NoSecondSlot.into())
        }))
    }

    /// Decides what follows a piece, and asks for it. If `ahead` reached another server than the piece's session did, that one
    /// has no such copy.
    async fn step(mut self, mut ahead: Ahead, last: Last) -> Result<Step, StreamError> {
        // Older servers can set a slot back when it is asked for less than it has.
        let position = ahead.position_of(&last.copy).await?.max(last.before);
        let end = ahead.wal_end().await?;
        let next = self.pieces.next([last.before, position], [last.end, end]);
        if next != Next::Piece {
            return Ok(Step { plan: self, position, next, then: Then::Idle(ahead) });
        }
        if last.copy != *ahead.copy() {
            ahead.take_copy(&last.copy, position).await?;
        }
        self.confirm(&mut ahead).await?;
        let piece = self.decode(ahead, position, end).await?;
        Ok(Step { plan: self, position, next, then: Then::Piece(piece) })
    }

    /// The end of reading in bulk; the session is for streaming. The walsender passes over everything again since the slot's
    /// restart position: it had better not do so while the target needs the processor for what was read last, nor farther
    /// than it has to.
    async fn leave(
        mut self,
        feed: &mut Feed,
        position: Lsn,
        next: Next,
        mut ahead: Ahead,
    ) -> Result<WireConnection, StreamError> {
        if next == Next::NotWorthIt {
            feed.outlet.metrics().bulk_ended(BulkEnd::TooSlow);
            feed.withheld.for_a_while();
            tracing::warn!("the source takes long to decode pieces of the backlog; it streams instead");
        } else {
            feed.outlet.metrics().bulk_ended(BulkEnd::NearTheEnd);
            feed.withheld.lift();
        }
        let is_durable =
            |durable: &Option<DurableLsn>| durable.is_some_and(|durable| durable.lsn() >= position);
        let _ = tokio::time::timeout(LAST_ROWS_MAX, feed.durable.wait_for(is_durable)).await;
        self.durable = *feed.durable.borrow();
        self.confirm(&mut ahead).await?;
        Ok(ahead.into_connection().await?)
    }

    /// Moves the slot to what is durable, if that has gone on and it was not done lately (INV-3, INV-7: the source forgets
    /// the WAL of a backlog while it is read).
    async fn confirm(&mut self, ahead: &mut Ahead) -> Result<(), StreamError> {
        if self.confirmed_at.elapsed() < CONFIRM_INTERVAL {
            return Ok(());
        }
        self.confirmed_at = Instant::now();
        if let Some(durable) = self.durable.filter(|durable| self.confirmed < Some(*durable)) {
            ahead.confirm(&self.slot, durable.lsn()).await?;
            self.confirmed = Some(durable);
        }
        Ok(())
    }
}
