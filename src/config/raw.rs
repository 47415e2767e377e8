//! The configuration as it is written: one record per section, read by serde, every field optional. The doc comments
//! here are the reference that `docs/configuration.md` is generated from. Nothing outside `config` sees these.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::byte_size::ByteSize;
use super::traffic::raw::RawTraffic;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    /// The database that is left.
    pub(super) source: RawSource,
    /// The database that is reached.
    pub(super) target: RawTarget,
    /// What `pgsluice check` finds, and what you accept of it.
    pub(super) preflight: RawPreflight,
    /// How the target gets its tables.
    pub(super) schema: RawSchema,
    /// The initial copy.
    pub(super) snapshot: RawSnapshot,
    /// Applying the changes that happen meanwhile.
    pub(super) apply: RawApply,
    /// The HTTP API.
    pub(super) api: RawApi,
    /// Comparing both sides, row by row, while traffic goes on.
    pub(super) verify: RawVerify,
    /// The switchover.
    pub(super) cutover: RawCutover,
    /// The cluster that pgsluice itself runs in. The adapters of `[[traffic]]` have keys of their own for theirs.
    pub(super) kubernetes: RawKubernetes,
    /// How clients are moved: a list of adapters, each step carried out by all of them in this order. Write one
    /// `[[traffic]]` table for each.
    pub(super) traffic: Vec<RawTraffic>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSource {
    /// Required. A libpq connection URI (`postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full`) or key=value
    /// string. The user needs REPLICATION, must own the tables (or be a member of their owner, or superuser), and needs
    /// CREATE on the database. Connect to PostgreSQL itself, not to PgBouncer.
    pub(super) url: Option<String>,
    /// File with the password; a newline at its end is ignored. Keeps the password out of `url`. Read anew for every connection,
    /// so a password that was replaced needs no restart.
    pub(super) password_file: Option<PathBuf>,
    /// Name of the publication that is created on the source, and removed by `pgsluice cleanup`.
    pub(super) publication: String,
    /// Name of the logical replication slot that is created on the source, and removed by `pgsluice cleanup`: lower-case
    /// letters, digits and underscores.
    pub(super) slot: String,
    /// Which tables are migrated.
    pub(super) tables: RawTables,
    /// Whether the source sends values in binary form, which costs both servers less.
    pub(super) binary: RawBinary,
    /// Whether a backlog, as after the initial copy or an outage, is read in bulk: decoded in large pieces and sent by COPY
    /// instead of message by message, which costs both sides a fraction. It needs one more free replication slot on the
    /// source, for a temporary copy of the slot; where it is not possible the backlog is streamed. With three free slots and one
    /// more walsender than the stream's, the next piece is decoded while one is sent. Meanwhile the session that decodes may use
    /// half as much memory as `shared_buffers`, 1 GB at most, for a transaction that large.
    pub(super) bulk: RawBulk,
    /// Whether a large transaction is sent while it still runs.
    pub(super) stream_in_progress: RawStreamInProgress,
    /// With `stream_in_progress = "on"`: directory for the transactions that have not ended yet. Without it: the
    /// system's temporary directory (`TMPDIR`, else `/tmp`). Each run makes a directory of its own in it, readable by
    /// its user alone, and removes it; what a killed run left behind, the next one removes.
    pub(super) spool_dir: Option<PathBuf>,
    /// With `stream_in_progress = "on"`: the room that transactions which have not ended yet may take in `spool_dir`,
    /// at least 1MiB. When they need more, or the disk is full, pgsluice goes on as with `"off"`; nothing is lost.
    pub(super) max_spool_bytes: ByteSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawBinary {
    /// If every column of every table has a type whose binary form means the same on both sides, and the same type on
    /// both sides. Decided whenever the stream starts; text otherwise.
    Auto,
    /// Never: always text.
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawBulk {
    /// If more than 16 MiB of WAL have not been read; otherwise, and from there on, changes are streamed.
    Auto,
    /// Never.
    Off,
    /// However short the backlog is, in small pieces at first. For tests.
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawStreamInProgress {
    /// A transaction is sent once it has committed. pgsluice needs no disk.
    Off,
    /// A transaction larger than the source's `logical_decoding_work_mem` is sent while it runs and kept on disk until it
    /// commits, so that the source need not read it again then.
    On,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTables {
    /// Patterns of the tables that are migrated, as `schema.table`; `*` stands for any characters. Empty means all.
    pub(super) include: Vec<String>,
    /// Patterns of the tables that are not migrated, even if included.
    pub(super) exclude: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTarget {
    /// Required unless `target.cnpg.cluster` is set. A libpq connection URI or key=value string, as `source.url`. The user needs
    /// CREATE on the database and on its schemas, and the right to set `session_replication_role` (superuser, or from
    /// PostgreSQL 15 on `GRANT SET ON PARAMETER session_replication_role`).
    pub(super) url: Option<String>,
    /// File with the password; a newline at its end is ignored. Keeps the password out of `url`. Read anew for every connection,
    /// so a password that was replaced needs no restart.
    pub(super) password_file: Option<PathBuf>,
    /// When a change counts as kept, so that the source may forget it.
    pub(super) durability: RawDurability,
    /// With `durability = "standbys"`: how many standbys of the target must have flushed a change, at least 1. Fewer than
    /// there are is safe where the furthest is promoted, as CloudNativePG and Patroni do; as many as there are is safe
    /// always. Should a change be lost all the same, that is noticed, and nothing goes on.
    pub(super) standbys: Option<u32>,
    /// The CloudNativePG cluster that the target is, for what only its operator knows: that it changes its primary, that it
    /// has a backup. Needs the API of Kubernetes.
    pub(super) cnpg: RawCnpg,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCnpg {
    /// Name of the Cluster object; without it none is looked at. While its operator changes the primary, pgsluice makes no
    /// new connections to it and confirms nothing to the source. Without `target.url`, where it is and who connects is taken from its
    /// Secrets: the server is `CLUSTER-rw.NAMESPACE.svc` unless the Secret says otherwise, and its certificate is checked
    /// (`sslmode=verify-full`) against the authority that the operator keeps.
    pub(super) cluster: Option<String>,
    /// Namespace of the cluster. Without it: the pod's own, or the one of the kubeconfig file's context.
    pub(super) namespace: Option<String>,
    /// Without `target.url`: the Secret with `username` and `password`, such as `CLUSTER-superuser` or that of a managed role. Looked
    /// at again every ten seconds, so a password that was replaced needs no restart. Without it: `CLUSTER-app`.
    pub(super) secret: Option<String>,
    /// Without `target.url`: the database. Without it: the Secret's `dbname`.
    pub(super) database: Option<String>,
    /// Whether a cutover waits for the cluster's first backup.
    pub(super) backup: RawBackup,
    /// Whether phases, problems and outcomes are told as Events of the Cluster object, to be seen with `kubectl describe` and
    /// `kubectl events`.
    pub(super) events: bool,
    /// A kubeconfig file. Without it: the pod's service account.
    pub(super) kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawBackup {
    /// A cutover is refused until the cluster has had a backup that succeeded: until then, a mistake or a lost volume costs
    /// everything that is written there. A rehearsal is not.
    Required,
    /// A cutover is made in any case.
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawDurability {
    /// Flushed by the target's primary.
    Local,
    /// Flushed by `standbys` standbys of the target too: a failover to one of them loses nothing. The user needs
    /// `pg_read_all_stats`.
    Standbys,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPreflight {
    /// Ids of blockers that you accept, as `pgsluice check` prints them, e.g. `source.unlogged_tables`. They become
    /// warnings. A blocker without which the migration would fail (such as `source.wal_level`) stays one.
    pub(super) waive: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSchema {
    /// Who makes the target's tables.
    pub(super) mode: RawSchemaMode,
    /// Directory with `pg_dump` and `psql`, at least as new as the source. Without it `PATH` and the usual
    /// places are searched.
    pub(super) postgres_bin_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawSchemaMode {
    /// pgsluice, by `pg_dump`: tables before the copy, indexes and constraints after it.
    Copy,
    /// They exist already, for instance by CloudNativePG's import, and are taken as they are.
    Existing,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSnapshot {
    /// Connections that copy at the same time, 1 to 64. Without it: as many as this machine has cores, at least 2
    /// and at most 4.
    pub(super) jobs: Option<u32>,
    /// Tables larger than this are copied in pieces of about this size, so that several connections can share one table.
    pub(super) chunk_bytes: ByteSize,
    /// While the slot holds back more WAL than this on the source, no further piece is begun: those under way are finished, the
    /// stream catches up, and the copy goes on by itself below 80 % of it. Meanwhile `pgsluice status` says what holds the WAL
    /// and what you can do. Without it: no limit.
    pub(super) max_wal_retained_bytes: Option<ByteSize>,
    /// While a standby of the source has more WAL than this still to replay, no further piece is begun; the copy goes on by
    /// itself below 80 % of it. The user needs `pg_read_all_stats` on the source: others are not told how far
    /// standbys are. Without it: no limit.
    pub(super) max_standby_lag_bytes: Option<ByteSize>,
    /// The most data a second that is read from the source, by all connections of the copy together, at least 64KiB. Counted are
    /// the bytes of `COPY`. Without it: no limit.
    pub(super) max_bytes_per_second: Option<ByteSize>,
    /// Indexes that are built on the target at the same time, 1 to 64. Without it: as many as `jobs`.
    pub(super) index_jobs: Option<u32>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApply {
    /// Memory for changes that are read and not yet applied, about: 64KiB to 256MiB. A third of it is a batch, what is
    /// applied in one target transaction when behind; all connections share it.
    pub(super) max_batch_bytes: ByteSize,
    /// How long a batch waits for more transactions before it is committed, 0 to 60000 ms. 0 is the least lag; more
    /// means fewer commits on the target.
    pub(super) max_batch_delay_ms: u64,
    /// Connections that apply at the same time, 1 to 16. Each has tables of its own and commits for itself: between
    /// cutovers, the tables of one may be some transactions ahead of those of another. More than one helps where the
    /// target has more cores than one table's changes can keep busy.
    pub(super) connections: u32,
    /// Whether changes of many rows are written in sets.
    pub(super) coalesce: RawCoalesce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawCoalesce {
    /// Where it pays: several changes of a row become one, and many rows one statement. Row by row where the order of
    /// changes matters.
    Auto,
    /// Never: every change by itself, in the source's order. Slower; for finding a fault.
    Off,
    /// Also for a single row; for tests.
    Always,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApi {
    /// Address and port where the API listens.
    pub(super) listen: String,
    /// File with the bearer token that changing requests (cutover, abort, confirm, adding tables) must present; read anew for every
    /// request. Without it they are only accepted on a loopback address.
    pub(super) token_file: Option<PathBuf>,
    /// File with the certificate by which the API speaks HTTPS, and only HTTPS: PEM, the certificates between it and its
    /// authority after it (in Kubernetes: `tls.crt` of a Secret). Needs `tls_key_file`. Both files are looked at every few
    /// seconds, so a certificate that was renewed needs no restart; a pair that cannot be used leaves the former one in use.
    pub(super) tls_cert_file: Option<PathBuf>,
    /// File with the private key of `tls_cert_file`, PEM without a password (in Kubernetes: `tls.key` of a Secret).
    pub(super) tls_key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawVerify {
    /// The part of the time in which a statement of a verification may run on each server, in percent: 1 to 100. Between its
    /// statements it rests. 100: it takes what it can get, in `jobs` sessions on each side.
    pub(super) share_percent: u8,
    /// Sessions on each side that compare at the same time, 1 to 64. They have `share_percent` together, unless that is 100.
    pub(super) jobs: u32,
    /// Tables larger than this are compared in pieces of about this size, by ranges of their key, each under a pair of snapshots of
    /// its own; at least 1MiB. Without it: a hundredth of 1GB for each percent of `share_percent`, but not less than 16MiB. Of a table
    /// whose rows do not lie in the order of its key, pieces are as large as `max_snapshot_seconds` allows; what takes longer is cut.
    pub(super) piece_bytes: Option<ByteSize>,
    /// How long a pair of snapshots, one on each side, may be held, 1 to 86400 seconds: for so long vacuum cannot remove rows that
    /// were deleted meanwhile, and DDL waits for the tables that are compared. A table without a key, or one whose keys both sides may
    /// order differently, is read as a whole once for each of a few parts, and each such reading has to be done by then.
    pub(super) max_snapshot_seconds: u64,
    /// A verification is started by itself once changes are streamed, and again this many hours after the last one has ended.
    /// Without it: only when it is asked for.
    pub(super) every_hours: Option<u32>,
    /// A cutover needs a verification that found no row different and ended no longer ago than this many hours; who asks for a cutover
    /// can override that, which its certificate says. 0: a cutover needs none. A rehearsal and a rollback never do.
    pub(super) max_age_hours: u32,
    /// Whether rows that a verification has found different may be repaired on the target (`pgsluice verify --repair`). Not needed
    /// unless something other than pgsluice has written to the target: find out what, first.
    pub(super) repair: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCutover {
    /// The longest write pause, 10 to 600000 ms. A cutover that cannot finish within it rolls back by itself, and the
    /// source goes on.
    pub(super) max_pause_ms: u64,
    /// A cutover does not begin while more than this is still to be applied.
    pub(super) max_lag_bytes: ByteSize,
    /// What happens to transactions that hold the fence up.
    pub(super) on_writers: RawOnWriters,
    /// Whether changes flow back from the target to the source after the cutover, so that a rollback loses nothing.
    /// Needs REPLICATION on the target, and on the source the right to set `session_replication_role`; without them the
    /// cutover is refused.
    pub(super) reverse: bool,
    /// Where applications are told to go, in the error that the source gives to writes after the cutover. Without it:
    /// the target's host and database.
    pub(super) moved_to: Option<String>,
    /// Whether clients are kept out of the database that was left: once the fence is committed nobody but the database's owner
    /// and superusers may connect to it (`CONNECT` is taken from everybody else), and their sessions are ended. For what the
    /// fence's triggers cannot refuse: large objects, and tables outside the migration. Needs the ownership of the database on
    /// both sides; a rollback and `pgsluice cleanup` give back what was taken.
    pub(super) lock_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawOnWriters {
    /// They are waited for, within the pause allowed.
    Wait,
    /// Their sessions are terminated; their clients see an error and reconnect.
    Terminate,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKubernetes {
    /// Name of a Lease (`coordination.k8s.io/v1`) that only one pgsluice has at a time: a second one serves its API, says who has it,
    /// and touches neither database until it is free. Needs the rights in `deploy/kustomize/components/lease`. Without it a second one
    /// is stopped by the locks on the target alone.
    pub(super) lease: Option<String>,
    /// Namespace of the Lease. Without it: that of the pod, or of the kubeconfig file's current context.
    pub(super) namespace: Option<String>,
    /// Kubeconfig file, where pgsluice runs outside of the cluster. Without it: the pod's service account.
    pub(super) kubeconfig: Option<PathBuf>,
}

/// The publication's and the slot's name unless configured.
const DEFAULT_NAME: &str = "pgsluice";

impl Default for RawSource {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            publication: DEFAULT_NAME.to_owned(),
            slot: DEFAULT_NAME.to_owned(),
            tables: RawTables::default(),
            binary: RawBinary::Auto,
            bulk: RawBulk::Auto,
            stream_in_progress: RawStreamInProgress::Off,
            spool_dir: None,
            max_spool_bytes: ByteSize::mib(10 << 10),
        }
    }
}

impl Default for RawTarget {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            durability: RawDurability::Local,
            standbys: None,
            cnpg: RawCnpg::default(),
        }
    }
}

impl Default for RawCnpg {
    fn default() -> Self {
        Self {
            cluster: None,
            namespace: None,
            secret: None,
            database: None,
            backup: RawBackup::Required,
            events: true,
            kubeconfig: None,
        }
    }
}

impl Default for RawSchema {
    fn default() -> Self {
        Self { mode: RawSchemaMode::Copy, postgres_bin_dir: None }
    }
}

impl Default for RawSnapshot {
    fn default() -> Self {
        Self {
            jobs: None,
            chunk_bytes: ByteSize::mib(512),
            max_wal_retained_bytes: None,
            max_standby_lag_bytes: None,
            max_bytes_per_second: None,
            index_jobs: None,
        }
    }
}

impl Default for RawApply {
    fn default() -> Self {
        Self {
            max_batch_bytes: ByteSize::mib(16),
            max_batch_delay_ms: 0,
            connections: 1,
            coalesce: RawCoalesce::Auto,
        }
    }
}

impl Default for RawApi {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            token_file: None,
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

impl Default for RawVerify {
    fn default() -> Self {
        Self {
            share_percent: 3,
            jobs: 1,
            piece_bytes: None,
            max_snapshot_seconds: 60,
            every_hours: None,
            max_age_hours: 24,
            repair: false,
        }
    }
}

impl Default for RawCutover {
    fn default() -> Self {
        Self {
            max_pause_ms: 1000,
            max_lag_bytes: ByteSize::mib(16),
            on_writers: RawOnWriters::Wait,
            reverse: true,
            moved_to: None,
            lock_out: false,
        }
    }
}
