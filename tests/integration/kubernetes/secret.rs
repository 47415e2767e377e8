//! `kubernetes-secret`: the values of one side or of the other, and workloads that are restarted once for each.

use std::sync::LazyLock;

use axum::http::StatusCode;

use super::*;
use crate::harness::wait::until;

const ENTRY: &str = "[[traffic]]\nadapter = 'kubernetes-secret'\nsecret = 'shop-db'\nsource_from = 'shop-db-source'\n\
    target_from = 'shop-app'\nkeys = ['DATABASE_URL=uri', 'PGPASSWORD=password']\n\
    restart = ['deployment/web', 'statefulset/worker']\nKUBECONFIG\n";
static QUICK: LazyLock<String> = LazyLock::new(|| format!("{ENTRY}timeout_ms = 1500\n"));
/// Base64 of `old-hunter` and `new-hunter`, as an API server shows them.
const OLD: &str = "b2xkLWh1bnRlcg==";
const NEW: &str = "bmV3LWh1bnRlcg==";

async fn scene() -> ApiDouble {
    let api = ApiDouble::start().await;
    put_secrets(&api);
    api.put("deployments", workload("web", 3));
    api.put("statefulsets", workload("worker", 1));
    api
}

fn put_secrets(api: &ApiDouble) {
    let secret =
        |name: &str, data: Value| json!({ "metadata": { "name": name }, "type": "Opaque", "data": data });
    api.put(
        "secrets",
        secret("shop-db", json!({ "DATABASE_URL": OLD, "PGPASSWORD": OLD, "UNTOUCHED": "eWVz" })),
    );
    api.put("secrets", secret("shop-db-source", json!({ "uri": OLD, "password": OLD })));
    api.put("secrets", secret("shop-app", json!({ "uri": NEW, "password": NEW, "username": "eA==" })));
}

fn data(api: &ApiDouble) -> Value {
    api.get("secrets", "shop-db")["data"].clone()
}

fn of(value: &str) -> Value {
    json!({ "DATABASE_URL": value, "PGPASSWORD": value, "UNTOUCHED": "eWVz" })
}

/// For what each of the two workloads was restarted last.
fn restarted_for(api: &ApiDouble) -> (Value, Value) {
    let of = |resource, name| {
        let annotations = api.get(resource, name)["spec"]["template"]["metadata"]["annotations"].clone();
        let at = &annotations["kubectl.kubernetes.io/restartedAt"];
        assert_eq!(at.is_string(), annotations["pgsluice.io/restarted-for"].is_string(), "{annotations}");
        annotations["pgsluice.io/restarted-for"].clone()
    };
    (of("deployments", "web"), of("statefulsets", "worker"))
}

fn both(text: &str) -> (Value, Value) {
    (text.into(), text.into())
}

fn annotations_are_gone(api: &ApiDouble) -> bool {
    let annotations = api.get("secrets", "shop-db")["metadata"]["annotations"].clone();
    annotations.as_object().is_none_or(serde_json::Map::is_empty)
}

#[tokio::test]
async fn applications_get_the_targets_values_by_a_cutover_and_the_sources_by_a_rollback() {
    let api = scene().await;
    let forward = context(Direction::Forward, 7);
    for step in [Step::Prepare, Step::Pause] {
        done(&api, ENTRY, step, &forward).await;
        assert_eq!((data(&api), restarted_for(&api)), (of(OLD), (Value::Null, Value::Null)), "{step:?}");
    }
    let said = done(&api, ENTRY, Step::Retarget, &forward).await;
    assert_eq!(
        said,
        "secret shop/shop-db leads to the target by DATABASE_URL, PGPASSWORD; deployment shop/web restarted; \
         statefulset shop/worker restarted"
    );
    assert_eq!((data(&api), restarted_for(&api)), (of(NEW), both("7-abc-retarget")));
    let before = api.get("secrets", "shop-db")["metadata"]["annotations"]["pgsluice.io/before"].clone();
    assert_eq!(before, r#"{"epoch":7,"was":"source"}"#);
    assert_eq!(done(&api, ENTRY, Step::Resume, &forward).await, "", "the rollouts are complete");
    assert!(annotations_are_gone(&api));
    for step in FORWARD {
        done(&api, ENTRY, step, &context(Direction::Back, 8)).await;
    }
    assert_eq!((data(&api), restarted_for(&api)), (of(OLD), both("8-abc-retarget")));
    assert!(annotations_are_gone(&api));
}

#[tokio::test]
async fn every_step_done_twice_is_done_once() {
    for direction in [Direction::Forward, Direction::Back] {
        let api = scene().await;
        if direction == Direction::Back {
            api.change("secrets", "shop-db", &json!({ "data": { "DATABASE_URL": NEW, "PGPASSWORD": NEW } }));
        }
        let context = context(direction, 7);
        for step in FORWARD {
            done(&api, ENTRY, step, &context).await;
            api.requests();
            let repeated =
                if step == Step::Prepare { String::new() } else { done(&api, ENTRY, step, &context).await };
            assert_eq!(repeated, "", "{step:?}");
            let changes = api.requests().into_iter().filter(|asked| asked.verb == "patch");
            assert_eq!(changes.count(), 0, "{step:?}");
        }
    }
}

/// The Secret was changed and one workload restarted when the program died.
#[tokio::test]
async fn a_retarget_that_was_broken_off_restarts_the_others_and_none_twice() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    api.forbid("patch", "statefulsets");
    step(&api, ENTRY, Step::Retarget, &context).await.expect_err("forbidden");
    assert_eq!((data(&api), restarted_for(&api)), (of(NEW), ("7-abc-retarget".into(), Value::Null)));
    let version = api.get("deployments", "web")["metadata"]["resourceVersion"].clone();
    api.allow_everything();
    assert_eq!(done(&api, ENTRY, Step::Retarget, &context).await, "statefulset shop/worker restarted");
    assert_eq!(restarted_for(&api), both("7-abc-retarget"));
    assert_eq!(api.get("deployments", "web")["metadata"]["resourceVersion"], version);
}

