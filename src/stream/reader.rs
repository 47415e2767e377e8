//! The feed: reads the source's changes into a queue bounded in bytes, looking into none of them. It owns the one
//! replication connection and has two ways to use it: far behind, pieces of the backlog are read in bulk ([`bulk`]); near the
//! end of the WAL the walsender streams ([`following`]). It changes from the first to the second at the end of a transaction, so
//! that the applying end sees one stream: every transaction once, in commit order (INV-1). The way back is a new attempt. The
//! slot is only ever moved to what is durable on the target (INV-3).

mod bulk;
mod following;
mod outlet;
mod piece;
mod pieces;
mod withheld;

use std::time::{Duration, Instant};

use pgsluice_proto::command::{PgoutputOptions, SlotName};
use tokio::sync::watch;

use crate::config::BulkMode;
use crate::connection::{ConnectionSettings, WireConnection};
use crate::model::Lsn;
use crate::runtime::Shutdown;
use crate::target::DurableLsn;

use super::error::StreamError;
use pieces::Pieces;

pub(super) use bulk::BulkError;
pub(super) use outlet::{Chunk, Incoming, Outlet};
pub(super) use withheld::Withheld;

/// How often the source hears from us at least; CloudNativePG's `wal_sender_timeout` is 5 s.
pub(super) const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the source may be silent before its connection counts as lost. Not shorter: while it skips through a large
/// transaction of unpublished tables, an older server answers nobody.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// The longest message accepted; PostgreSQL never makes one of more than 1 GiB.
pub(super) const FRAME_BYTES_MAX: usize = 1_100 * 1_024 * 1_024;

/// A connection that waits for a command, and up to where the source has been read.
#[derive(Debug)]
pub(super) struct Place {
    /// To the source's walsender.
    pub connection: WireConnection,
    /// Every transaction committed before it has been read, and none after it.
    pub position: Lsn,
}

/// What both ways of reading need.
#[derive(Debug)]
pub(super) struct Feed {
    /// The migration's slot.
    pub slot: SlotName,
    /// What the plugin is told.
    pub options: PgoutputOptions,
    /// When the backlog is read in bulk.
    pub bulk: BulkMode,
    /// Whether that is not to be tried for now.
    pub withheld: Withheld,
    /// How the source is reached, to be asked where it is.
    pub settings: ConnectionSettings,
    /// What is durable on the target, to be confirmed.
    pub durable: watch::Receiver<Option<DurableLsn>>,
    /// Where it goes.
    pub outlet: Outlet,
    /// When the monotonic clock began.
    pub epoch: Instant,
}

impl Feed {
    /// Reads until shutdown is requested, from `place` on; `source_end` is the end of the source's WAL.
    ///
    /// # Errors
    /// [`StreamError`] when the connection is of no more use.
    pub(super) async fn run(
        mut self,
        mut place: Place,
        source_end: Lsn,
        shutdown: Shutdown,
    ) -> Result<(), StreamError> {
        if !self.withheld.is_on() && Pieces::begins(self.bulk, place.position, source_end) {
            let Some(read) = bulk::read(&mut self, place, &shutdown).await? else { return Ok(()) };
            place = read;
        }
        tracing::info!(position = %place.position, "streaming");
        following::follow(&mut self, place, &shutdown).await
    }

    /// Whether a backlog that comes up now may be read in bulk.
    fn may_read_in_bulk(&self) -> bool {
        self.bulk != BulkMode::Off && !self.withheld.is_on()
    }
}
