//! Commits that are in the WAL, and streamed, and not visible: a synchronous standby of the source does not answer.

use tokio_postgres::Client;

use super::stage::text;
use super::wait::until;

/// How many sessions wait in their commit.
const WAITING: &str = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

/// From here on commits wait for a standby that does not exist.
pub(crate) async fn without_an_answer(source: &Client) {
    set(source, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "nobody").await;
}

/// Commits that wait go on.
pub(crate) async fn with_an_answer(source: &Client) {
    set(source, "ALTER SYSTEM RESET synchronous_standby_names", "").await;
}

async fn set(source: &Client, statement: &str, becomes: &str) {
    for sql in [statement, "SELECT pg_reload_conf()"] {
        source.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    until("the setting", || async { text(source, "SHOW synchronous_standby_names").await == becomes }).await;
}

/// Waits until so many commits wait.
pub(crate) async fn until_waiting(source: &Client, commits: usize) {
    until("commits that wait", || async { text(source, WAITING).await == commits.to_string() }).await;
}

/// Whether so many commits still wait.
pub(crate) async fn are_waiting(source: &Client, commits: usize) -> bool {
    text(source, WAITING).await == commits.to_string()
}
