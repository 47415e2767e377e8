//! Finds the PostgreSQL installations of this machine, by major version. It looks; it never installs: the checkout's
//! `scripts/install-postgres.sh` does that.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Colon separated bin folders that are looked at first.
pub const DIRS_VARIABLE: &str = "PGSLUICE_POSTGRES_DIRS";

/// One PostgreSQL version that can start servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Major version, e.g. 17.
    pub major: u32,
    /// What `postgres --version` prints, e.g. `postgres (PostgreSQL) 17.11`.
    pub version: String,
    /// Absolute path, without symbolic links, of the folder with `postgres`, `initdb`, `psql` and `pg_dump`.
    pub bindir: PathBuf,
}

impl Installation {
    /// The path of one of the installation's programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// Asks the `postgres` in `bindir` for its version; `None` when there is none that runs, or no `initdb` beside it.
    #[must_use]
    pub fn at(bindir: &Path) -> Option<Self> {
        let bindir = bindir.canonicalize().ok()?;
        if !bindir.join("initdb").exists() {
            return None;
        }
        let output = Command::new(bindir.join("postgres")).arg("--version").output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        let major = parse_major(&version)?;
        Some(Self { major, version, bindir })
    }
}

/// Every installation found, by major version. Of several with the same major version the first wins, in this order:
/// [`DIRS_VARIABLE`], `.postgres/NN/bin` of the current folder or one above it, the places of the distributions'
/// packages, `pg_config --bindir`, the folder of the `postgres` in `PATH`.
#[must_use]
pub fn discover() -> BTreeMap<u32, Installation> {
    let mut found = BTreeMap::new();
    for installation in candidates().iter().filter_map(|bindir| Installation::at(bindir)) {
        found.entry(installation.major).or_insert(installation);
    }
    found
}

fn candidates() -> Vec<PathBuf> {
    let mut bindirs: Vec<PathBuf> = env::var_os(DIRS_VARIABLE)
        .iter()
        .flat_map(|dirs| env::split_paths(dirs).collect::<Vec<_>>())
        .collect();
    if let Ok(here) = env::current_dir() {
        bindirs.extend(here.ancestors().flat_map(|folder| versions_in(&folder.join(".postgres"))));
    }
    bindirs.extend(versions_in(Path::new("/usr/lib/postgresql")));
    bindirs.extend(versions_in(Path::new("/usr/local/lib/postgresql")));
    bindirs.extend((13..=25).map(|major| PathBuf::from(format!("/usr/pgsql-{major}/bin"))));
    bindirs.extend(versions_in(Path::new("/opt/homebrew/opt")));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        bindirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    bindirs.extend(env::var_os("PATH").iter().flat_map(|path| env::split_paths(path).collect::<Vec<_>>()));
    bindirs.retain(|bindir| bindir.join("postgres").is_file());
    bindirs
}

/// `NN/bin` of every folder in `parent`.
fn versions_in(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = parent.read_dir() else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().join("bin")).collect()
}

/// The major version in `postgres (PostgreSQL) 17.11 (Debian 17.11-1)` or `postgres (PostgreSQL) 18beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL) ").nth(1)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_versions_are_read_from_what_postgres_prints() {
        assert_eq!(parse_major("postgres (PostgreSQL) 17.11"), Some(17));
        assert_eq!(parse_major("postgres (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(parse_major("something else"), None);
    }
}
