//! Which tables the publication puts into the stream, by OID, and in which shape: leaf tables that hold rows, as the
//! stream names them. Reads only; what is a change of it is decided where it is compared with the record.

use pgsluice_proto::command::quote_literal;

use super::catalog::CatalogError;
use crate::connection::SqlSession;
use crate::model::{Oid, RecordedColumn, STORED_TYPE, TableName};
use crate::target::relations::{JoinState, RelationRecord, decode_columns};

/// A table whose changes are in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedRelation {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Its name.
    pub name: TableName,
    /// Its columns as the stream tells them: in order of `attnum`, without dropped and generated ones.
    pub columns: Vec<RecordedColumn>,
    /// Fingerprint of how it is published: `xmin` of its row in `pg_publication_rel`, or of the rows in `pg_inherits`
    /// up to the published ancestor and of that one's. Changes when it was detached and attached, or taken out and put
    /// back: changes made meanwhile are not in the stream.
    pub membership: String,
    /// The topmost partitioned table it is a partition of.
    pub root: Option<TableName>,
}

impl PublishedRelation {
    /// What is recorded of it where all its rows are on the target, and its changes are applied from the beginning.
    #[must_use]
    pub fn joined(self) -> RelationRecord {
        RelationRecord {
            source_oid: self.oid,
            name: self.name,
            columns: self.columns,
            target_oid: None,
            state: JoinState::Joined,
            join_lsn: None,
            membership: self.membership,
        }
    }
}

/// What our publications contain: tables by name, and of partitioned ones everything below. The server's own function opens each
/// table, and would wait with us for everybody who truncates or alters one of them.
pub(crate) const BELOW: &str = "below(oid) AS (
    SELECT r.prrelid FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = $publication
    UNION
    SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
      JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
)";

/// `up` climbs from each table of the stream to what is named in the publication; what is named first ends the climb.
const PUBLISHED: &str = "
WITH RECURSIVE $leaves, leaf AS (
    SELECT c.oid FROM below JOIN pg_class c ON c.oid = below.oid AND c.relkind = 'r'
), up(leaf, ancestor, path) AS (
    SELECT oid, oid, ''::text FROM leaf
    UNION ALL
    SELECT up.leaf, i.inhparent, up.path || '<' || i.xmin::text
      FROM up JOIN pg_inherits i ON i.inhrelid = up.ancestor
      JOIN pg_class c ON c.oid = up.ancestor AND c.relispartition
), named AS (
    SELECT DISTINCT ON (up.leaf) up.leaf, r.xmin::text || up.path AS membership
      FROM up JOIN pg_publication_rel r ON r.prrelid = up.ancestor
      JOIN pg_publication p ON p.oid = r.prpubid AND p.pubname = $publication
     ORDER BY up.leaf, length(up.path)
), col AS (
    SELECT a.attrelid, jsonb_agg(jsonb_build_object('name', a.attname, 'modifier', a.atttypmod, 'number', a.attnum,
                                                    'type', base.type_name) ORDER BY a.attnum) AS columns
      FROM pg_attribute a JOIN $STORED_TYPE
     WHERE a.attrelid IN (SELECT oid FROM leaf) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     GROUP BY a.attrelid
)
SELECT c.oid, n.nspname::text, c.relname::text, coalesce(named.membership, 'schema'),
       rn.nspname::text, root.relname::text,
       coalesce(col.columns, '[]')::text
  FROM leaf
  JOIN pg_class c ON c.oid = leaf.oid AND c.relkind = 'r' AND c.relpersistence = 'p'
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN named ON named.leaf = leaf.oid
  LEFT JOIN col ON col.attrelid = leaf.oid
  LEFT JOIN pg_class root ON root.oid = pg_partition_root(c.oid) AND root.oid <> c.oid
  LEFT JOIN pg_namespace rn ON rn.oid = root.relnamespace
 ORDER BY 2, 3";

/// Reads the tables of a publication; none if there is no such publication. One statement: one state of the catalog.
///
/// # Errors
/// [`CatalogError`].
pub async fn read(source: &SqlSession, publication: &str) -> Result<Vec<PublishedRelation>, CatalogError> {
    let known = source
        .query_one("SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)", &[&publication])
        .await?;
    if !known.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let sql = PUBLISHED
        .replace("$leaves", BELOW)
        .replace("$STORED_TYPE", STORED_TYPE)
        .replace("$publication", &quote_literal(publication));
    let rows = source.query(&sql, &[]).await?;
    let decode = |row: &tokio_postgres::Row| {
        let root = row.get::<_, Option<String>>(4).zip(row.get::<_, Option<String>>(5));
        PublishedRelation {
            oid: Oid(row.get(0)),
            name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            membership: row.get(3),
            root: root.map(|(schema, name)| TableName::new(schema, name)),
            columns: decode_columns(row.get(6)).unwrap_or_default(),
        }
    };
    Ok(rows.iter().map(decode).collect())
}
