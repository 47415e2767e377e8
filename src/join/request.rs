//! Takes an operator's wish to add tables: finds them, refuses what cannot join with the reason and the remedy, and
//! records the wish on the target, from where it is carried out, also after a restart. Changes nothing on the source.

use std::collections::BTreeMap;

use super::look::View;
use super::standing::{REQUESTED, Standing};
use super::{JoinError, assess};
use crate::config::Config;
use crate::connection::SqlSession;
use crate::model::{Oid, TableName};
use crate::source::catalog::{self, ReplicaIdentity, SourceTable, TableKind};
use crate::source::publication::PublicationError;
use crate::target::relations::{self, JoinState, RelationRecord};

/// A table that an operator wants in the migration, and that can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `pg_class.oid` on the source.
    pub oid: Oid,
    /// Its name.
    pub name: TableName,
    /// Whether it is in the migration, or on its way, already.
    pub is_known: bool,
    /// Whether the running stream applies changes of it, so that it must stop for the record to change.
    pub was_joined: bool,
}

/// Finds the tables meant by `names` and checks that each can join.
///
/// # Errors
/// [`JoinError::Unsuitable`] for the first that cannot.
pub async fn check(
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
    view: &View,
    names: &[String],
) -> Result<Vec<Wanted>, JoinError> {
    let tables = catalog::read_tables(source, &crate::config::TableFilter::default()).await?;
    let standings: BTreeMap<TableName, Standing> = assess(view, &config.source.tables)
        .standings
        .into_iter()
        .map(|standing| (standing.table, standing.standing))
        .collect();
    let mut wanted: Vec<Wanted> = Vec::new();
    for name in names {
        let table = find(source, &tables, name).await?;
        if wanted.iter().any(|known| known.oid == table.oid) {
            continue;
        }
        let each = check_one(config, view, &standings, table)?;
        if !each.is_known {
            for part in family(&tables, table) {
                suitable(part)?;
                refuse_strange_rows(target, view, part).await?;
            }
        }
        wanted.push(each);
    }
    Ok(wanted)
}

/// As it is listed (`schema.name`), or as in SQL, with quotes where they are needed.
async fn find<'a>(
    source: &SqlSession,
    tables: &'a [SourceTable],
    name: &str,
) -> Result<&'a SourceTable, JoinError> {
    if let Some(table) = tables.iter().find(|table| table.name.plain() == name) {
        return Ok(table);
    }
    let parsed = source.query_one("SELECT parse_ident($1)", &[&name]).await;
    let parts: Vec<String> = parsed.map(|row| row.get(0)).unwrap_or_default();
    let parsed = match parts.as_slice() {
        [table] => Some(TableName::new("public", table)),
        [schema, table] => Some(TableName::new(schema, table)),
        _ => None,
    };
    tables.iter().find(|table| Some(&table.name) == parsed.as_ref()).ok_or_else(|| JoinError::Unsuitable {
        table: parsed.unwrap_or_else(|| TableName::new("", name)),
        problem: "the source has no such table, or it belongs to an extension or to the system".into(),
        remedy: "Name it as schema.table, with double quotes around a part that has capital letters or special characters; \
                 nothing was changed."
            .into(),
    })
}

fn check_one(
    config: &Config,
    view: &View,
    standings: &BTreeMap<TableName, Standing>,
    table: &SourceTable,
) -> Result<Wanted, JoinError> {
    let unsuitable = |problem: String, remedy: String| JoinError::Unsuitable {
        table: table.name.clone(),
        problem,
        remedy,
    };
    let root = match &table.kind {
        TableKind::Ordinary => &table.name,
        TableKind::Partitioned { root } | TableKind::Partition { root } => root,
    };
    if !config.source.tables.selects(root) {
        return Err(unsuitable(
            "the configuration does not select it".into(),
            "Correct source.tables.include and source.tables.exclude, start pgsluice again, then add it."
                .into(),
        ));
    }
    let is_published = view.tables.get(&table.oid).is_some_and(|known| known.is_published);
    let standing = standings.get(&table.name).copied();
    let was_joined = view
        .records
        .iter()
        .flatten()
        .any(|(oid, record)| *oid == table.oid && record.state == JoinState::Joined);
    if is_published {
        if standing == Some(Standing::Outside) && !was_joined {
            let statements = assess(view, &config.source.tables)
                .standings
                .into_iter()
                .find(|known| known.table == table.name)
                .and_then(|known| known.outside)
                .map_or_else(String::new, |outside| outside.remedy);
            return Err(unsuitable("the target does not have it".into(), statements));
        }
        return Ok(Wanted { oid: table.oid, name: table.name.clone(), is_known: true, was_joined });
    }
    if root != &table.name {
        return Err(unsuitable(
            format!("it is a partition of {}, which is not in the migration", root.plain()),
            format!("Add the whole of it: pgsluice tables add {}", root.plain()),
        ));
    }
    let place = view.on_target.get(&table.name);
    if let Some(parent) = place.and_then(|place| place.parent.as_ref())
        && was_joined
    {
        return Err(unsuitable(
            format!("on the target it is still a part of {}, and on the source it is not", parent.plain()),
            format!(
                "On the target: ALTER TABLE {parent} DETACH PARTITION {}; then add it again.",
                table.name
            ),
        ));
    }
    let is_known = standing == Some(Standing::Joining);
    Ok(Wanted { oid: table.oid, name: table.name.clone(), is_known, was_joined })
}

