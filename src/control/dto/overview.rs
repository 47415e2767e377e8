//! What a page or a dashboard needs beside the state itself: the copy in sums, what is configured, and which tables to list.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::config::{Config, TrafficConfig};
use crate::connection::ConnectionSettings;
use crate::migration::{Status, TableProgress, TableState};

/// Query of `GET /v1/status` and `GET /v1/events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatusQuery {
    /// Which tables to list in `tables`; all of them when absent. `copy` counts all of them in any case.
    #[serde(default)]
    #[param(inline)]
    pub tables: TablesListed,
}

/// Which tables a status lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TablesListed {
    /// Every table.
    #[default]
    All,
    /// Those that are being copied now; a small answer also where there are thousands.
    UnderWay,
}

impl TablesListed {
    pub(super) const fn includes(self, table: &TableProgress) -> bool {
        match self {
            Self::All => true,
            Self::UnderWay => matches!(table.state, TableState::Snapshotting | TableState::Copying),
        }
    }
}

/// The initial copy of all tables, in sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CopyRecord {
    /// Tables to copy.
    pub tables: u64,
    /// Of them, in state `pending`.
    pub pending: u64,
    /// Of them, in state `snapshotting`.
    pub snapshotting: u64,
    /// Of them, in state `copying`.
    pub copying: u64,
    /// Of them, in state `joined`.
    pub joined: u64,
    /// Rows copied so far.
    pub rows_copied: u64,
    /// Bytes of COPY data so far.
    pub bytes_copied: u64,
    /// Rows expected, from the source's statistics.
    pub rows_estimated: u64,
    /// Bytes expected, from the tables' sizes on the source.
    pub bytes_estimated: u64,
    /// Chunks copied, of the current or last copy.
    #[serde(default)]
    pub chunks_joined: u64,
    /// Chunks that its tables are cut into.
    #[serde(default)]
    pub chunks_total: u64,
    /// Bytes of COPY data a second, over the last ten seconds; 0 while the copy stands still.
    #[serde(default)]
    pub bytes_per_second: f64,
    /// How long the rest takes at that rate; null while there is none to go by, and once nothing is left.
    #[serde(default)]
    pub eta_seconds: Option<u64>,
    /// Of `indexes_total`, those that are there.
    #[serde(default)]
    pub indexes_built: u64,
    /// Indexes that are built on the target after their table's copy, by this process.
    #[serde(default)]
    pub indexes_total: u64,
    /// Bytes that this process had to copy again, because a chunk was interrupted.
    #[serde(default)]
    pub bytes_repeated: u64,
}

impl From<&Status> for CopyRecord {
    fn from(status: &Status) -> Self {
        let copy = status.copy.unwrap_or_default();
        let begin = Self {
            chunks_joined: copy.chunks_joined,
            chunks_total: copy.chunks_total,
            bytes_per_second: copy.bytes_per_second,
            eta_seconds: copy.eta_seconds,
            indexes_built: copy.indexes_built,
            indexes_total: copy.indexes_total,
            bytes_repeated: copy.bytes_repeated,
            ..Self::default()
        };
        status.tables.values().fold(begin, |mut sums, table| {
            let state = match table.state {
                TableState::Pending => &mut sums.pending,
                TableState::Snapshotting => &mut sums.snapshotting,
                TableState::Copying => &mut sums.copying,
                TableState::Joined => &mut sums.joined,
            };
            *state += 1;
            sums.tables += 1;
            sums.rows_copied += table.rows_copied;
            sums.bytes_copied += table.bytes_copied;
            sums.rows_estimated += table.rows_estimated;
            sums.bytes_estimated += table.bytes_estimated;
            sums
        })
    }
}

/// What this process was configured with, as far as somebody who steers it needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfiguredRecord {
    /// The configured source; never exchanged with the target, whatever `direction` is.
    pub source: DatabaseRecord,
    /// The configured target.
    pub target: DatabaseRecord,
    /// Who may send commands: `token` (a bearer token is needed), `loopback` (whoever is on that machine) or `nobody`.
    #[schema(example = "token")]
    pub commands: String,
    /// The longest write pause in milliseconds of an operation that names none.
    pub max_pause_ms: u64,
    /// Whether a cutover waits for an operator's word (`POST /v1/cutover/confirm`) in state `retargeting`.
    pub waits_for_confirmation: bool,
    /// A cutover needs a clean verification that ended no longer ago than so many hours, unless it is told otherwise
    /// (`unverified`); null where it needs none.
    #[serde(default)]
    pub verified_within_hours: Option<u64>,
}

/// Where a database is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseRecord {
    /// The first host of its connection string.
    pub host: String,
    /// That host's port.
    pub port: u16,
    /// Its name.
    #[schema(example = "shop")]
    pub database: String,
}

impl ConfiguredRecord {
    /// From the configuration; `commands` is who may send them.
    #[must_use]
    pub fn of(config: &Config, commands: &str) -> Self {
        let manual = |adapter: &TrafficConfig| matches!(adapter, TrafficConfig::Manual { .. });
        Self {
            source: (&config.source.connection).into(),
            target: (&config.target.connection).into(),
            commands: commands.to_owned(),
            max_pause_ms: u64::try_from(config.cutover.max_pause.as_millis()).unwrap_or(u64::MAX),
            waits_for_confirmation: config.traffic.iter().any(manual),
            verified_within_hours: config.verify.age_max.map(|age| age.as_secs() / 3_600),
        }
    }
}

impl From<&ConnectionSettings> for DatabaseRecord {
    fn from(settings: &ConnectionSettings) -> Self {
        Self { host: settings.host(), port: settings.port(), database: settings.database().to_owned() }
    }
}
