//! `source.event_triggers`: they fire for this program's own DDL too, and may refuse it or act on it: CREATE PUBLICATION
//! when the migration begins, the fence's triggers at the cutover, and on the target everything the schema is made of.

use pgsluice_proto::command::quote_ident;

use super::context::{Context, enumerate};
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.event_triggers";

/// Those of extensions are looked after by them. `tags`: what each is limited to, if it is.
const ENABLED: &str = "
SELECT e.evtname || ' (' || e.evtevent || coalesce(': ' || array_to_string(e.evttags, ', '), '') || ')'
  FROM pg_event_trigger e
 WHERE e.evtenabled IN ('O', 'A')
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e')
 ORDER BY 1";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let rows = context.rows(ID, Side::Source, ENABLED, &[]).await?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(judge(&names))
}

fn judge(names: &[String]) -> Option<Finding> {
    let disable: Vec<String> =
        names.iter().map(|name| format!("ALTER EVENT TRIGGER {} DISABLE;", quote_ident(name))).collect();
    (!names.is_empty()).then(|| {
        Finding::warning(
            ID,
            "source",
            format!(
                "Event triggers fire for pgsluice's own DDL: {}. One that refuses CREATE PUBLICATION or CREATE TRIGGER stops \
                 the migration or the cutover, with nothing lost; one that acts on them acts on both sides.",
                enumerate(names)
            ),
            format!(
                "Let them pass what the role of pgsluice does (session_user); or, on the source before the migration begins, \
                 and for as long as it runs:\n{}",
                disable.join("\n")
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_triggers_are_named() {
        assert!(judge(&[]).is_none());
        let finding = judge(&["guard (ddl_command_start)".to_owned()]).expect("a finding");
        assert!(finding.finding.contains("guard (ddl_command_start)"));
    }
}
