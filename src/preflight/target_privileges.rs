//! `target.privileges`: what the target's role must be allowed: create, write without firing triggers and foreign
//! keys again. A superuser is not needed.

use pgsluice_proto::command::quote_ident;
use tokio_postgres::error::SqlState;

use super::context::{Context, NAMED_RELATIONS, enumerate};
use super::{Finding, PreflightError};
use crate::config::SchemaMode;
use crate::model::Side;

const ID: &str = "target.privileges";

struct Facts {
    mode: SchemaMode,
    role: String,
    database: String,
    /// Unless a superuser owns the database: nobody is to become a member of that one.
    database_owner: Option<String>,
    may_create: bool,
    may_be_replica: bool,
    /// Schemas of the source's tables that exist on the target, and in which nothing may be created (or, where the tables exist,
    /// nothing used).
    closed_schemas: Vec<String>,
    /// Tables of an existing schema that may not be written.
    unwritable: Vec<String>,
    /// The owner of the target's schema `public`, if the role is none of its members and the schema has a comment to be restored.
    public_of_another: Option<String>,
}

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let row = context
        .row(
            ID,
            Side::Target,
            "SELECT current_user::text, datname::text, has_database_privilege(oid, 'CREATE'), (SELECT rolname::text FROM pg_roles r WHERE r.oid = datdba AND NOT rolsuper)
               FROM pg_database WHERE datname = current_database()",
            &[],
        )
        .await?;
    let facts = Facts {
        mode: context.mode(),
        role: row.get(0),
        database: row.get(1),
        may_create: row.get(2),
        database_owner: row.get(3),
        may_be_replica: may_be_replica(context).await?,
        closed_schemas: closed_schemas(context).await?,
        unwritable: unwritable(context).await?,
        public_of_another: public_of_another(context).await?,
    };
    Ok(judge(&facts))
}

/// Tried rather than looked up: the right comes from being a superuser, from a grant, or from what a provider
/// changed. The transaction is rolled back; a refused SET has ended it already.
async fn may_be_replica(context: &Context<'_>) -> Result<bool, PreflightError> {
    let session = context.target;
    session.batch_execute("BEGIN").await.map_err(PreflightError::sql(ID, Side::Target))?;
    let tried = session.batch_execute("SET LOCAL session_replication_role = replica").await;
    session.batch_execute("ROLLBACK").await.map_err(PreflightError::sql(ID, Side::Target))?;
    match tried {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(PreflightError::sql(ID, Side::Target)(error)),
    }
}

