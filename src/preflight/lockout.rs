//! `cutover.lock_out`: whether clients can be locked out of the side that the cutover leaves, and of the one that a rollback would
//! leave; and whom it does not bind.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;
use crate::source::fence::{self, Objection};

const ID: &str = "cutover.lock_out";

/// What a side says.
#[derive(Default)]
struct Facts {
    role: String,
    objection: Option<Objection>,
    /// Whether the role may end the sessions of roles that are not its own.
    may_end_sessions: bool,
    /// Roles with sessions that are not ours, and that may connect whatever is taken from everybody: superusers, the owner.
    not_bound: Vec<String>,
}

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    if !context.config.cutover.lock_out {
        return Ok(Vec::new());
    }
    let mut findings = Vec::new();
    let sides: &[Side] =
        if context.config.cutover.reverse { &[Side::Source, Side::Target] } else { &[Side::Source] };
    for side in sides {
        let sql = "SELECT current_user::text, pg_has_role('pg_signal_backend', 'USAGE'),
                          (SELECT coalesce(array_agg(DISTINCT a.usename::text), '{}')
                             FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
                            WHERE a.datname = d.datname AND coalesce(a.application_name, '') NOT LIKE 'pgsluice %'
                              AND (r.rolsuper OR pg_has_role(r.oid, d.datdba, 'USAGE')))
                     FROM pg_database d WHERE d.datname = current_database()";
        let row = context.row(ID, *side, sql, &[]).await?;
        let objection =
            fence::objection(context.session(*side)).await.map_err(PreflightError::sql(ID, *side))?;
        let facts =
            Facts { role: row.get(0), objection, may_end_sessions: row.get(1), not_bound: row.get(2) };
        findings.extend(judge(*side, &facts));
    }
    Ok(findings)
}

fn judge(side: Side, facts: &Facts) -> Vec<Finding> {
    let warning = |finding: String, remedy: String| Finding::warning(ID, side.to_string(), finding, remedy);
    let mut findings = Vec::new();
    if let Some(Objection { problem, remedy }) = &facts.objection {
        let operation = if side == Side::Source { "cutover" } else { "rollback" };
        findings.push(warning(
            format!(
                "Clients cannot be locked out of the {side}, as cutover.lock_out says, and a {operation} is refused until this is \
                 mended: {problem}."
            ),
            format!("On the {side}: {remedy}\nOr do without:\ncutover.lock_out = false"),
        ));
    }
    if !facts.may_end_sessions {
        let role = &facts.role;
        findings.push(warning(
            format!(
                "Role {role} of the {side} may not end the sessions of other roles: clients that are connected when they are \
                 locked out stay until they disconnect."
            ),
            format!(
                "As a superuser of the {side}:\nGRANT pg_signal_backend TO {};",
                pgsluice_proto::command::quote_ident(role)
            ),
        ));
    }
    if !facts.not_bound.is_empty() {
        let roles = facts.not_bound.join(", ");
        findings.push(warning(
            format!(
                "Somebody is connected to the {side} as {roles}: superusers and the owner of the database may always connect, so \
                 they are not locked out."
            ),
            "Give applications roles of their own, which own nothing; or lead them away before the cutover.".to_owned(),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_may_lock_out_and_needs_one_more_right_to_end_sessions() {
        let owner = Facts { role: "mover".into(), may_end_sessions: true, ..Facts::default() };
        assert_eq!(judge(Side::Source, &owner), []);
        let findings = judge(Side::Source, &Facts { may_end_sessions: false, ..owner });
        assert!(findings[0].remedy.contains("GRANT pg_signal_backend TO \"mover\""), "{findings:?}");
    }

    #[test]
    fn what_is_in_the_way_of_a_cutover_or_a_rollback_is_said_with_its_side() {
        let objection = Objection { problem: "it belongs to others".into(), remedy: "Take it.".into() };
        let facts = Facts { objection: Some(objection), may_end_sessions: true, ..Facts::default() };
        let said = judge(Side::Source, &facts);
        assert!(
            said[0].finding.contains("a cutover is refused") && said[0].remedy.contains("Take it."),
            "{said:?}"
        );
        assert!(judge(Side::Target, &facts)[0].finding.contains("a rollback is refused"));
    }

    #[test]
    fn whom_it_does_not_bind_is_named() {
        let facts = Facts { may_end_sessions: true, not_bound: vec!["postgres".into()], ..Facts::default() };
        let said = judge(Side::Source, &facts);
        assert!(said.len() == 1 && said[0].finding.contains("as postgres"), "{said:?}");
    }
}
