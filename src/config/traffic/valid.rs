//! Entries of `[[traffic]]` that cannot be wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::connection::ConnectionSettings;

/// One entry of `[[traffic]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrafficConfig {
    /// Runs a program with the step as its only argument, and the positions in its environment.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
        /// Bound of each step.
        timeout: Duration,
    },
    /// Posts a JSON document for each step; any 2xx answer is success.
    Webhook {
        /// Where to.
        url: String,
        /// File with a bearer token.
        token_file: Option<PathBuf>,
        /// Bound of each step.
        timeout: Duration,
    },
    /// Waits for the operator's word (`pgsluice confirm` or `POST /v1/cutover/confirm`) when clients are to be moved.
    Manual {
        /// What the operator is asked to do.
        instruction: String,
        /// Bound of the wait.
        timeout: Duration,
    },
    /// Pauses PgBouncer, leads it to the other side, and resumes it.
    Pgbouncer(PgbouncerConfig),
    /// Leads a Kubernetes Service to the other side.
    KubernetesService(KubernetesServiceConfig),
    /// Scales Kubernetes workloads to zero for the pause.
    KubernetesScale(KubernetesScaleConfig),
    /// Changes keys of a Kubernetes Secret, and restarts the workloads that read it.
    KubernetesSecret(KubernetesSecretConfig),
    /// Pauses a Pooler of CloudNativePG.
    CnpgPooler(CnpgPoolerConfig),
}

/// How the API of Kubernetes is reached, and which namespace is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesAccess {
    /// A kubeconfig file; `None`: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the one that comes with the access.
    pub namespace: Option<String>,
}

/// What the `kubernetes-service` adapter needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesServiceConfig {
    /// The API.
    pub access: KubernetesAccess,
    /// The Service's name.
    pub service: String,
    /// How it looks while it leads to the configured source.
    pub source: ServiceShape,
    /// How it looks while it leads to the configured target; never the same.
    pub target: ServiceShape,
    /// Bound of each step.
    pub timeout: Duration,
}

/// Where a Service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceShape {
    /// To the pods with these labels. Empty: to endpoints that somebody else keeps.
    Selector(BTreeMap<String, String>),
    /// To this DNS name.
    ExternalName(String),
}

/// What the `kubernetes-scale` adapter needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesScaleConfig {
    /// The API.
    pub access: KubernetesAccess,
    /// What is scaled; at least one, none twice.
    pub workloads: Vec<Workload>,
    /// Bound of each step.
    pub timeout: Duration,
}

/// Something that has replicas. As text: `deployment/web`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            WorkloadKind::Deployment => "deployment",
            WorkloadKind::StatefulSet => "statefulset",
        };
        write!(f, "{kind}/{}", self.name)
    }
}

/// The kinds of workloads that can be scaled and restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
}

/// What the `kubernetes-secret` adapter needs to know. Values are in Secrets, never in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSecretConfig {
    /// The API.
    pub access: KubernetesAccess,
    /// The Secret that applications read; neither of the next two.
    pub secret: String,
    /// The Secret with the values for the configured source.
    pub source_from: String,
    /// The Secret with the values for the configured target; another one.
    pub target_from: String,
    /// What is changed; at least one, none twice.
    pub keys: Vec<SecretKey>,
    /// What is restarted afterwards; none twice.
    pub restart: Vec<Workload>,
    /// Bound of each step.
    pub timeout: Duration,
}

/// A key of a Secret that is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretKey {
    /// Its name in the Secret that applications read.
    pub name: String,
    /// The key of the Secrets of both sides that holds its value.
    pub from: String,
}

/// What the `cnpg-pooler` adapter needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CnpgPoolerConfig {
    /// The API.
    pub access: KubernetesAccess,
    /// The Pooler's name.
    pub pooler: String,
    /// What to do about session mode.
    pub session_pools: SessionPools,
    /// Where the pods of the pooler tell their metrics.
    pub metrics_port: u16,
    /// Bound of each step.
    pub timeout: Duration,
}

/// What the `pgbouncer` adapter needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgbouncerConfig {
    /// The admin consoles, one for each instance; at least one.
    pub consoles: Vec<ConnectionSettings>,
    /// PgBouncer's names of the databases that are moved; `None`: those that lead to the side that is left.
    pub databases: Option<Vec<String>>,
    /// How PgBouncer's configuration is rewritten.
    pub rewrite: PgbouncerRewrite,
    /// Where PgBouncer reaches the configured source; `None`: where we do.
    pub source_address: Option<Address>,
    /// Where PgBouncer reaches the configured target; `None`: where we do.
    pub target_address: Option<Address>,
    /// What to do about pools in session mode.
    pub session_pools: SessionPools,
    /// Bound of each step.
    pub timeout: Duration,
}

/// How PgBouncer's configuration is rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgbouncerRewrite {
    /// By us, in this file.
    File(PathBuf),
    /// By a program.
    Command(Vec<String>),
}

/// A server's host and port, as somebody else reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name, address, or directory of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What to do about pools in session mode, where a pause waits for clients to disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionPools {
    /// Do not start.
    Refuse,
    /// Wait, within the bound of the step.
    Wait,
}
