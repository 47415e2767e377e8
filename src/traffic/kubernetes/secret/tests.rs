use serde_json::json;

use super::super::tests::after;
use super::*;
use crate::config::SecretKey;

/// Base64 of `old` and `new`; as an API server shows them.
const OLD: &str = "b2xk";
const NEW: &str = "bmV3";
const AT: &str = "2026-11-30T03:00:00Z";

fn what() -> ResourceName {
    ResourceName { resource: Resource::Secret, namespace: "shop".into(), name: "shop-db".into() }
}

fn workload(resource: Resource) -> ResourceName {
    ResourceName { resource, namespace: "shop".into(), name: "web".into() }
}

fn keys() -> [SecretKey; 2] {
    [("DATABASE_URL", "uri"), ("PGPASSWORD", "password")]
        .map(|(name, from)| SecretKey { name: name.into(), from: from.into() })
}

fn from(value: &str) -> Value {
    json!({ "metadata": { "name": "from" }, "data": { "uri": value, "password": value, "other": OLD } })
}

fn values(value: &str) -> Values {
    Values::of(&what(), &from(value), &keys()).expect("both keys")
}

fn secret(value: &str) -> Value {
    json!({ "metadata": { "name": "shop-db" }, "type": "Opaque",
            "data": { "DATABASE_URL": value, "PGPASSWORD": value, "UNTOUCHED": OLD } })
}

fn retargeted(object: &Value, epoch: i64) -> Value {
    let (values, left) = (values(NEW), Side::Source);
    after(object, values::retarget(&what(), object, epoch, left, (Side::Target, &values)).expect("a plan"))
}

fn resumed(object: &Value, epoch: i64) -> (Value, String) {
    let values = values(NEW);
    let change = values::resume(&what(), object, epoch, (Side::Target, &values)).expect("a plan");
    let note = change.as_ref().map(|change| change.note.clone()).unwrap_or_default();
    (after(object, change), note)
}

