//! `source.tables`: there must be something to migrate. Pure.

use super::Finding;
use crate::source::SourceTable;

pub(super) fn judge(tables: &[SourceTable]) -> Option<Finding> {
    let has_any = tables.iter().any(|table| table.is_root() && table.is_logged());
    (!has_any).then(|| {
        Finding::blocker(
            "source.tables",
            "source",
            "No table of the source is selected, so there is nothing to migrate.",
            "Check the database's name in source.url, and source.tables.include and source.tables.exclude.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;

    #[test]
    fn a_source_without_tables_blocks() {
        assert!(judge(&[]).is_some());
        assert!(judge(&[SourceTable::sample(TableName::new("public", "t"))]).is_none());
    }
}
