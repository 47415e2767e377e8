//! The kinds of objects that are compared, in the order in which missing ones can be made, and how each is addressed in SQL.

use std::fmt;
use std::sync::Arc;

/// A kind of object. The order is that of mending: what comes later may need what comes earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A role that the source's objects mention. Never compared itself.
    Role,
    /// The database itself: who may do what with it.
    Database,
    /// `pg_namespace`
    Schema,
    /// `pg_extension`
    Extension,
    /// What is compared by name alone: collations, operators and their classes, text search, languages, base types.
    Other,
    /// `pg_foreign_server`
    ForeignServer,
    /// An enum type.
    Enum,
    /// A composite type that belongs to no table.
    Composite,
    /// An attribute of a composite type.
    Attribute,
    /// A range type, with its multirange.
    Range,
    /// A domain.
    Domain,
    /// A sequence. Its position is no structure: the cutover aligns it.
    Sequence,
    /// A function, also a window function.
    Function,
    /// A procedure.
    Procedure,
    /// An aggregate.
    Aggregate,
    /// A check of a domain.
    DomainConstraint,
    /// `pg_cast`
    Cast,
    /// A table, partitioned or not.
    Table,
    /// A foreign table.
    ForeignTable,
    /// A column of a table, foreign table or view.
    Column,
    /// Primary key, unique, check or exclusion constraint. One that a partition or child has of its parent is its parent's.
    Constraint,
    /// An index; of a partition only its own.
    Index,
    /// A foreign key.
    ForeignKey,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// `CREATE STATISTICS`
    Statistics,
    /// A rule that is not a view's.
    Rule,
    /// A trigger that is not a constraint's.
    Trigger,
    /// A policy of row level security.
    Policy,
    /// An event trigger.
    EventTrigger,
    /// `ALTER DEFAULT PRIVILEGES`
    DefaultPrivileges,
}

impl ObjectKind {
    /// Every kind that is compared.
    pub const COMPARED: [Self; 30] = [
        Self::Database,
        Self::Schema,
        Self::Extension,
        Self::Other,
        Self::ForeignServer,
        Self::Enum,
        Self::Composite,
        Self::Attribute,
        Self::Range,
        Self::Domain,
        Self::Sequence,
        Self::Function,
        Self::Procedure,
        Self::Aggregate,
        Self::DomainConstraint,
        Self::Cast,
        Self::Table,
        Self::ForeignTable,
        Self::Column,
        Self::Constraint,
        Self::Index,
        Self::ForeignKey,
        Self::View,
        Self::MaterializedView,
        Self::Statistics,
        Self::Rule,
        Self::Trigger,
        Self::Policy,
        Self::EventTrigger,
        Self::DefaultPrivileges,
    ];

