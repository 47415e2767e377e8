//! `source.subscriptions`: what the source receives by native logical replication is written by apply workers, which fire no
//! statement triggers: the fence would not refuse it, and it would stay behind.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;
use crate::source::fence;

const ID: &str = "source.subscriptions";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let rows = context.rows(ID, Side::Source, fence::ENABLED_SUBSCRIPTIONS, &[]).await?;
    Ok(rows.iter().map(|row| judge(row.get(0))).collect())
}

fn judge(subscription: &str) -> Finding {
    Finding::blocker(
        ID,
        subscription,
        "The source subscribes to another server. Until the cutover what it receives is migrated like everything else; after it the \
         apply worker would go on writing to the source, because it fires no statement triggers, and the target would not have it.",
        format!(
            "Before the cutover, on the source:\nALTER SUBSCRIPTION {} DISABLE;\nThen subscribe again from the target. A cutover is \
             refused while it is enabled; until then waive this:\npreflight.waive = [\"{ID}\"]",
            pgsluice_proto::command::quote_ident(subscription)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_named_with_the_statement_that_ends_it() {
        let finding = judge("from Head Office");
        assert!(finding.remedy.contains("ALTER SUBSCRIPTION \"from Head Office\" DISABLE"), "{finding:?}");
    }
}
