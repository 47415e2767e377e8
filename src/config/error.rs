//! What can be wrong with a configuration: one paragraph each, naming the key, what is wrong with it, what is allowed
//! and what to do. Never a value (INV-10). The program ends with exit code 2.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::connection::SettingsError;

/// A configuration that cannot be used. Nothing was connected to, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read: {source}. Check the path given by --config or PGSLUICE_CONFIG, and the file's permissions.", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// As the operating system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML at line {line}: {problem}. Correct that line; strings stand in double quotes.", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// No such key.
    #[error("unknown key `{key}` in {origin}{}", suggestion(.nearest.as_deref(), .known))]
    UnknownKey {
        /// The whole key.
        key: String,
        /// The file, or the environment variable.
        origin: String,
        /// The known key that was probably meant.
        nearest: Option<String>,
        /// Every key known at that place.
        known: Vec<String>,
    },
    /// A value of the wrong kind.
    #[error(
        "`{key}` in {origin} is {found}; it must be {expected}. Correct it there; docs/configuration.md describes every key."
    )]
    WrongKind {
        /// The whole key.
        key: String,
        /// The file, or the environment variable.
        origin: String,
        /// What belongs there.
        expected: String,
        /// What stands there.
        found: &'static str,
    },
    /// A required key is missing.
    #[error("`{key}` is not set: {remedy}")]
    Missing {
        /// The whole key.
        key: String,
        /// What to write.
        remedy: String,
    },
    /// A connection string that is none.
    #[error("`{key}` in {origin} is not usable: {source}.")]
    Connection {
        /// `source.url` or `target.url`.
        key: &'static str,
        /// The file, or the environment variable.
        origin: String,
        /// What is wrong with it.
        source: SettingsError,
    },
    /// A value that is out of range, or contradicts another.
    #[error("`{key}` is not usable: {problem}. {remedy}")]
    Invalid {
        /// The whole key.
        key: String,
        /// What is wrong.
        problem: String,
        /// What is allowed, what to do.
        remedy: String,
    },
    /// A file with a secret.
    #[error("the file {} that `{key}` names cannot be used: {problem}. Check the path and its permissions; in Kubernetes, that the secret is mounted there.", .path.display())]
    SecretFile {
        /// The whole key.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl ConfigError {
    /// What to do about it, besides what the message says of the key.
    #[must_use]
    pub fn remedy(&self) -> String {
        "Nothing was connected to, and nothing was changed. docs/configuration.md describes every key, and so does `pgsluice \
         config-reference`."
            .to_owned()
    }
}

fn suggestion(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!(
            ": did you mean `{nearest}`? Unknown keys are refused, so that a mistyped one cannot be overlooked."
        ),
        None => format!(". Remove it, or use one of {}.", known.join(", ")),
    }
}

/// Where each value comes from, for errors.
#[derive(Debug, Default)]
pub(super) struct Origins {
    file: Option<PathBuf>,
    variables: BTreeMap<String, String>,
}

impl Origins {
    pub(super) fn of_file(file: Option<PathBuf>) -> Self {
        Self { file, variables: BTreeMap::new() }
    }

    /// A key was set by an environment variable.
    pub(super) fn set(&mut self, key: String, variable: String) {
        self.variables.insert(key, variable);
    }

    /// `the environment variable X`, or `the file Y`.
    pub(super) fn of(&self, key: &str) -> String {
        let set_by = self.variables.iter().find(|(set, _)| {
            key.strip_prefix(set.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        match (set_by, &self.file) {
            (Some((_, variable)), _) => format!("the environment variable {variable}"),
            (None, Some(file)) => format!("the file {}", file.display()),
            (None, None) => "the configuration".to_owned(),
        }
    }
}
