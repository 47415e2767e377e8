//! Case (o): what a verification in its default configuration costs the source: pgbench with and without one beside it, in windows that
//! take turns, while everything it writes is streamed to the target.

use std::time::Duration;

use super::Outcome;
use super::ground::Ground;
use super::options::Options;
use super::report::EffectReport;
use super::servers::Servers;
use super::sluice::Migrated;

/// How often the program is asked whether it is through: answering costs the machine as well.
const POLL: Duration = Duration::from_secs(1);
const CLIENTS: u32 = 4;
const WINDOW_SECONDS: u64 = 20;
/// Pairs of windows for each round that is asked for.
const PAIRS: usize = 3;

/// Measures it.
pub(crate) async fn measure(
    servers: &Servers,
    ground: &Ground,
    migrated: &Migrated,
    options: &Options,
) -> Outcome<EffectReport> {
    let mut report =
        EffectReport { clients: CLIENTS, window_seconds: WINDOW_SECONDS, ..EffectReport::default() };
    // The first one warms everything up.
    window(servers, ground).await?;
    for pair in 0..options.rounds * PAIRS {
        let first_with = pair % 2 == 1;
        for with in [first_with, !first_with] {
            let transactions = if with {
                beside_verification(servers, ground, migrated).await?
            } else {
                window(servers, ground).await?
            };
            println!(
                "    {} verification: {transactions:.0} transactions a second",
                if with { "with" } else { "without" }
            );
            if with { &mut report.with } else { &mut report.without }.push(transactions);
        }
    }
    let last = migrated.seen().await?;
    report.rows_compared_beside = last.rows_compared;
    report.rows_looked_at_again = last.rows_looked_at_again;
    report.longest_snapshot_seconds = last.longest_snapshot_ms / 1_000.0;
    Ok(report)
}

/// One verification is under way all the time; one that is through is followed by another.
async fn beside_verification(servers: &Servers, ground: &Ground, migrated: &Migrated) -> Outcome<f64> {
    let window = window(servers, ground);
    tokio::pin!(window);
    let started = migrated.start(None, None).await?;
    let mut number = started.number;
    let transactions = loop {
        tokio::select! {
            transactions = &mut window => break transactions?,
            ended = migrated.end_of(number, POLL) => {
                ended?;
                number = migrated.start(None, None).await?.number;
            }
        }
    };
    migrated.stop_verification().await?;
    Ok(transactions)
}

/// Transactions a second over one window.
async fn window(servers: &Servers, ground: &Ground) -> Outcome<f64> {
    let arguments =
        ["-n".to_owned(), format!("-c{CLIENTS}"), "-j1".to_owned(), format!("-T{WINDOW_SECONDS}")];
    let output = servers.source.pgbench(&ground.database, &arguments).await?;
    let line = output.lines().find_map(|line| line.strip_prefix("tps = "));
    let transactions = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    transactions.ok_or_else(|| format!("pgbench told no rate:\n{output}").into())
}
