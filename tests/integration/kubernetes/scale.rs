//! `kubernetes-scale`: down for the pause, back afterwards, whatever happens in between.

use super::*;
use crate::harness::wait::until;

const ENTRY: &str = "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web', 'statefulset/worker']\nKUBECONFIG\n";
const QUICK: &str = "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web']\ntimeout_ms = 700\nKUBECONFIG\n";

async fn scene() -> ApiDouble {
    let api = ApiDouble::start().await;
    api.put("deployments", workload("web", 3));
    api.put("statefulsets", workload("worker", 2));
    api
}

fn replicas(api: &ApiDouble) -> (Value, Value) {
    let of = |resource, name| api.get(resource, name)["spec"]["replicas"].clone();
    (of("deployments", "web"), of("statefulsets", "worker"))
}

fn both(api: &ApiDouble) -> [(Value, Value); 2] {
    [api.spec_and_annotations("deployments", "web"), api.spec_and_annotations("statefulsets", "worker")]
}

/// As it was, but for a table of annotations that may be left empty.
fn assert_as_before(api: &ApiDouble, before: &[(Value, Value); 2]) {
    for ((spec, annotations), (spec_before, _)) in both(api).iter().zip(before) {
        assert_eq!(spec, spec_before);
        assert!(annotations.as_object().is_none_or(serde_json::Map::is_empty), "{annotations}");
    }
}

#[tokio::test]
async fn workloads_go_to_zero_and_come_back_with_the_counts_in_the_notes() {
    let api = scene().await;
    let (before, context) = (both(&api), context(Direction::Forward, 7));
    assert!(done(&api, ENTRY, Step::Prepare, &context).await.contains("deployment shop/web has 3 replicas"));
    assert_as_before(&api, &before);
    let said = done(&api, ENTRY, Step::Pause, &context).await;
    assert_eq!(said, "deployment shop/web 3 → 0; statefulset shop/worker 2 → 0");
    assert_eq!(replicas(&api), (json!(0), json!(0)));
    done(&api, ENTRY, Step::Retarget, &context).await;
    assert_eq!(
        replicas(&api),
        (json!(0), json!(0)),
        "clients have nowhere to go before every adapter has retargeted"
    );
    let said = done(&api, ENTRY, Step::Resume, &context).await;
    assert_eq!(
        said,
        "deployment shop/web 0 → 3, not waited for; statefulset shop/worker 0 → 2, not waited for"
    );
    assert_as_before(&api, &before);
}

#[tokio::test]
async fn every_step_done_twice_is_done_once() {
    for direction in [Direction::Forward, Direction::Back] {
        let api = scene().await;
        let (before, context) = (both(&api), context(direction, 7));
        for step in FORWARD {
            done(&api, ENTRY, step, &context).await;
            api.requests();
            let repeated = done(&api, ENTRY, step, &context).await;
            assert!(step == Step::Prepare || repeated.is_empty(), "{step:?}: {repeated}");
            let changes = api
                .requests()
                .into_iter()
                .filter(|asked| asked.verb == "patch" && !asked.query.contains("dryRun"));
            assert_eq!(changes.count(), 0, "{step:?}");
        }
        assert_as_before(&api, &before);
    }
}

/// The side that is left is closed by then: nobody has a database before every adapter was told.
#[tokio::test]
async fn an_api_server_that_does_not_answer_keeps_no_other_adapter_from_its_retarget() {
    for bound in ["", "timeout_ms = 700\n"] {
        // Connections to it are made, and never answered.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let folder = double::kubeconfig_for(silent.local_addr().expect("an address"));
        let told = folder.path().join("told");
        let program = format!(
            "[[traffic]]\nadapter = 'exec'\ncommand = ['sh', '-c', 'touch {}', 'sh']\n",
            told.display()
        );
        let kubeconfig = folder.path().join("kubeconfig").display().to_string();
        let traffic = traffic_by(&kubeconfig, &format!("{ENTRY}{bound}{program}"));
        let begun = Instant::now();
        let notes = traffic.perform(Step::Retarget, &context(Direction::Forward, 7)).await;
        assert_eq!(notes.expect("the look is no reason to fail"), Notes::new());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(told.exists(), "the next adapter was not told");
    }
}

#[tokio::test]
async fn undo_after_any_step_puts_everything_back() {
    for steps in 0..=FORWARD.len() {
        let api = scene().await;
        let (before, context) = (both(&api), context(Direction::Forward, 7));
        for step in &FORWARD[..steps] {
            done(&api, ENTRY, *step, &context).await;
        }
        for _ in 0..2 {
            done(&api, ENTRY, Step::Undo, &context).await;
            assert_as_before(&api, &before);
        }
    }
}

/// The count that an operation which was broken off has left behind is zero, and nobody's wish.
#[tokio::test]
async fn an_operation_that_was_broken_off_is_no_reason_to_stay_at_zero() {
    let api = scene().await;
    let before = both(&api);
    done(&api, ENTRY, Step::Pause, &context(Direction::Forward, 7)).await;
    let next = context(Direction::Forward, 8);
    for step in FORWARD {
        done(&api, ENTRY, step, &next).await;
    }
    assert_as_before(&api, &before);
}

