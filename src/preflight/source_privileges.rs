//! `source.privileges`: what the source's role must be allowed: replicate, publish (owner of each table), read.
//! A superuser is not needed.

use pgsluice_proto::command::quote_ident;

use super::context::{Context, enumerate};
use super::{Finding, PreflightError};
use crate::model::Side;
use crate::source::SourceTable;

const ID: &str = "source.privileges";

struct Facts {
    role: String,
    database: String,
    may_replicate: bool,
    may_create: bool,
}

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    // rds_replication is how Amazon RDS grants what REPLICATION is elsewhere.
    let row = context
        .row(
            ID,
            Side::Source,
            "SELECT current_user::text, current_database()::text,
                    r.rolsuper OR r.rolreplication OR EXISTS
                        (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(g.oid, 'MEMBER')),
                    has_database_privilege(current_database(), 'CREATE')
               FROM pg_roles r WHERE r.rolname = current_user",
            &[],
        )
        .await?;
    let facts =
        Facts { role: row.get(0), database: row.get(1), may_replicate: row.get(2), may_create: row.get(3) };
    Ok(judge(&facts, &context.tables))
}

fn judge(facts: &Facts, tables: &[SourceTable]) -> Vec<Finding> {
    let role = quote_ident(&facts.role);
    let mut findings = Vec::new();
    let mut block = |finding: String, remedy: String| {
        findings.push(Finding::blocker(ID, &facts.role, finding, remedy));
    };
    if !facts.may_replicate {
        block(
            format!("Role {} may not replicate, so no slot can be created.", facts.role),
            format!("ALTER ROLE {role} REPLICATION; -- RDS: GRANT rds_replication TO {role};"),
        );
    }
    if !facts.may_create {
        block(
            format!(
                "Role {} may not create a publication, nor the fence's schema, in this database.",
                facts.role
            ),
            format!("GRANT CREATE ON DATABASE {} TO {role};", quote_ident(&facts.database)),
        );
    }
    let names = |lacks: fn(&SourceTable) -> bool| -> Vec<&SourceTable> {
        tables.iter().filter(|table| lacks(table)).collect()
    };
    let foreign = names(|table| !table.owned_by_us);
    if !foreign.is_empty() {
        let mut owners: Vec<&str> = foreign.iter().map(|table| table.owner.as_str()).collect();
        owners.sort_unstable();
        owners.dedup();
        let grants: Vec<String> =
            owners.iter().map(|owner| format!("GRANT {} TO {role};", quote_ident(owner))).collect();
        block(
            format!(
                "Role {} has not the owner's rights on {}: they can be neither published nor fenced.",
                facts.role,
                plain(&foreign)
            ),
            grants.join("\n"),
        );
    }
    let unreadable = names(|table| !table.readable);
    if !unreadable.is_empty() {
        let grants: Vec<String> =
            unreadable.iter().map(|table| format!("GRANT SELECT ON {} TO {role};", table.name)).collect();
        block(
            format!("Role {} may not read {}.", facts.role, plain(&unreadable)),
            format!("{}\n-- and USAGE on their schemas", grants.join("\n")),
        );
    }
    findings
}

fn plain(tables: &[&SourceTable]) -> String {
    enumerate(&tables.iter().map(|table| table.name.plain()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;

    fn facts(may_replicate: bool, may_create: bool) -> Facts {
        Facts { role: "mover".into(), database: "shop".into(), may_replicate, may_create }
    }

    #[test]
    fn an_owner_with_replication_may_do_everything() {
        assert_eq!(judge(&facts(true, true), &[SourceTable::sample(TableName::new("public", "t"))]), []);
    }

    #[test]
    fn each_right_that_is_missing_blocks_with_its_grant() {
        let mut table = SourceTable::sample(TableName::new("public", "t"));
        table.owned_by_us = false;
        table.readable = false;
        let findings = judge(&facts(false, false), &[table]);
        let remedies: Vec<_> = findings.iter().map(|finding| finding.remedy.as_str()).collect();
        assert!(remedies[0].starts_with(r#"ALTER ROLE "mover" REPLICATION;"#));
        assert_eq!(remedies[1], r#"GRANT CREATE ON DATABASE "shop" TO "mover";"#);
        assert_eq!(remedies[2], r#"GRANT "app" TO "mover";"#);
        assert!(remedies[3].starts_with(r#"GRANT SELECT ON "public"."t" TO "mover";"#));
    }
}
