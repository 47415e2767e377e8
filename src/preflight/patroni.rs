//! `source.patroni`: Patroni drops replication slots that it does not know, once nobody reads them and it or PostgreSQL has
//! restarted. Whoever manages the source is seen by the names of its sessions, which every role may see: Patroni calls them
//! "Patroni", or "Patroni" and what the session is for.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.patroni";
const SESSIONS: &str = "
SELECT DISTINCT application_name FROM pg_stat_activity
 WHERE application_name = 'Patroni' OR application_name LIKE 'Patroni %' ORDER BY 1";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let rows = context.rows(ID, Side::Source, SESSIONS, &[]).await?;
    let sessions: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(judge(&sessions, &context.config.source.slot))
}

/// The name of a slot consists of `[a-z0-9_]`, and needs no quoting.
fn judge(sessions: &[String], slot: &str) -> Option<Finding> {
    (!sessions.is_empty()).then(|| {
        Finding::warning(
            ID,
            "source",
            format!(
                "The source is managed by Patroni (sessions named \"{}\"), which drops replication slots that it does not know: while \
                 pgsluice is away for a moment, the slot could be gone, and everything would have to be copied again.",
                sessions.join("\", \"")
            ),
            format!(
                "Have Patroni leave the slot alone, before the migration begins, on a member of its cluster (with the Zalando operator: \
                 kubectl exec into a pod). If ignore_slots has entries already (patronictl show-config), keep them in the \
                 list.\n\
                 patronictl edit-config --force -s 'ignore_slots=[{{\"name\": \"{slot}\", \"type\": \"logical\", \"plugin\": \"pgoutput\"}}]'\n\
                 It stays a warning, because pgsluice cannot see whether that is done. A failover of the source loses the slot all \
                 the same; pgsluice then halts instead of going on without it."
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    #[test]
    fn a_source_of_patroni_is_warned_of_with_the_command_that_names_the_slot() {
        assert_eq!(judge(&[], "pgsluice"), None);
        let finding = judge(&["Patroni heartbeat".to_owned()], "shop_move").expect("a warning");
        assert_eq!(finding.severity, Severity::Warning);
        let command = r#"ignore_slots=[{"name": "shop_move", "type": "logical", "plugin": "pgoutput"}]'"#;
        assert!(finding.remedy.contains(command), "{}", finding.remedy);
    }
}
