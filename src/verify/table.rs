//! What is compared: the tables of the stream, each with the target's table that has its rows. What they are called, how large they are
//! and what tells their rows apart is read once; their columns are read by the sessions that compare them, under their locks.

use std::collections::{BTreeMap, HashMap, HashSet};

use pgsluice_proto::command::quote_literal;

use super::error::VerifyError;
use super::key_order::{self, SourceColumn, TargetColumn};
use super::row_text::ComparedColumn;
use crate::connection::{SqlSession, TextQuery, TextRow};
use crate::model::{Oid, STORED_TYPE, Side, TableName};
use crate::target::relations::{self, JoinState};

/// A table on both sides.
#[derive(Clone, Debug)]
pub(super) struct ComparedTable {
    /// `pg_class.oid` on the source: what the stream calls it.
    pub(super) source_oid: Oid,
    /// On the source.
    pub(super) source_name: TableName,
    /// On the target, where it may have another name by the time it is looked at.
    pub(super) target_oid: Oid,
    /// On the target.
    pub(super) target_name: TableName,
    /// Whether the target's table is partitioned: then its rows are in its partitions.
    pub(super) is_spread: bool,
    /// Size on the source, in bytes, with TOAST and without indexes.
    pub(super) bytes: u64,
    /// The columns that tell its rows apart, none of which may be NULL; empty if there are none.
    pub(super) key: Vec<String>,
    /// Size of its rows on the source without TOAST, in bytes.
    pub(super) heap_bytes: u64,
    /// The first of the key's columns, as far as an index finds rows by ranges of their values, and both sides order them alike.
    pub(super) ranged: Vec<String>,
    /// Whether the order of any of these is a question of collation.
    pub(super) is_collated: bool,
    /// Whether rows of a range lie all over the table, so that each range reads much of it.
    pub(super) is_scattered: bool,
}

impl ComparedTable {
    /// Whether it can be cut by ranges of its key.
    pub(super) const fn can_be_ranged(&self) -> bool {
        !self.ranged.is_empty()
    }

    /// The table with `ONLY` where its rows are its own.
    pub(super) fn rows_of(&self, side: Side) -> String {
        match side {
            Side::Source => format!("ONLY {}", self.source_name),
            Side::Target if self.is_spread => self.target_name.to_string(),
            Side::Target => format!("ONLY {}", self.target_name),
        }
    }

    /// Its name.
    pub(super) const fn name(&self, side: Side) -> &TableName {
        match side {
            Side::Source => &self.source_name,
            Side::Target => &self.target_name,
        }
    }

    pub(super) const fn oid(&self, side: Side) -> Oid {
        match side {
            Side::Source => self.source_oid,
            Side::Target => self.target_oid,
        }
    }
}

/// What is compared, and what is not.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// In the order of their size, the largest first.
    pub(super) compared: Vec<ComparedTable>,
    /// Tables of the migration that cannot be compared now, with the reason.
    pub(super) left_out: Vec<(TableName, &'static str)>,
    /// Partitions that the target alone has, with how many rows they have, up to [`COUNTED_MAX`]: queries of their parent return these.
    pub(super) on_target_alone: Vec<(TableName, u64)>,
}

/// Rows of a partition on the target alone that are counted.
pub(super) const COUNTED_MAX: u64 = 1_000;

/// The primary key, or else what the stream finds rows by. Both are unique and never NULL. A leaf that is not there has no row.
const ON_SOURCE: &str = "
SELECT c.oid, n.nspname, c.relname, pg_table_size(c.oid) AS bytes, pg_relation_size(c.oid) AS heap_bytes,
       EXISTS (SELECT FROM pg_publication_tables p WHERE p.pubname = $PUBLICATION AND p.schemaname = n.nspname AND p.tablename = c.relname)
         AS is_published, key.columns
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
       SELECT (SELECT json_agg(json_build_object(
                        'name', a.attname,
                        'type_name', CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname END,
                        'is_indexed', m.amname = 'btree' AND o.opcdefault AND (i.indcollation::oid[])[k.place - 1] = a.attcollation,
                        'collation', $COLLATION,
                        'correlation', (SELECT s.correlation FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname
                                          AND s.attname = a.attname AND NOT s.inherited)) ORDER BY k.place)
                 FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
                 JOIN pg_type t ON t.oid = a.atttypid
                 JOIN pg_opclass o ON o.oid = (i.indclass::oid[])[k.place - 1]
                 JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
                WHERE k.place <= i.indnkeyatts) AS columns
         FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL
          AND (i.indisprimary OR i.indisreplident)
          AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
                            LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number AND $NEVER_NULL
                           WHERE k.place <= i.indnkeyatts AND a.attnum IS NULL)
        ORDER BY i.indisprimary DESC LIMIT 1) key ON true
 WHERE c.relkind = 'r' AND c.oid = ANY ('{$OIDS}'::oid[])";

