//! The API of Kubernetes, as far as it is needed here: read an object, list some, make one, and change one by a merge patch
//! that is refused when somebody else was faster. Owns how the API is reached (the pod's service account or a kubeconfig
//! file), the namespace that is meant, and what its refusals mean. Knows nothing of cutovers, and never deletes.

pub mod cnpg;
mod error;
mod events;
pub mod lease;
mod resource;

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::core::params::{GetParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::Value;
use tokio::sync::OnceCell;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use crate::config::KubernetesAccess;

pub use error::KubernetesError;
pub use events::{About as EventAbout, Kind as EventKind, Recorder as EventRecorder};
pub use resource::{Resource, ResourceName};

/// Who the API server is told changes fields.
pub const FIELD_MANAGER: &str = "pgsluice";

/// Whether a patch is to change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The API server does everything but store it (`dryRun=All`).
    Trial,
    /// It does.
    Change,
}

/// One way to the API. Connects when it is first asked, and tries again if that failed.
#[derive(Debug)]
pub struct Kubernetes {
    access: KubernetesAccess,
    connected: OnceCell<Connected>,
}

struct Connected {
    client: Client,
    namespace: String,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Does nothing yet.
    #[must_use]
    pub const fn new(access: KubernetesAccess) -> Self {
        Self { access, connected: OnceCell::const_new() }
    }

    /// An object's full name, which needs the namespace.
    ///
    /// # Errors
    /// The account or the kubeconfig file cannot be used.
    pub async fn named(&self, resource: Resource, name: &str) -> Result<ResourceName, KubernetesError> {
        let namespace = self.connected().await?.namespace.clone();
        Ok(ResourceName { resource, namespace, name: name.to_owned() })
    }

    /// Reads an object.
    ///
    /// # Errors
    /// It does not exist, may not be read, or the API cannot be reached.
    pub async fn get(&self, what: &ResourceName) -> Result<Value, KubernetesError> {
        let request = Request::new(what.path()).get(&what.name, &GetParams::default());
        self.ask("get", what, request).await
    }

    /// Changes an object by a merge patch (RFC 7386), and returns it as it is then. The patch is to carry
    /// `metadata.resourceVersion`, so that [`KubernetesError::Conflict`] is the answer if the object was changed meanwhile.
    ///
    /// # Errors
    /// As [`Self::get`]; the object was changed meanwhile; the API server finds the result invalid.
    pub async fn patch(
        &self,
        what: &ResourceName,
        patch: &Value,
        effect: Effect,
    ) -> Result<Value, KubernetesError> {
        let parameters = PatchParams {
            dry_run: effect == Effect::Trial,
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let request = Request::new(what.path()).patch(&what.name, &parameters, &Patch::Merge(patch));
        self.ask("patch", what, request).await
    }

    /// Makes an object, and returns it as it is then. [`KubernetesError::Conflict`] is the answer if there is one of that name.
    ///
    /// # Errors
    /// As [`Self::get`]; it exists; the API server finds it invalid.
    pub async fn create(&self, what: &ResourceName, object: &Value) -> Result<Value, KubernetesError> {
        let parameters =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let request = Request::new(what.path()).create(&parameters, object.to_string().into_bytes());
        self.ask("create", what, request).await
    }

    /// The objects of a kind in the namespace; with `labels`, those that have them.
    ///
    /// # Errors
    /// They may not be listed, or the API cannot be reached.
    pub async fn list(
        &self,
        resource: Resource,
        labels: Option<&str>,
    ) -> Result<Vec<Value>, KubernetesError> {
        let what = self.named(resource, "").await?;
        let parameters = ListParams { label_selector: labels.map(str::to_owned), ..ListParams::default() };
        let mut list = self.ask("list", &what, Request::new(what.path()).list(&parameters)).await?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(KubernetesError::NotUnderstood { what, problem: "a list without items".into() }),
        }
    }

    async fn ask(
        &self,
        verb: &'static str,
        what: &ResourceName,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Value, KubernetesError> {
        let not_understood = |problem: String| KubernetesError::NotUnderstood { what: what.clone(), problem };
        let request = request.map_err(|error| not_understood(error.to_string()))?;
        let client = &self.connected().await?.client;
        // The library writes failures into the log at the level of errors. Whoever asked decides what one is.
        let answer = client.request_text(request).with_subscriber(NoSubscriber::default()).await;
        let text = answer.map_err(|error| KubernetesError::of(error, verb, what))?;
        // Without what was received: it may hold what nobody wants in a log.
        serde_json::from_str(&text).map_err(|error| not_understood(format!("no JSON ({error})")))
    }

    async fn connected(&self) -> Result<&Connected, KubernetesError> {
        self.connected.get_or_try_init(|| connect(&self.access)).await
    }
}

async fn connect(access: &KubernetesAccess) -> Result<Connected, KubernetesError> {
    // The library takes what the process has, and would panic if it had none or two to choose from. If another one is
    // there already, that is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = match &access.kubeconfig {
        None => Config::incluster().map_err(|source| KubernetesError::NoServiceAccount { source })?,
        Some(path) => {
            let unusable = |source| KubernetesError::Kubeconfig { path: path.clone(), source };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            if !has_usable_tokens(&file) {
                return Err(KubernetesError::UnusableToken { path: path.clone() });
            }
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
    };
    let namespace = access.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|source| KubernetesError::Client { source })?;
    Ok(Connected { client, namespace })
}

/// The library would panic over a token that no header can carry.
fn has_usable_tokens(file: &Kubeconfig) -> bool {
    let file = serde_json::to_value(file).unwrap_or_default();
    let users = file["users"].as_array().into_iter().flatten();
    users
        .filter_map(|user| user["user"]["token"].as_str())
        .all(|token| token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
}
