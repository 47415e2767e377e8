//! `cnpg-pooler`: paused and open again, and what proves it.

use axum::http::StatusCode;

use super::metrics::{PodsDouble, address};
use super::*;
use crate::harness::wait::until;

/// The pooler, and two pods of it with their metrics.
struct Scene {
    api: ApiDouble,
    pods: PodsDouble,
}

impl Scene {
    async fn new() -> Self {
        let (api, pods) = (ApiDouble::start().await, PodsDouble::start(2).await);
        api.put("poolers", pooler(Some("transaction")));
        for pod in 0..2 {
            let name = format!("shop-pooler-{pod}");
            api.put(
                "pods",
                json!({
                "metadata": { "name": name, "labels": { "cnpg.io/poolerName": "shop-pooler" } },
                "status": { "phase": "Running", "podIP": address(pod) } }),
            );
            pods.tell(pod.into(), 0, 0);
        }
        Self { api, pods }
    }

    fn entry(&self, more: &str) -> String {
        format!(
            "[[traffic]]\nadapter = 'cnpg-pooler'\npooler = 'shop-pooler'\nmetrics_port = {}\nKUBECONFIG\n{more}",
            self.pods.port
        )
    }

    fn paused(&self) -> Value {
        self.api.get("poolers", "shop-pooler")["spec"]["pgbouncer"]["paused"].clone()
    }

    fn annotations_are_gone(&self) -> bool {
        let annotations = self.api.get("poolers", "shop-pooler")["metadata"]["annotations"].clone();
        annotations.as_object().is_none_or(serde_json::Map::is_empty)
    }
}

fn pooler(mode: Option<&str>) -> Value {
    let mut object = json!({ "metadata": { "name": "shop-pooler" }, "spec": {
        "instances": 2, "type": "rw", "cluster": { "name": "shop" }, "pgbouncer": {} } });
    if let Some(mode) = mode {
        object["spec"]["pgbouncer"]["poolMode"] = mode.into();
    }
    object
}

const QUICK: &str = "timeout_ms = 700\n";

#[tokio::test]
async fn it_holds_clients_during_a_cutover_and_is_open_afterwards() {
    let scene = Scene::new().await;
    let (entry, forward) = (scene.entry(""), context(Direction::Forward, 7));
    done(&scene.api, &entry, Step::Prepare, &forward).await;
    assert_eq!(scene.paused(), Value::Null);
    assert_eq!(done(&scene.api, &entry, Step::Pause, &forward).await, "pooler shop/shop-pooler paused");
    done(&scene.api, &entry, Step::Retarget, &forward).await;
    assert_eq!(scene.paused(), true);
    assert_eq!(done(&scene.api, &entry, Step::Resume, &forward).await, "pooler shop/shop-pooler open");
    assert_eq!(scene.paused(), false);
    assert!(scene.annotations_are_gone());
}

#[tokio::test]
async fn after_a_rollback_it_stays_paused_and_the_next_cutover_opens_it() {
    let scene = Scene::new().await;
    let entry = scene.entry("");
    for step in FORWARD {
        let said = done(&scene.api, &entry, step, &context(Direction::Back, 7)).await;
        assert!(step != Step::Resume || said.contains("stays paused"), "{said}");
    }
    assert_eq!(scene.paused(), true);
    assert!(scene.annotations_are_gone());
    let forward = context(Direction::Forward, 8);
    assert!(done(&scene.api, &entry, Step::Prepare, &forward).await.contains("paused already"));
    done(&scene.api, &entry, Step::Pause, &forward).await;
    done(&scene.api, &entry, Step::Undo, &forward).await;
    assert_eq!(scene.paused(), true, "an aborted cutover leaves it as it was");
    for step in FORWARD {
        done(&scene.api, &entry, step, &context(Direction::Forward, 9)).await;
    }
    assert_eq!(scene.paused(), false);
}

