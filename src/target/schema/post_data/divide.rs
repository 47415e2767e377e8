//! Which objects of the dump are indexes that can be built by table. Pure. In doubt an object stays with the rest, where it
//! is built as it always was: what is divided wrongly could be missing, what is left is only later.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::dump::{Entry, readings};
use super::indexes::{IndexNeeds, IndexOwner, SourceIndex};
use super::{IndexBuild, IndexRole, TableIndexes};
use crate::model::TableName;

/// Kinds of objects that no index can be made with. After one of another kind (a function that was moved behind the
/// primary key it relies on) what needs definitions waits for them.
const USED_BY_NO_INDEX: [&str; 14] = [
    "INDEX",
    "INDEX ATTACH",
    "CONSTRAINT",
    "FK CONSTRAINT",
    "CHECK CONSTRAINT",
    "TRIGGER",
    "EVENT TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "COMMENT",
    "STATISTICS",
    "MATERIALIZED VIEW DATA",
    "SECURITY LABEL",
];

/// What is built by table, and the rest in the dump's order.
pub(super) fn divide(
    entries: Vec<Entry>,
    indexes: &[SourceIndex],
) -> (BTreeMap<TableName, TableIndexes>, Vec<Entry>) {
    let known = Known::of(indexes);
    let mut by_table = BTreeMap::<TableName, TableIndexes>::new();
    let mut rest = Vec::new();
    let mut available = IndexNeeds::Definitions;
    for entry in entries {
        if !USED_BY_NO_INDEX.contains(&entry.kind.as_str()) {
            available = IndexNeeds::Nothing;
        }
        let build = known.index_of(&entry).filter(|index| {
            index.of == IndexOwner::Rows
                && (index.needs, available) != (IndexNeeds::Definitions, IndexNeeds::Nothing)
        });
        let Some(build) = build.and_then(|index| build_of(index, &entry)) else {
            rest.push(entry);
            continue;
        };
        if !by_table.entry(build.table.clone()).or_default().take(build) {
            rest.push(entry);
        }
    }
    by_table.values_mut().for_each(TableIndexes::sort);
    (by_table, rest)
}

fn build_of(index: &SourceIndex, entry: &Entry) -> Option<IndexBuild> {
    let (title, sql) = entry.alone()?;
    Some(IndexBuild {
        table: index.table.clone(),
        index: TableName::new(index.table.schema.clone(), index.name.clone()),
        role: index.role,
        bytes_on_source: index.bytes,
        sql: sql.to_owned(),
        title: title.to_owned(),
        position: entry.position,
    })
}

impl TableIndexes {
    /// Whether there was a place for it: a table has one primary key.
    fn take(&mut self, build: IndexBuild) -> bool {
        let place = match build.role {
            IndexRole::PrimaryKey => &mut self.primary_key,
            IndexRole::ReplicaIdentity => &mut self.replica_identity,
            IndexRole::Other => {
                self.others.push(build);
                return true;
            }
        };
        let is_free = place.is_none();
        if is_free {
            *place = Some(build);
        }
        is_free
    }

    fn sort(&mut self) {
        self.others.sort_by_key(|build| (Reverse(build.bytes_on_source), build.position));
    }
}

/// Kind, schema and name as a title says them.
type Titled = (&'static str, String, String);

/// The indexes by their titles. Two with the same title (names that differ in a line end) are told apart by nobody.
struct Known<'a>(HashMap<Titled, Option<&'a SourceIndex>>);

impl<'a> Known<'a> {
    fn of(indexes: &'a [SourceIndex]) -> Self {
        let mut known = HashMap::with_capacity(indexes.len());
        for index in indexes {
            let key = title_of(index);
            known.entry(key).and_modify(|found| *found = None).or_insert(Some(index));
        }
        Self(known)
    }

    /// The one index that the entry's title can mean.
    fn index_of(&self, entry: &Entry) -> Option<&'a SourceIndex> {
        let kind = ["INDEX", "CONSTRAINT"].into_iter().find(|kind| *kind == entry.kind)?;
        let (title, _) = entry.alone()?;
        let mut found = readings(title)
            .filter(|reading| reading.kind == kind)
            .filter_map(|reading| self.0.get(&(kind, reading.schema.to_owned(), reading.name.to_owned())));
        match (found.next(), found.next()) {
            (Some(index), None) => *index,
            _ => None,
        }
    }
}

fn title_of(index: &SourceIndex) -> Titled {
    let (kind, name) = match &index.constraint {
        Some(constraint) => ("CONSTRAINT", format!("{} {constraint}", index.table.name)),
        None => ("INDEX", index.name.clone()),
    };
    (kind, one_line(&index.table.schema), one_line(&name))
}

