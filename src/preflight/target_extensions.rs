//! `target.extensions`: what the source's types and functions come from must be installable on the target.

use pgsluice_proto::command::quote_ident;

use super::context::Context;
use super::{Finding, PreflightError};
use crate::config::SchemaMode;
use crate::model::Side;

const ID: &str = "target.extensions";

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    if context.mode() == SchemaMode::Existing {
        return Ok(Vec::new());
    }
    let rows = context.rows(ID, Side::Source, "SELECT extname::text FROM pg_extension", &[]).await?;
    let on_source: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let rows = context
        .rows(
            ID,
            Side::Target,
            "SELECT name FROM unnest($1::text[]) AS name
              WHERE name NOT IN (SELECT a.name FROM pg_available_extensions a) ORDER BY 1",
            &[&on_source],
        )
        .await?;
    Ok(rows.iter().map(|row| unavailable(row.get(0))).collect())
}

fn unavailable(extension: &str) -> Finding {
    Finding::blocker(
        ID,
        extension,
        format!(
            "Extension {extension} of the source is not available on the target: objects that need it cannot be created there."
        ),
        format!(
            "Install its package on the target's servers (CloudNativePG: use an image that has it); or, if nothing uses it, on the source:\nDROP EXTENSION {};\nOr go on without it:\npreflight.waive = [\"{ID}\"]",
            quote_ident(extension)
        ),
    )
}