/// A table and, if it is partitioned, everything below it.
pub(super) fn family<'a>(tables: &'a [SourceTable], table: &'a SourceTable) -> Vec<&'a SourceTable> {
    let is_below = |other: &&SourceTable| match &other.kind {
        TableKind::Partitioned { root } | TableKind::Partition { root } => *root == table.name,
        TableKind::Ordinary => false,
    };
    let mut family = vec![table];
    family.extend(tables.iter().filter(is_below).filter(|other| other.oid != table.oid));
    family
}

/// Whether a table's changes can be streamed and its rows be read, without harm to the source's own writes (trap 19).
pub(super) fn suitable(table: &SourceTable) -> Result<(), JoinError> {
    let unsuitable = |problem: &str, remedy: String| {
        Err(JoinError::Unsuitable { table: table.name.clone(), problem: problem.into(), remedy })
    };
    let name = &table.name;
    if !table.is_logged() {
        return unsuitable(
            "it is unlogged, so its changes are in no stream",
            format!("ALTER TABLE {name} SET LOGGED; or leave it out with source.tables.exclude."),
        );
    }
    if table.holds_rows() && matches!(table.replica_identity, ReplicaIdentity::Missing(_)) {
        let error = PublicationError::NoReplicaIdentity { tables: vec![name.clone()] };
        return unsuitable(
            "it has no usable replica identity: published, its own UPDATE and DELETE would fail on the source",
            error.remedy(),
        );
    }
    if !table.owned_by_us {
        return unsuitable(
            "the source's role does not own it, and only the owner may publish a table",
            format!("GRANT the role {} to the role that pgsluice connects as, on the source.", table.owner),
        );
    }
    if !table.readable {
        return unsuitable(
            "the source's role may not read it",
            format!("GRANT SELECT ON {name} TO the role that pgsluice connects as, on the source."),
        );
    }
    Ok(())
}

/// Rows on the target that we have not copied stay what they are: somebody may need them.
async fn refuse_strange_rows(target: &SqlSession, view: &View, table: &SourceTable) -> Result<(), JoinError> {
    let name = &table.name;
    if !table.holds_rows() || view.copied.contains_key(name) || !view.on_target.contains_key(name) {
        return Ok(());
    }
    let row = target
        .query_one(&format!("SELECT EXISTS (SELECT FROM ONLY {name})"), &[])
        .await
        .map_err(JoinError::target)?;
    if !row.get::<_, bool>(0) {
        return Ok(());
    }
    Err(JoinError::Unsuitable {
        table: name.clone(),
        problem: "on the target it has rows that this program did not copy".into(),
        remedy: format!("If those rows are not needed, TRUNCATE {name} on the target, then add it again."),
    })
}

/// Records the wish. For a table that is joined no stream may run meanwhile: its applier knows the record as it was.
///
/// # Errors
/// [`JoinError`]; nothing is recorded then.
pub async fn record(target: &SqlSession, wanted: &[Wanted]) -> Result<(), JoinError> {
    let statements: Vec<String> = wanted
        .iter()
        .map(|each| {
            relations::upsert_sql(&RelationRecord {
                source_oid: each.oid,
                name: each.name.clone(),
                columns: Vec::new(),
                target_oid: None,
                state: JoinState::Copying,
                join_lsn: None,
                membership: REQUESTED.to_owned(),
            })
        })
        .collect();
    if statements.is_empty() {
        return Ok(());
    }
    let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
    target.batch_execute(&sql).await.map_err(JoinError::target)
}
