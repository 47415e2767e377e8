//! `source.materialized_views`: built once on the target, and not kept up to date by the stream.

use super::context::{Context, enumerate};
use super::{Finding, PreflightError};
use crate::model::{Side, TableName};

const ID: &str = "source.materialized_views";

/// In the order of their making: a view over another one is refreshed after it.
pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let rows = context
        .rows(
            ID,
            Side::Source,
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'm' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
                AND NOT EXISTS (SELECT FROM pg_depend d
                                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
              ORDER BY c.oid",
            &[],
        )
        .await?;
    let views: Vec<TableName> =
        rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect();
    Ok(judge(&views))
}

fn judge(views: &[TableName]) -> Option<Finding> {
    if views.is_empty() {
        return None;
    }
    let names: Vec<String> = views.iter().map(TableName::plain).collect();
    let refresh: Vec<String> =
        views.iter().map(|view| format!("REFRESH MATERIALIZED VIEW {view};")).collect();
    Some(Finding::warning(
        ID,
        "source",
        format!(
            "Materialized views are not in the stream of changes: {}. On the target they show what they were built from.",
            enumerate(&names)
        ),
        format!("After the cutover, on the target:\n{}", refresh.join("\n")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn materialized_views_warn_with_the_statements_to_refresh_them() {
        assert!(judge(&[]).is_none());
        let finding = judge(&[TableName::new("public", "totals")]).expect("one view");
        assert!(finding.remedy.contains(r#"REFRESH MATERIALIZED VIEW "public"."totals";"#));
    }
}
