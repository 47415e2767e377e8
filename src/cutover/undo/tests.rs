//! How long it is tried, with programs as adapters.

use super::*;
use crate::config::TrafficConfig;
use crate::migration::CutoverMode;
use crate::model::Direction;
use crate::traffic::{Endpoint, OperatorsWord};

const LONG: Duration = Duration::from_secs(60);

/// What came of it, and how often it was tried.
async fn undo(script: &str, shutdown: &Shutdown, bound: Duration) -> (Result<Notes, CutoverError>, usize) {
    let command = vec!["sh".into(), "-c".into(), script.into()];
    let exec = TrafficConfig::Exec { command, timeout: LONG };
    let traffic = Traffic::new(&[exec], &OperatorsWord::default()).expect("an adapter");
    let endpoint = |host: &str| Endpoint { host: host.into(), port: 5432, database: "shop".into() };
    let context = TrafficContext {
        epoch: 7,
        mode: CutoverMode::Cutover,
        direction: Direction::Forward,
        nonce: "abc".into(),
        source: endpoint("old"),
        target: endpoint("new"),
    };
    let mut failures = 0;
    let undone = until_undone(&traffic, &context, shutdown, bound, |_| failures += 1).await;
    (undone, failures)
}

/// An API that is away for a moment only refuses three tries within a third of a second.
#[tokio::test]
async fn what_works_again_after_more_than_a_few_tries_is_undone() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = folder.path().join("count");
    let script =
        format!("echo x >> {0}; [ $(wc -l < {0}) -gt 4 ] || {{ echo away >&2; exit 1; }}", count.display());
    let (undone, failures) = undo(&script, &Shutdown::new(), LONG).await;
    undone.expect("the fifth try succeeds");
    assert_eq!(failures, 4);
}

#[tokio::test]
async fn it_is_given_up_when_its_time_is_over_and_the_reason_is_told() {
    let begun = Instant::now();
    let (undone, failures) = undo("echo away >&2; exit 1", &Shutdown::new(), Duration::from_secs(1)).await;
    let error = undone.expect_err("it never works");
    assert!(error.to_string().contains("could not undo") && error.to_string().contains("away"), "{error}");
    assert!(failures > 1 && begun.elapsed() < LONG, "{failures} in {:?}", begun.elapsed());
    let NotUndone { message, remedy } = NotUndone::because_of(&error);
    assert!(message.contains("may still be held back") && message.contains("away"), "{message}");
    assert!(remedy.contains("restart pgsluice"), "{remedy}");
}

#[tokio::test]
async fn it_gives_way_to_a_shutdown_and_is_tried_before_it_does() {
    let shutdown = Shutdown::new();
    shutdown.request();
    let (undone, _) = undo("true", &shutdown, LONG).await;
    undone.expect("one try is made in any case");
    for script in ["echo away >&2; exit 1", "sleep 60"] {
        let begun = Instant::now();
        let (undone, _) = undo(script, &shutdown, LONG).await;
        undone.expect_err(script);
        assert!(begun.elapsed() < LONG / 2, "{script}: {:?}", begun.elapsed());
    }
}
