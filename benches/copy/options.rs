//! What one run is to do, from environment variables named `PGSLUICE_BENCH_…`, most of them those of the other cases. Parsed
//! once; a value that cannot be understood ends the run before a server is started.

use std::path::PathBuf;
use std::time::Duration;

use pgsluice::demo::cluster::Authentication;

use super::Outcome;
use super::environment::{is_on, number, text};
use super::report::{BASELINE, NATIVE, PGCOPYDB, PGSLUICE};

/// Tables of (l) at full size.
pub(crate) const MANY_TABLES: u64 = 5_000;

/// The servers of the other cases can be asked for encryption; here it is never on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// As TCP carries it.
    Plain,
    /// Not measured.
    Tls,
}

/// One case. The letters go on from those of `benches/side_by_side`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaseId {
    /// (i)
    Accounts,
    /// (k)
    Mixed,
    /// (j): both in one database
    Both,
    /// (l)
    ManyTables,
    /// (m)
    Retention,
}

/// Everything that can be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `PGSLUICE_BENCH_CASES`: letters, e.g. `i,k`; all without it. Those of other cases are passed over.
    pub(crate) cases: Vec<CaseId>,
    /// `PGSLUICE_BENCH_ROUNDS`: how often each contender runs in (i), (k) and (j); 3.
    pub(crate) rounds: usize,
    /// `PGSLUICE_BENCH_SCALE_PERCENT`: size of everything, 1 to 1000; 100.
    pub(crate) scale_percent: u64,
    /// `PGSLUICE_BENCH_CONFIG`: lines of TOML for pgsluice.
    pub(crate) configuration: String,
    /// `PGSLUICE_BENCH_ONLY`: `native`, `pgcopydb`, `pgsluice` or `baseline`, with commas; all without it.
    pub(crate) only: Vec<String>,
    /// `PGSLUICE_BASELINE`: another build of the program, measured beside this one.
    pub(crate) baseline: Option<PathBuf>,
    /// `PGSLUICE_BENCH_SYNC_WORKERS`: values of `max_sync_workers_per_subscription` that the first round tries; 2, 4, 8.
    pub(crate) sync_workers: Vec<u32>,
    /// `PGSLUICE_BENCH_PGCOPYDB_JOBS`: values of `--table-jobs` and `--index-jobs` that the first round tries; 4, its default, and 2.
    pub(crate) pgcopydb_jobs: Vec<u32>,
    /// `PGSLUICE_BENCH_AUTHENTICATION`: `trust`, or `scram`, with which every new session costs both sides some milliseconds
    /// of processor time. pgcopydb makes thousands of them, so `trust` is the kinder one to it, and the default.
    pub(crate) authentication: Authentication,
    /// What the servers want to know.
    pub(crate) encryption: Encryption,
    /// The same.
    pub(crate) delay: Option<Duration>,
}

impl CaseId {
    const ALL: [Self; 5] = [Self::Accounts, Self::Mixed, Self::Both, Self::ManyTables, Self::Retention];

    /// i, k, l, m.
    pub(crate) const fn letter(self) -> &'static str {
        match self {
            Self::Accounts => "i",
            Self::Mixed => "k",
            Self::Both => "j",
            Self::ManyTables => "l",
            Self::Retention => "m",
        }
    }

    /// What it is, at the chosen scale.
    pub(crate) fn title(self, options: &Options) -> String {
        match self {
            Self::Accounts => {
                format!("copy of {} pgbench accounts", options.scaled(super::ground::ACCOUNTS))
            }
            Self::Mixed => "copy of a mixed database".to_owned(),
            Self::Both => "copy of both in one database".to_owned(),
            Self::ManyTables => format!("start with {} tables", options.scaled(MANY_TABLES)),
            Self::Retention => "what the source must keep during the copy of a large table".to_owned(),
        }
    }
}

impl Options {
    /// Reads the environment.
    pub(crate) fn from_environment() -> Outcome<Self> {
        let mut cases = match text("CASES") {
            Some(letters) => {
                let asked: Vec<&str> = letters.split(',').map(str::trim).collect();
                CaseId::ALL.into_iter().filter(|case| asked.contains(&case.letter())).collect()
            }
            None => CaseId::ALL.to_vec(),
        };
        if is_on("TLS") || is_on("DELAY_MS") || is_on("PROFILE") {
            println!("the copy is not measured with TLS, delay or a profiler: cases i, k, l, m are left out");
            cases.clear();
        }
        let options = Self {
            cases,
            rounds: usize::try_from(number("ROUNDS", 1..=100)?.unwrap_or(3))?,
            scale_percent: number("SCALE_PERCENT", 1..=1_000)?.unwrap_or(100),
            configuration: text("CONFIG").unwrap_or_default(),
            only: text("ONLY").map_or_else(Vec::new, |names| names.split(',').map(str::to_owned).collect()),
            baseline: std::env::var_os("PGSLUICE_BASELINE")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            sync_workers: numbers("SYNC_WORKERS", &[2, 4, 8])?,
            pgcopydb_jobs: numbers("PGCOPYDB_JOBS", &[4, 2])?,
            authentication: match text("AUTHENTICATION").as_deref() {
                None | Some("trust") => Authentication::Trust,
                Some("scram") => Authentication::Scram,
                Some(other) => {
                    return Err(format!("PGSLUICE_BENCH_AUTHENTICATION={other}: trust or scram").into());
                }
            },
            encryption: Encryption::Plain,
            delay: None,
        };
        if [NATIVE, PGCOPYDB, PGSLUICE, BASELINE].iter().any(|name| options.includes(name)) {
            return Ok(options);
        }
        // Only the limits of the other cases were asked for, say.
        Ok(Self { cases: Vec::new(), ..options })
    }

    /// Whether a contender takes part.
    pub(crate) fn includes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// A number of rows or tables at the chosen scale.
    pub(crate) fn scaled(&self, full: u64) -> u64 {
        (full * self.scale_percent / 100).max(1)
    }
}

/// Numbers from 1 to 32 with commas in between.
fn numbers(name: &str, otherwise: &[u32]) -> Outcome<Vec<u32>> {
    let Some(value) = text(name) else { return Ok(otherwise.to_vec()) };
    let numbers: Option<Vec<u32>> = value.split(',').map(|one| one.trim().parse().ok()).collect();
    numbers.filter(|numbers| numbers.iter().all(|number| (1..=32).contains(number))).ok_or_else(|| {
        format!("PGSLUICE_BENCH_{name}={value}: numbers from 1 to 32, with commas in between").into()
    })
}
