//! Everything but columns: what can be altered is altered, what cannot is dropped and made again where that loses nothing but
//! a definition.

use super::super::aspect::Aspect;
use super::super::catalog::Facts;
use super::super::diff::Sides;
use super::super::object::{ObjectKey, ObjectKind};
use super::{create, drop, makes_again, put_on};

pub(super) fn change(
    sides: Sides<'_>,
    key: &ObjectKey,
    wanted: &Facts,
    found: &Facts,
    aspects: &[Aspect],
) -> Option<String> {
    let aspect = *aspects.first()?;
    let value = wanted.get(aspect);
    let place = key.place.as_deref();
    match (key.kind, aspect) {
        (ObjectKind::Table, _) => table(key, wanted, found, aspect),
        (ObjectKind::Sequence, _) => Some(sequence(key, wanted, aspects)),
        (ObjectKind::Enum, Aspect::Labels) => labels(key, value?, found.get(aspect).unwrap_or_default()),
        (ObjectKind::Domain, Aspect::Default) => {
            let action =
                value.map_or_else(|| "DROP DEFAULT".to_owned(), |value| format!("SET DEFAULT {value}"));
            Some(format!("ALTER DOMAIN {key} {action};"))
        }
        (ObjectKind::Domain, Aspect::NotNull) => {
            Some(format!("ALTER DOMAIN {key} {} NOT NULL;", if value.is_some() { "SET" } else { "DROP" }))
        }
        (ObjectKind::Extension, Aspect::InSchema) => {
            Some(format!("ALTER EXTENSION {key} SET SCHEMA {};", value?))
        }
        (
            ObjectKind::Constraint | ObjectKind::ForeignKey | ObjectKind::DomainConstraint,
            Aspect::Definition,
        ) => constraint(sides, key, wanted, found, aspects),
        (ObjectKind::Function | ObjectKind::Procedure, _) => routine(sides, key, wanted, aspects),
        (ObjectKind::View, Aspect::Definition) => {
            Some(wanted.creation()?.replacen("CREATE VIEW", "CREATE OR REPLACE VIEW", 1))
        }
        (ObjectKind::View | ObjectKind::MaterializedView, Aspect::Options) => {
            Some(alter_options("TABLE", key, value, found.get(aspect)))
        }
        (ObjectKind::Index, Aspect::Options) => Some(alter_options("INDEX", key, value, found.get(aspect))),
        (ObjectKind::Index, Aspect::Valid) => {
            let is_partitioned = wanted
                .table()
                .and_then(|table| sides.target.named(ObjectKind::Table, table))
                .is_some_and(|table| table.get(Aspect::PartitionKey).is_some());
            (!is_partitioned).then(|| format!("REINDEX INDEX {key};"))
        }
        (ObjectKind::Index, Aspect::Clustered) => {
            let table = wanted.table()?;
            let name = key.name.split("\".\"").last()?;
            Some(match value {
                Some(_) => format!("ALTER TABLE {table} CLUSTER ON \"{name};"),
                None => format!("ALTER TABLE {table} SET WITHOUT CLUSTER;"),
            })
        }
        (ObjectKind::Statistics, Aspect::StatisticsTarget) => {
            Some(format!("ALTER STATISTICS {key} SET STATISTICS {};", value.unwrap_or("-1")))
        }
        // ONLY: the partitions' are told one by one.
        (ObjectKind::Trigger, Aspect::Enabled) => {
            Some(format!("ALTER TABLE ONLY {} {} TRIGGER {};", place?, value.unwrap_or("ENABLE"), key.name))
        }
        (ObjectKind::Rule, Aspect::Enabled) => {
            Some(format!("ALTER TABLE {} {} RULE {};", place?, value.unwrap_or("ENABLE"), key.name))
        }
        (ObjectKind::EventTrigger, Aspect::Enabled) => {
            Some(format!("ALTER EVENT TRIGGER {key} {};", value.unwrap_or("ENABLE")))
        }
        (kind, _) if makes_again(kind, aspects) => {
            Some(format!("{}\n{}", drop(key)?, create(sides, key, wanted)?))
        }
        _ => None,
    }
}

