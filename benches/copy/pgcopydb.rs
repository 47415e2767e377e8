//! `pgcopydb clone`: Debian's package, in its default configuration but for the number of jobs, under its own snapshot, with a
//! work folder of its own. It is done when it ends, and by then it has also vacuumed and analyzed every table.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use super::Outcome;
use super::ground::Ground;
use super::servers::Servers;

/// How often its processes' memory is looked at: seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(250);
/// Linux counts in hundredths of a second towards programs, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;
/// Lines of its log that an error shows.
const LOG_LINES: usize = 20;

/// One run.
pub(crate) struct Pgcopydb {
    command: Command,
    directory: TempDir,
    /// Used by it and everything it started; once it has ended.
    pub(crate) cpu_seconds: f64,
    /// The most that all its processes together had resident at the same time; pages that several share count once.
    pub(crate) peak_resident_mib: f64,
}

impl Pgcopydb {
    /// Ready to start.
    pub(crate) fn new(servers: &Servers, ground: &Ground, database: &str, jobs: u32) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        // It looks for pg_dump and pg_restore in PATH; those of the target know both servers.
        let mut path = servers.target.bindir().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new(program()?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        let jobs = jobs.to_string();
        command
            .arg("clone")
            .args(["--source", &servers.source_url(&ground.database)])
            .args(["--target", &servers.target_url(database)])
            .args(["--table-jobs", &jobs, "--index-jobs", &jobs, "--dir"])
            .arg(directory.path().join("work"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(fs::File::create(directory.path().join("summary"))?)
            .stderr(fs::File::create(directory.path().join("log"))?)
            .kill_on_drop(true);
        Ok(Self { command, directory, cpu_seconds: 0.0, peak_resident_mib: 0.0 })
    }

    /// Runs it to its end.
    pub(crate) async fn copy(&mut self) -> Outcome<()> {
        let before = ended_children_seconds()?;
        let mut child = self.command.spawn()?;
        let pid = child.id().ok_or("pgcopydb ended at once")?;
        let mut look = tokio::time::interval(LOOK);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                _ = look.tick() => {
                    self.peak_resident_mib = self.peak_resident_mib.max(resident_mib_of_family(pid)?);
                }
            }
        };
        self.cpu_seconds = ended_children_seconds()? - before;
        if status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(self.directory.path().join("log"))?;
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        Err(format!("pgcopydb ended with {status}; the end of its log:\n{end}").into())
    }
}

/// Its first line about itself, for the report.
pub(crate) async fn version() -> Outcome<String> {
    let output = Command::new(program()?).arg("--version").output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or("pgcopydb").to_owned())
}

fn program() -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".tools/bin");
    std::env::split_paths(&path)
        .chain([own])
        .map(|folder| folder.join("pgcopydb"))
        .find(|program| program.is_file())
        .ok_or_else(|| "pgcopydb is missing: run scripts/install-pgcopydb.sh, or leave it out by PGSLUICE_BENCH_ONLY=native,pgsluice".into())
}

/// Of every program that this one has started and waited for, and of those that they have waited for.
fn ended_children_seconds() -> Outcome<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has an unknown form")?;
    let ticks: Vec<u32> =
        fields.split_whitespace().skip(13).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
    Ok(f64::from(ticks.iter().sum::<u32>()) / TICKS_PER_SECOND)
}

/// Of a process, its children, theirs, and so on.
fn resident_mib_of_family(eldest: u32) -> Outcome<f64> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent =
            stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut family, mut kib) = (vec![eldest], 0.0);
    while let Some(pid) = family.pop() {
        family.extend(children.remove(&pid).unwrap_or_default());
        // A process may end while it is looked at.
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        kib += line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    }
    Ok(kib / 1024.0)
}
