//! `source.hash_partitions`: a row must belong to the same partition on both sides. The hash of an enum is that of an
//! object id, which differs between clusters, and that of a text under a collation that is not deterministic depends on
//! the version of its library.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::{Side, TableName};

const ID: &str = "source.hash_partitions";

/// Tables partitioned by hash of a column whose hash is a cluster's own. Types are taken apart: domains, arrays, ranges,
/// composites.
const OWN_HASHES: &str = "
WITH RECURSIVE made_of (type, part) AS (
    SELECT t.oid, t.oid FROM pg_type t
     UNION
    SELECT m.type, next.part
      FROM made_of m
      CROSS JOIN LATERAL (
          SELECT t.typbasetype FROM pg_type t WHERE t.oid = m.part AND t.typtype = 'd'
           UNION ALL
          SELECT t.typelem FROM pg_type t WHERE t.oid = m.part AND t.typelem <> 0
           UNION ALL
          SELECT r.rngsubtype FROM pg_range r WHERE m.part IN (r.rngtypid, r.rngmultitypid)
           UNION ALL
          SELECT a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0
                                          AND NOT a.attisdropped
           WHERE t.oid = m.part AND t.typtype = 'c'
      ) AS next (part)
)
SELECT DISTINCT c.oid, n.nspname::text, c.relname::text, a.attname::text
  FROM pg_partitioned_table p
  JOIN pg_class c ON c.oid = p.partrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (p.partattrs::int2[])
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE p.partstrat = 'h' AND c.oid = ANY ($1)
   AND (NOT coalesce(l.collisdeterministic, true)
        OR EXISTS (SELECT FROM made_of m JOIN pg_type e ON e.oid = m.part AND e.typtype = 'e'
                    WHERE m.type = a.atttypid))
 ORDER BY 2, 3, 4";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let partitioned: Vec<u32> =
        context.tables.iter().filter(|table| !table.holds_rows()).map(|table| table.oid.0).collect();
    let rows = context.rows(ID, Side::Source, OWN_HASHES, &[&partitioned]).await?;
    Ok(rows
        .iter()
        .map(|row| judge(&TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)), row.get(3)))
        .collect())
}

fn judge(table: &TableName, column: &str) -> Finding {
    Finding::blocker(
        ID,
        table.plain(),
        format!(
            "The table is partitioned by hash of column {column}, whose hash is different on every cluster (an enum's is that of its object id): a row belongs to another partition on the target, and cannot be put into the one it came from."
        ),
        format!(
            "Partition it by hash of another column, or by list; or leave {} out with source.tables.exclude.",
            table.plain()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finding_names_table_and_column() {
        let finding = judge(&TableName::new("public", "moods"), "mood");
        assert_eq!(finding.subject, "public.moods");
        assert!(finding.finding.contains("column mood") && finding.remedy.contains("public.moods"));
    }
}
