use super::*;

fn labels(text: &str) -> Vec<String> {
    text.split(' ').filter(|label| !label.is_empty()).map(String::from).collect()
}

#[test]
fn labels_are_added_where_the_source_has_them_and_renamed_ones_renamed() {
    for (source, target, expected) in [
        ("a b", "a b", vec![]),
        ("a b c", "a b", vec!["ALTER TYPE x ADD VALUE 'c' AFTER 'b';"]),
        ("z a", "a", vec!["ALTER TYPE x ADD VALUE 'z' BEFORE 'a';"]),
        (
            "a n m b",
            "a b",
            vec!["ALTER TYPE x ADD VALUE 'n' AFTER 'a';", "ALTER TYPE x ADD VALUE 'm' AFTER 'n';"],
        ),
        (
            "z y a",
            "a",
            vec!["ALTER TYPE x ADD VALUE 'z' BEFORE 'a';", "ALTER TYPE x ADD VALUE 'y' AFTER 'z';"],
        ),
        ("a new", "a old", vec!["ALTER TYPE x RENAME VALUE 'old' TO 'new';"]),
        ("a'b", "", vec!["ALTER TYPE x ADD VALUE 'a''b';"]),
        // The same labels in another order: nothing that a row could notice.
        ("b a", "a b", vec![]),
    ] {
        assert_eq!(enum_statements("x", &labels(source), &labels(target)), expected, "{source} / {target}");
    }
}

fn told(changes: &[Change]) -> ShapeDifference {
    let name = TableName::new("public", "orders");
    Told { source: &name, target: &name, name_is_taken: false, definition: None }.tell(changes)
}

#[test]
fn without_the_sources_catalog_the_streams_word_is_what_there_is() {
    let added = Change::Added { column: "note".into(), type_name: "text".into() };
    let said = told(&[added]);
    assert_eq!(
        said.to_string(),
        "table \"public\".\"orders\" differs between source and target: column \"note\" does not exist on the target"
    );
    assert!(said.remedy.starts_with("ALTER TABLE \"public\".\"orders\" ADD COLUMN \"note\" text;\n--"));
    assert!(told(&[Change::NoTable]).remedy.contains("pg_dump --schema-only"));
}

#[test]
fn columns_that_exchange_their_names_pass_through_names_that_nobody_has() {
    let rename = |from: &str, to: &str| Change::Renamed { from: from.into(), to: to.into() };
    let statements = told(&[rename("a", "b"), rename("b", "a")]).remedy;
    assert_eq!(statements.lines().count(), 4);
    assert!(statements.contains("RENAME COLUMN \"a\" TO \"pgsluice_renamed_0\""), "{statements}");
    assert_eq!(told(&[rename("a", "b")]).remedy.lines().count(), 1);
}

#[test]
fn a_partition_is_created_with_its_exact_bounds() {
    let (parent, name) = (TableName::new("public", "orders"), TableName::new("public", "orders 2027"));
    let definition = TableDefinition {
        partition_of: Some((parent, "FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')".into())),
        ..TableDefinition::default()
    };
    let told = Told { source: &name, target: &name, name_is_taken: false, definition: Some(&definition) };
    assert_eq!(
        told.tell(&[Change::NoTable]).remedy,
        "CREATE TABLE \"public\".\"orders 2027\" PARTITION OF \"public\".\"orders\" FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');"
    );
}
