//! What the adapters ask the API server for, and what they say when they may not: the rules that are shipped are those calls and
//! no others.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use super::metrics::{PodsDouble, address};
use super::*;

/// Verb, group, resource and, where a rule can name one, the object.
pub(super) type Call = (String, String, String, Option<String>);

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kustomize/statefulset/pgsluice.toml");
const MANIFEST: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kustomize/components/kubernetes-traffic/role.yaml");

struct Scene {
    api: ApiDouble,
    entries: String,
}

/// The objects that the shipped rules name, and the adapters of the shipped example.
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
    let example = fs::read_to_string(EXAMPLE).expect("the example");
    let (_, entries) = example.split_once("[[traffic]]").expect("adapters");
    let entries = format!("[[traffic]]{entries}").replace("[[traffic]]", "[[traffic]]\nKUBECONFIG");
    let pooler = "adapter = \"cnpg-pooler\"\n";
    let entries = entries.replace(pooler, &format!("{pooler}metrics_port = {}\n", pods.port));
    Scene { api, entries }
}

/// Everything that is asked for there and back, and by an undo.
async fn calls(scene: &Scene) -> BTreeSet<Call> {
    for (direction, epoch) in [(Direction::Forward, 7), (Direction::Back, 8)] {
        done(&scene.api, &scene.entries, Step::Prepare, &context(direction, epoch)).await;
        done(&scene.api, &scene.entries, Step::Pause, &context(direction, epoch)).await;
        done(&scene.api, &scene.entries, Step::Undo, &context(direction, epoch)).await;
        for step in FORWARD {
            done(&scene.api, &scene.entries, step, &context(direction, epoch)).await;
        }
    }
    calls_of(scene.api.requests())
}

/// Requests as rules of RBAC see them.
pub(super) fn calls_of(requests: Vec<double::Recorded>) -> BTreeSet<Call> {
    let call = |asked: double::Recorded| {
        let name = (!asked.name.is_empty()).then_some(asked.name);
        (asked.verb.to_owned(), asked.group, asked.resource, name)
    };
    requests.into_iter().map(call).collect()
}

/// The calls that the shipped Role allows. It is written one rule a line block, each of its lists in brackets.
pub(super) fn allowed_by(path: &str) -> BTreeSet<Call> {
    let manifest = fs::read_to_string(path).expect("the Role");
    let manifest = manifest.split("\n---\n").next().expect("the Role");
    let list = |rule: &str, key: &str| -> Vec<String> {
        let line =
            rule.lines().map(|line| line.trim().trim_start_matches("- ")).find(|line| line.starts_with(key));
        let Some(line) = line else { return Vec::new() };
        let (_, values) = line.split_once(": ").expect("a value");
        let values =
            values.strip_prefix('[').and_then(|values| values.strip_suffix(']')).expect("a list in brackets");
        values.split(", ").map(|value| value.trim_matches('"').to_owned()).collect()
    };
    let (_, rules) = manifest.split_once("rules:\n").expect("rules");
    let lines = || rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text: String = lines().fold(String::new(), |text, line| text + line + "\n");
    let mut calls = BTreeSet::new();
    for rule in text.split("- apiGroups").skip(1) {
        let rule = format!("- apiGroups{rule}");
        let names = list(&rule, "resourceNames:");
        for verb in list(&rule, "verbs:") {
            for resource in list(&rule, "resources:") {
                for group in list(&rule, "apiGroups:") {
                    let each =
                        if names.is_empty() { vec![None] } else { names.iter().cloned().map(Some).collect() };
                    calls.extend(
                        each.into_iter().map(|name| (verb.clone(), group.clone(), resource.clone(), name)),
                    );
                }
            }
        }
    }
    calls
}

#[tokio::test]
async fn the_role_that_is_shipped_allows_what_is_asked_for_and_nothing_else() {
    let scene = scene().await;
    let (asked, allowed) = (calls(&scene).await, allowed_by(MANIFEST));
    assert!(asked.len() > 8, "{asked:#?}");
    assert_eq!(asked, allowed);
}

/// What was before is written by the request that changes it, and no request overwrites what it has not seen.
#[tokio::test]
async fn every_change_names_the_version_it_is_for_and_keeps_what_was_before() {
    let scene = scene().await;
    let context = context(Direction::Forward, 9);
    for step in [Step::Pause, Step::Retarget] {
        done(&scene.api, &scene.entries, step, &context).await;
    }
    let patches: Vec<_> = scene.api.requests().into_iter().filter(|asked| asked.verb == "patch").collect();
    let changed: BTreeSet<&str> = patches.iter().map(|asked| asked.resource.as_str()).collect();
    assert_eq!(changed, ["deployments", "poolers", "services", "statefulsets"].into());
    for asked in patches {
        assert!(asked.body["metadata"]["resourceVersion"].is_string(), "{asked:?}");
        assert!(asked.body["spec"].is_object(), "{asked:?}");
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
