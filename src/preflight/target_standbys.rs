//! `target.standbys`: with `durability = "standbys"`, the role may see how far the target's standbys are, and there are
//! enough of them. Without either, changes would be applied and never confirmed, and the source would keep all of its WAL.

use pgsluice_proto::command::quote_ident;

use super::context::Context;
use super::{Finding, PreflightError};
use crate::config::Durability;
use crate::model::{Side, counted};
use crate::target::standbys;

const ID: &str = "target.standbys";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let Durability::Standbys(wanted) = context.config.target.durability else { return Ok(None) };
    let sql = "SELECT current_user::text, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')";
    let row = context.row(ID, Side::Target, sql, &[]).await?;
    let standbys = standbys::look(context.target).await.map_err(PreflightError::sql(ID, Side::Target))?;
    let connected = u32::try_from(standbys.connected()).unwrap_or(u32::MAX);
    Ok(judge(row.get(0), row.get(1), connected, wanted.get()))
}

fn judge(role: &str, may_see_them: bool, connected: u32, wanted: u32) -> Option<Finding> {
    if !may_see_them {
        return Some(Finding::blocker(
            ID,
            role,
            format!(
                "Role {role} may not see how far the target's standbys are: nothing would ever be confirmed to the source."
            ),
            format!("As a superuser of the target:\nGRANT pg_read_all_stats TO {};", quote_ident(role)),
        ));
    }
    (connected < wanted).then(|| {
        Finding::warning(
            ID,
            "target",
            format!("target.standbys is {wanted}, and {} connected: until there are enough, nothing is confirmed, and the source keeps its WAL.", counted(connected, "standby of the target is", "standbys of the target are")),
            "Attach the missing standbys, lower target.standbys, or set target.durability = \"local\".",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blindness_blocks_and_too_few_standbys_warn() {
        let blind = judge("app", false, 3, 1).expect("a finding");
        assert_eq!(blind.severity, super::super::Severity::Blocker);
        assert!(blind.remedy.ends_with("GRANT pg_read_all_stats TO \"app\";"));
        assert!(judge("app", true, 1, 2).is_some_and(|finding| {
            finding.finding.contains("is 2, and 1 standby of the target is connected")
        }));
        assert!(judge("app", true, 2, 2).is_none());
    }
}