#[tokio::test]
async fn one_that_was_scaled_down_before_stays_down() {
    let api = scene().await;
    api.put("deployments", workload("web", 0));
    let context = context(Direction::Forward, 7);
    for step in FORWARD {
        done(&api, ENTRY, step, &context).await;
    }
    assert_eq!(replicas(&api), (json!(0), json!(2)));
}

#[tokio::test]
async fn a_change_by_somebody_else_in_the_same_moment_is_seen_and_kept() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    api.change_meanwhile(
        "deployments",
        "web",
        json!({ "spec": { "replicas": 5 }, "metadata": { "labels": { "team": "a" } } }),
    );
    let said = done(&api, ENTRY, Step::Pause, &context).await;
    assert!(said.contains("web 5 → 0"), "{said}");
    done(&api, ENTRY, Step::Undo, &context).await;
    assert_eq!(replicas(&api), (json!(5), json!(2)));
    assert_eq!(api.get("deployments", "web")["metadata"]["labels"]["team"], "a");
}

#[tokio::test]
async fn somebody_who_keeps_changing_it_is_named_as_the_reason() {
    let api = scene().await;
    let before = both(&api);
    api.keep_changing("deployments", "web");
    let context = context(Direction::Forward, 7);
    let error = step(&api, ENTRY, Step::Pause, &context).await.expect_err("it is changed all the time");
    assert!(error.problem.contains("deployment shop/web was changed by somebody else"), "{error}");
    assert_eq!(api.get("deployments", "web")["spec"], before[0].0);
}

/// The step was given up while its patch was on the way. What is undone must stay undone.
#[tokio::test]
async fn a_patch_that_arrives_after_the_undo_is_refused() {
    let api = scene().await;
    let (before, context) = (both(&api), context(Direction::Forward, 7));
    api.hold_next_patch();
    let given_up = {
        let traffic = traffic(&api, QUICK);
        let context = context.clone();
        tokio::spawn(async move { traffic.perform(Step::Pause, &context).await })
    };
    api.patch_is_held().await;
    given_up.abort();
    given_up.await.expect_err("aborted");
    done(&api, QUICK, Step::Undo, &context).await;
    api.release_patch().await;
    assert_as_before(&api, &before);
}

#[tokio::test]
async fn a_pause_lasts_until_the_pods_have_ended() {
    let api = scene().await;
    api.let_pods_linger();
    let context = context(Direction::Forward, 7);
    let late = too_late(&api, QUICK, Step::Pause, &context).await;
    assert!(late.problem.contains("still has 3 pods: web-0"), "{late}");
    let pause = {
        let traffic = traffic(&api, ENTRY);
        tokio::spawn(async move { traffic.perform(Step::Pause, &context).await })
    };
    api.requests();
    until("a look at the pods", || async { api.requests().iter().any(|asked| asked.resource == "pods") })
        .await;
    assert!(!pause.is_finished());
    api.end_pods();
    pause.await.expect("no panic").expect("paused");
}

#[tokio::test]
async fn autoscalers_are_named_and_those_that_would_interfere_refused() {
    let api = scene().await;
    let autoscaler = |least: u32| {
        json!({ "metadata": { "name": "load" }, "spec": {
            "minReplicas": least, "scaleTargetRef": { "kind": "Deployment", "name": "web" } } })
    };
    let context = context(Direction::Forward, 7);
    api.put("horizontalpodautoscalers", autoscaler(1));
    assert!(done(&api, ENTRY, Step::Prepare, &context).await.contains("HorizontalPodAutoscaler load rests"));
    api.put("horizontalpodautoscalers", autoscaler(0));
    let refused = step(&api, ENTRY, Step::Prepare, &context).await.expect_err("it scales from zero");
    assert!(refused.remedy.contains("minReplicas of load"), "{refused:?}");
}

#[tokio::test]
async fn what_does_not_exist_is_named_before_anybody_waits() {
    let api = ApiDouble::start().await;
    api.put("deployments", workload("web", 3));
    let error =
        step(&api, ENTRY, Step::Prepare, &context(Direction::Forward, 7)).await.expect_err("no worker");
    assert!(error.problem.contains("there is no statefulset shop/worker"), "{error}");
}

/// One that cannot be brought back does not keep the others down.
#[tokio::test]
async fn undo_brings_back_as_many_as_it_can() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    done(&api, ENTRY, Step::Pause, &context).await;
    api.forbid("patch", "deployments");
    step(&api, ENTRY, Step::Undo, &context).await.expect_err("forbidden");
    assert_eq!(replicas(&api), (json!(0), json!(2)));
    api.allow_everything();
    done(&api, ENTRY, Step::Undo, &context).await;
    assert_eq!(replicas(&api), (json!(3), json!(2)));
}

/// After the commit a step is told again until it succeeds: what nobody can bring back must not be waited for.
#[tokio::test]
async fn one_that_is_gone_keeps_nobody_from_coming_back() {
    for last in [Step::Resume, Step::Undo] {
        let api = scene().await;
        let context = context(Direction::Forward, 7);
        done(&api, ENTRY, Step::Pause, &context).await;
        api.delete("deployments", "web");
        let said = done(&api, ENTRY, last, &context).await;
        assert!(said.contains("deployment shop/web is gone"), "{said}");
        assert_eq!(api.get("statefulsets", "worker")["spec"]["replicas"], 2);
    }
}
