//! What one run of the comparison is to do, from environment variables named `PGSLUICE_BENCH_…`. Parsed once; a value that
//! cannot be understood ends the run before a server is started.

use std::path::PathBuf;
use std::time::Duration;

use pgsluice::demo::cluster::Authentication;

use super::Outcome;
use super::cases::CaseId;
use super::environment::{is_on, number, text};

/// Letters of the cases that `benches/copy` measures: `make bench` runs both.
const COPY_CASES: [&str; 4] = ["i", "k", "l", "m"];

/// Whether the replicated connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// As TCP carries it.
    Plain,
    /// `sslmode=require`, for pgsluice and for native replication alike.
    Tls,
}

/// Whether a profiler runs beside each measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profiling {
    /// No.
    Off,
    /// `perf record` of the whole machine, one file a measurement.
    Perf,
}

/// Everything that can be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `PGSLUICE_BENCH_CASES`: letters, e.g. `a,c`; all without it.
    pub(crate) cases: Vec<CaseId>,
    /// `PGSLUICE_BENCH_ROUNDS`: how often each contender runs; 3.
    pub(crate) rounds: usize,
    /// `PGSLUICE_BENCH_TLS=1`.
    pub(crate) encryption: Encryption,
    /// How sessions prove who they are: by password. Nobody makes many here.
    pub(crate) authentication: Authentication,
    /// `PGSLUICE_BENCH_DELAY_MS`: how long bytes are under way, each way, on the connection into the target.
    pub(crate) delay: Option<Duration>,
    /// `PGSLUICE_BENCH_SCALE_PERCENT`: size of the backlogs, 1 to 1000; 100.
    pub(crate) scale_percent: u64,
    /// `PGSLUICE_BENCH_CONFIG`: lines of TOML for pgsluice, e.g. `apply.connections = 2`.
    pub(crate) configuration: String,
    /// `PGSLUICE_BENCH_ONLY`: `native`, `pgsluice` or `limits`, with commas; all without it.
    pub(crate) only: Vec<String>,
    /// `PGSLUICE_BASELINE`: another build of the program, measured beside this one.
    pub(crate) baseline: Option<PathBuf>,
    /// `PGSLUICE_BENCH_PROFILE=1`.
    pub(crate) profiling: Profiling,
}

impl Options {
    /// Reads the environment.
    pub(crate) fn from_environment() -> Outcome<Self> {
        let cases = match text("CASES") {
            Some(letters) => letters
                .split(',')
                .filter(|letter| !COPY_CASES.contains(&letter.trim()))
                .map(CaseId::parse)
                .collect::<Outcome<_>>()?,
            None => CaseId::ALL.to_vec(),
        };
        let mut configuration = text("CONFIG").unwrap_or_default();
        if let Some(connections) = number("CONNECTIONS", 1..=64)? {
            configuration = format!("apply.connections = {connections}\n{configuration}");
        }
        Ok(Self {
            cases,
            rounds: usize::try_from(number("ROUNDS", 1..=100)?.unwrap_or(3))?,
            encryption: if is_on("TLS") { Encryption::Tls } else { Encryption::Plain },
            authentication: Authentication::Scram,
            delay: number("DELAY_MS", 0..=1_000)?.filter(|ms| *ms > 0).map(Duration::from_millis),
            scale_percent: number("SCALE_PERCENT", 1..=1_000)?.unwrap_or(100),
            configuration,
            only: text("ONLY").map_or_else(Vec::new, |names| names.split(',').map(str::to_owned).collect()),
            baseline: std::env::var_os("PGSLUICE_BASELINE")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            profiling: if is_on("PROFILE") { Profiling::Perf } else { Profiling::Off },
        })
    }

    /// Whether a contender, or the limits, take part.
    pub(crate) fn includes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// A number of rows or transactions at the chosen scale.
    pub(crate) fn scaled(&self, full: u64) -> u64 {
        (full * self.scale_percent / 100).max(1)
    }

    /// What distinguishes the report's file from the plain one's, e.g. `-tls`.
    pub(crate) fn suffix(&self) -> String {
        let tls = if self.encryption == Encryption::Tls { "-tls" } else { "" };
        let delay = self.delay.map_or_else(String::new, |delay| format!("-delay-{}ms", delay.as_millis()));
        format!("{tls}{delay}")
    }
}
