//! Entries of the adapter `kubernetes-secret`: three Secrets that are not the same, keys by name, workloads. Values are in the
//! Secrets and never in a configuration, so nothing here can be secret.

use std::time::Duration;

use super::super::error::ConfigError;
use super::super::resolve::invalid;
use super::kubernetes::{access_of, required_name, workloads};
use super::raw::RawTraffic;
use super::valid::{KubernetesSecretConfig, SecretKey};

/// The longest key in Kubernetes.
const KEY_BYTES_MAX: usize = 253;

pub(super) fn resolve(
    key: &str,
    raw: RawTraffic,
    timeout: Duration,
) -> Result<KubernetesSecretConfig, ConfigError> {
    let secret = required_name(key, "secret", raw.secret.as_ref(), "shop-db")?;
    let source_from = required_name(key, "source_from", raw.source_from.as_ref(), "shop-db-source")?;
    let target_from = required_name(key, "target_from", raw.target_from.as_ref(), "shop-app")?;
    for (name, from) in [("source_from", &source_from), ("target_from", &target_from)] {
        if *from == secret {
            let remedy = "Keep the values of each side in a Secret of its own, that nobody changes.";
            return Err(invalid(&format!("{key}.{name}"), "it is the Secret that is changed", remedy));
        }
    }
    if source_from == target_from {
        let remedy = "Keep the values of each side in a Secret of its own.";
        return Err(invalid(&format!("{key}.target_from"), "it is the same Secret as `source_from`", remedy));
    }
    let keys = keys(&format!("{key}.keys"), raw.keys.as_deref().unwrap_or_default())?;
    let restart = workloads(&format!("{key}.restart"), raw.restart.as_deref().unwrap_or_default())?;
    Ok(KubernetesSecretConfig {
        access: access_of(key, raw)?,
        secret,
        source_from,
        target_from,
        keys,
        restart,
        timeout,
    })
}

fn keys(key_of_list: &str, texts: &[String]) -> Result<Vec<SecretKey>, ConfigError> {
    if texts.is_empty() {
        return Err(ConfigError::Missing {
            key: key_of_list.to_owned(),
            remedy: "name what is changed, e.g. keys = [\"DATABASE_URL=uri\", \"PGPASSWORD=password\"]."
                .to_owned(),
        });
    }
    let mut keys: Vec<SecretKey> = Vec::new();
    for text in texts {
        let (name, from) = text.split_once('=').unwrap_or((text, text));
        if !is_key(name) || !is_key(from) {
            // Not shown: somebody may have taken the part after `=` for the value.
            let remedy = "Write the names of two keys, as \"DATABASE_URL=uri\": letters, digits, `-`, `_` and `.`. Values belong into \
                          the Secrets.";
            return Err(invalid(key_of_list, "one of them is not KEY=KEY", remedy));
        }
        if keys.iter().any(|key| key.name == name) {
            let problem = format!("it has {name} twice");
            return Err(invalid(key_of_list, &problem, "Remove one of the two."));
        }
        keys.push(SecretKey { name: name.to_owned(), from: from.to_owned() });
    }
    Ok(keys)
}

