//! A DOUBLE of the API server of Kubernetes, in this process: no real one can run here. It keeps objects, answers GET, lists
//! by label, makes objects, and takes JSON merge patches (RFC 7386) with the conflicts, dry runs, validations and errors that the adapters
//! depend on; it records every request. Its controllers are doubles too: a workload has as many pods as it asks for, unless they are told to
//! linger, and a Pooler's status repeats its spec. What a real server does beyond that is not tested here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// What it is to be asked with.
pub(crate) const TOKEN: &str = "t0ken";

/// One request, as rules of RBAC see it, and as it came.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

/// Verb and resource.
type Call = (&'static str, &'static str);

#[derive(Default)]
struct State {
    /// By plural and name.
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    requests: Vec<Recorded>,
    all_requests: Vec<Recorded>,
    forbidden: BTreeSet<Call>,
    /// With the code and the words.
    refused: Option<(Call, (StatusCode, &'static str))>,
    /// Never answered.
    silent: BTreeSet<Call>,
    /// What somebody else does right before the next patch, and to which object.
    meanwhile: Option<((String, String), Value)>,
    /// What somebody else changes before every patch.
    restless: Option<(String, String)>,
    /// How many more patches are held back before they are done.
    held: usize,
    /// Pods end only when they are told to.
    pods_linger: bool,
    /// Pods stay as they were made, whatever their workload wants.
    rollouts_linger: bool,
    /// Every request is answered by 503.
    is_out_of_order: bool,
}

#[derive(Clone, Default)]
struct Inside {
    state: Arc<Mutex<State>>,
    arrived: Arc<Notify>,
    released: Arc<Notify>,
    finished: Arc<Notify>,
}

/// The server and a kubeconfig file for it.
pub(crate) struct ApiDouble {
    inside: Inside,
    folder: tempfile::TempDir,
}

impl ApiDouble {
    pub(crate) async fn start() -> Self {
        let inside = Inside::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(answer).with_state(inside.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { inside, folder: kubeconfig_for(address) }
    }

    pub(crate) fn kubeconfig(&self) -> String {
        self.folder.path().join("kubeconfig").display().to_string()
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.inside.state.lock().expect("lock"))
    }

    /// Puts an object there, or another one in its place.
    pub(crate) fn put(&self, resource: &str, mut object: Value) {
        self.with(|state| {
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            object["metadata"]["namespace"] = "shop".into();
            object["metadata"]["generation"] = 1.into();
            state.store((resource.into(), name), object);
        });
    }

    /// Somebody deletes it.
    pub(crate) fn delete(&self, resource: &str, name: &str) {
        self.with(|state| state.objects.remove(&(resource.to_owned(), name.to_owned())));
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Value {
        self.with(|state| state.objects[&(resource.to_owned(), name.to_owned())].clone())
    }

    /// What an object is, without what the server itself writes.
    pub(crate) fn spec_and_annotations(&self, resource: &str, name: &str) -> (Value, Value) {
        let object = self.get(resource, name);
        (object["spec"].clone(), object["metadata"]["annotations"].clone())
    }

    /// Everything asked for since the last call.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.with(|state| std::mem::take(&mut state.requests))
    }

    /// How many were asked for since then.
    pub(crate) fn count_requests(&self) -> usize {
        self.with(|state| state.requests.len())
    }

    /// Everything that was ever asked for.
    pub(crate) fn all_requests(&self) -> Vec<Recorded> {
        self.with(|state| state.all_requests.clone())
    }

    /// From now on every request with this verb for this resource is answered by 403.
    pub(crate) fn forbid(&self, verb: &'static str, resource: &'static str) {
        self.with(|state| state.forbidden.insert((verb, resource)));
    }

    /// From now on every such request is refused in these words: by 422, as by validation, or by 403, as by an admission webhook.
    pub(crate) fn refuse(&self, code: StatusCode, asked: Call, words: &'static str) {
        self.with(|state| state.refused = Some((asked, (code, words))));
    }

    /// From now on no request with this verb for this resource is answered, nor refused.
    pub(crate) fn fall_silent(&self, verb: &'static str, resource: &'static str) {
        self.with(|state| state.silent.insert((verb, resource)));
    }

    pub(crate) fn allow_everything(&self) {
        self.with(|state| state.forbidden.clear());
    }

    /// Somebody else changes the object after the next patch for it was made, and before it is done.
    pub(crate) fn change_meanwhile(&self, resource: &str, name: &str, patch: Value) {
        self.with(|state| state.meanwhile = Some(((resource.into(), name.into()), patch)));
    }

    /// Somebody else changes the object again and again, always right before a patch is done.
    pub(crate) fn keep_changing(&self, resource: &str, name: &str) {
        self.with(|state| state.restless = Some((resource.into(), name.into())));
    }

    /// As somebody else does it, now.
    pub(crate) fn change(&self, resource: &str, name: &str, patch: &Value) {
        self.with(|state| state.patch(&(resource.into(), name.into()), patch));
    }

    /// Whether every request is answered by 503 from now on.
    pub(crate) fn be_out_of_order(&self, is_out_of_order: bool) {
        self.with(|state| state.is_out_of_order = is_out_of_order);
    }

    pub(crate) fn let_pods_linger(&self) {
        self.with(|state| state.pods_linger = true);
    }

    /// New pods of a changed template are made only when they are told to be.
    pub(crate) fn let_rollouts_linger(&self, linger: bool) {
        self.with(|state| {
            state.rollouts_linger = linger;
            state.reconcile_workloads();
        });
    }

    /// They end.
    pub(crate) fn end_pods(&self) {
        self.with(|state| {
            state.pods_linger = false;
            state.reconcile_workloads();
        });
    }

    /// The next patch is held on its way, before the server looks at it.
    pub(crate) fn hold_next_patch(&self) {
        self.with(|state| state.held = 1);
    }

    /// Waits until the patch that is held has arrived.
    pub(crate) async fn patch_is_held(&self) {
        self.inside.arrived.notified().await;
    }

    /// Lets it go on, and waits until the server has done or refused it.
    pub(crate) async fn release_patch(&self) {
        self.inside.released.notify_one();
        self.inside.finished.notified().await;
    }
}

/// A folder with a kubeconfig file that leads to this address.
pub(crate) fn kubeconfig_for(address: std::net::SocketAddr) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let file = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "double",
        "clusters": [{ "name": "double", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "double", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "double", "context": { "cluster": "double", "user": "double", "namespace": "shop" } }],
    });
    std::fs::write(folder.path().join("kubeconfig"), file.to_string()).expect("written");
    folder
}

