use serde_json::json;

use super::*;
use crate::kubernetes::Resource;

fn what() -> ResourceName {
    ResourceName { resource: Resource::Deployment, namespace: "shop".into(), name: "web".into() }
}

fn replicas() -> [Field; 1] {
    [Field::of(&["spec", "replicas"])]
}

/// An entry of `managedFields` that owns `spec.replicas`.
fn sets_replicas(manager: &str, time: &str) -> Value {
    json!({ "manager": manager, "operation": "Apply", "time": time, "fieldsType": "FieldsV1",
            "fieldsV1": { "f:spec": { "f:replicas": {}, "f:template": {} } } })
}

fn object(labels: Value, annotations: Value, managed: &[Value]) -> Value {
    json!({ "metadata": { "name": "web", "labels": labels, "annotations": annotations, "managedFields": managed } })
}

fn only(object: &Value) -> String {
    let notes = keepers(&what(), object, &replicas());
    assert_eq!(notes.len(), 1, "{notes:?}");
    notes.concat()
}

#[test]
fn an_application_of_argo_cd_is_named_by_its_annotation_or_label_with_what_suspends_it() {
    let id = "argocd.argoproj.io/tracking-id";
    for (labels, annotations, name) in [
        (json!({}), json!({ id: "shop:apps/Deployment:shop/web" }), "shop"),
        (json!({}), json!({ id: "teams_shop:apps/Deployment:shop/web" }), "teams/shop"),
        (json!({ "argocd.argoproj.io/instance": "shop" }), json!({}), "shop"),
    ] {
        let note = only(&object(labels, annotations, &[]));
        assert!(note.contains("deployment shop/web is kept by the Argo CD application"), "{note}");
        assert!(note.contains("if it sets spec.replicas"), "{note}");
        assert!(note.contains(&format!("argocd app set {name} --sync-policy none")), "{note}");
    }
}

/// As Argo CD itself takes it: a copy of an object has the annotation of the other one.
#[test]
fn an_annotation_that_was_copied_from_another_object_names_nobody() {
    for id in ["shop:apps/Deployment:shop/api", "shop", ":apps/Deployment:shop/web", ""] {
        let object = object(json!({}), json!({ "argocd.argoproj.io/tracking-id": id }), &[]);
        assert_eq!(keepers(&what(), &object, &replicas()), Vec::<String>::new(), "{id}");
    }
}

#[test]
fn flux_is_named_by_its_labels_with_what_suspends_it() {
    for (kind, command) in [("kustomize", "kustomization"), ("helm", "helmrelease")] {
        let label = |end: &str| format!("{kind}.toolkit.fluxcd.io/{end}");
        let labels = json!({ label("name"): "apps", label("namespace"): "flux-system" });
        let note = only(&object(labels, json!({}), &[]));
        assert!(note.contains("flux-system/apps"), "{note}");
        assert!(note.ends_with(&format!("flux suspend {command} apps -n flux-system")), "{note}");
        // One of the two labels is no mark of Flux.
        let half = object(json!({ label("name"): "apps" }), json!({}), &[]);
        assert_eq!(keepers(&what(), &half, &replicas()), Vec::<String>::new());
    }
}

#[test]
fn a_keeper_that_sets_the_very_field_is_told_apart_from_one_that_sets_others() {
    let labels = json!({ "kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system" });
    let sets =
        object(labels.clone(), json!({}), &[sets_replicas("kustomize-controller", "2026-11-30T03:00:00Z")]);
    assert!(only(&sets).contains("which sets spec.replicas and may undo"), "{}", only(&sets));
    let mut others = sets_replicas("kustomize-controller", "2026-11-30T03:00:00Z");
    others["fieldsV1"] = json!({ "f:spec": { "f:template": {} }, "f:status": { "f:replicas": {} } });
    let others = object(labels, json!({}), &[others]);
    assert!(only(&others).contains("may undo this change if it sets spec.replicas"), "{}", only(&others));
}

#[test]
fn a_manager_without_marks_is_named_only_if_it_sets_the_field() {
    for manager in
        ["argocd-controller", "argocd-application-controller", "kustomize-controller", "helm-controller"]
    {
        let note = only(&object(json!({}), json!({}), &[sets_replicas(manager, "2026-11-30T03:00:00Z")]));
        assert!(note.contains(manager) && note.contains("spec.replicas"), "{note}");
        let mut other = sets_replicas(manager, "2026-11-30T03:00:00Z");
        other["fieldsV1"] = json!({ "f:spec": { "f:paused": {} } });
        let other = object(json!({}), json!({}), &[other]);
        assert_eq!(keepers(&what(), &other, &replicas()), Vec::<String>::new());
    }
    // Nobody who does it again by itself.
    let person =
        object(json!({}), json!({}), &[sets_replicas("kubectl-client-side-apply", "2026-11-30T03:00:00Z")]);
    assert_eq!(keepers(&what(), &person, &replicas()), Vec::<String>::new());
}

