//! What the fence covers: every table of the publication with its partitions and their parents, because a
//! statement trigger fires only on the table that is named; and every sequence that is migrated.

use futures_util::future::try_join3;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{DENY_TRIGGER, FenceError};
use crate::cutover::SqlFailure;
use crate::model::{SequenceName, Side, TableName};
use crate::source::catalog::IS_USER_TABLE;

/// A table the fence covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencedTable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: TableName,
    /// Fingerprint of its place in the publication and below its parents, and of its columns: it changes when the table is
    /// detached and attached again or altered, and then the stream may lack something.
    pub membership: String,
    /// `pg_trigger.tgenabled` of the deny trigger, `None` where there is none.
    pub deny_trigger: Option<u8>,
}

/// A sequence the fence freezes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenSequence {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: SequenceName,
    /// The role that owns it: making it the owner again is the no-op that takes the lock.
    pub owner: String,
}

/// Both, each in name order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FencePlan {
    /// Tables.
    pub tables: Vec<FencedTable>,
    /// Sequences.
    pub sequences: Vec<FrozenSequence>,
    /// Permanent user tables outside the publication, by `pg_class.oid` and the name of their partition root: a table that comes while the cutover is being
    /// prepared would be left behind without anybody's notice.
    pub unpublished: Vec<(u32, TableName)>,
}

impl FencePlan {
    /// Names that are in one of the two plans only (by name, oid and membership).
    pub(super) fn difference(&self, other: &Self) -> Vec<TableName> {
        let identities = |plan: &Self| -> Vec<(u32, TableName, String)> {
            let tables =
                plan.tables.iter().map(|table| (table.oid, table.name.clone(), table.membership.clone()));
            let sequences = plan.sequences.iter().map(|each| (each.oid, each.name.clone(), String::new()));
            let unpublished = plan.unpublished.iter().map(|(oid, name)| (*oid, name.clone(), String::new()));
            tables.chain(sequences).chain(unpublished).collect()
        };
        let (ours, theirs) = (identities(self), identities(other));
        let only =
            |some: &[(u32, TableName, String)], others: &[(u32, TableName, String)]| -> Vec<TableName> {
                some.iter().filter(|each| !others.contains(each)).map(|(_, name, _)| name.clone()).collect()
            };
        let mut differing = only(&ours, &theirs);
        differing.extend(only(&theirs, &ours));
        differing.sort();
        differing.dedup();
        differing
    }

    /// The tables' names.
    #[must_use]
    pub fn table_names(&self) -> Vec<TableName> {
        self.tables.iter().map(|table| table.name.clone()).collect()
    }

    /// The sequences' names.
    #[must_use]
    pub fn sequence_names(&self) -> Vec<SequenceName> {
        self.sequences.iter().map(|sequence| sequence.name.clone()).collect()
    }
}

/// Which tables and sequences a database has, and what the publication holds, as numbers that change when one comes or goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    count: i64,
    oids: i64,
    squares: i64,
    published: i64,
}

/// Reads it; much cheaper than the plan, and enough while the definitions of the plan's tables are held still.
pub(super) async fn fingerprint(source: &Client, publication: &str) -> Result<Fingerprint, FenceError> {
    // OIDs are counted up; the third number tells two exchanged pairs apart. The publication itself can be altered under
    // the locks, its tables cannot.
    let sql = "SELECT count(*), coalesce(sum(oid::int8), 0)::int8, coalesce(sum(oid::int8 % 65521 * (oid::int8 % 65521)), 0)::int8,
           (SELECT coalesce(sum(p.xmin::text::int8 + (SELECT coalesce(sum(r.xmin::text::int8 * 3 + 1), 0)
                                                        FROM pg_publication_rel r WHERE r.prpubid = p.oid)), -1)::int8
              FROM pg_publication p WHERE p.pubname = $1)
         FROM pg_class WHERE relkind IN ('r', 'p', 'S') AND relpersistence <> 't' AND oid >= 16384";
    let row = source
        .query_typed_one(sql, &[(&publication, Type::TEXT)])
        .await
        .map_err(SqlFailure::of(Side::Source, "read which tables there are"))?;
    Ok(Fingerprint { count: row.get(0), oids: row.get(1), squares: row.get(2), published: row.get(3) })
}

/// Published tables, downwards over partitions and upwards over their parents.
const FENCED: &str = "\
WITH RECURSIVE published(oid) AS (
  SELECT r.prrelid FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = $1
), below(oid) AS (
  SELECT oid FROM published
  UNION
  SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
    JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
), above(oid) AS (
  SELECT oid FROM published
  UNION
  SELECT i.inhparent FROM above a JOIN pg_class c ON c.oid = a.oid AND c.relispartition
    JOIN pg_inherits i ON i.inhrelid = a.oid
), fenced(oid) AS (
  SELECT oid FROM below UNION SELECT oid FROM above
)";

