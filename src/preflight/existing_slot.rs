//! `source.existing_slot`: the slot's name must be free when a migration begins. Slots carry no comment, so one of
//! that name may be anybody's, and is never adopted (trap 8).

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.existing_slot";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let slot = &context.config.source.slot;
    let rows = context
        .rows(
            ID,
            Side::Source,
            "SELECT active_pid, plugin::text, database::text FROM pg_replication_slots WHERE slot_name = $1",
            &[slot],
        )
        .await?;
    Ok(rows.first().map(|row| {
        let active_pid: Option<i32> = row.get(0);
        let reader = active_pid.map_or("nobody reads it".to_owned(), |pid| format!("process {pid} reads it"));
        Finding::blocker(
            ID,
            slot,
            format!("The source has a replication slot \"{slot}\" already, and this target knows nothing of it ({reader})."),
            format!(
                "If an earlier migration left it, on the source:\nSELECT pg_drop_replication_slot('{slot}');\nOtherwise choose another name with source.slot."
            ),
        )
    }))
}
