//! What the catalogs know of indexes: on the source, to whom they belong; on the target, which are there.

use std::collections::BTreeSet;

use super::IndexRole;
use crate::connection::SqlSession;
use crate::model::{Side, TableName};
use crate::target::schema::SchemaError;

/// An index of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceIndex {
    pub(super) table: TableName,
    pub(super) name: String,
    /// The constraint that it is, if it is one.
    pub(super) constraint: Option<String>,
    pub(super) of: IndexOwner,
    pub(super) role: IndexRole,
    pub(super) bytes: u64,
    pub(super) needs: IndexNeeds,
}

/// What an index is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IndexOwner {
    /// An ordinary table or a leaf partition: it has rows of its own.
    Rows,
    /// A partitioned table or a materialized view.
    Other,
}

/// What has to exist before an index beside its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IndexNeeds {
    /// Nothing that post-data could make.
    Nothing,
    /// A function, an operator or a type of somebody's.
    Definitions,
}

/// Indexes of extensions' and everybody's tables alike: the dump says which of them are wanted. 16384 is the first number of
/// an object that initdb has not made; what an extension made is there as soon as the extension is, before all tables.
const INDEXES: &str = "
SELECT n.nspname::text, c.relname::text, x.relname::text, k.conname::text, c.relkind = 'r',
       i.indisprimary, i.indisreplident, coalesce(pg_relation_size(x.oid), 0),
       EXISTS (SELECT FROM pg_depend d
                WHERE (d.classid = 'pg_class'::regclass AND d.objid = x.oid
                    OR d.classid = 'pg_constraint'::regclass AND d.objid = k.oid)
                  AND d.refclassid NOT IN ('pg_class'::regclass, 'pg_constraint'::regclass) AND d.refobjid >= 16384
                  AND NOT EXISTS (SELECT FROM pg_depend e
                                   WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e'))
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_constraint k ON k.conrelid = i.indrelid AND k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgsluice')";

pub(super) async fn read(source: &SqlSession) -> Result<Vec<SourceIndex>, SchemaError> {
    let rows = source.query(INDEXES, &[]).await.map_err(SchemaError::on(Side::Source))?;
    let index = |row: &tokio_postgres::Row| SourceIndex {
        table: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        name: row.get(2),
        constraint: row.get(3),
        of: if row.get(4) { IndexOwner::Rows } else { IndexOwner::Other },
        role: match (row.get(5), row.get(6)) {
            (true, _) => IndexRole::PrimaryKey,
            (false, true) => IndexRole::ReplicaIdentity,
            (false, false) => IndexRole::Other,
        },
        bytes: u64::try_from(row.get::<_, i64>(7)).unwrap_or_default(),
        needs: if row.get(8) { IndexNeeds::Definitions } else { IndexNeeds::Nothing },
    };
    Ok(rows.iter().map(index).collect())
}

/// The valid indexes that the target has in these schemas, so that what an earlier run built is not built again.
///
/// # Errors
/// [`SchemaError::Sql`].
pub async fn existing_indexes(
    target: &SqlSession,
    schemas: &BTreeSet<String>,
) -> Result<BTreeSet<TableName>, SchemaError> {
    let schemas: Vec<&str> = schemas.iter().map(String::as_str).collect();
    let rows = target
        .query(
            "SELECT n.nspname::text, x.relname::text
               FROM pg_index i
               JOIN pg_class x ON x.oid = i.indexrelid
               JOIN pg_namespace n ON n.oid = x.relnamespace
              WHERE n.nspname = ANY ($1::text[]) AND i.indisvalid AND i.indisready AND i.indislive",
            &[&schemas],
        )
        .await
        .map_err(SchemaError::on(Side::Target))?;
    let name = |row: &tokio_postgres::Row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
    Ok(rows.iter().map(name).collect())
}
