//! SQL for the target that makes it like the source. Pure; what could lose rows, or needs a decision, has no statement here
//! but words. Everything is built from the server's own printing of definitions and quoted names.

mod alter;
mod column;

use pgsluice_proto::command::quote_literal;

pub(super) use self::alter::parent_of_partition;
use super::aspect::Aspect;
use super::catalog::Facts;
use super::diff::Sides;
use super::grant::{Grantee, Settlement};
use super::object::{ObjectKey, ObjectKind};

/// Makes an object that the target lacks, and puts on it what the source's has.
pub(super) fn create(sides: Sides<'_>, key: &ObjectKey, wanted: &Facts) -> Option<String> {
    let mut statements = vec![creation(sides, key, wanted)?];
    let fresh = wanted.fresh(key.kind, &sides.target.role);
    for (aspect, _) in wanted.values.iter().filter(|(aspect, _)| aspect.is_put_on()) {
        let is_missing_role =
            *aspect == Aspect::Owner && wanted.get(*aspect).is_some_and(|role| !sides.target.roles.contains(role));
        if !is_missing_role && wanted.get(*aspect) != fresh.get(*aspect) {
            statements.extend(change(sides, key, wanted, &fresh, &[*aspect]));
        }
    }
    let settled = super::grant::settle(&wanted.grants, &fresh.grants, |privilege| {
        sides.knows_privilege(key.kind, privilege)
    });
    for (grantee, settlement) in settled {
        if !matches!(grantee, Grantee::Role(role) if !sides.target.roles.contains(&**role)) {
            statements.extend(settle(sides, key, wanted, &fresh, grantee, &settlement));
        }
    }
    Some(statements.join("\n"))
}

fn creation(sides: Sides<'_>, key: &ObjectKey, wanted: &Facts) -> Option<String> {
    let definition = wanted.get(Aspect::Definition);
    let place = key.place.as_deref();
    match key.kind {
        ObjectKind::Column | ObjectKind::Attribute => column::add(sides, key, wanted),
        ObjectKind::Constraint | ObjectKind::ForeignKey => {
            Some(format!("ALTER TABLE {} ADD CONSTRAINT {} {};", place?, key.name, definition?))
        }
        ObjectKind::DomainConstraint => {
            Some(format!("ALTER DOMAIN {} ADD CONSTRAINT {} {};", place?, key.name, definition?))
        }
        // Without ONLY those of the partitions are made, too.
        ObjectKind::Index => Some(format!("{};", definition?.replacen("\" ON ONLY \"", "\" ON \"", 1))),
        ObjectKind::Statistics
        | ObjectKind::Trigger
        | ObjectKind::Policy
        | ObjectKind::EventTrigger
        | ObjectKind::Cast => definition.map(str::to_owned),
        _ => wanted.creation().map(str::to_owned),
    }
}

/// Takes away what only the target has; `None` where more than a definition would go.
pub(super) fn drop(key: &ObjectKey) -> Option<String> {
    if !key.kind.is_only_definition() {
        return None;
    }
    let place = key.place.as_deref();
    Some(match key.kind {
        ObjectKind::Constraint | ObjectKind::ForeignKey => {
            format!("ALTER TABLE {} DROP CONSTRAINT {};", place?, key.name)
        }
        ObjectKind::DomainConstraint => format!("ALTER DOMAIN {} DROP CONSTRAINT {};", place?, key.name),
        kind => format!("DROP {} {key};", kind.sql()),
    })
}

/// Changes some aspects of an object of the target.
pub(super) fn change(
    sides: Sides<'_>,
    key: &ObjectKey,
    wanted: &Facts,
    found: &Facts,
    aspects: &[Aspect],
) -> Option<String> {
    let first = *aspects.first()?;
    let value = wanted.get(first);
    match (key.kind, first) {
        (_, Aspect::Owner) => {
            Some(format!("ALTER {} {key} OWNER TO {};", key.kind.sql(), pgsluice_proto::command::quote_ident(value?)))
        }
        (_, Aspect::Comment) => {
            let comment = value.map_or_else(|| "NULL".to_owned(), quote_literal);
            Some(format!("COMMENT ON {} {key} IS {comment};", key.kind.sql()))
        }
        (ObjectKind::Column | ObjectKind::Attribute, _) => column::change(sides, key, wanted, found, first),
        _ => alter::change(sides, key, wanted, found, aspects),
    }
}

/// Gives a grantee what it lacks on the target, and takes what it has only there.
pub(super) fn settle(
    sides: Sides<'_>,
    key: &ObjectKey,
    wanted: &Facts,
    found: &Facts,
    grantee: &Grantee,
    settlement: &Settlement<'_>,
) -> Vec<String> {
    let exists = |role: &&str| sides.target.roles.contains(*role);
    let owner = Sides::owner(sides.source, key, wanted)
        .filter(exists)
        .or_else(|| Sides::owner(sides.target, key, found))
        .unwrap_or(&sides.target.role);
    let grantee = grantee.sql(owner);
    let mut columns = String::new();
    let object = match (key.kind, key.place.as_deref()) {
        (ObjectKind::Column, Some(table)) => {
            columns = format!(" ({})", key.name);
            format!("TABLE {table}")
        }
        (ObjectKind::DefaultPrivileges, Some(place)) => {
            let statements = settlement.statements(&key.name, "", &grantee);
            return statements
                .into_iter()
                .map(|statement| format!("ALTER DEFAULT PRIVILEGES {place} {statement}"))
                .collect();
        }
        (ObjectKind::View | ObjectKind::MaterializedView | ObjectKind::ForeignTable, _) => format!("TABLE {key}"),
        (ObjectKind::ForeignServer, _) => format!("FOREIGN SERVER {key}"),
        (kind, _) => format!("{} {}", kind.sql(), sides.object(key)),
    };
    settlement.statements(&object, &columns, &grantee)
}
