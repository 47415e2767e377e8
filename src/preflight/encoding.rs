//! `source.encoding`: both databases must keep text the same way, or a value could change or be refused on its way.

use super::context::Context;
use super::{Finding, PreflightError};
use crate::model::Side;

const ID: &str = "source.encoding";

pub(super) async fn check(context: &Context<'_>) -> Result<Option<Finding>, PreflightError> {
    let sql = "SELECT getdatabaseencoding()::text";
    let source = context.row(ID, Side::Source, sql, &[]).await?;
    let target = context.row(ID, Side::Target, sql, &[]).await?;
    Ok(judge(source.get(0), target.get(0)))
}

fn judge(source: &str, target: &str) -> Option<Finding> {
    if source != target {
        return Some(Finding::blocker(
            ID,
            "source",
            format!(
                "The source's database is encoded in {source}, the target's in {target}: text could change on its way, or be refused."
            ),
            format!(
                "Create the target's database anew (CloudNativePG: bootstrap.initdb.encoding):\nCREATE DATABASE … ENCODING '{source}' TEMPLATE template0;"
            ),
        ));
    }
    (source == "SQL_ASCII").then(|| {
        Finding::warning(
            ID,
            "source",
            "Both databases are SQL_ASCII: the servers do not know how their text is encoded, and bytes that are not valid UTF-8 stop the copy.",
            "Convert such text on the source first, if there is any.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn different_encodings_block() {
        assert!(judge("UTF8", "UTF8").is_none());
        assert_eq!(judge("LATIN1", "UTF8").map(|finding| finding.severity), Some(Severity::Blocker));
        assert_eq!(judge("SQL_ASCII", "SQL_ASCII").map(|finding| finding.severity), Some(Severity::Warning));
    }
}
