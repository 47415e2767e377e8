//! Names of relations, kept as PostgreSQL keeps them (unquoted, case preserved) and quoted only when printed as SQL.

use std::fmt;

use pgsluice_proto::command::quote_ident;

/// A table: schema and name as stored in `pg_namespace.nspname` and `pg_class.relname`.
///
/// `Display` prints it quoted, ready for SQL: `"public"."orders"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// `pg_namespace.nspname`.
    pub schema: String,
    /// `pg_class.relname`.
    pub name: String,
}

impl TableName {
    /// A name from its two unquoted parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// `schema.name` without quotes: for people, configuration patterns and metric labels, never for SQL.
    #[must_use]
    pub fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

/// A sequence: the same two parts as a table's name.
pub type SequenceName = TableName;
