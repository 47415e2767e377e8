//! What a kill costs: COPY data that had arrived and was not committed, by what the target said of its sessions' COPY in the moment
//! before (`pg_stat_progress_copy`), what the program had said, and what the target has recorded afterwards.

use std::collections::{BTreeMap, BTreeSet};

use pgsluice::control::dto::StatusRecord;
use tokio_postgres::Client;

use crate::harness::wait::until;

use super::number;

/// Bytes that are in, by table.
type Recorded = BTreeMap<String, u64>;

/// What was on the target before a kill: recorded, or arriving.
pub(super) struct Before {
    /// COPY data, by table.
    bytes: Recorded,
    /// Of tables that are copied as a whole, several sessions may have committed parts that are not recorded.
    status: StatusRecord,
    /// Sessions that were copying.
    pub(super) sessions: u64,
}

impl Before {
    /// `None` while no rows are copied.
    pub(super) async fn read(target: &Client, status: Option<StatusRecord>) -> Option<Self> {
        let status = status.filter(|status| status.phase == "snapshot")?;
        let query = "WITH arriving AS (
                         SELECT n.nspname || '.' || c.relname AS name, sum(p.bytes_processed) AS bytes, count(*) AS sessions
                           FROM pg_stat_progress_copy p JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
                          WHERE p.command = 'COPY FROM' AND p.datname = current_database() GROUP BY 1
                     ), recorded AS (
                         SELECT schema_name || '.' || table_name AS name,
                                coalesce(sum(bytes_copied) FILTER (WHERE state = 'joined'), 0) AS bytes
                           FROM pgsluice.copy_chunk GROUP BY 1
                     )
                     SELECT name, (coalesce(r.bytes, 0) + coalesce(a.bytes, 0))::bigint, coalesce(a.sessions, 0)
                       FROM recorded r LEFT JOIN arriving a USING (name)";
        let rows = target.query(query, &[]).await.ok()?;
        let unsigned =
            |row: &tokio_postgres::Row, index| u64::try_from(row.get::<_, i64>(index)).expect("not negative");
        Some(Self {
            bytes: rows.iter().map(|row| (row.get(0), unsigned(row, 1))).collect(),
            sessions: rows.iter().map(|row| unsigned(row, 2)).sum(),
            status,
        })
    }
}

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

    /// What is not recorded of what was there before. Tables that were made worthless meanwhile are left out: what is copied again of
    /// them is not the kill's doing.
    pub(super) fn repeated_after(&self, before: &Before, worthless: &BTreeSet<String>) -> Repeated {
        let mut seen = before.bytes.clone();
        for table in &before.status.tables {
            let bytes = seen.entry(format!("{}.{}", table.schema, table.name)).or_default();
            *bytes = table.bytes_copied.max(*bytes);
        }
        let mut repeated = Repeated { of_cut_tables: 0, of_whole_tables: BTreeMap::new() };
        for (name, seen) in seen {
            let Some(recorded) = self.recorded.get(&name).filter(|_| !worthless.contains(&name)) else {
                continue;
            };
            let bytes = seen.saturating_sub(*recorded);
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
