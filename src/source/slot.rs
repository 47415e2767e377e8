//! The replication slot: created with an exported snapshot, looked at, dropped. Creation waits for the source's
//! running transactions; while it does, it says for whom, and it never leaves a slot behind that nobody will read
//! (trap 18). Never reads changes from the slot.

use std::pin::pin;
use std::time::Duration;

use pgsluice_proto::command::{CommandError, SlotLife, SlotName, SnapshotAction, create_replication_slot};
use tokio_postgres::Row;

use crate::connection::{
    ConnectError, ConnectionSettings, SqlError, SqlSession, TextRow, WireConnection, WireError, connect_sql,
};
use crate::model::{Disposition, Lsn, Side};
use crate::runtime::Shutdown;

/// The first bound of the wait for one old transaction, doubled with each try. When it passes, the server takes
/// the unfinished slot away; without it a client that died would leave the creation running behind it.
const FIRST_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Long enough to get past any number of transactions of ordinary length.
const LONGEST_LOCK_TIMEOUT: Duration = Duration::from_secs(80);
/// How often it is said who is waited for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a terminated walsender may take to let go of its slot.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
const RELEASE_POLL: Duration = Duration::from_millis(50);

/// SQLSTATEs that decide what happens next.
const LOCK_NOT_AVAILABLE: &str = "55P03";
const DUPLICATE_OBJECT: &str = "42710";
const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";

/// A slot that exists, and the snapshot of the moment from which it streams.
///
/// Every transaction is either in the snapshot or in the stream, never in both (trap 4). The snapshot can be used
/// as long as this value lives: it holds the connection that exported it.
#[derive(Debug)]
pub struct ExportedSlot {
    /// Held open, and unused: its next command would end the snapshot.
    _exporter: WireConnection,
    /// The slot's consistent point: the stream begins with the first commit after it.
    pub consistent_lsn: Lsn,
    /// For `SET TRANSACTION SNAPSHOT`.
    pub snapshot_name: String,
}

/// A transaction that slot creation waits for. Its query is not shown: it may contain row values (INV-10).
#[derive(Clone, Debug, PartialEq)]
pub struct OldTransaction {
    /// Whose it is.
    pub holder: TransactionHolder,
    /// Its database: slot creation waits for the whole cluster.
    pub database: Option<String>,
    /// How long it runs already; `None` where the role may not see it (grant `pg_read_all_stats`).
    pub age: Option<Duration>,
}

/// Whose transaction it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionHolder {
    /// A session.
    Session {
        /// Its process, for `pg_terminate_backend`.
        pid: i32,
        /// Its user.
        user: Option<String>,
        /// Its `application_name`.
        application: Option<String>,
        /// `active`, `idle in transaction` …
        state: Option<String>,
    },
    /// A prepared transaction.
    Prepared {
        /// Its name, for `COMMIT PREPARED`.
        gid: String,
    },
}

impl std::fmt::Display for OldTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.holder {
            TransactionHolder::Session { pid, user, application, state } => {
                write!(f, "pid {pid}")?;
                for (title, value) in [("user", user), ("application", application), ("state", state)] {
                    if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                        write!(f, ", {title} {value}")?;
                    }
                }
            }
            TransactionHolder::Prepared { gid } => write!(f, "prepared transaction '{gid}'")?,
        }
        if let Some(database) = &self.database {
            write!(f, ", database {database}")?;
        }
        match self.age {
            Some(age) => write!(f, ", running for {} s", age.as_secs()),
            None => Ok(()),
        }
    }
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// `pgoutput` if it is ours.
    pub plugin: Option<String>,
    /// The database it decodes.
    pub database: Option<String>,
    /// Who reads it, or is creating it.
    pub active_pid: Option<i32>,
    /// The oldest WAL it keeps.
    pub restart_lsn: Option<Lsn>,
    /// What its reader has confirmed; the stream resumes here.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// Whether the WAL it needs is still there.
    pub wal_status: WalStatus,
    /// WAL it keeps the source from removing, in bytes.
    pub retained_bytes: Option<u64>,
}

