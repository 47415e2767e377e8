//! The last step before the point of no return: what the target has is durable there and, if that is asked for, on its standbys;
//! the journal has the intent; and the source is looked at once more.

use std::time::Duration;

use futures_util::future::{try_join, try_join3};

use super::actions::fence_lost;
use super::driver::steady;
use super::operation::Operation;
use super::proof::{CaughtUp, SequencesAligned, SourceFenced, TargetDurable};
use super::state::Event;
use super::unfenced::{no_large_objects, no_subscription};
use super::{CutoverError, SqlFailure, way_back};
use crate::config::Durability;
use crate::connection::SqlSession;
use crate::migration::CutoverMode;
use crate::model::{Lsn, Side};
use crate::target::{CommitReceipt, DurableLsn, lock, standbys};

/// How often the target is asked how far it has flushed.
const FLUSH_POLL: Duration = Duration::from_millis(1);
/// How often the target's standbys are looked at.
const STANDBY_POLL: Duration = Duration::from_millis(5);

impl Operation {
    /// The target has the marker's transaction, the sequences and the journal's intent for good. The intent is
    /// durable before COMMIT is thought of.
    pub(super) async fn secure_target(
        &mut self,
        fenced: &SourceFenced,
        caught_up: &CaughtUp,
        aligned: &SequencesAligned,
    ) -> Result<Event, CutoverError> {
        self.evidence = self.evidence_of(fenced, caught_up, aligned);
        let mut stream = self.ctx.stream.clone();
        let (Some(armed), Some(target), Some(control)) = (&self.armed, &self.target, &self.control) else {
            return Err(CutoverError::refuted("the sessions are gone", "Start the operation again."));
        };
        let receipt = caught_up.receipt();
        let local = self.ctx.config.target.durability == Durability::Local;
        // The stream's own watch looks less often; the standbys' word is its alone.
        let durable = async {
            tokio::select! {
                durable = stream.durable_at(receipt.source_lsn()) => Ok(durable?),
                durable = flushed(target, receipt), if local => durable,
            }
        };
        let intent = async {
            if self.mode() == CutoverMode::Rehearsal {
                return Ok(());
            }
            let epoch = self.terms.epoch;
            let written = self.log.journal().intent(epoch, self.evidence.clone()).await;
            written.map_err(|problem| {
                CutoverError::refuted(
                    format!("the journal on the target could not be written: {problem}"),
                    "Check that the target is up and reachable, then start again.",
                )
            })
        };
        // Only then: the intent's commit flushes the sequences as well, whatever `synchronous_commit` is set to.
        let on_standbys = async {
            intent.await?;
            wait_for_standbys(target, self.ctx.config.target.durability).await
        };
        let (durable, ()) = tokio::select! {
            secured = try_join(durable, on_standbys) => secured?,
            () = armed.fence.lost() => return Err(fence_lost()),
        };
        // As late as can be: what is made after it meets the fence, or comes within the moment of the COMMIT.
        let complete = async {
            steady(&self.ctx.config)
                .map_err(|(problem, remedy)| CutoverError::Refuted { problem, remedy })?;
            armed.fence.still_complete(control, &self.terms).await?;
            try_join(no_large_objects(control, &self.ctx.config), no_subscription(control)).await
        };
        let turn = async {
            Ok(match &armed.way_back {
                Some(way_back) => way_back.turn_sql(way_back.begin(target).await?),
                None => way_back::no_turn_sql().to_owned(),
            })
        };
        self.turn = tokio::select! {
            complete = try_join3(complete, where_changes_are_applied(target), turn) => complete?.2,
            () = armed.fence.lost() => return Err(fence_lost()),
        };
        match TargetDurable::covering(caught_up, durable) {
            Some(durable) => Ok(Event::TargetDurable(durable)),
            None => Err(CutoverError::refuted(
                "the target's durable position does not cover the marker",
                "Nothing was committed. Please report this with the log around it.",
            )),
        }
    }
}

/// Waits until the target has flushed the receipt's transaction. Setting the sequences and writing the journal's intent flush
/// everything before them, so this is soon.
async fn flushed(target: &SqlSession, receipt: CommitReceipt) -> Result<DurableLsn, CutoverError> {
    loop {
        let row = target
            .query_typed_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .await
            .map_err(SqlFailure::of(Side::Target, "look how far the target has flushed"))?;
        let flushed = row.get::<_, &str>(0).parse().unwrap_or(Lsn::new(0));
        if let Some(durable) = DurableLsn::confirmed_by(receipt, flushed) {
            return Ok(durable);
        }
        tokio::time::sleep(FLUSH_POLL).await;
    }
}

/// The sequences' values are not in the stream, so the stream's durability says nothing about them: the standbys
/// must have flushed what the target's primary had written by now.
async fn wait_for_standbys(target: &SqlSession, durability: Durability) -> Result<(), CutoverError> {
    let Durability::Standbys(wanted) = durability else { return Ok(()) };
    let failed = SqlFailure::of(Side::Target, "look at the target's standbys");
    let row =
        target.query_typed_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.map_err(&failed)?;
    let position: Lsn = row.get::<_, &str>(0).parse().map_err(|error| {
        CutoverError::refuted(
            format!("the target answered with something that is no WAL position ({error})"),
            "Check that the target is PostgreSQL itself and not a proxy.",
        )
    })?;
    loop {
        let standbys = standbys::look(target).await.map_err(&failed)?;
        if standbys.flushed_by(wanted).is_some_and(|flushed| flushed >= position) {
            return Ok(());
        }
        tokio::time::sleep(STANDBY_POLL).await;
    }
}

/// Before writers are asked to wait: a standby that is away would only be noticed when the pause is over.
pub(super) async fn enough_standbys(target: &SqlSession, durability: Durability) -> Result<(), CutoverError> {
    let Durability::Standbys(wanted) = durability else { return Ok(()) };
    let failed = SqlFailure::of(Side::Target, "look at the target's standbys");
    let standbys = standbys::look(target).await.map_err(&failed)?;
    if standbys.flushed_by(wanted).is_some() {
        return Ok(());
    }
    let shortage = standbys.shortage(wanted);
    Err(CutoverError::refuted(format!("the target cannot be made durable: {shortage}"), shortage.remedy()))
}

/// The stream and this operation speak to the same target: sequences set on a server that is the target no more would be
/// lost (INV-8). Its address may have moved while our session stayed with the old one.
async fn where_changes_are_applied(target: &SqlSession) -> Result<(), CutoverError> {
    let failed = SqlFailure::of(Side::Target, "look for the session that applies changes");
    if lock::is_replicator_here(target).await.map_err(&failed)? {
        return Ok(());
    }
    Err(CutoverError::refuted(
        "changes are applied to another server than the one whose sequences were set, as after a failover of the target",
        "Wait until the target's failover is over, then start the cutover again.",
    ))
}
