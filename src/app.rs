//! Composition root: wires configuration, migration, API and telemetry together, and turns the way they end into an
//! exit code. No decisions of its own.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cli::{
    CleanupArguments, Exit, FindingsSummary, Look, OutputFormat, cleanup_json, cleanup_text, findings_text,
};
use crate::config::{self, Config, ConfigError, KubernetesConfig};
use crate::connection::ConnectionSettings;
use crate::control::dto::FindingRecord;
use crate::control::{self, ApiState, ControlError};
use crate::cutover::{self, CleanupError, CleanupOptions, CutoverError};
use crate::kubernetes::cnpg::{CnpgError, TargetCluster};
use crate::kubernetes::lease::Lease;
use crate::migration::monitor::Monitor;
use crate::migration::{self, LeaseKeeper, LeaseLost, Legs, MigrationError, StatusBoard};
use crate::preflight::{Finding, Severity};
use crate::runtime::{Backoff, Shutdown, Supervisor};
use crate::telemetry::{self, Console, Metrics};

/// Commands of the API that wait for the migration task (INV-11).
const COMMANDS_QUEUED_MAX: usize = 16;
/// How long an API server that does not answer is waited for when the program starts, and how often it is asked.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const SILENCE_RETRY_FIRST: Duration = Duration::from_millis(500);
const SILENCE_RETRY_LONGEST: Duration = Duration::from_secs(5);
/// All tasks must have ended this long after the signal; SIGTERM promises five seconds.
const DRAIN_GRACE: Duration = Duration::from_millis(4_500);