/// `pg_replication_slots.wal_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// Kept beyond `max_wal_size`.
    Extended,
    /// About to be removed (`max_slot_wal_keep_size`).
    Unreserved,
    /// Gone: the slot is of no more use.
    Lost,
    /// Not said (no WAL reserved yet).
    Unknown,
}

/// What [`drop_slot`] does when somebody uses the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenActive {
    /// Refuses.
    Refuse,
    /// Terminates that walsender if it is one of ours, as a killed run leaves it behind; refuses otherwise.
    TerminateOurs,
}

/// What [`drop_slot`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DroppedSlot {
    /// It is gone.
    Dropped,
    /// There was none.
    Absent,
}

/// Why there is no slot to stream from, or it cannot be dropped.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The name is not one PostgreSQL accepts.
    #[error("\"{slot}\" cannot be a slot's name: {cause}")]
    Name {
        /// The name.
        slot: String,
        /// What is wrong with it.
        cause: CommandError,
    },
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The name is taken.
    #[error("the source has a replication slot \"{slot}\" already")]
    AlreadyExists {
        /// Its name.
        slot: String,
    },
    /// The slot of that name is not ours to drop.
    #[error(
        "replication slot \"{slot}\" of the source belongs to database \"{database}\" or another plugin, not to this migration"
    )]
    Foreign {
        /// Its name.
        slot: String,
        /// Its database; empty for a physical slot.
        database: String,
    },
    /// `max_replication_slots` is reached.
    #[error("all replication slots of the source are in use")]
    NoneFree,
    /// Somebody reads it.
    #[error("replication slot \"{slot}\" is in use by process {pid} of the source")]
    Active {
        /// Its name.
        slot: String,
        /// Who.
        pid: i32,
    },
    /// The program is asked to stop.
    #[error("stopped while creating the replication slot; none was left behind")]
    Stopped,
    /// The walsender refused or was lost.
    #[error("the replication slot could not be created: {0}")]
    Replication(#[from] WireError),
    /// A query failed.
    #[error("the source's replication slots cannot be read or dropped: {0}")]
    Sql(#[from] SqlError),
    /// The walsender's answer has another shape.
    #[error("the source's answer to CREATE_REPLICATION_SLOT lacks {column}")]
    Answer {
        /// The column that is missing or malformed.
        column: &'static str,
    },
}

impl From<tokio_postgres::Error> for SlotError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error.into())
    }
}

impl SlotError {
    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Name { .. } => {
                "Choose source.slot of 1 to 63 lower-case letters, digits and underscores.".to_owned()
            }
            Self::Connect(error) => error.remedy(),
            Self::AlreadyExists { slot } => format!(
                "If nobody needs it, SELECT pg_drop_replication_slot('{slot}'); otherwise choose another name with source.slot."
            ),
            Self::Foreign { .. } => {
                "Choose another name with source.slot: slots are shared by all databases of a server."
                    .to_owned()
            }
            Self::NoneFree => {
                "Drop slots nobody reads (SELECT slot_name, active FROM pg_replication_slots), or raise \
                 max_replication_slots and restart the source."
                    .to_owned()
            }
            Self::Active { pid, .. } => format!(
                "Stop the other pgsluice that reads it; if there is none: SELECT pg_terminate_backend({pid});"
            ),
            Self::Stopped => "Start again.".to_owned(),
            Self::Replication(error) => error.remedy(),
            Self::Sql(_) | Self::Answer { .. } => {
                "Check that the source answers and that its role has REPLICATION.".to_owned()
            }
        }
    }

    /// What the program does about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Connect(error) => error.disposition(),
            Self::Replication(error) => error.disposition(),
            Self::Sql(error) => error.disposition(),
            Self::Stopped | Self::Active { .. } => Disposition::Retry,
            Self::Name { .. }
            | Self::AlreadyExists { .. }
            | Self::Foreign { .. }
            | Self::NoneFree
            | Self::Answer { .. } => Disposition::WaitForOperator { remedy: self.remedy() },
        }
    }
}

