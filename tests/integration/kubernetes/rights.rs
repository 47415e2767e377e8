//! What the adapters ask the API server for, and what they say when they may not: the calls that are made, those that the documentation
//! lists for whoever has to allow them, and those that the shipped rules allow are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::documented::{
    Call, allowed_by, call, documented, documented_rules, documented_steps, file, sections_with_calls,
};
use super::metrics::{PodsDouble, address};
use super::*;

const EXAMPLES: [&str; 2] =
    ["deploy/kustomize/statefulset/pgsluice.toml", "deploy/kustomize/rds/pgsluice.toml"];
const ROLE: &str = "deploy/kustomize/components/kubernetes-traffic/role.yaml";
const ROLE_FOR_SECRETS: &str = "deploy/kustomize/components/kubernetes-secret/role.yaml";
const ADAPTERS: [&str; 4] = ["kubernetes-service", "kubernetes-scale", "kubernetes-secret", "cnpg-pooler"];

struct Scene {
    api: ApiDouble,
    entries: String,
}

/// The objects that the shipped rules name, and the adapters of the shipped examples.
async fn scene() -> Scene {
    let (api, pods) = (ApiDouble::start().await, PodsDouble::start(1).await);
    pods.tell(0, 0, 0);
    api.put(
        "services",
        json!({ "metadata": { "name": "shop-db" }, "spec": {
        "type": "ClusterIP", "selector": { "app": "postgres", "role": "master" }, "ports": [{ "port": 5432 }] } }),
    );
    api.put("deployments", workload("web", 2));
    api.put("statefulsets", workload("worker", 1));
    api.put(
        "poolers",
        json!({ "metadata": { "name": "shop-pooler" }, "spec": {
        "instances": 1, "pgbouncer": { "poolMode": "transaction" } } }),
    );
    api.put(
        "pods",
        json!({
        "metadata": { "name": "shop-pooler-0", "labels": { "cnpg.io/poolerName": "shop-pooler" } },
        "status": { "phase": "Running", "podIP": address(0) } }),
    );
    for (name, key, value) in
        [("shop-db", "DATABASE_URL", "b2xk"), ("shop-db-source", "uri", "b2xk"), ("shop-app", "uri", "bmV3")]
    {
        api.put("secrets", json!({ "metadata": { "name": name }, "data": { key: value } }));
    }
    let entries = EXAMPLES.map(|example| {
        let text = file(example);
        let (_, entries) = text.split_once("[[traffic]]").expect("adapters");
        format!("[[traffic]]{entries}\n")
    });
    let entries = entries.concat().replace("[[traffic]]", "[[traffic]]\nKUBECONFIG");
    let pooler = "adapter = \"cnpg-pooler\"\n";
    let entries = entries.replace(pooler, &format!("{pooler}metrics_port = {}\n", pods.port));
    Scene { api, entries }
}

impl Scene {
    /// The entry of one adapter.
    fn entry(&self, adapter: &str) -> String {
        let mut entries = self.entries.split("[[traffic]]").skip(1);
        let named = format!("adapter = \"{adapter}\"");
        let entry = entries.find(|entry| entry.contains(&named)).expect("an entry in an example");
        format!("[[traffic]]{entry}")
    }
}

/// Everything that an adapter asks for there and back, and by an undo, with the steps in which it does.
async fn calls(scene: &Scene, adapter: &str) -> BTreeMap<Call, BTreeSet<String>> {
    const PAUSED_AND_UNDONE: [Step; 3] = [Step::Prepare, Step::Pause, Step::Undo];
    let entry = scene.entry(adapter);
    let mut calls: BTreeMap<Call, BTreeSet<String>> = BTreeMap::new();
    scene.api.requests();
    for (direction, epoch) in [(Direction::Forward, 7), (Direction::Back, 9)] {
        let steps = PAUSED_AND_UNDONE.map(|step| (step, epoch)).into_iter();
        for (step, epoch) in steps.chain(FORWARD.map(|step| (step, epoch + 1))) {
            done(&scene.api, &entry, step, &context(direction, epoch)).await;
            for asked in scene.api.requests() {
                calls.entry(call(&asked)).or_default().insert(step.as_str().to_owned());
            }
        }
        // As a crash between the two steps leaves it.
        for step in [Step::Retarget, Step::Undo] {
            done(&scene.api, &entry, step, &context(reverse(direction), epoch + 10)).await;
            for asked in scene.api.requests() {
                calls.entry(call(&asked)).or_default().insert(step.as_str().to_owned());
            }
        }
    }
    calls
}

const fn reverse(direction: Direction) -> Direction {
    match direction {
        Direction::Forward => Direction::Back,
        Direction::Back => Direction::Forward,
    }
}

#[tokio::test]
async fn each_adapter_asks_for_what_is_documented_in_the_steps_that_are_documented_and_for_nothing_else() {
    for adapter in ADAPTERS {
        let asked = calls(&scene().await, adapter).await;
        assert!(asked.len() > 1, "{adapter}: {asked:#?}");
        assert_eq!(asked, documented_steps(adapter), "{adapter}");
    }
}