fn is_workload(resource: &str) -> bool {
    matches!(resource, "deployments" | "statefulsets")
}

impl State {
    fn store(&mut self, key: (String, String), mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(key.clone(), object);
        self.reconcile(&key);
    }

    fn patch(&mut self, key: &(String, String), patch: &Value) {
        let found = self.objects[key].clone();
        let mut object = merge(&found, patch);
        if object["spec"] != found["spec"] {
            object["metadata"]["generation"] =
                (found["metadata"]["generation"].as_u64().unwrap_or(0) + 1).into();
        }
        self.store(key.clone(), object);
    }

    fn reconcile_workloads(&mut self) {
        let workloads: Vec<_> = self.objects.keys().filter(|(kind, _)| is_workload(kind)).cloned().collect();
        for key in workloads {
            self.reconcile(&key);
        }
    }

    /// What the controllers do, at once.
    fn reconcile(&mut self, key: &(String, String)) {
        let Some(object) = self.objects.get_mut(key) else { return };
        let (resource, name) = key;
        if resource == "poolers" {
            // Trap 27: it says what was asked for.
            let paused = object["spec"]["pgbouncer"]["paused"] == true;
            object["status"]["phase"] = if paused { "paused" } else { "active" }.into();
        }
        if !is_workload(resource) {
            return;
        }
        let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1);
        object["status"]["observedGeneration"] = object["metadata"]["generation"].clone();
        // As a Deployment's: pods that were told to end are not counted.
        object["status"]["replicas"] = wanted.into();
        object["status"]["availableReplicas"] = wanted.into();
        object["status"]["updatedReplicas"] = if self.rollouts_linger { 0 } else { wanted }.into();
        let labels = object["spec"]["selector"]["matchLabels"].clone();
        let of_it = format!("{name}-");
        let linger = self.pods_linger;
        self.objects.retain(|(kind, pod), _| kind != "pods" || !pod.starts_with(&of_it) || linger);
        for number in 0..wanted {
            let pod = format!("{name}-{number}");
            let object =
                json!({ "metadata": { "name": pod, "labels": labels }, "status": { "phase": "Running" } });
            self.objects.insert(("pods".into(), pod), object);
        }
    }
}

