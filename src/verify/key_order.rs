//! By which columns of its key a table can be cut into ranges: an index finds them, and both sides print and order their values alike.
//! Pure.

use std::collections::BTreeMap;

/// Below, by the statistics, a range of keys is all over the table.
const CORRELATION_MIN: f64 = 0.5;
/// Types whose printed values mean the same, and are ordered alike, on every server; but for collations, which are told. Not among them:
/// names of objects (`regclass`), which stand for other numbers on another server, and `jsonb`, ordered by a collation that it does not tell.
const ORDERED_TYPES: &[&str] = &[
    "bit",
    "bool",
    "bpchar",
    "bytea",
    "cidr",
    "date",
    "float4",
    "float8",
    "inet",
    "int2",
    "int4",
    "int8",
    "interval",
    "macaddr",
    "macaddr8",
    "name",
    "numeric",
    "oid",
    "pg_lsn",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "uuid",
    "varbit",
    "varchar",
    "xid8",
];

/// A column of a key on the source.
#[derive(Clone, Debug, serde::Deserialize)]
pub(super) struct SourceColumn {
    pub(super) name: String,
    /// `typname` of a built-in type.
    type_name: Option<String>,
    /// Whether the key's index has the order of the type and of the column's collation.
    is_indexed: bool,
    /// How its values are ordered, if that is a question of collation.
    pub(super) collation: Option<String>,
    /// How far rows lie in its order, from -1 to 1; `None` without statistics.
    correlation: Option<f64>,
}

/// A column of the target's table that is never NULL.
#[derive(Clone, Debug, serde::Deserialize)]
pub(super) struct TargetColumn {
    type_name: Option<String>,
    collation: Option<String>,
}

/// The first of the key's columns that ranges can be made of. One that the target lets be NULL is not: NULL is in no range.
pub(super) fn ranged<'a>(
    key: &'a [SourceColumn],
    target: &BTreeMap<String, TargetColumn>,
) -> Vec<&'a SourceColumn> {
    let is_alike = |column: &&SourceColumn| {
        let own = order(column.type_name.as_deref());
        let is_ordered_alike = |other: &TargetColumn| {
            order(other.type_name.as_deref()) == own && other.collation == column.collation
        };
        column.is_indexed && own.is_some() && target.get(&column.name).is_some_and(is_ordered_alike)
    };
    key.iter().take_while(is_alike).collect()
}

/// Whether rows of a range lie all over the table, so that each range reads much of it.
pub(super) fn is_scattered(key: &[SourceColumn]) -> bool {
    key.first().is_some_and(|first| match first.correlation {
        Some(correlation) => correlation.abs() < CORRELATION_MIN,
        None => first.type_name.as_deref() == Some("uuid"),
    })
}

/// What types of one order have in common; `None` if the type is not among those that can be ranged by.
fn order(type_name: Option<&str>) -> Option<&str> {
    match type_name? {
        "int2" | "int4" | "int8" => Some("int"),
        "text" | "varchar" => Some("text"),
        other => ORDERED_TYPES.contains(&other).then_some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, type_name: &str, collation: Option<&str>) -> SourceColumn {
        SourceColumn {
            name: name.into(),
            type_name: Some(type_name.into()),
            is_indexed: true,
            collation: collation.map(str::to_owned),
            correlation: None,
        }
    }

    fn names(key: &[SourceColumn], target: &[(&str, &str, Option<&str>)]) -> Vec<String> {
        let column = |(name, type_name, collation): &(&str, &str, Option<&str>)| {
            let column = TargetColumn {
                type_name: Some((*type_name).to_owned()),
                collation: collation.map(str::to_owned),
            };
            ((*name).to_owned(), column)
        };
        ranged(key, &target.iter().map(column).collect()).iter().map(|column| column.name.clone()).collect()
    }

    #[test]
    fn ranges_are_made_of_what_both_sides_order_alike() {
        let key = [source("a", "int4", None), source("b", "text", Some("c:C")), source("c", "uuid", None)];
        let whole = [("a", "int8", None), ("b", "varchar", Some("c:C")), ("c", "uuid", None)];
        assert_eq!(names(&key, &whole), ["a", "b", "c"]);
        let collated = [("a", "int4", None), ("b", "text", Some("i:en")), ("c", "uuid", None)];
        assert_eq!(names(&key, &collated), ["a"]);
        let nullable = [("a", "int4", None), ("c", "uuid", None)];
        assert_eq!(names(&key, &nullable), ["a"], "one that may be NULL on the target");
        let other = [("a", "numeric", None), ("b", "text", Some("c:C")), ("c", "uuid", None)];
        assert_eq!(names(&key, &other), Vec::<String>::new());
        let mut pattern = key.clone();
        pattern[1].is_indexed = false;
        assert_eq!(names(&pattern, &whole), ["a"]);
    }

    #[test]
    fn what_is_ordered_otherwise_on_another_server_makes_no_range() {
        for type_name in ["regclass", "_regclass", "jsonb", "char", "_char", "_text", "record", "xid"] {
            let key = [source("a", type_name, None)];
            assert_eq!(names(&key, &[("a", type_name, None)]), Vec::<String>::new(), "{type_name}");
        }
        let own = SourceColumn { type_name: None, ..source("a", "mood", None) };
        assert_eq!(names(&[own], &[("a", "mood", None)]), Vec::<String>::new());
    }

    #[test]
    fn keys_are_scattered_by_the_statistics_and_random_ones_without() {
        let of = |type_name, correlation| {
            is_scattered(&[SourceColumn { correlation, ..source("a", type_name, None) }])
        };
        assert!(of("int8", Some(0.1)) && of("int8", Some(-0.4)) && of("uuid", None));
        assert!(!of("int8", Some(-0.99)) && !of("uuid", Some(0.9)) && !of("int8", None));
        assert!(!is_scattered(&[]));
    }
}
