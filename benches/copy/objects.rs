//! Indexes and constraints of a database: a copy is not done before each of the source's is on the target, and valid.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::Outcome;

/// Whether each is valid, by kind and name.
pub(crate) type Objects = BTreeMap<String, bool>;

/// Those of schema `public`.
pub(crate) async fn of(client: &Client) -> Outcome<Objects> {
    let sql = "
        SELECT 'index ' || indexrelid::regclass || ' of ' || indrelid::regclass, indisvalid AND indisready
          FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'constraint ' || conname || ' (' || contype::text || ') of ' || conrelid::regclass, convalidated
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'p', 'u', 'x')";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Fails with the names of those that the target misses or that are not valid there.
pub(crate) fn require_all(source: &Objects, target: &Objects, who: &str) -> Outcome<()> {
    let differing: Vec<&str> = source
        .iter()
        .filter(|(name, is_valid)| target.get(*name) != Some(*is_valid))
        .map(|(name, _)| name.as_str())
        .take(10)
        .collect();
    if differing.is_empty() && !source.is_empty() {
        return Ok(());
    }
    Err(format!("{who}: not on the target, or not valid there: {}", differing.join(", ")).into())
}
