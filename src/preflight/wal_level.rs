//! `source.wal_level`: without `logical` there are no row changes in the WAL to decode.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.wal_level";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let row = context.row(ID, Side::Source, "SELECT current_setting('wal_level')", &[]).await?;
    Ok(judge(row.get(0)))
}

fn judge(wal_level: &str) -> Option<Finding> {
    (wal_level != "logical").then(|| {
        Finding::blocker(
            ID,
            "source",
            format!("wal_level is {wal_level}: the source's WAL does not contain the row changes to stream."),
            "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the source (RDS: rds.logical_replication = 1)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_but_logical_blocks() {
        assert!(judge("replica").is_some());
        assert!(judge("logical").is_none());
    }
}
