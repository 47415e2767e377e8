//! What a kill costs: COPY data that was relayed and not committed, by what the program has said and the target has recorded. It
//! is a lower bound: a status is up to 250 ms old and counts pieces of 64 KiB, which is as much as the smallest chunk.

use std::collections::{BTreeMap, BTreeSet};

use pgsluice::control::dto::StatusRecord;
use tokio_postgres::Client;

use crate::harness::wait::until;

use super::number;

/// Bytes that are in, by table.
type Recorded = BTreeMap<String, u64>;

/// What one kill cost.
#[derive(Debug)]
pub(super) struct Repeated {
    /// Of tables that are cut by their keys.
    pub(super) of_cut_tables: u64,
    /// Of tables that are copied as a whole, by table.
    pub(super) of_whole_tables: BTreeMap<String, u64>,
}

impl Repeated {
    pub(super) fn bytes(&self) -> u64 {
        self.of_cut_tables + self.of_whole_tables.values().sum::<u64>()
    }
}

/// The plan and what is recorded of it.
pub(super) struct Ledger {
    recorded: Recorded,
    cut: BTreeSet<String>,
}

impl Ledger {
    /// What the target has recorded once no session of the killed program is left; `None` before there is a plan.
    pub(super) async fn read(target: &Client) -> Option<Self> {
        until("the end of the killed program's sessions", || async {
            number(target, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgsluice%'")
                .await
                == 0
        })
        .await;
        let query = "SELECT schema_name || '.' || table_name, count(*) > 1,
                            coalesce(sum(bytes_copied) FILTER (WHERE state = 'joined'), 0)::bigint
                       FROM pgsluice.copy_chunk GROUP BY 1";
        let rows = target.query(query, &[]).await.ok()?;
        let bytes = |row: &tokio_postgres::Row| u64::try_from(row.get::<_, i64>(2)).expect("bytes");
        Some(Self {
            recorded: rows.iter().map(|row| (row.get(0), bytes(row))).collect(),
            cut: rows.iter().filter(|row| row.get(1)).map(|row| row.get(0)).collect(),
        })
    }

    /// What of a status is not recorded. Tables that were made worthless meanwhile are left out: what is copied again of them is
    /// not the kill's doing.
    pub(super) fn repeated_after(&self, status: &StatusRecord, worthless: &BTreeSet<String>) -> Repeated {
        let mut repeated = Repeated { of_cut_tables: 0, of_whole_tables: BTreeMap::new() };
        for table in &status.tables {
            let name = format!("{}.{}", table.schema, table.name);
            let Some(recorded) = self.recorded.get(&name).filter(|_| !worthless.contains(&name)) else {
                continue;
            };
            let bytes = table.bytes_copied.saturating_sub(*recorded);
            if self.cut.contains(&name) {
                repeated.of_cut_tables += bytes;
            } else if bytes > 0 {
                repeated.of_whole_tables.insert(name, bytes);
            }
        }
        repeated
    }
}

/// Tables of which the log says that a chunk is copied again.
pub(super) fn worthless(log: &str) -> BTreeSet<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let again = lines.filter(|line| line["message"] == "a chunk is copied again");
    again.filter_map(|line| line["table"].as_str().map(str::to_owned)).collect()
}
