//! The target's schema: brought over by the real `pg_dump` and `psql`, pre-data before the copy and post-data after
//! it, each in one transaction, or taken as it is ([`compare_existing`]). Never invents DDL of its own, and never
//! puts a secret into an argument list.

mod error;
mod existing;
mod extensions;
pub mod post_data;
mod process;
mod roles;
mod tables;
mod tools;

use std::path::Path;

pub use error::SchemaError;
pub use existing::compare_existing;
pub use post_data::{Division, IndexBuild, build_index, build_rest, existing_indexes, read_post_data};
pub use tables::{copy_table_definitions, copy_table_indexes};
pub use tools::{DumpTools, find_tools};

use self::extensions::ExtensionChoice;
use self::process::{Invocation, ScratchDirectory};
use self::roles::Ownership;
use crate::config::Config;
use crate::connection::{ConnectionSettings, SqlSession};
use crate::preflight::Finding;
use crate::runtime::Shutdown;
use crate::target::lock;

/// Part of a schema, in `pg_dump`'s words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Schemas, types, functions, tables, views: what the copy needs.
    PreData,
    /// Indexes, constraints, triggers, contents of materialized views: what is built faster, or only possible,
    /// afterwards.
    PostData,
}

impl Section {
    const fn as_str(self) -> &'static str {
        match self {
            Self::PreData => "pre-data",
            Self::PostData => "post-data",
        }
    }
}

/// What [`copy_pre_data`] and [`build_rest`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaCopied {
    /// What was left behind, with what to do about it: owners, privileges, extensions.
    pub findings: Vec<Finding>,
}

/// Index builds sort in memory up to this; the server's default of 64 MB makes large ones several times slower.
/// One transaction builds one index at a time.
const MAINTENANCE_WORK_MEM: &str = "256MB";

/// How long `pg_dump` waits for a table that DDL holds on the source.
const LOCK_WAIT_TIMEOUT: &str = "60s";

/// Creates schemas, types, functions and tables on the target, and runs `extra_sql` in the same transaction.
///
/// Cancel safe: the target's transaction is rolled back.
///
/// # Errors
/// [`SchemaError`]; nothing was created then, unless the connection was lost in the moment of COMMIT: what
/// `extra_sql` records says which.
pub async fn copy_pre_data(
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
    extra_sql: &str,
    shutdown: &Shutdown,
) -> Result<SchemaCopied, SchemaError> {
    let section = Section::PreData;
    let tools = find_tools(
        config.schema.postgres_bin_dir.as_deref(),
        source.server_version().major(),
        target.server_version().major(),
    )
    .await?;
    let ownership = roles::compare(source, target).await?;
    let extensions = extensions::choose(source, target).await?;
    let scratch = ScratchDirectory::create()?;
    let dump_file = scratch.path().join("schema.sql");
    let extra_file = scratch.path().join("record.sql");
    scratch.write(&extra_file, extra_sql)?;
    tracing::info!(section = section.as_str(), tools = %tools.bin_dir.display(), "schema is being read");
    dump(&tools, section, &config.source.connection, &ownership, &extensions, &dump_file)
        .run(shutdown)
        .await?;
    tracing::info!(section = section.as_str(), "schema is being built on the target");
    restore(&tools, &config.target.connection, &dump_file, &extra_file).run(shutdown).await?;
    Ok(SchemaCopied { findings: ownership.findings() })
}

fn dump(
    tools: &DumpTools,
    section: Section,
    source: &ConnectionSettings,
    ownership: &Ownership,
    extensions: &ExtensionChoice,
    file: &Path,
) -> Invocation {
    let mut dump = Invocation::new(&tools.pg_dump(), source, "");
    dump.argument("--no-password").argument(format!("--section={}", section.as_str()));
    if section == Section::PreData {
        // Not for post-data: there it would leave out the contents of materialized views too.
        dump.argument("--schema-only");
    }
    for option in [
        "--no-publications",
        "--no-subscriptions",
        "--no-tablespaces",
        "--exclude-schema=pgsluice",
        "--quote-all-identifiers",
        "--no-sync",
    ] {
        dump.argument(option);
    }
    dump.argument(format!("--lock-wait-timeout={LOCK_WAIT_TIMEOUT}"));
    dump.arguments(ownership.dump_options()).arguments(extensions.dump_options());
    dump.argument("--file").argument(file);
    dump
}

fn restore(tools: &DumpTools, target: &ConnectionSettings, dump: &Path, extra: &Path) -> Invocation {
    let mut restore = Invocation::new(
        &tools.psql(),
        target,
        &format!("-c maintenance_work_mem={MAINTENANCE_WORK_MEM} -c default_transaction_read_only=off"),
    );
    for option in ["--no-psqlrc", "--no-password", "--quiet", "--single-transaction"] {
        restore.argument(option);
    }
    // Terse: without DETAIL, which quotes row values (INV-10).
    for variable in ["ON_ERROR_STOP=1", "VERBOSITY=terse", "SHOW_CONTEXT=never"] {
        restore.argument("--set").argument(variable);
    }
    restore.argument("--output=/dev/null");
    // A successor of a killed run waits until this session has ended, and only then reads how far it came.
    restore.argument("--command").argument(lock::join_writers_sql());
    restore.argument("--file").argument(dump).argument("--file").argument(extra);
    restore.explained_by(dump);
    restore
}