/// RFC 7386.
fn merge(object: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut fields = object.as_object().cloned().unwrap_or_default();
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            let field = merge(fields.get(name).unwrap_or(&Value::Null), change);
            fields.insert(name.clone(), field);
        }
    }
    Value::Object(fields)
}

struct Asked {
    verb: &'static str,
    group: String,
    resource: String,
    name: String,
}

fn asked(method: &Method, path: &str) -> Option<Asked> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", group @ ("apps" | "postgresql.cnpg.io" | "coordination.k8s.io"), "v1", rest @ ..] => {
            (*group, rest)
        }
        ["apis", group @ "autoscaling", "v2", rest @ ..] => (*group, rest),
        _ => return None,
    };
    let ["namespaces", "shop", resource, name @ ..] = rest else { return None };
    let known = match group {
        "" => ["services", "pods", "secrets", "events"].as_slice(),
        "apps" => ["deployments", "statefulsets"].as_slice(),
        "autoscaling" => ["horizontalpodautoscalers"].as_slice(),
        "coordination.k8s.io" => ["leases"].as_slice(),
        _ => ["poolers", "clusters", "backups"].as_slice(),
    };
    let verb = match (method.as_str(), name) {
        ("GET", []) => "list",
        ("GET", [_]) => "get",
        ("POST", []) => "create",
        ("PATCH", [_]) => "patch",
        _ => return None,
    };
    let name = name.first().copied().unwrap_or_default().to_owned();
    known.contains(resource).then(|| Asked { verb, group: group.into(), resource: (*resource).into(), name })
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    (code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
}

fn success(object: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], object.to_string()).into_response()
}

