//! An entry of `[[traffic]]` as it is written: the keys of all adapters in one record, because the reference is
//! generated from it. Which of them belong together is decided in the module above.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawTraffic {
    /// Required. Which adapter.
    pub(super) adapter: RawAdapter,
    /// `exec`: required. Program and arguments; the step is added as the last argument, positions are in its environment.
    /// `pgbouncer`: instead of `config_file`, a program that rewrites PgBouncer's configuration, wherever that is. It is
    /// called as by `exec`, for the steps `prepare`, `retarget` and `undo`; `PGSLUICE_SOURCE_HOST` and so on are the
    /// addresses that PgBouncer is to use, and `PGSLUICE_DATABASES` names the databases, separated by commas. PgBouncer
    /// reloads afterwards, and where it leads to is checked. `undo` comes also when nothing was rewritten.
    #[serde(default)]
    pub(super) command: Option<Vec<String>>,
    /// `webhook`: required. The http or https URL that each step is posted to as JSON; any 2xx answer is success.
    #[serde(default)]
    pub(super) url: Option<String>,
    /// `webhook`: file with a bearer token to send.
    #[serde(default)]
    pub(super) token_file: Option<PathBuf>,
    /// `manual`: what you are asked to do before you confirm by `pgsluice confirm`.
    #[serde(default)]
    pub(super) instruction: Option<String>,
    /// `pgbouncer`: required. Connection strings of the admin consoles, one for each instance
    /// (`postgresql://USER@HOST:6432/pgbouncer`), all worked on at the same time. The user must be among PgBouncer's
    /// `admin_users`. Each must lead to one process only: with `so_reuseport`, or behind a load balancer, give every
    /// instance an address of its own.
    #[serde(default)]
    pub(super) consoles: Option<Vec<String>>,
    /// `pgbouncer`: file with the password for the consoles; a newline at its end is ignored. Keeps the password out of
    /// `consoles`.
    #[serde(default)]
    pub(super) password_file: Option<PathBuf>,
    /// `pgbouncer`: names of PgBouncer's databases that are moved. Without it: those that `SHOW DATABASES` shows with the
    /// host, port and database that are left.
    #[serde(default)]
    pub(super) databases: Option<Vec<String>>,
    /// `pgbouncer`: the file in which these databases stand (`pgbouncer.ini`, or what it includes), as seen from here. Only
    /// their `host`, `port` and, where it differs, `dbname` are changed. This or `command` is required.
    #[serde(default)]
    pub(super) config_file: Option<PathBuf>,
    /// `pgbouncer`: where PgBouncer reaches the source, as `HOST:PORT`, if that is another address than in `source.url`.
    #[serde(default)]
    pub(super) source_address: Option<String>,
    /// `pgbouncer`: where PgBouncer reaches the target, as `HOST:PORT`, if that is another address than in `target.url`.
    #[serde(default)]
    pub(super) target_address: Option<String>,
    /// `pgbouncer`, `cnpg-pooler`: what to do about pools in session mode. Without it: `"refuse"`.
    #[serde(default)]
    pub(super) session_pools: Option<RawSessionPools>,
    /// `kubernetes-service`, `kubernetes-scale`, `kubernetes-secret`, `cnpg-pooler`: the namespace of the objects. Without it:
    /// the one that pgsluice runs in, or that of the kubeconfig's context.
    #[serde(default)]
    pub(super) namespace: Option<String>,
    /// `kubernetes-service`, `kubernetes-scale`, `kubernetes-secret`, `cnpg-pooler`: a kubeconfig file, of which the current
    /// context is used. Without it: the pod's service account.
    #[serde(default)]
    pub(super) kubeconfig: Option<PathBuf>,
    /// `kubernetes-service`: required. The Service by whose name applications reach the database.
    #[serde(default)]
    pub(super) service: Option<String>,
    /// `kubernetes-service`: the Service's selector while it leads to the source, as `["app=postgres", "role=primary"]`. An
    /// empty list stands for a Service without selector, whose endpoints somebody else keeps; the target must be an external
    /// name then. This or `source_external_name` is required.
    #[serde(default)]
    pub(super) source_selector: Option<Vec<String>>,
    /// `kubernetes-service`: the DNS name of the source, if the Service is of type ExternalName while it leads there.
    #[serde(default)]
    pub(super) source_external_name: Option<String>,
    /// `kubernetes-service`: the Service's selector while it leads to the target, as
    /// `["cnpg.io/cluster=shop", "cnpg.io/instanceRole=primary"]`. This or `target_external_name` is required.
    #[serde(default)]
    pub(super) target_selector: Option<Vec<String>>,
    /// `kubernetes-service`: the DNS name of the target, if the Service is to be of type ExternalName while it leads there, as
    /// `"shop-rw.shop.svc.cluster.local"`. The port stays the one that clients use.
    #[serde(default)]
    pub(super) target_external_name: Option<String>,
    /// `kubernetes-scale`: required. What is scaled to zero for the pause, as `["deployment/web", "statefulset/worker"]`.
    #[serde(default)]
    pub(super) workloads: Option<Vec<String>>,
    /// `kubernetes-secret`: required. The Secret from which applications learn where the database is.
    #[serde(default)]
    pub(super) secret: Option<String>,
    /// `kubernetes-secret`: required. The Secret that holds the values with which applications reach the source. It is only
    /// read.
    #[serde(default)]
    pub(super) source_from: Option<String>,
    /// `kubernetes-secret`: required. The Secret that holds the values with which applications reach the target, as
    /// `"shop-app"`, which CloudNativePG keeps for its cluster `shop`. It is only read.
    #[serde(default)]
    pub(super) target_from: Option<String>,
    /// `kubernetes-secret`: required. The keys of `secret` that are changed, each with the key of `source_from` and `target_from`
    /// that holds its value, as `["DATABASE_URL=uri", "PGPASSWORD=password"]`; one name alone stands for both. Other keys
    /// are left as they are.
    #[serde(default)]
    pub(super) keys: Option<Vec<String>>,
    /// `kubernetes-secret`: the workloads that read `secret` when they start, as `["deployment/web", "statefulset/worker"]`. They
    /// are restarted as by `kubectl rollout restart`. Without it: none, which is right where `kubernetes-scale` has them
    /// down meanwhile.
    #[serde(default)]
    pub(super) restart: Option<Vec<String>>,
    /// `cnpg-pooler`: required. The Pooler in front of the CloudNativePG cluster that is the target.
    #[serde(default)]
    pub(super) pooler: Option<String>,
    /// `cnpg-pooler`: the port of the metrics of the pooler's pods, 1 to 65535. Without it: 9127.
    #[serde(default)]
    pub(super) metrics_port: Option<u32>,
    /// The longest time of each step, 100 to 86400000 ms. Without it: 10000, for `kubernetes-scale` and `kubernetes-secret`
    /// 60000, and for `manual` 600000.
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RawAdapter {
    /// Runs a program.
    Exec,
    /// Calls a URL.
    Webhook,
    /// Waits for your word.
    Manual,
    /// Pauses PgBouncer, leads it to the other side, and lets it go on: clients wait, and see no error.
    Pgbouncer,
    /// Leads a Service to the other side. New connections go there; those that are open stay where they are.
    KubernetesService,
    /// Scales workloads to zero for the pause, and back afterwards.
    KubernetesScale,
    /// Leads applications to the other side by changing keys of a Secret and restarting the workloads that read it.
    KubernetesSecret,
    /// Pauses a Pooler of CloudNativePG, and lets it go on.
    CnpgPooler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum RawSessionPools {
    /// The cutover does not start: in session mode a pause waits until every client has disconnected.
    Refuse,
    /// The pause waits for the clients to disconnect, for `timeout_ms` at most; it counts as write pause.
    Wait,
}
