//! From a file and the environment to a [`Config`]: read, merge, check against the known keys, resolve. It reads files
//! and connects to nothing.

use std::path::Path;

use toml::Table;

use super::environment;
use super::error::{ConfigError, Origins};
use super::keys::KeyTree;
use super::raw::RawConfig;
use super::resolve::{resolve, resolve_api};
use super::valid::{ApiConfig, Config};

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
    let (raw, origins) = read(path, environment)?;
    resolve(raw, &origins)
}

/// Only `[api]`, for commands that talk to a running instance: they need no database.
///
/// # Errors
/// As [`load`], except that nothing else has to be complete.
pub fn load_api(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<ApiConfig, ConfigError> {
    let (raw, _) = read(path, environment)?;
    resolve_api(raw.api)
}

fn read(
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
