//! `source.uncopied_tables`: tables that belong to an extension, or lie in this program's own schema, are not migrated.
//! Where an application has put rows into them, those would stay behind without anybody's notice.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::{Side, TableName};
use crate::source::fence;

const ID: &str = "source.uncopied_tables";

/// Tables of extensions that hold what users configure, with the condition that tells a user's rows from those that
/// CREATE EXTENSION brings (`pg_extension_config_dump`).
const CONFIGURED: &str = "
SELECT e.extname::text, n.nspname::text, c.relname::text, coalesce(condition, ''),
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
  FROM pg_extension e
 CROSS JOIN unnest(e.extconfig, e.extcondition) AS configured (oid, condition)
  JOIN pg_class c ON c.oid = configured.oid AND c.relkind IN ('r', 'p')
  JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1, 2, 3";

/// The fence's own tables may be there from an earlier migration.
const OWN_SCHEMA: &str = "
SELECT n.nspname::text, c.relname::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'pgsluice' AND c.relkind IN ('r', 'p') AND c.relname <> ALL ($1)
 ORDER BY 2";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let mut findings = Vec::new();
    for row in context.rows(ID, Side::Source, CONFIGURED, &[]).await? {
        let (extension, condition): (String, String) = (row.get(0), row.get(3));
        let table = TableName::new(row.get::<_, String>(1), row.get::<_, String>(2));
        let has_rows = if row.get(4) {
            let sql = format!("SELECT EXISTS (SELECT FROM {table} {condition})");
            context.row(ID, Side::Source, &sql, &[]).await?.get(0)
        } else {
            // Who may not look must not conclude that there is nothing.
            true
        };
        if has_rows {
            findings.push(of_extension(&extension, &table));
        }
    }
    for row in context.rows(ID, Side::Source, OWN_SCHEMA, &[&fence::TABLES.as_slice()]).await? {
        findings.push(in_our_schema(&TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))));
    }
    Ok(findings)
}

fn of_extension(extension: &str, table: &TableName) -> Finding {
    Finding::blocker(
        ID,
        table.plain(),
        format!(
            "The table belongs to extension {extension} and holds rows of your own (or may not be read). Extensions are \
             created anew on the target; such rows are neither copied nor streamed."
        ),
        format!(
            "Bring them over yourself (pg_dump --data-only --table='{table}'), before the cutover and again if they \
             change, and waive this:\npreflight.waive = [\"{ID}\"]"
        ),
    )
}

fn in_our_schema(table: &TableName) -> Finding {
    Finding::blocker(
        ID,
        table.plain(),
        "Schema pgsluice is this program's own: a table in it is not migrated.",
        format!(
            "Move it:\nALTER TABLE {table} SET SCHEMA …;\nOr, if its rows are not needed on the target, waive this:\n\
             preflight.waive = [\"{ID}\"]"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_would_stay_behind_are_named_with_their_table() {
        let finding = of_extension("pg_cron", &TableName::new("cron", "job"));
        assert_eq!(finding.subject, "cron.job");
        assert!(finding.remedy.contains("--table='\"cron\".\"job\"'"), "{}", finding.remedy);
    }
}
