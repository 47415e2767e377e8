//! Entries of the adapters that call the API of Kubernetes: names that can be names there, a Service's shape on either side,
//! workloads by kind and name. What the objects look like is not known here; the adapters' `prepare` looks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::error::ConfigError;
use super::super::resolve::invalid;
use super::raw::{RawSessionPools, RawTraffic};
use super::valid::{
    CnpgPoolerConfig, KubernetesAccess, KubernetesScaleConfig, KubernetesServiceConfig, ServiceShape,
    SessionPools, TrafficConfig, Workload, WorkloadKind,
};

/// Where CloudNativePG's poolers tell their metrics.
const METRICS_PORT: u32 = 9127;
/// The longest name in Kubernetes.
const NAME_BYTES_MAX: usize = 253;

impl From<Option<RawSessionPools>> for SessionPools {
    fn from(raw: Option<RawSessionPools>) -> Self {
        match raw {
            None | Some(RawSessionPools::Refuse) => Self::Refuse,
            Some(RawSessionPools::Wait) => Self::Wait,
        }
    }
}

pub(super) fn service(
    key: &str,
    raw: RawTraffic,
    timeout: Duration,
) -> Result<KubernetesServiceConfig, ConfigError> {
    let service = required_name(key, "service", raw.service.as_ref(), "shop-db")?;
    let source = shape(key, "source", raw.source_selector.as_ref(), raw.source_external_name.as_ref())?;
    let target = shape(key, "target", raw.target_selector.as_ref(), raw.target_external_name.as_ref())?;
    let of_target = format!("{key}.target_selector");
    match (&source, &target) {
        (_, ServiceShape::Selector(labels)) if labels.is_empty() => {
            let remedy = "Name the labels of the target's pods, or set `target_external_name` instead.";
            return Err(invalid(&of_target, "it is empty, so the Service would lead nowhere", remedy));
        }
        (ServiceShape::Selector(labels), ServiceShape::Selector(_)) if labels.is_empty() => {
            // Kubernetes would add endpoints of its own to those that are there: clients would get to both sides.
            let problem = "`source_selector` is empty, and the endpoints that somebody else keeps would stay beside the target's";
            let remedy = "Set `target_external_name` instead of `target_selector`.";
            return Err(invalid(&of_target, problem, remedy));
        }
        (source, target) if source == target => {
            let remedy = "Say by `source_…` and `target_…` how the Service looks on either side.";
            return Err(invalid(&format!("{key}.service"), "it looks the same on both sides", remedy));
        }
        _ => {}
    }
    Ok(KubernetesServiceConfig { access: access_of(key, raw)?, service, source, target, timeout })
}

pub(super) fn scale(
    key: &str,
    raw: RawTraffic,
    timeout: Duration,
) -> Result<KubernetesScaleConfig, ConfigError> {
    let key_of_list = format!("{key}.workloads");
    let texts = raw.workloads.clone().unwrap_or_default();
    if texts.is_empty() {
        return Err(ConfigError::Missing {
            key: key_of_list,
            remedy:
                "name what writes to the database, e.g. workloads = [\"deployment/web\", \"statefulset/worker\"]."
                    .to_owned(),
        });
    }
    let workloads = workloads(&key_of_list, &texts)?;
    Ok(KubernetesScaleConfig { access: access_of(key, raw)?, workloads, timeout })
}

/// Workloads by kind and name, none twice.
pub(super) fn workloads(key_of_list: &str, texts: &[String]) -> Result<Vec<Workload>, ConfigError> {
    let mut workloads = Vec::new();
    for text in texts {
        let workload = workload(text).ok_or_else(|| {
            let remedy = "Write deployment/NAME or statefulset/NAME.";
            invalid(key_of_list, "one of them is no workload that can be scaled or restarted", remedy)
        })?;
        if workloads.contains(&workload) {
            return Err(invalid(key_of_list, "it has one of them twice", "Remove one of the two."));
        }
        workloads.push(workload);
    }
    Ok(workloads)
}

pub(super) fn pooler(key: &str, raw: RawTraffic, timeout: Duration) -> Result<CnpgPoolerConfig, ConfigError> {
    let pooler = required_name(key, "pooler", raw.pooler.as_ref(), "shop-pooler")?;
    let metrics_port = u16::try_from(raw.metrics_port.unwrap_or(METRICS_PORT)).ok().filter(|port| *port > 0);
    let metrics_port = metrics_port.ok_or_else(|| {
        invalid(&format!("{key}.metrics_port"), "it is no port", "Use 1 to 65535, usually 9127.")
    })?;
    let session_pools = raw.session_pools.into();
    Ok(CnpgPoolerConfig { access: access_of(key, raw)?, pooler, session_pools, metrics_port, timeout })
}

/// Each object has one annotation for what it was before: two adapters that change it would take each other's word for it. Likewise a
/// workload is restarted once in an operation: by the last of the Secrets that it reads. Which namespace is meant by an entry that
/// names none is known only to the API, so such a name is taken for one of any namespace.
pub(super) fn nothing_twice(entries: &[TrafficConfig]) -> Result<(), ConfigError> {
    let mut seen: Vec<(usize, &KubernetesAccess, String)> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let Some((access, objects)) = objects(entry) else { continue };
        for (key, object) in objects {
            let same = |(_, other, name): &&(usize, &KubernetesAccess, String)| {
                may_be_same(other, access) && *name == object
            };
            if let Some((first, other, _)) = seen.iter().find(same) {
                let (problem, remedy) = if other.namespace == access.namespace {
                    (format!("{object} is named by traffic[{first}] too"), "Remove one of the two.")
                } else {
                    (
                        format!(
                            "{object} is named by traffic[{first}] too, and only one of them says in which `namespace` it is"
                        ),
                        "Remove one of the two if they are the same object; name the `namespace` in both if they are not.",
                    )
                };
                return Err(invalid(&format!("traffic[{index}].{key}"), &problem, remedy));
            }
            seen.push((index, access, object));
        }
    }
    Ok(())
}