fn is_key(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= KEY_BYTES_MAX && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::super::resolve_traffic;
    use super::super::valid::{TrafficConfig, Workload, WorkloadKind};
    use super::*;

    const NAMES: &str = "secret = 'shop-db'\nsource_from = 'shop-db-source'\ntarget_from = 'shop-app'\n";
    const KEYS: &str = "keys = ['DATABASE_URL=uri', 'password']\n";

    fn resolved(entries: &[&str]) -> Result<Vec<TrafficConfig>, String> {
        let entry = |keys: &&str| toml::from_str(&format!("adapter = 'kubernetes-secret'\n{keys}"));
        let raw: Result<Vec<RawTraffic>, _> = entries.iter().map(entry).collect();
        resolve_traffic(raw.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
    }

    #[test]
    fn an_entry_is_read_with_keys_of_two_names_and_of_one() {
        let entry = format!("{NAMES}{KEYS}restart = ['deployment/web']\nnamespace = 'shop'\n");
        let read = resolved(&[&entry]).expect("an adapter");
        let [TrafficConfig::KubernetesSecret(read)] = read.as_slice() else { panic!("another adapter") };
        let key = |name: &str, from: &str| SecretKey { name: name.into(), from: from.into() };
        assert_eq!(read.keys, [key("DATABASE_URL", "uri"), key("password", "password")]);
        assert_eq!(read.restart, [Workload { kind: WorkloadKind::Deployment, name: "web".into() }]);
        assert_eq!((read.source_from.as_str(), read.target_from.as_str()), ("shop-db-source", "shop-app"));
        assert_eq!(read.timeout, Duration::from_secs(60));
        resolved(&[&format!("{NAMES}{KEYS}")]).expect("nothing is restarted");
    }

    #[test]
    fn what_an_entry_lacks_or_has_too_much_is_named() {
        let (source, target) = ("source_from = 'old'\n", "target_from = 'new'\n");
        for (keys, named) in [
            (format!("{source}{target}{KEYS}"), "traffic[0].secret"),
            (format!("secret = 'a'\n{target}{KEYS}"), "traffic[0].source_from"),
            (format!("secret = 'a'\n{source}{KEYS}"), "traffic[0].target_from"),
            (format!("secret = 'a/b'\n{source}{target}{KEYS}"), "traffic[0].secret"),
            (format!("secret = 'old'\n{source}{target}{KEYS}"), "traffic[0].source_from"),
            (format!("secret = 'new'\n{source}{target}{KEYS}"), "traffic[0].target_from"),
            (
                format!("secret = 'a'\n{source}target_from = 'old'\n{KEYS}"),
                "it is the same Secret as `source_from`",
            ),
            (NAMES.to_owned(), "traffic[0].keys"),
            (format!("{NAMES}keys = []\n"), "traffic[0].keys"),
            (format!("{NAMES}keys = ['a=']\n"), "traffic[0].keys"),
            (format!("{NAMES}keys = ['a=b', 'a']\n"), "it has a twice"),
            (format!("{NAMES}{KEYS}restart = ['job/web']\n"), "traffic[0].restart"),
            (format!("{NAMES}{KEYS}restart = ['deployment/a', 'deployment/a']\n"), "traffic[0].restart"),
            (format!("{NAMES}{KEYS}workloads = ['deployment/web']\n"), "traffic[0].workloads"),
            (format!("{NAMES}{KEYS}namespace = 'A'\n"), "traffic[0].namespace"),
            (format!("{NAMES}{KEYS}timeout_ms = 1\n"), "traffic[0].timeout_ms"),
        ] {
            let error = resolved(&[&keys]).expect_err(&keys);
            assert!(error.contains(named), "{keys}: {error}");
        }
    }

    /// Somebody may take what comes after `=` for the value.
    #[test]
    fn a_value_that_was_written_for_a_key_is_not_repeated() {
        let error = resolved(&[&format!("{NAMES}keys = ['PGPASSWORD=hunter2!']\n")]).expect_err("no key");
        assert!(!error.contains("hunter2") && error.contains("Values belong into"), "{error}");
    }

    #[test]
    fn a_secret_is_changed_and_a_workload_restarted_by_one_entry_only() {
        let other = NAMES.replace("'shop-db'", "'other'");
        let restart = "restart = ['deployment/web']\n";
        let first = format!("{NAMES}{KEYS}{restart}");
        let error = resolved(&[&first, &format!("{NAMES}{KEYS}")]).expect_err("changed twice");
        assert!(error.contains("traffic[1].secret") && error.contains("secret/shop-db"), "{error}");
        let error = resolved(&[&first, &format!("{other}{KEYS}{restart}")]).expect_err("restarted twice");
        assert!(error.contains("traffic[1].restart") && error.contains("deployment/web"), "{error}");
        resolved(&[&format!("{NAMES}{KEYS}"), &format!("{other}{KEYS}{restart}")]).expect("by the last");
    }

    /// An entry without a namespace may mean the very one that the other entry names.
    #[test]
    fn entries_of_which_one_names_the_namespace_may_mean_the_same_object() {
        let other = NAMES.replace("'shop-db'", "'other'");
        let restart = "restart = ['deployment/web']\n";
        let (shop, billing) = ("namespace = 'shop'\n", "namespace = 'billing'\n");
        for (first, second, named) in [
            (format!("{NAMES}{KEYS}{shop}"), format!("{NAMES}{KEYS}"), "traffic[1].secret"),
            (format!("{NAMES}{KEYS}"), format!("{NAMES}{KEYS}{shop}"), "traffic[1].secret"),
            (
                format!("{NAMES}{KEYS}{restart}"),
                format!("{other}{KEYS}{restart}{shop}"),
                "traffic[1].restart",
            ),
        ] {
            let error = resolved(&[&first, &second]).expect_err(named);
            assert!(error.contains(named) && error.contains("name the `namespace` in both"), "{error}");
            resolved(&[&format!("{first}kubeconfig = 'a'\n"), &second]).expect("another API server");
        }
        resolved(&[&format!("{NAMES}{KEYS}{shop}"), &format!("{NAMES}{KEYS}{billing}")])
            .expect("two namespaces");
        let error = resolved(&[&format!("{NAMES}{KEYS}{shop}"), &format!("{NAMES}{KEYS}{shop}")])
            .expect_err("one namespace");
        assert!(error.contains("Remove one of the two") && !error.contains("in both"), "{error}");
    }
}
