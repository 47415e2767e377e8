//! `source.free_senders`: the stream needs one WAL sender process, and slot creation another one for a moment.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.free_senders";

/// The stream's, after slot creation has given its own back.
const NEEDED: i64 = 1;

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let row = context
        .row(
            ID,
            Side::Source,
            "SELECT current_setting('max_wal_senders')::int8, (SELECT count(*) FROM pg_stat_replication)",
            &[],
        )
        .await?;
    Ok(judge(row.get(0), row.get(1)))
}

fn judge(senders_max: i64, senders_used: i64) -> Option<Finding> {
    (senders_used.saturating_add(NEEDED) > senders_max).then(|| {
        Finding::blocker(
            ID,
            "source",
            format!("No WAL sender of the source is free (max_wal_senders is {senders_max}), and the migration needs one."),
            format!(
                "ALTER SYSTEM SET max_wal_senders = {}; -- then restart the source",
                senders_max.saturating_add(2)
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_without_free_senders_blocks() {
        assert!(judge(10, 9).is_none());
        assert!(judge(10, 10).is_some());
        assert!(judge(0, 0).is_some());
    }
}
