//! How a cluster is reached, from its Secrets. Pure: objects in, connection settings out. The password stays a
//! [`Secret`] that is replaced when the object is; nothing here puts it into an error or a log (INV-10).
//!
//! Source: CloudNativePG's documentation, "Applications": keys of the Secrets `CLUSTER-app` and `CLUSTER-superuser`; a managed role's Secret
//! is of type `kubernetes.io/basic-auth` and has `username` and `password` only.

use std::path::Path;

use k8s_openapi::ByteString;
use serde_json::Value;

use crate::connection::{ConnectionSettings, Secret, SettingsError};

/// What the superuser's Secret says instead of a database.
const ANY_DATABASE: &str = "*";

/// A Secret that does not say how to connect. Names keys, never values.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A key that is needed is not there.
    #[error("the Secret {secret} has no key `{key}`")]
    Missing {
        /// `namespace/name`.
        secret: String,
        /// The key.
        key: &'static str,
    },
    /// A key's value is not what it is to be.
    #[error("the value of `{key}` in the Secret {secret} is not text in base64")]
    NotText {
        /// `namespace/name`.
        secret: String,
        /// The key.
        key: &'static str,
    },
    /// Put together it is no connection string.
    #[error("what the Secret {secret} says cannot be connected with: {source}")]
    Unusable {
        /// `namespace/name`.
        secret: String,
        /// Why.
        source: SettingsError,
    },
    /// The superuser's Secret names none.
    #[error("the Secret {secret} names no database")]
    NoDatabase {
        /// `namespace/name`.
        secret: String,
    },
}

impl CredentialsError {
    /// What to do.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Missing { key: "ca.crt", .. } | Self::NotText { key: "ca.crt", .. } => {
                "The Secret with the authority of the cluster's servers (CLUSTER-ca, or status.certificates.serverCASecret) is to have it; \
                 otherwise set `target.url` with its own sslrootcert."
            }
            Self::Missing { .. } | Self::NotText { .. } => {
                "Name a Secret with `username` and `password` in `target.cnpg.secret`: the one of the cluster's application \
                 (CLUSTER-app), of its superuser (CLUSTER-superuser), or of a managed role."
            }
            Self::Unusable { .. } => "Set `target.url` instead.",
            Self::NoDatabase { .. } => "Name the database in `target.cnpg.database`.",
        }
        .to_owned()
    }
}

/// One Secret, as the API server gives it.
#[derive(Clone, Copy)]
pub(super) struct SecretObject<'a> {
    /// `namespace/name`.
    pub(super) name: &'a str,
    pub(super) object: &'a Value,
}

impl SecretObject<'_> {
    /// The text of a key that may be absent.
    pub(super) fn find(&self, key: &'static str) -> Result<Option<String>, CredentialsError> {
        let not_text = || CredentialsError::NotText { secret: self.name.to_owned(), key };
        let Some(encoded) = self.object["data"].get(key) else { return Ok(None) };
        let decoded: Result<ByteString, _> = serde_json::from_value(encoded.clone());
        let text = decoded.ok().and_then(|ByteString(bytes)| String::from_utf8(bytes).ok());
        text.map(Some).ok_or_else(not_text)
    }

    /// The text of a key.
    pub(super) fn text(&self, key: &'static str) -> Result<String, CredentialsError> {
        let found = self.find(key)?.filter(|text| !text.is_empty());
        found.ok_or_else(|| CredentialsError::Missing { secret: self.name.to_owned(), key })
    }
}

/// Where the cluster's primary is, unless the Secret says it.
pub(super) struct Place<'a> {
    pub(super) cluster: &'a str,
    pub(super) namespace: &'a str,
    /// What the operator configured instead of the Secret's database.
    pub(super) database: Option<&'a str>,
    /// The file with the authority of the servers' certificates.
    pub(super) authorities: &'a Path,
}

