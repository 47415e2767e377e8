//! The whole program with all four adapters, between real servers and beside the doubles: there by a cutover, back by a rollback.

use super::metrics::{PodsDouble, address};
use super::*;
use crate::harness::stage::{Pair, Stage, ask, cut_over, end_of, roll_back, streaming, way_back_is_open};
use pgsluice::control::dto::CutoverModeRecord;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cutover_and_a_rollback_move_everything_there_and_back_and_say_so_in_the_journal() {
    let (api, pods) = (ApiDouble::start().await, PodsDouble::start(1).await);
    pods.tell(0, 0, 0);
    api.put(
        "services",
        json!({ "metadata": { "name": "shop-db" }, "spec": {
        "type": "ExternalName", "externalName": "old.example.com", "ports": [{ "port": 5432 }] } }),
    );
    let mut web = workload("web", 3);
    web["metadata"]["labels"] = json!({ "kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system" });
    api.put("deployments", web);
    api.put(
        "poolers",
        json!({ "metadata": { "name": "shop-pooler" }, "spec": {
        "instances": 1, "pgbouncer": { "poolMode": "transaction", "paused": true } } }),
    );
    api.put(
        "pods",
        json!({
        "metadata": { "name": "shop-pooler-0", "labels": { "cnpg.io/poolerName": "shop-pooler" } },
        "status": { "phase": "Running", "podIP": address(0) } }),
    );
    put_secrets(&api);
    let entries = format!(
        "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web']\nKUBECONFIG\n\
         [[traffic]]\nadapter = 'kubernetes-service'\nservice = 'shop-db'\nsource_external_name = 'old.example.com'\n\
         target_selector = ['cnpg.io/poolerName=shop-pooler']\nKUBECONFIG\n\
         [[traffic]]\nadapter = 'kubernetes-secret'\nsecret = 'shop-db'\nsource_from = 'shop-db-source'\n\
         target_from = 'shop-app'\nkeys = ['PGPASSWORD=password']\nrestart = ['deployment/reports']\nKUBECONFIG\n\
         [[traffic]]\nadapter = 'cnpg-pooler'\npooler = 'shop-pooler'\nmetrics_port = {}\nKUBECONFIG\n",
        pods.port
    );
    let entries = entries.replace("KUBECONFIG", &format!("kubeconfig = {:?}", api.kubeconfig()));
    let stage = Stage::new(Pair::of(14, 17)).await;
    let source = stage.source_client().await;
    source
        .batch_execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
        .await
        .expect("SQL");
    let mut replicator = stage.streaming_with(&entries).await;
    // What a cutover would refuse does not end a rehearsal.
    api.change("services", "shop-db", &json!({ "spec": { "externalName": "elsewhere.example.com" } }));
    let look = || {
        let service = api.get("services", "shop-db")["spec"].clone();
        let paused = api.get("poolers", "shop-pooler")["spec"]["pgbouncer"]["paused"].clone();
        let password = api.get("secrets", "shop-db")["data"]["PGPASSWORD"].clone();
        let replicas = api.get("deployments", "web")["spec"]["replicas"].clone();
        (service["externalName"].clone(), replicas, paused, password)
    };

    let before = look();
    let accepted = ask(&replicator, CutoverModeRecord::Rehearsal, 20_000).await;
    let rehearsed = end_of(&mut replicator, &accepted).await;
    assert_eq!(rehearsed.outcome, "completed", "{rehearsed:#?}");
    assert_eq!(look(), before);
    let armed = rehearsed.steps.iter().find(|step| step.name == "arm").and_then(|step| step.detail.clone());
    let armed = armed.unwrap_or_default();
    assert!(armed.contains("secret shop/shop-db has the values of the source"), "{armed}");
    assert!(
        armed.contains("deployment shop/web is kept by Flux's Kustomization flux-system/shop"),
        "{armed}"
    );
    assert!(
        armed.contains("a cutover would end here: the traffic adapter kubernetes-service shop-db"),
        "{armed}"
    );
    api.change("services", "shop-db", &json!({ "spec": { "externalName": "old.example.com" } }));

    let moved = cut_over(&mut replicator).await;
    assert_eq!(look(), (Value::Null, json!(3), json!(false), json!(NEW)));
    let detail = |record: &pgsluice::control::dto::CutoverRecord, name: &str| {
        let step = record.steps.iter().find(|step| step.name == name).expect("the step");
        step.detail.clone().unwrap_or_default()
    };
    assert_eq!(detail(&moved, "pause_traffic"), "deployment shop/web 3 → 0");
    assert!(detail(&moved, "retarget_traffic").contains("old.example.com → cnpg.io/poolerName=shop-pooler"));
    assert!(detail(&moved, "resume_traffic").contains("deployment shop/web 0 → 3"));
    let certificate = moved.certificate.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(certificate.contains("deployment shop/web 3 → 0"), "{certificate}");
    assert!(certificate.contains("secret shop/shop-db leads to the target by PGPASSWORD"), "{certificate}");
    assert!(certificate.contains("deployment shop/reports restarted"), "{certificate}");
    way_back_is_open(&mut replicator).await;
    let back = roll_back(&mut replicator).await;
    assert!(detail(&back, "resume_traffic").contains("stays paused"), "{back:#?}");
    assert_eq!(look(), (json!("old.example.com"), json!(3), json!(true), json!(OLD)));
    streaming(&mut replicator).await;
    let log = replicator.log();
    assert!(!log.contains("ERROR") && !log.contains("t0ken"), "{log}");
    let seen = format!("{log} {moved:?} {back:?}");
    for value in [OLD, NEW, "-hunter"] {
        assert!(!seen.contains(value), "{value} is in {seen}");
    }
}

/// Base64 of `old-hunter` and `new-hunter`, as an API server shows them.
const OLD: &str = "b2xkLWh1bnRlcg==";
const NEW: &str = "bmV3LWh1bnRlcg==";

fn put_secrets(api: &ApiDouble) {
    api.put("deployments", workload("reports", 1));
    for (name, key, value) in
        [("shop-db", "PGPASSWORD", OLD), ("shop-db-source", "password", OLD), ("shop-app", "password", NEW)]
    {
        api.put("secrets", json!({ "metadata": { "name": name }, "data": { key: value } }));
    }
}
