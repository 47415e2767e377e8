//! A large table that is not stored in the order of a key: several sessions copy ranges of its heap blocks under one exported
//! snapshot, under which alone such ranges are exact. One session exports it and keeps the table locked until the last part
//! is committed; should the process end before, the table is copied again.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::SnapshotError;
use super::board::{ChunkId, CopyBoard};
use super::chunk::Relayed;
use super::plan::{BlockRange, blocks_of};
use super::take::{ShapedTable, Taken, take};
use crate::connection::WireConnection;

/// A table's copy under way.
#[derive(Debug)]
pub(super) struct Spread {
    /// The table's one chunk.
    pub(super) chunk: ChunkId,
    /// What every part imports.
    pub(super) snapshot_name: String,
    /// What it contains.
    pub(super) taken: Taken,
    parts_left: AtomicUsize,
    relayed: Mutex<Relayed>,
    /// Its transaction holds snapshot and lock.
    holder: tokio::sync::Mutex<Option<WireConnection>>,
}

impl Spread {
    /// Takes the snapshot in a session of its own, and cuts the table as it is under the lock.
    pub(super) async fn begin(
        mut holder: WireConnection,
        board: &CopyBoard,
        chunk: ChunkId,
        table: &ShapedTable,
        chunk_bytes: u64,
    ) -> Result<(Self, Vec<BlockRange>), SnapshotError> {
        let taken = take(&mut holder, board, &[chunk], &[table]).await?;
        let exported = holder
            .simple_query(&format!(
                "SELECT pg_export_snapshot() AS snapshot, pg_relation_size(c.oid) / current_setting('block_size')::int8 AS blocks,
                        current_setting('block_size') AS block_bytes
                   FROM pg_class c WHERE c.oid = {}",
                chunk.table.0
            ))
            .await
            .map_err(SnapshotError::source)?;
        // Its lock was taken by name, its shape was read after that: it is there.
        let altered = || SnapshotError::TableAltered { table: table.table.name.clone() };
        let row = exported.first().ok_or_else(altered)?;
        let number = |column| row.get(column).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let parts = blocks_of(number("blocks"), (chunk_bytes / number("block_bytes").max(1)).max(1));
        let spread = Self {
            chunk,
            snapshot_name: row.get("snapshot").unwrap_or_default().to_owned(),
            taken,
            parts_left: AtomicUsize::new(parts.len()),
            relayed: Mutex::new(Relayed::default()),
            holder: tokio::sync::Mutex::new(Some(holder)),
        };
        Ok((spread, parts))
    }

    /// A part is committed; with the last one, what all of them came to.
    ///
    /// # Errors
    /// [`SnapshotError::SnapshotGone`]: that the transaction can still be ended proves that the lock was held all along. A
    /// lost connection may go unnoticed for a while, and with it VACUUM FULL may have passed under the parts.
    pub(super) async fn part_committed(&self, part: Relayed) -> Result<Option<Relayed>, SnapshotError> {
        let all = {
            let mut relayed = self.relayed.lock().unwrap_or_else(PoisonError::into_inner);
            relayed.rows += part.rows;
            relayed.bytes += part.bytes;
            *relayed
        };
        if self.parts_left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(None);
        }
        let mut holder = self.holder.lock().await.take().ok_or(SnapshotError::SnapshotGone)?;
        holder.simple_query("COMMIT").await.map_err(|_| SnapshotError::SnapshotGone)?;
        holder.close().await;
        Ok(Some(all))
    }
}
