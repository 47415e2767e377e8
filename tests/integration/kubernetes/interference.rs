//! Others that keep the same objects: named while there is time, and named again if they have changed something back.

use super::metrics::{PodsDouble, address};
use super::*;
use crate::harness::wait::until;

const SCALE: &str = "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web']\nKUBECONFIG\n";
const SERVICE: &str = "[[traffic]]\nadapter = 'kubernetes-service'\nservice = 'shop-db'\nsource_selector = ['app=old']\n\
    target_selector = ['app=new']\nKUBECONFIG\n";
const SECRET: &str = "[[traffic]]\nadapter = 'kubernetes-secret'\nsecret = 'shop-db'\nsource_from = 'shop-db-source'\n\
    target_from = 'shop-app'\nkeys = ['uri']\nKUBECONFIG\n";

async fn scene() -> ApiDouble {
    let api = ApiDouble::start().await;
    api.put("deployments", workload("web", 3));
    api.put(
        "services",
        json!({ "metadata": { "name": "shop-db" },
                "spec": { "type": "ClusterIP", "selector": { "app": "old" }, "ports": [{ "port": 5432 }] } }),
    );
    for (name, value) in [("shop-db", "b2xk"), ("shop-db-source", "b2xk"), ("shop-app", "bmV3")] {
        api.put("secrets", json!({ "metadata": { "name": name }, "data": { "uri": value } }));
    }
    api
}

/// As somebody changes it who is taken down for it.
fn change_as(api: &ApiDouble, manager: &str, resource: &str, name: &str, change: Value, fields: Value) {
    let entry = json!({ "manager": manager, "operation": "Update", "time": "2026-11-30T03:00:00Z", "fieldsV1": fields });
    api.change(resource, name, &json!({ "metadata": { "managedFields": [entry] } }));
    api.change(resource, name, &change);
}

#[tokio::test]
async fn each_adapter_names_what_may_undo_its_change_before_anybody_waits() {
    let api = scene().await;
    let pods = PodsDouble::start(1).await;
    pods.tell(0, 0, 0);
    api.put(
        "poolers",
        json!({ "metadata": { "name": "shop-pooler" }, "spec": { "instances": 1, "pgbouncer": { "poolMode": "transaction" } } }),
    );
    api.put(
        "pods",
        json!({ "metadata": { "name": "shop-pooler-0", "labels": { "cnpg.io/poolerName": "shop-pooler" } },
                "status": { "phase": "Running", "podIP": address(0) } }),
    );
    let pooler = format!(
        "[[traffic]]\nadapter = 'cnpg-pooler'\npooler = 'shop-pooler'\nmetrics_port = {}\nKUBECONFIG\n",
        pods.port
    );
    let objects = [
        (
            "deployments",
            "web",
            "Deployment",
            SCALE,
            "spec.replicas",
            json!({ "f:spec": { "f:replicas": {} } }),
        ),
        (
            "services",
            "shop-db",
            "Service",
            SERVICE,
            "spec.selector",
            json!({ "f:spec": { "f:selector": {} } }),
        ),
        ("secrets", "shop-db", "Secret", SECRET, "data.uri", json!({ "f:data": { "f:uri": {} } })),
        (
            "poolers",
            "shop-pooler",
            "Pooler",
            pooler.as_str(),
            "spec.pgbouncer.paused",
            json!({ "f:spec": { "f:pgbouncer": { "f:paused": {} } } }),
        ),
    ];
    let context = context(Direction::Forward, 7);
    for (resource, name, kind, entry, field, fields) in objects {
        assert!(!done(&api, entry, Step::Prepare, &context).await.contains("may undo"), "{name}");
        let id = format!("shop:/{kind}:shop/{name}");
        let marks = json!({ "metadata": { "annotations": { "argocd.argoproj.io/tracking-id": id } } });
        change_as(&api, "argocd-controller", resource, name, marks, fields);
        let said = done(&api, entry, Step::Prepare, &context).await;
        assert!(
            said.contains(&format!(
                "shop/{name} is kept by the Argo CD application shop, which sets {field}"
            )),
            "{said}"
        );
        assert!(said.contains("argocd app set shop --sync-policy none"), "{said}");
    }
}