#[test]
fn the_keys_are_those_of_the_other_side_and_the_others_stay() {
    let moved = retargeted(&secret(OLD), 7);
    assert_eq!(moved["data"], secret(NEW)["data"]);
    let before = moved["metadata"]["annotations"]["pgsluice.io/before"].as_str().expect("an annotation");
    assert_eq!(before, r#"{"epoch":7,"was":"source"}"#, "a side, and no value");
    assert_eq!(resumed(&moved, 7), (secret(NEW), String::new()));
    let undone = after(&moved, Some(values::undo(&what(), (Side::Source, &values(OLD)))));
    assert_eq!(undone, secret(OLD));
}

#[test]
fn a_repeated_retarget_and_resume_change_nothing() {
    let moved = retargeted(&secret(OLD), 7);
    assert_eq!(retargeted(&moved, 7), moved);
    let (settled, _) = resumed(&moved, 7);
    assert_eq!(resumed(&settled, 7), (settled.clone(), String::new()));
    assert_eq!(retargeted(&settled, 7), settled);
}

#[test]
fn only_what_this_operation_changed_is_undone() {
    let moved = retargeted(&secret(OLD), 7);
    assert!(values::is_of(&moved, 7).expect("ours"));
    assert!(!values::is_of(&moved, 8).expect("another's"));
    assert!(!values::is_of(&secret(OLD), 7).expect("unchanged"));
}

#[test]
fn a_secret_that_is_not_as_the_side_that_is_left_is_refused_by_the_names_of_its_keys() {
    let (old, new) = (values(OLD), values(NEW));
    let check = |object: &Value| values::check(&what(), object, (Side::Source, &old), (Side::Target, &new));
    check(&secret(OLD)).expect("as the source");
    let moved = check(&secret(NEW)).expect_err("moved already");
    assert!(moved.problem.contains("has the values of the target already"), "{moved:?}");
    let mut other = secret(OLD);
    other["data"]["PGPASSWORD"] = "c2VjcmV0".into();
    let differs = check(&other).expect_err("another password");
    assert!(differs.problem.ends_with("those of the source in PGPASSWORD"), "{differs:?}");
    let mut lacking = secret(OLD);
    lacking["data"].as_object_mut().expect("data").remove("DATABASE_URL");
    let lacks = check(&lacking).expect_err("a key is missing");
    assert!(lacks.problem.ends_with("those of the source in DATABASE_URL"), "{lacks:?}");
    let mut immutable = secret(OLD);
    immutable["immutable"] = true.into();
    assert!(check(&immutable).expect_err("immutable").problem.contains("immutable"));
    let same = values::check(&what(), &secret(OLD), (Side::Source, &old), (Side::Target, &old));
    assert!(same.expect_err("nothing to change").problem.contains("are the same"));
}

#[test]
fn a_key_that_a_side_lacks_is_named_with_the_secret_that_lacks_it() {
    let keys = [SecretKey { name: "DATABASE_URL".into(), from: "jdbc-uri".into() }];
    let trouble = Values::of(&what(), &from(OLD), &keys).expect_err("no such key");
    assert!(trouble.problem.contains("secret shop/shop-db has no key jdbc-uri"), "{trouble:?}");
    Values::of(&what(), &json!({ "metadata": {} }), &keys).expect_err("no data at all");
}

#[test]
fn values_that_were_changed_back_are_told_with_who_did_it() {
    let mut back = retargeted(&secret(OLD), 7);
    back["data"]["DATABASE_URL"] = OLD.into();
    back["metadata"]["managedFields"] = json!([{ "manager": "argocd-controller", "time": AT,
        "fieldsV1": { "f:data": { "f:DATABASE_URL": {} } } }]);
    let (_, note) = resumed(&back, 7);
    assert!(note.contains("of the target in DATABASE_URL, changed by argocd-controller at 2026"), "{note}");
    assert!(note.contains("the field manager argocd-controller sets data.DATABASE_URL"), "{note}");
    assert_eq!(resumed(&back, 8).1, "", "an earlier operation's is nobody's business now");
}

#[test]
fn nothing_that_can_be_printed_has_a_value_in_it() {
    let (old, new) = (values("aHVudGVyMg=="), values(NEW));
    let mut object = secret(OLD);
    object["data"]["PGPASSWORD"] = "aHVudGVyMg==".into();
    let refused =
        values::check(&what(), &object, (Side::Source, &old), (Side::Target, &new)).expect_err("differs");
    let noted = values::retarget(&what(), &object, 7, Side::Source, (Side::Target, &new))
        .expect("a plan")
        .expect("one");
    let printed = format!("{old:?} {new:?} {refused:?} {}", noted.note);
    assert!(!printed.contains("hunter2") && !printed.contains("aHVudGVyMg"), "{printed}");
    assert!(printed.contains("PGPASSWORD"), "{printed}");
}

#[test]
fn a_workload_is_restarted_once_for_a_step_of_an_operation() {
    let web = workload(Resource::Deployment);
    let object = json!({ "metadata": {}, "spec": { "template": { "metadata": { "annotations": { "kept": "yes" } } } } });
    let first = after(&object, restart::plan(Step::Retarget, &web, &object, ("7-abc", 1), AT));
    let annotations = &first["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(
        *annotations,
        json!({ "kept": "yes", "kubectl.kubernetes.io/restartedAt": AT, "pgsluice.io/restarted-for": "7-abc-retarget" })
    );
    assert_eq!(restart::plan(Step::Retarget, &web, &first, ("7-abc", 1), "later"), None);
    for (step, operation) in [(Step::Undo, "7-abc"), (Step::Retarget, "8-abc"), (Step::Retarget, "7-def")] {
        let again = after(&first, restart::plan(step, &web, &first, (operation, 1), "later"));
        assert_eq!(
            again["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"],
            "later"
        );
    }
    assert!(
        restart::was_for(&first, Step::Retarget, "7-abc")
            && !restart::was_for(&first, Step::Retarget, "7-def")
    );
}

#[test]
fn a_workload_is_restarted_as_often_as_the_secret_was_led() {
    let web = workload(Resource::Deployment);
    let mut object = json!({ "metadata": {}, "spec": {} });
    for times in [1, 2, 11] {
        object = after(&object, restart::plan(Step::Retarget, &web, &object, ("7-abc", times), AT));
        for done in 1..=times {
            assert_eq!(
                restart::plan(Step::Retarget, &web, &object, ("7-abc", done), "later"),
                None,
                "{done}"
            );
        }
        assert!(restart::was_for(&object, Step::Retarget, "7-abc"));
    }
    let mark = &object["spec"]["template"]["metadata"]["annotations"]["pgsluice.io/restarted-for"];
    assert_eq!(mark, "7-abc-retarget-11");
    assert!(
        !restart::was_for(&object, Step::Retarget, "7-ab") && !restart::was_for(&object, Step::Undo, "7-abc")
    );
}

#[test]
fn a_secret_that_was_put_back_is_led_again_and_who_did_it_is_told() {
    let mut object = retargeted(&secret(OLD), 7);
    for times in 1..3 {
        assert_eq!(values::times_led(&object, 7).expect("ours"), times);
        assert_eq!(values::times_led(&object, 8).expect("another's"), 0);
        object["data"]["PGPASSWORD"] = OLD.into();
        object["metadata"]["managedFields"] = json!([{ "manager": "kubectl-edit", "time": AT,
            "fieldsV1": { "f:data": { "f:PGPASSWORD": {} } } }]);
        let values = values(NEW);
        let change = values::retarget(&what(), &object, 7, Side::Source, (Side::Target, &values));
        let change = change.expect("a plan").expect("a change");
        assert!(
            change.note.contains("again by PGPASSWORD, changed in between by kubectl-edit"),
            "{}",
            change.note
        );
        object = after(&object, Some(change));
        assert_eq!(object["data"], secret(NEW)["data"]);
    }
    let other = retargeted(&object, 8);
    assert_eq!(other, object, "nothing to be done for another operation");
}

#[test]
fn a_workload_whose_pods_would_stay_is_refused() {
    let (deployment, stateful) = (workload(Resource::Deployment), workload(Resource::StatefulSet));
    restart::check(&deployment, &json!({ "spec": { "paused": false } })).expect("goes on");
    let paused = restart::check(&deployment, &json!({ "spec": { "paused": true } })).expect_err("paused");
    assert!(paused.remedy.contains("kubectl rollout resume deployment/web -n shop"), "{paused:?}");
    for strategy in [
        json!({ "type": "OnDelete" }),
        json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 1 } }),
    ] {
        restart::check(&stateful, &json!({ "spec": { "updateStrategy": strategy } }))
            .expect_err("old pods stay");
    }
    let whole = json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } });
    restart::check(&stateful, &json!({ "spec": { "updateStrategy": whole } })).expect("all pods");
}