#[tokio::test]
async fn undo_after_any_step_puts_it_back_and_may_be_repeated() {
    for direction in [Direction::Forward, Direction::Back] {
        for before in [Value::Null, false.into(), true.into()] {
            for steps in 0..FORWARD.len() {
                let scene = Scene::new().await;
                scene.api.change(
                    "poolers",
                    "shop-pooler",
                    &json!({ "spec": { "pgbouncer": { "paused": before } } }),
                );
                let (entry, context) = (scene.entry(""), context(direction, 7));
                for step in &FORWARD[..steps] {
                    done(&scene.api, &entry, *step, &context).await;
                    done(&scene.api, &entry, *step, &context).await;
                }
                for _ in 0..2 {
                    done(&scene.api, &entry, Step::Undo, &context).await;
                    assert_eq!(scene.paused(), before, "{direction:?} after {steps} steps");
                    assert!(scene.annotations_are_gone());
                }
            }
        }
    }
}

/// Trap 27.
#[tokio::test]
async fn a_status_that_says_paused_proves_nothing() {
    let scene = Scene::new().await;
    scene.pods.tell(1, 2, 0);
    let back = context(Direction::Back, 7);
    let late = too_late(&scene.api, &scene.entry(QUICK), Step::Pause, &back).await;
    assert_eq!(scene.api.get("poolers", "shop-pooler")["status"]["phase"], "paused");
    assert!(late.problem.contains("pod shop-pooler-1 still has 2 connections"), "{late}");
    done(&scene.api, &scene.entry(""), Step::Undo, &back).await;
    assert_eq!(scene.paused(), Value::Null);
}

#[tokio::test]
async fn a_pause_on_the_way_back_waits_for_the_last_connection_of_every_pod() {
    let scene = Scene::new().await;
    scene.pods.tell(0, 1, 0);
    let pause = {
        let traffic = traffic(&scene.api, &scene.entry("timeout_ms = 60000\n"));
        tokio::spawn(async move { traffic.perform(Step::Pause, &context(Direction::Back, 7)).await })
    };
    let looks = async || scene.api.requests().iter().filter(|asked| asked.resource == "pods").count() > 0;
    for _ in 0..3 {
        until("a look at the pods", &looks).await;
    }
    assert!(!pause.is_finished());
    scene.pods.tell(0, 0, 5);
    pause.await.expect("no panic").expect("paused");
}

#[tokio::test]
async fn a_pod_that_does_not_tell_or_is_missing_is_not_taken_for_quiet() {
    let back = context(Direction::Back, 7);
    for (status, text) in [
        (StatusCode::INTERNAL_SERVER_ERROR, ""),
        (StatusCode::OK, ""),
        (StatusCode::OK, "cnpg_pgbouncer_last_collection_error 1\n"),
    ] {
        let scene = Scene::new().await;
        scene.pods.answer(1, status, text);
        let refused = step(&scene.api, &scene.entry(""), Step::Prepare, &back).await.expect_err("silence");
        assert!(
            refused.problem.contains("shop-pooler-1") && refused.remedy.contains("metrics_port"),
            "{refused:?}"
        );
        let late = too_late(&scene.api, &scene.entry(QUICK), Step::Pause, &back).await;
        assert!(late.problem.contains("shop-pooler-1 does not tell"), "{late}");
    }
    let scene = Scene::new().await;
    scene.api.change("poolers", "shop-pooler", &json!({ "spec": { "instances": 3 } }));
    let late = too_late(&scene.api, &scene.entry(QUICK), Step::Pause, &back).await;
    assert!(late.problem.contains("2 pods of 3"), "{late}");
}

#[tokio::test]
async fn somebody_who_opens_it_during_the_pause_is_noticed() {
    let scene = Scene::new().await;
    scene.pods.tell(0, 1, 0);
    let pause = {
        let traffic = traffic(&scene.api, &scene.entry("timeout_ms = 3000\n"));
        tokio::spawn(async move { traffic.perform(Step::Pause, &context(Direction::Back, 7)).await })
    };
    until("the pause", || async { scene.paused() == true }).await;
    scene.api.change("poolers", "shop-pooler", &json!({ "spec": { "pgbouncer": { "paused": false } } }));
    scene.pods.tell(0, 0, 0);
    let late = pause.await.expect("no panic").expect_err("it is not paused");
    assert!(late.problem.contains("pooler shop/shop-pooler was set to go on, by somebody"), "{late}");
}

