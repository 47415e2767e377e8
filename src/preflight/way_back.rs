//! `way_back`: whether the side that is left can be kept current after the cutover. Without that the migration works; the
//! cutover is refused until it is mended, or done without with `cutover.reverse = false`.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "way_back";

/// What both sides say.
struct Facts {
    wal_level: String,
    target_role: String,
    may_replicate: bool,
    free_slots: i64,
    source_role: String,
    may_apply: bool,
}

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    if !context.config.cutover.reverse {
        return Ok(Vec::new());
    }
    let sql = "SELECT current_setting('wal_level'), rolname::text, rolreplication OR rolsuper,
                      current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots)
                 FROM pg_roles WHERE rolname = current_user";
    let target = context.row(ID, Side::Target, sql, &[]).await?;
    let source = context.row(ID, Side::Source, "SELECT current_user::text", &[]).await?;
    let session = context.session(Side::Source);
    let tried = session.batch_execute("BEGIN; SET LOCAL session_replication_role = replica; ROLLBACK").await;
    if tried.is_err() {
        session.batch_execute("ROLLBACK").await.map_err(PreflightError::sql(ID, Side::Source))?;
    }
    Ok(judge(&Facts {
        wal_level: target.get(0),
        target_role: target.get(1),
        may_replicate: target.get(2),
        free_slots: target.get(3),
        source_role: source.get(0),
        may_apply: tried.is_ok(),
    }))
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let quoted = pgsluice_proto::command::quote_ident;
    let mut findings = Vec::new();
    let mut missing = |side: &str, what: String, remedy: String| {
        findings.push(Finding::warning(
            ID,
            side,
            format!(
                "There would be no way back after the cutover, which is refused until this is mended: {what}."
            ),
            format!("{remedy}\nOr do without:\ncutover.reverse = false"),
        ));
    };
    if facts.wal_level != "logical" {
        missing(
            "target",
            format!("wal_level of the target is {}", facts.wal_level),
            "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the target (CloudNativePG has it from the start)."
                .to_owned(),
        );
    }
    if !facts.may_replicate {
        let role = &facts.target_role;
        missing(
            "target",
            format!("role {role} of the target has no REPLICATION"),
            format!("As a superuser of the target:\nALTER ROLE {} REPLICATION;", quoted(role)),
        );
    }
    if facts.free_slots < 1 {
        missing(
            "target",
            "the target has no free replication slot".to_owned(),
            "Raise max_replication_slots of the target, which needs a restart, or drop a slot that nobody reads.".to_owned(),
        );
    }
    if !facts.may_apply {
        let role = &facts.source_role;
        missing(
            "source",
            format!(
                "role {role} of the source may not set session_replication_role, so triggers and foreign keys would fire again on \
                 what comes back"
            ),
            format!(
                "As a superuser of the source, from version 15 on (before, it takes a superuser, or rds_superuser):\n\
                 GRANT SET ON PARAMETER session_replication_role TO {};",
                quoted(role)
            ),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_missing_is_named_with_what_mends_it() {
        let ready = Facts {
            wal_level: "logical".into(),
            target_role: "app".into(),
            may_replicate: true,
            free_slots: 1,
            source_role: "old app".into(),
            may_apply: true,
        };
        assert!(judge(&ready).is_empty());
        let bare = Facts {
            wal_level: "replica".into(),
            may_replicate: false,
            free_slots: 0,
            may_apply: false,
            ..ready
        };
        let remedies: Vec<String> = judge(&bare).into_iter().map(|finding| finding.remedy).collect();
        assert_eq!(remedies.len(), 4);
        assert!(remedies[3].contains(r#"TO "old app";"#), "{remedies:?}");
        assert!(remedies.iter().all(|remedy| remedy.contains("cutover.reverse = false")));
    }
}
