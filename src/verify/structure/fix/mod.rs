//! SQL for the target that makes it like the source. Pure; what could lose rows, or needs a decision, has no statement here
//! but words. Everything is built from the server's own printing of definitions and quoted names.

mod alter;
mod column;

use std::sync::Arc;

use pgsluice_proto::command::{quote_ident, quote_literal};

pub(super) use self::alter::parent_of_partition;
use super::aspect::Aspect;
use super::catalog::{Catalog, Facts};
use super::diff::Sides;
use super::grant::{Grantee, Settlement};
use super::object::{ObjectKey, ObjectKind};

/// Makes an object that the target lacks, with its parts, and puts on it what the source's has.
pub(super) fn create(sides: Sides<'_>, key: &ObjectKey, wanted: &Facts) -> Option<String> {
    let mut statements = vec![creation(sides, key, wanted)?];
    statements.extend(put_on(sides, key, wanted));
    for (part, facts) in parts(sides.source, key) {
        match part.kind {
            // They are there, as the whole was made, and only what is put on them is missing.
            ObjectKind::Column | ObjectKind::Attribute => {
                let default = facts.get(Aspect::Default);
                let none = Facts::default();
                statements
                    .extend(default.and_then(|_| change(sides, part, facts, &none, &[Aspect::Default])));
                statements.extend(put_on(sides, part, facts));
            }
            _ => statements.extend(create(sides, part, facts)),
        }
    }
    Some(statements.join("\n"))
}

/// What belongs to something that stands for itself, and whose absence is told with it.
fn parts<'a>(source: &'a Catalog, whole: &'a ObjectKey) -> impl Iterator<Item = (&'a ObjectKey, &'a Facts)> {
    let kinds: &[ObjectKind] = match whole.kind {
        ObjectKind::Domain => &[ObjectKind::DomainConstraint],
        ObjectKind::Composite => &[ObjectKind::Attribute],
        ObjectKind::View | ObjectKind::MaterializedView => {
            &[ObjectKind::Column, ObjectKind::Rule, ObjectKind::Trigger]
        }
        _ => &[],
    };
    let by_place = kinds.iter().flat_map(move |kind| {
        let place: Option<Arc<str>> = Some((*whole.name).into());
        let first = ObjectKey { kind: *kind, place: place.clone(), name: "".into() };
        source.objects.range(first..).take_while(move |(key, _)| key.kind == *kind && key.place == place)
    });
    let has_indexes = whole.kind == ObjectKind::MaterializedView;
    let indexes = source
        .objects
        .iter()
        .filter(move |(key, facts)| key.kind == ObjectKind::Index && facts.table() == Some(&*whole.name));
    by_place.chain(has_indexes.then_some(indexes).into_iter().flatten())
}

/// What an object has beside what its creation gives it.
pub(super) fn put_on(sides: Sides<'_>, key: &ObjectKey, wanted: &Facts) -> Vec<String> {
    let mut statements = Vec::new();
    let fresh = wanted.fresh(key, &sides.target.role);
    for (aspect, value) in &wanted.values {
        let is_missing_role = *aspect == Aspect::Owner && !sides.target.roles.contains(&**value);
        if !is_missing_role && fresh.get(*aspect) != Some(value) {
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
    if key.kind == ObjectKind::Constraint {
        statements.extend(put_on_index(sides, key));
    }
    statements
}

/// What the index of a constraint has, which has the constraint's name.
fn put_on_index(sides: Sides<'_>, constraint: &ObjectKey) -> Vec<String> {
    let schema = constraint.place.as_deref().and_then(|place| Some(&place[..=place.find("\".\"")?]));
    let Some(schema) = schema else { return Vec::new() };
    let name = format!("{schema}.{}", constraint.name).into();
    let index = ObjectKey { kind: ObjectKind::Index, place: None, name };
    let Some(facts) = sides.source.objects.get(&index).filter(|facts| facts.is_derived) else {
        return Vec::new();
    };
    let bare = Facts::default();
    let aspects = facts.values.iter().map(|(aspect, _)| *aspect).filter(|aspect| *aspect != Aspect::Valid);
    aspects.filter_map(|aspect| change(sides, &index, facts, &bare, &[aspect])).collect()
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

/// Whether the change of these aspects is dropping and creating: then it mends all of the object.
pub(super) fn makes_again(kind: ObjectKind, aspects: &[Aspect]) -> bool {
    aspects.first() == Some(&Aspect::Definition)
        && matches!(
            kind,
            ObjectKind::Constraint
                | ObjectKind::ForeignKey
                | ObjectKind::DomainConstraint
                | ObjectKind::Index
                | ObjectKind::Trigger
                | ObjectKind::Rule
                | ObjectKind::Policy
                | ObjectKind::Statistics
                | ObjectKind::EventTrigger
                | ObjectKind::Cast
        )
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
            Some(format!("ALTER {} {key} OWNER TO {};", key.kind.sql(), quote_ident(value?)))
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
        (ObjectKind::View | ObjectKind::MaterializedView | ObjectKind::ForeignTable, _) => {
            format!("TABLE {key}")
        }
        (ObjectKind::ForeignServer, _) => format!("FOREIGN SERVER {key}"),
        (kind, _) => format!("{} {}", kind.sql(), sides.object(key)),
    };
    settlement.statements(&object, &columns, &grantee)
}
