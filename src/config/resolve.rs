//! From raw records to a [`Config`] that cannot be wrong: ranges, names, files with secrets, and what excludes what.
//! Every key is looked at exactly once, here.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::time::Duration;

use pgsluice_proto::command::SlotName;

use super::byte_size::ByteSize;
use super::error::{ConfigError, Origins};
use super::raw::{
    RawApi, RawApply, RawBinary, RawBulk, RawCoalesce, RawConfig, RawCutover, RawDurability, RawKubernetes,
    RawOnWriters, RawSchema, RawSchemaMode, RawSnapshot, RawSource, RawStreamInProgress, RawTarget,
    RawVerify,
};
use super::traffic::kubernetes::{access, name};
use super::traffic::resolve_traffic;
use super::valid::{
    ApiConfig, ApplyConfig, BinaryMode, BulkMode, CnpgConfig, Coalescing, Config, CutoverConfig, Durability,
    KubernetesConfig, OnWriters, PreflightConfig, SchemaConfig, SchemaMode, SnapshotConfig, SourceConfig,
    SpoolConfig, StreamInProgress, TableFilter, TargetConfig, TlsFiles, VerifyConfig,
};
use crate::connection::{ConnectionSettings, IdentityError, Secret, ServerIdentity, warn_if_readable_by_all};
use crate::model::Direction;
use crate::verify::SharePercent;

/// The longest identifier PostgreSQL keeps, in bytes.
const IDENTIFIER_BYTES_MAX: usize = 63;
const JOBS_MAX: u32 = 64;
const CONNECTIONS_MAX: u32 = 16;
/// Connections used for the copy unless configured: as many as cores, within these.
const DEFAULT_JOBS: std::ops::RangeInclusive<usize> = 2..=4;
const CHUNK_BYTES_MIN: ByteSize = ByteSize(64 << 10);
const PIECE_BYTES_MIN: ByteSize = ByteSize::mib(1);
const BYTES_PER_SECOND_MIN: ByteSize = ByteSize(64 << 10);
const BATCH_BYTES_MIN: ByteSize = ByteSize(64 << 10);
const BATCH_BYTES_MAX: ByteSize = ByteSize::mib(256);
const SPOOL_BYTES_MIN: ByteSize = ByteSize::mib(1);
const BATCH_DELAY_MS_MAX: u64 = 60_000;
const SNAPSHOT_SECONDS: std::ops::RangeInclusive<u64> = 1..=86_400;
const PAUSE_MS: std::ops::RangeInclusive<u64> = 10..=600_000;

/// `found`: how the target is reached, if its cluster was asked.
pub(super) fn resolve(
    raw: RawConfig,
    origins: &Origins,
    cnpg: Option<CnpgConfig>,
    found: Option<ConnectionSettings>,
) -> Result<Config, ConfigError> {
    let source = source(raw.source, origins)?;
    let target = target(&raw.target, origins, cnpg, found)?;
    if source.connection.same_database(&target.connection) {
        return Err(invalid(
            "target.url",
            "it leads to the same database as `source.url`",
            "Source and target must be two databases: correct the host, the port or the database's name of one of them.",
        ));
    }
    Ok(Config {
        direction: Direction::Forward,
        source,
        target,
        preflight: PreflightConfig { waive: raw.preflight.waive },
        schema: schema(raw.schema)?,
        snapshot: snapshot(&raw.snapshot)?,
        apply: apply(&raw.apply)?,
        api: usable_tls(resolve_api(raw.api)?)?,
        verify: verify(&raw.verify)?,
        cutover: cutover(raw.cutover)?,
        kubernetes: kubernetes(raw.kubernetes)?,
        traffic: resolve_traffic(raw.traffic)?,
    })
}

pub(super) fn invalid(key: &str, problem: &str, remedy: &str) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() }
}

