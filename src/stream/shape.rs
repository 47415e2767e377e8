//! Compares a table as the source announces it with the shape that was accepted last and with the target's table. Pure.
//! Never guesses: a column that is missing, could change a value on its way, or may be another one of the same name is a
//! difference. A column is known by its number, which survives a rename, and only without numbers by its name.

use std::collections::HashMap;

use pgsluice_proto::pgoutput::{Relation, TypeInfo};
use tokio_postgres::types::Type;

use crate::model::{Oid, RecordedColumn, StoredType, TableName};
use crate::target::relations::RelationRecord;
use crate::target::{TargetColumn, TargetTable};

/// What the source says of a table: its name and columns at this point of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// Its name.
    pub name: TableName,
    /// Its columns; `type_name` is empty for a type that the source did not name and nobody knows.
    pub columns: Vec<RecordedColumn>,
}

/// How much of a change the target has to have followed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// All of it.
    Everything,
    /// A dropped column may stay for now: the transaction under way has written it before it dropped it.
    DroppedMayStay,
}

/// The target's table takes the announced values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matched {
    /// For each announced column the one that takes it.
    pub columns: Vec<TargetColumn>,
    /// What is to be recorded as accepted.
    pub accepted: Vec<RecordedColumn>,
    /// Whether columns are still there that the source has dropped: not to be recorded yet.
    pub has_leftovers: bool,
}

/// One difference; the names are unquoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The target has no such table.
    NoTable,
    /// The table that had its rows is not on the target any more.
    TableGone,
    /// The source calls it otherwise now.
    TableRenamed,
    /// The source has a column that the target lacks.
    Added { column: String, type_name: String },
    /// The source has dropped a column that the target still has (under this name).
    Dropped { column: String },
    /// The source calls a column otherwise now; `from` is the target's name for it.
    Renamed { from: String, to: String },
    /// Its values may not arrive as they are.
    Retyped { column: String, type_name: String, how: String },
    /// By its place it is another column of the same name: renamed, or dropped and added again.
    Moved { column: String, type_name: String },
    /// Only the target computes it.
    Generated { column: String },
    /// Only the target has it, and it accepts no row without it.
    NeedsValue { column: String },
}

/// What a relation message says, with the types that were announced.
pub(super) fn announced(relation: &Relation, types: &HashMap<Oid, TypeInfo>) -> Announced {
    let column = |column: &pgsluice_proto::pgoutput::RelationColumn| RecordedColumn {
        name: column.name.clone(),
        type_name: type_name(column.type_oid, types).unwrap_or_default(),
        modifier: column.type_modifier,
        number: None,
        target_number: None,
    };
    Announced {
        name: TableName::new(&relation.schema, &relation.name),
        columns: relation.columns.iter().map(column).collect(),
    }
}

/// `pg_type.typname` for a built-in type, `schema.name` for another; `None` if the source did not say.
fn type_name(oid: Oid, types: &HashMap<Oid, TypeInfo>) -> Option<String> {
    if let Some(known) = types.get(&oid) {
        return Some(match known.schema.as_str() {
            "pg_catalog" => known.name.clone(),
            schema => format!("{schema}.{}", known.name),
        });
    }
    Type::from_oid(oid.0).map(|known| known.name().to_owned())
}

impl Announced {
    /// Whether it is what was accepted last.
    pub(super) fn is_as_recorded(&self, record: &RelationRecord) -> bool {
        self.name == record.name && self.has_columns_of(record.columns.iter())
    }

    /// Takes the columns' numbers from the source's catalog, unless that is ahead of (or behind) this point of the stream.
    pub(super) fn learn_numbers<'a>(&mut self, catalog: impl Iterator<Item = &'a RecordedColumn> + Clone) {
        if self.has_columns_of(catalog.clone()) {
            for (column, known) in self.columns.iter_mut().zip(catalog) {
                column.number = known.number;
            }
        }
    }

    fn has_columns_of<'a>(&self, mut other: impl Iterator<Item = &'a RecordedColumn>) -> bool {
        self.columns.iter().all(|column| other.next().is_some_and(|other| alike(column, other)))
            && other.next().is_none()
    }
}

fn alike(announced: &RecordedColumn, other: &RecordedColumn) -> bool {
    announced.name == other.name && same_type(announced, other)
}

fn same_type(announced: &RecordedColumn, other: &RecordedColumn) -> bool {
    announced.modifier == other.modifier
        && (announced.type_name == other.type_name || announced.type_name.is_empty())
}

