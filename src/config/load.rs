//! From a file and the environment to a [`Config`]: read, merge, check against the known keys, resolve. It reads files
//! and connects to nothing.

use std::path::Path;

use toml::Table;

use super::cnpg::cnpg;
use super::environment;
use super::error::{ConfigError, Origins};
use super::keys::KeyTree;
use super::raw::RawConfig;
use super::resolve::{resolve, resolve_api};
use super::valid::{ApiConfig, CnpgConfig, Config};
use crate::connection::ConnectionSettings;

/// Reads the configuration: the file, if there is one, and over it the variables
/// (see [`process_environment`](super::process_environment)).
///
/// # Errors
/// The first thing that is wrong, as one paragraph that names the key and the remedy and never a value. Nothing was
/// connected to or changed; the program ends with exit code 2.
pub fn load(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    read(path, environment)?.complete(None)
}

/// A name that never resolves (RFC 2606).
const NOWHERE: &str = "host=target.invalid user=nobody dbname=nobody";

/// A configuration as it was written: complete, unless the target is to be found in its cluster.
#[derive(Debug)]
pub struct Written {
    raw: RawConfig,
    origins: Origins,
    cluster: Option<CnpgConfig>,
}

impl Written {
    /// The cluster that the target is, if one is named.
    #[must_use]
    pub const fn cluster(&self) -> Option<&CnpgConfig> {
        self.cluster.as_ref()
    }

    /// Whether where the target is has to be asked of its cluster.
    #[must_use]
    pub const fn asks_cluster(&self) -> bool {
        self.cluster.is_some() && self.raw.target.url.is_none()
    }

    /// The configuration where the target is lost, and would have been found in its cluster: at an address that leads nowhere.
    ///
    /// # Errors
    /// As [`load`].
    pub fn complete_without_target(self) -> Result<Config, ConfigError> {
        let nowhere = ConnectionSettings::parse(NOWHERE).map_err(|source| ConfigError::Connection {
            key: "target.url",
            origin: self.origins.of("target.url"),
            source,
        })?;
        self.complete(Some(nowhere))
    }

    /// The configuration, with the target as its cluster says it is reached, if that was asked for.
    ///
    /// # Errors
    /// As [`load`].
    pub fn complete(self, found: Option<ConnectionSettings>) -> Result<Config, ConfigError> {
        resolve(self.raw, &self.origins, self.cluster, found)
    }
}

/// As [`load`], for a target whose address and credentials may have to be asked of its cluster first.
///
/// # Errors
/// As [`load`]; what is left is found by [`Written::complete`].
pub fn read(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Written, ConfigError> {
    let (raw, origins) = read_raw(path, environment)?;
    let cluster = cnpg(&raw.target)?;
    Ok(Written { raw, origins, cluster })
}

/// Only `[api]`, for commands that talk to a running instance: they need no database.
///
/// # Errors
/// As [`load`], except that nothing else has to be complete.
pub fn load_api(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<ApiConfig, ConfigError> {
    let (raw, _) = read_raw(path, environment)?;
    resolve_api(raw.api)
}

fn read_raw(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(RawConfig, Origins), ConfigError> {
    let tree = KeyTree::new();
    let mut origins = Origins::of_file(path.map(Path::to_owned));
    let mut table = path.map_or_else(|| Ok(Table::new()), read_file)?;
    environment::apply(&tree, &mut table, environment, &mut origins)?;
    tree.root().check_table("", &table, &origins)?;
    // Everything serde could object to was checked above; its own words would quote values.
    let raw = table.try_into().map_err(|_: toml::de::Error| ConfigError::Invalid {
        key: "(the configuration)".to_owned(),
        problem: "it has a shape that is not understood".to_owned(),
        remedy: "Compare it with docs/configuration.md.".to_owned(),
    })?;
    Ok((raw, origins))
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    text.parse::<Table>().map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        ConfigError::Syntax { path: path.to_owned(), line, problem: error.message().to_owned() }
    })
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