fn table(key: &ObjectKey, wanted: &Facts, found: &Facts, aspect: Aspect) -> Option<String> {
    let (value, other) = (wanted.get(aspect), found.get(aspect));
    let alter = |action: &str| Some(format!("ALTER TABLE {key} {action};"));
    match aspect {
        Aspect::Persistence => alter(if value.is_some() { "SET UNLOGGED" } else { "SET LOGGED" }),
        Aspect::ReplicaIdentity => alter(&format!("REPLICA IDENTITY {}", value.unwrap_or("DEFAULT"))),
        Aspect::RowSecurity => {
            alter(&format!("{} ROW LEVEL SECURITY", if value.is_some() { "ENABLE" } else { "DISABLE" }))
        }
        Aspect::ForcedRowSecurity => {
            alter(&format!("{}FORCE ROW LEVEL SECURITY", if value.is_some() { "" } else { "NO " }))
        }
        Aspect::AccessMethod => alter(&format!("SET ACCESS METHOD {}", value.unwrap_or("\"heap\""))),
        Aspect::Options => Some(alter_options("TABLE", key, value, other)),
        Aspect::PartitionOf => {
            let mut statements = Vec::new();
            if let Some(other) = other {
                let parent = parent_of_partition(other)?;
                statements.push(format!("ALTER TABLE {parent} DETACH PARTITION {key};"));
            }
            if let Some(value) = value {
                let parent = parent_of_partition(value)?;
                let bound = value.strip_prefix(parent)?.trim_start();
                statements.push(format!("ALTER TABLE {parent} ATTACH PARTITION {key} {bound};"));
            }
            Some(statements.join("\n"))
        }
        Aspect::Inherits => {
            let parents = |list: Option<&str>| -> Vec<String> {
                list.map(|list| {
                    list.split("\", \"").map(|each| format!("\"{}\"", each.trim_matches('"'))).collect()
                })
                .unwrap_or_default()
            };
            let (wanted, found) = (parents(value), parents(other));
            let none =
                found.iter().filter(|each| !wanted.contains(each)).map(|each| format!("NO INHERIT {each}"));
            let new =
                wanted.iter().filter(|each| !found.contains(each)).map(|each| format!("INHERIT {each}"));
            let actions: Vec<String> = none.chain(new).collect();
            (!actions.is_empty()).then(|| format!("ALTER TABLE {key} {};", actions.join(", ")))
        }
        _ => None,
    }
}

/// The parent in `"s"."parent" FOR VALUES …` or `"s"."parent" DEFAULT`.
pub(in super::super) fn parent_of_partition(place: &str) -> Option<&str> {
    let end = place.find("\" FOR VALUES ").or_else(|| place.strip_suffix("\" DEFAULT").map(str::len))?;
    place.get(..=end)
}

/// All at once: a start must be between least and greatest value at every moment.
fn sequence(key: &ObjectKey, wanted: &Facts, aspects: &[Aspect]) -> String {
    let mut statement = format!("ALTER SEQUENCE {key}");
    for aspect in aspects {
        let value = wanted.get(*aspect);
        let words = match aspect {
            Aspect::Type => "AS",
            Aspect::Increment => "INCREMENT BY",
            Aspect::Minimum => "MINVALUE",
            Aspect::Maximum => "MAXVALUE",
            Aspect::Start => "START WITH",
            Aspect::Cache => "CACHE",
            Aspect::OwnedBy => "OWNED BY",
            // CYCLE, or the word for none.
            _ => "",
        };
        let space = if words.is_empty() { "" } else { " " };
        statement.push_str(&format!(" {words}{space}{}", value.unwrap_or_else(|| aspect.by_default())));
    }
    statement.push(';');
    statement
}

/// Adds labels; `None` if others would have to go or to move.
fn labels(key: &ObjectKey, wanted: &str, found: &str) -> Option<String> {
    let (wanted, found) = (split_literals(wanted), split_literals(found));
    let kept: Vec<&str> = wanted.iter().copied().filter(|label| found.contains(label)).collect();
    if kept != found {
        return None;
    }
    let mut statements = Vec::new();
    for (index, label) in wanted.iter().enumerate().filter(|(_, label)| !found.contains(label)) {
        let before = index.checked_sub(1).and_then(|before| wanted.get(before));
        let next = wanted.iter().skip(index).find(|label| found.contains(label));
        let position = match (before, next) {
            (Some(before), _) => format!(" AFTER {before}"),
            (None, Some(next)) => format!(" BEFORE {next}"),
            (None, None) => String::new(),
        };
        statements.push(format!("ALTER TYPE {key} ADD VALUE {label}{position};"));
    }
    Some(statements.join("\n"))
}

