//! The adapters against real programs and a real listener.

use std::sync::Mutex;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;

use super::*;

fn context() -> TrafficContext {
    let endpoint = |host: &str| Endpoint { host: host.into(), port: 5432, database: "shop".into() };
    TrafficContext {
        epoch: 7,
        mode: CutoverMode::Cutover,
        direction: Direction::Forward,
        nonce: "abc".into(),
        source: endpoint("old"),
        target: endpoint("new"),
    }
}

fn traffic(configured: TrafficConfig) -> Traffic {
    Traffic::new(&[configured], &OperatorsWord::default()).expect("an adapter")
}

fn shell(script: &str, timeout: Duration) -> Traffic {
    // The step's name arrives as `$0`.
    traffic(TrafficConfig::Exec { command: vec!["sh".into(), "-c".into(), script.into()], timeout })
}

#[tokio::test]
async fn a_program_is_given_the_step_and_the_place_to_go() {
    let directory = tempfile::tempdir().expect("a directory");
    let seen = directory.path().join("seen");
    let script = format!(
        "echo $0 $PGSLUICE_STEP $PGSLUICE_EPOCH $PGSLUICE_MODE $PGSLUICE_TARGET_HOST:$PGSLUICE_TARGET_PORT/$PGSLUICE_TARGET_DATABASE > {}",
        seen.display()
    );
    shell(&script, Duration::from_secs(10)).perform(Step::Retarget, &context()).await.expect("success");
    let seen = std::fs::read_to_string(seen).expect("written");
    assert_eq!(seen.trim(), "retarget retarget 7 cutover new:5432/shop");
}

#[tokio::test]
async fn a_program_that_fails_is_reported_with_its_last_words() {
    let error = shell("echo first >&2; echo no pooler here >&2; exit 3", Duration::from_secs(10))
        .perform(Step::Pause, &context())
        .await
        .expect_err("exit status 3");
    assert!(error.to_string().contains("could not pause"), "{error}");
    assert!(error.problem.contains('3') && error.problem.ends_with("no pooler here"), "{error}");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let directory = tempfile::tempdir().expect("a directory");
    let pids = directory.path().join("pids");
    let script = format!("sleep 600 & echo $! > {}; wait", pids.display());
    let error = shell(&script, Duration::from_millis(400))
        .perform(Step::Pause, &context())
        .await
        .expect_err("it hangs");
    assert!(error.problem.contains("0.4 s"), "{error}");
    let pid: i32 = std::fs::read_to_string(pids).expect("started").trim().parse().expect("a pid");
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !(stat.is_empty() || stat.contains(") Z "))
    };
    for _ in 0..500 {
        if !alive() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the grandchild {pid} still runs");
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_a_plain_error() {
    let missing =
        TrafficConfig::Exec { command: vec!["/nonexistent/switch".into()], timeout: Duration::from_secs(1) };
    let error = traffic(missing).perform(Step::Prepare, &context()).await.expect_err("no such file");
    assert!(error.problem.contains("/nonexistent/switch"), "{error}");
}

async fn listener(status: StatusCode) -> (String, Arc<Mutex<Vec<(String, String)>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let receive = move |headers: HeaderMap, body: String| async move {
        let token = headers.get("authorization").map(|value| value.to_str().expect("text").to_owned());
        log.lock().expect("lock").push((token.unwrap_or_default(), body));
        status
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/hook", post(receive))).await });
    (format!("http://{address}/hook?key=secret"), seen)
}

use std::sync::Arc;

#[tokio::test]
async fn a_webhook_is_told_the_step_with_its_token() {
    let (url, seen) = listener(StatusCode::NO_CONTENT).await;
    let directory = tempfile::tempdir().expect("a directory");
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "t0ken\n").expect("written");
    let hook = TrafficConfig::Webhook { url, token_file: Some(token_file), timeout: Duration::from_secs(10) };
    traffic(hook).perform(Step::Retarget, &context()).await.expect("204");
    let seen = seen.lock().expect("lock").clone();
    let (token, body) = seen.first().expect("one request");
    assert_eq!(token, "Bearer t0ken");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["step"], "retarget");
    assert_eq!(body["epoch"], 7);
    assert_eq!(body["target"], serde_json::json!({"host": "new", "port": 5432, "database": "shop"}));
}

#[tokio::test]
async fn a_webhooks_error_shows_neither_query_nor_token() {
    let (url, _) = listener(StatusCode::BAD_GATEWAY).await;
    let hook = TrafficConfig::Webhook { url, token_file: None, timeout: Duration::from_secs(10) };
    let error = traffic(hook).perform(Step::Pause, &context()).await.expect_err("502");
    assert!(error.problem.contains("502"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let nobody = TrafficConfig::Webhook {
        url: "http://127.0.0.1:1/hook?key=secret".into(),
        token_file: None,
        timeout: Duration::from_secs(10),
    };
    let error = traffic(nobody).perform(Step::Pause, &context()).await.expect_err("refused");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn the_operators_word_is_waited_for_only_to_retarget() {
    let word = OperatorsWord::default();
    let manual =
        TrafficConfig::Manual { instruction: "Move them.".into(), timeout: Duration::from_millis(50) };
    let traffic = Traffic::new(&[manual], &word).expect("an adapter");
    for step in [Step::Prepare, Step::Pause, Step::Resume, Step::Undo] {
        traffic.perform(step, &context()).await.expect("nothing to wait for");
    }
    let error = traffic.perform(Step::Retarget, &context()).await.expect_err("no word yet");
    assert!(error.remedy.contains("Move them.") && error.remedy.contains("pgsluice confirm"), "{error:?}");
    word.give();
    traffic.perform(Step::Retarget, &context()).await.expect("the word was given");
}

#[tokio::test]
async fn a_program_of_the_operators_is_not_told_of_a_rehearsal() {
    let failing = shell("exit 1", Duration::from_secs(5));
    failing.perform(Step::Prepare, &context()).await.expect_err("a cutover tells it");
    assert_eq!(failing.rehearse(&context()).await, Notes::new());
}