#[test]
fn the_owner_is_named_if_its_controller_made_the_object() {
    let mut object = object(json!({}), json!({}), &[]);
    object["metadata"]["ownerReferences"] = json!([
        { "kind": "Project", "name": "shop" },
        { "kind": "ExternalSecret", "name": "shop-db", "controller": true },
    ]);
    assert!(only(&object).contains("belongs to ExternalSecret shop-db"), "{}", only(&object));
    object["metadata"]["ownerReferences"] = json!([{ "kind": "Project", "name": "shop" }]);
    assert_eq!(keepers(&what(), &object, &replicas()), Vec::<String>::new());
}

#[test]
fn who_changed_a_field_back_is_the_manager_with_the_latest_time_other_than_pgsluice() {
    let object = object(
        json!({}),
        json!({}),
        &[
            sets_replicas("kubectl-scale", "2026-11-30T03:00:00Z"),
            sets_replicas("argocd-controller", "2026-11-30T03:00:07Z"),
            sets_replicas("helm", "2026-11-29T23:00:00Z"),
            sets_replicas(FIELD_MANAGER, "2026-11-30T03:00:09Z"),
        ],
    );
    assert_eq!(changed_by(&object, &replicas()), "argocd-controller at 2026-11-30T03:00:07Z");
    assert_eq!(changed_by(&object, &[Field::of(&["spec", "selector"])]), "somebody");
    assert_eq!(changed_by(&json!({}), &replicas()), "somebody");
}

#[test]
fn a_change_through_a_subresource_is_told_as_such() {
    let mut entry = sets_replicas("kube-controller-manager", "2026-11-30T03:00:00Z");
    entry["subresource"] = "scale".into();
    let object = object(json!({}), json!({}), &[entry]);
    let who = changed_by(&object, &replicas());
    assert_eq!(who, "kube-controller-manager (subresource scale) at 2026-11-30T03:00:00Z");
}

/// Names of keys may have dots.
#[test]
fn a_key_of_a_secret_is_one_name() {
    let entry = json!({ "manager": "argocd-controller", "fieldsV1": { "f:data": { "f:db.url": {} } } });
    let object = object(json!({}), json!({}), &[entry]);
    assert_eq!(keepers(&what(), &object, &[Field::of(&["data", "db.url"])]).len(), 1);
    assert_eq!(keepers(&what(), &object, &[Field::of(&["data", "db", "url"])]).len(), 0);
}

#[test]
fn an_autoscaler_is_named_and_one_that_scales_from_zero_refused() {
    let autoscaler = |kind: &str, name: &str, least: u32| {
        json!({ "metadata": { "name": "load" }, "spec": {
            "minReplicas": least, "scaleTargetRef": { "kind": kind, "name": name } } })
    };
    assert_eq!(autoscaled(&what(), &[autoscaler("StatefulSet", "web", 0)]).expect("another"), None);
    assert_eq!(autoscaled(&what(), &[autoscaler("Deployment", "api", 0)]).expect("another"), None);
    let rests = autoscaled(&what(), &[autoscaler("Deployment", "web", 2)]).expect("allowed").expect("a note");
    assert!(rests.contains("load"), "{rests}");
    let refused = autoscaled(&what(), &[autoscaler("Deployment", "web", 0)]).expect_err("refused");
    assert!(refused.remedy.contains("minReplicas"), "{refused:?}");
}

#[test]
fn an_autoscaler_of_keda_is_refused_with_the_annotation_that_pauses_it() {
    let autoscaler = json!({
        "metadata": { "name": "keda-hpa-web", "ownerReferences": [{ "kind": "ScaledObject", "name": "web-queue", "controller": true }] },
        "spec": { "minReplicas": 1, "scaleTargetRef": { "kind": "Deployment", "name": "web" } } });
    let refused = autoscaled(&what(), &[autoscaler]).expect_err("refused");
    assert!(refused.problem.contains("ScaledObject web-queue"), "{refused:?}");
    assert!(
        refused
            .remedy
            .contains("kubectl annotate scaledobject web-queue -n shop autoscaling.keda.sh/paused=true"),
        "{refused:?}"
    );
}