/// Why the program ended before anybody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// What was configured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// How the target is reached could not be found out.
    #[error(transparent)]
    Cluster(#[from] CnpgError),
    /// The API cannot listen.
    #[error("cannot listen on {listen}: {error}")]
    Listen {
        /// `api.listen`.
        listen: std::net::SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The API stopped.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Another process has the Lease.
    #[error(transparent)]
    Lease(#[from] LeaseLost),
    /// The migration stopped.
    #[error(transparent)]
    Migration(#[from] Box<MigrationError>),
    /// Not everything could be removed.
    #[error(transparent)]
    Cleanup(#[from] Box<CleanupError>),
    /// Metrics could not be registered, or signals not be listened to.
    #[error("cannot start: {0}")]
    Start(String),
    /// A task vanished.
    #[error("the task \"{0}\" ended unexpectedly")]
    TaskGone(&'static str),
}

impl AppError {
    /// How the program ends because of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Listen { .. } | Self::Start(_) | Self::Config(_) | Self::Cluster(_) => Exit::Usage,
            Self::Control(_) | Self::Lease(_) | Self::TaskGone(_) => Exit::Failed,
            Self::Migration(error) => error.exit(),
            Self::Cleanup(error) => match error.as_ref() {
                CleanupError::Cutover(CutoverError::Connect(_)) => Exit::Usage,
                _ => Exit::Failed,
            },
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Listen { .. } => "Choose another address with api.listen (PGSLUICE_API__LISTEN).".into(),
            Self::Lease(lost) => lost.remedy(),
            Self::Config(error) => error.remedy(),
            Self::Cluster(error) => error.remedy(),
            Self::Migration(error) => error.remedy(),
            Self::Cleanup(error) => error.remedy(),
            Self::Control(_) | Self::Start(_) | Self::TaskGone(_) => {
                "Start pgsluice again: it resumes where it stopped. If it happens again, please report it."
                    .into()
            }
        }
    }
}

/// What a command begins with.
#[derive(Debug)]
pub struct Start {
    config: Config,
    cluster: Option<TargetCluster>,
}

impl Start {
    /// Reads the configuration and, if the target is a cluster that is to be watched, looks at it once. It answers, or is said not to:
    /// only what is to be taken from its Secrets is needed.
    ///
    /// # Errors
    /// The configuration is wrong ([`ConfigError`]), or the cluster's Secrets do not say how it is reached.
    pub async fn from(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        target: TargetNeeded,
    ) -> Result<Self, AppError> {
        let written = config::read(path, environment)?;
        let named = match (written.cluster(), target) {
            (Some(named), TargetNeeded::AtOnce | TargetNeeded::InTheEnd) => named,
            (Some(_), TargetNeeded::Never) if written.asks_cluster() => {
                return Ok(Self { config: written.complete_without_target()?, cluster: None });
            }
            _ => return Ok(Self { config: written.complete(None)?, cluster: None }),
        };
        let mut cluster = TargetCluster::new(named);
        cluster.look().await;
        let found = match target {
            _ if !written.asks_cluster() => None,
            TargetNeeded::InTheEnd => Some(find_patiently(&mut cluster).await?),
            _ => Some(cluster.find().await?),
        };
        let mut config = written.complete(found)?;
        config.target.connection = config.target.connection.with_turnover(cluster.turnover());
        Ok(Self { config, cluster: Some(cluster) })
    }
}

/// What a command needs the target for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetNeeded {
    /// It is asked, and if it cannot be, that is the answer.
    AtOnce,
    /// An API server that is away when the program starts, as often when a pod does, is waited for.
    InTheEnd,
    /// It is lost.
    Never,
}

/// Waits out an API server that does not answer; what it refuses is told at once.
async fn find_patiently(cluster: &mut TargetCluster) -> Result<ConnectionSettings, CnpgError> {
    let begun = Instant::now();
    let mut backoff = Backoff::new(SILENCE_RETRY_FIRST, SILENCE_RETRY_LONGEST);
    loop {
        match cluster.find().await {
            Err(error) if error.is_silence() && begun.elapsed() < SILENCE_MAX => {
                tracing::warn!(%error, "waiting for the Kubernetes API");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            found => return found,
        }
    }
}

/// `pgsluice run`: the long-running process. Ends on SIGTERM or SIGINT, within five seconds.
///
/// # Errors
/// [`AppError`]; nothing is lost, and the next start resumes.
pub async fn run(
    start: impl Future<Output = Result<Start, AppError>> + Send,
    console: Console,
) -> Result<Exit, AppError> {
    let mut signals = Signals::listen()?;
    let Start { config, cluster } = tokio::select! {
        start = start => start?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before it began");
            return Ok(Exit::Success);
        }
    };
    // Until the last session has ended.
    let _authority = cluster.as_ref().and_then(TargetCluster::keepsake);
    let config = Arc::new(config);
    let listen = config.api.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| AppError::Listen { listen, error })?;
    let metrics = Metrics::new().map_err(|error| AppError::Start(error.to_string()))?;
    metrics.set_cutover_bounds(config.cutover.max_pause, config.cutover.max_lag_bytes);
    let board = StatusBoard::new(Timestamp::now());
    let shutdown = Shutdown::new();
    let (commands, commands_taken) = mpsc::channel(COMMANDS_QUEUED_MAX);

    let mut tasks: Supervisor<AppError> = Supervisor::new(shutdown.clone());
    let api = ApiState {
        board: board.clone(),
        metrics: Arc::clone(&metrics),
        commands,
        config: Arc::clone(&config),
    };
    tasks.spawn("api", {
        let shutdown = shutdown.clone();
        async move { Ok(control::serve(listener, api, shutdown).await?) }
    });
    // Closed when the migration has ended.
    let (migration_end, migration_ended) = oneshot::channel();
    let turn = match lease(&config.kubernetes) {
        None => watch::channel(true).1,
        Some(lease) => {
            let (keeper, turn) = LeaseKeeper::new(lease, board.clone(), shutdown.clone());
            tasks.spawn("lease", async move { Ok(keeper.run(migration_ended).await?) });
            turn
        }
    };
    let (legs, leg) = Legs::new(config, board.clone(), Arc::clone(&metrics), shutdown.clone());
    let watch = cluster.as_ref().map(TargetCluster::watch);
    let legs = legs.into_cluster(watch.clone());
    if let Some(cluster) = cluster {
        watch_cluster(&mut tasks, cluster, &board, turn.clone(), &shutdown);
    }
    let monitor = Monitor { leg, board: board.clone(), metrics, cluster: watch.clone() };
    tasks.spawn("monitor", {
        let (shutdown, mut turn) = (shutdown.clone(), turn.clone());
        async move {
            if turn.wait_for(|is_ours| *is_ours).await.is_ok() {
                monitor.run(shutdown).await;
            }
            Ok(())
        }
    });
    tasks.spawn("migration", async move {
        let _end: oneshot::Sender<()> = migration_end;
        let mut commands = commands_taken;
        if migration::await_turn(turn, &mut commands).await {
            legs.run(commands).await.map_err(Box::new)?;
        }
        Ok(())
    });
    tasks.spawn("signals", await_signal(signals, shutdown.clone()));
    if console.is_terminal() {
        tasks.spawn("progress", {
            let shutdown = shutdown.clone();
            async move {
                telemetry::show(console, board, shutdown).await;
                Ok(())
            }
        });
    }
    end(tasks, shutdown).await
}

/// The Lease, if there is to be one. This process is called like its pod, with an end that no other process has, another of the
/// same pod neither.
fn lease(config: &KubernetesConfig) -> Option<Lease> {
    let name = config.lease.clone()?;
    let pod = ["POD_NAME", "HOSTNAME"].into_iter().find_map(|variable| std::env::var(variable).ok());
    let pod = pod.filter(|pod| !pod.is_empty()).unwrap_or_else(|| "pgsluice".to_owned());
    let identity = format!("{pod}_{:08x}", rand::random::<u32>());
    Some(Lease::new(config.access.clone(), name, identity))
}

/// Looks at the cluster that is moved into, and tells it what happens.
fn watch_cluster(
    tasks: &mut Supervisor<AppError>,
    cluster: TargetCluster,
    board: &StatusBoard,
    mut turn: watch::Receiver<bool>,
    shutdown: &Shutdown,
) {
    if let Some(recorder) = cluster.recorder() {
        let (board, watch, shutdown) = (board.clone(), cluster.watch(), shutdown.clone());
        tasks.spawn("events", async move {
            // Whoever waits for the Lease has nothing to tell.
            if turn.wait_for(|is_ours| *is_ours).await.is_ok() {
                telemetry::tell_cluster(board, watch, recorder, shutdown).await;
            }
            Ok(())
        });
    }
    let shutdown = shutdown.clone();
    tasks.spawn("cluster", async move {
        cluster.follow(shutdown).await;
        Ok(())
    });
}

/// Waits for the first task to end: on request, in good order; otherwise that is why the program ends.
async fn end(mut tasks: Supervisor<AppError>, shutdown: Shutdown) -> Result<Exit, AppError> {
    let ended = tasks.next_end().await;
    let requested = shutdown.is_requested();
    for name in tasks.drain(DRAIN_GRACE).await {
        tracing::warn!(task = name, "did not stop in time and was cut off");
    }
    match ended {
        Some(end) => match end.outcome {
            Err(Some(error)) => Err(error),
            Ok(()) if requested => {
                tracing::info!("stopped; the next start resumes here");
                Ok(Exit::Success)
            }
            _ => Err(AppError::TaskGone(end.name)),
        },
        None => Ok(Exit::Success),
    }
}

/// What tells the program to stop. Listened to before anything else is done.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(|error| AppError::Start(error.to_string()));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next one's name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn await_signal(mut signals: Signals, shutdown: Shutdown) -> Result<(), AppError> {
    let name = tokio::select! {
        name = signals.next() => name,
        () = shutdown.requested() => return Ok(()),
    };
    tracing::info!(signal = name, "stopping");
    shutdown.request();
    Ok(())
}