/// Creates the slot and exports the snapshot of its consistent point. Waits as long as the source has transactions
/// that are older, and tells `on_wait` about once a second which (an empty list: none is left, or none can be seen).
///
/// Not cancel safe: dropping the future may leave the creation running on the source for up to the current lock
/// timeout. `shutdown` ends it cleanly.
///
/// # Errors
/// [`SlotError`]; the slot does not exist then, unless the connection was lost in the moment of success.
pub async fn create_exporting(
    settings: &ConnectionSettings,
    slot: &str,
    on_wait: impl FnMut(&[OldTransaction]),
    shutdown: &Shutdown,
) -> Result<ExportedSlot, SlotError> {
    create(settings, slot, SlotLife::Permanent, on_wait, shutdown).await
}

/// The same for a slot that is only there for its snapshot: it goes with its connection, however that ends.
///
/// # Errors
/// As [`create_exporting`].
pub async fn create_temporary(
    settings: &ConnectionSettings,
    slot: &str,
    on_wait: impl FnMut(&[OldTransaction]),
    shutdown: &Shutdown,
) -> Result<ExportedSlot, SlotError> {
    create(settings, slot, SlotLife::Temporary, on_wait, shutdown).await
}

async fn create(
    settings: &ConnectionSettings,
    slot: &str,
    life: SlotLife,
    mut on_wait: impl FnMut(&[OldTransaction]),
    shutdown: &Shutdown,
) -> Result<ExportedSlot, SlotError> {
    let name = SlotName::new(slot).map_err(|cause| SlotError::Name { slot: slot.to_owned(), cause })?;
    let observer = connect_sql(settings, Side::Source, "slot watch").await?;
    let mut walsender = WireConnection::connect_walsender(settings, Side::Source, "slot", &[]).await?;
    let mut lock_timeout = FIRST_LOCK_TIMEOUT;
    loop {
        match try_create(&mut walsender, &observer, &name, life, lock_timeout, &mut on_wait, shutdown).await {
            Ok(row) => return exported(walsender, &row),
            Err(SlotError::Replication(error)) if error.sqlstate() == Some(LOCK_NOT_AVAILABLE) => {
                lock_timeout = lock_timeout.saturating_mul(2).min(LONGEST_LOCK_TIMEOUT);
            }
            Err(error) => return Err(refine(error, slot)),
        }
    }
}

async fn try_create(
    walsender: &mut WireConnection,
    observer: &SqlSession,
    name: &SlotName,
    life: SlotLife,
    lock_timeout: Duration,
    on_wait: &mut impl FnMut(&[OldTransaction]),
    shutdown: &Shutdown,
) -> Result<TextRow, SlotError> {
    if shutdown.is_requested() {
        return Err(SlotError::Stopped);
    }
    let pid = walsender.backend_pid();
    let command = create_replication_slot(name, SnapshotAction::Export, life, walsender.server_version());
    walsender.simple_query(&format!("SET lock_timeout = '{}ms'", lock_timeout.as_millis())).await?;
    let mut creation = pin!(walsender.simple_query(&command));
    loop {
        tokio::select! {
            answer = &mut creation => {
                return answer?.into_iter().next().ok_or(SlotError::Answer { column: "a row" });
            }
            () = tokio::time::sleep(LOOK_INTERVAL) => {
                // Who is waited for is only told: a watcher that is lost must not leave the creation behind.
                if let Ok(older) = waited_for(observer, pid).await {
                    on_wait(&older);
                }
            }
            () = shutdown.requested() => break,
        }
    }
    abandon(observer, name, pid).await?;
    Err(SlotError::Stopped)
}

