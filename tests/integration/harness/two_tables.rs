//! The smallest stage on which a stream can go wrong: a table that changes, one beside it, and the ways in which the
//! program says that a person is needed.

use nix::sys::signal::Signal;
use pgsluice::demo::replicator::Replicator;
use tokio_postgres::Client;

use super::stage::{COPY_WAIT, Pair, Stage, text};

pub(crate) const PAIR: Pair = Pair::of(14, 17);
pub(crate) const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'before' FROM generate_series(1, 100) i;
                      CREATE TABLE other (id int PRIMARY KEY, v text)";

pub(crate) async fn stage() -> (Stage, Client) {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source.batch_execute(SCHEMA).await.expect("schema");
    (stage, source)
}

pub(crate) async fn kill(replicator: &mut Replicator) {
    replicator.signal(Signal::SIGKILL);
    replicator.wait_for_end(COPY_WAIT).await.expect("killed");
}

/// A session on the target that writes as nobody should: past the gate.
pub(crate) async fn intruder(stage: &Stage) -> Client {
    let target = stage.target_client().await;
    target.batch_execute("SET session_replication_role = replica").await.expect("superuser");
    target
}

pub(crate) async fn confirmed(source: &Client) -> String {
    text(source, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = 'app'").await
}

/// Waits for the program to ask for a person; returns what it says.
pub(crate) async fn problem(replicator: &mut Replicator, blocking: &str) -> String {
    let status = replicator
        .wait_for_status(&format!("a problem that is {blocking}"), COPY_WAIT, |status| {
            status.problem.as_ref().is_some_and(|problem| problem.blocking == blocking)
        })
        .await;
    match status {
        Ok(status) => status
            .problem
            .map(|problem| format!("{} {}", problem.message, problem.remedy))
            .unwrap_or_default(),
        Err(error) => panic!("{error}"),
    }
}

/// Waits for the program to stop for a person's decision (exit code 4); returns its log.
pub(crate) async fn halted(mut replicator: Replicator) -> String {
    let status = replicator.wait_for_end(COPY_WAIT).await.expect("a halt");
    assert_eq!(status.code(), Some(4), "{}", replicator.log());
    replicator.log()
}
