//! The judge of the clients' memory: every transaction that a client saw committed must be in the ledger exactly once.

use std::collections::HashMap;

use super::compare::connect;
use super::workload::WorkloadRecord;

/// What the ledger says about what the clients remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerCheck {
    /// Transactions that some client saw committed.
    pub acknowledged: u64,
    /// Of these, how many are not in the ledger.
    pub missing: u64,
    /// Entries beyond the first of any transaction, acknowledged or not.
    pub duplicates: u64,
}

/// Compares the clients' memory with the ledger of the database at `url`.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn check(url: &str, record: &WorkloadRecord) -> Result<LedgerCheck, tokio_postgres::Error> {
    let client = connect(url).await?;
    let rows = client.query("SELECT client::bigint, seq, count(*) FROM ledger GROUP BY 1, 2", &[]).await?;
    let entries: HashMap<(i64, i64), i64> =
        rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
    let duplicates = entries.values().map(|count| u64::try_from(count - 1).unwrap_or_default()).sum();
    let mut check = LedgerCheck { acknowledged: record.acknowledged(), missing: 0, duplicates };
    for client in &record.clients {
        let number = i64::try_from(client.client).unwrap_or(i64::MAX);
        let lost = |seq: &&u64| !entries.contains_key(&(number, i64::try_from(**seq).unwrap_or(i64::MAX)));
        check.missing += client.acknowledged.iter().filter(lost).count() as u64;
    }
    Ok(check)
}
