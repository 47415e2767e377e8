//! Foreign keys of tables that have joined: from them and to them, as the source's server words them. Built only once the
//! stream has passed the tables' snapshot, when both sides of each are at the same moment.

use super::JoinError;
use crate::connection::SqlSession;
use crate::model::{Oid, TableName};
use pgsluice_proto::command::quote_ident;

/// Waiting for locks of the stream's long transactions is cheaper than building again.
const LOCK_TIMEOUT: &str = "60s";

/// Those of partitions come with their parent's.
const ON_SOURCE: &str = "
SELECT n.nspname::text, c.relname::text, k.conname::text, pg_get_constraintdef(k.oid), fn.nspname::text, f.relname::text,
       c.relkind = 'p'
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.conrelid = ANY ($1) OR k.confrelid = ANY ($1))
 ORDER BY 1, 2, 3";

const MISSING_ON_TARGET: &str = "
SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $3)";

/// Builds what is missing; where the target lacks a table, there is nothing to refer to or from.
pub(super) async fn build(source: &SqlSession, target: &SqlSession, tables: &[Oid]) -> Result<(), JoinError> {
    let oids: Vec<u32> = tables.iter().map(|oid| oid.0).collect();
    let rows = source.query(ON_SOURCE, &[&oids]).await.map_err(JoinError::source)?;
    let mut failed = None;
    for row in rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let referred = TableName::new(row.get::<_, String>(4), row.get::<_, String>(5));
        let constraint: String = row.get(2);
        let (from, to) = (table.to_string(), referred.to_string());
        let missing = target
            .query_one(MISSING_ON_TARGET, &[&from, &to, &constraint])
            .await
            .map_err(JoinError::target)?;
        if !missing.get::<_, bool>(0) {
            continue;
        }
        let only = if row.get(6) { "" } else { "ONLY " };
        let definition: String = row.get(3);
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';
             ALTER TABLE {only}{table} ADD CONSTRAINT {} {definition}; COMMIT",
            quote_ident(&constraint)
        );
        if let Err(error) = target.batch_execute(&sql).await {
            // If the connection is lost, the error says so and there is nothing to roll back.
            let _ = target.batch_execute("ROLLBACK").await;
            failed = failed.or(Some(JoinError::ForeignKey { constraint, table, error: error.into() }));
        }
    }
    failed.map_or(Ok(()), Err)
}