/// As `pg_dump` writes a name into a comment.
fn one_line(name: &str) -> String {
    name.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::dump::PostData;
    use super::*;

    fn index(table: &str, name: &str) -> SourceIndex {
        SourceIndex {
            table: TableName::new("public", table),
            name: name.to_owned(),
            constraint: None,
            of: IndexOwner::Rows,
            role: IndexRole::Other,
            bytes: 10,
            needs: IndexNeeds::Nothing,
        }
    }

    fn constraint(table: &str, name: &str, role: IndexRole) -> SourceIndex {
        SourceIndex { constraint: Some(name.to_owned()), role, ..index(table, name) }
    }

    fn object(name: &str, kind: &str) -> String {
        format!("--\n-- Name: {name}; Type: {kind}; Schema: public; Owner: -\n--\n\nSELECT '{name}';\n\n\n")
    }

    fn entries(objects: &[(&str, &str)]) -> Vec<Entry> {
        let dump: String = objects.iter().map(|(name, kind)| object(name, kind)).collect();
        PostData::parse(&dump).entries
    }

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn indexes_of_tables_with_rows_go_to_their_tables_and_everything_else_stays_in_order() {
        let dump = entries(&[
            ("t t_pkey", "CONSTRAINT"),
            ("small", "INDEX"),
            ("parent_key", "INDEX"),
            ("t t_check", "CHECK CONSTRAINT"),
            ("large", "INDEX"),
            ("parent_key", "INDEX ATTACH"),
            ("identity", "INDEX"),
            ("nobody_knows", "INDEX"),
            ("INDEX small", "COMMENT"),
            ("t t_fkey", "FK CONSTRAINT"),
        ]);
        let known = [
            constraint("t", "t_pkey", IndexRole::PrimaryKey),
            index("t", "small"),
            SourceIndex { bytes: 99, ..index("t", "large") },
            SourceIndex { role: IndexRole::ReplicaIdentity, ..index("t", "identity") },
            SourceIndex { of: IndexOwner::Other, ..index("parent", "parent_key") },
        ];
        let (by_table, rest) = divide(dump, &known);
        let of_t = &by_table[&TableName::new("public", "t")];
        let name = |build: &IndexBuild| build.index.name.clone();
        assert_eq!(of_t.primary_key.as_ref().map(name).as_deref(), Some("t_pkey"));
        assert_eq!(of_t.primary_key.as_ref().map(|build| build.sql.as_str()), Some("SELECT 't t_pkey';"));
        assert_eq!(of_t.replica_identity.as_ref().map(name).as_deref(), Some("identity"));
        assert_eq!(of_t.others.iter().map(name).collect::<Vec<_>>(), ["large", "small"]);
        assert_eq!(by_table.len(), 1);
        let left = ["parent_key", "t t_check", "parent_key", "nobody_knows", "INDEX small", "t t_fkey"];
        assert_eq!(names(&rest), left);
    }

    #[test]
    fn a_title_that_can_mean_two_indexes_is_left_with_the_rest() {
        let dump =
            entries(&[("a b c", "CONSTRAINT"), ("x y", "INDEX"), ("x y", "INDEX"), ("odd; name", "INDEX")]);
        let known = [
            constraint("a", "b c", IndexRole::Other),
            constraint("a b", "c", IndexRole::Other),
            index("t", "x\ny"),
            index("t", "x y"),
            index("t", "odd; name"),
        ];
        let (by_table, rest) = divide(dump, &known);
        assert_eq!(names(&rest), ["a b c", "x y", "x y"]);
        assert_eq!(by_table[&TableName::new("public", "t")].others.len(), 1);
    }

    #[test]
    fn an_index_that_needs_definitions_waits_where_some_are_made_in_the_post_data() {
        let needy = |name| SourceIndex { needs: IndexNeeds::Definitions, ..index("t", name) };
        let dump = entries(&[
            ("before", "INDEX"),
            ("total(integer)", "FUNCTION"),
            ("plain", "INDEX"),
            ("after", "INDEX"),
        ]);
        let (by_table, rest) = divide(dump, &[needy("before"), index("t", "plain"), needy("after")]);
        let built: Vec<_> =
            by_table[&TableName::new("public", "t")].others.iter().map(|b| &b.index.name).collect();
        assert_eq!(built, ["before", "plain"]);
        assert_eq!(names(&rest), ["total(integer)", "after"]);
    }

    #[test]
    fn ten_thousand_indexes_are_divided_in_a_moment() {
        let known: Vec<_> = (0..5_000)
            .flat_map(|number| {
                let table = format!("table_{number}");
                [
                    constraint(&table, &format!("{table}_pkey"), IndexRole::PrimaryKey),
                    index(&table, &format!("{table}_at")),
                ]
            })
            .collect();
        let dump: String = known
            .iter()
            .map(|index| {
                let (kind, _, name) = title_of(index);
                object(&name, kind)
            })
            .collect();
        let started = Instant::now();
        let (by_table, rest) = divide(PostData::parse(&dump).entries, &known);
        // Far above what it takes, so that a busy machine fails nobody; a quadratic step would be noticed.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!((by_table.len(), rest.len()), (5_000, 0));
    }
}
