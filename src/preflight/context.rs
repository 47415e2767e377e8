//! What every check is given, and how it asks.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::PreflightError;
use crate::config::{Config, SchemaMode};
use crate::connection::SqlSession;
use crate::kubernetes::cnpg::Sight;
use crate::model::Side;
use crate::source::SourceTable;

/// Names listed in one finding; the rest is counted.
const LISTED_MAX: usize = 10;

/// SQL: `name` and `oid` of those relations whose names, quoted in any case, are in the array `$1`. By the catalogs: `to_regclass`
/// refuses to look into a schema that the role may not use.
pub(super) const NAMED_RELATIONS: &str = r#"
SELECT wanted.name, c.oid FROM unnest($1::text[]) AS wanted (name)
  JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
    ON wanted.name = '"' || replace(n.nspname::text, '"', '""') || '"."' || replace(c.relname::text, '"', '""') || '"'"#;

pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    pub(super) source: &'a SqlSession,
    pub(super) target: &'a SqlSession,
    /// What was seen of the cluster that the target is, if that is told.
    pub(super) cluster: Option<&'a Sight>,
    /// The selected tables.
    pub(super) tables: Vec<SourceTable>,
}

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

impl Context<'_> {
    pub(super) fn mode(&self) -> SchemaMode {
        self.config.schema.mode
    }

    pub(super) const fn session(&self, side: Side) -> &SqlSession {
        match side {
            Side::Source => self.source,
            Side::Target => self.target,
        }
    }

    /// All rows of a query on one side.
    pub(super) async fn rows(
        &self,
        check: &'static str,
        side: Side,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, PreflightError> {
        self.session(side).query(sql, parameters).await.map_err(PreflightError::sql(check, side))
    }

    /// The one row of a query on one side.
    pub(super) async fn row(
        &self,
        check: &'static str,
        side: Side,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Row, PreflightError> {
        self.session(side).query_one(sql, parameters).await.map_err(PreflightError::sql(check, side))
    }
}

/// `a, b, c and 7 more`.
pub(super) fn enumerate(names: &[String]) -> String {
    let listed = names.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(LISTED_MAX) {
        None | Some(0) => listed,
        Some(more) => format!("{listed} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_the_rest_is_counted() {
        let names: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        assert_eq!(enumerate(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(enumerate(&names[..2]), "0, 1");
    }
}
