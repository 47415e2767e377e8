//! Case (l): thousands of small tables, where planning and the start of each table are the work. Native replication, in the
//! setting that was fastest in (k), beside pgsluice into definitions that are there already, and, for comparison, into an empty
//! database.

use std::collections::BTreeMap;

use super::Outcome;
use super::contender::{self, Contender, Definitions};
use super::ground::Ground;
use super::options::{MANY_TABLES, Options};
use super::report::{CopyReport, ManyTablesReport, NATIVE, PGSLUICE};
use super::rounds::one_run;
use super::servers::Servers;

const ROWS_OF_EACH_TABLE: u64 = 10;
/// Tables made in one transaction: their locks must fit into the server's default lock table.
const TABLES_AT_ONCE: u64 = 500;

/// `max_sync_workers_per_subscription` where (k) was not measured.
const SYNC_WORKERS: &str = "4 workers";

/// Measures the case, once.
pub(crate) async fn measure(
    servers: &Servers,
    options: &Options,
    copies: &[CopyReport],
) -> Outcome<ManyTablesReport> {
    let tables = options.scaled(MANY_TABLES);
    let database = "case_l".to_owned();
    servers.source.execute("postgres", &format!("CREATE DATABASE {database}")).await?;
    make_tables(servers, &database, tables).await?;
    let ground = Ground::look_at(servers, database).await?;
    let mut native = BTreeMap::new();
    let contenders = contender::all(options);
    let fastest = copies.last().and_then(|copy| copy.contenders.get(NATIVE));
    let setting = fastest.map_or(SYNC_WORKERS, |measured| measured.fastest.as_str());
    let natives = || contenders.iter().filter(|contender| contender.name == NATIVE);
    // Which settings there are can be chosen.
    let chosen = natives().find(|contender| contender.setting() == setting).or_else(|| natives().next());
    if let Some(contender) = chosen {
        let run = one_run(servers, &ground, contender, Definitions::InPlace).await?;
        native.insert(contender.setting(), run);
    }
    let ours: Option<&Contender> = contenders.iter().find(|contender| contender.name == PGSLUICE);
    let (mut existing, mut copied) = (None, None);
    if let Some(ours) = ours {
        println!("    into definitions that are in place:");
        existing = Some(one_run(servers, &ground, ours, Definitions::InPlace).await?);
        println!("    into an empty database:");
        copied = Some(one_run(servers, &ground, ours, Definitions::Missing).await?);
    }
    ground.remove(servers).await?;
    Ok(ManyTablesReport { tables, native, existing, copied })
}

async fn make_tables(servers: &Servers, database: &str, tables: u64) -> Outcome<()> {
    let client = servers.source.client(database).await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    for first in (1..=tables).step_by(usize::try_from(TABLES_AT_ONCE)?) {
        let last = tables.min(first + TABLES_AT_ONCE - 1);
        let sql = format!(
            "DO $$ BEGIN FOR t IN {first}..{last} LOOP
                EXECUTE format('CREATE TABLE t%s (id bigint PRIMARY KEY, n int NOT NULL, payload text NOT NULL)', t);
                EXECUTE format('INSERT INTO t%s SELECT i, i %% 3, md5(i::text) FROM generate_series(1, {ROWS_OF_EACH_TABLE}) i', t);
                EXECUTE format('CREATE INDEX ON t%s (n)', t);
            END LOOP; END $$"
        );
        client.batch_execute(&sql).await?;
    }
    Ok(())
}
