//! `source.wal_sender_timeout`: too short, and a pause of a few seconds breaks the stream; off, and a dead
//! connection keeps the slot.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.wal_sender_timeout";

/// CloudNativePG's default; status is sent several times within it.
const SHORTEST_MS: i64 = 5_000;

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    // In milliseconds; 0 is off.
    let row = context
        .row(ID, Side::Source, "SELECT setting::int8 FROM pg_settings WHERE name = 'wal_sender_timeout'", &[])
        .await?;
    Ok(judge(row.get(0)))
}

fn judge(timeout_ms: i64) -> Option<Finding> {
    let (finding, value) = match timeout_ms {
        0 => ("wal_sender_timeout is off: after a network failure the source keeps the dead connection, and with it the slot.".to_owned(), "'60s'"),
        1..SHORTEST_MS => (
            format!("wal_sender_timeout is {timeout_ms} ms: a short pause of the network breaks the stream, which then connects again."),
            "'10s'",
        ),
        _ => return None,
    };
    Some(Finding::warning(
        ID,
        "source",
        finding,
        format!("ALTER SYSTEM SET wal_sender_timeout = {value}; SELECT pg_reload_conf();"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_and_very_short_warn() {
        assert!(judge(0).is_some());
        assert!(judge(1_000).is_some());
        assert!(judge(5_000).is_none());
    }
}
