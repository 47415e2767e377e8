//! What it means that the two sides are as they are: which tables are in the migration, which are outside and why, and
//! what can be done about it without asking. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::look::{TargetPlace, UserTable, View};
use crate::config::TableFilter;
use crate::model::{Lsn, Oid, TableName};
use crate::source::published::PublishedRelation;
use crate::target::relations::{JoinState, RelationRecord};

/// Membership of a record whose table was asked for and is not published yet.
pub(super) const REQUESTED: &str = "";
/// Membership of a record whose table the source has dropped: what the stream still brings of it passes unapplied.
pub(super) const DROPPED: &str = "dropped";
/// Membership of a record whose table left the publication before it had joined: the same.
pub(super) const LEFT: &str = "left";

/// Where a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the migration: copied, and its changes are applied.
    Joined,
    /// On its way.
    Joining,
    /// Not in the migration, or not with all of its changes.
    Outside,
}

impl Standing {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Joining => "joining",
            Self::Outside => "outside",
        }
    }
}

/// Why a table is outside, or not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutsideReason {
    /// Selected by the configuration, and not in the publication.
    NotPublished,
    /// A partition of a migrated table that came after the start.
    NewPartition,
    /// Being copied, or about to be.
    Joining,
    /// Joined; its foreign keys are built once the stream has passed its copy.
    ForeignKeysDue,
    /// Detached on the source, or taken out of the publication.
    Detached,
    /// Detached and attached again, or taken out and put back: changes in between are missing.
    AttachedAgain,
    /// A column was dropped and added again in the same place: to the stream the table looks as before.
    ColumnMadeAnew,
    /// Attached on the source, and not on the target.
    NotAttached,
    /// The source has dropped it; the target still has it.
    Dropped,
}

impl OutsideReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::NotPublished,
        Self::NewPartition,
        Self::Joining,
        Self::ForeignKeysDue,
        Self::Detached,
        Self::AttachedAgain,
        Self::ColumnMadeAnew,
        Self::NotAttached,
        Self::Dropped,
    ];

    /// The name in the API and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotPublished => "not_published",
            Self::NewPartition => "new_partition",
            Self::Joining => "joining",
            Self::ForeignKeysDue => "foreign_keys_due",
            Self::Detached => "detached",
            Self::AttachedAgain => "attached_again",
            Self::ColumnMadeAnew => "column_made_anew",
            Self::NotAttached => "not_attached",
            Self::Dropped => "dropped",
        }
    }
}

/// Why a table is not (wholly) in the migration, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// In one word.
    pub reason: OutsideReason,
    /// What it means.
    pub explanation: String,
    /// What to do.
    pub remedy: String,
    /// Whether a cutover is refused because of it.
    pub blocks_cutover: bool,
}

/// A table and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStanding {
    /// Its name on the source.
    pub table: TableName,
    /// Where it stands.
    pub standing: Standing,
    /// Rows of its copy; `None` before there is one.
    pub rows_copied: Option<u64>,
    /// `None` for a table that is joined and done.
    pub outside: Option<Outside>,
}

/// A table that can join now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joinable {
    /// `pg_class.oid` on the source.
    pub oid: Oid,
    /// Its name.
    pub name: TableName,
    /// Whether its definition and its membership in the publication are ours to make.
    pub origin: Origin,
}

/// Why a table joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody asked for it.
    Requested,
    /// It is published: a partition, or what an interrupted join has published.
    Published,
}

/// The meaning of a [`View`].
#[derive(Clone, Debug, Default)]
pub struct Assessment {
    /// Every table, in name order.
    pub standings: Vec<TableStanding>,
    /// What can join now.
    pub joinable: Vec<Joinable>,
    /// Joined tables that missed something, by being out of the stream for a while or by a column made anew: they have to be
    /// copied again.
    pub to_copy_again: Vec<Oid>,
    /// Recorded tables that are gone from the source, or left before they had joined; with what their record becomes.
    pub(super) gone: Vec<(Oid, TableName, &'static str)>,
    /// Foreign keys to build, and the position the stream must have reached.
    pub foreign_keys_due: Vec<(Oid, Option<Lsn>)>,
    /// When the look began; `None` for a view that was not looked at.
    pub looked_at: Option<Instant>,
    /// End of the source's WAL when it was looked at.
    pub(super) wal_end: Option<Lsn>,
    /// Names that a table of the source has now.
    live_names: BTreeSet<TableName>,
}

impl Assessment {
    /// The first table because of which no cutover may begin.
    #[must_use]
    pub fn first_obstacle(&self) -> Option<(&TableName, &Outside)> {
        self.standings.iter().find_map(|standing| {
            let outside = standing.outside.as_ref().filter(|outside| outside.blocks_cutover)?;
            Some((&standing.table, outside))
        })
    }