#[test]
fn a_rollout_is_complete_when_every_pod_is_new_and_available() {
    let status = |updated: u64, replicas: u64, available: u64| {
        restart::rollout(&json!({ "metadata": { "generation": 4 }, "spec": { "replicas": 3 }, "status": {
            "observedGeneration": 4, "updatedReplicas": updated, "replicas": replicas, "availableReplicas": available } }))
    };
    assert_eq!(status(3, 3, 3), Rollout::Complete);
    assert_eq!(status(1, 4, 3), Rollout::Incomplete("1 of 3 pods are new".into()));
    assert_eq!(status(3, 4, 3), Rollout::Incomplete("old pods that have not ended: 1".into()));
    assert_eq!(status(3, 3, 2), Rollout::Incomplete("2 of 3 new pods are available".into()));
    let unseen = json!({ "metadata": { "generation": 4 }, "spec": { "replicas": 0 }, "status": { "observedGeneration": 3 } });
    assert!(matches!(restart::rollout(&unseen), Rollout::Incomplete(_)));
    let idle = json!({ "metadata": { "generation": 4 }, "spec": { "replicas": 0 }, "status": { "observedGeneration": 4 } });
    assert_eq!(restart::rollout(&idle), Rollout::Complete);
    let stuck = json!({ "metadata": { "generation": 4 }, "spec": { "replicas": 3 }, "status": { "observedGeneration": 4,
        "conditions": [{ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" }] } });
    assert!(matches!(restart::rollout(&stuck), Rollout::Failed(_)));
}
