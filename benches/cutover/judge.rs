//! Whether anything was lost: once the clients have stopped, every transaction that one of them saw committed must be in the
//! ledger of the final primary exactly once, and both sides must hold the same rows and sequences.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgsluice::demo::compare::{ComparedSide, compare_rows, compare_sequences};
use pgsluice::demo::ledger;
use pgsluice::demo::workload::WorkloadRecord;
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::ground::connect;

/// Longest wait for the other side to have everything.
const CATCH_UP_WAIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// What the fence says to those who write: the only error a client may see.
const FENCED: &str = "25006";

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Judgement {
    /// Transactions that some client saw committed.
    pub(crate) acknowledged: u64,
    /// Of these, how many the final primary does not have.
    pub(crate) missing: u64,
    /// How many it has more than once.
    pub(crate) duplicates: u64,
    /// Rows of the final primary.
    pub(crate) rows_compared: u64,
    /// Rows that only one side has.
    pub(crate) row_differences: u64,
    /// Where.
    pub(crate) differing_tables: Vec<String>,
    /// Of the final primary; 0 where they were not carried over before the comparison.
    pub(crate) sequences_compared: usize,
    /// What both sides say of those that differ.
    pub(crate) differing_sequences: Vec<String>,
    /// What clients saw, by SQLSTATE.
    pub(crate) client_errors: BTreeMap<String, u64>,
    /// The same for each of them.
    #[serde(default)]
    pub(crate) errors_of_each_client: Vec<BTreeMap<String, u64>>,
}

impl Judgement {
    /// Everything that must not be.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut require = |holds: bool, otherwise: String| {
            if !holds {
                failures.push(otherwise);
            }
        };
        require(self.acknowledged > 0, "no client saw a transaction committed".into());
        require(self.missing == 0, format!("{} acknowledged transactions are lost", self.missing));
        require(self.duplicates == 0, format!("{} transactions are there twice", self.duplicates));
        let tables = self.differing_tables.join(", ");
        require(self.rows_compared > 0, "there were no rows to compare".into());
        require(self.row_differences == 0, format!("{} rows differ, in {tables}", self.row_differences));
        let sequences = self.differing_sequences.join("; ");
        require(self.differing_sequences.is_empty(), format!("sequences differ: {sequences}"));
        for (code, count) in self.client_errors.iter().filter(|(code, _)| *code != FENCED) {
            require(false, format!("clients saw {count} errors {code}, which are not the fence's"));
        }
        failures
    }
}

/// Waits until what was committed on `primary` is durable on the other side, by what the program has confirmed.
pub(crate) async fn caught_up(primary: &str) -> Outcome<()> {
    let client = connect(primary).await?;
    let end: String = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
    let sql = "SELECT coalesce(bool_and(confirmed_flush_lsn >= $1::text::pg_lsn), false)
                 FROM pg_replication_slots WHERE database = current_database()";
    let deadline = Instant::now() + CATCH_UP_WAIT;
    while !client.query_one(sql, &[&end]).await?.get::<_, bool>(0) {
        if Instant::now() > deadline {
            return Err(format!("{end} was not confirmed in {CATCH_UP_WAIT:?}").into());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Looks at the primary and the other side, which must be at rest.
pub(crate) async fn judge([primary, other]: [String; 2], record: &WorkloadRecord) -> Outcome<Judgement> {
    let ledger = ledger::check(&primary, record).await?;
    let rows = compare_rows(&ComparedSide::now(&primary), &ComparedSide::now(&other)).await?;
    Ok(Judgement {
        acknowledged: ledger.acknowledged,
        missing: ledger.missing,
        duplicates: ledger.duplicates,
        rows_compared: rows.rows_compared,
        row_differences: rows.row_differences(),
        differing_tables: rows.differing_tables.into_keys().collect(),
        client_errors: record.errors_by_code(),
        errors_of_each_client: record.clients.iter().map(|client| client.errors_by_code.clone()).collect(),
        ..Judgement::default()
    })
}

/// Looks at the sequences of both sides, which the last operation has carried over and nobody has used since.
pub(crate) async fn judge_sequences(judgement: &mut Judgement, [source, target]: [String; 2]) -> Outcome<()> {
    let sequences = compare_sequences(&source, &target).await?;
    judgement.sequences_compared = sequences.sequences;
    judgement.differing_sequences = sequences.differing;
    Ok(())
}
