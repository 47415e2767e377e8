//! `source.long_transactions`: slot creation waits for every transaction that has an id. Queries are not shown, they
//! may contain row values (INV-10).

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.long_transactions";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let rows = context
        .rows(
            ID,
            Side::Source,
            "SELECT pid, coalesce(usename, '')::text, coalesce(datname, '')::text, coalesce(state, ''),
                    extract(epoch FROM clock_timestamp() - xact_start)::int8
               FROM pg_stat_activity
              WHERE backend_xid IS NOT NULL AND xact_start < clock_timestamp() - interval '60 seconds'
                AND pid <> pg_backend_pid()
              ORDER BY xact_start",
            &[],
        )
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let pid: i32 = row.get(0);
        let (user, database): (String, String) = (row.get(1), row.get(2));
        let (state, seconds): (String, i64) = (row.get(3), row.get(4));
        Finding::warning(
            ID,
            format!("pid {pid}"),
            format!(
                "A writing transaction of user {user} in database {database} runs for {seconds} s ({state}). The replication slot cannot be created before it ends."
            ),
            format!("Let it end; or, on the source:\nSELECT pg_terminate_backend({pid});"),
        )
    };
    Ok(rows.iter().map(finding).collect())
}
