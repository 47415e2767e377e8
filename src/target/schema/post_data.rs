//! The post-data of the source, cut into its objects: what indexes one table that holds rows can be built as soon as that
//! table is copied, beside others; everything else (foreign keys, triggers, what belongs to partitioned tables) is built
//! in one transaction afterwards, in the order of the dump. The SQL is always `pg_dump`'s; which table an index belongs
//! to is asked of the source's catalog. An index the catalog does not clearly name stays with everything else.

mod build;
mod divide;
mod dump;
mod indexes;
mod lexer;

use std::collections::{BTreeMap, BTreeSet};

pub use self::build::{build_index, build_rest};
pub use self::dump::{Entry, PostData};
pub use self::indexes::existing_indexes;
use super::process::ScratchDirectory;
use super::{DumpTools, MAINTENANCE_WORK_MEM, SchemaError, Section, extensions, find_tools, roles};
use crate::config::Config;
use crate::connection::SqlSession;
use crate::model::TableName;
use crate::preflight::Finding;
use crate::runtime::Shutdown;

/// Kinds of objects whose title begins with the name of their table.
const OF_A_TABLE: [&str; 6] =
    ["FK CONSTRAINT", "CHECK CONSTRAINT", "TRIGGER", "RULE", "POLICY", "ROW SECURITY"];

/// An index up to this size is sorted in [`MAINTENANCE_WORK_MEM`] by one process; several would write what they sort to disk first,
/// and take processors from whoever copies and builds beside it.
const BUILT_BY_ONE_PROCESS_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// What an index is for its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IndexRole {
    /// The primary key.
    PrimaryKey,
    /// The replica identity, where that is another index than the primary key.
    ReplicaIdentity,
    /// Neither.
    Other,
}

/// An index, or a constraint that is one, of a table that holds rows: an ordinary table or a leaf partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexBuild {
    /// The table.
    pub table: TableName,
    /// The index. A constraint's has the constraint's name.
    pub index: TableName,
    /// What it is for its table.
    pub role: IndexRole,
    /// How large it is on the source.
    pub bytes_on_source: u64,
    /// One statement or more, sent as one simple query: one implicit transaction, so all of it is there or nothing.
    pub sql: String,
    /// The lines of the dump that name it.
    title: String,
    /// Where in the dump it stood.
    position: usize,
}

impl IndexBuild {
    /// [`IndexBuild::sql`] with what the session should be set to for it.
    #[must_use]
    pub fn statements(&self) -> String {
        let workers = if self.bytes_on_source > BUILT_BY_ONE_PROCESS_BYTES_MAX {
            "RESET max_parallel_maintenance_workers"
        } else {
            "SET max_parallel_maintenance_workers = 0"
        };
        format!("{workers};\n{}", self.sql)
    }
}

/// The indexes of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableIndexes {
    /// The primary key.
    pub primary_key: Option<IndexBuild>,
    /// The index of the replica identity, where it is not the primary key.
    pub replica_identity: Option<IndexBuild>,
    /// The others, largest first.
    pub others: Vec<IndexBuild>,
}

impl TableIndexes {
    /// All of them, in the order in which they are best built: keys first, then the largest first.
    pub fn into_builds(self) -> impl Iterator<Item = IndexBuild> {
        self.primary_key.into_iter().chain(self.replica_identity).chain(self.others)
    }
}

/// The post-data, divided.
#[derive(Clone, Debug)]
pub struct Division {
    /// Every table of the dump that has indexes to build, whether it is copied or not: see [`Division::retain_tables`].
    pub by_table: BTreeMap<TableName, TableIndexes>,
    /// Everything else, in the dump's order.
    pub rest: Vec<Entry>,
    preamble: String,
    trailer: String,
    tools: DumpTools,
    findings: Vec<Finding>,
}

/// Reads the source's post-data with `pg_dump` and divides it by the source's catalog. Changes nothing.
///
/// Cancel safe.
///
/// # Errors
/// [`SchemaError`].
pub async fn read_post_data(
    config: &Config,
    source: &SqlSession,
    target: &SqlSession,
    shutdown: &Shutdown,
) -> Result<Division, SchemaError> {
    let tools = find_tools(
        config.schema.postgres_bin_dir.as_deref(),
        source.server_version().major(),
        target.server_version().major(),
    )
    .await?;
    let ownership = roles::compare(source, target).await?;
    let extensions = extensions::choose(source, target).await?;
    let scratch = ScratchDirectory::create()?;
    let file = scratch.path().join("schema.sql");
    tracing::info!(section = Section::PostData.as_str(), tools = %tools.bin_dir.display(), "schema is being read");
    let mut dump =
        super::dump(&tools, Section::PostData, &config.source.connection, &ownership, &extensions, &file);
    // It is read here, and its statements go through sessions that speak UTF-8 whatever the source speaks.
    dump.argument("--encoding=UTF8");
    dump.run(shutdown).await?;
    let text = scratch.read(&file)?;
    let PostData { preamble, entries, trailer } = PostData::parse(&text);
    let (by_table, rest) = divide::divide(entries, &indexes::read(source).await?);
    Ok(Division { by_table, rest, preamble, trailer, tools, findings: ownership.findings() })
}

impl Division {
    /// What a session has to run before it builds indexes: the dump's own settings, and memory to sort in.
    #[must_use]
    pub fn session_sql(&self) -> String {
        // Remarks of the server may quote values; the dump would have them sent (INV-10).
        format!(
            "{}SET client_min_messages = 'error';\nSET maintenance_work_mem = '{MAINTENANCE_WORK_MEM}';",
            dump::statements(&self.preamble)
        )
    }

    /// Leaves out what belongs to these tables: who made them on the target has built it, or they are not there.
    pub fn leave_out(&mut self, tables: &BTreeSet<TableName>) {
        self.by_table.retain(|table, _| !tables.contains(table));
        let mut by_schema: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for table in tables {
            by_schema.entry(&table.schema).or_default().push(&table.name);
        }
        // The title of what belongs to a table begins with its name: "orders orders_customer_fkey".
        let belongs = |entry: &Entry| {
            by_schema.get(entry.schema.as_str()).is_some_and(|names| {
                names.iter().any(|name| {
                    entry.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
                })
            })
        };
        self.rest.retain(|entry| !OF_A_TABLE.contains(&entry.kind.as_str()) || !belongs(entry));
    }

    /// Takes out of `by_table` what is there already, and moves the rest of it to where it stood in the dump.
    pub fn without_existing(&mut self, existing: &BTreeSet<TableName>) {
        for indexes in self.by_table.values_mut() {
            let is_due = |build: &IndexBuild| !existing.contains(&build.index);
            indexes.primary_key = indexes.primary_key.take().filter(is_due);
            indexes.replica_identity = indexes.replica_identity.take().filter(is_due);
            indexes.others.retain(is_due);
        }
        self.retain_tables(|_| false);
    }

    /// Leaves only these tables in `by_table`; the indexes of the others are built with the rest.
    pub fn retain_tables(&mut self, is_copied: impl Fn(&TableName) -> bool) {
        let (kept, others) =
            std::mem::take(&mut self.by_table).into_iter().partition(|(table, _)| is_copied(table));
        self.by_table = kept;
        let others: BTreeMap<TableName, TableIndexes> = others;
        let moved = others
            .into_values()
            .flat_map(TableIndexes::into_builds)
            .map(|build| Entry::again(&build.title, &build.sql, build.position));
        self.rest.extend(moved);
        self.rest.sort_by_key(|entry| entry.position);
    }
}
