//! An API without a migration behind it, for tests: the test itself plays the migration task.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Access, ApiState};
use crate::config::{
    ApiConfig, ApplyConfig, BinaryMode, BulkMode, Config, CutoverConfig, Durability, KubernetesConfig,
    OnWriters, PreflightConfig, SchemaConfig, SchemaMode, SnapshotConfig, SourceConfig, StreamInProgress,
    TableFilter, TargetConfig, VerifyConfig,
};
use crate::connection::{ConnectionSettings, Secret};
use crate::cutover::{CutoverReport, Outcome, StepOutcome, StepReport};
use crate::migration::{Command, CutoverMode, StatusBoard};
use crate::model::Direction;
use crate::runtime::Shutdown;
use crate::telemetry::Metrics;
use crate::verify::SharePercent;

pub(crate) const TOKEN: &str = "open-sesame";

/// The state of an API, and the receiving end of its commands.
pub(crate) struct Fixture {
    pub(crate) board: StatusBoard,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) shutdown: Shutdown,
    pub(crate) state: ApiState,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let (sender, commands) = mpsc::channel(4);
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        let state = ApiState {
            board: board.clone(),
            metrics: Metrics::new().expect("metrics"),
            commands: sender,
            config: Arc::new(config()),
        };
        Self { board, commands, shutdown: Shutdown::new(), state }
    }

    /// The routes, as served to a listener with a token.
    pub(crate) fn router(&self) -> Router {
        let listen: SocketAddr = "0.0.0.0:8080".parse().expect("address");
        super::router(self.state.clone(), Access::of(Some(Secret::new(TOKEN)), listen), &self.shutdown)
    }
}

/// An operation that has just been accepted.
pub(crate) fn running(epoch: i64, mode: CutoverMode) -> CutoverReport {
    CutoverReport {
        epoch,
        mode,
        direction: Direction::Forward,
        idempotency_key: None,
        state: "arming",
        outcome: Outcome::Running,
        started_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
        steps: Vec::new(),
        pause: None,
        certificate: None,
    }
}

/// One step that took `duration` of the pause.
pub(crate) fn paused_step(name: &'static str, duration: Duration) -> StepReport {
    StepReport {
        name,
        started_at: Timestamp::UNIX_EPOCH,
        duration,
        in_pause: true,
        outcome: StepOutcome::Done,
        detail: None,
    }
}

pub(crate) fn config() -> Config {
    let settings = |name: &str| {
        ConnectionSettings::parse(&format!("host=127.0.0.1 dbname={name} user=test")).expect("settings")
    };
    Config {
        direction: Direction::Forward,
        source: SourceConfig {
            connection: settings("old"),
            publication: "pgsluice".into(),
            slot: "pgsluice".into(),
            tables: TableFilter::default(),
            binary: BinaryMode::Off,
            bulk: BulkMode::Auto,
            stream_in_progress: StreamInProgress::Off,
        },
        target: TargetConfig { connection: settings("new"), durability: Durability::Local, cnpg: None },
        preflight: PreflightConfig::default(),
        schema: SchemaConfig { mode: SchemaMode::Existing, postgres_bin_dir: None },
        snapshot: SnapshotConfig {
            jobs: 1,
            chunk_bytes: 1 << 30,
            max_wal_retained_bytes: None,
            max_standby_lag_bytes: None,
            max_bytes_per_second: None,
            index_jobs: 1,
        },
        apply: ApplyConfig {
            max_batch_bytes: 1 << 20,
            max_batch_delay: Duration::ZERO,
            connections: 1,
            coalesce: crate::config::Coalescing::Auto,
        },
        api: ApiConfig {
            listen: "127.0.0.1:0".parse().expect("address"),
            token: Some(Secret::new(TOKEN)),
            tls: None,
        },
        verify: VerifyConfig {
            share: SharePercent::ALL,
            jobs: 1,
            piece_bytes: None,
            snapshot_max: Duration::from_secs(60),
            every: None,
            age_max: None,
            repair: false,
        },
        cutover: CutoverConfig {
            max_pause: Duration::from_secs(1),
            max_lag_bytes: 1000,
            on_writers: OnWriters::Wait,
            reverse: false,
            moved_to: None,
            lock_out: false,
        },
        kubernetes: KubernetesConfig::default(),
        traffic: Vec::new(),
    }
}