#[tokio::test]
async fn undo_puts_back_what_this_operation_changed_and_restarts_once_more() {
    for steps in 0..FORWARD.len() {
        let api = scene().await;
        let context = context(Direction::Forward, 7);
        for step in &FORWARD[..steps] {
            done(&api, ENTRY, *step, &context).await;
        }
        let was_led = steps > 2;
        for _ in 0..2 {
            done(&api, ENTRY, Step::Undo, &context).await;
            let restarts = if was_led { both("7-abc-undo") } else { (Value::Null, Value::Null) };
            assert_eq!((data(&api), restarted_for(&api)), (of(OLD), restarts), "after {steps} steps");
            assert!(annotations_are_gone(&api));
        }
    }
}

#[tokio::test]
async fn an_undo_that_was_broken_off_restarts_the_others() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    done(&api, ENTRY, Step::Retarget, &context).await;
    api.forbid("patch", "statefulsets");
    step(&api, ENTRY, Step::Undo, &context).await.expect_err("forbidden");
    assert_eq!((data(&api), restarted_for(&api)), (of(OLD), ("7-abc-undo".into(), "7-abc-retarget".into())));
    api.allow_everything();
    assert_eq!(done(&api, ENTRY, Step::Undo, &context).await, "statefulset shop/worker restarted");
    assert_eq!(restarted_for(&api), both("7-abc-undo"));
}

#[tokio::test]
async fn an_undo_leaves_alone_what_another_operation_changed() {
    let api = scene().await;
    done(&api, ENTRY, Step::Retarget, &context(Direction::Forward, 7)).await;
    assert_eq!(done(&api, ENTRY, Step::Undo, &context(Direction::Forward, 8)).await, "");
    assert_eq!((data(&api), restarted_for(&api)), (of(NEW), both("7-abc-retarget")));
}

/// Epochs begin again with another migration, and the marks are still there.
#[tokio::test]
async fn the_mark_of_another_migration_is_not_taken_for_this_ones() {
    let api = scene().await;
    let first = context(Direction::Forward, 7);
    done(&api, ENTRY, Step::Retarget, &first).await;
    api.change("secrets", "shop-db", &json!({ "data": { "DATABASE_URL": OLD, "PGPASSWORD": OLD } }));
    let other = |nonce: &str| TrafficContext { nonce: nonce.into(), ..first.clone() };
    done(&api, ENTRY, Step::Retarget, &other("def")).await;
    // The number of the times is that of the epoch, whose annotation was still there.
    assert_eq!((data(&api), restarted_for(&api)), (of(NEW), both("7-def-retarget-2")));
    done(&api, ENTRY, Step::Resume, &other("def")).await;
    api.change("secrets", "shop-db", &json!({ "data": { "DATABASE_URL": OLD, "PGPASSWORD": OLD } }));
    done(&api, ENTRY, Step::Retarget, &other("ghi")).await;
    assert_eq!((data(&api), restarted_for(&api)), (of(NEW), both("7-ghi-retarget")));
}

