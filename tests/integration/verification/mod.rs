//! Verification: seeded corruption is found by table, key and column; under heavy load nothing is found that is not there; what it
//! holds and needs is bounded. `make test-verify` runs it at full size and prints its figures.

mod command_line;
mod corruption;
mod in_doubt;
mod interrupted;
mod joined;
mod load;
mod pieces;
mod repair;
mod unlike;

use std::time::Duration;

use pgsluice::control::dto::{VerificationRecord, VerificationRequestRecord};
use pgsluice::demo::replicator::Replicator;

/// Longest wait for a verification's end.
const VERIFIED_WITHIN: Duration = Duration::from_secs(900);

/// As fast as the servers can.
pub(crate) const FAST: VerificationRequestRecord =
    VerificationRequestRecord { scope: None, share_percent: Some(100), jobs: Some(2), repair: false };

/// A verification from its beginning to its end.
pub(crate) async fn verify(
    replicator: &Replicator,
    request: VerificationRequestRecord,
) -> VerificationRecord {
    let accepted = begun(replicator, request).await;
    ended(replicator, accepted.number).await
}

/// A verification that is accepted.
async fn begun(replicator: &Replicator, request: VerificationRequestRecord) -> VerificationRecord {
    match replicator.api().start_verification(request).await {
        Ok(accepted) => accepted,
        Err(error) => panic!("{error}\n{}", replicator.log()),
    }
}

/// Waits for the end of a verification.
async fn ended(replicator: &Replicator, number: i64) -> VerificationRecord {
    let begun_at = std::time::Instant::now();
    loop {
        let seen = replicator.api().verification().await.expect("a verification");
        if seen.number == number && seen.outcome != "running" {
            return seen;
        }
        assert!(begun_at.elapsed() < VERIFIED_WITHIN, "{seen:#?}\n{}", replicator.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As one that runs is now.
async fn running(replicator: &Replicator) -> VerificationRecord {
    replicator.api().verification().await.expect("a verification")
}

/// A number from the environment: how much of it is run.
fn size(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}
