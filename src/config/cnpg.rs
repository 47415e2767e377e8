//! `[target.cnpg]`: which CloudNativePG cluster the target is. What the cluster looks like is not known here.

use super::error::ConfigError;
use super::raw::{RawBackup, RawCnpg, RawTarget};
use super::resolve::invalid;
use super::traffic::kubernetes::{access, name};
use super::valid::{BackupGate, CnpgConfig, EventsMode};

/// The Secret that the operator makes for the owner of the application's database ends with this.
const OWNERS_SECRET: &str = "-app";

/// The cluster, if one is named.
pub(super) fn cnpg(target: &RawTarget) -> Result<Option<CnpgConfig>, ConfigError> {
    let raw = &target.cnpg;
    let Some(cluster) = raw.cluster.as_ref().filter(|cluster| !cluster.is_empty()) else {
        return nothing_without_cluster(raw);
    };
    let cluster = name("target.cnpg.cluster", cluster)?;
    let of_secret = [("secret", raw.secret.is_some()), ("database", raw.database.is_some())];
    if let (Some((key, _)), Some(_)) = (of_secret.iter().find(|(_, given)| *given), &target.url) {
        let problem = "`target.url` is given too, and it is not clear which is meant";
        let remedy = format!("Remove `target.url`, or `target.cnpg.{key}`.");
        return Err(invalid(&format!("target.cnpg.{key}"), problem, &remedy));
    }
    if target.url.is_none() && target.password_file.is_some() {
        let problem = "the password is taken from the cluster's Secret";
        return Err(invalid("target.password_file", problem, "Remove it, or set `target.url`."));
    }
    let secret = match &raw.secret {
        Some(secret) => name("target.cnpg.secret", secret)?,
        None => format!("{cluster}{OWNERS_SECRET}"),
    };
    let namespace = raw.namespace.as_deref();
    Ok(Some(CnpgConfig {
        access: access("target.cnpg", namespace, raw.kubeconfig.clone())?,
        cluster,
        secret,
        database: raw.database.clone().filter(|database| !database.is_empty()),
        backup: match raw.backup {
            RawBackup::Required => BackupGate::Required,
            RawBackup::Ignored => BackupGate::Ignored,
        },
        events: if raw.events { EventsMode::Told } else { EventsMode::Off },
    }))
}

fn nothing_without_cluster(raw: &RawCnpg) -> Result<Option<CnpgConfig>, ConfigError> {
    let given = [
        ("namespace", raw.namespace.is_some()),
        ("secret", raw.secret.is_some()),
        ("database", raw.database.is_some()),
        ("kubeconfig", raw.kubeconfig.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(None),
        Some((key, _)) => Err(ConfigError::Missing {
            key: "target.cnpg.cluster".to_owned(),
            remedy: format!("name the Cluster object, or remove `target.cnpg.{key}`."),
        }),
    }
}