async fn closed_schemas(context: &Context<'_>) -> Result<Vec<String>, PreflightError> {
    let right = match context.mode() {
        SchemaMode::Copy => "CREATE",
        SchemaMode::Existing => "USAGE",
    };
    let schemas: Vec<&str> = context.tables.iter().map(|table| table.name.schema.as_str()).collect();
    let rows = context
        .rows(
            ID,
            Side::Target,
            "SELECT nspname::text FROM pg_namespace
              WHERE nspname = ANY ($1) AND NOT has_schema_privilege(oid, $2) ORDER BY 1",
            &[&schemas, &right],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// `pg_dump` restores the comment that every schema `public` has, since with quoted identifiers it does not know it for the one that
/// is there already (`dumpNamespace` in `pg_dump.c`); which takes the schema's owner.
async fn public_of_another(context: &Context<'_>) -> Result<Option<String>, PreflightError> {
    if context.mode() == SchemaMode::Existing {
        return Ok(None);
    }
    let sql = "SELECT obj_description(to_regnamespace('public')::oid, 'pg_namespace') IS NOT NULL";
    let has_comment: bool = context.row(ID, Side::Source, sql, &[]).await?.get(0);
    let sql = "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace
                WHERE nspname = 'public' AND NOT pg_has_role(current_user, nspowner, 'USAGE')";
    let rows = context.rows(ID, Side::Target, sql, &[]).await?;
    Ok(rows.first().filter(|_| has_comment).map(|row| row.get(0)))
}

async fn unwritable(context: &Context<'_>) -> Result<Vec<String>, PreflightError> {
    if context.mode() == SchemaMode::Copy {
        return Ok(Vec::new());
    }
    let names: Vec<String> = context.tables.iter().map(|table| table.name.to_string()).collect();
    let rows = context
        .rows(
            ID,
            Side::Target,
            &format!(
                "SELECT name FROM ({NAMED_RELATIONS}) AS wanted
              WHERE NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                         AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE')
                         AND has_table_privilege(oid, 'TRUNCATE') AND has_table_privilege(oid, 'TRIGGER'))
              ORDER BY 1"
            ),
            &[&names],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let role = quote_ident(&facts.role);
    let mut findings = Vec::new();
    let mut block = |finding: String, remedy: String| {
        findings.push(Finding::blocker(ID, &facts.role, finding, remedy));
    };
    if !facts.may_create {
        block(
            format!(
                "Role {} may not create schemas in the target's database; progress is kept in one.",
                facts.role
            ),
            format!("GRANT CREATE ON DATABASE {} TO {role};", quote_ident(&facts.database)),
        );
    }
    if !facts.may_be_replica {
        block(
            format!(
                "Role {} may not set session_replication_role: triggers and foreign keys would fire again on rows that already went through them on the source.",
                facts.role
            ),
            format!(
                "As a superuser of the target:\nGRANT SET ON PARAMETER session_replication_role TO {role};"
            ),
        );
    }
    for schema in &facts.closed_schemas {
        let (what, rights) = match facts.mode {
            SchemaMode::Copy => ("create tables in", "CREATE, USAGE"),
            SchemaMode::Existing => ("use", "USAGE"),
        };
        block(
            format!("Role {} may not {what} schema {schema} of the target.", facts.role),
            format!("GRANT {rights} ON SCHEMA {} TO {role};", quote_ident(schema)),
        );
    }
    if let Some(owner) = &facts.public_of_another {
        // From PostgreSQL 15 on the schema belongs to whoever owns the database.
        let remedy = if owner == "pg_database_owner" {
            // Whoever is a member of the database's owner is one of this role, too.
            match &facts.database_owner {
                Some(owner) => format!("GRANT {} TO {role};", quote_ident(owner)),
                None => format!("ALTER DATABASE {} OWNER TO {role};", quote_ident(&facts.database)),
            }
        } else {
            format!("GRANT {} TO {role};", quote_ident(owner))
        };
        block(
            format!(
                "Role {} is no member of {owner}, which owns schema public of the target: its comment cannot be restored.",
                facts.role
            ),
            remedy,
        );
    }
    if !facts.unwritable.is_empty() {
        let grants: Vec<String> = facts
            .unwritable
            .iter()
            .map(|table| {
                format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER ON {table} TO {role};")
            })
            .collect();
        block(
            format!("Role {} may not write {}.", facts.role, enumerate(&facts.unwritable)),
            grants.join("\n"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_right_that_is_missing_blocks_with_its_grant() {
        let facts = Facts {
            mode: SchemaMode::Copy,
            role: "app".into(),
            database: "shop".into(),
            database_owner: Some("boss".into()),
            may_create: false,
            may_be_replica: false,
            closed_schemas: vec!["public".into()],
            unwritable: vec![r#""public"."t""#.into()],
            public_of_another: Some("pg_database_owner".into()),
        };
        let findings = judge(&facts);
        let remedies: Vec<_> = findings.iter().map(|finding| finding.remedy.as_str()).collect();
        assert_eq!(remedies[0], r#"GRANT CREATE ON DATABASE "shop" TO "app";"#);
        assert!(remedies[1].contains(r#"GRANT SET ON PARAMETER session_replication_role TO "app";"#));
        assert_eq!(remedies[2], r#"GRANT CREATE, USAGE ON SCHEMA "public" TO "app";"#);
        assert_eq!(remedies[3], r#"GRANT "boss" TO "app";"#);
        assert!(remedies[4].contains(r#"ON "public"."t" TO "app";"#));
    }
}
