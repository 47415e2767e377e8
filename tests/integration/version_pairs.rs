//! The scenarios that run for several version pairs, under names that begin with the pair.

/// `pair_14_17 { 14 => 17: scenario, … }` becomes a module of tests, each calling its scenario with the pair.
macro_rules! version_pairs {
    ($($name:ident { $source:literal => $target:literal: $($module:ident :: $scenario:ident),+ $(,)? })+) => {
        $(mod $name {
            use crate::harness::stage::Pair;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                Box::pin(crate::$module::$scenario(Pair::of($source, $target))).await;
            })+
        })+
    };
}

/// The same scenarios for a role that owns the database and is no superuser.
macro_rules! owned_pairs {
    ($($name:ident { $source:literal => $target:literal: $($module:ident :: $scenario:ident),+ $(,)? })+) => {
        $(mod $name {
            use crate::harness::stage::Pair;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                Box::pin(crate::$module::$scenario(Pair::owned($source, $target))).await;
            })+
        })+
    };
}
pub(crate) use owned_pairs;
pub(crate) use version_pairs;
