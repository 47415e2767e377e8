//! Finds `pg_dump` and `psql`: of one directory (recent dumps contain commands only a psql of that release knows),
//! at least as new as the source, and no newer than the target, which must know every SET they emit.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::SchemaError;

/// Where the tools are, and of which major version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpTools {
    /// Holds `pg_dump` and `psql`.
    pub bin_dir: PathBuf,
    /// Major version.
    pub major: u32,
}

/// Asking for a version is immediate; something that hangs is not `pg_dump`.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Directories with one subdirectory per installed version, and the way from there to the programs.
const VERSIONED_PLACES: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", "bin"),
    ("/usr/local/lib/postgresql", "bin"),
    ("/usr", "bin"),
    ("/opt/homebrew/opt", "bin"),
];

impl DumpTools {
    pub(super) fn pg_dump(&self) -> PathBuf {
        self.bin_dir.join("pg_dump")
    }

    pub(super) fn pg_restore(&self) -> PathBuf {
        self.bin_dir.join("pg_restore")
    }

    pub(super) fn psql(&self) -> PathBuf {
        self.bin_dir.join("psql")
    }
}

/// Finds the tools: in `configured` alone if given, otherwise wherever packages put them and on `PATH`; the newest
/// that fits, which is the target's own version where it is installed.
///
/// # Errors
/// [`SchemaError::NoTools`], with what was found instead.
pub async fn find_tools(
    configured: Option<&Path>,
    source_major: u32,
    target_major: u32,
) -> Result<DumpTools, SchemaError> {
    let candidates = match configured {
        Some(directory) => vec![directory.to_owned()],
        None => usual_places(),
    };
    let mut found = Vec::new();
    for bin_dir in candidates {
        if let Some(major) = version_in(&bin_dir).await {
            found.push(DumpTools { bin_dir, major });
        }
    }
    match choose(&found, source_major, target_major) {
        Some(tools) => Ok(tools.clone()),
        None => Err(SchemaError::NoTools {
            oldest: source_major,
            newest: target_major,
            found: found.into_iter().map(|tools| (tools.bin_dir, tools.major)).collect(),
        }),
    }
}

/// The newest that fits; the first of equals.
fn choose(found: &[DumpTools], source_major: u32, target_major: u32) -> Option<&DumpTools> {
    let fits = |tools: &&DumpTools| (source_major..=target_major).contains(&tools.major);
    found.iter().filter(fits).rev().max_by_key(|tools| tools.major)
}

fn usual_places() -> Vec<PathBuf> {
    let versioned = VERSIONED_PLACES.into_iter().flat_map(|(parent, below)| {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        entries.map(move |entry| entry.path().join(below))
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut places: Vec<PathBuf> = versioned.chain(on_path).filter(|place| has_both(place)).collect();
    places.dedup();
    places
}

fn has_both(directory: &Path) -> bool {
    directory.is_absolute() && ["pg_dump", "psql"].iter().all(|program| directory.join(program).is_file())
}

async fn version_in(bin_dir: &Path) -> Option<u32> {
    if !has_both(bin_dir) {
        return None;
    }
    let mut command = Command::new(bin_dir.join("pg_dump"));
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_TIMEOUT, command.output()).await.ok()?.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `pg_dump (PostgreSQL) 17.11 (Debian …)`, `… 18beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_packagers_print() {
        assert_eq!(parse_version("pg_dump (PostgreSQL) 17.11\n"), Some(17));
        assert_eq!(parse_version("pg_dump (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("pg_dump (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn the_targets_version_is_preferred_and_nothing_outside_the_two_servers_is_taken() {
        let tools = |major| DumpTools { bin_dir: PathBuf::from(format!("/{major}")), major };
        let found = [tools(13), tools(15), tools(17), tools(18)];
        assert_eq!(choose(&found, 14, 17), Some(&tools(17)));
        assert_eq!(choose(&found, 14, 16), Some(&tools(15)));
        assert_eq!(choose(&found, 16, 16), None);
    }

    #[tokio::test]
    async fn a_configured_directory_without_the_tools_is_an_error_that_names_the_versions() {
        let error = find_tools(Some(Path::new("/nonexistent")), 14, 17).await.expect_err("no tools there");
        assert!(error.to_string().contains("14 to 17"), "{error}");
        assert!(error.remedy().contains("postgres_bin_dir"));
    }
}