    /// Whether records that the running stream goes by have to change: it must stand still while they do.
    #[must_use]
    pub fn needs_stream_to_stop(&self) -> bool {
        !self.to_copy_again.is_empty() || self.gone.iter().any(|(_, name, _)| self.live_names.contains(name))
    }
}

/// Works out what a view means. Without records (another version began this migration) nothing is said of membership.
#[must_use]
pub fn assess(view: &View, filter: &TableFilter) -> Assessment {
    let mut assessment = Assessment {
        looked_at: view.looked_at,
        wal_end: view.wal_end,
        live_names: view.tables.values().map(|table| table.name.clone()).collect(),
        ..Assessment::default()
    };
    let no_records = BTreeMap::new();
    let records = view.records.as_ref().unwrap_or(&no_records);
    let published: BTreeMap<Oid, &PublishedRelation> =
        view.published.iter().map(|relation| (relation.oid, relation)).collect();
    let mut judge = Judge { view, filter, assessment: &mut assessment };
    if view.records.is_some() {
        for relation in published.values() {
            judge.published(relation, records.get(&relation.oid));
        }
        for record in records.values().filter(|record| !published.contains_key(&record.source_oid)) {
            judge.unpublished(record);
        }
        judge.places(records);
    }
    for (_, table) in view.tables.iter().filter(|(oid, _)| !records.contains_key(oid)) {
        judge.unknown(table);
    }
    assessment.standings.sort_by(|a, b| a.table.cmp(&b.table));
    assessment
}

struct Judge<'a> {
    view: &'a View,
    filter: &'a TableFilter,
    assessment: &'a mut Assessment,
}

