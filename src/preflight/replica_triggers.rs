//! `source.replica_triggers`: triggers and rules that also fire for replicated changes. They have fired on the source,
//! and what they wrote is in the stream; on the target they would act a second time, and the sides would differ.

use tokio_postgres::Row;

use super::context::{Context, NAMED_RELATIONS};
use super::{Finding, PreflightError};
use crate::config::SchemaMode;
use crate::model::{Side, TableName};
use pgsluice_proto::command::quote_ident;

const ID: &str = "source.replica_triggers";

/// Looks where the target's definitions come from: on the source, or on the target itself if they are there already.
pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let side = match context.mode() {
        SchemaMode::Copy => Side::Source,
        SchemaMode::Existing => Side::Target,
    };
    let names: Vec<String> = context.tables.iter().map(|table| table.name.to_string()).collect();
    let rows =
        context.rows(ID, side, &format!("WITH wanted AS ({NAMED_RELATIONS}) {FIRING}"), &[&names]).await?;
    Ok(rows.iter().map(|row| judge(side, &Firing::decode(row))).collect())
}

/// Clones of a partitioned table's trigger follow their parent. Enabled `A`: always; `R`: for replicated changes only.
const FIRING: &str = "
SELECT n.nspname::text, c.relname::text, f.kind, f.name, f.enabled
  FROM (SELECT tgrelid AS oid, 'TRIGGER' AS kind, tgname::text AS name, tgenabled::text AS enabled
          FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0 AND tgname !~ '^pgsluice_'
        UNION ALL SELECT ev_class, 'RULE', rulename::text, ev_enabled::text FROM pg_rewrite) AS f
  JOIN wanted USING (oid) JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE f.enabled IN ('A', 'R')
 ORDER BY 1, 2, 3, 4";

struct Firing {
    table: TableName,
    /// `TRIGGER` or `RULE`.
    kind: String,
    name: String,
    when: When,
}

enum When {
    Always,
    ReplicatedOnly,
}

impl Firing {
    fn decode(row: &Row) -> Self {
        let enabled: String = row.get(4);
        Self {
            table: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            kind: row.get(2),
            name: row.get(3),
            when: if enabled == "A" { When::Always } else { When::ReplicatedOnly },
        }
    }
}

fn judge(side: Side, firing: &Firing) -> Finding {
    let Firing { table, kind, name, when } = firing;
    let (how, change) = match when {
        When::Always => ("ENABLE ALWAYS", format!("ENABLE {kind}")),
        When::ReplicatedOnly => ("ENABLE REPLICA", format!("DISABLE {kind}")),
    };
    Finding::blocker(
        ID,
        table.plain(),
        format!(
            "{kind} {name} is set to {how}: it would act on the target too, on changes on which it has acted already, and the rows would differ."
        ),
        format!(
            "On the {side}:\nALTER TABLE {table} {change} {};\nSessions of applications see no difference. Set it back on the target after the cutover, if you need to.",
            quote_ident(name)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(when: When) -> String {
        let table = TableName::new("public", "orders");
        judge(Side::Source, &Firing { table, kind: "TRIGGER".into(), name: "Audit".into(), when }).remedy
    }

    #[test]
    fn the_remedy_keeps_what_applications_see() {
        let always = "On the source:\nALTER TABLE \"public\".\"orders\" ENABLE TRIGGER \"Audit\";";
        assert!(remedy(When::Always).starts_with(always), "{}", remedy(When::Always));
        assert!(remedy(When::ReplicatedOnly).contains(r#"DISABLE TRIGGER "Audit";"#));
    }
}