fn source(raw: RawSource, origins: &Origins) -> Result<SourceConfig, ConfigError> {
    let connection = connection(
        ["source.url", "source.password_file"],
        raw.url.as_deref(),
        raw.password_file.as_deref(),
        origins,
    )?;
    let stream_in_progress = stream_in_progress(&raw)?;
    if raw.publication.is_empty()
        || raw.publication.len() > IDENTIFIER_BYTES_MAX
        || raw.publication.contains('\0')
    {
        return Err(invalid(
            "source.publication",
            "it cannot be the name of a publication",
            "Use 1 to 63 bytes.",
        ));
    }
    let slot = SlotName::new(raw.slot).map_err(|_| {
        let remedy = "Use 1 to 63 lower-case letters, digits and underscores.";
        invalid("source.slot", "it cannot be the name of a replication slot", remedy)
    })?;
    for (key, patterns) in
        [("source.tables.include", &raw.tables.include), ("source.tables.exclude", &raw.tables.exclude)]
    {
        if patterns.iter().any(|pattern| !pattern.contains('.') && pattern != "*") {
            let remedy = "Write schema.table, as \"public.orders\" or \"public.*\"; a pattern without a dot would match nothing.";
            return Err(invalid(key, "a pattern has no dot", remedy));
        }
    }
    Ok(SourceConfig {
        connection,
        publication: raw.publication,
        slot: slot.as_str().to_owned(),
        tables: TableFilter::new(raw.tables.include, raw.tables.exclude),
        binary: match raw.binary {
            RawBinary::Auto => BinaryMode::Auto,
            RawBinary::Off => BinaryMode::Off,
        },
        bulk: match raw.bulk {
            RawBulk::Auto => BulkMode::Auto,
            RawBulk::Off => BulkMode::Off,
            RawBulk::Always => BulkMode::Always,
        },
        stream_in_progress,
    })
}

fn stream_in_progress(raw: &RawSource) -> Result<StreamInProgress, ConfigError> {
    if raw.max_spool_bytes < SPOOL_BYTES_MIN {
        let remedy = format!(
            "Use at least {SPOOL_BYTES_MIN}, or source.stream_in_progress = \"off\" to keep nothing on disk."
        );
        return Err(invalid("source.max_spool_bytes", "it is too small", &remedy));
    }
    if raw.stream_in_progress == RawStreamInProgress::Off {
        return Ok(StreamInProgress::Off);
    }
    let directory = raw.spool_dir.clone().unwrap_or_else(std::env::temp_dir);
    if !directory.is_dir() {
        return Err(invalid(
            "source.spool_dir",
            &format!("{} is not a directory", directory.display()),
            "Name a directory that exists and that pgsluice may write to (in Kubernetes: where an emptyDir is mounted).",
        ));
    }
    Ok(StreamInProgress::On(SpoolConfig { directory, max_bytes: raw.max_spool_bytes.0 }))
}

fn target(
    raw: &RawTarget,
    origins: &Origins,
    cnpg: Option<CnpgConfig>,
    found: Option<ConnectionSettings>,
) -> Result<TargetConfig, ConfigError> {
    let keys = ["target.url", "target.password_file"];
    let connection = match found {
        Some(found) => found,
        None => connection(keys, raw.url.as_deref(), raw.password_file.as_deref(), origins)?,
    };
    let durability = match (raw.durability, raw.standbys) {
        (RawDurability::Local, None) => Durability::Local,
        (RawDurability::Local, Some(_)) => {
            let problem = "it has a value although `target.durability` is \"local\"";
            let remedy =
                "Set target.durability = \"standbys\" to wait for standbys, or remove `target.standbys`.";
            return Err(invalid("target.standbys", problem, remedy));
        }
        (RawDurability::Standbys, Some(count)) => {
            let count = NonZeroU32::new(count);
            Durability::Standbys(count.ok_or_else(|| {
                invalid("target.standbys", "it is 0", "Use at least 1, or target.durability = \"local\".")
            })?)
        }
        (RawDurability::Standbys, None) => {
            return Err(ConfigError::Missing {
                key: "target.standbys".to_owned(),
                remedy: "with target.durability = \"standbys\", say how many standbys must have flushed a change, e.g. standbys = 1.".to_owned(),
            });
        }
    };
    Ok(TargetConfig { connection, durability, cnpg })
}

