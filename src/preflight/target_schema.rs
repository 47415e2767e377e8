//! `target.schema`: with `schema.mode = "existing"`, what is there must be able to take the source's rows.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::config::SchemaMode;
use crate::target::schema::compare_existing;

pub(super) async fn check(context: &Context<'_>) -> Result<Vec<Finding>, PreflightError> {
    match context.mode() {
        SchemaMode::Copy => Ok(Vec::new()),
        SchemaMode::Existing => Ok(compare_existing(context.target, &context.tables).await?),
    }
}