fn exported(walsender: WireConnection, row: &TextRow) -> Result<ExportedSlot, SlotError> {
    let consistent_lsn = row.get("consistent_point").and_then(|text| text.parse().ok());
    Ok(ExportedSlot {
        _exporter: walsender,
        consistent_lsn: consistent_lsn.ok_or(SlotError::Answer { column: "consistent_point" })?,
        snapshot_name: row
            .get("snapshot_name")
            .ok_or(SlotError::Answer { column: "snapshot_name" })?
            .to_owned(),
    })
}

fn refine(error: SlotError, slot: &str) -> SlotError {
    let SlotError::Replication(cause) = &error else { return error };
    match cause.sqlstate() {
        Some(DUPLICATE_OBJECT) => SlotError::AlreadyExists { slot: slot.to_owned() },
        Some(CONFIGURATION_LIMIT_EXCEEDED) => SlotError::NoneFree,
        _ => error,
    }
}

/// Ends the walsender, and drops the slot should it have come into being in that very moment.
async fn abandon(observer: &SqlSession, name: &SlotName, pid: i32) -> Result<(), SlotError> {
    observer.execute("SELECT pg_terminate_backend($1)", &[&pid]).await?;
    await_release(observer, name.as_str(), pid).await?;
    drop_slot(observer, name.as_str(), WhenActive::Refuse).await?;
    Ok(())
}

/// Waits until `pid` has let go of the slot.
async fn await_release(source: &SqlSession, slot: &str, pid: i32) -> Result<(), SlotError> {
    let released = async {
        while inspect(source, slot).await?.is_some_and(|state| state.active_pid == Some(pid)) {
            tokio::time::sleep(RELEASE_POLL).await;
        }
        Ok(())
    };
    match tokio::time::timeout(RELEASE_TIMEOUT, released).await {
        Ok(outcome) => outcome,
        Err(_) => Err(SlotError::Active { slot: slot.to_owned(), pid }),
    }
}

/// The transaction the walsender `pid` waits for, and all older ones: it waits for them one by one. `pg_locks` shows
/// all to everybody; `pg_stat_activity` hides other roles' ages and states from a role without `pg_read_all_stats`.
async fn waited_for(source: &SqlSession, pid: i32) -> Result<Vec<OldTransaction>, SlotError> {
    let rows = source.query(WAITED_FOR, &[&pid]).await?;
    Ok(rows.iter().map(decode_old).collect())
}

const WAITED_FOR: &str = "
SELECT DISTINCT h.pid, p.gid, coalesce(a.datname, p.database)::text AS database, a.usename::text, a.application_name, a.state,
       extract(epoch FROM statement_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS age_seconds
  FROM pg_locks w
  JOIN pg_locks h ON h.locktype = 'transactionid' AND h.granted AND age(h.transactionid) >= age(w.transactionid)
  LEFT JOIN pg_stat_activity a ON a.pid = h.pid
  LEFT JOIN pg_prepared_xacts p ON p.transaction = h.transactionid
 WHERE w.pid = $1 AND w.locktype = 'transactionid' AND NOT w.granted";

/// One row of a query with these columns: `pid`, `gid`, `database`, `usename`, `application_name`, `state`, `age_seconds`.
pub(crate) fn decode_old(row: &Row) -> OldTransaction {
    let gid: Option<String> = row.get("gid");
    let pid: Option<i32> = row.get("pid");
    let age: Option<f64> = row.get("age_seconds");
    OldTransaction {
        holder: match (pid, gid) {
            (Some(pid), None) => TransactionHolder::Session {
                pid,
                user: row.get("usename"),
                application: row.get("application_name"),
                state: row.get("state"),
            },
            (_, gid) => TransactionHolder::Prepared { gid: gid.unwrap_or_default() },
        },
        database: row.get("database"),
        age: age.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    }
}

/// Looks at a slot; `None` when there is none of that name.
///
/// # Errors
/// [`SlotError::Sql`].
pub async fn inspect(source: &SqlSession, slot: &str) -> Result<Option<SlotState>, SlotError> {
    let row = source.query_opt(INSPECT, &[&slot]).await?;
    Ok(row.map(|row| {
        let lsn = |column: &str| row.get::<_, Option<String>>(column).and_then(|text| text.parse().ok());
        let retained: Option<i64> = row.get("retained_bytes");
        let wal_status: Option<String> = row.get("wal_status");
        SlotState {
            plugin: row.get("plugin"),
            database: row.get("database"),
            active_pid: row.get("active_pid"),
            restart_lsn: lsn("restart_lsn"),
            confirmed_flush_lsn: lsn("confirmed_flush_lsn"),
            wal_status: WalStatus::parse(wal_status.as_deref()),
            retained_bytes: retained.and_then(|bytes| u64::try_from(bytes).ok()),
        }
    }))
}

const INSPECT: &str = "
SELECT plugin::text, database::text, active_pid, restart_lsn::text, confirmed_flush_lsn::text, wal_status,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
        - restart_lsn)::int8 AS retained_bytes
  FROM pg_replication_slots
 WHERE slot_name = $1";

