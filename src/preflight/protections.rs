//! `source.protections`: what the fence of a cutover cannot do for a role that is no superuser, and how to cover it.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.protections";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let sql =
        "SELECT rolname::text, rolsuper, current_database()::text FROM pg_roles WHERE rolname = current_user";
    let row = context.row(ID, Side::Source, sql, &[]).await?;
    Ok(judge(row.get(0), row.get(1), row.get(2), context.config.cutover.lock_out))
}

fn judge(role: &str, is_superuser: bool, database: &str, locks_out: bool) -> Option<Finding> {
    let lockout = if locks_out {
        String::new()
    } else {
        format!(
            " To keep clients out of it afterwards, by taking from everybody but the owner of {} the right to connect to \
             it:\ncutover.lock_out = true",
            pgsluice_proto::command::quote_ident(database)
        )
    };
    (!is_superuser).then(|| {
        Finding::warning(
            ID,
            "source",
            format!(
                "Role {role} is no superuser. The cutover's fence refuses all writes to the migrated tables, and notices tables, \
                 sequences and large objects that are made before its commit. It cannot refuse, after the commit: DDL (a new \
                 partition carries no trigger, and the owner can take one off) and writes to large objects."
            ),
            format!(
                "Keep migrations of the schema away from the source around the cutover.{lockout}"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superuser_has_them_all() {
        assert!(judge("postgres", true, "shop", false).is_none());
        let finding = judge("app", false, "Shop", false).expect("a warning");
        assert!(finding.remedy.contains(r#"owner of "Shop""#), "{finding:?}");
    }
}