#[tokio::test]
async fn a_patch_that_arrives_after_the_undo_is_refused() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    api.hold_next_patch();
    let given_up = {
        let traffic = traffic(&api, ENTRY);
        let context = context.clone();
        tokio::spawn(async move { traffic.perform(Step::Retarget, &context).await })
    };
    api.patch_is_held().await;
    given_up.abort();
    given_up.await.expect_err("aborted");
    done(&api, ENTRY, Step::Undo, &context).await;
    api.release_patch().await;
    assert_eq!((data(&api), restarted_for(&api)), (of(OLD), (Value::Null, Value::Null)));
}

#[tokio::test]
async fn a_change_by_somebody_else_in_the_same_moment_is_seen_and_kept() {
    let api = scene().await;
    let rotated = json!({ "data": { "PGPASSWORD": "cm90YXRlZA==", "MORE": "eWVz" } });
    api.change_meanwhile("secrets", "shop-db", rotated);
    done(&api, ENTRY, Step::Retarget, &context(Direction::Forward, 7)).await;
    assert_eq!(data(&api)["MORE"], "eWVz");
    assert_eq!((&data(&api)["PGPASSWORD"], &data(&api)["DATABASE_URL"]), (&json!(NEW), &json!(NEW)));
}

#[tokio::test]
async fn what_could_not_work_later_is_refused_before_anybody_waits_and_names_no_value() {
    let cases: [(&str, &str, Value, &str); 8] = [
        (
            "secrets",
            "shop-db",
            json!({ "data": { "PGPASSWORD": "aHVudGVyMg==" } }),
            "those of the source in PGPASSWORD",
        ),
        (
            "secrets",
            "shop-db",
            json!({ "data": { "PGPASSWORD": null } }),
            "those of the source in PGPASSWORD",
        ),
        (
            "secrets",
            "shop-db",
            json!({ "data": { "PGPASSWORD": NEW, "DATABASE_URL": NEW } }),
            "the values of the target already",
        ),
        ("secrets", "shop-db", json!({ "immutable": true }), "is immutable"),
        ("secrets", "shop-app", json!({ "data": { "uri": null } }), "secret shop/shop-app has no key uri"),
        ("secrets", "shop-app", json!({ "data": { "uri": OLD, "password": OLD } }), "are the same"),
        (
            "deployments",
            "web",
            json!({ "spec": { "paused": true } }),
            "rollout of deployment shop/web is paused",
        ),
        (
            "statefulsets",
            "worker",
            json!({ "spec": { "updateStrategy": { "type": "OnDelete" } } }),
            "keeps old pods",
        ),
    ];
    for (resource, name, change, expected) in cases {
        let api = scene().await;
        api.change(resource, name, &change);
        let error =
            step(&api, ENTRY, Step::Prepare, &context(Direction::Forward, 7)).await.expect_err(expected);
        assert!(error.problem.contains(expected), "{error}");
        let printed = format!("{error} {error:?}");
        assert!(
            !["hunter", OLD, NEW, "aHVudGVyMg=="].iter().any(|value| printed.contains(value)),
            "{printed}"
        );
    }
    for (resource, name) in [("secrets", "shop-db"), ("secrets", "shop-db-source"), ("deployments", "web")] {
        let api = scene().await;
        api.delete(resource, name);
        let error =
            step(&api, ENTRY, Step::Prepare, &context(Direction::Forward, 7)).await.expect_err("gone");
        assert!(error.problem.contains("there is no") && error.problem.contains(name), "{error}");
    }
}

/// A webhook may quote what it refuses.
#[tokio::test]
async fn the_words_of_a_refusal_are_left_out_for_a_secret() {
    let words =
        "admission webhook \"policy.example.com\" denied the request: DATABASE_URL old-hunter is not allowed";
    for code in [400, 401, 403, 422, 500] {
        let api = scene().await;
        let status = StatusCode::from_u16(code).expect("a code");
        api.refuse(status, ("patch", "secrets"), words);
        let error =
            step(&api, ENTRY, Step::Retarget, &context(Direction::Forward, 7)).await.expect_err("refused");
        assert!(error.problem.contains("words are left out"), "{error}");
        assert!(code == 401 || error.problem.contains(&code.to_string()), "{error}");
        assert!(!format!("{error:?}").contains("hunter"), "{error:?}");
        assert!(!error.remedy.contains("Role"), "the right is there: {}", error.remedy);
    }
}

#[tokio::test]
async fn a_webhook_that_denies_a_change_by_403_is_not_taken_for_a_missing_right() {
    let api = scene().await;
    let words = "admission webhook \"policy.example.com\" denied the request: no restarts on Mondays";
    api.refuse(StatusCode::FORBIDDEN, ("patch", "deployments"), words);
    let error = step(&api, ENTRY, Step::Retarget, &context(Direction::Forward, 7)).await.expect_err("denied");
    assert!(error.problem.contains("no restarts on Mondays"), "{error}");
    assert!(
        error.remedy.contains("a webhook, a policy") && !error.remedy.contains("Role"),
        "{}",
        error.remedy
    );
}