/// Whether an attribute `a` has no NULL, not even from before it was forbidden (18 on, `NOT NULL ... NOT VALID`).
const NEVER_NULL: &str = "
    (a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint nn WHERE nn.conrelid = a.attrelid AND nn.contype = 'n' AND NOT nn.convalidated
                                     AND nn.conkey = ARRAY[a.attnum]))";

/// How the values of an attribute `a` are ordered; NULL where that is no question of collation. Versions of a collation are not told
/// apart: where they order a few values otherwise, these are looked at by their keys.
const COLLATION: &str = "
    (SELECT CASE WHEN l.collname = 'default'
                 THEN (SELECT coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') || ':'
                              || coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate)
                         FROM pg_database d WHERE d.datname = current_database())
                 ELSE l.collprovider::text || ':'
                      || coalesce(to_jsonb(l) ->> 'colllocale', to_jsonb(l) ->> 'colliculocale', l.collcollate, l.collname) END
       FROM pg_collation l WHERE l.oid = a.attcollation)";

const ON_TARGET: &str = "
SELECT c.oid, n.nspname, c.relname, c.relkind = 'p' AS is_spread,
       (SELECT json_object_agg(a.attname, json_build_object(
                 'type_name', CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname END, 'collation', $COLLATION))
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = c.oid AND $NEVER_NULL AND a.attnum > 0 AND NOT a.attisdropped) AS columns
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.oid = ANY ('{$OIDS}'::oid[])";

/// Partitions of the target that the migration does not know, below a table of which it knows other partitions. Those of a known one have
/// its rows.
const ON_TARGET_ALONE: &str = "
SELECT DISTINCT c.oid, n.nspname, c.relname
  FROM (SELECT DISTINCT pg_partition_root(oid) AS root FROM unnest('{$OIDS}'::oid[]) known(oid)) roots
  CROSS JOIN LATERAL pg_partition_tree(roots.root) t
  JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE roots.root IS NOT NULL AND t.isleaf AND c.relkind = 'r'
   AND NOT EXISTS (SELECT FROM pg_partition_ancestors(c.oid) x WHERE x.relid::oid = ANY ('{$OIDS}'::oid[]))";

