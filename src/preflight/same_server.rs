//! `both.same_server`: source and target must be two databases.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "both.same_server";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let sql = "SELECT system_identifier::text, current_database()::text FROM pg_control_system()";
    let source = context.row(ID, Side::Source, sql, &[]).await?;
    let target = context.row(ID, Side::Target, sql, &[]).await?;
    let identity = |row: &tokio_postgres::Row| (row.get::<_, String>(0), row.get::<_, String>(1));
    Ok(judge(&identity(&source), &identity(&target)))
}

/// System identifier and database of both.
fn judge(source: &(String, String), target: &(String, String)) -> Option<Finding> {
    (source == target).then(|| {
        Finding::blocker(
            ID,
            "both",
            format!("Source and target are the same database \"{}\" of the same cluster.", source.1),
            "Correct source.url or target.url.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_database_blocks_and_another_of_the_same_cluster_does_not() {
        let database = |name: &str| ("7300000000000000000".to_owned(), name.to_owned());
        assert!(judge(&database("shop"), &database("shop")).is_some());
        assert!(judge(&database("shop"), &database("shop_new")).is_none());
    }
}
