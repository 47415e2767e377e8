//! The way back of an operation: what keeps the side that is left current from the commit on. Publication and slot are
//! made on the side that is reached while arming, before writers notice anything. The fence's transaction itself writes,
//! on the side that is left, from where it is to be streamed: so the way back exists exactly when the fence does.

use tokio_postgres::types::Type;

use super::{CutoverError, SqlFailure};
use crate::config::Config;
use crate::connection::{SqlSession, system_identity, timeline};
use crate::model::{Lsn, Side};
use crate::runtime::Shutdown;
use crate::source::catalog;
use crate::source::fence::FencePlan;
use crate::source::publication::{self, PublicationError};
use crate::source::published::{self, PublishedRelation};
use crate::source::slot::{self, SlotError, WhenActive};
use crate::target::records::{self, MigrationIdentity};
use crate::target::{gate, progress, relations};

/// A way back that is ready: its slot keeps what the side that is reached will write.
#[derive(Clone, Debug)]
pub(super) struct WayBack {
    identity: MigrationIdentity,
    timeline: i32,
}

/// Makes publication and slot on the side that is reached, and the records' tables on the side that is left. `config` is
/// the way back's: its source is the side that is reached. Repeating it makes the slot anew.
///
/// # Errors
/// Something of it cannot be made; [`remove`] takes back what was made.
pub(super) async fn prepare(
    config: &Config,
    left: &SqlSession,
    reached: &SqlSession,
    plan: &FencePlan,
    shutdown: &Shutdown,
) -> Result<WayBack, CutoverError> {
    may_apply_here(left).await?;
    records::ensure(left).await.map_err(|error| impossible(&error, "Try again."))?;
    let fenced = plan.table_names();
    let mut tables = catalog::read_tables(reached, &config.source.tables)
        .await
        .map_err(|error| impossible(&error, "Try again."))?;
    tables.retain(|table| fenced.contains(&table.name));
    let name = &config.source.publication;
    let ensured = match publication::ensure(reached, name, &tables, shutdown).await {
        // Left from an earlier way back, and read by nobody now.
        Err(PublicationError::MembersDiffer { .. } | PublicationError::Altered { .. }) => {
            publication::drop(reached, name).await.map_err(|error| impossible(&error, &error.remedy()))?;
            publication::ensure(reached, name, &tables, shutdown).await
        }
        ensured => ensured,
    };
    ensured.map_err(|error| impossible(&error, &error.remedy()))?;
    let of_slot = |error: SlotError| impossible(&error, &error.remedy());
    slot::drop_slot(reached, &config.source.slot, WhenActive::TerminateOurs).await.map_err(of_slot)?;
    let baseline = published::read(reached, name).await.map_err(|error| impossible(&error, "Try again."))?;
    let baseline: Vec<_> = baseline.into_iter().map(PublishedRelation::joined).collect();
    let waited = |older: &[slot::OldTransaction]| {
        if let Some(first) = older.first() {
            tracing::warn!(%first, "the slot of the way back waits for a transaction on the side that is reached");
        }
    };
    let made = slot::create_exporting(&config.source.connection, &config.source.slot, waited, shutdown).await;
    // Its snapshot is not needed: whatever is older is on both sides.
    drop(made.map_err(of_slot)?);
    left.batch_execute(&format!("BEGIN; {}; COMMIT", relations::begin_sql(&baseline)))
        .await
        .map_err(SqlFailure::of(Side::Source, "record the tables of the way back"))?;
    let of_reached = SqlFailure::of(Side::Target, "read the server's identity");
    let of_left = SqlFailure::of(Side::Source, "read the server's identity");
    let (source_system_id, source_database) = system_identity(reached).await.map_err(&of_reached)?;
    let (target_system_id, _) = system_identity(left).await.map_err(of_left)?;
    Ok(WayBack {
        identity: MigrationIdentity {
            source_system_id,
            source_database,
            target_system_id,
            slot: config.source.slot.clone(),
            publication: name.clone(),
        },
        timeline: timeline(reached).await.map_err(of_reached)?,
    })
}