/// Reads what is to be compared.
///
/// # Errors
/// [`VerifyError`].
pub(super) async fn read_tables(
    source: &SqlSession,
    target: &SqlSession,
    publication: &str,
) -> Result<Tables, VerifyError> {
    let records = relations::read(target).await?;
    let mut tables = Tables::default();
    let mut of_target = HashMap::new();
    for row in of_oids(target, ON_TARGET, records.values().filter_map(|each| each.target_oid))
        .await
        .map_err(VerifyError::target)?
    {
        let (Some(oid), Some(schema), Some(name)) = (row.oid("oid"), row.get("nspname"), row.get("relname"))
        else {
            continue;
        };
        let columns: BTreeMap<String, TargetColumn> =
            row.get("columns").and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        of_target.insert(oid.0, (TableName::new(schema, name), row.get("is_spread") == Some("t"), columns));
    }
    let on_source = of_oids(
        source,
        &ON_SOURCE.replace("$PUBLICATION", &quote_literal(publication)),
        records.keys().map(|oid| oid.0),
    )
    .await
    .map_err(VerifyError::source)?;
    let mut sizes: BTreeMap<Oid, _> =
        on_source.into_iter().filter_map(|row| Some((row.oid("oid")?, row))).collect();
    for record in records.values() {
        let Some(row) = sizes.remove(&record.source_oid) else { continue };
        let (Some(schema), Some(name)) = (row.get("nspname"), row.get("relname")) else { continue };
        let source_name = TableName::new(schema, name);
        if row.get("is_published") != Some("t") {
            // It has left the migration, or is on its way into it: `pgsluice tables` tells of it, and a cutover is refused.
            continue;
        }
        if record.state != JoinState::Joined {
            tables.left_out.push((source_name, "its rows are still being copied"));
            continue;
        }
        let found =
            record.target_oid.and_then(|oid| of_target.get(&oid).map(|found| (Oid(oid), found.clone())));
        let Some((target_oid, (target_name, is_spread, columns))) = found else {
            tables.left_out.push((source_name, "the target has no such table"));
            continue;
        };
        let size = |column: &str| row.get(column).and_then(|text| text.parse().ok()).unwrap_or_default();
        let key: Vec<SourceColumn> =
            row.get("columns").and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        let ranged = key_order::ranged(&key, &columns);
        tables.compared.push(ComparedTable {
            source_oid: record.source_oid,
            source_name,
            target_oid,
            target_name,
            is_spread,
            bytes: size("bytes"),
            heap_bytes: size("heap_bytes"),
            is_scattered: key_order::is_scattered(&key),
            is_collated: ranged.iter().any(|column| column.collation.is_some()),
            ranged: ranged.iter().map(|column| column.name.clone()).collect(),
            key: key.iter().map(|column| column.name.clone()).collect(),
        });
    }
    tables
        .compared
        .sort_by(|one, other| other.bytes.cmp(&one.bytes).then(one.source_oid.cmp(&other.source_oid)));
    let recorded = records.values().filter_map(|record| record.target_oid);
    let alone = of_oids(target, ON_TARGET_ALONE, recorded).await.map_err(VerifyError::target)?;
    tables.on_target_alone = with_rows(target, &alone).await?;
    Ok(tables)
}

/// Those of these tables that have rows which the migration has not brought.
async fn with_rows(target: &SqlSession, tables: &[TextRow]) -> Result<Vec<(TableName, u64)>, VerifyError> {
    let mut found = Vec::new();
    for row in tables {
        let (Some(oid), Some(schema), Some(name)) = (row.oid("oid"), row.get("nspname"), row.get("relname"))
        else {
            continue;
        };
        let name = TableName::new(schema, name);
        let sql =
            format!("SELECT count(*) AS rows FROM (SELECT FROM ONLY {name} LIMIT {COUNTED_MAX}) counted");
        let counted = target.rows(&sql).await.map_err(VerifyError::target)?;
        let rows = counted.first().and_then(|row| row.get("rows")?.parse().ok()).unwrap_or(0);
        if rows > 0 {
            found.push((oid, name, rows));
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    // One that has joined meanwhile was recorded before it had a row.
    let records = relations::read(target).await?;
    let joined: HashSet<u32> = records.values().filter_map(|record| record.target_oid).collect();
    found.retain(|(oid, ..)| !joined.contains(&oid.0));
    Ok(found.into_iter().map(|(_, name, rows)| (name, rows)).collect())
}

async fn of_oids(
    session: impl TextQuery,
    sql: &str,
    oids: impl Iterator<Item = u32>,
) -> Result<Vec<TextRow>, crate::connection::SqlError> {
    let list: Vec<String> = oids.map(|oid| oid.to_string()).collect();
    let sql = sql.replace("$COLLATION", COLLATION).replace("$NEVER_NULL", NEVER_NULL);
    session.rows(&sql.replace("$OIDS", &list.join(","))).await
}

trait OidOf {
    fn oid(&self, column: &str) -> Option<Oid>;
}

impl OidOf for TextRow {
    fn oid(&self, column: &str) -> Option<Oid> {
        self.get(column)?.parse().ok().map(Oid)
    }
}

/// The columns of a table on one side, by name.
type Columns = BTreeMap<String, Column>;

/// A column of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    base_type: String,
    is_nullable: bool,
    is_generated: bool,
    has_plain_labels: bool,
    number: i16,
}

const COLUMNS: &str = "
SELECT a.attrelid, a.attnum, a.attname, NOT a.attnotnull OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND NOT k.convalidated
                                    AND k.conkey = ARRAY[a.attnum]) AS is_nullable, a.attgenerated <> '' AS is_generated, base.type_name,
       (SELECT bool_and(strpos(e.enumlabel::text, E'\\x01') = 0) FROM pg_enum e WHERE e.enumtypid = a.atttypid) AS has_plain_labels
  FROM pg_attribute a
  JOIN $STORED_TYPE
 WHERE a.attrelid = ANY ('{$OIDS}'::oid[]) AND a.attnum > 0 AND NOT a.attisdropped";

