//! `source.row_security`, `target.row_security`: tables whose policies bind the role. pgsluice reads and writes with `row_security = off`, so that
//! PostgreSQL refuses instead of leaving rows out in silence; this says so before a copy ends with it.

use pgsluice_proto::command::quote_ident;
use tokio_postgres::types::ToSql;

use super::context::{Context, enumerate};
use super::{Finding, PreflightError};
use crate::config::SchemaMode;
use crate::model::{Side, TableName};

const SOURCE: &str = "source.row_security";
const TARGET: &str = "target.row_security";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    // A partitioned table's own policies bind those who ask by its name; its partitions are what is read and written.
    let holding = || context.tables.iter().filter(|table| table.holds_rows());
    let selected: Vec<u32> = holding().map(|table| table.oid.0).collect();
    let binding = "SELECT current_user::text,
        coalesce(array_agg(oid::regclass::text ORDER BY 1) FILTER (WHERE row_security_active(oid)), '{}'),
        coalesce(array_agg(oid::regclass::text ORDER BY 1) FILTER (WHERE relrowsecurity AND relforcerowsecurity), '{}')
        FROM pg_class WHERE oid = ANY ($1)";
    let source = context.row(SOURCE, Side::Source, binding, &[&selected]).await?;
    let forced: Vec<String> = source.get(2);
    let target = match context.mode() {
        // They will be as on the source, and a policy that is forced binds the owner as well.
        SchemaMode::Copy => {
            let sql =
                "SELECT rolname::text, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user";
            let row = context.row(TARGET, Side::Target, sql, &[]).await?;
            (row.get::<_, String>(0), if row.get(1) { Vec::new() } else { forced })
        }
        SchemaMode::Existing => {
            let names = |part: fn(&TableName) -> &String| -> Vec<String> {
                holding().map(|table| part(&table.name).clone()).collect()
            };
            // By the catalogs: a name cannot be looked up in a schema that the role may not use.
            let sql = "SELECT current_user::text,
                              coalesce(array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY 1) FILTER (WHERE row_security_active(c.oid)), '{}')
                         FROM unnest($1::text[], $2::text[]) AS wanted (schema, name)
                         JOIN pg_namespace n ON n.nspname = wanted.schema
                         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name";
            let parameters: [&(dyn ToSql + Sync); 2] =
                [&names(|name| &name.schema), &names(|name| &name.name)];
            let row = context.row(TARGET, Side::Target, sql, &parameters).await?;
            (row.get(0), row.get(1))
        }
    };
    let source = judge(SOURCE, Side::Source, source.get(0), &source.get::<_, Vec<String>>(1));
    Ok(source.into_iter().chain(judge(TARGET, Side::Target, &target.0, &target.1)).collect())
}

fn judge(id: &'static str, side: Side, role: &str, tables: &[String]) -> Option<Finding> {
    (!tables.is_empty()).then(|| {
        Finding::blocker(
            id,
            role,
            format!(
                "Row security binds role {role} on the {side}, in {}: the migration would be refused rows, or see only some of them.",
                enumerate(tables)
            ),
            format!(
                "As a superuser of the {side}:\nALTER ROLE {} BYPASSRLS;\nWhere that is not possible, as the owner, until the migration is over:\n{}",
                quote_ident(role),
                no_force(tables),
            ),
        )
    })
}

/// Policies that are forced bind the owner; without that they do not.
fn no_force(tables: &[String]) -> String {
    let each = tables.iter().map(|table| format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;"));
    each.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_whose_policies_bind_the_role_block_with_the_statement_that_lets_it_pass() {
        assert!(judge(SOURCE, Side::Source, "app", &[]).is_none());
        let finding = judge(TARGET, Side::Target, "o'neil", &["shop.orders".into()]).expect("a finding");
        assert!(finding.finding.contains("on the target, in shop.orders"), "{finding:?}");
        assert_eq!(
            finding.remedy,
            "As a superuser of the target:\nALTER ROLE \"o'neil\" BYPASSRLS;\nWhere that is not possible, as the owner, until the migration \
             is over:\nALTER TABLE shop.orders NO FORCE ROW LEVEL SECURITY;"
        );
    }
}
