//! `--output json`: standard output is one JSON document of every command, whether it succeeds or fails; and one a line of
//! `status --watch`. What a failure says is the same everywhere.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::stage::{COPY_WAIT, Pair, Stage};

const PAIR: Pair = Pair::of(14, 17);

/// Standard output as the one document that it has to be.
fn document(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).expect("utf-8");
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error} in {text:?}; standard error: {}", String::from_utf8_lossy(&output.stderr))
    })
}

/// The document of a failure, whose code is that of the process.
fn failure(output: &Output, code: i32) -> Value {
    let said = document(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said["exit_code"], code, "{said}");
    for field in ["error", "remedy"] {
        assert!(said[field].as_str().is_some_and(|text| !text.is_empty()), "{field} is missing in {said}");
    }
    let standard_error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(standard_error.contains("pgsluice: "), "a person is told, too: {standard_error}");
    said
}

fn json<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--output", "json"]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_says_one_document_when_it_succeeds_and_when_it_fails() {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await
        .expect("table");
    let command = stage.command("");
    let run = |arguments: &[&str]| command.command(&json(arguments)).output().expect("the program");

    // Nothing runs yet, and the source has a table without a key.
    let mut replicator = stage.streaming().await;
    for command in [
        &["abort"][..],
        &["confirm"],
        &["rollback"],
        &["verify", "--show"],
        &["verify", "--stop"],
        &["verify", "--repair"],
        &["cutover"],
        &["tables", "add", "no.such"],
    ] {
        let output = stage.run(&json(command));
        let code = output.status.code().expect("a code");
        assert!(code != 0, "{command:?}");
        failure(&output, code);
    }
    for command in [
        &["status"][..],
        &["tables"],
        &["verify"],
        &["verify", "--show"],
        &["rehearse"],
        &["rehearse", "--times", "2", "--every", "0"],
    ] {
        let output = stage.run(&json(command));
        let said = document(&output);
        assert!(output.status.success() && said["error"].is_null(), "{command:?}: {said}");
    }
    let refused = stage.run(&json(&["cutover", "--max-pause-ms", "10"]));
    if !refused.status.success() {
        assert_eq!(document(&refused)["outcome"], "aborted");
        let moved = document(&stage.run(&json(&["cutover", "--max-pause-ms", "20000"])));
        assert_eq!(moved["outcome"], "completed", "{moved}");
    }
    crate::harness::stage::way_back_is_open(&mut replicator).await;
    let back = stage.run(&json(&["rollback", "--max-pause-ms", "20000"]));
    assert_eq!(document(&back)["outcome"], "completed");
    assert!(back.status.success());

    // Cleanup beside a program that runs is refused; without one it says what it did.
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    for command in [&["status"][..], &["cutover"], &["rehearse"], &["abort"]] {
        let said = failure(&run(command), 2);
        assert!(said["error"].as_str().is_some_and(|error| error.contains("no pgsluice answers")), "{said}");
    }
    for arguments in [&["cleanup", "--dry-run"][..], &["cleanup"]] {
        let cleaned = run(arguments);
        assert!(cleaned.status.success());
        assert!(document(&cleaned)["actions"].as_array().is_some_and(|actions| !actions.is_empty()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_says_its_findings_and_a_failure_why_there_are_none() {
    let stage = Stage::new(PAIR).await;
    stage.source_client().await.batch_execute("CREATE TABLE keyless (id int)").await.expect("table");
    let mut command = stage.command("");
    // `run` ends with the same blocker as `check`, and what it says is a failure.
    let mut started = command.start().expect("the program");
    started.wait_for_end(COPY_WAIT).await.expect("an end");
    let checked = command.command(&json(&["check"])).output().expect("the program");
    let said = document(&checked);
    assert_eq!(checked.status.code(), Some(3), "{said}");
    assert_eq!((&said["summary"]["blockers"], &said["summary"]["can_begin"]), (&1.into(), &false.into()));
    assert_eq!(said["findings"][0]["id"], "source.replica_identity");
    let run = command.command(&json(&["run"])).output().expect("the program");
    assert!(
        failure(&run, 3)["error"].as_str().is_some_and(|error| error.contains("cannot begin: 1 blocker;"))
    );

    command.source_url = command.source_url.replace(&format!(":{}/", stage.source.port()), ":1/");
    command.start().expect("the program").wait_for_end(COPY_WAIT).await.expect("an end");
    for arguments in [&["check"][..], &["cleanup", "--dry-run"]] {
        failure(&command.command(&json(arguments)).output().expect("the program"), 2);
    }
}

#[test]
fn what_is_not_understood_is_told_in_the_same_way() {
    let program = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsluice"));
        command.env_clear().args(arguments).output().expect("the program")
    };
    failure(&program(&json(&["cutover", "--max-pause-ms", "1"])), 2);
    failure(&program(&["no-such-command", "--output=json"]), 2);
    failure(&program(&json(&["check"])), 2);
    failure(&program(&json(&["check", "--config", "/does/not/exist"])), 2);
    failure(&program(&json(&["status", "--api", "ftp://host"])), 2);
    failure(&program(&json(&["status", "--token-file", "/does/not/exist"])), 2);
    failure(&program(&json(&["check", "--log-level", "no=such=filter"])), 2);
    let demo = failure(&program(&json(&["demo", "--source-version", "18", "--target-version", "14"])), 1);
    assert!(demo["error"].as_str().is_some_and(|error| error.contains("two major versions")), "{demo}");
    let help = program(&json(&["--help"]));
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("EXAMPLES"));
}

/// A line whenever something has changed, and none while nothing does; a document on the last line says why it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_status_is_one_document_a_line_for_each_change() {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.expect("table");
    let mut replicator = stage.streaming().await;
    let command = stage.command("");
    let mut watch = command
        .command(&json(&["status", "--watch"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("a line").expect("read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    };
    let first = next();
    assert_eq!(first["phase"], "streaming");
    source.batch_execute("INSERT INTO t VALUES (1)").await.expect("a row");
    let mut before = first;
    let applied = loop {
        let now = next();
        assert_ne!(now, before, "a line without a change");
        if now["throughput"]["rows_total"].as_u64().is_some_and(|rows| rows > 0) {
            break now;
        }
        before = now;
    };
    assert_eq!(applied["phase"], "streaming");
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
    let last = loop {
        let now = next();
        if now["exit_code"].is_number() {
            break now;
        }
    };
    assert_eq!(last["exit_code"], 2, "{last}");
    assert_eq!(watch.wait().expect("its end").code(), Some(2));
}
