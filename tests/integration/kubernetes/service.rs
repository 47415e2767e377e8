//! `kubernetes-service`: led to the other side by what it selects or by another name, and back.

use super::*;

const KEYS: &str = "[[traffic]]\nadapter = 'kubernetes-service'\nservice = 'shop-db'\nKUBECONFIG\n";
const OLD_PODS: &str = "source_selector = ['app=postgres', 'role=master']\n";
const NEW_PODS: &str = "target_selector = ['cnpg.io/cluster=shop', 'role=primary']\n";
const NEW_NAME: &str = "target_external_name = 'shop-rw.shop.svc'\n";

async fn scene() -> ApiDouble {
    let api = ApiDouble::start().await;
    api.put("services", json!({ "metadata": { "name": "shop-db" }, "spec": {
        "type": "ClusterIP", "selector": { "app": "postgres", "role": "master" }, "ports": [{ "port": 5432 }],
        "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack" } }));
    api
}

fn entry(keys: &[&str]) -> String {
    [&[KEYS], keys].concat().concat()
}

fn annotations_are_gone(api: &ApiDouble) -> bool {
    let annotations = api.get("services", "shop-db")["metadata"]["annotations"].clone();
    annotations.as_object().is_none_or(serde_json::Map::is_empty)
}

#[tokio::test]
async fn it_selects_the_targets_pods_after_a_cutover_and_the_sources_after_a_rollback() {
    let api = scene().await;
    let entry = entry(&[OLD_PODS, NEW_PODS]);
    let (before, _) = api.spec_and_annotations("services", "shop-db");
    let forward = context(Direction::Forward, 7);
    for step in [Step::Prepare, Step::Pause] {
        done(&api, &entry, step, &forward).await;
        assert_eq!(api.get("services", "shop-db")["spec"], before, "{step:?} changes nothing");
    }
    let said = done(&api, &entry, Step::Retarget, &forward).await;
    assert_eq!(said, "service shop/shop-db app=postgres,role=master → cnpg.io/cluster=shop,role=primary");
    done(&api, &entry, Step::Resume, &forward).await;
    let spec = api.get("services", "shop-db")["spec"].clone();
    assert_eq!(spec["selector"], json!({ "cnpg.io/cluster": "shop", "role": "primary" }));
    assert_eq!(spec["clusterIP"], "10.0.0.9");
    assert!(annotations_are_gone(&api));
    for step in FORWARD {
        done(&api, &entry, step, &context(Direction::Back, 8)).await;
    }
    assert_eq!(api.get("services", "shop-db")["spec"], before);
}

#[tokio::test]
async fn it_becomes_another_name_and_gets_an_address_again_on_the_way_back() {
    let api = scene().await;
    let entry = entry(&[OLD_PODS, NEW_NAME]);
    for step in FORWARD {
        done(&api, &entry, step, &context(Direction::Forward, 7)).await;
    }
    let spec = api.get("services", "shop-db")["spec"].clone();
    assert_eq!(
        spec,
        json!({ "type": "ExternalName", "externalName": "shop-rw.shop.svc", "ports": [{ "port": 5432 }] })
    );
    for step in FORWARD {
        done(&api, &entry, step, &context(Direction::Back, 8)).await;
    }
    let spec = api.get("services", "shop-db")["spec"].clone();
    assert_eq!(spec["selector"], json!({ "app": "postgres", "role": "master" }));
    assert_eq!((&spec["type"], &spec["externalName"]), (&json!("ClusterIP"), &Value::Null));
    assert!(spec["clusterIP"].is_string());
}

#[tokio::test]
async fn every_step_done_twice_is_done_once() {
    let api = scene().await;
    let (entry, context) = (entry(&[OLD_PODS, NEW_NAME]), context(Direction::Forward, 7));
    for step in [Step::Pause, Step::Retarget, Step::Resume] {
        done(&api, &entry, step, &context).await;
        let version = api.get("services", "shop-db")["metadata"]["resourceVersion"].clone();
        assert_eq!(done(&api, &entry, step, &context).await, "");
        assert_eq!(api.get("services", "shop-db")["metadata"]["resourceVersion"], version, "{step:?}");
    }
}

