//! `target.tools`: copying the schema needs `pg_dump` and `psql` of a version that fits both servers.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::config::SchemaMode;
use crate::target::schema::{SchemaError, find_tools};

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    if context.mode() == SchemaMode::Existing {
        return Ok(None);
    }
    let found = find_tools(
        context.config.schema.postgres_bin_dir.as_deref(),
        context.source.server_version().major(),
        context.target.server_version().major(),
    )
    .await;
    match found {
        Ok(_) => Ok(None),
        Err(error @ SchemaError::NoTools { .. }) => {
            let finding = format!("The schema cannot be copied: {error}.");
            Ok(Some(Finding::blocker("target.tools", "this machine", finding, error.remedy())))
        }
        Err(error) => Err(error.into()),
    }
}