#[test]
fn the_rules_of_each_section_allow_what_its_table_says_and_nothing_else() {
    let sections = sections_with_calls();
    assert!(ADAPTERS.iter().all(|adapter| sections.iter().any(|section| section == adapter)), "{sections:?}");
    for section in sections {
        assert_eq!(documented_rules(&section), documented(&section), "{section}");
    }
}

#[test]
fn the_roles_that_are_shipped_allow_what_is_documented_and_nothing_else() {
    let of =
        |adapters: &[&str]| -> BTreeSet<Call> { adapters.iter().flat_map(|each| documented(each)).collect() };
    assert_eq!(allowed_by(ROLE), of(&["kubernetes-service", "kubernetes-scale", "cnpg-pooler"]));
    assert_eq!(allowed_by(ROLE_FOR_SECRETS), of(&["kubernetes-secret"]));
}

/// What a Role cannot give, and what nobody needs to fear.
#[test]
fn nothing_that_is_shipped_or_documented_can_delete_watch_run_or_reach_beyond_its_namespace() {
    for section in sections_with_calls() {
        for (verb, _, resource, name) in documented(&section) {
            assert!(
                ["get", "list", "create", "patch"].contains(&verb.as_str()),
                "{section}: {verb} {resource}"
            );
            assert!(!resource.contains('/') && resource != "*", "{section}: {resource}");
            let is_narrow = name.is_some() || matches!(verb.as_str(), "list" | "create");
            assert!(is_narrow, "{section}: {verb} {resource} of any name");
            assert!(verb != "list" || resource != "secrets", "{section}: lists Secrets");
        }
    }
    for folder in ["deploy/kustomize", "deploy/helm", "deploy/examples"] {
        for path in files_below(folder) {
            let text = fs::read_to_string(&path).expect("text");
            assert!(!text.contains("ClusterRole"), "{}", path.display());
        }
    }
}