impl Judge<'_> {
    fn published(&mut self, relation: &PublishedRelation, record: Option<&RelationRecord>) {
        let name = &relation.name;
        match record {
            Some(record) if record.state == JoinState::Copying => self.joining(record, Origin::Published),
            Some(record) if record.membership != relation.membership => {
                self.assessment.to_copy_again.push(relation.oid);
                self.outside(name, Standing::Outside, Outside {
                    reason: OutsideReason::AttachedAgain,
                    explanation: "It was detached and attached again, or taken out of the publication and put back: changes \
                         in between are not in the stream."
                        .into(),
                    remedy: "Nothing: it is emptied on the target and copied again by itself.".into(),
                    blocks_cutover: true,
                });
            }
            Some(record) if has_column_made_anew(record, relation) => {
                self.assessment.to_copy_again.push(relation.oid);
                self.outside(name, Standing::Outside, Outside {
                    reason: OutsideReason::ColumnMadeAnew,
                    explanation: "A column was dropped and added again in the same place: what its rows got by that is not in the \
                         stream."
                        .into(),
                    remedy: "Nothing: it is emptied on the target and copied again by itself.".into(),
                    blocks_cutover: true,
                });
            }
            Some(record) => self.joined(record),
            None if self.view.on_target.contains_key(name) => {
                self.assessment.joinable.push(Joinable {
                    oid: relation.oid,
                    name: name.clone(),
                    origin: Origin::Published,
                });
                self.outside(name, Standing::Joining, joining());
            }
            None => {
                let outside = self.not_on_target(relation);
                self.outside(name, Standing::Outside, outside);
            }
        }
    }

    fn joined(&mut self, record: &RelationRecord) {
        let due = self.view.places.get(&record.source_oid).is_some_and(|place| place.foreign_keys_due);
        let outside = due.then(foreign_keys_due).or_else(|| self.not_attached(record));
        self.push(&record.name, Standing::Joined, outside);
    }

    /// Its rows arrive, and the target does not show them as those of the partitioned table.
    fn not_attached(&self, record: &RelationRecord) -> Option<Outside> {
        let (parent, bound) = self.view.tables.get(&record.source_oid)?.parent.as_ref()?;
        let alone = self.view.on_target.get(&record.name)?.parent.is_none();
        let has_parent = self.view.on_target.get(parent).is_some_and(|place| place.is_partitioned);
        (alone && has_parent).then(|| Outside {
            reason: OutsideReason::NotAttached,
            explanation: format!(
                "On the source it is a partition of {}; on the target it is a table by itself, and its rows are missing there.",
                parent.plain()
            ),
            remedy: format!("On the target: ALTER TABLE {parent} ATTACH PARTITION {} {bound};", record.name),
            blocks_cutover: true,
        })
    }

    /// A partitioned table has no record of its own: the stream must have passed the copies of its partitions.
    fn places(&mut self, records: &BTreeMap<Oid, RelationRecord>) {
        let last = records.values().filter_map(|record| record.join_lsn).max();
        let due = self.view.places.iter().filter(|(_, place)| place.foreign_keys_due && !place.indexes_due);
        for (oid, _) in due {
            match (records.get(oid), self.view.tables.get(oid)) {
                (Some(record), _) if record.state == JoinState::Copying => continue,
                (Some(record), _) => self.assessment.foreign_keys_due.push((*oid, record.join_lsn)),
                (None, table) => {
                    self.assessment.foreign_keys_due.push((*oid, last));
                    if let Some(table) = table {
                        self.push(&table.name, Standing::Joined, Some(foreign_keys_due()));
                    }
                }
            }
        }
    }

    fn joining(&mut self, record: &RelationRecord, origin: Origin) {
        let origin = if record.membership == REQUESTED { Origin::Requested } else { origin };
        self.assessment.joinable.push(Joinable { oid: record.source_oid, name: record.name.clone(), origin });
        self.outside(&record.name, Standing::Joining, joining());
    }

    /// A partition came, and the target lacks it; or somebody has put a table into the publication.
    fn not_on_target(&self, relation: &PublishedRelation) -> Outside {
        let (reason, what) = match &relation.root {
            Some(root) => (OutsideReason::NewPartition, format!("It is a new partition of {}", root.plain())),
            None => (OutsideReason::NotPublished, "It was put into the publication".to_owned()),
        };
        let statements = self.statements_for(relation.oid);
        Outside {
            reason,
            explanation: format!("{what}, and the target does not have it: its rows have nowhere to go."),
            remedy: if statements.is_empty() {
                format!(
                    "Create {} on the target as it is on the source; it then joins by itself.",
                    relation.name
                )
            } else {
                format!("On the target: {statements} It then joins by itself.")
            },
            blocks_cutover: true,
        }
    }

    /// The statements that create a partition, and what is above it, where the target lacks them.
    fn statements_for(&self, oid: Oid) -> String {
        let by_name: BTreeMap<&TableName, &UserTable> =
            self.view.tables.values().map(|table| (&table.name, table)).collect();
        let mut statements = Vec::new();
        let mut next = self.view.tables.get(&oid);
        while let Some(table) = next.filter(|table| !self.view.on_target.contains_key(&table.name)) {
            let Some((parent, bound)) = &table.parent else { break };
            let key =
                table.partition_key.as_ref().map(|key| format!(" PARTITION BY {key}")).unwrap_or_default();
            statements.push(format!("CREATE TABLE {} PARTITION OF {parent} {bound}{key};", table.name));
            next = by_name.get(parent).copied();
        }
        statements.reverse();
        statements.join(" ")
    }

    /// A recorded table that is not in the publication (any more).
    fn unpublished(&mut self, record: &RelationRecord) {
        let oid = record.source_oid;
        if self.view.dropped.contains(&oid) {
            return self.dropped(record);
        }
        let Some(table) = self.view.tables.get(&oid) else { return };
        match (record.state, record.membership.as_str()) {
            (JoinState::Copying, REQUESTED) if self.filter.selects(&table.root) => {
                return self.joining(record, Origin::Requested);
            }
            (JoinState::Copying, _) => self.assessment.gone.push((oid, record.name.clone(), LEFT)),
            (JoinState::Joined, _) => {}
        }
        let place = self.view.on_target.get(&table.name);
        if let Some(parent) = place.and_then(|place| place.parent.as_ref())
            && table.parent.is_none()
        {
            let name = &table.name;
            return self.outside(&table.name, Standing::Outside, Outside {
                reason: OutsideReason::Detached,
                explanation: format!(
                    "It was detached on the source, and its changes are no longer in the stream; on the target it is \
                     still a part of {}.",
                    parent.plain()
                ),
                remedy: format!(
                    "Once the lag is small, on the target: ALTER TABLE {parent} DETACH PARTITION {name}; Then add it again \
                     with `pgsluice tables add`, or leave it out with source.tables.exclude."
                ),
                blocks_cutover: true,
            });
        }
        if self.filter.selects(&table.root) {
            self.outside(&table.name, Standing::Outside, Outside {
                reason: OutsideReason::Detached,
                explanation: "It was detached, or taken out of the publication: its changes are no longer in the stream.".into(),
                remedy: add_or_exclude(&table.root),
                blocks_cutover: true,
            });
        }
    }

    /// What the source has dropped is nobody's loss, unless the target shows its rows as those of another table.
    fn dropped(&mut self, record: &RelationRecord) {
        if record.membership != DROPPED {
            self.assessment.gone.push((record.source_oid, record.name.clone(), DROPPED));
        }
        let Some(place) = self.view.on_target.get(&record.name) else { return };
        let was_ours = record.target_oid.is_none_or(|oid| oid == place.oid);
        if !was_ours || self.assessment.live_names.contains(&record.name) {
            return;
        }
        let outside = dropped(&record.name, place);
        self.outside(&record.name, Standing::Outside, outside);
    }

    /// A table of the source without a record: the root of a partitioned one stands for all.
    fn unknown(&mut self, table: &UserTable) {
        if table.is_published || table.name != table.root || !self.filter.selects(&table.root) {
            return;
        }
        self.outside(&table.name, Standing::Outside, Outside {
            reason: OutsideReason::NotPublished,
            explanation: "It is not in the publication, or was created after the migration began: nothing of it is migrated.".into(),
            remedy: add_or_exclude(&table.name),
            blocks_cutover: true,
        });
    }

    fn outside(&mut self, table: &TableName, standing: Standing, outside: Outside) {
        self.push(table, standing, Some(outside));
    }

    fn push(&mut self, table: &TableName, standing: Standing, outside: Option<Outside>) {
        let rows_copied = self.view.copied.get(table).map(|copied| copied.rows_copied);
        self.assessment.standings.push(TableStanding {
            table: table.clone(),
            standing,
            rows_copied,
            outside,
        });
    }
}