fn connection(
    [url_key, file_key]: [&'static str; 2],
    url: Option<&str>,
    password_file: Option<&Path>,
    origins: &Origins,
) -> Result<ConnectionSettings, ConfigError> {
    let variable = format!("PGSLUICE_{}", url_key.replace('.', "__").to_ascii_uppercase());
    let url = url.ok_or_else(|| ConfigError::Missing {
        key: url_key.to_owned(),
        remedy: format!(
            "set it in the configuration file or as {variable}, e.g. postgresql://USER@HOST:5432/DATABASE?sslmode=verify-full."
        ),
    })?;
    let settings = ConnectionSettings::parse(url).map_err(|source| ConfigError::Connection {
        key: url_key,
        origin: origins.of(url_key),
        source,
    })?;
    match password_file {
        None => Ok(settings),
        Some(_) if settings.has_password() => Err(invalid(
            file_key,
            &format!("`{url_key}` has a password too, and it is not clear which is meant"),
            &format!("Remove the password from `{url_key}`, or remove `{file_key}`."),
        )),
        Some(path) => Ok(settings.with_password(secret_in(file_key, path)?)),
    }
}

fn schema(raw: RawSchema) -> Result<SchemaConfig, ConfigError> {
    if let Some(directory) = raw.postgres_bin_dir.as_deref().filter(|directory| !directory.is_dir()) {
        return Err(invalid(
            "schema.postgres_bin_dir",
            &format!("{} is not a directory", directory.display()),
            "Name the directory that holds pg_dump and psql, or remove the key.",
        ));
    }
    let mode = match raw.mode {
        RawSchemaMode::Copy => SchemaMode::Copy,
        RawSchemaMode::Existing => SchemaMode::Existing,
    };
    Ok(SchemaConfig { mode, postgres_bin_dir: raw.postgres_bin_dir })
}

fn snapshot(raw: &RawSnapshot) -> Result<SnapshotConfig, ConfigError> {
    let jobs = jobs_in_range("snapshot.jobs", raw.jobs)?.unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        cores.clamp(*DEFAULT_JOBS.start(), *DEFAULT_JOBS.end())
    });
    let index_jobs = jobs_in_range("snapshot.index_jobs", raw.index_jobs)?.unwrap_or(jobs);
    if raw.chunk_bytes < CHUNK_BYTES_MIN {
        let remedy = format!("Use at least {CHUNK_BYTES_MIN}; smaller pieces only cost time.");
        return Err(invalid("snapshot.chunk_bytes", "it is too small", &remedy));
    }
    for (key, limit) in [
        ("snapshot.max_wal_retained_bytes", raw.max_wal_retained_bytes),
        ("snapshot.max_standby_lag_bytes", raw.max_standby_lag_bytes),
    ] {
        if limit == Some(ByteSize(0)) {
            let remedy = "Use a size such as \"100GB\", or remove the key for no limit.";
            return Err(invalid(key, "it is 0", remedy));
        }
    }
    if raw.max_bytes_per_second.is_some_and(|rate| rate < BYTES_PER_SECOND_MIN) {
        let remedy = format!("Use at least {BYTES_PER_SECOND_MIN}, or remove the key for no limit.");
        return Err(invalid("snapshot.max_bytes_per_second", "it is too small", &remedy));
    }
    Ok(SnapshotConfig {
        jobs,
        chunk_bytes: raw.chunk_bytes.0,
        max_wal_retained_bytes: raw.max_wal_retained_bytes.map(|size| size.0),
        max_standby_lag_bytes: raw.max_standby_lag_bytes.map(|size| size.0),
        max_bytes_per_second: raw.max_bytes_per_second.and_then(|size| NonZeroU64::new(size.0)),
        index_jobs,
    })
}

