//! The configuration as the program uses it: parsed once, into types that cannot hold a wrong value.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use super::traffic::valid::{KubernetesAccess, TrafficConfig};
use crate::connection::{ConnectionSettings, Secret};
use crate::model::{Direction, TableName};
use crate::verify::SharePercent;

/// Everything the operator decided.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which of the configured databases is `source` here, and which `target`.
    pub direction: Direction,
    /// The database that is left.
    pub source: SourceConfig,
    /// The database that is reached.
    pub target: TargetConfig,
    /// Findings the operator accepts.
    pub preflight: PreflightConfig,
    /// How the target gets its schema.
    pub schema: SchemaConfig,
    /// The initial copy.
    pub snapshot: SnapshotConfig,
    /// Applying the stream of changes.
    pub apply: ApplyConfig,
    /// The HTTP API.
    pub api: ApiConfig,
    /// Comparing both sides.
    pub verify: VerifyConfig,
    /// The switchover.
    pub cutover: CutoverConfig,
    /// The cluster that this program runs in.
    pub kubernetes: KubernetesConfig,
    /// How clients are moved, in this order.
    pub traffic: Vec<TrafficConfig>,
}

/// What the names of publication and slot on the way back end with.
const BACK: &str = "_back";
/// PostgreSQL's `NAMEDATALEN` less the end of the string, in bytes.
const NAME_BYTES_MAX: usize = 63;

impl Config {
    /// The way back of this migration: what was the target is the source, with a publication and a slot of names of
    /// their own. The old side is asked for no standbys: whoever relies on them has left it.
    #[must_use]
    pub fn way_back(&self) -> Self {
        let mut back = self.clone();
        back.direction = Direction::Back;
        back.source.connection = self.target.connection.clone();
        back.source.publication = with_end(&self.source.publication);
        back.source.slot = with_end(&self.source.slot);
        back.target.connection = self.source.connection.clone();
        back.target.durability = Durability::Local;
        back
    }
}

/// `name` with the end for the way back, cut so that it is a name still. What is cut off a publication's name may be
/// part of a character: that one goes altogether.
fn with_end(name: &str) -> String {
    let mut kept = name.len().min(NAME_BYTES_MAX - BACK.len());
    while !name.is_char_boundary(kept) {
        kept -= 1;
    }
    name.get(..kept).unwrap_or_default().to_owned() + BACK
}

/// `[source]`
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// How the source is reached.
    pub connection: ConnectionSettings,
    /// Name of the publication this program creates and owns.
    pub publication: String,
    /// Name of the replication slot this program creates and owns: 1 to 63 of `[a-z0-9_]`.
    pub slot: String,
    /// Which tables are migrated.
    pub tables: TableFilter,
    /// Whether values come in binary form.
    pub binary: BinaryMode,
    /// Whether backlogs are read in bulk.
    pub bulk: BulkMode,
    /// Whether large transactions come while they still run.
    pub stream_in_progress: StreamInProgress,
}

/// Whether the source sends values in binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryMode {
    /// If every column's type allows it.
    Auto,
    /// Never.
    Off,
}

/// Whether a backlog is read in bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkMode {
    /// If it is large.
    Auto,
    /// Never.
    Off,
    /// However small it is, in small pieces.
    Always,
}

/// Whether the source sends large transactions before they have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamInProgress {
    /// Only once they have committed.
    Off,
    /// While they run; they wait on disk for their end.
    On(SpoolConfig),
}

/// Where transactions wait for their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// An existing directory, in which the spool makes one of its own.
    pub directory: PathBuf,
    /// The most room they may take, all together; at least 1 MiB.
    pub max_bytes: u64,
}

/// `[source] tables.include` / `tables.exclude`: patterns `schema.table` where `*` stands for any characters.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl TableFilter {
    /// A filter from patterns; an empty `include` means every table.
    #[must_use]
    pub const fn new(include: Vec<String>, exclude: Vec<String>) -> Self {
        Self { include, exclude }
    }

    /// Whether a table is migrated.
    #[must_use]
    pub fn selects(&self, table: &TableName) -> bool {
        let plain = table.plain();
        let included = self.include.is_empty() || self.include.iter().any(|pattern| matches(pattern, &plain));
        included && !self.exclude.iter().any(|pattern| matches(pattern, &plain))
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters (also none).
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

/// `[target]`
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// How the target is reached.
    pub connection: ConnectionSettings,
    /// When a change counts as durable, and may be confirmed to the source.
    pub durability: Durability,
    /// The CloudNativePG cluster that it is, if that is told.
    pub cnpg: Option<CnpgConfig>,
}

/// `[target.cnpg]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CnpgConfig {
    /// How the API is reached, and the namespace.
    pub access: KubernetesAccess,
    /// Name of the Cluster object.
    pub cluster: String,
    /// Name of the Secret with user and password.
    pub secret: String,
    /// Which database; `None`: the one that the Secret names.
    pub database: Option<String>,
    /// Whether a cutover waits for the first backup.
    pub backup: BackupGate,
    /// Whether what happens is told as Events of the cluster.
    pub events: EventsMode,
}

/// Whether a cutover waits for the target's first backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupGate {
    /// It is refused until there is one.
    Required,
    /// It is not looked for.
    Ignored,
}

