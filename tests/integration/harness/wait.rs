//! Waiting for something to become true, with a deadline that says what it waited for.

use std::future::Future;
use std::time::{Duration, Instant};

/// Generous: two cores may be shared by several servers and a compiler.
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(15);

/// Returns once `condition` holds; fails the test when it does not in time.
pub(crate) async fn until<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for: {what}");
        tokio::time::sleep(POLL).await;
    }
}