/// How the cluster is reached by whom the Secret names. The password is left out, to be given as one that can be replaced.
pub(super) fn settings(
    secret: SecretObject<'_>,
    place: &Place<'_>,
    password: Secret,
) -> Result<ConnectionSettings, CredentialsError> {
    let unusable = |source| CredentialsError::Unusable { secret: secret.name.to_owned(), source };
    let given = match secret.find("fqdn-uri")? {
        Some(uri) => Some(uri),
        None => secret.find("uri")?,
    };
    let database = match place.database {
        Some(database) => database.to_owned(),
        None => secret
            .find("dbname")?
            .filter(|database| !database.is_empty() && database != ANY_DATABASE)
            .ok_or_else(|| CredentialsError::NoDatabase { secret: secret.name.to_owned() })?,
    };
    let (settings, says_how) = match given {
        Some(uri) => {
            let says_how = uri.contains("sslmode=");
            (ConnectionSettings::parse(&uri).map_err(unusable)?, says_how)
        }
        None => {
            let user = secret.text("username")?.replace('\\', "\\\\").replace('\'', "\\'");
            let (cluster, namespace) = (place.cluster, place.namespace);
            let text = format!("host={cluster}-rw.{namespace}.svc user='{user}'");
            (ConnectionSettings::parse(&text).map_err(unusable)?, false)
        }
    };
    let settings = settings.with_database(database).with_password(password);
    Ok(if says_how { settings } else { settings.verified_by(place.authorities) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::connection::SslMode;

    fn place() -> Place<'static> {
        Place { cluster: "shop", namespace: "db", database: None, authorities: Path::new("/tmp/ca.crt") }
    }

    fn object(pairs: &[(&str, &str)]) -> Value {
        let data: std::collections::BTreeMap<&str, ByteString> =
            pairs.iter().map(|(key, value)| (*key, ByteString(value.as_bytes().to_vec()))).collect();
        json!({ "data": data })
    }

    fn found(pairs: &[(&str, &str)], place: &Place<'_>) -> Result<ConnectionSettings, CredentialsError> {
        let object = object(pairs);
        settings(SecretObject { name: "db/shop-app", object: &object }, place, Secret::new("hunter2"))
    }

    #[test]
    fn the_applications_secret_says_everything() {
        let uri = "postgresql://shop:hunter2@shop-rw.db:5433/shop";
        let pairs = [("username", "shop"), ("password", "hunter2"), ("dbname", "shop"), ("uri", uri)];
        let settings = found(&pairs, &place()).expect("settings");
        assert_eq!(settings.describe(), "shop-rw.db:5433/shop as shop");
        assert_eq!(settings.ssl_mode(), SslMode::VerifyFull);
        let full =
            ("fqdn-uri", "postgresql://shop:hunter2@shop-rw.db.svc.cluster.local:5432/shop?sslmode=require");
        let settings = found(&[&pairs[..], &[full]].concat(), &place()).expect("settings");
        assert_eq!(settings.describe(), "shop-rw.db.svc.cluster.local:5432/shop as shop");
        assert_eq!(settings.ssl_mode(), SslMode::Require);
    }

    #[test]
    fn a_managed_roles_secret_needs_the_database_and_a_superusers_too() {
        let role = [("username", "o'neil"), ("password", "hunter2")];
        let superuser = [
            ("username", "postgres"),
            ("password", "hunter2"),
            ("dbname", "*"),
            ("uri", "postgresql://postgres:hunter2@shop-rw.db:5432/*"),
        ];
        let with_database = Place { database: Some("shop"), ..place() };
        assert_eq!(
            found(&role, &with_database).expect("settings").describe(),
            "shop-rw.db.svc:5432/shop as o'neil"
        );
        assert_eq!(
            found(&superuser, &with_database).expect("settings").describe(),
            "shop-rw.db:5432/shop as postgres"
        );
        for pairs in [&role[..], &superuser[..]] {
            let error = found(pairs, &place()).expect_err("no database");
            assert!(error.remedy().contains("target.cnpg.database"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_or_no_text_is_named_and_no_value_is() {
        let with_database = Place { database: Some("shop"), ..place() };
        let error = found(&[("password", "hunter2")], &with_database).expect_err("no user");
        assert!(error.to_string().contains("db/shop-app has no key `username`"), "{error}");
        let object = json!({ "data": { "username": "hunter2!" } });
        let secret = SecretObject { name: "db/shop-app", object: &object };
        let error = secret.text("username").expect_err("no base64");
        assert!(!format!("{error} {error:?} {}", error.remedy()).contains("hunter2"));
        let error = found(&[("uri", "postgresql://a:hunter2@b@c/d")], &with_database).expect_err("no URI");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}
