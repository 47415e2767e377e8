//! The publication this program creates and owns: which tables' changes are in the stream. It lists tables (never
//! ALL TABLES, which needs a superuser), publishes everything, and never touches a publication that is not ours.
//! It is created before the slot (trap 17) and never holds a table whose own writes it would break (trap 19).

use std::collections::BTreeSet;
use std::time::Duration;

use pgsluice_proto::command::{quote_ident, quote_literal};
use tokio_postgres::error::SqlState;

use super::catalog::{ReplicaIdentity, SourceTable};
use crate::connection::{SqlError, SqlSession};
use crate::model::{Disposition, TableName};
use crate::runtime::{Backoff, Shutdown};

/// The comment by which a publication is known to be ours.
pub const OWNER_COMMENT: &str = "created by pgsluice; `pgsluice cleanup` removes it";

/// How long one try waits for a table's lock. ALTER TABLE, VACUUM and CREATE INDEX hold it; ordinary writes do not
/// conflict with it, and do not queue behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// Tries before it is given up.
const TRIES_MAX: u32 = 20;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// What [`ensure`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// There was none; it is created.
    Created,
    /// It was there, is ours, and publishes exactly the tables asked for.
    Present,
}

/// What [`drop`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It is gone.
    Dropped,
    /// There was none.
    Absent,
}

/// The publication as it is on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationState {
    /// Who made it.
    pub owner: PublicationOwner,
    /// Whether it publishes every kind of change of whole tables, as we create it.
    pub shape: PublicationShape,
    /// Its members: partitioned tables stand for all of their partitions.
    pub tables: BTreeSet<TableName>,
}

/// Who made a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicationOwner {
    /// This program: it carries [`OWNER_COMMENT`].
    Ours,
    /// Somebody else.
    Other,
}

/// What a publication publishes of its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicationShape {
    /// Everything, by partition.
    Whole,
    /// Some operations, rows or columns only, all tables, whole schemas, or by partition root.
    Other,
}

/// Why there is no publication to stream from.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// Publishing them would make the source's own UPDATE and DELETE fail (trap 19).
    #[error("{} cannot be published: without a replica identity their own UPDATE and DELETE would fail on the source", list(.tables))]
    NoReplicaIdentity {
        /// The tables.
        tables: Vec<TableName>,
    },
    /// Nothing is selected.
    #[error("no table of the source is selected, so there is nothing to publish")]
    NoTables,
    /// The name is taken.
    #[error("the source has a publication \"{name}\" that this program did not create")]
    NotOurs {
        /// Its name.
        name: String,
    },
    /// Ours, but somebody altered it.
    #[error(
        "publication \"{name}\" on the source was altered: it no longer publishes every change of its tables"
    )]
    Altered {
        /// Its name.
        name: String,
    },
    /// Ours, but of other tables: their earlier changes are missing in the stream (trap 17).
    #[error("publication \"{name}\" on the source does not match the tables selected{}{}", part(" not published: ", .unpublished), part(" published but not selected: ", .unselected))]
    MembersDiffer {
        /// Its name.
        name: String,
        /// Selected, and not in it.
        unpublished: Vec<TableName>,
        /// In it, and not selected.
        unselected: Vec<TableName>,
    },
    /// A table stayed locked.
    #[error(
        "the tables could not be locked to publish them: one of them is held by ALTER TABLE, VACUUM, CREATE INDEX or the like, after {TRIES_MAX} tries"
    )]
    LockBusy,
    /// The program is asked to stop.
    #[error("stopped while publishing the tables; nothing was created")]
    Stopped,
    /// The source refused.
    #[error("the source refused the publication: {0}")]
    Sql(#[from] SqlError),
}

impl From<tokio_postgres::Error> for PublicationError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error.into())
    }
}

impl PublicationError {
    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::NoReplicaIdentity { tables } => tables
                .iter()
                .map(|table| format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"))
                .chain(["-- or give them a primary key, or leave them out with source.tables.exclude".to_owned()])
                .collect::<Vec<_>>()
                .join("\n"),
            Self::NoTables => "Correct source.tables.include and source.tables.exclude.".to_owned(),
            Self::NotOurs { name } => format!(
                "Choose another name with source.publication, or, if nobody needs it: DROP PUBLICATION {};",
                quote_ident(name)
            ),
            Self::Altered { .. } | Self::MembersDiffer { .. } => "Before the first copy is done the publication has to be \
                 as it was created. Leave new tables out with source.tables.exclude until then (`pgsluice tables add` \
                 brings them later), or run `pgsluice cleanup` and start again."
                .to_owned(),
            Self::LockBusy => "Wait until the DDL or VACUUM on those tables has ended (see pg_stat_activity).".to_owned(),
            Self::Stopped => "Start again.".to_owned(),
            Self::Sql(_) => "The role needs CREATE on the database and ownership of every table: \
                 GRANT CREATE ON DATABASE … TO …; an event trigger may also have refused (pg_event_trigger). Nothing was \
                 created."
                .to_owned(),
        }
    }

    /// What the program does about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::LockBusy | Self::Stopped => Disposition::Retry,
            Self::Sql(error) => error.disposition(),
            Self::Altered { .. } | Self::MembersDiffer { .. } => Disposition::Halt { remedy: self.remedy() },
            Self::NoReplicaIdentity { .. } | Self::NoTables | Self::NotOurs { .. } => {
                Disposition::WaitForOperator { remedy: self.remedy() }
            }
        }
    }
}