/// A retarget is repeated until every workload was told, and somebody may put the Secret back in between.
#[tokio::test]
async fn a_secret_that_was_put_back_between_two_tries_is_led_again_and_everybody_restarted_again() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    api.forbid("patch", "statefulsets");
    step(&api, ENTRY, Step::Retarget, &context).await.expect_err("forbidden");
    for times in 2..4 {
        let put_back = json!({ "data": { "PGPASSWORD": OLD }, "metadata": { "managedFields": [{
            "manager": "argocd-controller", "time": "2026-11-30T03:00:00Z",
            "fieldsV1": { "f:data": { "f:PGPASSWORD": {} } } }] } });
        api.change("secrets", "shop-db", &put_back);
        let error = step(&api, ENTRY, Step::Retarget, &context).await.expect_err("forbidden");
        assert!(error.problem.contains("statefulset"), "{error}");
        let web: Value = format!("7-abc-retarget-{times}").into();
        assert_eq!((data(&api), restarted_for(&api)), (of(NEW), (web, Value::Null)));
    }
    api.change("secrets", "shop-db", &json!({ "data": { "PGPASSWORD": OLD } }));
    api.allow_everything();
    let said = done(&api, ENTRY, Step::Retarget, &context).await;
    assert!(said.contains("leads to the target again by PGPASSWORD, changed in between by argocd"), "{said}");
    assert!(said.contains("may still use the other side"), "{said}");
    assert!(said.contains("deployment shop/web restarted; statefulset shop/worker restarted"), "{said}");
    assert_eq!(restarted_for(&api), both("7-abc-retarget-4"));
    assert_eq!(done(&api, ENTRY, Step::Retarget, &context).await, "", "nobody a fifth time");
    done(&api, ENTRY, Step::Undo, &context).await;
    assert_eq!((data(&api), restarted_for(&api)), (of(OLD), both("7-abc-undo")));
    assert!(annotations_are_gone(&api));
}

#[tokio::test]
async fn a_resume_lasts_until_the_pods_are_new_ones() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    api.let_rollouts_linger(true);
    done(&api, ENTRY, Step::Retarget, &context).await;
    let resume = {
        let traffic = traffic(&api, ENTRY);
        tokio::spawn(async move { traffic.perform(Step::Resume, &context).await })
    };
    api.requests();
    until("a look at a rollout", || async {
        api.requests().iter().any(|asked| asked.verb == "get" && asked.resource == "deployments")
    })
    .await;
    assert!(!resume.is_finished());
    api.let_rollouts_linger(false);
    let notes = resume.await.expect("no panic").expect("complete");
    assert_eq!(notes, Notes::new());
}

/// Old clients get the fence's error, and new ones are served: nobody is helped by a step that does not end.
#[tokio::test]
async fn a_rollout_that_takes_too_long_is_told_and_is_no_failure() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    api.let_rollouts_linger(true);
    done(&api, &QUICK, Step::Retarget, &context).await;
    let said = done(&api, &QUICK, Step::Resume, &context).await;
    assert!(
        said.contains("the rollout of deployment shop/web is not complete yet (0 of 3 pods are new)"),
        "{said}"
    );
    assert!(said.contains("the rollout of statefulset shop/worker"), "{said}");
    assert!(annotations_are_gone(&api));
}

#[tokio::test]
async fn a_rollout_that_an_api_server_tells_nothing_of_is_no_failure() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    done(&api, &QUICK, Step::Retarget, &context).await;
    api.fall_silent("get", "deployments");
    let said = done(&api, &QUICK, Step::Resume, &context).await;
    assert_eq!(said, "the rollout of deployment shop/web could not be seen: the API server does not answer");
    assert!(annotations_are_gone(&api));
}

#[tokio::test]
async fn what_is_gone_afterwards_keeps_nobody_waiting() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    done(&api, ENTRY, Step::Prepare, &context).await;
    api.delete("deployments", "web");
    let said = done(&api, ENTRY, Step::Retarget, &context).await;
    assert!(said.contains("deployment shop/web is gone, and not restarted"), "{said}");
    api.delete("secrets", "shop-db");
    let said = done(&api, ENTRY, Step::Resume, &context).await;
    assert!(said.contains("secret shop/shop-db is gone"), "{said}");
    let error = step(&api, ENTRY, Step::Retarget, &context).await.expect_err("nobody is led anywhere");
    assert!(error.problem.contains("there is no secret shop/shop-db"), "{error}");
}