fn files_below(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

/// What was before is written by the request that changes it, and no request overwrites what it has not seen.
#[tokio::test]
async fn every_change_names_the_version_it_is_for_and_keeps_what_was_before() {
    let scene = scene().await;
    let context = context(Direction::Forward, 9);
    for step in [Step::Pause, Step::Retarget] {
        done(&scene.api, &scene.entries, step, &context).await;
    }
    let is_restart = |asked: &double::Recorded| asked.body["spec"]["template"].is_object();
    let patches: Vec<_> = scene.api.requests().into_iter().filter(|asked| asked.verb == "patch").collect();
    let changed: BTreeSet<&str> = patches.iter().map(|asked| asked.resource.as_str()).collect();
    assert_eq!(changed, ["deployments", "poolers", "secrets", "services", "statefulsets"].into());
    for asked in patches {
        assert!(asked.body["metadata"]["resourceVersion"].is_string(), "{asked:?}");
        if is_restart(&asked) {
            continue;
        }
        assert!(asked.body["spec"].is_object() || asked.body["data"].is_object(), "{asked:?}");
        let before =
            asked.body["metadata"]["annotations"]["pgsluice.io/before"].as_str().expect("an annotation");
        assert!(before.contains("\"epoch\":9"), "{asked:?}");
    }
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_as_the_rule_that_grants_it_before_anybody_waits() {
    for (verb, resource, rule) in [
        (
            "get",
            "services",
            r#"{apiGroups: [""], resources: ["services"], resourceNames: ["shop-db"], verbs: ["get"]}"#,
        ),
        (
            "patch",
            "services",
            r#"{apiGroups: [""], resources: ["services"], resourceNames: ["shop-db"], verbs: ["patch"]}"#,
        ),
        (
            "patch",
            "deployments",
            r#"{apiGroups: ["apps"], resources: ["deployments"], resourceNames: ["web"], verbs: ["patch"]}"#,
        ),
        (
            "list",
            "horizontalpodautoscalers",
            r#"{apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"], verbs: ["list"]}"#,
        ),
        (
            "patch",
            "poolers",
            r#"{apiGroups: ["postgresql.cnpg.io"], resources: ["poolers"], resourceNames: ["shop-pooler"], verbs: ["patch"]}"#,
        ),
        ("list", "pods", r#"{apiGroups: [""], resources: ["pods"], verbs: ["list"]}"#),
        (
            "patch",
            "secrets",
            r#"{apiGroups: [""], resources: ["secrets"], resourceNames: ["shop-db"], verbs: ["patch"]}"#,
        ),
    ] {
        let scene = scene().await;
        scene.api.forbid(verb, resource);
        let context = context(Direction::Forward, 7);
        let error = step(&scene.api, &scene.entries, Step::Prepare, &context).await.expect_err("forbidden");
        assert!(error.problem.contains(&format!("does not allow to {verb}")), "{error}");
        assert!(error.remedy.contains(rule) && error.remedy.contains("namespace shop"), "{}", error.remedy);
    }
}

#[tokio::test]
async fn an_api_server_that_is_not_there_is_said_to_be() {
    let gone = ApiDouble::start().await;
    let kubeconfig = fs::read_to_string(gone.kubeconfig()).expect("a file");
    let port = kubeconfig.split("127.0.0.1:").nth(1).and_then(|rest| rest.split('"').next()).expect("a port");
    fs::write(gone.kubeconfig(), kubeconfig.replace(port, "1")).expect("written");
    let entry = "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web']\nKUBECONFIG\n";
    let error =
        step(&gone, entry, Step::Prepare, &context(Direction::Forward, 7)).await.expect_err("nobody there");
    assert!(error.problem.contains("cannot be reached") && error.problem.contains("refused"), "{error}");
    fs::write(gone.kubeconfig(), "{}").expect("written");
    let error =
        step(&gone, entry, Step::Prepare, &context(Direction::Forward, 7)).await.expect_err("no context");
    assert!(error.problem.contains("kubeconfig file"), "{error}");
}

/// An address that speaks TLS with this certificate, in front of one that does not.
async fn encrypted(certified: &rcgen::CertifiedKey<rcgen::KeyPair>, plain: String) -> String {
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                let mut server = TcpStream::connect(plain).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    address
}

/// As in a cluster: the API server's certificate is signed by an authority that only the kubeconfig file names.
#[tokio::test]
async fn the_api_server_is_known_by_the_clusters_own_authority_and_by_no_other() {
    let api = ApiDouble::start().await;
    api.put("deployments", workload("web", 3));
    let entry = "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web']\nKUBECONFIG\n";
    let file: Value =
        serde_json::from_str(&fs::read_to_string(api.kubeconfig()).expect("a file")).expect("JSON");
    let plain = file["clusters"][0]["cluster"]["server"].as_str().expect("an address").replace("http://", "");
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let address = encrypted(&certified, plain).await;
    let folder = tempfile::tempdir().expect("a folder");
    for (authority, is_right) in [(&certified, true), (&other, false)] {
        let path = folder.path().join("ca.crt");
        fs::write(&path, authority.cert.pem()).expect("written");
        let mut file = file.clone();
        file["clusters"][0]["cluster"] =
            json!({ "server": format!("https://{address}"), "certificate-authority": path });
        fs::write(api.kubeconfig(), file.to_string()).expect("written");
        let outcome = step(&api, entry, Step::Prepare, &context(Direction::Forward, 7)).await;
        match outcome {
            Ok(_) => assert!(is_right),
            Err(error) => assert!(!is_right && error.problem.contains("certificate"), "{error}"),
        }
    }
}

/// Outside of a cluster, and without a file that says where one is.
#[tokio::test]
async fn without_an_account_it_is_said_what_is_missing() {
    let api = ApiDouble::start().await;
    let entry = "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web']\n";
    let error =
        step(&api, entry, Step::Prepare, &context(Direction::Forward, 7)).await.expect_err("no account");
    assert!(error.remedy.contains("automountServiceAccountToken"), "{error:?}");
}

/// The token goes to the API server, and nowhere else.
#[tokio::test]
async fn errors_do_not_show_the_token() {
    let api = ApiDouble::start().await;
    let entry = "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web']\nKUBECONFIG\n";
    let file = fs::read_to_string(api.kubeconfig()).expect("a file");
    fs::write(api.kubeconfig(), file.replace("t0ken", "hunter2")).expect("written");
    let traffic = traffic(&api, entry);
    let error =
        traffic.perform(Step::Prepare, &context(Direction::Forward, 7)).await.expect_err("another token");
    assert!(error.problem.contains("does not know who is calling"), "{error}");
    assert!(!format!("{error:?} {traffic:?}").contains("hunter2"));
}

/// A parser quotes the lines around a mistake, a command's answer is a token or close to one, and a token that no header can carry is
/// no reason to panic.
#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_not_quoted() {
    let api = ApiDouble::start().await;
    let entry = "[[traffic]]\nadapter = 'kubernetes-scale'\nworkloads = ['deployment/web']\nKUBECONFIG\n";
    let file: Value =
        serde_json::from_str(&fs::read_to_string(api.kubeconfig()).expect("a file")).expect("JSON");
    let with_user = |user: Value| {
        let mut file = file.clone();
        file["users"][0]["user"] = user;
        file.to_string()
    };
    let command = json!({ "exec": { "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
        "command": "sh", "args": ["-c", "echo hunter2; exit 3"] } });
    for text in [
        "users:\n- name: double\n  user:\n    token: hunter2\n    exec: [wrong\n".to_owned(),
        with_user(json!({ "token": "hunter2", "exec": 7 })),
        with_user(json!({ "token": "hunter2\nhunter2" })),
        with_user(command),
    ] {
        fs::write(api.kubeconfig(), &text).expect("written");
        let error = step(&api, entry, Step::Prepare, &context(Direction::Forward, 7)).await.expect_err(&text);
        assert!(!format!("{error} {}", error.remedy).contains("hunter2"), "{error}");
    }
}
