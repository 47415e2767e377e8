//! Replaces rows that verification found different, where the source has said what they are: everything before is applied, on all
//! connections, and nothing after. That it fails is told to whoever asked for it, and holds nothing up.

use super::Gatherer;
use crate::model::{Lsn, Oid};
use crate::source::fence;
use crate::stream::error::StreamError;
use crate::verify::Repair;

impl Gatherer {
    /// Carries out a repair that was committed at `commit_lsn`.
    pub(super) async fn repair(&mut self, content: &[u8], commit_lsn: Lsn) -> Result<(), StreamError> {
        let Ok(repair) = serde_json::from_slice::<Repair>(content) else {
            tracing::warn!(%commit_lsn, "a repair of rows in a form that is not known was passed over");
            return Ok(());
        };
        if !self.meeting.expects_repair(&repair.nonce) {
            // Of an earlier process, which nobody waits for any more; or of somebody who has no business with the target.
            tracing::warn!(%commit_lsn, "a repair of rows that nobody has asked this process for was passed over");
            return Ok(());
        }
        if self.lane_to_apply(Oid(repair.source_oid), commit_lsn).is_none() {
            // Its table is further on the target, and may have later changes of these rows.
            self.meeting
                .repaired(&repair.nonce, Err("the stream began anew: ask for the repair again".into()));
            return Ok(());
        }
        self.settle().await?;
        let outcome = match fence::pass(&*self.catalog).await {
            Ok(()) => self.catalog.batch_execute(&repair.sql()).await,
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Ok(()) => Ok(repair.rows()),
            Err(error) if self.catalog.is_closed() => return Err(error.into()),
            Err(error) => {
                let _ = self.catalog.batch_execute("ROLLBACK").await;
                Err(crate::connection::SqlError::from(error).to_string())
            }
        };
        tracing::info!(%commit_lsn, rows = repair.rows(), is_done = outcome.is_ok(), "rows were repaired");
        self.meeting.repaired(&repair.nonce, outcome);
        Ok(())
    }
}
