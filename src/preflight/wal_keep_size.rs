//! `source.max_slot_wal_keep_size`: a limit protects the source's disk, and ends the migration when it is reached.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.max_slot_wal_keep_size";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    // In megabytes; -1 is no limit.
    let row = context
        .row(
            ID,
            Side::Source,
            "SELECT setting::int8, current_setting(name) FROM pg_settings WHERE name = 'max_slot_wal_keep_size'",
            &[],
        )
        .await?;
    Ok(judge(row.get(0), row.get(1)))
}

fn judge(limit_megabytes: i64, shown: &str) -> Option<Finding> {
    (limit_megabytes >= 0).then(|| {
        Finding::warning(
            ID,
            "source",
            format!("max_slot_wal_keep_size is {shown}: if the migration falls further behind, during the copy for instance, the source invalidates its slot and everything has to be copied again."),
            "Make sure that the source writes less WAL than that meanwhile, or:\nALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf();",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_warns() {
        assert!(judge(-1, "-1").is_none());
        assert!(judge(1024, "1GB").is_some_and(|finding| finding.finding.contains("1GB")));
    }
}
