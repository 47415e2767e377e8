//! `source.large_objects`: they are not in logical decoding, and so would stay behind.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::{Side, counted};

const ID: &str = "source.large_objects";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let row = context.row(ID, Side::Source, "SELECT count(*) FROM pg_largeobject_metadata", &[]).await?;
    Ok(judge(row.get(0)))
}

fn judge(count: i64) -> Option<Finding> {
    (count > 0).then(|| {
        Finding::blocker(
            ID,
            "source",
            format!("The database has {}. Large objects are not in the stream of changes and are not copied: they would be missing on the target.", counted(count, "large object", "large objects")),
            "Move them into a bytea column; or copy them yourself at the cutover, with cutover.lock_out = true, so that nobody writes to them after it, and waive this:\npreflight.waive = [\"source.large_objects\"]",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_large_object_blocks() {
        assert!(judge(0).is_none());
        assert!(judge(1).is_some());
    }
}