/// Whether what happens is told as Events of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsMode {
    /// It is.
    Told,
    /// It is not.
    Off,
}

/// When a commit on the target counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Flushed by the target's primary.
    Local,
    /// Flushed by the primary and by this many of its standbys.
    Standbys(NonZeroU32),
}

/// `[preflight]`
#[derive(Clone, Debug, Default)]
pub struct PreflightConfig {
    /// Ids of blockers the operator accepts; they are reported as warnings.
    pub waive: Vec<String>,
}

/// `[schema]`
#[derive(Clone, Debug)]
pub struct SchemaConfig {
    /// Who makes the target's schema.
    pub mode: SchemaMode,
    /// Directory of `pg_dump` and `psql`; `None` searches `PATH` and the usual places.
    pub postgres_bin_dir: Option<PathBuf>,
}

/// Who makes the target's schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaMode {
    /// This program, by `pg_dump` and `psql`: pre-data before the copy, post-data after it.
    Copy,
    /// Somebody else did; it is taken as it is.
    Existing,
}

/// `[snapshot]`
#[derive(Clone, Debug)]
pub struct SnapshotConfig {
    /// Tables (or chunks) copied at the same time.
    pub jobs: usize,
    /// Size of a chunk of a large table, in bytes of its rows on the source, with TOAST.
    pub chunk_bytes: u64,
    /// While the slot retains more WAL than this on the source, no new chunk is begun; `None`: no limit.
    pub max_wal_retained_bytes: Option<u64>,
    /// While a physical standby of the source has more than this still to replay, no new chunk is begun; `None`: no limit.
    pub max_standby_lag_bytes: Option<u64>,
    /// COPY data relayed in a second, by all connections together; `None`: no limit.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// Indexes built on the target at the same time.
    pub index_jobs: usize,
}

/// `[apply]`
#[derive(Clone, Debug)]
pub struct ApplyConfig {
    /// Bytes of changes in one target transaction when behind, and of the queue between reading and applying.
    pub max_batch_bytes: u32,
    /// How long a batch may stay open waiting for more transactions.
    pub max_batch_delay: Duration,
    /// Connections that apply at the same time.
    pub connections: usize,
    /// Whether changes are written in sets.
    pub coalesce: Coalescing,
}

/// Whether changes of many rows are written in sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coalescing {
    /// Where it pays.
    Auto,
    /// Never: each by itself, in the source's order.
    Off,
    /// Wherever it is possible, for a single row too.
    Always,
}

/// `[api]`
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// What mutating requests must present; `None` only on a loopback listener.
    pub token: Option<Secret>,
    /// By what the API speaks HTTPS; `None`: HTTP.
    pub tls: Option<TlsFiles>,
}

/// Where the API's certificate and key are. Read by whoever shows them, not by commands that only talk to the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM, a chain.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// `[cutover]`
#[derive(Clone, Debug)]
pub struct CutoverConfig {
    /// The longest write pause before the cutover rolls itself back.
    pub max_pause: Duration,
    /// A cutover does not start while more than this is unapplied.
    pub max_lag_bytes: u64,
    /// What happens to transactions that hold the fence up.
    pub on_writers: OnWriters,
    /// Whether reverse replication is set up.
    pub reverse: bool,
    /// Where the source's clients are told to go, in the fence's error; `None`: the target's host and database.
    pub moved_to: Option<String>,
    /// Whether clients may no longer connect to the side that is left.
    pub lock_out: bool,
}

/// `[verify]`
#[derive(Clone, Debug)]
pub struct VerifyConfig {
    /// The part of the servers' time that it takes.
    pub share: SharePercent,
    /// Sessions on each side that compare at the same time.
    pub jobs: usize,
    /// Size of what is compared under one pair of snapshots, in bytes on the source; `None`: by its share.
    pub piece_bytes: Option<u64>,
    /// How long a pair of snapshots may be held.
    pub snapshot_max: Duration,
    /// How long after the last one has ended it starts by itself; `None`: only when it is asked for.
    pub every: Option<Duration>,
    /// How old a clean one may be for a cutover; `None`: a cutover needs none.
    pub age_max: Option<Duration>,
    /// Whether what it finds may be repaired.
    pub repair: bool,
}

/// What happens to transactions that hold the fence up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnWriters {
    /// Wait for them, within the pause allowed.
    Wait,
    /// Terminate their sessions.
    Terminate,
}

/// `[kubernetes]`
#[derive(Clone, Debug, Default)]
pub struct KubernetesConfig {
    /// How its API is reached, and which namespace is meant.
    pub access: KubernetesAccess,
    /// The Lease that one process has at a time; `None`: there is none.
    pub lease: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_patterns_match_whole_names() {
        let filter = TableFilter::new(vec!["public.*".into()], vec!["*.audit_*".into(), "public.tmp".into()]);
        assert!(filter.selects(&TableName::new("public", "orders")));
        assert!(!filter.selects(&TableName::new("public", "audit_2024")));
        assert!(!filter.selects(&TableName::new("public", "tmp")));
        assert!(filter.selects(&TableName::new("public", "tmp2")));
        assert!(!filter.selects(&TableName::new("sales", "orders")));
    }
}