#[tokio::test]
async fn an_autoscaler_of_keda_is_refused_with_what_pauses_it() {
    let api = scene().await;
    api.put(
        "horizontalpodautoscalers",
        json!({ "metadata": { "name": "keda-hpa-web", "ownerReferences": [{ "kind": "ScaledObject", "name": "web" }] },
                "spec": { "minReplicas": 1, "scaleTargetRef": { "kind": "Deployment", "name": "web" } } }),
    );
    let refused = step(&api, SCALE, Step::Prepare, &context(Direction::Forward, 7))
        .await
        .expect_err("it scales from zero");
    assert!(refused.remedy.contains("autoscaling.keda.sh/paused=true"), "{refused:?}");
}

#[tokio::test]
async fn who_brings_a_workload_back_in_the_middle_of_the_pause_is_named_and_has_their_way() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    done(&api, SCALE, Step::Pause, &context).await;
    assert_eq!(done(&api, SCALE, Step::Retarget, &context).await, "");
    let fields = json!({ "f:spec": { "f:replicas": {} } });
    change_as(
        &api,
        "kustomize-controller",
        "deployments",
        "web",
        json!({ "spec": { "replicas": 2 } }),
        fields,
    );
    let said = done(&api, SCALE, Step::Retarget, &context).await;
    assert!(
        said.contains("was scaled to 2 in the middle of the pause, by kustomize-controller at 2026"),
        "{said}"
    );
    let said = done(&api, SCALE, Step::Resume, &context).await;
    assert!(said.contains("stays at 2: it was scaled since, by kustomize-controller"), "{said}");
    assert_eq!(api.get("deployments", "web")["spec"]["replicas"], 2);
}

/// Before the commit nobody need live with it: the cutover ends, and says by whom.
#[tokio::test]
async fn who_scales_a_workload_up_while_its_pods_are_waited_for_is_named_in_the_error() {
    let api = scene().await;
    api.let_pods_linger();
    let entry = format!("{SCALE}timeout_ms = 1500\n");
    let context = context(Direction::Forward, 7);
    let pause = {
        let traffic = traffic(&api, &entry);
        let context = context.clone();
        tokio::spawn(async move { traffic.perform(Step::Pause, &context).await })
    };
    until("a look at the pods", || async { api.requests().iter().any(|asked| asked.resource == "pods") })
        .await;
    let fields = json!({ "f:spec": { "f:replicas": {} } });
    change_as(&api, "keda-operator", "deployments", "web", json!({ "spec": { "replicas": 1 } }), fields);
    let late = pause.await.expect("no panic").expect_err("its pods do not end");
    assert!(
        late.problem.contains("deployment shop/web was scaled up again, by keda-operator at 2026"),
        "{late}"
    );
}

#[tokio::test]
async fn who_leads_a_service_back_to_the_closed_side_is_named_and_it_is_led_there_once_more() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    done(&api, SERVICE, Step::Retarget, &context).await;
    let fields = json!({ "f:spec": { "f:selector": {} } });
    let back = json!({ "spec": { "selector": { "app": "old" } } });
    change_as(&api, "argocd-controller", "services", "shop-db", back, fields.clone());
    let said = done(&api, SERVICE, Step::Resume, &context).await;
    assert!(
        said.contains("was led back to app=old, which is closed, by argocd-controller at 2026"),
        "{said}"
    );
    assert!(said.contains("may undo this change"), "{said}");
    assert_eq!(api.get("services", "shop-db")["spec"]["selector"], json!({ "app": "new" }));
    // By now it is not ours any more: what is changed after the end is somebody's wish.
    let back = json!({ "spec": { "selector": { "app": "old" } } });
    change_as(&api, "argocd-controller", "services", "shop-db", back, fields);
    assert_eq!(done(&api, SERVICE, Step::Resume, &context).await, "");
}

#[tokio::test]
async fn who_changes_a_secret_back_is_named_with_the_keys() {
    let api = scene().await;
    let context = context(Direction::Forward, 7);
    done(&api, SECRET, Step::Retarget, &context).await;
    let fields = json!({ "f:data": { "f:uri": {} } });
    change_as(&api, "external-secrets", "secrets", "shop-db", json!({ "data": { "uri": "b2xk" } }), fields);
    let said = done(&api, SECRET, Step::Resume, &context).await;
    assert!(
        said.contains("no longer has the values of the target in uri, changed by external-secrets at 2026"),
        "{said}"
    );
    assert!(!said.contains("b2xk"), "{said}");
}