/// What an announced column was when the shape was accepted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin<'a> {
    /// This column, whatever its name was.
    Same(&'a RecordedColumn),
    /// Nothing: it is new.
    New,
    /// A column of this name, at another place: not this one.
    Moved(&'a RecordedColumn),
}

/// How columns are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// By their numbers, or because nothing has changed.
    Exact,
    /// By name and place: the catalog does not say what they were at this point.
    ByName,
}

/// Compares. `target` is the table that has the relation's rows, under whatever name.
///
/// # Errors
/// Every difference: the stream has to wait until the target matches.
pub(super) fn compare(
    now: &Announced,
    record: &RelationRecord,
    target: Option<&TargetTable>,
    demand: Demand,
) -> Result<Matched, Vec<Change>> {
    let Some(target) = target else {
        let was_there = record.target_oid.is_some();
        return Err(vec![if was_there { Change::TableGone } else { Change::NoTable }]);
    };
    let mut changes = Vec::new();
    if now.name != record.name && target.name != now.name {
        changes.push(Change::TableRenamed);
    }
    let (origins, knowledge) = origins(now, record);
    let view = View { record, target, knowledge };
    let mut matched = Matched { columns: Vec::new(), accepted: Vec::new(), has_leftovers: false };
    for (column, origin) in now.columns.iter().zip(&origins) {
        match view.find(column, *origin) {
            Ok(found) => {
                matched.accepted.push(accept(column, *origin, found));
                matched.columns.push(found.clone());
            }
            Err(change) => changes.push(change),
        }
    }
    let leftovers = view.leftovers(&origins);
    matched.has_leftovers = !leftovers.is_empty();
    if demand == Demand::Everything {
        changes.extend(leftovers.iter().map(|column| Change::Dropped { column: column.name.clone() }));
    }
    for column in &target.columns {
        let is_taken = matched.columns.iter().any(|taken| taken.number == column.number);
        let is_leftover = leftovers.iter().any(|left| left.number == column.number);
        let is_of_a_change = changes.iter().any(|change| change.concerns(&column.name));
        if !is_taken && !is_leftover && !is_of_a_change && !column.fills_itself && !column.generated {
            changes.push(Change::NeedsValue { column: column.name.clone() });
        }
    }
    if changes.is_empty() { Ok(matched) } else { Err(changes) }
}

/// What is to be remembered of a column. What the source does not say stays as it was.
fn accept(column: &RecordedColumn, origin: Origin<'_>, found: &TargetColumn) -> RecordedColumn {
    let was = match origin {
        Origin::Same(was) => Some(was),
        Origin::New | Origin::Moved(_) => None,
    };
    let mut accepted = RecordedColumn { target_number: Some(found.number), ..column.clone() };
    if let Some(was) = was {
        accepted.number = accepted.number.or(was.number);
        if accepted.type_name.is_empty() {
            accepted.type_name.clone_from(&was.type_name);
        }
    }
    accepted
}

impl Change {
    fn concerns(&self, name: &str) -> bool {
        match self {
            Self::Renamed { from, .. } => from == name,
            Self::Dropped { column }
            | Self::Retyped { column, .. }
            | Self::Moved { column, .. }
            | Self::Generated { column } => column == name,
            _ => false,
        }
    }
}

fn origins<'a>(now: &Announced, record: &'a RelationRecord) -> (Vec<Origin<'a>>, Knowledge) {
    if now.has_columns_of(record.columns.iter()) && now.columns.iter().all(|column| column.number.is_none()) {
        return (record.columns.iter().map(Origin::Same).collect(), Knowledge::Exact);
    }
    let all_numbered = |columns: &[RecordedColumn]| columns.iter().all(|column| column.number.is_some());
    if all_numbered(&now.columns) && all_numbered(&record.columns) {
        let of = |column: &RecordedColumn| {
            let was = record.columns.iter().find(|was| was.number == column.number);
            was.map_or(Origin::New, Origin::Same)
        };
        return (now.columns.iter().map(of).collect(), Knowledge::Exact);
    }
    // Columns never change places, and new ones come last.
    let (mut last, mut came_new) = (None, false);
    let by_name = |column: &RecordedColumn| {
        let Some(place) = record.columns.iter().position(|was| was.name == column.name) else {
            came_new = true;
            return Origin::New;
        };
        let is_in_place = last.is_none_or(|last| last < place) && !came_new;
        last = last.max(Some(place));
        match record.columns.get(place) {
            Some(was) if is_in_place => Origin::Same(was),
            Some(was) => Origin::Moved(was),
            None => Origin::New,
        }
    };
    (now.columns.iter().map(by_name).collect(), Knowledge::ByName)
}

