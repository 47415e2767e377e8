//! Secrets: files are read anew when they were replaced, and nothing that can be seen from outside has one in it.

use nix::sys::signal::Signal;
use pgsluice::control::dto::CutoverModeRecord;
use pgsluice::demo::store::{self, Scale};

use crate::harness::clusters::connect;
use crate::harness::stage::{COPY_WAIT, Pair, Stage, ask, cut_over, end_of, text, way_back_is_open};
use crate::harness::wait::until;

const PAIR: Pair = Pair::of(14, 17);
/// Everything the program keeps on a server, as text.
const KEPT: &str = "SELECT coalesce(string_agg(query_to_xml(format('SELECT * FROM %s', oid::regclass), true, false, '')::text, E'\\n'), '')
    FROM pg_class WHERE relnamespace = to_regnamespace('pgsluice') AND relkind = 'r'";
const SESSIONS: &str =
    "SELECT string_agg(concat_ws(' ', application_name, query), E'\\n') FROM pg_stat_activity
    WHERE application_name LIKE 'pgsluice%'";

/// A password changes on the source: who is connected stays, who connects anew uses what the file says by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_and_a_token_that_are_replaced_need_no_restart() {
    let stage = Stage::new(PAIR).await;
    let source = stage.source_client().await;
    source
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE mover SUPERUSER LOGIN PASSWORD 'first-one'",
        )
        .await
        .expect("a table");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "first-one\n").expect("written");
    let mut command =
        stage.command(&format!("source.password_file = {:?}\n", file.path().display().to_string()));
    command.source_url = stage.source.url("app").replace("postgres:throwaway@", "mover@");
    let mut replicator = command.start().expect("the program");
    crate::harness::stage::streaming(&mut replicator).await;

    let end_sessions =
        "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE usename = 'mover'";
    source.batch_execute("ALTER ROLE mover PASSWORD 'second-one'").await.expect("another password");
    text(&source, end_sessions).await;
    // The file is late, as a mounted Secret is: the program says so, and goes on by itself.
    let waits = replicator
        .wait_for_status("a problem", COPY_WAIT, |status| {
            status.problem.as_ref().is_some_and(|problem| problem.message.contains("28P01"))
        })
        .await;
    waits.unwrap_or_else(|error| panic!("{error}"));
    std::fs::write(file.path(), "second-one\n").expect("written");
    source.batch_execute("INSERT INTO t VALUES (1)").await.expect("a row");
    let target = stage.target_client().await;
    until("the row", || async { text(&target, "SELECT count(*)::text FROM t").await == "1" }).await;

    let token = command.directory.join("token");
    std::fs::write(&token, "another-token\n").expect("written");
    let refused = replicator.api().abort_cutover().await.expect_err("the old token").to_string();
    assert!(refused.contains("Bearer"), "{refused}");
    let asked = stage.run(&["rehearse"]);
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let log = replicator.log();
    assert!(log.contains("the secret in a file was replaced"), "{log}");
    for secret in ["first-one", "second-one", "another-token"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

/// Everything that can be looked at from outside while it works: the API, metrics, the process list, sessions, records on both
/// sides, what every command prints. Its log is searched when the stage ends, as every test's is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_anything_that_can_be_seen_from_outside() {
    let stage = Stage::new(Pair::owned(15, 17)).await;
    store::create(&stage.source_url(), Scale::times(0.01)).await.expect("store");
    let mut replicator = stage.command("").start().expect("the program");
    crate::harness::stage::streaming(&mut replicator).await;
    let accepted = ask(&replicator, CutoverModeRecord::Rehearsal, 20_000).await;
    assert_eq!(end_of(&mut replicator, &accepted).await.outcome, "completed");
    cut_over(&mut replicator).await;
    way_back_is_open(&mut replicator).await;

    let folder = stage.folder();
    for path in
        ["/v1/status", "/v1/cutover", "/v1/tables", "/metrics", "/openapi.json", "/healthz", "/readyz"]
    {
        let (code, body) = replicator.api().get(path).await.expect(path);
        assert!(code.is_success() && !body.is_empty(), "{path}: {code}");
        folder.has_no_secret(path, &body);
    }
    let process = replicator.id();
    let arguments = std::fs::read(format!("/proc/{process}/cmdline")).expect("the process list");
    folder.has_no_secret("the process list", &String::from_utf8_lossy(&arguments));
    for (side, cluster) in [("source", &stage.source), ("target", &stage.target)] {
        let superuser = connect(&cluster.url("app")).await;
        let kept = text(&superuser, KEPT).await;
        assert!(kept.contains("<row"), "{side}: nothing is kept there");
        folder.has_no_secret(side, &kept);
        folder.has_no_secret(side, &text(&superuser, SESSIONS).await);
    }
    for arguments in [
        vec!["check"],
        vec!["check", "--output", "json"],
        vec!["status"],
        vec!["status", "--output", "json"],
        vec!["tables"],
        vec!["rehearse", "--log-level", "trace"],
        vec!["verify"],
        vec!["abort"],
        vec!["cleanup", "--dry-run"],
        vec!["config-reference"],
    ] {
        // `run` looks at what they say; most of them are refused now, which is as good.
        stage.run(&arguments);
    }
    replicator.signal(Signal::SIGTERM);
    replicator.wait_for_end(COPY_WAIT).await.expect("an end");
}