/// `pgsluice cleanup`: undo on both sides.
///
/// # Errors
/// [`AppError`]
pub async fn cleanup(
    start: Start,
    arguments: CleanupArguments,
    output: OutputFormat,
) -> Result<Exit, AppError> {
    let CleanupArguments { dry_run, unfence_source, without_source, unfence_target, without_target } =
        arguments;
    let options = CleanupOptions { dry_run, unfence_source, without_source, unfence_target, without_target };
    let actions = cutover::cleanup(&start.config, options).await.map_err(Box::new)?;
    match output {
        OutputFormat::Table => print_out(&cleanup_text(&actions)),
        OutputFormat::Json => print_out(&format!("{:#}\n", cleanup_json(&actions))),
    }
    Ok(Exit::Success)
}

/// Who reads no further (`| head`), or has closed the output, is no reason to end otherwise than by what was done.
fn print_out(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn records(findings: &[Finding]) -> Vec<FindingRecord> {
    findings.iter().map(FindingRecord::from).collect()
}

/// `pgsluice check`: preflight, printed. Changes nothing.
///
/// # Errors
/// [`AppError`] when a side cannot be asked; a blocker is an exit code.
pub async fn check(start: Start, output: OutputFormat) -> Result<Exit, AppError> {
    let sight = start.cluster.as_ref().map(|cluster| cluster.watch().sight());
    let findings = migration::check(&start.config, sight.as_ref()).await.map_err(Box::new)?;
    let records = records(&findings);
    match output {
        OutputFormat::Table => print_out(&findings_text(&records, Look::of_stdout())),
        OutputFormat::Json => {
            let summary = FindingsSummary::of(&records).json();
            print_out(&format!("{:#}\n", serde_json::json!({ "findings": records, "summary": summary })));
        }
    }
    let blocked = findings.iter().any(|finding| finding.severity == Severity::Blocker);
    Ok(if blocked { Exit::Blocker } else { Exit::Success })
}
