//! Roles that the source's objects mention and the target does not have: one difference for each, however many objects it owns
//! or may use. What would be said of those objects is left out, for it could not be mended before.

use std::collections::BTreeMap;

use pgsluice_proto::command::quote_ident;

use super::aspect::Aspect;
use super::diff::Sides;
use super::grant::Grantee;
use super::object::ObjectKind;
use super::report::{Severity, StructuralDifference};
use crate::model::counted;

/// What of the source a role has to do with.
#[derive(Default)]
struct Mentions {
    owned: usize,
    used: usize,
    /// Policies and default privileges.
    other: usize,
}

pub(super) fn missing(sides: Sides<'_>) -> Vec<StructuralDifference> {
    let mut missing = BTreeMap::<&str, Mentions>::new();
    let lacks = |role: &str| !sides.target.roles.contains(role);
    for (key, facts) in &sides.source.objects {
        if let Some(owner) = facts.get(Aspect::Owner).filter(|owner| lacks(owner)) {
            missing.entry(owner).or_default().owned += 1;
        }
        let mut last = None;
        for grant in facts.grants.iter().filter(|grant| sides.knows_privilege(key.kind, &grant.privilege)) {
            if let Grantee::Role(role) = &grant.grantee
                && lacks(role)
                && last != Some(role)
            {
                missing.entry(role).or_default().used += 1;
                last = Some(role);
            }
        }
        for role in facts.roles().iter().filter(|role| lacks(role)) {
            missing.entry(role).or_default().other += 1;
        }
    }
    missing.into_iter().map(|(role, mentions)| difference(role, &mentions)).collect()
}

fn difference(role: &str, mentions: &Mentions) -> StructuralDifference {
    let name = quote_ident(role);
    let parts = [
        (mentions.owned, "object of the source belongs to it", "objects of the source belong to it"),
        (mentions.used, "object gives it privileges", "objects give it privileges"),
        (
            mentions.other,
            "policy or default privilege mentions it",
            "policies or default privileges mention it",
        ),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| counted(count, one, many))
        .collect();
    let is_predefined = role.starts_with("pg_");
    let end = if is_predefined {
        "It comes with a version of PostgreSQL, and cannot be made: give those privileges to another role."
    } else {
        "Make it, with what it may do (LOGIN, memberships), then compare again: its objects and privileges are compared once it is there."
    };
    StructuralDifference {
        kind: ObjectKind::Role,
        what: format!("Role {name} does not exist on the target: {}. {end}", parts.join(", ")),
        fix: (!is_predefined).then(|| format!("CREATE ROLE {name};")),
        object: name,
        severity: Severity::Difference,
    }
}