/// The tables of publication `publication` and the sequences of the database, as the catalog has them now.
///
/// Sequences are those of user schemas that belong to no extension and to no table outside the publication: those
/// stay with their table.
///
/// # Errors
/// The catalog cannot be read, or the publication has no tables.
pub async fn read_plan(source: &Client, publication: &str) -> Result<FencePlan, FenceError> {
    let tables_sql = format!(
        "{FENCED}
         SELECT c.oid, n.nspname::text, c.relname::text, t.tgenabled,
           concat((SELECT string_agg(r.xmin::text, ',') FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                   WHERE r.prrelid = c.oid AND p.pubname = $1), '/',
                  (SELECT string_agg(i.xmin::text, ',' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid), '/',
                  (SELECT md5(string_agg(concat(a.attnum, a.attname, a.xmin), ',' ORDER BY a.attnum))
                     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0))
         FROM fenced f JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = '{DENY_TRIGGER}'
         WHERE c.relkind IN ('r', 'p')
         ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
    );
    let sequences_sql = format!(
        "{FENCED}
         SELECT c.oid, n.nspname::text, c.relname::text, pg_get_userbyid(c.relowner)::text
         FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
              AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
         WHERE n.nspname NOT IN ('pgsluice', 'information_schema') AND n.nspname !~ '^pg_'
           AND (d.refobjid IS NULL OR d.refobjid IN (SELECT oid FROM fenced))
           AND NOT EXISTS (SELECT 1 FROM pg_depend e
                WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
         ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
    );
    let unpublished_sql = format!(
        "{FENCED}
         SELECT c.oid, rn.nspname::text, r.relname::text
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
         JOIN pg_namespace rn ON rn.oid = r.relnamespace
         WHERE {IS_USER_TABLE} AND c.relpersistence = 'p' AND c.oid NOT IN (SELECT oid FROM fenced)
         ORDER BY c.oid"
    );
    // All in flight at once: this runs inside the write pause too.
    let (tables, sequences, unpublished) = try_join3(
        source.query_typed(&tables_sql, &[(&publication, Type::TEXT)]),
        source.query_typed(&sequences_sql, &[(&publication, Type::TEXT)]),
        source.query_typed(&unpublished_sql, &[(&publication, Type::TEXT)]),
    )
    .await
    .map_err(SqlFailure::of(Side::Source, "read the published tables and the sequences"))?;
    if tables.is_empty() {
        return Err(FenceError::NothingPublished { publication: publication.to_owned() });
    }
    let tables = tables
        .iter()
        .map(|row| FencedTable {
            oid: row.get(0),
            name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            membership: row.get(4),
            deny_trigger: row.get::<_, Option<i8>>(3).map(i8::cast_unsigned),
        })
        .collect();
    let sequences = sequences
        .iter()
        .map(|row| FrozenSequence {
            oid: row.get(0),
            name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            owner: row.get(3),
        })
        .collect();
    let unpublished = unpublished
        .iter()
        .map(|row| (row.get(0), TableName::new(row.get::<_, String>(1), row.get::<_, String>(2))))
        .collect();
    Ok(FencePlan { tables, sequences, unpublished })
}

/// Tables outside the publication from which a published one inherits: a statement that names such a parent writes the
/// child's rows, and fires no trigger of the child.
///
/// # Errors
/// The catalog cannot be read.
pub async fn unfenced_parents(
    source: &Client,
    publication: &str,
) -> Result<Vec<(TableName, TableName)>, FenceError> {
    let sql = format!(
        "{FENCED}, inherited(child, parent) AS (
           SELECT f.oid, i.inhparent FROM fenced f JOIN pg_inherits i ON i.inhrelid = f.oid
           UNION
           SELECT n.child, i.inhparent FROM inherited n JOIN pg_inherits i ON i.inhrelid = n.parent
         )
         SELECT cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text
           FROM inherited i JOIN pg_class c ON c.oid = i.child JOIN pg_namespace cn ON cn.oid = c.relnamespace
           JOIN pg_class p ON p.oid = i.parent JOIN pg_namespace pn ON pn.oid = p.relnamespace
          WHERE i.parent NOT IN (SELECT oid FROM fenced) AND p.relkind IN ('r', 'p')
          ORDER BY 1, 2, 3, 4"
    );
    let rows = source
        .query_typed(&sql, &[(&publication, Type::TEXT)])
        .await
        .map_err(SqlFailure::of(Side::Source, "look from what the published tables inherit"))?;
    let name = |row: &tokio_postgres::Row, at| {
        TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1))
    };
    Ok(rows.iter().map(|row| (name(row, 0), name(row, 2))).collect())
}

/// How many locks of tables and sequences the fence needs at the same time, and how many all sessions may have together:
/// `max_locks_per_transaction` for each connection and prepared transaction.
///
/// # Errors
/// The settings cannot be read.
pub async fn locks_needed(source: &Client, plan: &FencePlan) -> Result<(i64, i64), FenceError> {
    let sql = "SELECT current_setting('max_locks_per_transaction')::int8
                 * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8)";
    let row = source
        .query_typed_one(sql, &[])
        .await
        .map_err(SqlFailure::of(Side::Source, "read how many locks there may be"))?;
    let needed = plan.tables.len() + plan.sequences.len();
    Ok((i64::try_from(needed).unwrap_or(i64::MAX), row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tables: &[(u32, &str)]) -> FencePlan {
        let table = |&(oid, name): &(u32, &str)| FencedTable {
            oid,
            name: TableName::new("public", name),
            membership: "7/".into(),
            deny_trigger: Some(b'D'),
        };
        FencePlan { tables: tables.iter().map(table).collect(), ..FencePlan::default() }
    }

    #[test]
    fn a_table_that_was_dropped_and_made_again_is_another_table() {
        let (before, after) = (plan(&[(1, "a"), (2, "b")]), plan(&[(1, "a"), (3, "b"), (4, "c")]));
        assert_eq!(before.difference(&after), [TableName::new("public", "b"), TableName::new("public", "c")]);
        assert!(before.difference(&before).is_empty());
    }

    #[test]
    fn a_partition_that_was_detached_and_attached_again_is_another_partition() {
        let (before, mut after) = (plan(&[(1, "a"), (2, "b")]), plan(&[(1, "a"), (2, "b")]));
        if let Some(table) = after.tables.last_mut() {
            table.membership = "7/9".into();
        }
        assert_eq!(before.difference(&after), [TableName::new("public", "b")]);
    }
}
