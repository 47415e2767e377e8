//! The post-data of the source, cut into its objects: what indexes one table that holds rows can be built as soon as that
//! table is copied, beside others; everything else (foreign keys, triggers, what belongs to partitioned tables) is built
//! in one transaction afterwards, in the order of the dump. The SQL is always `pg_dump`'s; which table an index belongs
//! to is asked of the source's catalog. An index the catalog does not clearly name stays with everything else.

use std::collections::{BTreeMap, BTreeSet};

use super::process::ScratchDirectory;
use super::{DumpTools, MAINTENANCE_WORK_MEM, SchemaCopied, SchemaError, Section, extensions, find_tools, roles};
use crate::config::Config;
use crate::connection::SqlSession;
use crate::model::{Side, TableName};
use crate::preflight::Finding;
use crate::runtime::Shutdown;

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

/// One object of the dump: what its title says, and its SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object's name; for a constraint or a trigger its table's, a blank, and its own. Line ends are blanks.
    pub name: String,
    /// `INDEX`, `CONSTRAINT`, `FK CONSTRAINT`, `TRIGGER`, …
    pub kind: String,
    /// Its schema; `-` where it has none.
    pub schema: String,
    /// The whole text in the dump, title included: one statement or more.
    pub sql: String,
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
    /// Where in the dump it stood.
    position: usize,
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
    let _ = (config, source, target, shutdown);
    Err(SchemaError::Stopped)
}

impl Division {
    /// What a session has to run before it builds indexes: the dump's own settings, and memory to sort in.
    #[must_use]
    pub fn session_sql(&self) -> String {
        format!("{}\nSET maintenance_work_mem = '{MAINTENANCE_WORK_MEM}';", self.preamble)
    }

    /// Leaves only these tables in `by_table`; the indexes of the others are built with the rest.
    pub fn retain_tables(&mut self, is_copied: impl Fn(&TableName) -> bool) {
        let _ = is_copied;
    }
}

/// Builds one index in a session that has run [`Division::session_sql`]: all of it or nothing.
///
/// When the program is asked to stop, the server is asked to cancel the statement.
///
/// # Errors
/// [`SchemaError::Index`] names index and statement; [`SchemaError::Stopped`].
pub async fn build_index(
    target: &SqlSession,
    build: &IndexBuild,
    shutdown: &Shutdown,
) -> Result<(), SchemaError> {
    let _ = (target, build, shutdown);
    Err(SchemaError::Stopped)
}

/// The valid indexes that the target has in these schemas, so that what an earlier run built is not built again.
///
/// # Errors
/// [`SchemaError::Sql`].
pub async fn existing_indexes(
    target: &SqlSession,
    schemas: &BTreeSet<String>,
) -> Result<BTreeSet<TableName>, SchemaError> {
    let _ = (target, schemas);
    Err(SchemaError::Stopped)
}

/// Builds everything that is not in `by_table`, in the dump's order, and runs `extra_sql` in the same transaction.
///
/// Cancel safe: the target's transaction is rolled back.
///
/// # Errors
/// As [`super::copy_pre_data`].
pub async fn build_rest(
    config: &Config,
    division: &Division,
    extra_sql: &str,
    shutdown: &Shutdown,
) -> Result<SchemaCopied, SchemaError> {
    let _ = (config, division, extra_sql, shutdown);
    Err(SchemaError::Stopped)
}