/// The target as seen from the record.
struct View<'a> {
    record: &'a RelationRecord,
    target: &'a TargetTable,
    knowledge: Knowledge,
}

impl<'a> View<'a> {
    fn named(&self, name: &str) -> Option<&'a TargetColumn> {
        self.target.columns.iter().find(|column| column.name == name)
    }

    /// The target's column that has the values of a recorded one.
    fn holder(&self, was: &RecordedColumn) -> Option<&'a TargetColumn> {
        match was.target_number {
            Some(number) if self.knowledge == Knowledge::Exact => {
                self.target.columns.iter().find(|column| column.number == number)
            }
            _ => self.named(&was.name),
        }
    }

    fn find(&self, column: &RecordedColumn, origin: Origin<'_>) -> Result<&'a TargetColumn, Change> {
        let added = || Change::Added { column: column.name.clone(), type_name: column.type_name.clone() };
        let (found, was) = match origin {
            Origin::Same(was) => {
                let found = self.holder(was).or_else(|| self.named(&column.name)).ok_or_else(added)?;
                if column.name != was.name && found.name != column.name {
                    return Err(Change::Renamed { from: found.name.clone(), to: column.name.clone() });
                }
                (found, Some(was))
            }
            Origin::New => {
                let found = self.named(&column.name).ok_or_else(added)?;
                let is_another = |was: &RecordedColumn| {
                    was.target_number.map_or(was.name == found.name, |number| number == found.number)
                };
                // The target's column of this name has another column's values.
                if self.knowledge == Knowledge::Exact && self.record.columns.iter().any(is_another) {
                    return Err(added());
                }
                (found, None)
            }
            Origin::Moved(was) => {
                let found = self.named(&column.name).ok_or_else(added)?;
                if was.target_number.is_none_or(|number| number == found.number) {
                    let (column, type_name) = (column.name.clone(), column.type_name.clone());
                    return Err(Change::Moved { column, type_name });
                }
                (found, None)
            }
        };
        if found.generated {
            // The stream carries no generated columns, so this one holds values of its own on the source.
            return Err(Change::Generated { column: found.name.clone() });
        }
        match type_difference(column, was, found) {
            None => Ok(found),
            Some(how) => {
                Err(Change::Retyped { column: found.name.clone(), type_name: column.type_name.clone(), how })
            }
        }
    }

    /// Columns of the target that hold what the source has dropped.
    fn leftovers(&self, origins: &[Origin<'_>]) -> Vec<&'a TargetColumn> {
        let is_kept = |was: &RecordedColumn| {
            origins.iter().any(|origin| match origin {
                Origin::Same(kept) | Origin::Moved(kept) => kept.name == was.name,
                Origin::New => false,
            })
        };
        let dropped = self.record.columns.iter().filter(|was| !is_kept(was));
        dropped.filter_map(|was| self.holder(was)).collect()
    }
}

/// Why a value of the source's column may not arrive as it is; `None` if it will. A target that was exactly as the source
/// has to be exactly so again; one that was wider before may stay so.
fn type_difference(
    column: &RecordedColumn,
    was: Option<&RecordedColumn>,
    found: &TargetColumn,
) -> Option<String> {
    if column.type_name.is_empty() {
        return None;
    }
    let is_exactly = |column: &RecordedColumn| {
        column.type_name == found.base_type && column.modifier == found.type_modifier && !found.is_domain
    };
    let was_exact = was.is_some_and(|was| !same_type(column, was) && is_exactly(was));
    let stored = |name: &str, modifier| StoredType { name: name.to_owned(), modifier };
    let takes_all = stored(&found.base_type, found.type_modifier)
        .takes_every_value_of(&stored(&column.type_name, column.modifier));
    if column.type_name != found.base_type {
        return (was_exact || !takes_all)
            .then(|| format!("is {} on the source and {} on the target", column.type_name, found.base_type));
    }
    (was_exact && !is_exactly(column) || !takes_all && !found.is_domain).then(|| {
        format!(
            "has type modifier {} on the source and {} on the target",
            column.modifier, found.type_modifier
        )
    })
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
