//! `source.unlogged_tables`: their changes are not in the WAL, and so would stay behind. Pure.

use super::Finding;
use crate::source::SourceTable;

const ID: &str = "source.unlogged_tables";

pub(super) fn judge(tables: &[SourceTable]) -> Vec<Finding> {
    let unlogged = tables.iter().filter(|table| !table.is_logged());
    unlogged
        .map(|table| {
            Finding::blocker(
                ID,
                table.name.plain(),
                "The table is unlogged: its changes are not in the WAL. Its definition is copied, its rows are not.",
                format!(
                    "ALTER TABLE {} SET LOGGED; -- rewrites it\nOr leave it out with source.tables.exclude, or waive this:\npreflight.waive = [\"{ID}\"]",
                    table.name
                ),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableName;
    use crate::source::Persistence;

    #[test]
    fn an_unlogged_table_blocks() {
        let mut table = SourceTable::sample(TableName::new("public", "sessions"));
        assert_eq!(judge(std::slice::from_ref(&table)), []);
        table.persistence = Persistence::Unlogged;
        let findings = judge(&[table]);
        assert_eq!(findings[0].subject, "public.sessions");
        assert!(findings[0].remedy.starts_with(r#"ALTER TABLE "public"."sessions" SET LOGGED"#));
    }
}
