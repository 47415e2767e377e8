//! What the matrix claims to cover, held against what the servers say there is.

use std::collections::BTreeSet;

use pgsluice::demo::cluster::LocalCluster;
use tokio_postgres::Client;

use super::cases::{LEFT_OUT, TypeCases};
use crate::harness::clusters::installation;
use crate::harness::stage::Pair;

/// In the tables of the matrix.
const MATRIX_TYPES: &str = "
    SELECT DISTINCT a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
     WHERE c.relnamespace IN ('keyed'::regnamespace, 'whole_row'::regnamespace) AND c.relkind = 'r'
       AND a.attname IN ('val', 'list')";

/// Base types, ranges and multiranges of PostgreSQL itself, and their arrays.
const BUILT_IN_TYPES: &str = "
    SELECT t.typname::text, t.oid IN (SELECT * FROM matrix) FROM pg_type t
     WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype IN ('b', 'r', 'm') AND t.typisdefined
       AND t.typname NOT LIKE 'gbtree%'
       AND coalesce((SELECT e.typtype FROM pg_type e WHERE e.typarray = t.oid), 'b') IN ('b', 'r', 'm')
       AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid AND e.typname = ANY ($1))
     ORDER BY 1";

/// A type that a later PostgreSQL brings must not be forgotten.
pub(super) async fn assert_every_built_in_type_is_here(source: &Client) {
    let left_out: Vec<&str> = LEFT_OUT.iter().map(|(name, _)| *name).collect();
    let sql = format!("WITH matrix AS ({MATRIX_TYPES}) {BUILT_IN_TYPES}");
    let rows = source.query(&sql, &[&left_out]).await.expect("the types of the server");
    let forgotten: Vec<String> = rows
        .iter()
        .filter(|row| !row.get::<_, bool>(1) && !left_out.contains(&row.get(0)))
        .map(|row| row.get(0))
        .collect();
    assert!(forgotten.is_empty(), "built-in types that the matrix forgets: {forgotten:?}");
    assert!(rows.len() > 140, "only {} built-in types were found", rows.len());
}

/// Types of columns that the matrix's tables have, arrays included.
pub(super) async fn types_in_tables(source: &Client) -> i64 {
    let sql = format!("SELECT count(*) FROM ({MATRIX_TYPES}) AS matrix");
    source.query_one(&sql, &[]).await.expect("a count").get(0)
}

/// Creates the extensions that the servers of both versions have; returns those that they do not.
pub(super) async fn make_extensions(
    source: &Client,
    pair: Pair,
    cases: &'static [TypeCases],
) -> Vec<&'static str> {
    let wanted: BTreeSet<&str> = cases.iter().filter_map(|cases| cases.extension).collect();
    let mut missing = Vec::new();
    for name in wanted {
        let has = |major| {
            let share = installation(major).bindir.join("../share");
            ["extension", "postgresql/extension"]
                .iter()
                .any(|folder| share.join(folder).join(format!("{name}.control")).exists())
        };
        if has(pair.source) && has(pair.target) {
            let create = format!("CREATE EXTENSION {name} SCHEMA ext CASCADE");
            source.batch_execute(&create).await.unwrap_or_else(|error| panic!("{create}: {error:?}"));
        } else {
            missing.push(name);
        }
    }
    missing
}

/// The matrix has tables that are copied in binary, and tables that are copied as text; the source's log tells.
pub(super) fn assert_both_formats_of_copy_were_used(source: &LocalCluster) {
    let log = std::fs::read(source.log_path()).expect("the server's log");
    let log = String::from_utf8_lossy(&log);
    let copied = |table: &str, format: &str| {
        log.lines().any(|line| line.contains("TO STDOUT") && line.contains(table) && line.contains(format))
    };
    for table in ["integer", "numeric", "text", "timestamp with time zone", "jsonb", "int4range"] {
        assert!(copied(&format!("\"keyed\".\"{table}\""), "FORMAT text"), "{table} was never copied as text");
        assert!(
            copied(&format!("\"whole_row\".\"{table}\""), "FORMAT binary"),
            "{table} was never copied in binary"
        );
    }
    for table in ["regclass", "'odd types'.nest", "ext.hstore", "aclitem"] {
        assert!(
            copied(&format!("\"whole_row\".\"{table}\""), "FORMAT text"),
            "{table} was never copied as text"
        );
    }
}