#[tokio::test]
async fn undo_leads_it_back_from_wherever_the_operation_came() {
    for new in [NEW_PODS, NEW_NAME] {
        for steps in 0..FORWARD.len() {
            let api = scene().await;
            let (entry, context) = (entry(&[OLD_PODS, new]), context(Direction::Forward, 7));
            for step in &FORWARD[..steps] {
                done(&api, &entry, *step, &context).await;
            }
            for _ in 0..2 {
                done(&api, &entry, Step::Undo, &context).await;
            }
            let spec = api.get("services", "shop-db")["spec"].clone();
            assert_eq!(spec["selector"], json!({ "app": "postgres", "role": "master" }));
            assert_eq!(spec["type"], "ClusterIP");
            assert!(annotations_are_gone(&api));
        }
    }
}

#[tokio::test]
async fn a_change_by_somebody_else_in_the_same_moment_is_seen_and_kept() {
    let api = scene().await;
    let (entry, context) = (entry(&[OLD_PODS, NEW_PODS]), context(Direction::Forward, 7));
    api.change_meanwhile(
        "services",
        "shop-db",
        json!({ "spec": { "selector": { "zone": "a" }, "sessionAffinity": "ClientIP" } }),
    );
    done(&api, &entry, Step::Retarget, &context).await;
    let spec = api.get("services", "shop-db")["spec"].clone();
    assert_eq!(spec["sessionAffinity"], "ClientIP");
    // A label that came in between would have kept every client away from the target.
    assert_eq!(spec["selector"], json!({ "cnpg.io/cluster": "shop", "role": "primary" }));
}

#[tokio::test]
async fn a_service_whose_endpoints_somebody_else_keeps_is_refused_unless_that_is_said() {
    let api = scene().await;
    api.change("services", "shop-db", &json!({ "spec": { "selector": null } }));
    let context = context(Direction::Forward, 7);
    let refused =
        step(&api, &entry(&[OLD_PODS, NEW_NAME]), Step::Prepare, &context).await.expect_err("no selector");
    assert!(refused.problem.contains("endpoints that somebody else keeps"), "{refused}");
    assert!(refused.remedy.contains("Patroni"), "{refused:?}");
    let entry = entry(&["source_selector = []\n", NEW_NAME]);
    for step in FORWARD {
        done(&api, &entry, step, &context).await;
    }
    assert_eq!(api.get("services", "shop-db")["spec"]["externalName"], "shop-rw.shop.svc");
    for step in FORWARD {
        done(&api, &entry, step, &self::context(Direction::Back, 8)).await;
    }
    assert_eq!(api.get("services", "shop-db")["spec"]["selector"], Value::Null);
}

#[tokio::test]
async fn what_the_api_server_would_refuse_is_noticed_before_anybody_waits() {
    let api = ApiDouble::start().await;
    api.put(
        "services",
        json!({ "metadata": { "name": "shop-db" }, "spec": {
        "type": "ExternalName", "externalName": "old.example.com" } }),
    );
    let entry = entry(&["source_external_name = 'old.example.com'\n", NEW_PODS]);
    let refused =
        step(&api, &entry, Step::Prepare, &context(Direction::Forward, 7)).await.expect_err("no ports");
    assert!(refused.problem.contains("422") && refused.problem.contains("spec.ports"), "{refused}");
    assert_eq!(api.get("services", "shop-db")["spec"]["type"], "ExternalName");
    let moved = context(Direction::Back, 7);
    let refused = step(&api, &entry, Step::Prepare, &moved).await.expect_err("it leads there already");
    assert!(refused.problem.contains("old.example.com already"), "{refused}");
}

#[tokio::test]
async fn one_that_is_gone_is_told_at_retarget_and_not_waited_for_afterwards() {
    let api = scene().await;
    let (entry, context) = (entry(&[OLD_PODS, NEW_PODS]), context(Direction::Forward, 7));
    done(&api, &entry, Step::Prepare, &context).await;
    api.delete("services", "shop-db");
    let error = step(&api, &entry, Step::Retarget, &context).await.expect_err("clients are not moved");
    assert!(error.problem.contains("there is no service shop/shop-db"), "{error}");
    for last in [Step::Resume, Step::Undo] {
        let said = done(&api, &entry, last, &context).await;
        assert!(said.contains("service shop/shop-db is gone"), "{said}");
    }
}
