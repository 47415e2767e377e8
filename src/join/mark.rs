//! Changes of the records that the stream goes by. Those that take a joined table back are made only while no stream
//! runs: its applier knows the records as of its start.

use super::JoinError;
use super::look::View;
use super::standing::{Assessment, DROPPED, LEFT};
use crate::connection::SqlSession;
use crate::model::{Oid, TableName};
use crate::target::lock;
use crate::target::relations::{self, JoinState, RelationRecord};

/// Records what was found about joined tables: those whose changes are incomplete have to be copied again, and what is
/// still in the stream of those that are gone passes unapplied. Waits until no applier's session is left.
///
/// # Errors
/// [`JoinError`]; nothing is recorded then.
pub async fn demote(target: &SqlSession, assessment: &Assessment) -> Result<(), JoinError> {
    lock::become_replicator(target).await?;
    let again: Vec<u32> = assessment.to_copy_again.iter().map(|oid| oid.0).collect();
    let demoted = target
        .execute(
            "UPDATE pgsluice.relation SET state = 'copying', join_lsn = NULL WHERE source_oid = ANY ($1)",
            &[&again],
        )
        .await
        .map_err(JoinError::target);
    let settled = match demoted {
        Ok(_) => settle(target, assessment).await,
        Err(error) => Err(error),
    };
    lock::resign(target).await.map_err(JoinError::target)?;
    settled
}

/// Lets what the stream still brings of vanished tables pass: it was committed before the WAL's end as it was after
/// they had been seen gone. The stream may run: a change that is applied all the same does no harm to a table that nobody
/// needs.
///
/// # Errors
/// [`JoinError`].
pub async fn settle(target: &SqlSession, assessment: &Assessment) -> Result<(), JoinError> {
    let Some(wal_end) = assessment.wal_end else { return Ok(()) };
    for (oid, name, membership) in &assessment.gone {
        target
            .execute(
                "UPDATE pgsluice.relation SET state = 'joined', join_lsn = $2::text::pg_lsn, membership = $3
                  WHERE source_oid = $1",
                &[&oid.0, &wal_end.to_string(), membership],
            )
            .await
            .map_err(JoinError::target)?;
        tracing::info!(table = %name.plain(), because = membership, "what the stream still brings of this table passes unapplied");
    }
    Ok(())
}

/// The stream waits at a change of a table that came and went before anybody looked: nothing of it is needed any more, and
/// what was committed until it had been seen gone passes unapplied.
pub(super) async fn let_pass(
    target: &SqlSession,
    view: &View,
    oid: Oid,
    name: &TableName,
) -> Result<(), JoinError> {
    let is_recorded = view.records.as_ref().is_none_or(|records| records.contains_key(&oid));
    let is_published = view.published.iter().any(|relation| relation.oid == oid);
    if is_recorded || is_published || view.wal_end.is_none() {
        return Ok(());
    }
    let membership = if view.tables.contains_key(&oid) { LEFT } else { DROPPED };
    let record = RelationRecord {
        source_oid: oid,
        name: name.clone(),
        columns: Vec::new(),
        target_oid: None,
        state: JoinState::Joined,
        join_lsn: view.wal_end,
        membership: membership.to_owned(),
    };
    target.batch_execute(&relations::upsert_sql(&record)).await.map_err(JoinError::target)?;
    tracing::info!(table = %name.plain(), because = membership, "what the stream still brings of this table passes unapplied");
    Ok(())
}