fn jobs_in_range(key: &str, jobs: Option<u32>) -> Result<Option<usize>, ConfigError> {
    match jobs {
        Some(jobs) if !(1..=JOBS_MAX).contains(&jobs) => {
            Err(invalid(key, "it is out of range", &format!("Use 1 to {JOBS_MAX}.")))
        }
        jobs => Ok(jobs.and_then(|jobs| usize::try_from(jobs).ok())),
    }
}

fn apply(raw: &RawApply) -> Result<ApplyConfig, ConfigError> {
    let in_range = (BATCH_BYTES_MIN..=BATCH_BYTES_MAX).contains(&raw.max_batch_bytes);
    let max_batch_bytes = u32::try_from(raw.max_batch_bytes.0).ok().filter(|_| in_range);
    let max_batch_bytes = max_batch_bytes.ok_or_else(|| {
        let remedy = format!("Use {BATCH_BYTES_MIN} to {BATCH_BYTES_MAX}.");
        invalid("apply.max_batch_bytes", "it is out of range", &remedy)
    })?;
    if raw.max_batch_delay_ms > BATCH_DELAY_MS_MAX {
        let remedy = format!("Use 0 to {BATCH_DELAY_MS_MAX}.");
        return Err(invalid("apply.max_batch_delay_ms", "it is out of range", &remedy));
    }
    let connections = match raw.connections {
        1..=CONNECTIONS_MAX => raw.connections as usize,
        _ => {
            let remedy = format!("Use 1 to {CONNECTIONS_MAX}.");
            return Err(invalid("apply.connections", "it is out of range", &remedy));
        }
    };
    let coalesce = match raw.coalesce {
        RawCoalesce::Auto => Coalescing::Auto,
        RawCoalesce::Off => Coalescing::Off,
        RawCoalesce::Always => Coalescing::Always,
    };
    let max_batch_delay = Duration::from_millis(raw.max_batch_delay_ms);
    Ok(ApplyConfig { max_batch_bytes, max_batch_delay, connections, coalesce })
}

pub(super) fn resolve_api(raw: RawApi) -> Result<ApiConfig, ConfigError> {
    let listen = parse_listen(&raw.listen).ok_or_else(|| {
        invalid(
            "api.listen",
            "it is not an address and a port",
            "Use IP:PORT, e.g. \"127.0.0.1:8080\", or \"0.0.0.0:8080\" in a pod (then with `api.token_file`).",
        )
    })?;
    let token = raw.token_file.as_deref().map(|path| secret_in("api.token_file", path)).transpose()?;
    if token.as_ref().is_some_and(|token| !token.current().bytes().all(|byte| byte.is_ascii_graphic())) {
        let remedy = "Use one line of visible ASCII characters, e.g. the output of `openssl rand -hex 32`.";
        return Err(invalid("api.token_file", "the token has characters that a header cannot carry", remedy));
    }
    let tls = match (raw.tls_cert_file, raw.tls_key_file) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
        (Some(_), None) => return Err(one_without_the_other("api.tls_key_file", "api.tls_cert_file", "key")),
        (None, Some(_)) => {
            return Err(one_without_the_other("api.tls_cert_file", "api.tls_key_file", "certificate"));
        }
    };
    Ok(ApiConfig { listen, token, tls })
}

fn one_without_the_other(missing: &str, given: &str, content: &str) -> ConfigError {
    ConfigError::Missing {
        key: missing.to_owned(),
        remedy: format!(
            "`{given}` is, and HTTPS needs both. Name the file with the {content} (in Kubernetes both are in one Secret), or \
             remove `{given}` for HTTP."
        ),
    }
}

