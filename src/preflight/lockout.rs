//! `cutover.lock_out`: whether the role may take from clients the right to connect, on the side that the cutover leaves, and on the one
//! that a rollback would leave.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "cutover.lock_out";

/// What a side says.
struct Facts {
    database: String,
    owner: String,
    role: String,
    /// Whether the role has the owner's rights.
    is_owner: bool,
    /// Whether it may end the sessions of roles that are not its own.
    may_end_sessions: bool,
}

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    if !context.config.cutover.lock_out {
        return Ok(Vec::new());
    }
    let mut findings = Vec::new();
    let sides: &[Side] =
        if context.config.cutover.reverse { &[Side::Source, Side::Target] } else { &[Side::Source] };
    for side in sides {
        let sql = "SELECT current_database()::text, pg_get_userbyid(datdba)::text, current_user::text,
                          pg_has_role(datdba, 'USAGE'), pg_has_role('pg_signal_backend', 'USAGE')
                     FROM pg_database WHERE datname = current_database()";
        let row = context.row(ID, *side, sql, &[]).await?;
        findings.extend(judge(
            *side,
            &Facts {
                database: row.get(0),
                owner: row.get(1),
                role: row.get(2),
                is_owner: row.get(3),
                may_end_sessions: row.get(4),
            },
        ));
    }
    Ok(findings)
}

fn judge(side: Side, facts: &Facts) -> Option<Finding> {
    let quoted = pgsluice_proto::command::quote_ident;
    let Facts { database, owner, role, .. } = facts;
    if !facts.is_owner {
        let operation = if side == Side::Source { "cutover" } else { "rollback" };
        return Some(Finding::warning(
            ID,
            side.to_string(),
            format!(
                "Clients cannot be locked out of the {side}, as cutover.lock_out says, so a {operation} is refused until this is mended: \
                 database {database} belongs to {owner}, and role {role} does not have its rights."
            ),
            format!(
                "On the {side}: GRANT {} TO {}; or do without: cutover.lock_out = false",
                quoted(owner),
                quoted(role)
            ),
        ));
    }
    (!facts.may_end_sessions).then(|| {
        Finding::warning(
            ID,
            side.to_string(),
            format!(
                "Role {role} of the {side} may not end the sessions of other roles: clients that are connected when they are \
                 locked out stay until they disconnect."
            ),
            format!("As a superuser of the {side}: GRANT pg_signal_backend TO {};", quoted(role)),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            database: "shop".into(),
            owner: "Shop Owner".into(),
            role: "mover".into(),
            is_owner: true,
            may_end_sessions: true,
        }
    }

    #[test]
    fn the_owner_may_lock_out_and_needs_one_more_right_to_end_sessions() {
        assert_eq!(judge(Side::Source, &facts()), None);
        let finding = judge(Side::Source, &Facts { may_end_sessions: false, ..facts() }).expect("a finding");
        assert!(finding.remedy.contains("GRANT pg_signal_backend TO \"mover\""), "{finding:?}");
    }

    #[test]
    fn without_the_owners_rights_there_is_no_cutover_and_no_rollback() {
        let facts = Facts { is_owner: false, ..facts() };
        let finding = judge(Side::Source, &facts).expect("a finding");
        assert!(finding.remedy.contains("GRANT \"Shop Owner\" TO \"mover\""), "{finding:?}");
        let finding = judge(Side::Target, &facts).expect("a finding");
        assert!(finding.finding.contains("rollback"), "{finding:?}");
    }
}
