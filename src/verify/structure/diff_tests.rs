//! Every structure is like itself, and one thing changed is one thing told.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn key(kind: ObjectKind, place: Option<&str>, name: &str) -> ObjectKey {
    ObjectKey { kind, place: place.map(Arc::from), name: name.into() }
}

fn facts(values: &[(Aspect, &str)]) -> Facts {
    let mut values: Vec<(Aspect, Box<str>)> =
        values.iter().map(|(aspect, text)| (*aspect, (*text).into())).collect();
    values.sort_by_key(|(aspect, _)| *aspect);
    Facts { values: values.into(), ..Facts::default() }
}

fn grants(texts: &[&str]) -> Box<[Grant]> {
    texts.iter().map(|text| Grant::parse(text).expect("a grant")).collect()
}

fn empty() -> Catalog {
    Catalog {
        major: 17,
        database: "shop".to_owned(),
        role: "postgres".to_owned(),
        bootstrap_role: "postgres".to_owned(),
        roles: ["postgres", "owner", "reader", "pg_database_owner"].map(str::to_owned).into(),
        ..Catalog::default()
    }
}

/// A schema with a table that has something of every kind, and what the tests below change.
fn one_table() -> Catalog {
    let mut catalog = empty();
    let table = r#""s"."t""#;
    let mut put = |key: ObjectKey, facts: Facts| {
        catalog.objects.insert(key, facts);
    };
    put(key(ObjectKind::Schema, None, "\"s\""), facts(&[(Aspect::Owner, "owner")]));
    let mut relation = facts(&[(Aspect::Owner, "owner")]);
    relation.grants = grants(&["o-SELECT ", "r-SELECT reader"]);
    put(key(ObjectKind::Table, None, table), relation);
    put(
        key(ObjectKind::Column, Some(table), "\"c\""),
        facts(&[(Aspect::Type, "integer"), (Aspect::NotNull, "NOT NULL")]),
    );
    put(key(ObjectKind::Constraint, Some(table), "\"k\""), facts(&[(Aspect::Definition, "CHECK (c > 0)")]));
    let mut index = facts(&[(Aspect::Definition, r#"CREATE INDEX "i" ON ONLY "s"."t" USING btree (c)"#)]);
    index.more = Some(Box::new(More { table: Some(table.into()), ..More::default() }));
    put(key(ObjectKind::Index, None, r#""s"."i""#), index);
    catalog
}

fn told(source: &Catalog, target: &Catalog) -> Vec<(Severity, ObjectKind, String)> {
    diff(source, target).into_iter().map(|each| (each.severity, each.kind, each.object)).collect()
}

fn change(catalog: &Catalog, key: &ObjectKey, change: impl FnOnce(&mut Facts)) -> Catalog {
    let mut catalog = catalog.clone();
    change(catalog.objects.get_mut(key).expect("it is there"));
    catalog
}

#[test]
fn parts_of_what_is_missing_are_told_with_it() {
    let (source, mut target) = (one_table(), one_table());
    target.objects.retain(|key, _| key.kind == ObjectKind::Schema);
    let table = (Severity::Difference, ObjectKind::Table, r#""s"."t""#.to_owned());
    assert_eq!(told(&source, &target), [table]);
    target.objects.clear();
    let schema = (Severity::Difference, ObjectKind::Schema, r#""s""#.to_owned());
    assert_eq!(told(&source, &target), [schema]);
    let only_there = (Severity::Note, ObjectKind::Schema, r#""s""#.to_owned());
    assert_eq!(told(&target, &source), [only_there]);
}

#[test]
fn what_only_the_target_has_matters_if_it_acts_on_rows() {
    let source = one_table();
    let severity = |kind, place: Option<&str>, definition| {
        let mut target = source.clone();
        target.objects.insert(key(kind, place, r#""s"."x""#), facts(&[(Aspect::Definition, definition)]));
        let told = told(&source, &target);
        assert_eq!(told.len(), 1, "{told:?}");
        told[0].0
    };
    let table = Some(r#""s"."t""#);
    assert_eq!(severity(ObjectKind::Trigger, table, "CREATE TRIGGER …"), Severity::Difference);
    assert_eq!(severity(ObjectKind::Constraint, table, "CHECK (c > 1)"), Severity::Difference);
    assert_eq!(severity(ObjectKind::Index, None, "CREATE UNIQUE INDEX …"), Severity::Difference);
    assert_eq!(severity(ObjectKind::Index, None, "CREATE INDEX …"), Severity::Note);
    assert_eq!(severity(ObjectKind::View, None, "SELECT 1"), Severity::Note);
}

#[test]
fn an_index_of_a_partitioned_table_is_made_with_those_of_its_partitions() {
    let (source, mut target) = (one_table(), one_table());
    target.objects.remove(&key(ObjectKind::Index, None, r#""s"."i""#));
    let differences = diff(&source, &target);
    assert_eq!(differences[0].fix.as_deref(), Some(r#"CREATE INDEX "i" ON "s"."t" USING btree (c);"#));
    // pg_dump does not copy what a failed build has left behind.
    let source = change(&source, &key(ObjectKind::Index, None, r#""s"."i""#), |index| {
        index.values = [index.values.to_vec(), vec![(Aspect::Valid, "invalid".into())]].concat().into();
    });
    assert_eq!(told(&source, &target), []);
}

#[test]
fn a_missing_role_is_told_once_and_its_objects_are_not() {
    let (source, mut target) = (one_table(), one_table());
    target.roles = BTreeSet::from(["postgres".to_owned(), "app".to_owned()]);
    for facts in target.objects.values_mut().filter(|facts| facts.get(Aspect::Owner).is_some()) {
        facts.values = Box::new([(Aspect::Owner, "app".into())]);
        facts.grants = facts.grants.iter().filter(|grant| grant.grantee == Grantee::Owner).cloned().collect();
    }
    let role = |name: &str| (Severity::Difference, ObjectKind::Role, format!("\"{name}\""));
    assert_eq!(told(&source, &target), [role("owner"), role("reader")]);
    let what = &diff(&source, &target)[0];
    assert!(what.what.contains("2 objects of the source belong to it."), "{}", what.what);
    assert_eq!(what.fix.as_deref(), Some("CREATE ROLE \"owner\";"));
}

#[test]
fn what_only_the_versions_make_different_is_no_difference() {
    let (mut source, mut target) = (one_table(), one_table());
    (source.major, target.major) = (14, 17);
    let public = key(ObjectKind::Schema, None, "\"public\"");
    let table = key(ObjectKind::Table, None, r#""s"."t""#);
    let of = |owner, list: &[&str]| Facts { grants: grants(list), ..facts(&[(Aspect::Owner, owner)]) };
    source
        .objects
        .insert(public.clone(), of("postgres", &["o-USAGE ", "o-CREATE ", "p-USAGE ", "p-CREATE "]));
    target.objects.insert(public.clone(), of("pg_database_owner", &["o-USAGE ", "o-CREATE ", "p-USAGE "]));
    let target = change(&target, &table, |table| {
        table.grants = grants(&["o-SELECT ", "o-MAINTAIN ", "r-SELECT reader", "r-MAINTAIN reader"]);
    });
    // Worth a word, for an application may rely on it.
    assert_eq!(told(&source, &target), [(Severity::Note, ObjectKind::Schema, "\"public\"".to_owned())]);
    source.objects.remove(&public);
    let mut source =
        change(&source, &table, |table| table.grants = grants(&["o-SELECT ", "r-SELECT reader"]));
    source.objects.insert(public, of("postgres", &["o-USAGE ", "o-CREATE ", "p-USAGE "]));
    assert_eq!(told(&source, &target), []);
}

#[test]
fn what_a_partition_has_of_its_parent_is_told_of_its_parent() {
    let mut source = empty();
    let (parent, child) = (r#""s"."p""#, r#""s"."c""#);
    source.objects.insert(key(ObjectKind::Table, None, parent), facts(&[(Aspect::PartitionKey, "LIST (a)")]));
    let place = r#""s"."p" FOR VALUES IN (1)"#;
    source.objects.insert(key(ObjectKind::Table, None, child), facts(&[(Aspect::PartitionOf, place)]));
    for table in [parent, child] {
        let mut column = facts(&[(Aspect::Type, "integer"), (Aspect::Default, "1")]);
        column.is_derived = table == child;
        source.objects.insert(key(ObjectKind::Column, Some(table), "\"a\""), column);
    }
    let column = |table| key(ObjectKind::Column, Some(table), "\"a\"");
    let other = |facts: &mut Facts| facts.values[1].1 = "2".into();
    let both = change(&change(&source, &column(parent), other), &column(child), other);
    let told_of = |table: &str| vec![(Severity::Difference, ObjectKind::Column, format!("{table}.\"a\""))];
    assert_eq!(told(&source, &both), told_of(parent));
    assert_eq!(told(&source, &change(&source, &column(child), other)), told_of(child));
}

/// Some tables with columns, constraints and indexes, functions and grants.
fn catalogs() -> impl Strategy<Value = Catalog> {
    let column = (0..3usize, any::<bool>(), any::<bool>());
    let table = (
        prop::collection::vec(column, 0..4),
        0..3usize,
        0..3usize,
        any::<bool>(),
        prop::collection::btree_set(0..4usize, 0..3),
    );
    (prop::collection::vec(table, 1..5), 0..3usize).prop_map(|(tables, functions)| {
        let mut catalog = empty();
        catalog.objects.insert(key(ObjectKind::Schema, None, "\"s\""), facts(&[(Aspect::Owner, "owner")]));
        for (number, (columns, constraints, indexes, has_comment, granted)) in tables.into_iter().enumerate()
        {
            let name = format!("\"s\".\"t{number}\"");
            let mut values = vec![(Aspect::Owner, "owner")];
            values.extend(has_comment.then_some((Aspect::Comment, "it's a table")));
            let mut table = facts(&values);
            table.grants = granted
                .into_iter()
                .map(|each| ["o-SELECT ", "p-SELECT ", "r-SELECT reader", "r+INSERT reader"][each])
                .filter_map(Grant::parse)
                .collect();
            catalog.objects.insert(key(ObjectKind::Table, None, &name), table);
            for (number, (kind, not_null, has_default)) in columns.into_iter().enumerate() {
                let mut values = vec![(Aspect::Type, ["integer", "text", "numeric(5,2)"][kind])];
                values.extend(not_null.then_some((Aspect::NotNull, "NOT NULL")));
                values.extend(has_default.then_some((Aspect::Default, "NULL")));
                let column = key(ObjectKind::Column, Some(&name), &format!("\"c{number}\""));
                catalog.objects.insert(column, facts(&values));
            }
            for number in 0..constraints {
                let check = key(ObjectKind::Constraint, Some(&name), &format!("\"k{number}\""));
                catalog.objects.insert(check, facts(&[(Aspect::Definition, "CHECK (true)")]));
            }
            for number in 0..indexes {
                let mut index = facts(&[(Aspect::Definition, "CREATE UNIQUE INDEX …")]);
                index.more = Some(Box::new(More { table: Some(name.as_str().into()), ..More::default() }));
                let own = format!("{}_i{number}\"", name.trim_end_matches('"'));
                catalog.objects.insert(key(ObjectKind::Index, None, &own), index);
            }
        }
        for number in 0..functions {
            let function = key(ObjectKind::Function, None, &format!("\"s\".\"f{number}\"()"));
            catalog
                .objects
                .insert(function, facts(&[(Aspect::Body, "digest"), (Aspect::Language, "\"sql\"")]));
        }
        catalog
    })
}

proptest! {
    #[test]
    fn a_structure_is_like_itself(catalog in catalogs()) {
        prop_assert_eq!(diff(&catalog, &catalog), vec![]);
    }

    #[test]
    fn what_is_missing_on_one_side_is_told_once_and_with_a_severity(catalog in catalogs(), which: Index) {
        let mut other = catalog.clone();
        let gone = catalog.objects.keys().nth(which.index(catalog.objects.len())).expect("one").clone();
        other.objects.retain(|key, facts| {
            let belongs_to = key.place.as_deref().or_else(|| facts.table());
            let is_inside = gone.kind == ObjectKind::Schema || belongs_to == Some(&*gone.name);
            *key != gone && !(gone.place.is_none() && is_inside)
        });
        let missing = told(&catalog, &other);
        prop_assert_eq!(&missing, &[(Severity::Difference, gone.kind, gone.to_string())]);
        let surplus = told(&other, &catalog);
        prop_assert_eq!(surplus.len(), 1);
        prop_assert_eq!(&surplus[0].2, &gone.to_string());
    }

    #[test]
    fn one_changed_aspect_is_told_of_its_object(catalog in catalogs(), which: Index, aspect: Index, gone: bool) {
        let changed = catalog.objects.keys().nth(which.index(catalog.objects.len())).expect("one").clone();
        let other = change(&catalog, &changed, |facts| {
            let mut values = facts.values.to_vec();
            let at = aspect.index(values.len());
            match values[at].0 {
                Aspect::Owner => values[at].1 = "reader".into(),
                aspect if gone && aspect != Aspect::Type => drop(values.remove(at)),
                _ => values[at].1 = "another".into(),
            }
            facts.values = values.into();
        });
        let expected = [(Severity::Difference, changed.kind, changed.to_string())];
        prop_assert_eq!(told(&catalog, &other), expected);
    }
}
