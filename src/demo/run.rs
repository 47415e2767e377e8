//! `pgsluice demo`: the whole migration of the craft store between two throwaway servers while clients write, then what
//! the judges say about it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::binaries::{DIRS_VARIABLE, Installation, discover};
use super::cluster::{ClusterError, ClusterOptions, LocalCluster};
use super::compare::{CompareError, connect};
use super::director::Director;
use super::progress::Progress;
use super::replicator::{Replicator, ReplicatorCommand, ReplicatorError};
use super::report::{DemoReport, LagSample, StepShare};
use super::store::{self, Scale};
use super::workload::{Workload, WorkloadOptions};
use super::{compare, ledger};
use crate::cli::{Exit, OutputFormat};
use crate::control::dto::{
    CutoverModeRecord, CutoverRecord, CutoverRequestRecord, StatusRecord, VerificationRecord,
    VerificationRequestRecord,
};
use crate::model::counted;

/// Database of the store on both sides.
const DATABASE: &str = "store";
/// Longest wait for the copy, which takes seconds.
const COPY_WAIT: Duration = Duration::from_secs(300);
/// Longest time in which the transactions wanted must be applied.
const STREAM_WAIT: Duration = Duration::from_secs(1_800);
/// Longest wait for the end of the verification, which takes seconds.
const VERIFICATION_WAIT: Duration = Duration::from_secs(600);
/// Longest wait for the end of one cutover.
const CUTOVER_WAIT: Duration = Duration::from_secs(120);
/// A cutover that rolled back (a lock not granted in time, say) is tried again so often.
const CUTOVER_ATTEMPTS_MAX: u32 = 5;
/// A cutover is asked for below this lag.
const CUTOVER_LAG_BYTES: u64 = 1 << 20;
/// How long clients go on after the cutover, so that the target is seen to work.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Above this lag the clients are slowed down, below it they may get faster: two servers, the program and the clients share
/// this machine, and a demo of a target that cannot keep up would never end.
const COMFORTABLE_LAG_BYTES: u64 = 4 << 20;
/// Transactions per second of all clients that they are never slowed below.
const RATE_MIN: f64 = 50.0;
/// How often lag is sampled.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the program to stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// The demo's size.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// PostgreSQL major version of the source [default: 14, or the oldest that is installed]
    #[arg(long, value_name = "MAJOR")]
    pub source_version: Option<u32>,
    /// PostgreSQL major version of the target [default: the newest that is installed]
    #[arg(long, value_name = "MAJOR")]
    pub target_version: Option<u32>,
    /// Source transactions to apply before the cutover
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub transactions: u64,
    /// Clients that write at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub writers: u16,
    /// Transactions per second of all clients together, at most; they do less while the target falls behind
    #[arg(long, value_name = "RATE", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Size of the store: 1 is about 210,000 rows
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub scale: f64,
    /// Keep the servers' files afterwards
    #[arg(long)]
    pub keep: bool,
    /// Where the report is written as JSON
    #[arg(long, value_name = "FILE", default_value = "target/demo/report.json")]
    pub report: PathBuf,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No two versions.
    #[error(
        "the demo needs PostgreSQL of two major versions, a source older than the target, and found {found}"
    )]
    Versions {
        /// Those installed.
        found: String,
    },
    /// A throwaway server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The program under demonstration.
    #[error(transparent)]
    Replicator(#[from] ReplicatorError),
    /// Preparing or reading a database.
    #[error("the demo's own SQL failed: {0}")]
    Sql(#[from] tokio_postgres::Error),
    /// Comparing.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// Files.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The cutover rolled back every time.
    #[error("the cutover rolled back {}, the last time because: {reason}", counted(*.attempts, "time", "times"))]
    CutoverAborted {
        /// How often it was tried.
        attempts: u32,
        /// As reported.
        reason: String,
    },
    /// Clients were never moved, or lag never sank.
    #[error("{0}")]
    Unexpected(String),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted; the throwaway servers are stopped and their files removed")]
    Interrupted,
}

impl DemoError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Versions { .. } => format!(
                "Install another one: in a checkout by scripts/install-postgres.sh, or with your package manager; {DIRS_VARIABLE} \
                 may name their bin folders."
            ),
            Self::Interrupted => "Run it again whenever you like.".to_owned(),
            _ => "Run it again; with --keep the servers' files and the program's log stay, to be looked at."
                .to_owned(),
        }
    }
}