fn list(tables: &[TableName]) -> String {
    tables.iter().map(TableName::plain).collect::<Vec<_>>().join(", ")
}

fn part(title: &str, tables: &[TableName]) -> String {
    if tables.is_empty() { String::new() } else { format!(";{title}{}", list(tables)) }
}

/// Creates the publication of `tables`, or makes sure that the existing one is ours and publishes exactly them.
/// Unlogged tables are left out: they are never in the WAL. One transaction: all of it or nothing. Cancel safe.
///
/// # Errors
/// [`PublicationError`]; nothing was changed then.
pub async fn ensure(
    source: &SqlSession,
    name: &str,
    tables: &[SourceTable],
    shutdown: &Shutdown,
) -> Result<Ensured, PublicationError> {
    let members = members(tables)?;
    match inspect(source, name).await? {
        Some(state) => verify(name, &state, &members).map(|()| Ensured::Present),
        None => create(source, name, tables, &members, shutdown).await.map(|()| Ensured::Created),
    }
}

/// Reads a publication; `None` when there is none of that name.
///
/// # Errors
/// [`PublicationError::Sql`].
pub async fn inspect(source: &SqlSession, name: &str) -> Result<Option<PublicationState>, PublicationError> {
    let Some(row) = source.query_opt(INSPECT, &[&name]).await? else { return Ok(None) };
    let oid: u32 = row.get("oid");
    let comment: Option<String> = row.get("comment");
    let rows = source.query(MEMBERS, &[&oid]).await?;
    let is_whole = row.get::<_, bool>("is_whole") && rows.iter().all(|row| row.get::<_, bool>("is_whole"));
    let is_ours = comment.as_deref() == Some(OWNER_COMMENT);
    Ok(Some(PublicationState {
        owner: if is_ours { PublicationOwner::Ours } else { PublicationOwner::Other },
        shape: if is_whole { PublicationShape::Whole } else { PublicationShape::Other },
        tables: rows
            .iter()
            .map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)))
            .collect(),
    }))
}

/// Drops the publication if it is ours.
///
/// # Errors
/// [`PublicationError::NotOurs`], [`PublicationError::Sql`].
pub async fn drop(source: &SqlSession, name: &str) -> Result<Dropped, PublicationError> {
    match inspect(source, name).await? {
        None => Ok(Dropped::Absent),
        Some(PublicationState { owner: PublicationOwner::Other, .. }) => {
            Err(PublicationError::NotOurs { name: name.to_owned() })
        }
        Some(_) => {
            source.batch_execute(&format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name))).await?;
            Ok(Dropped::Dropped)
        }
    }
}

/// Columns that later versions added are looked at through `to_jsonb`, where they are simply absent before.
const INSPECT: &str = "
SELECT p.oid, obj_description(p.oid, 'pg_publication') AS comment,
       p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND NOT p.puballtables AND NOT p.pubviaroot
       AND coalesce(to_jsonb(p) ->> 'pubgencols', 'n') = 'n' AS is_whole
  FROM pg_publication p
 WHERE p.pubname = $1";

const MEMBERS: &str = "
SELECT n.nspname::text, c.relname::text,
       to_jsonb(r) ->> 'prqual' IS NULL AND to_jsonb(r) ->> 'prattrs' IS NULL AS is_whole
  FROM pg_publication_rel r
  JOIN pg_class c ON c.oid = r.prrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE r.prpubid = $1";

/// The tables to name in the publication: partitioned tables stand for all of their partitions, also later ones,
/// so that rows of a partition created tomorrow are in the stream too.
fn members(tables: &[SourceTable]) -> Result<BTreeSet<TableName>, PublicationError> {
    let without_identity: Vec<TableName> = tables
        .iter()
        .filter(|table| table.holds_rows() && table.is_logged())
        .filter(|table| matches!(table.replica_identity, ReplicaIdentity::Missing(_)))
        .map(|table| table.name.clone())
        .collect();
    if !without_identity.is_empty() {
        return Err(PublicationError::NoReplicaIdentity { tables: without_identity });
    }
    let members: BTreeSet<TableName> = tables
        .iter()
        .filter(|table| table.is_logged() && table.is_root())
        .map(|table| table.name.clone())
        .collect();
    if members.is_empty() { Err(PublicationError::NoTables) } else { Ok(members) }
}

