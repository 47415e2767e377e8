//! Whether two databases hold the same rows, without moving them: by count and a checksum over every table.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::Outcome;

/// Rows and a checksum over them, by table.
pub(crate) type Fingerprint = BTreeMap<String, (i64, String)>;

/// Rows and checksum of every table of schema `public`.
pub(crate) async fn fingerprint(client: &Client) -> Outcome<Fingerprint> {
    let tables = client
        .query(
            "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
            &[],
        )
        .await?;
    let mut found = Fingerprint::new();
    for table in tables {
        let table: String = table.get(0);
        let sql =
            format!("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {table} t");
        let row = client.query_one(&sql, &[]).await?;
        found.insert(table, (row.get(0), row.get(1)));
    }
    Ok(found)
}

/// Compares the target's rows with the source's.
pub(crate) fn require_identical(source: &Fingerprint, target: &Fingerprint, who: &str) -> Outcome<()> {
    let differing: Vec<&str> = source
        .iter()
        .filter(|(table, rows)| target.get(*table) != Some(*rows))
        .map(|(table, _)| table.as_str())
        .collect();
    if differing.is_empty() && !source.is_empty() {
        return Ok(());
    }
    Err(format!("{who}: the rows differ from the source's in {}", differing.join(", ")).into())
}