/// Runs the demo, prints its report on standard output and writes it to [`DemoArgs::report`]. Everything else it says is on
/// standard error.
///
/// Success means that nothing was missing, doubled or different. The servers are gone when it returns, also on SIGINT and
/// SIGTERM.
///
/// # Errors
/// When there is no result to report.
pub async fn run(args: DemoArgs, output: OutputFormat) -> Result<Exit, DemoError> {
    let io = |action: &str| {
        let action = action.to_owned();
        |source| DemoError::Io { action, source }
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("listening for SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(io("listening for SIGTERM"))?;
    // Whatever is dropped here stops its process.
    let report = tokio::select! {
        report = Box::pin(migrate(&args)) => report?,
        _ = interrupt.recv() => return Err(DemoError::Interrupted),
        _ = terminate.recv() => return Err(DemoError::Interrupted),
    };
    write_report(&args.report, &report)?;
    let told = match output {
        OutputFormat::Table => format!("\n{}", summary(&args.report, &report)),
        OutputFormat::Json => as_json(&report).map_err(io("printing the report"))?,
    };
    std::io::stdout().write_all(told.as_bytes()).map_err(io("printing the report"))?;
    Ok(if report.failures.is_empty() { Exit::Success } else { Exit::Failed })
}

/// The report for a person, where it is kept, and the verdict.
fn summary(path: &Path, report: &DemoReport) -> String {
    let mut text = format!("{}\n  report: {}\n", report.text(), path.display());
    for failure in &report.failures {
        text.push_str(&format!("  FAILED: {failure}\n"));
    }
    if report.failures.is_empty() {
        text.push_str("  nothing lost, nothing twice, no row different\n");
    }
    text
}

async fn migrate(args: &DemoArgs) -> Result<DemoReport, DemoError> {
    let started = Instant::now();
    let progress = Progress::new(args.transactions);
    let (from, to) = choose_versions(args)?;
    let scale = Scale::times(args.scale);
    progress.say(&format!("starting {} and {}", from.version, to.version));
    let stage = Stage::set_up(args, &from, &to, scale, &progress).await?;

    let workload = Workload::start(
        stage.source.url(DATABASE),
        WorkloadOptions {
            writers: usize::from(args.writers),
            seed: 1,
            scale,
            transactions_per_second_max: Some(f64::from(args.rate)),
        },
    );
    let director =
        Director::start(stage.source.url(DATABASE), stage.target.url(DATABASE), workload.router()).await?;

    progress.say("copying the store while the clients write");
    let command = stage.replicator_command(&to, director.url())?;
    let copy_started = Instant::now();
    let mut replicator = command.start()?;
    replicator.wait_until_streaming(COPY_WAIT).await?;
    let copy_seconds = copy_started.elapsed().as_secs_f64();

    let lag = stream(&mut replicator, args, &workload, &progress).await?;
    let verification = verify(&replicator, &progress).await?;
    let (cutover, cutover_attempts) = cut_over(&replicator, &progress).await?;
    progress.say("the clients work on the target now");
    tokio::time::sleep(AFTERWARDS).await;
    let applied = replicator.api().metric("pgsluice_applied_transactions_total").await?;
    let status = replicator.api().status().await?;
    let record = workload.stop().await;
    replicator.signal(nix::sys::signal::Signal::SIGTERM);
    replicator.wait_for_end(STOP_WAIT).await?;

    progress.say("comparing every row of both sides as they were at the fence");
    let sides = director
        .take_sides_at_the_fence()
        .await
        .ok_or_else(|| DemoError::Unexpected("the cutover completed without moving the clients".into()))?;
    let comparison = compare::compare_rows(&sides.source, &sides.target).await?;
    drop(sides);
    let ledger = ledger::check(&stage.target.url(DATABASE), &record).await?;
    let errors_by_code = record.errors_by_code();
    let mut report = DemoReport {
        rows_copied: rows_copied(&status),
        transactions_applied: applied.map_or(0, whole),
        pause_ms: cutover.pause_ms.unwrap_or(f64::MAX),
        client_errors: errors_by_code.values().sum(),
        acknowledged_transactions: ledger.acknowledged,
        missing_transactions: ledger.missing,
        duplicate_transactions: ledger.duplicates,
        verified_rows: verification.rows_compared,
        verified_differences: verification.differences,
        verification_seconds: seconds(&verification),
        rows_compared: comparison.rows_compared,
        row_differences: comparison.row_differences(),
        failures: Vec::new(),
        source_version: from.version,
        target_version: to.version,
        tables_compared: comparison.tables,
        differing_tables: comparison.differing_tables,
        client_errors_by_code: errors_by_code,
        client_longest_wait_ms: record.longest_wait().as_secs_f64() * 1000.0,
        cutover_attempts,
        cutover_steps: steps(&cutover),
        lag,
        copy_seconds,
        total_seconds: 0.0,
    };
    report.judge(args.transactions);
    progress.finish();
    stage.tear_down(args.keep);
    report.total_seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The servers and the folder of everything else.
struct Stage {
    source: LocalCluster,
    target: LocalCluster,
    directory: tempdir::Directory,
}

impl Stage {
    async fn set_up(
        args: &DemoArgs,
        from: &Installation,
        to: &Installation,
        scale: Scale,
        progress: &Progress,
    ) -> Result<Self, DemoError> {
        let options = ClusterOptions::new();
        let (mut source, mut target) =
            tokio::try_join!(LocalCluster::start(from, &options), LocalCluster::start(to, &options))?;
        if args.keep {
            source.keep_files();
            target.keep_files();
        }
        for cluster in [&source, &target] {
            let client = connect(&cluster.url("postgres")).await?;
            client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        }
        progress.say("filling the craft store");
        store::create(&source.url(DATABASE), scale).await?;
        let directory = tempdir::Directory::new(args.keep)
            .map_err(|source| DemoError::Io { action: "creating a temporary folder".into(), source })?;
        Ok(Self { source, target, directory })
    }

    fn replicator_command(&self, to: &Installation, webhook: &str) -> Result<ReplicatorCommand, DemoError> {
        let binary = std::env::current_exe()
            .map_err(|source| DemoError::Io { action: "finding this program's own file".into(), source })?;
        Ok(ReplicatorCommand {
            binary,
            directory: self.directory.path().to_owned(),
            source_url: self.source.url(DATABASE),
            target_url: self.target.url(DATABASE),
            postgres_bin_dir: to.bindir.clone(),
            more_configuration: format!("[[traffic]]\nadapter = \"webhook\"\nurl = {webhook:?}\n"),
        })
    }

    fn tear_down(self, keep: bool) {
        if keep {
            let folders = [self.directory.path().to_owned(), self.source.data_dir(), self.target.data_dir()];
            for folder in folders {
                eprintln!("  kept: {}", folder.display());
            }
        }
    }
}

fn choose_versions(args: &DemoArgs) -> Result<(Installation, Installation), DemoError> {
    let mut installed = discover();
    let found = match installed.len() {
        0 => "none".to_owned(),
        _ => installed.keys().map(u32::to_string).collect::<Vec<_>>().join(", "),
    };
    let missing = || DemoError::Versions { found: found.clone() };
    let oldest = if installed.contains_key(&14) { Some(14) } else { installed.keys().next().copied() };
    let from = args.source_version.or(oldest).ok_or_else(missing)?;
    let to = args.target_version.or(installed.keys().next_back().copied()).ok_or_else(missing)?;
    if from >= to {
        return Err(missing());
    }
    let source = installed.remove(&from).ok_or_else(missing)?;
    let target = installed.remove(&to).ok_or_else(missing)?;
    Ok((source, target))
}

/// Watches the stream until enough was applied and little is left.
async fn stream(
    replicator: &mut Replicator,
    args: &DemoArgs,
    workload: &Workload,
    progress: &Progress,
) -> Result<Vec<LagSample>, DemoError> {
    let started = Instant::now();
    let mut rate = f64::from(args.rate);
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(LAG_EVERY);
    loop {
        ticks.tick().await;
        let status = replicator
            .wait_for_status("an answer while streaming", COPY_WAIT, |status| status.phase == "streaming")
            .await?;
        let applied = replicator.api().metric("pgsluice_applied_transactions_total").await?.map_or(0, whole);
        let (bytes, seconds) = (status.lag.bytes.unwrap_or(u64::MAX), status.lag.seconds.unwrap_or(0.0));
        if status.lag.bytes.is_some() {
            let at_seconds = started.elapsed().as_secs_f64();
            samples.push(LagSample { at_seconds, bytes, seconds, transactions_applied: applied });
        }
        progress.streaming(applied, bytes, seconds);
        if applied >= args.transactions && bytes < CUTOVER_LAG_BYTES {
            return Ok(samples);
        }
        rate =
            if status.lag.bytes.is_some() && bytes > COMFORTABLE_LAG_BYTES { rate * 0.7 } else { rate * 1.1 };
        rate = rate.clamp(RATE_MIN, f64::from(args.rate));
        workload.limit(Some(rate));
        if started.elapsed() > STREAM_WAIT {
            return Err(DemoError::Unexpected(format!(
                "after {STREAM_WAIT:?} {applied} transactions are applied and {bytes} bytes are still to be applied"
            )));
        }
    }
}

/// Both sides are compared while the clients write: no cutover begins before that is clean.
async fn verify(replicator: &Replicator, progress: &Progress) -> Result<VerificationRecord, DemoError> {
    progress.say("verifying every row while the clients write");
    let request = VerificationRequestRecord { share_percent: Some(100), ..Default::default() };
    let accepted = replicator.api().start_verification(request).await?;
    let deadline = Instant::now() + VERIFICATION_WAIT;
    loop {
        let seen = replicator.api().verification().await?;
        if seen.number == accepted.number && seen.outcome != "running" {
            return match seen.outcome.as_str() {
                "clean" => Ok(seen),
                _ => Err(DemoError::Unexpected(format!(
                    "the verification under load is {}, with {} of {} rows different. {}",
                    seen.outcome,
                    seen.differences,
                    seen.rows_compared,
                    seen.reason.unwrap_or_default()
                ))),
            };
        }
        if Instant::now() > deadline {
            return Err(DemoError::Unexpected(format!(
                "the verification did not end in {VERIFICATION_WAIT:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn seconds(verification: &VerificationRecord) -> f64 {
    let ended_at = verification.ended_at.unwrap_or(verification.started_at);
    ended_at.duration_since(verification.started_at).as_secs_f64()
}

async fn cut_over(replicator: &Replicator, progress: &Progress) -> Result<(CutoverRecord, u32), DemoError> {
    let mut reason = String::new();
    for attempt in 1..=CUTOVER_ATTEMPTS_MAX {
        progress.say("cutting over while the clients write");
        let request = CutoverRequestRecord {
            mode: Some(CutoverModeRecord::Cutover),
            max_pause_ms: Some(1_000),
            unverified: false,
        };
        let accepted = replicator.api().start_cutover(request, &format!("demo-{attempt}")).await?;
        let deadline = Instant::now() + CUTOVER_WAIT;
        let ended = loop {
            let seen = replicator.api().cutover().await?;
            if seen.epoch == accepted.epoch && seen.outcome != "running" {
                break seen;
            }
            if Instant::now() > deadline {
                return Err(DemoError::Unexpected(format!("the cutover did not end in {CUTOVER_WAIT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        if ended.outcome == "completed" {
            return Ok((ended, attempt));
        }
        reason = ended.reason.unwrap_or_default();
        progress.say(&format!("the cutover rolled back, and the clients went on: {reason}"));
    }
    Err(DemoError::CutoverAborted { attempts: CUTOVER_ATTEMPTS_MAX, reason })
}

fn rows_copied(status: &StatusRecord) -> u64 {
    status.tables.iter().map(|table| table.rows_copied).sum()
}

fn steps(cutover: &CutoverRecord) -> Vec<StepShare> {
    let share = |step: &crate::control::dto::StepRecord| StepShare {
        name: step.name.clone(),
        duration_ms: step.duration_ms,
        share_of_pause: step.share_of_pause,
    };
    cutover.steps.iter().map(share).collect()
}

fn write_report(path: &Path, report: &DemoReport) -> Result<(), DemoError> {
    let failed = |source| DemoError::Io { action: format!("writing {}", path.display()), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let json = as_json(report).map_err(failed)?;
    std::fs::write(path, json).map_err(failed)
}

fn as_json(report: &DemoReport) -> std::io::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

/// A counter's sample as the number it is.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(sample: f64) -> u64 {
    sample.max(0.0) as u64
}

mod tempdir {
    //! A temporary folder, private to this user, gone with its value.

    use std::os::unix::fs::DirBuilderExt;
    use std::path::{Path, PathBuf};

    pub(super) struct Directory {
        path: PathBuf,
        keep: bool,
    }

    impl Directory {
        pub(super) fn new(keep: bool) -> std::io::Result<Self> {
            let path = std::env::temp_dir().join(format!("pgsluice-demo-{:08x}", rand::random::<u32>()));
            std::fs::DirBuilder::new().mode(0o700).create(&path)?;
            Ok(Self { path, keep })
        }

        pub(super) fn path(&self) -> &Path {
            &self.path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            if !self.keep {
                let _ = std::fs::remove_dir_all(&self.path);
            }
        }
    }
}
