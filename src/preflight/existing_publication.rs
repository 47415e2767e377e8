//! `source.existing_publication`: a publication of the configured name must be ours or must not be.

use pgsluice_proto::command::quote_ident;

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;
use crate::source::publication::OWNER_COMMENT;

const ID: &str = "source.existing_publication";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let name = &context.config.source.publication;
    let rows = context
        .rows(
            ID,
            Side::Source,
            "SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1",
            &[name],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let comment: Option<String> = row.get(0);
    Ok((comment.as_deref() != Some(OWNER_COMMENT)).then(|| {
        Finding::blocker(
            ID,
            name,
            format!("The source has a publication \"{name}\" that this program did not create."),
            format!(
                "Choose another name with source.publication; or, if nobody needs it, on the source:\nDROP PUBLICATION {};",
                quote_ident(name)
            ),
        )
    }))
}
