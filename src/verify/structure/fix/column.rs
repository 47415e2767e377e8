//! Columns of tables and attributes of composite types.

use super::super::aspect::Aspect;
use super::super::catalog::Facts;
use super::super::diff::Sides;
use super::super::object::{ObjectKey, ObjectKind};
use super::alter::set_and_reset;

/// Adds it as the source has it, apart from what is put on it afterwards.
pub(super) fn add(sides: Sides<'_>, key: &ObjectKey, wanted: &Facts) -> Option<String> {
    let place = key.place.as_deref()?;
    let typed = typed(wanted)?;
    if key.kind == ObjectKind::Attribute {
        return Some(format!("ALTER TYPE {place} ADD ATTRIBUTE {} {typed};", key.name));
    }
    if sides.source.relation_kind(place) != Some(ObjectKind::Table) {
        return None;
    }
    let mut column = format!("{} {typed}", key.name);
    if let Some(value) = wanted.get(Aspect::Default) {
        column.push_str(&format!(" DEFAULT {value}"));
    }
    if let Some(value) = wanted.get(Aspect::Generated) {
        column.push_str(&format!(" GENERATED ALWAYS AS {value}"));
    }
    if let Some(value) = wanted.get(Aspect::Identity) {
        column.push_str(&format!(" GENERATED {value} AS IDENTITY{}", sequence(sides, wanted)));
    }
    if wanted.get(Aspect::NotNull).is_some() {
        column.push_str(" NOT NULL");
    }
    Some(format!("ALTER TABLE {place} ADD COLUMN {column};"))
}

pub(super) fn change(
    sides: Sides<'_>,
    key: &ObjectKey,
    wanted: &Facts,
    found: &Facts,
    aspect: Aspect,
) -> Option<String> {
    let place = key.place.as_deref()?;
    if key.kind == ObjectKind::Attribute {
        return Some(format!("ALTER TYPE {place} ALTER ATTRIBUTE {} TYPE {};", key.name, typed(wanted)?));
    }
    let is_table = sides.target.relation_kind(place) == Some(ObjectKind::Table);
    if !is_table && aspect != Aspect::Default {
        return None;
    }
    let action = action(sides, key, wanted, found, aspect)?;
    Some(format!("ALTER TABLE {place} ALTER COLUMN {} {action};", key.name))
}

fn action(
    sides: Sides<'_>,
    key: &ObjectKey,
    wanted: &Facts,
    found: &Facts,
    aspect: Aspect,
) -> Option<String> {
    let value = wanted.get(aspect);
    let set_or = |set: &str, otherwise: &str| {
        value.map_or_else(|| otherwise.to_owned(), |value| format!("{set} {value}"))
    };
    Some(match aspect {
        Aspect::Type | Aspect::Collation if found.get(Aspect::Generated).is_some() => {
            format!("TYPE {}", typed(wanted)?)
        }
        Aspect::Type | Aspect::Collation => {
            format!("TYPE {} USING {}::{}", typed(wanted)?, key.name, wanted.get(Aspect::Type)?)
        }
        Aspect::Default => set_or("SET DEFAULT", "DROP DEFAULT"),
        Aspect::NotNull => set_or("SET", "DROP NOT NULL"),
        Aspect::StatisticsTarget => set_or("SET STATISTICS", "SET STATISTICS -1"),
        // The name of the type's own way is not told; from 16 on there is a word for it.
        Aspect::Storage if value.is_none() && sides.target.major < 16 => return None,
        Aspect::Storage => set_or("SET STORAGE", "SET STORAGE DEFAULT"),
        Aspect::Compression => set_or("SET COMPRESSION", "SET COMPRESSION default"),
        Aspect::Options => {
            let column = format!(", ALTER COLUMN {}", key.name);
            set_and_reset(value, found.get(aspect)).join(&format!("{column} "))
        }
        Aspect::Identity => match (value, found.get(aspect)) {
            (Some(value), Some(_)) => format!("SET GENERATED {value}"),
            (Some(value), None) => format!("ADD GENERATED {value} AS IDENTITY{}", sequence(sides, wanted)),
            (None, _) => "DROP IDENTITY".to_owned(),
        },
        Aspect::Generated => match (value, found.get(aspect)) {
            (None, Some(found)) if found.ends_with("STORED") => "DROP EXPRESSION".to_owned(),
            (Some(value), Some(found)) if sides.target.major >= 17 && kind(value) == kind(found) => {
                format!("SET EXPRESSION AS {}", value.strip_suffix(kind(value))?.trim_end())
            }
            _ => return None,
        },
        _ => return None,
    })
}

fn kind(generated: &str) -> &str {
    generated.rsplit(' ').next().unwrap_or_default()
}

/// Type and collation.
fn typed(wanted: &Facts) -> Option<String> {
    let collation = wanted.get(Aspect::Collation).map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    Some(format!("{}{collation}", wanted.get(Aspect::Type)?))
}

/// The sequence of an identity column as the source has it. Its type is the column's.
fn sequence(sides: Sides<'_>, wanted: &Facts) -> String {
    let Some(name) = wanted.sequence() else { return String::new() };
    let Some(facts) = sides.source.named(ObjectKind::Sequence, name) else { return String::new() };
    let value = |aspect| facts.get(aspect).unwrap_or_default();
    format!(
        " (SEQUENCE NAME {name} INCREMENT BY {} MINVALUE {} MAXVALUE {} START WITH {} CACHE {}{})",
        value(Aspect::Increment),
        value(Aspect::Minimum),
        value(Aspect::Maximum),
        value(Aspect::Start),
        value(Aspect::Cache),
        facts.get(Aspect::Cycle).map(|_| " CYCLE").unwrap_or_default()
    )
}