/// Whoever runs needs a pair that can be used now; whoever only talks to a running instance need not even have it.
fn usable_tls(api: ApiConfig) -> Result<ApiConfig, ConfigError> {
    let Some(files) = &api.tls else { return Ok(api) };
    let unusable = |key: &str, path: std::path::PathBuf, problem| ConfigError::SecretFile {
        key: key.to_owned(),
        path,
        problem,
    };
    match ServerIdentity::read(&files.certificate, &files.key) {
        Ok(_) => {
            warn_if_readable_by_all(&files.key);
            Ok(api)
        }
        Err(IdentityError::Certificate { path, problem }) => {
            Err(unusable("api.tls_cert_file", path, problem))
        }
        Err(IdentityError::Key { path, problem }) => Err(unusable("api.tls_key_file", path, problem)),
        Err(mismatch @ IdentityError::Mismatch { .. }) => Err(invalid(
            "api.tls_key_file",
            &mismatch.to_string(),
            "Name two files that were made together; the server's certificate is to be the first in its file.",
        )),
    }
}

/// A file with one secret: a password, a token.
pub(super) fn secret_in(key: &str, path: &Path) -> Result<Secret, ConfigError> {
    Secret::in_file(path).map_err(|problem| ConfigError::SecretFile {
        key: key.to_owned(),
        path: path.to_owned(),
        problem,
    })
}

/// An address and a port; of names, only `localhost` is looked up.
fn parse_listen(text: &str) -> Option<SocketAddr> {
    if text.starts_with("localhost:") {
        return text.to_socket_addrs().ok()?.next();
    }
    text.parse().ok()
}

fn verify(raw: &RawVerify) -> Result<VerifyConfig, ConfigError> {
    let share = SharePercent::new(raw.share_percent)
        .ok_or_else(|| invalid("verify.share_percent", "it is out of range", "Use 1 to 100."))?;
    if !SNAPSHOT_SECONDS.contains(&raw.max_snapshot_seconds) {
        let remedy = format!("Use {} to {}.", SNAPSHOT_SECONDS.start(), SNAPSHOT_SECONDS.end());
        return Err(invalid("verify.max_snapshot_seconds", "it is out of range", &remedy));
    }
    if raw.piece_bytes.is_some_and(|bytes| bytes < PIECE_BYTES_MIN) {
        let remedy = format!("Use at least {PIECE_BYTES_MIN}; smaller pieces only cost time.");
        return Err(invalid("verify.piece_bytes", "it is too small", &remedy));
    }
    if raw.every_hours == Some(0) {
        let remedy = "Use a number of hours, or remove the key to verify only when it is asked for.";
        return Err(invalid("verify.every_hours", "it is 0", remedy));
    }
    let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3_600);
    Ok(VerifyConfig {
        share,
        jobs: jobs_in_range("verify.jobs", Some(raw.jobs))?.unwrap_or(1),
        piece_bytes: raw.piece_bytes.map(|bytes| bytes.0),
        snapshot_max: Duration::from_secs(raw.max_snapshot_seconds),
        every: raw.every_hours.map(hours),
        age_max: Some(hours(raw.max_age_hours)).filter(|age| !age.is_zero()),
        repair: raw.repair,
    })
}

fn cutover(raw: RawCutover) -> Result<CutoverConfig, ConfigError> {
    if !PAUSE_MS.contains(&raw.max_pause_ms) {
        let remedy = format!("Use {} to {}.", PAUSE_MS.start(), PAUSE_MS.end());
        return Err(invalid("cutover.max_pause_ms", "it is out of range", &remedy));
    }
    Ok(CutoverConfig {
        max_pause: Duration::from_millis(raw.max_pause_ms),
        max_lag_bytes: raw.max_lag_bytes.0,
        on_writers: match raw.on_writers {
            RawOnWriters::Wait => OnWriters::Wait,
            RawOnWriters::Terminate => OnWriters::Terminate,
        },
        reverse: raw.reverse,
        moved_to: raw.moved_to.filter(|text| !text.is_empty()),
        lock_out: raw.lock_out,
    })
}

fn kubernetes(raw: RawKubernetes) -> Result<KubernetesConfig, ConfigError> {
    let lease = raw.lease.filter(|given| !given.is_empty());
    let lease = lease.map(|given| name("kubernetes.lease", &given)).transpose()?;
    let access = access("kubernetes", raw.namespace.as_deref(), raw.kubeconfig)?;
    Ok(KubernetesConfig { access, lease })
}
