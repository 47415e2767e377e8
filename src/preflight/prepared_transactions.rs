//! `source.prepared_transactions`: slot creation waits for each of them, in every database of the source.

use std::time::Duration;

use pgsluice_proto::command::quote_literal;

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.prepared_transactions";

/// A transaction manager that is alive ends its transactions sooner.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

struct Prepared {
    gid: String,
    database: String,
    age: Duration,
}

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let rows = context
        .rows(
            ID,
            Side::Source,
            "SELECT gid, database::text, extract(epoch FROM clock_timestamp() - prepared)::float8
               FROM pg_prepared_xacts ORDER BY prepared",
            &[],
        )
        .await?;
    let prepared = rows.iter().map(|row| Prepared {
        gid: row.get(0),
        database: row.get(1),
        age: Duration::try_from_secs_f64(row.get(2)).unwrap_or_default(),
    });
    Ok(prepared.map(|prepared| judge(&prepared)).collect())
}

fn judge(prepared: &Prepared) -> Finding {
    let Prepared { gid, database, age } = prepared;
    let finding = format!(
        "Prepared transaction '{gid}' of database {database} is {} s old. The replication slot cannot be created before it ends.",
        age.as_secs()
    );
    let remedy = format!(
        "In database {database}, one of the two:\nCOMMIT PREPARED {gid}; -- or: ROLLBACK PREPARED {gid};",
        gid = quote_literal(gid).trim_start()
    );
    if *age > FORGOTTEN_AFTER {
        Finding::blocker(ID, gid, finding, remedy)
    } else {
        Finding::warning(ID, gid, finding, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn a_forgotten_prepared_transaction_blocks_and_a_young_one_warns() {
        let judged = |seconds| {
            judge(&Prepared { gid: "x'1".into(), database: "shop".into(), age: Duration::from_secs(seconds) })
        };
        assert_eq!(judged(301).severity, Severity::Blocker);
        assert_eq!(judged(1).severity, Severity::Warning);
        assert!(judged(1).remedy.contains("COMMIT PREPARED 'x''1';"));
    }
}
