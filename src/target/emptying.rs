//! How tables are emptied as the source emptied them. TRUNCATE is refused for a table that a foreign key of a table not
//! named refers to. The source truncated that table as well, but where it is partitioned the stream names its leaves
//! only: then rows are deleted, which the target's foreign keys have no part in while changes are applied.

use crate::connection::SqlSession;

use super::table::{TableKind, TargetTable};

const REFERRED_TO_SQL: &str = "
WITH named AS (
    SELECT name::regclass::oid AS oid FROM unnest($1::text[]) AS name
), emptied AS (
    SELECT oid FROM named UNION SELECT tree.relid FROM named, pg_partition_tree(named.oid) AS tree
)
SELECT EXISTS (SELECT FROM pg_constraint k
                WHERE k.contype = 'f' AND k.confrelid IN (SELECT oid FROM emptied)
                  AND k.conrelid NOT IN (SELECT oid FROM emptied))";

/// The statements that empty exactly these tables, in one string. A table without rows of its own stands for its
/// partitions, any other for itself alone.
///
/// # Errors
/// What the target answered.
pub async fn emptying_sql(
    target: &SqlSession,
    tables: &[&TargetTable],
) -> Result<String, tokio_postgres::Error> {
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    let is_referred_to: bool = target.query_one(REFERRED_TO_SQL, &[&names]).await?.get(0);
    let named: Vec<String> = tables.iter().map(|table| alone(table)).collect();
    Ok(if is_referred_to {
        named.iter().map(|name| format!("DELETE FROM {name};")).collect()
    } else {
        format!("TRUNCATE {}", named.join(", "))
    })
}

fn alone(table: &TargetTable) -> String {
    match table.kind {
        TableKind::Ordinary => format!("ONLY {}", table.name),
        TableKind::Partitioned => table.name.to_string(),
    }
}