impl WalStatus {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("reserved") => Self::Reserved,
            Some("extended") => Self::Extended,
            Some("unreserved") => Self::Unreserved,
            Some("lost") => Self::Lost,
            _ => Self::Unknown,
        }
    }
}

/// Drops the slot. The caller knows that it is ours: slots carry no comment.
///
/// # Errors
/// [`SlotError::Active`], [`SlotError::Sql`].
pub async fn drop_slot(
    source: &SqlSession,
    slot: &str,
    when_active: WhenActive,
) -> Result<DroppedSlot, SlotError> {
    let Some(state) = inspect(source, slot).await? else { return Ok(DroppedSlot::Absent) };
    refuse_foreign(source, slot, &state).await?;
    if let Some(pid) = state.active_pid {
        if when_active == WhenActive::Refuse
            || !(terminate_ours(source, pid).await? || has_ended(source, pid).await?)
        {
            return Err(SlotError::Active { slot: slot.to_owned(), pid });
        }
        await_release(source, slot, pid).await?;
    }
    // An unfinished slot vanishes with its walsender, hence no plain call of the function.
    let dropped = source
        .execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1",
            &[&slot],
        )
        .await?;
    Ok(if dropped == 0 { DroppedSlot::Absent } else { DroppedSlot::Dropped })
}

/// Slots are of the whole cluster: one of another database or plugin is somebody else's, whatever its name.
async fn refuse_foreign(source: &SqlSession, slot: &str, state: &SlotState) -> Result<(), SlotError> {
    let row = source.query_one("SELECT current_database()::text", &[]).await?;
    let is_ours = state.database.as_deref() == Some(row.get::<_, &str>(0))
        && state.plugin.as_deref() == Some("pgoutput");
    if is_ours {
        return Ok(());
    }
    Err(SlotError::Foreign { slot: slot.to_owned(), database: state.database.clone().unwrap_or_default() })
}

/// Whether the walsender that had the slot is gone by itself.
async fn has_ended(source: &SqlSession, pid: i32) -> Result<bool, SlotError> {
    Ok(source.query_opt("SELECT 1 FROM pg_stat_activity WHERE pid = $1", &[&pid]).await?.is_none())
}

/// Terminates a walsender that calls itself pgsluice and belongs to our role; `false` if it is none.
async fn terminate_ours(source: &SqlSession, pid: i32) -> Result<bool, SlotError> {
    let terminated = source
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE pid = $1 AND usename = current_user AND application_name LIKE 'pgsluice %'",
            &[&pid],
        )
        .await?;
    Ok(terminated > 0)
}
