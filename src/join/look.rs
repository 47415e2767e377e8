//! What both sides say of the tables at one moment. Reads only; what it means is [`assess`](super::assess)'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tokio_postgres::Row;

use super::JoinError;
use super::place::{self, Place};
use crate::connection::SqlSession;
use crate::model::{Lsn, Oid, TableName};
use crate::snapshot::{self, RecordedTable};
use crate::source::catalog::IS_USER_TABLE;
use crate::source::published::{self, PublishedRelation};
use crate::target::relations::{self, RelationRecord};

/// Both sides as they were looked at.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// When it was begun: what happened later may not be in it.
    pub(super) looked_at: Option<Instant>,
    /// Leaf tables in the publication.
    pub(super) published: Vec<PublishedRelation>,
    /// Every logged user table of the source, partitioned ones included.
    pub(super) tables: BTreeMap<Oid, UserTable>,
    /// Recorded tables that the source no longer has, whatever they have become.
    pub(super) dropped: BTreeSet<Oid>,
    /// End of the source's WAL after all of it was read: no change of a dropped table was committed later.
    pub(super) wal_end: Option<Lsn>,
    /// What the target remembers; `None` where there are no such records.
    pub(super) records: Option<BTreeMap<Oid, RelationRecord>>,
    /// Where the target has tables of these names.
    pub(super) on_target: BTreeMap<TableName, TargetPlace>,
    /// What was copied, for the display.
    pub(super) copied: BTreeMap<TableName, RecordedTable>,
    /// Joins whose foreign keys are not built yet.
    pub(super) places: BTreeMap<Oid, Place>,
}

/// A table of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserTable {
    pub(super) name: TableName,
    /// The topmost partitioned table, or itself.
    pub(super) root: TableName,
    /// Of a partition: its parent, and the bound as in `FOR VALUES …`.
    pub(super) parent: Option<(TableName, String)>,
    /// Of a partitioned table: as in `PARTITION BY …`.
    pub(super) partition_key: Option<String>,
    /// Whether it is in the publication, by name or by an ancestor.
    pub(super) is_published: bool,
}

/// A table of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetPlace {
    pub(super) oid: u32,
    pub(super) is_partitioned: bool,
    /// The table whose queries show its rows too.
    pub(super) parent: Option<TableName>,
}

/// Looks at both sides, two or three short queries each.
///
/// # Errors
/// [`JoinError`] when a side does not answer.
pub async fn look(source: &SqlSession, target: &SqlSession, publication: &str) -> Result<View, JoinError> {
    let looked_at = Some(Instant::now());
    let mut view = View {
        published: published::read(source, publication).await?,
        looked_at,
        tables: read_tables(source, publication).await?,
        ..View::default()
    };
    if let Some(records) = relations::read_if_any(target).await? {
        view.dropped =
            read_dropped(source, records.keys().filter(|oid| !view.tables.contains_key(oid))).await?;
        view.records = Some(records);
        view.copied = snapshot::read_records(target).await?;
        view.places = place::read(target).await?;
    }
    view.on_target = read_places(target, &view).await?;
    let row =
        source.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.map_err(JoinError::source)?;
    view.wal_end = row.get::<_, String>(0).parse().ok();
    Ok(view)
}

async fn read_tables(source: &SqlSession, publication: &str) -> Result<BTreeMap<Oid, UserTable>, JoinError> {
    let sql = format!(
        "WITH RECURSIVE below(oid) AS (
             SELECT r.prrelid FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
              WHERE p.pubname = $1
             UNION
             SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
               JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
         )
         SELECT c.oid, n.nspname::text, c.relname::text,
                coalesce(rn.nspname, n.nspname)::text, coalesce(r.relname, c.relname)::text,
                pn.nspname::text, pc.relname::text, pg_get_expr(c.relpartbound, c.oid),
                CASE WHEN c.relkind = 'p' THEN coalesce(pg_get_partkeydef(c.oid), '') END,
                c.oid IN (SELECT oid FROM below)
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_class r ON r.oid = pg_partition_root(c.oid)
           LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace
           LEFT JOIN pg_inherits i ON c.relispartition AND i.inhrelid = c.oid
           LEFT JOIN pg_class pc ON pc.oid = i.inhparent
           LEFT JOIN pg_namespace pn ON pn.oid = pc.relnamespace
          WHERE {IS_USER_TABLE} AND c.relpersistence = 'p'"
    );
    let rows = source.query(&sql, &[&publication]).await.map_err(JoinError::source)?;
    Ok(rows.iter().map(|row| (Oid(row.get(0)), decode_table(row))).collect())
}

fn decode_table(row: &Row) -> UserTable {
    let parent = row.get::<_, Option<String>>(5).zip(row.get::<_, Option<String>>(6));
    let bound: Option<String> = row.get(7);
    UserTable {
        name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        root: TableName::new(row.get::<_, String>(3), row.get::<_, String>(4)),
        parent: parent.map(|(schema, name)| TableName::new(schema, name)).zip(bound),
        partition_key: row.get(8),
        is_published: row.get(9),
    }
}

async fn read_dropped(
    source: &SqlSession,
    missing: impl Iterator<Item = &Oid>,
) -> Result<BTreeSet<Oid>, JoinError> {
    let missing: Vec<u32> = missing.map(|oid| oid.0).collect();
    if missing.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows = source
        .query(
            "SELECT oid FROM unnest($1::oid[]) AS oid WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = oid.oid)",
            &[&missing],
        )
        .await
        .map_err(JoinError::source)?;
    Ok(rows.iter().map(|row| Oid(row.get(0))).collect())
}

async fn read_places(
    target: &SqlSession,
    view: &View,
) -> Result<BTreeMap<TableName, TargetPlace>, JoinError> {
    let mut names: BTreeSet<&TableName> = view.tables.values().map(|table| &table.name).collect();
    names.extend(view.records.iter().flatten().map(|(_, record)| &record.name));
    let (schemas, tables): (Vec<&str>, Vec<&str>) =
        names.iter().map(|name| (name.schema.as_str(), name.name.as_str())).unzip();
    let rows = target
        .query(
            "SELECT n.nspname::text, c.relname::text, c.oid, pn.nspname::text, p.relname::text, c.relkind = 'p'
               FROM unnest($1::text[], $2::text[]) AS w (schema, name)
               JOIN pg_namespace n ON n.nspname = w.schema
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
               LEFT JOIN LATERAL (SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = c.oid
                                   ORDER BY i.inhseqno LIMIT 1) AS i ON true
               LEFT JOIN pg_class p ON p.oid = i.inhparent
               LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace",
            &[&schemas, &tables],
        )
        .await
        .map_err(JoinError::target)?;
    let decode = |row: &Row| {
        let parent = row.get::<_, Option<String>>(3).zip(row.get::<_, Option<String>>(4));
        let place = TargetPlace {
            oid: row.get(2),
            is_partitioned: row.get(5),
            parent: parent.map(|(schema, name)| TableName::new(schema, name)),
        };
        (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), place)
    };
    Ok(rows.iter().map(decode).collect())
}
