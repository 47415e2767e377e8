//! Randomness that can be replayed: the seed is printed, and `PGSLUICE_TEST_SEED` sets it.

use std::io::Write as _;

use rand::SeedableRng;
use rand::rngs::StdRng;

pub(crate) const VARIABLE: &str = "PGSLUICE_TEST_SEED";

/// A generator for a test, and its seed.
pub(crate) fn random(test: &str) -> (StdRng, u64) {
    let seed = match std::env::var(VARIABLE) {
        Ok(seed) => seed.parse().expect("the seed is a number"),
        Err(_) => rand::random_range(0..1_000_000_000),
    };
    // Past the test runner's capture: a seed is needed most for a run that is over.
    let _ = writeln!(std::io::stderr(), "{test}: replay with {VARIABLE}={seed}");
    (StdRng::seed_from_u64(seed), seed)
}
