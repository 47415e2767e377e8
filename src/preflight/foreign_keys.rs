//! `source.foreign_keys`: a table that is migrated must not refer to one that is left out, or the foreign key could
//! not be created on the target.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::config::SchemaMode;
use crate::model::{Side, TableName};

const ID: &str = "source.foreign_keys";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    if context.mode() == SchemaMode::Existing {
        return Ok(Vec::new());
    }
    let selected: Vec<u32> =
        context.tables.iter().filter(|table| table.is_logged()).map(|table| table.oid.0).collect();
    let rows = context
        .rows(
            ID,
            Side::Source,
            "SELECT k.conname::text, n.nspname::text, c.relname::text, fn.nspname::text, f.relname::text
               FROM pg_constraint k
               JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
              WHERE k.contype = 'f' AND k.conparentid = 0
                AND k.conrelid = ANY ($1) AND k.confrelid <> ALL ($1)
              ORDER BY 2, 3, 1",
            &[&selected],
        )
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let key: String = row.get(0);
        let from = TableName::new(row.get::<_, String>(1), row.get::<_, String>(2));
        let to = TableName::new(row.get::<_, String>(3), row.get::<_, String>(4));
        Finding::blocker(
            ID,
            from.plain(),
            format!(
                "Foreign key {key} refers to {}, whose rows are not migrated: the key cannot be created on the target.",
                to.plain()
            ),
            format!("Migrate {} too, or leave {} out as well (source.tables).", to.plain(), from.plain()),
        )
    };
    Ok(rows.iter().map(finding).collect())
}
