//! `target.empty`: the schema is copied into an empty database, or the tables that are there are empty. Rows that
//! are there already would mix with the source's, and be nobody's to delete.

use super::context::{Context, NAMED_RELATIONS, enumerate};
use super::{Finding, PreflightError};
use crate::config::SchemaMode;
use crate::model::{Side, TableName};

const ID: &str = "target.empty";

/// Everything a dump could collide with, but what extensions brought.
const OBJECTS: &str = "
SELECT kind || ' ' || name FROM (
    SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
                          WHEN 'f' THEN 'foreign table' ELSE 'table' END AS kind,
           n.nspname || '.' || c.relname AS name, n.nspname AS schema, c.oid, 'pg_class'::regclass AS class
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
     UNION ALL
    SELECT 'function', n.nspname || '.' || p.proname, n.nspname, p.oid, 'pg_proc'::regclass
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     UNION ALL
    SELECT 'type', n.nspname || '.' || t.typname, n.nspname, t.oid, 'pg_type'::regclass
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE t.typtype IN ('e', 'd', 'r')
     UNION ALL
    SELECT 'schema', n.nspname, n.nspname, n.oid, 'pg_namespace'::regclass
      FROM pg_namespace n WHERE n.nspname <> 'public'
) AS objects
 WHERE schema NOT IN ('information_schema', 'pgsluice') AND schema !~ '^pg_'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = objects.class AND d.objid = objects.oid AND d.deptype = 'e')
 ORDER BY kind = 'schema', 1
 LIMIT 1000";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    match context.mode() {
        SchemaMode::Copy => {
            let rows = context.rows(ID, Side::Target, OBJECTS, &[]).await?;
            let objects: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            let database = context.config.target.connection.database();
            Ok(judge_objects(database, &objects).into_iter().collect())
        }
        SchemaMode::Existing => {
            let mut findings = Vec::new();
            for table in readable_tables(context).await? {
                let sql = format!("SELECT EXISTS (SELECT FROM ONLY {table})");
                if context.row(ID, Side::Target, &sql, &[]).await?.get(0) {
                    findings.push(has_rows(&table));
                }
            }
            Ok(findings)
        }
    }
}

fn judge_objects(database: &str, objects: &[String]) -> Option<Finding> {
    (!objects.is_empty()).then(|| {
        Finding::blocker(
            ID,
            database,
            format!("The target's database is not empty, and schema.mode = \"copy\" creates everything anew: {}.", enumerate(objects)),
            "Use an empty database (CREATE DATABASE …), drop what is not needed, or, if that is the schema to use, set schema.mode = \"existing\".",
        )
    })
}

/// The selected tables that exist on the target and can be looked into; others have findings of their own.
async fn readable_tables(context: &Context<'_>) -> Result<Vec<TableName>, PreflightError> {
    let selected = || context.tables.iter().filter(|table| table.holds_rows() && table.is_logged());
    let names: Vec<String> = selected().map(|table| table.name.to_string()).collect();
    let rows = context
        .rows(
            ID,
            Side::Target,
            &format!(
                "SELECT name FROM ({NAMED_RELATIONS}) AS wanted WHERE has_table_privilege(oid, 'SELECT')"
            ),
            &[&names],
        )
        .await?;
    let readable: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(selected()
        .map(|table| &table.name)
        .filter(|name| readable.contains(&name.to_string()))
        .cloned()
        .collect())
}

fn has_rows(table: &TableName) -> Finding {
    Finding::blocker(
        ID,
        table.plain(),
        "The table on the target has rows already: the source's would be mixed with them.",
        format!(
            "If its rows are not needed, on the target (or leave it out with source.tables.exclude):\nTRUNCATE {table};"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_on_the_target_blocks_a_schema_copy() {
        assert!(judge_objects("shop", &[]).is_none());
        let finding = judge_objects("shop", &["table public.orders".to_owned()]).expect("one table");
        assert!(finding.finding.contains("table public.orders"));
    }
}
