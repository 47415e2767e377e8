//! An entry of the `pgbouncer` adapter: consoles, what is rewritten, and by which addresses PgBouncer knows the two sides.

use std::path::Path;
use std::time::Duration;

use super::super::error::ConfigError;
use super::super::resolve::invalid;
use super::super::resolve::secret_in;
use super::raw::RawTraffic;
use super::valid::{Address, PgbouncerConfig, PgbouncerRewrite};
use crate::connection::ConnectionSettings;

/// The database that PgBouncer's admin console is.
const CONSOLE: &str = "pgbouncer";

pub(super) fn resolve(key: &str, raw: RawTraffic, timeout: Duration) -> Result<PgbouncerConfig, ConfigError> {
    let missing = |name: &str, remedy: &str| ConfigError::Missing {
        key: format!("{key}.{name}"),
        remedy: remedy.to_owned(),
    };
    let consoles = consoles(key, raw.consoles.unwrap_or_default(), raw.password_file.as_deref())?;
    let command = raw.command.filter(|command| command.first().is_some_and(|program| !program.is_empty()));
    let rewrite = match (raw.config_file, command) {
        (Some(file), None) => PgbouncerRewrite::File(file),
        (None, Some(command)) => PgbouncerRewrite::Command(command),
        (Some(_), Some(_)) => {
            let problem =
                "`config_file` is given too, and it is not clear which one rewrites the configuration";
            return Err(invalid(&format!("{key}.command"), problem, "Remove one of the two."));
        }
        (None, None) => {
            return Err(missing(
                "config_file",
                "name the file with PgBouncer's [databases], e.g. config_file = \"/etc/pgbouncer/pgbouncer.ini\", or set `command` to a program that rewrites them where they are.",
            ));
        }
    };
    if raw.databases.as_ref().is_some_and(|names| names.is_empty() || names.iter().any(String::is_empty)) {
        let remedy =
            "Name PgBouncer's databases, or remove the key for those that lead to the side that is left.";
        return Err(invalid(&format!("{key}.databases"), "it has no name, or an empty one", remedy));
    }
    let address = |name: &str, text: Option<String>| {
        let parse = |text: String| {
            parse_address(&text).ok_or_else(|| {
                let remedy = "Write HOST:PORT, e.g. \"shop-rw.shop.svc:5432\".";
                invalid(&format!("{key}.{name}"), "it is not a host and a port", remedy)
            })
        };
        text.map(parse).transpose()
    };
    Ok(PgbouncerConfig {
        consoles,
        databases: raw.databases,
        rewrite,
        source_address: address("source_address", raw.source_address)?,
        target_address: address("target_address", raw.target_address)?,
        session_pools: raw.session_pools.into(),
        timeout,
    })
}

fn consoles(
    key: &str,
    texts: Vec<String>,
    password_file: Option<&Path>,
) -> Result<Vec<ConnectionSettings>, ConfigError> {
    let key = format!("{key}.consoles");
    if texts.is_empty() {
        return Err(ConfigError::Missing {
            key,
            remedy: "give the admin console of every instance, e.g. consoles = [\"postgresql://pgbouncer@pooler:6432/pgbouncer\"].".to_owned(),
        });
    }
    let file_key = key.replace(".consoles", ".password_file");
    let password = password_file.map(|path| secret_in(&file_key, path)).transpose()?;
    let console = |text: &String| {
        let remedy = "Write e.g. postgresql://pgbouncer@pooler:6432/pgbouncer.";
        let settings = ConnectionSettings::parse(text).map_err(|error| {
            invalid(&key, &format!("one of them is no connection string ({error})"), remedy)
        })?;
        // A connection string without a database means the one called like the user.
        if settings.database() != CONSOLE && settings.database() != settings.user() {
            return Err(invalid(
                &key,
                "one of them names a database; the admin console is `pgbouncer`",
                remedy,
            ));
        }
        let settings = settings.with_database(CONSOLE);
        match &password {
            None => Ok(settings),
            Some(_) if settings.has_password() => Err(invalid(
                &file_key,
                "one of `consoles` has a password too, and it is not clear which is meant",
                "Remove the password from `consoles`, or remove `password_file`.",
            )),
            Some(password) => Ok(settings.with_password(password.clone())),
        }
    };
    texts.iter().map(console).collect()
}

/// `HOST:PORT`; an IPv6 address may stand in brackets, as in a URI.
fn parse_address(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    // PgBouncer reads its configuration by lines.
    let usable = !host.is_empty() && !host.contains(|c: char| c.is_control() || c.is_whitespace());
    usable.then(|| Address { host: host.to_owned(), port })
}
