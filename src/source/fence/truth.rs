//! The fence row: the one truth about whether the cutover happened. It is written by the fence transaction, so it
//! is there exactly when that was committed.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::FenceError;
use crate::cutover::{Nonce, SqlFailure};
use crate::model::{Lsn, Side};

/// The row of a committed fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceRow {
    /// The operation that committed it.
    pub epoch: i64,
    /// Its attempt.
    pub nonce: Nonce,
    /// Where the source's clients are sent.
    pub moved_to: String,
    /// Where the marker is in the source's WAL: the target must have applied everything up to here.
    pub marker_lsn: Option<Lsn>,
}

/// Whether the fence is committed, for certain: waits up to `bound` for a fence transaction that is still open
/// (also one whose COMMIT is under way) by asking for a lock that it holds to its end.
///
/// # Errors
/// [`FenceError::StillOpen`] when the bound has passed; otherwise the source could not be read.
pub async fn read_truth(source: &Client, bound: Duration) -> Result<Option<FenceRow>, FenceError> {
    let failed = SqlFailure::of(Side::Source, "read the fence row");
    let exists =
        source.simple_query("SELECT to_regclass('pgsluice.fence') IS NOT NULL").await.map_err(&failed)?;
    if rows(&exists).next().and_then(|row| row.get(0)) != Some("t") {
        return Ok(None);
    }
    let read = format!(
        "BEGIN READ WRITE; SET LOCAL lock_timeout = {}; LOCK TABLE pgsluice.fence IN SHARE MODE; \
         SELECT epoch, nonce, moved_to, marker_lsn FROM pgsluice.fence ORDER BY epoch DESC LIMIT 1; COMMIT",
        bound.as_millis().max(1)
    );
    let answer = match source.simple_query(&read).await {
        Ok(answer) => answer,
        Err(error) => {
            let blocked = error.code() == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE);
            // A lost connection is reported by the first error already.
            let _ = source.batch_execute("ROLLBACK").await;
            return Err(if blocked { FenceError::StillOpen } else { failed(error).into() });
        }
    };
    Ok(rows(&answer).next().and_then(|row| {
        Some(FenceRow {
            epoch: row.get(0)?.parse().ok()?,
            nonce: Nonce::from(row.get(1)?.to_owned()),
            moved_to: row.get(2)?.to_owned(),
            marker_lsn: row.get(3).and_then(|text| text.parse().ok()),
        })
    }))
}

fn rows(messages: &[SimpleQueryMessage]) -> impl Iterator<Item = &SimpleQueryRow> {
    messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}
