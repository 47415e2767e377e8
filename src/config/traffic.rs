//! The `[[traffic]]` list: each entry has the keys of its adapter and no others. What an adapter lacks is refused rather than
//! passed over: a cutover that leaves clients behind is worse than none.

use std::time::Duration;

use super::error::ConfigError;
use super::resolve::invalid;
use raw::{RawAdapter, RawTraffic};
use valid::TrafficConfig;

pub(super) mod kubernetes;
mod pgbouncer;
pub(super) mod raw;
mod secret;
pub(super) mod valid;

const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pods have 30 s to end, unless they are given another time.
const DEFAULT_WORKLOADS_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_MANUAL_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_INSTRUCTION: &str = "Point the applications at the target, then confirm.";

pub(super) fn resolve_traffic(raw: Vec<RawTraffic>) -> Result<Vec<TrafficConfig>, ConfigError> {
    let entries: Vec<TrafficConfig> = raw
        .into_iter()
        .enumerate()
        .map(|(index, entry)| resolve_entry(&format!("traffic[{index}]"), entry))
        .collect::<Result<_, _>>()?;
    kubernetes::nothing_twice(&entries)?;
    Ok(entries)
}

fn resolve_entry(key: &str, raw: RawTraffic) -> Result<TrafficConfig, ConfigError> {
    only_keys_of_its_adapter(key, &raw)?;
    let default = match raw.adapter {
        RawAdapter::Manual => DEFAULT_MANUAL_TIMEOUT,
        RawAdapter::KubernetesScale | RawAdapter::KubernetesSecret => DEFAULT_WORKLOADS_TIMEOUT,
        _ => DEFAULT_TIMEOUT,
    };
    let timeout = match raw.timeout_ms {
        None => default,
        Some(milliseconds) if TIMEOUT_MS.contains(&milliseconds) => Duration::from_millis(milliseconds),
        Some(_) => {
            let remedy = format!("Use {} to {}.", TIMEOUT_MS.start(), TIMEOUT_MS.end());
            return Err(invalid(&format!("{key}.timeout_ms"), "it is out of range", &remedy));
        }
    };
    match raw.adapter {
        RawAdapter::Exec => {
            let command =
                raw.command.filter(|command| command.first().is_some_and(|program| !program.is_empty()));
            let command = command.ok_or_else(|| ConfigError::Missing {
                key: format!("{key}.command"),
                remedy:
                    "give the program and its arguments, e.g. command = [\"/usr/local/bin/move-traffic\"]."
                        .to_owned(),
            })?;
            Ok(TrafficConfig::Exec { command, timeout })
        }
        RawAdapter::Webhook => {
            let url = raw.url.ok_or_else(|| ConfigError::Missing {
                key: format!("{key}.url"),
                remedy: "give the URL that is called, e.g. url = \"http://127.0.0.1:9000/traffic\"."
                    .to_owned(),
            })?;
            let parsed = reqwest::Url::parse(&url).ok();
            if !parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
                return Err(invalid(
                    &format!("{key}.url"),
                    "it is not an http or https URL",
                    "Use e.g. http://127.0.0.1:9000/traffic.",
                ));
            }
            Ok(TrafficConfig::Webhook { url, token_file: raw.token_file, timeout })
        }
        RawAdapter::Pgbouncer => Ok(TrafficConfig::Pgbouncer(pgbouncer::resolve(key, raw, timeout)?)),
        RawAdapter::KubernetesService => {
            Ok(TrafficConfig::KubernetesService(kubernetes::service(key, raw, timeout)?))
        }
        RawAdapter::KubernetesScale => {
            Ok(TrafficConfig::KubernetesScale(kubernetes::scale(key, raw, timeout)?))
        }
        RawAdapter::KubernetesSecret => {
            Ok(TrafficConfig::KubernetesSecret(secret::resolve(key, raw, timeout)?))
        }
        RawAdapter::CnpgPooler => Ok(TrafficConfig::CnpgPooler(kubernetes::pooler(key, raw, timeout)?)),
        RawAdapter::Manual => {
            let instruction = raw.instruction.unwrap_or_else(|| DEFAULT_INSTRUCTION.to_owned());
            Ok(TrafficConfig::Manual { instruction, timeout })
        }
    }
}

fn only_keys_of_its_adapter(key: &str, raw: &RawTraffic) -> Result<(), ConfigError> {
    let allowed: &[&str] = match raw.adapter {
        RawAdapter::Exec => &["command"],
        RawAdapter::Webhook => &["url", "token_file"],
        RawAdapter::Pgbouncer => &[
            "consoles",
            "password_file",
            "databases",
            "config_file",
            "command",
            "source_address",
            "target_address",
            "session_pools",
        ],
        RawAdapter::KubernetesService => &[
            "service",
            "namespace",
            "source_selector",
            "source_external_name",
            "target_selector",
            "target_external_name",
            "kubeconfig",
        ],
        RawAdapter::KubernetesScale => &["workloads", "namespace", "kubeconfig"],
        RawAdapter::KubernetesSecret => {
            &["secret", "source_from", "target_from", "keys", "restart", "namespace", "kubeconfig"]
        }
        RawAdapter::CnpgPooler => &["pooler", "namespace", "session_pools", "metrics_port", "kubeconfig"],
        RawAdapter::Manual => &["instruction"],
    };
    let given = [
        ("command", raw.command.is_some()),
        ("url", raw.url.is_some()),
        ("token_file", raw.token_file.is_some()),
        ("instruction", raw.instruction.is_some()),
        ("consoles", raw.consoles.is_some()),
        ("password_file", raw.password_file.is_some()),
        ("databases", raw.databases.is_some()),
        ("config_file", raw.config_file.is_some()),
        ("source_address", raw.source_address.is_some()),
        ("target_address", raw.target_address.is_some()),
        ("session_pools", raw.session_pools.is_some()),
        ("namespace", raw.namespace.is_some()),
        ("kubeconfig", raw.kubeconfig.is_some()),
        ("service", raw.service.is_some()),
        ("source_selector", raw.source_selector.is_some()),
        ("source_external_name", raw.source_external_name.is_some()),
        ("target_selector", raw.target_selector.is_some()),
        ("target_external_name", raw.target_external_name.is_some()),
        ("workloads", raw.workloads.is_some()),
        ("secret", raw.secret.is_some()),
        ("source_from", raw.source_from.is_some()),
        ("target_from", raw.target_from.is_some()),
        ("keys", raw.keys.is_some()),
        ("restart", raw.restart.is_some()),
        ("pooler", raw.pooler.is_some()),
        ("metrics_port", raw.metrics_port.is_some()),
    ];
    match given.iter().find(|(name, given)| *given && !allowed.contains(name)) {
        None => Ok(()),
        Some((name, _)) => Err(invalid(
            &format!("{key}.{name}"),
            "its adapter has no such key",
            &format!("Remove it, or use one of: adapter, {}, timeout_ms.", allowed.join(", ")),
        )),
    }
}
