//! What is said of a difference: sentences for somebody who has been woken up for them. Definitions are quoted up to a length;
//! bodies of functions and options that may be secrets never are.

use super::aspect::Aspect;
use super::catalog::Facts;
use super::diff::Sides;
use super::grant::{Grantee, Settlement};
use super::object::{ObjectKey, ObjectKind};

/// How much of a definition is quoted, in characters.
const QUOTED_MAX: usize = 240;

/// The beginning of a sentence about it.
fn subject(sides: Sides<'_>, key: &ObjectKey) -> String {
    let kind = key.kind.as_str();
    let capital = kind.get(..1).unwrap_or_default().to_ascii_uppercase();
    let object = sides.object(key);
    match key.kind {
        // It begins with what it is.
        ObjectKind::Other => object,
        _ => format!("{capital}{} {object}", kind.get(1..).unwrap_or_default()),
    }
}

/// An object that only the source has.
pub(super) fn missing(sides: Sides<'_>, key: &ObjectKey) -> String {
    let place = key.place.as_deref();
    let of_view = place.is_some_and(|place| {
        matches!(
            sides.source.relation_kind(place),
            Some(ObjectKind::View | ObjectKind::MaterializedView | ObjectKind::ForeignTable)
        )
    });
    let advice = match key.kind {
        ObjectKind::Table => {
            "\nCreate it as the source has it (pg_dump --schema-only --table=… prints it); its rows are brought by `pgsluice tables add`."
        }
        ObjectKind::Column if of_view => "\nCreate the view or foreign table again as the source has it.",
        ObjectKind::Column => " The rows that are there have no value for it: they have to be copied again.",
        ObjectKind::Extension => " Its package has to be on the target's servers.",
        ObjectKind::Aggregate | ObjectKind::Other | ObjectKind::ForeignServer | ObjectKind::ForeignTable => {
            "\nCreate it as the source has it: pg_dump --schema-only prints it."
        }
        _ => "",
    };
    format!("{} is missing on the target.{advice}", subject(sides, key))
}

/// An object that only the target has.
pub(super) fn surplus(sides: Sides<'_>, key: &ObjectKey) -> String {
    let subject = subject(sides, key);
    let advice = match (key.kind, &key.place) {
        (kind, _) if kind.is_only_definition() => String::new(),
        (ObjectKind::Column, Some(place)) => {
            format!(
                "\nIf nothing needs it, its values go with: ALTER TABLE {place} DROP COLUMN {};",
                key.name
            )
        }
        (ObjectKind::Attribute, Some(place)) => {
            format!(
                "\nIf nothing needs it, its values go with: ALTER TYPE {place} DROP ATTRIBUTE {};",
                key.name
            )
        }
        (ObjectKind::Other, _) => "\nIf nothing needs it, drop it.".to_owned(),
        (kind, _) => {
            format!("\nIf nothing needs it, it goes, with all that is in it: DROP {} {key};", kind.sql())
        }
    };
    format!("{subject} is only on the target.{advice}")
}

/// What of an object differs.
pub(super) fn differs(
    sides: Sides<'_>,
    key: &ObjectKey,
    wanted: &Facts,
    found: &Facts,
    aspects: &[Aspect],
) -> String {
    let told: Vec<String> = aspects.iter().map(|aspect| difference(key, wanted, found, *aspect)).collect();
    let advice = advice(key, wanted, found, aspects);
    format!("{}: {}.{advice}", subject(sides, key), told.join("; "))
}

fn difference(key: &ObjectKey, wanted: &Facts, found: &Facts, aspect: Aspect) -> String {
    let noun = aspect.noun();
    let is_digest = [wanted, found]
        .iter()
        .any(|facts| facts.get(aspect).is_some_and(|text| text.starts_with("of digest ")));
    if aspect == Aspect::Body || is_digest || aspect == Aspect::Definition && key.kind == ObjectKind::View {
        return format!("its {noun} on the target is not the source's");
    }
    let say = |facts: &Facts| quoted(facts.get(aspect).unwrap_or_else(|| aspect.by_default()));
    format!("its {noun} is {} on the target and {} on the source", say(found), say(wanted))
}

fn advice(key: &ObjectKey, wanted: &Facts, found: &Facts, aspects: &[Aspect]) -> &'static str {
    let has = |aspect| aspects.contains(&aspect);
    match key.kind {
        ObjectKind::Extension if has(Aspect::Version) => {
            " A newer server comes with newer extensions: nothing has to be done."
        }
        ObjectKind::Enum => {
            " What has to be added is added; labels that are in another order, or that only the target has, cannot be changed without making the type again."
        }
        ObjectKind::MaterializedView if has(Aspect::Definition) => {
            "\nDrop it and create it again as the source has it, with its indexes."
        }
        ObjectKind::Table if has(Aspect::PartitionKey) => {
            "\nA table cannot become partitioned, or otherwise partitioned: it has to be made again, or kept as it is on purpose."
        }
        ObjectKind::Table if has(Aspect::PartitionOf) => {
            " Indexes, constraints and triggers that it has of its parent are compared once it is where it belongs: compare again then."
        }
        ObjectKind::Column if has(Aspect::Generated) && found.get(Aspect::Generated).is_none() => {
            "\nA column cannot become generated: drop it and add it again as the source has it."
        }
        ObjectKind::Column if has(Aspect::Generated) && wanted.get(Aspect::Generated).is_some() => {
            " From 17 on ALTER TABLE … ALTER COLUMN … SET EXPRESSION changes it; before, drop the column and add it again."
        }
        ObjectKind::Domain if has(Aspect::Type) || has(Aspect::Collation) => {
            "\nA domain's type cannot be changed: it has to be made again."
        }
        ObjectKind::Range | ObjectKind::Aggregate | ObjectKind::ForeignServer | ObjectKind::ForeignTable
            if has(Aspect::Definition) || has(Aspect::Options) || has(Aspect::Server) =>
        {
            "\nDrop it and create it again as the source has it (pg_dump --schema-only prints it)."
        }
        ObjectKind::Index if has(Aspect::Valid) => {
            " A build that failed has left it behind; that of a partitioned table lacks one of a partition (ALTER INDEX … ATTACH PARTITION)."
        }
        _ => "",
    }
}

/// Who may do what on one side only.
pub(super) fn grants(
    sides: Sides<'_>,
    key: &ObjectKey,
    grantee: &Grantee,
    settlement: &Settlement<'_>,
) -> String {
    let who = match grantee {
        Grantee::Owner => "its owner".to_owned(),
        Grantee::Public => "PUBLIC".to_owned(),
        Grantee::Role(name) => format!("role {}", pgsluice_proto::command::quote_ident(name)),
    };
    let unknown = match grantee {
        Grantee::Role(role) if !sides.source.roles.contains(&**role) => {
            " The source has no role of that name."
        }
        _ => "",
    };
    format!("{}: {who} {}.{unknown}", subject(sides, key), settlement.words())
}

fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_definitions_are_cut_at_a_character() {
        assert_eq!(quoted("short"), "short");
        let cut = quoted(&"ä".repeat(QUOTED_MAX + 1));
        assert!(cut.ends_with("ä…") && cut.chars().count() == QUOTED_MAX + 1, "{cut}");
    }
}