/// PAUSE keeps the controller in the pod from seeing that it is to go on.
#[tokio::test]
async fn clients_that_wait_on_although_it_is_open_are_told() {
    let scene = Scene::new().await;
    let forward = context(Direction::Forward, 7);
    done(&scene.api, &scene.entry(""), Step::Pause, &forward).await;
    scene.pods.tell(1, 0, 4);
    let late = too_late(&scene.api, &scene.entry(QUICK), Step::Resume, &forward).await;
    assert!(late.problem.contains("4 clients of pod shop-pooler-1 wait"), "{late}");
    scene.pods.tell(1, 1, 3);
    done(&scene.api, &scene.entry(""), Step::Resume, &forward).await;
    scene.pods.answer(1, StatusCode::BAD_GATEWAY, "");
    let said = done(&scene.api, &scene.entry(""), Step::Resume, &forward).await;
    assert!(said.contains("could not be seen"), "{said}");
}

#[tokio::test]
async fn session_mode_is_refused_also_where_no_mode_is_named() {
    for mode in [None, Some("session")] {
        let scene = Scene::new().await;
        scene.api.put("poolers", pooler(mode));
        for direction in [Direction::Forward, Direction::Back] {
            let context = context(direction, 7);
            let refused =
                step(&scene.api, &scene.entry(""), Step::Prepare, &context).await.expect_err("session mode");
            assert!(refused.problem.contains("session mode"), "{refused}");
            done(&scene.api, &scene.entry("session_pools = 'wait'\n"), Step::Prepare, &context).await;
        }
    }
}

#[tokio::test]
async fn a_change_by_somebody_else_in_the_same_moment_is_seen_and_kept() {
    let scene = Scene::new().await;
    let forward = context(Direction::Forward, 7);
    // Somebody pauses it in the moment in which we do: that is what was before us then.
    scene.api.change_meanwhile(
        "poolers",
        "shop-pooler",
        json!({ "spec": { "pgbouncer": { "paused": true } } }),
    );
    done(&scene.api, &scene.entry(""), Step::Pause, &forward).await;
    done(&scene.api, &scene.entry(""), Step::Undo, &forward).await;
    assert_eq!(scene.paused(), true);
}

#[tokio::test]
async fn one_that_is_gone_is_not_waited_for() {
    for last in [Step::Resume, Step::Undo] {
        let scene = Scene::new().await;
        let forward = context(Direction::Forward, 7);
        done(&scene.api, &scene.entry(""), Step::Pause, &forward).await;
        scene.api.delete("poolers", "shop-pooler");
        let said = done(&scene.api, &scene.entry(""), last, &forward).await;
        assert!(said.contains("pooler shop/shop-pooler is gone"), "{said}");
    }
}

/// The database behind it is the one that is closed: there is nobody who could serve them.
#[tokio::test]
async fn clients_that_came_early_do_not_hold_up_the_undo_of_a_cutover() {
    let scene = Scene::new().await;
    let forward = context(Direction::Forward, 7);
    done(&scene.api, &scene.entry(""), Step::Pause, &forward).await;
    scene.pods.tell(1, 0, 4);
    done(&scene.api, &scene.entry(QUICK), Step::Undo, &forward).await;
    assert_eq!(scene.paused(), Value::Null);
    // On the way back they are those that are to go on.
    let back = context(Direction::Back, 8);
    done(&scene.api, &scene.entry(""), Step::Pause, &back).await;
    let late = too_late(&scene.api, &scene.entry(QUICK), Step::Undo, &back).await;
    assert!(late.problem.contains("4 clients of pod shop-pooler-1 wait"), "{late}");
    // Somebody has opened it since: behind it is the side that was left.
    done(&scene.api, &scene.entry(QUICK), Step::Resume, &back).await;
}