fn foreign_keys_due() -> Outside {
    Outside {
        reason: OutsideReason::ForeignKeysDue,
        explanation: "Its rows are there; its foreign keys are built on the target once the stream has passed its copy.".into(),
        remedy: "Wait until the lag is small; if it stays, the log says why.".into(),
        blocks_cutover: true,
    }
}

/// Whether a table looks as it was accepted last, and is not: the stream announces it in the same words as before.
fn has_column_made_anew(record: &RelationRecord, relation: &PublishedRelation) -> bool {
    let pairs = || record.columns.iter().zip(&relation.columns);
    record.columns.len() == relation.columns.len()
        && pairs().all(|(was, now)| was.looks_like(now))
        && pairs().any(|(was, now)| was.number.is_some() && was.number != now.number)
}

fn joining() -> Outside {
    Outside {
        reason: OutsideReason::Joining,
        explanation: "It is being copied; its changes wait until that is done.".into(),
        remedy: "Wait; `pgsluice tables` shows how far it is.".into(),
        blocks_cutover: true,
    }
}

fn dropped(name: &TableName, place: &TargetPlace) -> Outside {
    let remedy = format!("Once the lag is small, on the target: DROP TABLE {name};");
    match &place.parent {
        Some(parent) => Outside {
            reason: OutsideReason::Dropped,
            explanation: format!(
                "It was dropped on the source. On the target it is still a part of {}: after a cutover its rows would be \
                 back among those of that table.",
                parent.plain()
            ),
            remedy,
            blocks_cutover: true,
        },
        None => Outside {
            reason: OutsideReason::Dropped,
            explanation: "It was dropped on the source; the target still has it, with its last rows. A cutover is not refused \
                 because of it."
                .into(),
            remedy,
            blocks_cutover: false,
        },
    }
}

fn add_or_exclude(table: &TableName) -> String {
    format!(
        "Add it with `pgsluice tables add {}`, or leave it out with source.tables.exclude and start again.",
        argument(table)
    )
}

/// A table's name as an argument on a command line.
fn argument(table: &TableName) -> String {
    let is_plain = |part: &str| {
        part.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.starts_with(|c: char| c == '_' || c.is_ascii_lowercase())
    };
    if is_plain(&table.schema) && is_plain(&table.name) {
        table.plain()
    } else {
        format!("'{}'", table.to_string().replace('\'', r"'\''"))
    }
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