/// Whether two entries may mean the same namespace of the same API server.
fn may_be_same(one: &KubernetesAccess, other: &KubernetesAccess) -> bool {
    one.kubeconfig == other.kubeconfig
        && (one.namespace == other.namespace || one.namespace.is_none() || other.namespace.is_none())
}

/// What an adapter changes, and by which key it is named.
fn objects(entry: &TrafficConfig) -> Option<(&KubernetesAccess, Vec<(&'static str, String)>)> {
    match entry {
        TrafficConfig::KubernetesService(config) => {
            Some((&config.access, vec![("service", format!("service/{}", config.service))]))
        }
        TrafficConfig::KubernetesScale(config) => {
            let named = config.workloads.iter().map(|workload| ("workloads", workload.to_string()));
            Some((&config.access, named.collect()))
        }
        TrafficConfig::KubernetesSecret(config) => {
            let secret = ("secret", format!("secret/{}", config.secret));
            let restarts = config.restart.iter().map(|each| ("restart", format!("the restart of {each}")));
            Some((&config.access, std::iter::once(secret).chain(restarts).collect()))
        }
        TrafficConfig::CnpgPooler(config) => {
            Some((&config.access, vec![("pooler", format!("pooler/{}", config.pooler))]))
        }
        TrafficConfig::Exec { .. }
        | TrafficConfig::Webhook { .. }
        | TrafficConfig::Manual { .. }
        | TrafficConfig::Pgbouncer(_) => None,
    }
}

pub(super) fn access_of(key: &str, raw: RawTraffic) -> Result<KubernetesAccess, ConfigError> {
    access(key, raw.namespace.as_deref(), raw.kubeconfig)
}

/// How the API is reached, by the keys `namespace` and `kubeconfig` below `key`.
pub(in super::super) fn access(
    key: &str,
    namespace: Option<&str>,
    kubeconfig: Option<PathBuf>,
) -> Result<KubernetesAccess, ConfigError> {
    let namespace = namespace.map(|given| name(&format!("{key}.namespace"), given)).transpose()?;
    Ok(KubernetesAccess { kubeconfig, namespace })
}

/// A name of an object, given by `key`.
pub(in super::super) fn name(key: &str, given: &str) -> Result<String, ConfigError> {
    if is_name(given) { Ok(given.to_owned()) } else { Err(no_name(key)) }
}

pub(super) fn required_name(
    key: &str,
    name: &str,
    given: Option<&String>,
    example: &str,
) -> Result<String, ConfigError> {
    match given {
        Some(given) => self::name(&format!("{key}.{name}"), given),
        None => Err(ConfigError::Missing {
            key: format!("{key}.{name}"),
            remedy: format!("give the object's name, e.g. {name} = \"{example}\"."),
        }),
    }
}

fn no_name(key: &str) -> ConfigError {
    let remedy = "Use the name as `kubectl get` shows it: lower-case letters, digits, `-` and `.`.";
    invalid(key, "it cannot be the name of an object in Kubernetes", remedy)
}

/// Names become parts of paths, so nothing else is let through.
fn is_name(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= NAME_BYTES_MAX
        && text.chars().all(inside)
        && text.starts_with(edge)
        && text.ends_with(edge)
        && !text.contains("..")
}

fn shape(
    key: &str,
    side: &str,
    selector: Option<&Vec<String>>,
    external_name: Option<&String>,
) -> Result<ServiceShape, ConfigError> {
    match (selector, external_name) {
        (Some(pairs), None) => {
            let labels: Option<BTreeMap<_, _>> = pairs.iter().map(|pair| label(pair)).collect();
            let distinct = labels.filter(|labels| labels.len() == pairs.len());
            distinct.map(ServiceShape::Selector).ok_or_else(|| {
                let remedy = "Write each label once, as \"app=postgres\".";
                invalid(&format!("{key}.{side}_selector"), "one of its labels is not NAME=VALUE", remedy)
            })
        }
        (None, Some(name)) if is_name(name) => Ok(ServiceShape::ExternalName(name.clone())),
        (None, Some(_)) => {
            let remedy = "Write a DNS name without port, e.g. \"shop-rw.shop.svc.cluster.local\".";
            Err(invalid(&format!("{key}.{side}_external_name"), "it is no DNS name", remedy))
        }
        (Some(_), Some(_)) => {
            let problem = format!("`{side}_selector` is given too, and a Service has one of them only");
            Err(invalid(&format!("{key}.{side}_external_name"), &problem, "Remove one of the two."))
        }
        (None, None) => Err(ConfigError::Missing {
            key: format!("{key}.{side}_selector"),
            remedy: format!(
                "say how the Service looks while it leads to the {side}: `{side}_selector` or `{side}_external_name`."
            ),
        }),
    }
}

fn label(pair: &str) -> Option<(String, String)> {
    let (name, value) = pair.split_once('=')?;
    let usable = |text: &str| !text.contains(|c: char| c.is_whitespace() || c == '=' || c == ',');
    (!name.is_empty() && usable(name) && usable(value)).then(|| (name.to_owned(), value.to_owned()))
}

fn workload(text: &str) -> Option<Workload> {
    let (kind, name) = text.split_once('/')?;
    let kind = match kind {
        "deployment" => WorkloadKind::Deployment,
        "statefulset" => WorkloadKind::StatefulSet,
        _ => return None,
    };
    is_name(name).then(|| Workload { kind, name: name.to_owned() })
}
