//! `source.replica_identity`: every table needs one. Published without it, the table's own UPDATE and DELETE would
//! fail on the source (trap 19), so this can never be waived.

use std::collections::BTreeMap;

use pgsluice_proto::command::quote_ident;

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;
use crate::source::{MissingIdentity, ReplicaIdentity, SourceTable};

const ID: &str = "source.replica_identity";

/// Unique indexes PostgreSQL would take as a replica identity.
const CANDIDATES: &str = "
SELECT i.indrelid, min(c.relname::text)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = ANY ($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL
   AND NOT EXISTS (SELECT FROM pg_attribute a
                    WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                      AND (NOT a.attnotnull OR a.attgenerated <> ''))
 GROUP BY 1";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    let oids: Vec<u32> = missing(&context.tables).map(|(table, _)| table.oid.0).collect();
    let rows = context.rows(ID, Side::Source, CANDIDATES, &[&oids]).await?;
    let candidates = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(judge(&context.tables, &candidates))
}

fn missing(tables: &[SourceTable]) -> impl Iterator<Item = (&SourceTable, MissingIdentity)> {
    tables.iter().filter(|table| table.holds_rows() && table.is_logged()).filter_map(|table| {
        match &table.replica_identity {
            ReplicaIdentity::Missing(reason) => Some((table, *reason)),
            ReplicaIdentity::Usable { .. } => None,
        }
    })
}

/// `candidates`: a usable unique index by table OID.
fn judge(tables: &[SourceTable], candidates: &BTreeMap<u32, String>) -> Vec<Finding> {
    missing(tables)
        .map(|(table, reason)| {
            let candidate = candidates.get(&table.oid.0).map(String::as_str);
            Finding::blocker(ID, table.name.plain(), describe(reason), remedy(table, reason, candidate))
        })
        .collect()
}

fn describe(reason: MissingIdentity) -> String {
    let cause = match reason {
        MissingIdentity::NoPrimaryKey => "has no primary key",
        MissingIdentity::DeferrablePrimaryKey => "has a deferrable primary key, which is no replica identity",
        MissingIdentity::Nothing => "has REPLICA IDENTITY NOTHING",
        MissingIdentity::IndexGone => "had a replica identity index, which is gone or invalid",
        MissingIdentity::GeneratedColumn => {
            "has a generated column in its replica identity, which the stream does not carry"
        }
    };
    format!(
        "The table {cause}: updated and deleted rows cannot be found again on the target, and publishing it would make its UPDATE and DELETE fail on the source."
    )
}

fn remedy(table: &SourceTable, reason: MissingIdentity, candidate: Option<&str>) -> String {
    let name = &table.name;
    let identity = match (candidate, reason) {
        (Some(index), _) => {
            format!("ALTER TABLE {name} REPLICA IDENTITY USING INDEX {};", quote_ident(index))
        }
        (None, MissingIdentity::GeneratedColumn) => {
            format!(
                "-- give {name} a unique index on NOT NULL columns that are not generated, then ALTER TABLE {name} REPLICA IDENTITY USING INDEX …;"
            )
        }
        (None, _) => format!(
            "ALTER TABLE {name} ADD PRIMARY KEY (…); -- or, slower: ALTER TABLE {name} REPLICA IDENTITY FULL;"
        ),
    };
    format!("{identity}\n-- or leave it out with source.tables.exclude")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;

    #[test]
    fn a_table_without_identity_blocks_and_an_index_that_fits_is_proposed() {
        let mut table = SourceTable::sample(TableName::new("public", "log"));
        assert_eq!(judge(std::slice::from_ref(&table), &BTreeMap::new()), []);
        table.replica_identity = ReplicaIdentity::Missing(MissingIdentity::NoPrimaryKey);
        let findings = judge(std::slice::from_ref(&table), &BTreeMap::new());
        assert!(findings[0].remedy.contains("REPLICA IDENTITY FULL"));
        let findings = judge(&[table.clone()], &BTreeMap::from([(table.oid.0, "log_key".to_owned())]));
        assert!(
            findings[0]
                .remedy
                .starts_with(r#"ALTER TABLE "public"."log" REPLICA IDENTITY USING INDEX "log_key";"#)
        );
    }
}