impl WayBack {
    /// From where the side that is reached is streamed back: the end of what it has flushed. Asked once all of the stream is
    /// durable there and before anybody else may write, so that what is before it came from the side that is left.
    ///
    /// # Errors
    /// The slot is gone, as after a failover: there would be no way back.
    pub(super) async fn begin(&self, reached: &SqlSession) -> Result<Lsn, CutoverError> {
        let sql = "SELECT pg_current_wal_flush_lsn()::text,
                EXISTS (SELECT FROM pg_replication_slots
                         WHERE slot_name = $1 AND database = current_database() AND wal_status <> 'lost')";
        let row = reached
            .query_typed_one(sql, &[(&self.identity.slot, Type::TEXT)])
            .await
            .map_err(SqlFailure::of(Side::Target, "look at the slot of the way back"))?;
        if !row.get::<_, bool>(1) {
            return Err(CutoverError::refuted(
                format!(
                    "the slot \"{}\" of the way back is gone from the side that is reached",
                    self.identity.slot
                ),
                "As after a failover: start again once the target has settled, and the slot is made anew.",
            ));
        }
        row.get::<_, &str>(0).parse().map_err(|error| {
            CutoverError::refuted(
                format!("the target answered with something that is no WAL position ({error})"),
                "Check that the target is PostgreSQL itself and not a proxy.",
            )
        })
    }

    /// What the fence's transaction writes on the side that is left.
    pub(super) fn turn_sql(&self, begin: Lsn) -> String {
        format!(
            "{}; {}; {}",
            gate::close_again_sql(),
            records::stream_from_sql(&self.identity, begin, self.timeline),
            progress::begin_sql(&self.identity, begin)
        )
    }
}

/// What the fence's transaction writes where there is to be no way back: records of an earlier one are not true any more.
pub(super) const fn no_turn_sql() -> &'static str {
    "DO $$ BEGIN IF to_regclass('pgsluice.migration') IS NOT NULL THEN \
       DELETE FROM pgsluice.migration; DELETE FROM pgsluice.progress; \
     END IF; END $$"
}

/// Takes slot and publication back from the side that is reached: nothing was committed, and the slot would keep WAL for
/// nobody. Repeating it changes nothing.
///
/// # Errors
/// They cannot be dropped.
pub(super) async fn remove(config: &Config, reached: &SqlSession) -> Result<(), CutoverError> {
    slot::drop_slot(reached, &config.source.slot, WhenActive::TerminateOurs)
        .await
        .map_err(|error| still_there(&error, &error.remedy()))?;
    match publication::drop(reached, &config.source.publication).await {
        Ok(_) | Err(PublicationError::NotOurs { .. }) => Ok(()),
        Err(error) => Err(still_there(&error, &error.remedy())),
    }
}

/// Changes were made once already, triggers and foreign keys included: they must not fire again.
async fn may_apply_here(left: &SqlSession) -> Result<(), CutoverError> {
    let tried = left.batch_execute("BEGIN; SET LOCAL session_replication_role = replica; ROLLBACK").await;
    let Err(error) = tried else { return Ok(()) };
    let _ = left.batch_execute("ROLLBACK").await;
    if error.code() != Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) {
        return Err(SqlFailure::of(Side::Source, "look at the role's rights")(error).into());
    }
    Err(CutoverError::refuted(
        "there would be no way back: the source's role may not set session_replication_role, so triggers and foreign keys would \
         fire again there",
        "Give it the right (a superuser; rds_superuser; from PostgreSQL 15 on GRANT SET ON PARAMETER session_replication_role), or \
         do without a way back: cutover.reverse = false.",
    ))
}

fn impossible(error: &dyn std::error::Error, remedy: &str) -> CutoverError {
    CutoverError::refuted(
        format!("the way back cannot be prepared (here the source is the side that is reached): {error}"),
        format!("{remedy} Or do without a way back: cutover.reverse = false."),
    )
}

fn still_there(error: &dyn std::error::Error, remedy: &str) -> CutoverError {
    CutoverError::refuted(
        format!(
            "the slot of the way back stays on the side that was to be reached, and keeps its WAL: {error}"
        ),
        remedy.to_owned(),
    )
}
