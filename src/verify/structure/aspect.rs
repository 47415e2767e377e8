//! What is compared of an object besides that it is there: one aspect for each column of the catalog queries that is not its
//! address. A value is text as SQL writes it; an aspect without one is as it is by default.

use super::object::ObjectKind;

/// One thing about an object that can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Aspect {
    /// The statement that makes it, or the part of it that says what it is.
    Definition,
    /// `format_type()`, with modifier.
    Type,
    /// A collation that is not the type's own.
    Collation,
    /// What a generated column is computed by, and when.
    Generated,
    /// The default.
    Default,
    /// `NOT NULL`
    NotNull,
    /// `ALWAYS` or `BY DEFAULT` of an identity column.
    Identity,
    /// Target for the statistics of a column or of a statistics object.
    StatisticsTarget,
    /// How long values of a column are kept, if not as its type says.
    Storage,
    /// How they are compressed, if the column says so.
    Compression,
    /// `WITH (…)`, options of a column, of a foreign table.
    Options,
    /// `unlogged`
    Persistence,
    /// `PARTITION BY`
    PartitionKey,
    /// Parent and bound of a partition.
    PartitionOf,
    /// Parents by `INHERITS`.
    Inherits,
    /// What identifies a row in the stream, if not the primary key.
    ReplicaIdentity,
    /// `ENABLE ROW LEVEL SECURITY`
    RowSecurity,
    /// `FORCE ROW LEVEL SECURITY`
    ForcedRowSecurity,
    /// Another one than `heap`.
    AccessMethod,
    /// Whether a trigger or rule fires, if not as usual.
    Enabled,
    /// `invalid`, of an index.
    Valid,
    /// `CLUSTER ON`, of an index.
    Clustered,
    /// Labels of an enum, in order.
    Labels,
    /// Schema of an extension.
    InSchema,
    /// Version of an extension.
    Version,
    /// First value of a sequence.
    Start,
    /// Its step.
    Increment,
    /// Its least value.
    Minimum,
    /// Its greatest value.
    Maximum,
    /// Whether it begins again.
    Cycle,
    /// How many values a session takes at once.
    Cache,
    /// The column it goes with.
    OwnedBy,
    /// Names, modes and defaults of a function's arguments.
    Arguments,
    /// What a function returns.
    Result,
    /// Its language.
    Language,
    /// Its body; a digest, for it is long.
    Body,
    /// Volatility, strictness, cost and the like.
    Attributes,
    /// `SET … TO …`
    Settings,
    /// Server of a foreign table.
    Server,
    /// The owner.
    Owner,
    /// The comment.
    Comment,
}

/// Aspect, its column in the catalog queries, its noun, and what it is called where it has no value.
const ASPECTS: [(Aspect, &str, &str, &str); 41] = [
    (Aspect::Definition, "definition", "definition", "none"),
    (Aspect::Type, "type", "type", "none"),
    (Aspect::Collation, "collation", "collation", "its type's"),
    (Aspect::Generated, "generated", "generation", "none"),
    (Aspect::Default, "default", "default", "none"),
    (Aspect::NotNull, "not_null", "nullability", "NULL"),
    (Aspect::Identity, "identity", "identity", "none"),
    (Aspect::StatisticsTarget, "statistics_target", "statistics target", "the default"),
    (Aspect::Storage, "storage", "storage", "its type's"),
    (Aspect::Compression, "compression", "compression", "the default"),
    (Aspect::Options, "options", "options", "none"),
    (Aspect::Persistence, "persistence", "persistence", "logged"),
    (Aspect::PartitionKey, "partition_key", "partition key", "none"),
    (Aspect::PartitionOf, "partition_of", "place as a partition", "none"),
    (Aspect::Inherits, "inherits", "parent", "none"),
    (Aspect::ReplicaIdentity, "replica_identity", "replica identity", "DEFAULT"),
    (Aspect::RowSecurity, "row_security", "row level security", "disabled"),
    (Aspect::ForcedRowSecurity, "forced_row_security", "row level security for its owner", "not forced"),
    (Aspect::AccessMethod, "access_method", "access method", "heap"),
    (Aspect::Enabled, "enabled", "state", "enabled"),
    (Aspect::Valid, "valid", "state", "valid"),
    (Aspect::Clustered, "clustered", "use by CLUSTER", "none"),
    (Aspect::Labels, "labels", "list of labels", "empty"),
    (Aspect::InSchema, "in_schema", "schema", "none"),
    (Aspect::Version, "version", "version", "none"),
    (Aspect::Start, "start", "start", "none"),
    (Aspect::Increment, "increment", "increment", "none"),
    (Aspect::Minimum, "minimum", "minimum", "none"),
    (Aspect::Maximum, "maximum", "maximum", "none"),
    (Aspect::Cycle, "cycle", "end", "NO CYCLE"),
    (Aspect::Cache, "cache", "cache", "none"),
    (Aspect::OwnedBy, "owned_by", "owning column", "NONE"),
    (Aspect::Arguments, "arguments", "list of arguments", "empty"),
    (Aspect::Result, "result", "result", "none"),
    (Aspect::Language, "language", "language", "none"),
    (Aspect::Body, "body", "body", "none"),
    (Aspect::Attributes, "attributes", "list of attributes", "empty"),
    (Aspect::Settings, "settings", "list of settings", "empty"),
    (Aspect::Server, "server", "server", "none"),
    (Aspect::Owner, "owner", "owner", "none"),
    (Aspect::Comment, "comment", "comment", "none"),
];

impl Aspect {
    /// The aspect that a column of the catalog queries holds.
    pub(super) fn from_column(column: &str) -> Option<Self> {
        ASPECTS.iter().find(|(_, name, ..)| *name == column).map(|(aspect, ..)| *aspect)
    }

    /// What it is called in a sentence.
    pub(super) fn noun(self) -> &'static str {
        self.words().0
    }

    /// What it is where it has no value.
    pub(super) fn by_default(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        let found = ASPECTS.iter().find(|(aspect, ..)| *aspect == self);
        found.map_or(("definition", "none"), |(_, _, noun, by_default)| (noun, by_default))
    }

    /// Whether the statement that creates an object does not give it to it.
    pub(super) const fn is_put_on(self, kind: ObjectKind) -> bool {
        match self {
            Self::Owner
            | Self::Comment
            | Self::Enabled
            | Self::Clustered
            | Self::StatisticsTarget
            | Self::Storage
            | Self::Compression
            | Self::OwnedBy => true,
            Self::Options => matches!(kind, ObjectKind::Column),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_aspect_has_a_column_and_words() {
        for (aspect, column, noun, by_default) in ASPECTS {
            assert_eq!(Aspect::from_column(column), Some(aspect));
            assert_eq!((aspect.noun(), aspect.by_default()), (noun, by_default));
        }
        assert!(ASPECTS.is_sorted_by_key(|(aspect, ..)| *aspect));
    }
}
