//! The definition of some tables alone, for those that join a running migration: tables before their copy, indexes,
//! constraints and triggers after it. Without foreign keys: the tables on their other side are at another moment until
//! the stream has passed the copy.

use std::path::Path;

use super::process::{Invocation, ScratchDirectory};
use super::roles::Ownership;
use super::{DumpTools, LOCK_WAIT_TIMEOUT, SchemaError, Section, find_tools, restore, roles};
use crate::config::Config;
use crate::connection::SqlSession;
use crate::model::TableName;
use crate::runtime::Shutdown;

/// Creates exactly these tables on the target, with the sequences they own, and runs `extra_sql` in the same
/// transaction. What they need beside that (schemas, types, functions) must be there.
///
/// # Errors
/// [`SchemaError`]; nothing was created then.
pub async fn copy_table_definitions(
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
    tables: &[TableName],
    extra_sql: &str,
    shutdown: &Shutdown,
) -> Result<(), SchemaError> {
    copy(Section::PreData, config, source, target, tables, extra_sql, shutdown).await
}

/// Builds indexes, constraints, triggers and policies of these tables, and runs `extra_sql` in the same transaction.
///
/// # Errors
/// As [`copy_table_definitions`].
pub async fn copy_table_indexes(
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
    tables: &[TableName],
    extra_sql: &str,
    shutdown: &Shutdown,
) -> Result<(), SchemaError> {
    copy(Section::PostData, config, source, target, tables, extra_sql, shutdown).await
}

async fn copy(
    section: Section,
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
    tables: &[TableName],
    extra_sql: &str,
    shutdown: &Shutdown,
) -> Result<(), SchemaError> {
    let tools = find_tools(
        config.schema.postgres_bin_dir.as_deref(),
        source.server_version().major(),
        target.server_version().major(),
    )
    .await?;
    let ownership = roles::compare(source, target).await?;
    let scratch = ScratchDirectory::create()?;
    let file = |name: &str| scratch.path().join(name);
    let (archive, list, script, extra) =
        (file("schema.dump"), file("schema.list"), file("schema.sql"), file("record.sql"));
    scratch.write(&extra, extra_sql)?;
    dump(&tools, section, config, &ownership, tables, &archive).run(shutdown).await?;
    let mut listing = pg_restore(&tools, config, &archive, &list);
    listing.argument("--list");
    listing.run(shutdown).await?;
    let chosen = file("chosen.list");
    scratch.write(&chosen, &without_foreign_keys(&scratch.read(&list)?))?;
    let mut printing = pg_restore(&tools, config, &archive, &script);
    printing.argument("--use-list").argument(&chosen).arguments(ownership.dump_options());
    printing.run(shutdown).await?;
    restore(&tools, &config.target.connection, &script, &extra).run(shutdown).await
}

fn dump(
    tools: &DumpTools,
    section: Section,
    config: &Config,
    ownership: &Ownership,
    tables: &[TableName],
    file: &Path,
) -> Invocation {
    let mut dump = Invocation::new(&tools.pg_dump(), &config.source.connection, "");
    dump.argument("--no-password").argument(format!("--section={}", section.as_str()));
    for option in [
        "--format=custom",
        "--schema-only",
        "--no-publications",
        "--no-subscriptions",
        "--no-tablespaces",
        "--quote-all-identifiers",
        "--no-sync",
    ] {
        dump.argument(option);
    }
    dump.argument(format!("--lock-wait-timeout={LOCK_WAIT_TIMEOUT}"));
    // A pattern in double quotes is taken literally, as in psql.
    dump.arguments(tables.iter().map(|table| format!("--table={table}")).collect());
    dump.arguments(ownership.dump_options());
    dump.argument("--file").argument(file);
    dump
}

/// Never connects: it reads the archive and writes a file.
fn pg_restore(tools: &DumpTools, config: &Config, archive: &Path, file: &Path) -> Invocation {
    let mut restore = Invocation::new(&tools.pg_restore(), &config.source.connection, "");
    restore.argument("--file").argument(file).argument(archive);
    restore
}

/// `123; 2606 16400 FK CONSTRAINT public orders orders_customer_fkey app`: number, catalog, object, then the kind.
fn without_foreign_keys(list: &str) -> String {
    let is_foreign_key = |line: &&str| {
        let mut words = line.split_ascii_whitespace();
        words.next().is_some_and(|word| word.ends_with(';')) && words.nth(2) == Some("FK")
    };
    list.lines().filter(|line| !is_foreign_key(line)).fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_keys_and_nothing_else_are_left_out() {
        let list = ";\n; Selected TOC Entries:\n;\n3210; 2606 16400 CONSTRAINT public orders orders_pkey app\n\
                    3211; 2606 16401 FK CONSTRAINT public orders orders_customer_fkey app\n\
                    3212; 1259 16402 INDEX public FK app\n";
        let left = without_foreign_keys(list);
        assert!(!left.contains("orders_customer_fkey"), "{left}");
        assert!(left.contains("orders_pkey") && left.contains("INDEX public FK"), "{left}");
    }
}
