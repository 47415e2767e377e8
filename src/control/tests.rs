//! The API without a socket: requests go straight into the router, and the test plays the migration task.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::fixture::{Fixture, TOKEN, paused_step, running};
use super::{Access, router, serve};
use crate::cutover::Outcome;
use crate::migration::{
    Command, CopyView, CutoverMode, LagView, Phase, Positions, Refusal, TableProgress, TableState,
};
use crate::model::{Lsn, TableName};

async fn send(fixture: &Fixture, request: Request<Body>) -> Response {
    fixture.router().oneshot(request).await.expect("the router never fails")
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).expect("request")
}

fn command(path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
    request.body(body.into()).expect("request")
}

async fn json_of(response: Response) -> Value {
    let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("body");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Asserts a problem document with this status and this kind; returns its remedy.
async fn problem(response: Response, status: StatusCode, kind: &str) -> String {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let document = json_of(response).await;
    assert_eq!(document["type"], format!("urn:pgsluice:problem:{kind}"));
    assert_eq!(document["status"], status.as_u16());
    for field in ["title", "detail", "remedy"] {
        assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {document}");
    }
    document["remedy"].as_str().unwrap_or_default().to_owned()
}

/// Sends a request while the test answers the one command it causes.
async fn exchange(mut fixture: Fixture, request: Request<Body>, answer: impl FnOnce(Command)) -> Response {
    let router = fixture.router();
    let (response, ()) = tokio::join!(router.oneshot(request), async {
        answer(fixture.commands.recv().await.expect("a command"));
    });
    response.expect("the router never fails")
}

#[tokio::test]
async fn readiness_needs_streaming_and_a_small_lag() {
    let fixture = Fixture::new();
    problem(send(&fixture, get("/readyz")).await, StatusCode::SERVICE_UNAVAILABLE, "not-ready").await;
    assert_eq!(send(&fixture, get("/healthz")).await.status(), StatusCode::OK);

    fixture.board.update(|status| status.phase = Phase::Streaming);
    problem(send(&fixture, get("/readyz")).await, StatusCode::SERVICE_UNAVAILABLE, "not-ready").await;
    for (lag_bytes, expected) in [(1000, StatusCode::OK), (1001, StatusCode::SERVICE_UNAVAILABLE)] {
        fixture.board.update(|status| status.lag = LagView { bytes: Some(lag_bytes), seconds: Some(0.0) });
        assert_eq!(send(&fixture, get("/readyz")).await.status(), expected, "{lag_bytes}");
    }
}

#[tokio::test]
async fn the_status_has_the_fields_of_the_contract() {
    let fixture = Fixture::new();
    fixture.board.update(|status| {
        status.phase = Phase::Snapshot;
        status.positions = Positions { received: Some(Lsn::new(0x16_B374_D848)), ..Positions::default() };
        status.tables.insert(
            TableName::new("public", "orders"),
            TableProgress {
                state: TableState::Copying,
                rows_copied: 1,
                bytes_copied: 2,
                rows_estimated: 3,
                bytes_estimated: 4,
                indexes_total: 2,
                indexes_built: 1,
            },
        );
    });
    let status = json_of(send(&fixture, get("/v1/status")).await).await;
    assert_eq!(status["phase"], "snapshot");
    assert_eq!(
        status["tables"],
        json!([{
            "schema": "public", "name": "orders", "state": "copying",
            "rows_copied": 1, "bytes_copied": 2, "rows_estimated": 3, "bytes_estimated": 4,
            "indexes_built": 1, "indexes_total": 2,
        }])
    );
    let positions = json!({ "source": null, "received": "16/B374D848", "applied": null, "durable": null });
    assert_eq!(status["positions"], positions);
    assert_eq!(status["lag"], json!({ "bytes": null, "seconds": null }));
    for field in ["phase_since", "throughput", "slot_retained_wal_bytes", "findings", "problem", "cutover"] {
        assert!(status.get(field).is_some(), "{field}");
    }
}

#[tokio::test]
async fn commands_need_the_token_and_reading_does_not() {
    let fixture = Fixture::new();
    for path in [
        "/v1/cutover",
        "/v1/cutover/abort",
        "/v1/cutover/confirm",
        "/v1/verify",
        "/v1/verify/stop",
        "/v1/rollback",
    ] {
        let without = Request::post(path).body(Body::empty()).expect("request");
        let refused = send(&fixture, without).await;
        assert!(refused.headers().contains_key(header::WWW_AUTHENTICATE), "{path}");
        problem(refused, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    for path in ["/healthz", "/metrics", "/v1/status", "/openapi.json"] {
        assert_eq!(send(&fixture, get(path)).await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn without_a_token_a_public_listener_refuses_commands_and_says_what_to_set() {
    let fixture = Fixture::new();
    let access = Access::of(None, "0.0.0.0:8080".parse().expect("address"));
    let router = router(fixture.state.clone(), access, &fixture.shutdown);
    let refused = router.oneshot(command("/v1/cutover", Body::empty())).await.expect("response");
    let remedy = problem(refused, StatusCode::FORBIDDEN, "forbidden").await;
    assert!(remedy.contains("api.token_file"), "{remedy}");
}

#[tokio::test]
async fn starting_a_cutover_answers_with_the_operation_and_where_to_follow_it() {
    let mut request = command("/v1/cutover", r#"{"mode":"rehearsal","max_pause_ms":250}"#);
    request.headers_mut().insert("idempotency-key", "k1".parse().expect("value"));
    let response = exchange(Fixture::new(), request, |command| {
        let Command::StartCutover { request, reply } = command else {
            panic!("another command: {command:?}")
        };
        assert_eq!(request.mode, CutoverMode::Rehearsal);
        assert_eq!(request.max_pause, Some(Duration::from_millis(250)));
        assert_eq!(request.idempotency_key.as_deref(), Some("k1"));
        reply.send(Ok(running(7, request.mode))).expect("somebody waits");
    })
    .await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()[header::LOCATION], "/v1/cutover");
    let operation = json_of(response).await;
    assert_eq!((&operation["epoch"], &operation["mode"]), (&json!(7), &json!("rehearsal")));
    assert_eq!((&operation["outcome"], &operation["pause_ms"]), (&json!("running"), &Value::Null));
}

#[tokio::test]
async fn an_empty_body_means_a_cutover_with_the_configured_pause() {
    let response = exchange(Fixture::new(), command("/v1/cutover", Body::empty()), |command| {
        let Command::StartCutover { request, reply } = command else {
            panic!("another command: {command:?}")
        };
        assert_eq!((request.mode, request.max_pause), (CutoverMode::Cutover, None));
        reply.send(Ok(running(1, request.mode))).expect("somebody waits");
    })
    .await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_refusal_is_a_conflict_with_the_migrations_own_words() {
    let response = exchange(Fixture::new(), command("/v1/cutover/abort", Body::empty()), |command| {
        let Command::AbortCutover { reply } = command else { panic!("another command: {command:?}") };
        let refusal = Refusal::Conflict { message: "the fence is committed".into(), remedy: "wait".into() };
        reply.send(Err(refusal)).expect("somebody waits");
    })
    .await;
    assert_eq!(problem(response, StatusCode::CONFLICT, "conflict").await, "wait");
}

#[tokio::test]
async fn a_command_that_comes_too_late_has_a_problem_type_of_its_own() {
    let response = exchange(Fixture::new(), command("/v1/cutover/abort", Body::empty()), |command| {
        command.refuse(Refusal::PastThePointOfNoReturn { message: "too late".into(), remedy: "wait".into() });
    })
    .await;
    assert_eq!(problem(response, StatusCode::CONFLICT, "past-the-point-of-no-return").await, "wait");
}

#[tokio::test]
async fn bodies_and_keys_that_are_not_understood_change_nothing() {
    let mut fixture = Fixture::new();
    for body in [
        r#"{"mode":"now"}"#,
        r#"{"mode":"cutover","force":true}"#,
        r#"{"max_pause_ms":9}"#,
        r#"{"max_pause_ms":600001}"#,
        r#"{"max_pause_ms":-1}"#,
        "mode=cutover",
        "{",
    ] {
        let response = send(&fixture, command("/v1/cutover", body)).await;
        problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid-request").await;
    }
    for key in ["", &"x".repeat(256)] {
        let mut request = command("/v1/cutover", "{}");
        request.headers_mut().insert("idempotency-key", key.parse().expect("value"));
        let response = send(&fixture, request).await;
        problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid-request").await;
    }
    let large = send(&fixture, command("/v1/cutover", vec![b' '; 20_000])).await;
    problem(large, StatusCode::PAYLOAD_TOO_LARGE, "too-large").await;
    assert!(fixture.commands.try_recv().is_err(), "no command was sent");
}

#[tokio::test]
async fn a_migration_that_does_not_answer_is_said_to_be_unresponsive() {
    let response = exchange(Fixture::new(), command("/v1/cutover", "{}"), drop).await;
    problem(response, StatusCode::SERVICE_UNAVAILABLE, "unresponsive").await;
    let mut fixture = Fixture::new();
    fixture.commands.close();
    let response = send(&fixture, command("/v1/cutover", "{}")).await;
    problem(response, StatusCode::SERVICE_UNAVAILABLE, "unresponsive").await;
}

#[tokio::test]
async fn a_cutover_shows_its_steps_and_their_share_of_the_pause() {
    let fixture = Fixture::new();
    problem(send(&fixture, get("/v1/cutover")).await, StatusCode::NOT_FOUND, "nothing-yet").await;
    let mut report = running(2, CutoverMode::Cutover);
    report.outcome = Outcome::Aborted { reason: "max_pause_ms passed".into(), remedy: "try later".into() };
    report.pause = Some(Duration::from_millis(80));
    report.steps = vec![paused_step("lock_tables", Duration::from_micros(20_500))];
    fixture.board.update(|status| status.cutover = Some(report));
    let operation = json_of(send(&fixture, get("/v1/cutover")).await).await;
    assert_eq!(operation["outcome"], "aborted");
    assert_eq!(operation["reason"], "max_pause_ms passed");
    assert_eq!(operation["pause_ms"], 80.0);
    assert_eq!(operation["steps"][0]["duration_ms"], 20.5);
    assert_eq!(operation["steps"][0]["share_of_pause"], 0.25625);
}

#[tokio::test]
async fn what_is_not_there_says_so() {
    let fixture = Fixture::new();
    let remedy = problem(send(&fixture, get("/nowhere")).await, StatusCode::NOT_FOUND, "no-such-route").await;
    assert!(remedy.contains("/v1/status"), "{remedy}");
    let wrong_method = send(&fixture, command("/v1/status", Body::empty())).await;
    problem(wrong_method, StatusCode::METHOD_NOT_ALLOWED, "no-such-method").await;
    let remedy = problem(send(&fixture, get("/v1/verify")).await, StatusCode::NOT_FOUND, "nothing-yet").await;
    assert!(remedy.contains("pgsluice verify"), "{remedy}");
}

#[tokio::test]
async fn every_file_of_the_page_forbids_what_the_page_does_not_do() {
    let fixture = Fixture::new();
    for file in super::page::FILES {
        let response = send(&fixture, get(file.path)).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", file.path);
        let headers = response.headers();
        assert_eq!(headers[header::CONTENT_TYPE], file.kind, "{}", file.path);
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{}", file.path);
        assert_eq!(headers[header::CACHE_CONTROL], "no-store", "{}", file.path);
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer", "{}", file.path);
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        for rule in
            ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"]
        {
            assert!(policy.split("; ").any(|found| found == rule), "{}: {rule} in {policy}", file.path);
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    }
}

/// Every script and style that is named is served, and every one that is served is named.
#[tokio::test]
async fn the_page_loads_only_its_own_files_and_all_of_them() {
    let fixture = Fixture::new();
    let mut text = String::new();
    for file in super::page::FILES {
        let body = to_bytes(send(&fixture, get(file.path)).await.into_body(), 1 << 20).await.expect("body");
        text.push_str(std::str::from_utf8(&body).expect("utf-8"));
    }
    for file in super::page::FILES.iter().filter(|file| file.path != "/") {
        let name = file.path.rsplit('/').next().expect("a name");
        assert!(text.contains(&format!("assets/{name}")) || text.contains(&format!("./{name}")), "{name}");
    }
    for forbidden in
        ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", " style=", " onclick="]
    {
        assert!(!text.contains(forbidden), "{forbidden}");
    }
    let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
    assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "an address of another site");
}

#[tokio::test]
async fn a_status_says_how_it_is_configured_and_lists_only_the_tables_that_are_asked_for() {
    let fixture = Fixture::new();
    fixture.board.update(|status| {
        for (name, state) in
            [("a", TableState::Joined), ("b", TableState::Copying), ("c", TableState::Pending)]
        {
            let progress = TableProgress {
                state,
                rows_copied: 1,
                bytes_copied: 2,
                rows_estimated: 3,
                bytes_estimated: 4,
                ..TableProgress::default()
            };
            status.tables.insert(TableName::new("public", name), progress);
        }
        status.copy = Some(CopyView {
            chunks_joined: 4,
            chunks_total: 9,
            bytes_per_second: 2.5,
            eta_seconds: Some(3),
            indexes_built: 1,
            indexes_total: 5,
            bytes_repeated: 7,
            ..CopyView::default()
        });
    });
    let status = json_of(send(&fixture, get("/v1/status?tables=under_way")).await).await;
    assert_eq!(status["tables"].as_array().map(Vec::len), Some(1));
    assert_eq!(status["tables"][0]["name"], "b");
    assert_eq!(
        status["copy"],
        json!({
            "tables": 3, "pending": 1, "snapshotting": 0, "copying": 1, "joined": 1,
            "rows_copied": 3, "bytes_copied": 6, "rows_estimated": 9, "bytes_estimated": 12,
            "chunks_joined": 4, "chunks_total": 9, "bytes_per_second": 2.5, "eta_seconds": 3,
            "indexes_built": 1, "indexes_total": 5, "bytes_repeated": 7,
        })
    );
    assert_eq!(
        status["configured"],
        json!({
            "source": { "host": "127.0.0.1", "port": 5432, "database": "old" },
            "target": { "host": "127.0.0.1", "port": 5432, "database": "new" },
            "commands": "token", "max_pause_ms": 1000, "waits_for_confirmation": false,
            "verified_within_hours": null,
        })
    );
    let all = json_of(send(&fixture, get("/v1/status")).await).await;
    assert_eq!(all["tables"].as_array().map(Vec::len), Some(3));
    for path in ["/v1/status?tables=some", "/v1/events?tables=some"] {
        problem(send(&fixture, get(path)).await, StatusCode::UNPROCESSABLE_ENTITY, "invalid-request").await;
    }
    let mut events = send(&fixture, get("/v1/events?tables=under_way")).await.into_body().into_data_stream();
    let event = events.next().await.expect("an event").expect("bytes");
    let event = String::from_utf8_lossy(&event);
    assert!(event.contains("\"name\":\"b\"") && !event.contains("\"name\":\"a\""), "{event}");
}

#[tokio::test]
async fn the_openapi_document_has_every_route() {
    let document = json_of(send(&Fixture::new(), get("/openapi.json")).await).await;
    let paths = document["paths"].as_object().expect("paths");
    for route in super::routes::ROUTES {
        assert_eq!(paths.contains_key(route), route != "/openapi.json", "{route}");
    }
    assert!(paths["/v1/verify"]["post"]["responses"]["409"].is_object());
    assert!(document["components"]["schemas"]["RowDifferenceRecord"].is_object());
    assert_eq!(document["paths"]["/v1/cutover"]["post"]["security"], json!([{ "bearer": [] }]));
    assert!(document["components"]["schemas"]["StepRecord"].is_object());
}

#[tokio::test]
async fn events_tell_the_status_now_and_when_it_changes_and_end_at_shutdown() {
    let fixture = Fixture::new();
    let response = send(&fixture, get("/v1/events")).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut events = response.into_body().into_data_stream();
    let first = events.next().await.expect("an event").expect("bytes");
    assert!(first.starts_with(b"event: status\ndata: {\"version\""), "{first:?}");
    fixture.board.update(|status| status.phase = Phase::Streaming);
    let second = events.next().await.expect("an event").expect("bytes");
    assert!(String::from_utf8_lossy(&second).contains("\"phase\":\"streaming\""), "{second:?}");
    fixture.shutdown.request();
    assert!(events.next().await.is_none(), "the stream has ended");
}

#[tokio::test]
async fn events_come_at_most_four_times_a_second_and_carry_the_latest_status() {
    let fixture = Fixture::new();
    let mut events = send(&fixture, get("/v1/events")).await.into_body().into_data_stream();
    events.next().await.expect("an event").expect("bytes");
    let begun = std::time::Instant::now();
    for lag_bytes in 0..100 {
        fixture.board.update(|status| status.lag.bytes = Some(lag_bytes));
    }
    let event = events.next().await.expect("an event").expect("bytes");
    assert!(String::from_utf8_lossy(&event).contains("\"bytes\":99"), "{event:?}");
    assert!(begun.elapsed() >= Duration::from_millis(250));
}

#[tokio::test]
async fn an_open_event_stream_does_not_hold_shutdown_up() {
    let fixture = Fixture::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    let serving = tokio::spawn(serve(listener, fixture.state.clone(), fixture.shutdown.clone()));
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let mut answer = vec![0; 256];
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .expect("written");
    tokio::io::AsyncReadExt::read(&mut stream, &mut answer).await.expect("the answer has begun");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    fixture.shutdown.request();
    let ended = tokio::time::timeout(Duration::from_secs(1), serving).await.expect("within a second");
    ended.expect("no panic").expect("no error");
}

#[tokio::test]
async fn metrics_are_rendered_from_the_status_at_the_time_of_the_scrape() {
    let fixture = Fixture::new();
    fixture.board.update(|status| status.lag = LagView { bytes: Some(42), seconds: Some(1.5) });
    let response = send(&fixture, get("/metrics")).await;
    assert!(
        response.headers()[header::CONTENT_TYPE].to_str().is_ok_and(|kind| kind.starts_with("text/plain"))
    );
    let text = to_bytes(response.into_body(), 1 << 20).await.expect("body");
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains("\npgsluice_lag_bytes 42\n") && text.contains("\npgsluice_lag_seconds 1.5\n"),
        "{text}"
    );
}