async fn answer(
    Shared(inside): Shared<Inside>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    if given != Some(format!("Bearer {TOKEN}").as_bytes()) {
        return failure(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
    }
    let Some(asked) = asked(&method, uri.path()) else {
        return failure(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        );
    };
    let query = uri.query().unwrap_or_default().to_owned();
    let parameter = |name: &str| {
        let url = reqwest::Url::parse(&format!("http://double/?{query}")).expect("a query");
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let patch: Value = serde_json::from_str(&body).unwrap_or_default();
    let is_meant = |(verb, resource): &Call| *verb == asked.verb && *resource == asked.resource;
    let (is_silent, is_held) = {
        let mut state = inside.state.lock().expect("lock");
        let recorded = Recorded {
            verb: asked.verb,
            group: asked.group.clone(),
            resource: asked.resource.clone(),
            name: asked.name.clone(),
            query: query.clone(),
            body: patch.clone(),
        };
        state.requests.push(recorded.clone());
        state.all_requests.push(recorded);
        if state.is_out_of_order {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "out of order");
        }
        if state.forbidden.iter().any(is_meant) {
            let Asked { verb, group, resource, .. } = &asked;
            let message = format!(
                "{resource} is forbidden: User \"system:serviceaccount:shop:pgsluice\" cannot {verb} resource \"{resource}\" in API group \"{group}\" in the namespace \"shop\""
            );
            return failure(StatusCode::FORBIDDEN, "Forbidden", &message);
        }
        if let Some((call, (code, words))) = &state.refused
            && is_meant(call)
        {
            return failure(*code, code.canonical_reason().unwrap_or_default(), words);
        }
        let is_held = asked.verb == "patch" && state.held > 0;
        state.held -= usize::from(is_held);
        (state.silent.iter().any(is_meant), is_held)
    };
    if is_silent {
        return std::future::pending().await;
    }
    if !is_held {
        return respond(&inside, &asked, &headers, &patch, parameter("dryRun"), parameter("labelSelector"));
    }
    // Whoever sent it may be gone: the server does it all the same, as a real one may.
    let dry_run = parameter("dryRun");
    let task = tokio::spawn(async move {
        inside.arrived.notify_one();
        inside.released.notified().await;
        let response = respond(&inside, &asked, &headers, &patch, dry_run, None);
        inside.finished.notify_one();
        response
    });
    task.await.expect("an answer")
}

fn respond(
    inside: &Inside,
    asked: &Asked,
    headers: &HeaderMap,
    patch: &Value,
    dry_run: Option<String>,
    labels: Option<String>,
) -> Response {
    let mut state = inside.state.lock().expect("lock");
    let key = (asked.resource.clone(), asked.name.clone());
    if asked.verb == "list" {
        let is_meant = |kind: &str, object: &Value| {
            kind == asked.resource
                && labels.as_ref().is_none_or(|labels| selects(labels, &object["metadata"]["labels"]))
        };
        let objects = state.objects.iter().filter(|((kind, _), object)| is_meant(kind, object));
        let items: Vec<&Value> = objects.map(|(_, object)| object).collect();
        return success(&json!({ "kind": "List", "metadata": { "resourceVersion": "1" }, "items": items }));
    }
    if asked.verb == "create" {
        return create(&mut state, &asked.resource, patch.clone());
    }
    if !state.objects.contains_key(&key) {
        let message = format!("{} \"{}\" not found", asked.resource, asked.name);
        return failure(StatusCode::NOT_FOUND, "NotFound", &message);
    }
    if asked.verb == "get" {
        return success(&state.objects[&key]);
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/merge-patch+json") {
        return failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", "not a merge patch");
    }
    if state.meanwhile.as_ref().is_some_and(|(changed, _)| *changed == key)
        && let Some((_, change)) = state.meanwhile.take()
    {
        state.patch(&key, &change);
    }
    if state.restless.as_ref() == Some(&key) {
        let change = json!({ "metadata": { "labels": { "seen": state.version.to_string() } } });
        state.patch(&key, &change);
    }
    let found = &state.objects[&key];
    let version = &patch["metadata"]["resourceVersion"];
    if !version.is_null() && *version != found["metadata"]["resourceVersion"] {
        let message = "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again";
        return failure(StatusCode::CONFLICT, "Conflict", message);
    }
    let result = merge(found, patch);
    if let Some(message) = invalid(&asked.resource, &result) {
        return failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
    }
    if dry_run.as_deref() == Some("All") {
        return success(&result);
    }
    state.patch(&key, patch);
    if asked.resource == "services" {
        assign_address(&mut state, &key);
    }
    success(&state.objects[&key])
}

fn create(state: &mut State, resource: &str, mut object: Value) -> Response {
    if object["metadata"]["name"].is_null()
        && let Some(prefix) = object["metadata"]["generateName"].as_str()
    {
        object["metadata"]["name"] = format!("{prefix}{}", state.version).into();
    }
    let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
        return failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", "name or generateName is required");
    };
    let key = (resource.to_owned(), name.clone());
    if state.objects.contains_key(&key) {
        let message = format!("{resource} \"{name}\" already exists");
        return failure(StatusCode::CONFLICT, "AlreadyExists", &message);
    }
    object["metadata"]["generation"] = 1.into();
    state.store(key.clone(), object);
    (StatusCode::CREATED, success(&state.objects[&key])).into_response()
}

/// A few of the rules for Services.
fn invalid(resource: &str, object: &Value) -> Option<&'static str> {
    let spec = &object["spec"];
    if resource != "services" {
        return None;
    }
    if spec["type"] == "ExternalName" {
        if ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]
            .iter()
            .any(|field| !spec[*field].is_null())
        {
            return Some("spec.clusterIP: Forbidden: may not be set for ExternalName services");
        }
        return spec["externalName"].is_null().then_some("spec.externalName: Required value");
    }
    if !spec["externalName"].is_null() && spec["type"] != "ExternalName" {
        return Some("spec.externalName: Forbidden: may only be set when `type` is \"ExternalName\"");
    }
    spec["ports"].as_array().is_none_or(Vec::is_empty).then_some("spec.ports: Required value")
}

fn assign_address(state: &mut State, key: &(String, String)) {
    let Some(object) = state.objects.get_mut(key) else { return };
    if object["spec"]["type"] != "ExternalName" && object["spec"]["clusterIP"].is_null() {
        object["spec"]["clusterIP"] = "10.0.0.77".into();
        object["spec"]["clusterIPs"] = json!(["10.0.0.77"]);
    }
}

/// Equality only: all that these tests use.
fn selects(selector: &str, labels: &Value) -> bool {
    selector.split(',').all(|term| {
        let (name, value) = term.split_once('=').expect("an equality");
        labels[name] == value
    })
}
