use super::super::tests::after;
use super::*;

fn what() -> ResourceName {
    ResourceName { resource: Resource::Deployment, namespace: "shop".into(), name: "web".into() }
}

fn web(replicas: u32) -> Value {
    json!({ "metadata": { "name": "web" }, "spec": { "replicas": replicas, "paused": false } })
}

fn step(step: Step, object: &Value, epoch: i64) -> Value {
    after(object, plan(step, &what(), object, epoch).expect("a plan"))
}

fn note(step: Step, object: &Value, epoch: i64) -> Option<String> {
    plan(step, &what(), object, epoch).expect("a plan").map(|change| change.note)
}

#[test]
fn replicas_come_back_as_they_were_by_either_way() {
    let paused = step(Step::Pause, &web(3), 7);
    assert_eq!(paused["spec"]["replicas"], 0);
    assert_eq!(note(Step::Pause, &web(3), 7).as_deref(), Some("deployment shop/web 3 → 0"));
    for end in [Step::Resume, Step::Undo] {
        assert_eq!(step(end, &paused, 7), web(3));
    }
}

#[test]
fn every_step_may_be_repeated() {
    let paused = step(Step::Pause, &web(3), 7);
    assert_eq!(plan(Step::Pause, &what(), &paused, 7).expect("a plan"), None);
    assert_eq!(plan(Step::Retarget, &what(), &paused, 7).expect("a plan"), None);
    for end in [Step::Resume, Step::Undo] {
        assert_eq!(plan(end, &what(), &web(3), 7).expect("a plan"), None);
    }
}

/// The trap: zero is what an operation that was broken off left behind, and not what was there before.
#[test]
fn zero_that_an_earlier_operation_left_is_not_taken_for_what_was_there() {
    let left = step(Step::Pause, &web(3), 7);
    let again = step(Step::Pause, &left, 8);
    assert_eq!(step(Step::Undo, &again, 8), web(3));
    assert_eq!(step(Step::Resume, &left, 8), web(3));
}

#[test]
fn what_stood_at_zero_stays_there() {
    let idle = web(0);
    for each in [Step::Pause, Step::Resume, Step::Undo] {
        assert_eq!(step(each, &idle, 7), idle);
    }
}

#[test]
fn what_somebody_scaled_in_between_stays_as_they_want_it() {
    let mut paused = step(Step::Pause, &web(3), 7);
    paused["spec"]["replicas"] = 5.into();
    assert_eq!(step(Step::Undo, &paused, 7), web(5));
    assert!(note(Step::Undo, &paused, 7).expect("a note").contains("stays at 5"));
    let again = step(Step::Pause, &paused, 7);
    assert_eq!(step(Step::Undo, &again, 7), web(5));
}

#[test]
fn a_workload_without_a_number_has_one_replica() {
    let object = json!({ "metadata": {}, "spec": {} });
    let paused = step(Step::Pause, &object, 7);
    assert_eq!(step(Step::Undo, &paused, 7)["spec"]["replicas"], 1);
}

#[test]
fn a_pause_waits_for_the_controller_and_for_the_pods_themselves() {
    let object = |seen: i64, replicas: i64| json!({ "metadata": { "generation": 4 }, "status": { "observedGeneration": seen, "replicas": replicas } });
    let pod = |phase: &str| json!({ "metadata": { "name": "web-1" }, "status": { "phase": phase } });
    assert!(still_there(&what(), &object(3, 0), &[]).expect("not seen").contains("controller"));
    assert!(still_there(&what(), &object(4, 2), &[]).is_some());
    // A Deployment counts no pod any more that was told to end.
    let ending = still_there(&what(), &object(4, 0), &[pod("Running")]).expect("a pod");
    assert!(ending.contains("web-1"), "{ending}");
    assert_eq!(still_there(&what(), &object(4, 0), &[pod("Succeeded"), pod("Failed")]), None);
    assert_eq!(still_there(&what(), &json!({ "metadata": {}, "status": {} }), &[]), None);
}

#[test]
fn pods_are_asked_for_by_the_whole_selector_and_never_by_an_empty_one() {
    let object = json!({ "spec": { "selector": {
        "matchLabels": { "app": "web" },
        "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["a", "b"] }],
    } } });
    let text = selector(&what(), &object).expect("a selector");
    assert!(text.contains("app=web") && text.contains("tier in (a,b)"), "{text}");
    for empty in [json!({}), json!({ "spec": { "selector": {} } })] {
        selector(&what(), &empty).expect_err("no selector");
    }
}
