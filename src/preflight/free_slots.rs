//! `source.free_slots`: the migration needs one replication slot.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.free_slots";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let row = context
        .row(
            ID,
            Side::Source,
            "SELECT current_setting('max_replication_slots')::int8,
                    (SELECT count(*) FROM pg_replication_slots),
                    ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE NOT active ORDER BY 1)",
            &[],
        )
        .await?;
    Ok(judge(row.get(0), row.get(1), &row.get::<_, Vec<String>>(2)))
}

fn judge(slots_max: i64, slots_used: i64, inactive: &[String]) -> Option<Finding> {
    if slots_used < slots_max {
        return None;
    }
    let unread = if inactive.is_empty() {
        String::new()
    } else {
        // As comments: what is pasted whole must not drop what somebody needs.
        inactive
            .iter()
            .map(|slot| format!("-- if nobody needs it: SELECT pg_drop_replication_slot('{slot}');\n"))
            .collect()
    };
    Some(Finding::blocker(
        ID,
        "source",
        format!(
            "No replication slot of the source is free (max_replication_slots is {slots_max}), and the migration needs one."
        ),
        format!(
            "{unread}ALTER SYSTEM SET max_replication_slots = {}; -- then restart the source",
            slots_max.saturating_add(2)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_free_slot_blocks_and_the_remedy_names_the_unread_ones() {
        assert!(judge(10, 9, &[]).is_none());
        let finding = judge(2, 2, &["old".to_owned()]).expect("no slot is free");
        assert!(finding.remedy.contains("pg_drop_replication_slot('old')"));
        assert!(finding.remedy.contains("max_replication_slots = 4"));
    }
}