fn verify(
    name: &str,
    state: &PublicationState,
    members: &BTreeSet<TableName>,
) -> Result<(), PublicationError> {
    if state.owner == PublicationOwner::Other {
        return Err(PublicationError::NotOurs { name: name.to_owned() });
    }
    if state.shape == PublicationShape::Other {
        return Err(PublicationError::Altered { name: name.to_owned() });
    }
    let unpublished: Vec<_> = members.difference(&state.tables).cloned().collect();
    let unselected: Vec<_> = state.tables.difference(members).cloned().collect();
    if unpublished.is_empty() && unselected.is_empty() {
        return Ok(());
    }
    Err(PublicationError::MembersDiffer { name: name.to_owned(), unpublished, unselected })
}

async fn create(
    source: &SqlSession,
    name: &str,
    tables: &[SourceTable],
    members: &BTreeSet<TableName>,
    shutdown: &Shutdown,
) -> Result<(), PublicationError> {
    under_short_locks(source, &create_sql(name, tables, members), shutdown).await
}

/// Adds tables to our publication, children of `INHERITS` not included; those that are in it already stay. Before the
/// slot that their rows are copied under (trap 17). The caller has seen that each has a replica identity (trap 19).
///
/// # Errors
/// [`PublicationError`]; nothing was changed then.
pub async fn add(
    source: &SqlSession,
    name: &str,
    tables: &[&SourceTable],
    shutdown: &Shutdown,
) -> Result<(), PublicationError> {
    let without_identity: Vec<TableName> = tables
        .iter()
        .filter(|table| table.holds_rows() && matches!(table.replica_identity, ReplicaIdentity::Missing(_)))
        .map(|table| table.name.clone())
        .collect();
    if !without_identity.is_empty() {
        return Err(PublicationError::NoReplicaIdentity { tables: without_identity });
    }
    let state = match inspect(source, name).await? {
        Some(state) if state.owner == PublicationOwner::Ours && state.shape == PublicationShape::Whole => {
            state
        }
        Some(state) if state.owner == PublicationOwner::Other => {
            return Err(PublicationError::NotOurs { name: name.to_owned() });
        }
        _ => return Err(PublicationError::Altered { name: name.to_owned() }),
    };
    let missing: Vec<String> = tables
        .iter()
        .filter(|table| !state.tables.contains(&table.name))
        .map(|table| if table.holds_rows() { format!("ONLY {}", table.name) } else { table.name.to_string() })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "SET LOCAL lock_timeout = '{}ms'; ALTER PUBLICATION {} ADD TABLE {}",
        LOCK_TIMEOUT.as_millis(),
        quote_ident(name),
        missing.join(", ")
    );
    under_short_locks(source, &sql, shutdown).await
}

/// Makes every walsender of the publication look anew at what it publishes, from this point of the WAL on, without changing
/// it. PostgreSQL 14 does not do so by itself when a partition is attached: one whose changes it has passed over before would
/// stay passed over, and nobody would be told (trap 17).
///
/// # Errors
/// [`PublicationError::Sql`].
pub async fn refresh(source: &SqlSession, name: &str) -> Result<(), PublicationError> {
    let sql =
        format!("ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')", quote_ident(name));
    Ok(source.batch_execute(&sql).await?)
}

/// Runs a batch again and again until its locks are to be had.
async fn under_short_locks(
    source: &SqlSession,
    sql: &str,
    shutdown: &Shutdown,
) -> Result<(), PublicationError> {
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    for _ in 0..TRIES_MAX {
        match source.batch_execute(sql).await {
            Ok(()) => return Ok(()),
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                tracing::info!("a table is locked by DDL or VACUUM; publishing it is tried again");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = shutdown.requested() => return Err(PublicationError::Stopped),
        }
    }
    Err(PublicationError::LockBusy)
}

/// One query string is one transaction: it cannot leave the session inside one. `ONLY`, because children of
/// INHERITS are members of their own.
fn create_sql(name: &str, tables: &[SourceTable], members: &BTreeSet<TableName>) -> String {
    let is_partitioned =
        |member: &TableName| tables.iter().any(|table| table.name == *member && !table.holds_rows());
    let members: Vec<String> = members
        .iter()
        .map(|member| if is_partitioned(member) { member.to_string() } else { format!("ONLY {member}") })
        .collect();
    format!(
        "SET LOCAL lock_timeout = '{}ms';
         CREATE PUBLICATION {name} FOR TABLE {} WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = false);
         COMMENT ON PUBLICATION {name} IS {};",
        LOCK_TIMEOUT.as_millis(),
        members.join(", "),
        quote_literal(OWNER_COMMENT),
        name = quote_ident(name),
    )
}