    /// What people call it; also its name in the answers of the catalog queries.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Database => "database",
            Self::Schema => "schema",
            Self::Extension => "extension",
            Self::Other => "object",
            Self::ForeignServer => "foreign server",
            Self::Enum => "enum type",
            Self::Composite => "composite type",
            Self::Attribute => "attribute",
            Self::Range => "range type",
            Self::Domain => "domain",
            Self::Sequence => "sequence",
            Self::Function => "function",
            Self::Procedure => "procedure",
            Self::Aggregate => "aggregate",
            Self::DomainConstraint => "domain constraint",
            Self::Cast => "cast",
            Self::Table => "table",
            Self::ForeignTable => "foreign table",
            Self::Column => "column",
            Self::Constraint => "constraint",
            Self::Index => "index",
            Self::ForeignKey => "foreign key",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
            Self::Statistics => "statistics object",
            Self::Rule => "rule",
            Self::Trigger => "trigger",
            Self::Policy => "policy",
            Self::EventTrigger => "event trigger",
            Self::DefaultPrivileges => "default privileges",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::COMPARED.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The words for it after `ALTER`, `DROP` and `COMMENT ON`.
    pub(super) const fn sql(self) -> &'static str {
        match self {
            Self::Role => "ROLE",
            Self::Database => "DATABASE",
            Self::Schema => "SCHEMA",
            Self::Extension => "EXTENSION",
            // Its address says what it is.
            Self::Other => "",
            Self::ForeignServer => "SERVER",
            Self::Enum | Self::Composite | Self::Range => "TYPE",
            Self::Attribute | Self::Column => "COLUMN",
            Self::Domain => "DOMAIN",
            Self::Sequence => "SEQUENCE",
            Self::Function | Self::Procedure | Self::Aggregate => "ROUTINE",
            Self::DomainConstraint | Self::Constraint | Self::ForeignKey => "CONSTRAINT",
            Self::Cast => "CAST",
            Self::Table => "TABLE",
            Self::ForeignTable => "FOREIGN TABLE",
            Self::Index => "INDEX",
            Self::View => "VIEW",
            Self::MaterializedView => "MATERIALIZED VIEW",
            Self::Statistics => "STATISTICS",
            Self::Rule => "RULE",
            Self::Trigger => "TRIGGER",
            Self::Policy => "POLICY",
            Self::EventTrigger => "EVENT TRIGGER",
            Self::DefaultPrivileges => "DEFAULT PRIVILEGES",
        }
    }

    /// Whether dropping it loses nothing but a definition.
    pub(super) const fn is_only_definition(self) -> bool {
        !matches!(
            self,
            Self::Role
                | Self::Database
                | Self::Schema
                | Self::Extension
                | Self::Other
                | Self::ForeignServer
                | Self::Attribute
                | Self::Sequence
                | Self::Table
                | Self::ForeignTable
                | Self::Column
        )
    }

    /// Whether one that only the target has changes what happens to rows, or what is refused.
    pub(super) const fn acts_on_rows(self) -> bool {
        matches!(
            self,
            Self::Attribute
                | Self::DomainConstraint
                | Self::Cast
                | Self::Column
                | Self::Constraint
                | Self::ForeignKey
                | Self::Rule
                | Self::Trigger
                | Self::Policy
                | Self::EventTrigger
        )
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What tells an object apart on either side. `Display` prints it as SQL addresses it after the words for its kind:
/// `"public"."orders"`, `"audit" ON "public"."orders"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// What it is a part of, quoted: the table of a column, the domain of a check. `None` if it stands for itself.
    pub place: Option<Arc<str>>,
    /// Its name, quoted: with its schema if it stands for itself, alone if it is a part of something.
    pub name: Box<str>,
}

impl ObjectKey {
    /// The quoted name of its schema; `None` if it is in none, or a part of something.
    pub(super) fn schema(&self) -> Option<&str> {
        if self.place.is_some() {
            return None;
        }
        // Without this inside a name, which is rare and only makes the answer useless.
        self.name.find("\".\"").map(|at| &self.name[..=at])
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else { return f.write_str(&self.name) };
        match self.kind {
            ObjectKind::Column | ObjectKind::Attribute => write!(f, "{place}.{}", self.name),
            ObjectKind::DefaultPrivileges => write!(f, "{place} ON {}", self.name),
            ObjectKind::DomainConstraint => write!(f, "{} ON DOMAIN {place}", self.name),
            _ => write!(f, "{} ON {place}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compared_kind_is_found_by_its_name() {
        for kind in ObjectKind::COMPARED {
            assert_eq!(ObjectKind::from_name(kind.as_str()), Some(kind));
        }
        assert!(ObjectKind::COMPARED.is_sorted());
    }

    #[test]
    fn objects_are_addressed_as_sql_addresses_them() {
        let key = |kind, place: Option<&str>, name: &str| {
            ObjectKey { kind, place: place.map(Arc::from), name: name.into() }.to_string()
        };
        assert_eq!(key(ObjectKind::Column, Some("\"s\".\"t\""), "\"c\""), r#""s"."t"."c""#);
        assert_eq!(key(ObjectKind::Trigger, Some("\"s\".\"t\""), "\"x\""), r#""x" ON "s"."t""#);
        assert_eq!(
            key(ObjectKind::DomainConstraint, Some("\"s\".\"d\""), "\"x\""),
            r#""x" ON DOMAIN "s"."d""#
        );
        let table = ObjectKey { kind: ObjectKind::Table, place: None, name: "\"s t\".\"a.b\"".into() };
        assert_eq!(table.schema(), Some("\"s t\""));
    }
}