/// Decodes what [`COLUMNS`] asks for.
fn columns_of(rows: &[TextRow]) -> Option<HashMap<Oid, Columns>> {
    let mut columns: HashMap<Oid, Columns> = HashMap::new();
    for row in rows {
        let is = |column: &str| row.get(column) == Some("t");
        let column = Column {
            base_type: row.get("type_name")?.to_owned(),
            is_nullable: is("is_nullable"),
            is_generated: is("is_generated"),
            has_plain_labels: is("has_plain_labels"),
            number: row.get("attnum")?.parse().ok()?,
        };
        columns.entry(row.oid("attrelid")?).or_default().insert(row.get("attname")?.to_owned(), column);
    }
    Some(columns)
}

/// How one table is compared: the columns that both sides have, in the source's order.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) columns: Vec<ComparedColumn>,
    /// Its key; empty where either side lacks a column of it.
    pub(super) key: Vec<ComparedColumn>,
    /// Columns of the source that the target does not have.
    pub(super) missing: Vec<String>,
    /// Columns that the target computes.
    pub(super) generated: Vec<String>,
}

impl Shape {
    /// Of a table with this key.
    fn of(key: &[String], source: &Columns, target: &Columns) -> Self {
        let mut shared: Vec<(i16, ComparedColumn)> = source
            .iter()
            .filter_map(|(name, column)| {
                let other = target.get(name)?;
                let is_nullable = column.is_nullable || other.is_nullable;
                // Both sides have to print in the same way.
                let base_type = if column.base_type == other.base_type {
                    column.base_type.clone()
                } else {
                    String::new()
                };
                Some((
                    column.number,
                    ComparedColumn {
                        name: name.clone(),
                        base_type,
                        is_nullable,
                        has_plain_labels: column.has_plain_labels && other.has_plain_labels,
                    },
                ))
            })
            .collect();
        shared.sort_by_key(|(number, _)| *number);
        let columns: Vec<ComparedColumn> = shared.into_iter().map(|(_, column)| column).collect();
        let of_key = |name: &String| {
            let column = columns.iter().find(|column| column.name == *name).cloned()?;
            Some(ComparedColumn { is_nullable: false, ..column })
        };
        let key = key.iter().map(of_key).collect::<Option<_>>().unwrap_or_default();
        let missing = source.keys().filter(|name| !target.contains_key(*name)).cloned().collect();
        let generated =
            target.iter().filter(|(_, column)| column.is_generated).map(|(name, _)| name.clone()).collect();
        Self { columns, key, missing, generated }
    }
}

/// What tells [`shapes_of`] the columns that these tables have now.
pub(super) fn columns_sql(side: Side, tables: &[&ComparedTable]) -> String {
    let oids: HashSet<Oid> = tables.iter().map(|table| table.oid(side)).collect();
    let oids: Vec<String> = oids.iter().map(|oid| oid.0.to_string()).collect();
    COLUMNS.replace("$STORED_TYPE", STORED_TYPE).replace("$OIDS", &oids.join(","))
}

/// How these tables are compared, by the columns that they have on both sides.
///
/// # Errors
/// [`VerifyError::Unreadable`].
pub(super) fn shapes_of(
    tables: &[&ComparedTable],
    (source, target): (Vec<TextRow>, Vec<TextRow>),
) -> Result<Vec<Shape>, VerifyError> {
    let source = columns_of(&source).ok_or(VerifyError::Unreadable { side: Side::Source })?;
    let target = columns_of(&target).ok_or(VerifyError::Unreadable { side: Side::Target })?;
    let none = Columns::default();
    let of = |table: &&ComparedTable| {
        let (source, target) = (source.get(&table.source_oid), target.get(&table.target_oid));
        Shape::of(&table.key, source.unwrap_or(&none), target.unwrap_or(&none))
    };
    Ok(tables.iter().map(of).collect())
}