/// `'a', 'b''c', E'\\d'` into its literals, as they stand there.
fn split_literals(list: &str) -> Vec<&str> {
    let (mut literals, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, character) in list.char_indices() {
        match character {
            '\'' => inside = !inside,
            ',' if !inside => {
                literals.push(list.get(start..at).unwrap_or_default().trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = list.get(start..).unwrap_or_default().trim();
    literals.extend((!last.is_empty()).then_some(last));
    literals
}

/// A validated one needs only be validated; otherwise it is made again.
fn constraint(
    sides: Sides<'_>,
    key: &ObjectKey,
    wanted: &Facts,
    found: &Facts,
    aspects: &[Aspect],
) -> Option<String> {
    let (definition, other) = (wanted.get(Aspect::Definition)?, found.get(Aspect::Definition)?);
    let place = key.place.as_deref()?;
    let is_domains = key.kind == ObjectKind::DomainConstraint;
    if other.strip_suffix(" NOT VALID") == Some(definition) {
        let what = if is_domains { "DOMAIN" } else { "TABLE" };
        let mut statements = vec![format!("ALTER {what} {place} VALIDATE CONSTRAINT {};", key.name)];
        let others = aspects.iter().filter(|aspect| **aspect != Aspect::Definition);
        statements.extend(others.filter_map(|aspect| super::change(sides, key, wanted, found, &[*aspect])));
        return Some(statements.join("\n"));
    }
    if is_domains {
        return Some(format!("{}\n{}", drop(key)?, create(sides, key, wanted)?));
    }
    let again =
        format!("ALTER TABLE {place} DROP CONSTRAINT {0}, ADD CONSTRAINT {0} {definition};", key.name);
    Some([vec![again], put_on(sides, key, wanted)].concat().join("\n"))
}

/// Names of arguments and the result cannot be replaced.
fn routine(sides: Sides<'_>, key: &ObjectKey, wanted: &Facts, aspects: &[Aspect]) -> Option<String> {
    let must_go = aspects.iter().any(|aspect| matches!(aspect, Aspect::Arguments | Aspect::Result));
    if must_go {
        return Some(format!("{}\n{}", drop(key)?, create(sides, key, wanted)?));
    }
    wanted.creation().map(str::to_owned)
}

fn alter_options(what: &str, key: &ObjectKey, wanted: Option<&str>, found: Option<&str>) -> String {
    format!("ALTER {what} {key} {};", set_and_reset(wanted, found).join(", "))
}

/// `SET (…)` and `RESET (…)`, each where there is something to set or reset.
pub(super) fn set_and_reset(wanted: Option<&str>, found: Option<&str>) -> Vec<String> {
    let split = |list: Option<&'_ str>| -> Vec<String> {
        list.map(|list| list.split(", ").map(str::to_owned).collect()).unwrap_or_default()
    };
    let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
    let (wanted, found) = (split(wanted), split(found));
    let set: Vec<String> = wanted
        .iter()
        .filter(|option| !found.contains(option))
        .map(|option| match option.split_once('=') {
            Some((name, value)) => format!("{name} = {}", pgsluice_proto::command::quote_literal(value)),
            None => option.clone(),
        })
        .collect();
    let reset: Vec<String> = found
        .iter()
        .map(|option| name(option))
        .filter(|found| !wanted.iter().any(|option| name(option) == *found))
        .collect();
    let mut actions = Vec::new();
    if !set.is_empty() {
        actions.push(format!("SET ({})", set.join(", ")));
    }
    if !reset.is_empty() {
        actions.push(format!("RESET ({})", reset.join(", ")));
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: ObjectKind) -> ObjectKey {
        ObjectKey { kind, place: None, name: "\"s\".\"t\"".into() }
    }

    #[test]
    fn labels_are_added_where_they_belong_and_nothing_is_moved() {
        let key = key(ObjectKind::Enum);
        let fix = |wanted, found| labels(&key, wanted, found);
        assert_eq!(
            fix("'a', 'b,''c', 'd'", "'d'").as_deref(),
            Some(
                "ALTER TYPE \"s\".\"t\" ADD VALUE 'a' BEFORE 'd';\nALTER TYPE \"s\".\"t\" ADD VALUE 'b,''c' AFTER 'a';"
            )
        );
        assert_eq!(fix("'a', 'b'", "'b', 'a'"), None);
        assert_eq!(fix("'a'", "'a', 'b'"), None);
        assert_eq!(fix("'a'", "").as_deref(), Some("ALTER TYPE \"s\".\"t\" ADD VALUE 'a';"));
    }

    #[test]
    fn options_are_set_and_reset() {
        let sql = |wanted, found| alter_options("TABLE", &key(ObjectKind::Table), wanted, found);
        assert_eq!(
            sql(Some("a=1, b=2"), Some("b=3, c=4")),
            "ALTER TABLE \"s\".\"t\" SET (a = '1', b = '2'), RESET (c);"
        );
        assert_eq!(sql(None, Some("c=4")), "ALTER TABLE \"s\".\"t\" RESET (c);");
    }

    #[test]
    fn a_partition_is_moved_to_its_parent_with_its_bound() {
        let facts = |place: &str| Facts {
            values: Box::new([(Aspect::PartitionOf, place.into())]),
            ..Facts::default()
        };
        let (wanted, found) = (facts("\"s\".\"p\" FOR VALUES IN (1)"), facts("\"s\".\"q\" DEFAULT"));
        assert_eq!(
            table(&key(ObjectKind::Table), &wanted, &found, Aspect::PartitionOf).as_deref(),
            Some(
                "ALTER TABLE \"s\".\"q\" DETACH PARTITION \"s\".\"t\";\nALTER TABLE \"s\".\"p\" ATTACH PARTITION \"s\".\"t\" FOR VALUES IN (1);"
            )
        );
    }
}
