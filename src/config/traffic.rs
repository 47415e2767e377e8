//! The `[[traffic]]` list: each entry has the keys of its adapter and no others, and adapters that this version does
//! not have are refused rather than passed over: a cutover that leaves clients behind is worse than none.

use std::time::Duration;

use super::error::ConfigError;
use super::resolve::invalid;
use raw::{RawAdapter, RawTraffic};
use valid::TrafficConfig;

mod pgbouncer;
pub(super) mod raw;
pub(super) mod valid;

const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_MANUAL_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_INSTRUCTION: &str = "Point the applications at the target, then confirm.";

pub(super) fn resolve_traffic(raw: Vec<RawTraffic>) -> Result<Vec<TrafficConfig>, ConfigError> {
    raw.into_iter()
        .enumerate()
        .map(|(index, entry)| resolve_entry(&format!("traffic[{index}]"), entry))
        .collect()
}

fn resolve_entry(key: &str, raw: RawTraffic) -> Result<TrafficConfig, ConfigError> {
    if let Some(name) = unavailable(raw.adapter) {
        return Err(ConfigError::NotAvailable {
            key: format!("{key}.adapter"),
            what: format!("the adapter `{name}`"),
            remedy:
                "Use pgbouncer, exec, webhook or manual, for instance exec with a script that does the same."
                    .to_owned(),
        });
    }
    only_keys_of_its_adapter(key, &raw)?;
    let default = if raw.adapter == RawAdapter::Manual { DEFAULT_MANUAL_TIMEOUT } else { DEFAULT_TIMEOUT };
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
        _ => {
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
        _ => &["instruction"],
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

const fn unavailable(adapter: RawAdapter) -> Option<&'static str> {
    match adapter {
        RawAdapter::Exec | RawAdapter::Webhook | RawAdapter::Manual | RawAdapter::Pgbouncer => None,
        RawAdapter::KubernetesService => Some("kubernetes-service"),
        RawAdapter::KubernetesScale => Some("kubernetes-scale"),
        RawAdapter::CnpgPooler => Some("cnpg-pooler"),
    }
}
