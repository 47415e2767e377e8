use pgsluice_proto::pgoutput::{OldTuple, RelationColumn, Tuple, TupleValue};

use super::*;
use crate::stream::assemble::RowChange;
use crate::target::ArrayForm;

fn table(identity: ReplicaIdentity, key: &[&str], primary_key: &[&str]) -> BoundTable {
    let names = ["id", "name", "price"];
    let relation = Relation {
        id: Oid(7),
        schema: "public".into(),
        name: "items".into(),
        replica_identity: identity,
        columns: names
            .iter()
            .map(|name| RelationColumn {
                key: key.contains(name),
                name: (*name).into(),
                type_oid: Oid(25),
                type_modifier: -1,
            })
            .collect(),
    };
    let column = |name: &str, base: &str, number| TargetColumn {
        name: name.into(),
        cast: base.into(),
        equality: "=".into(),
        type_oid: 0,
        array: ArrayForm::OfType { delimiter: b',' },
        base_type: base.into(),
        type_modifier: -1,
        is_domain: false,
        generated: false,
        identity: ColumnIdentity::None,
        number,
        fills_itself: true,
    };
    let columns = vec![column("id", "int4", 1), column("name", "text", 2), column("price", "float8", 3)];
    let target = TargetTable {
        oid: 1,
        name: TableName::new("public", "items"),
        kind: TableKind::Ordinary,
        primary_key: primary_key.iter().map(|name| (*name).into()).collect(),
        unique: vec![vec![1]],
        columns: columns.clone(),
    };
    BoundTable::new(relation, target, columns)
}

const UNCHANGED: TupleValue<'static> = TupleValue::UnchangedToast;

fn text(value: &'static str) -> TupleValue<'static> {
    TupleValue::Text(value.as_bytes())
}

fn row(values: [TupleValue<'_>; 3]) -> Tuple {
    Tuple::new(values).expect("a row")
}

fn bound(value: &'static str) -> BindValue<'static> {
    BindValue::Text(value.as_bytes())
}

fn values(change: &BoundChange) -> Vec<BindValue<'_>> {
    change.values.iter().collect()
}

#[test]
fn an_unchanged_toasted_value_stays_out_of_the_update() {
    let table = table(ReplicaIdentity::Default, &["id"], &["id"]);
    let new = row([text("1"), UNCHANGED, text("2.5")]);
    let change = table.bind(&RowChange::Update { old: None, new }).expect("it binds");
    assert_eq!(
        table.sql(&change.key),
        r#"UPDATE ONLY "public"."items" SET "id" = $1, "price" = $2 WHERE "id" = $3::int4"#
    );
    assert_eq!(values(&change), [bound("1"), bound("2.5"), bound("1")]);
}

#[test]
fn a_changed_key_finds_the_row_by_its_old_value_and_keeps_the_toasted_one() {
    let table = table(ReplicaIdentity::Default, &["id"], &["id"]);
    let old = Some(OldTuple::Key(row([text("1"), TupleValue::Null, TupleValue::Null])));
    let new = row([text("9"), UNCHANGED, TupleValue::Null]);
    let change = table.bind(&RowChange::Update { old, new }).expect("it binds");
    assert_eq!(values(&change), [bound("9"), BindValue::Null, bound("1")]);
}

#[test]
fn a_table_without_a_key_changes_one_of_its_equal_rows() {
    let table = table(ReplicaIdentity::Full, &["id", "name", "price"], &[]);
    let old = OldTuple::Full(row([text("1"), TupleValue::Null, text("2")]));
    let change = table.bind(&RowChange::Delete { old }).expect("it binds");
    assert_eq!(
        table.sql(&change.key),
        "DELETE FROM ONLY \"public\".\"items\" WHERE (ctid) = (SELECT ctid FROM ONLY \"public\".\"items\" \
         WHERE ROW(\"id\", \"name\")::record OPERATOR(pg_catalog.*=) ROW($1::int4, $2::text)::record AND \
         ROW(\"price\")::text = ROW($3::float8)::text LIMIT 1)"
    );
    assert_eq!(values(&change), [bound("1"), BindValue::Null, bound("2")]);
}

#[test]
fn identity_full_uses_the_targets_primary_key_where_there_is_one() {
    let table = table(ReplicaIdentity::Full, &["id", "name", "price"], &["id"]);
    let old = OldTuple::Full(row([text("1"), TupleValue::Null, text("2")]));
    let change = table.bind(&RowChange::Delete { old }).expect("it binds");
    assert_eq!(table.sql(&change.key), r#"DELETE FROM ONLY "public"."items" WHERE "id" = $1::int4"#);
}

#[test]
fn a_row_that_does_not_fit_its_shape_or_lacks_its_key_is_refused() {
    let table = table(ReplicaIdentity::Default, &["id"], &["id"]);
    let narrow = Tuple::new([text("1")]).expect("a row");
    assert!(matches!(table.bind(&RowChange::Insert { new: narrow }), Err(BindError::WrongWidth { .. })));
    let keyless = OldTuple::Key(row([TupleValue::Null, TupleValue::Null, TupleValue::Null]));
    assert!(matches!(table.bind(&RowChange::Delete { old: keyless }), Err(BindError::MissingValue { .. })));
    let unsent = row([text("1"), UNCHANGED, text("2")]);
    assert!(matches!(table.bind(&RowChange::Insert { new: unsent }), Err(BindError::MissingValue { .. })));
}

fn with_identity_always(table: BoundTable, name: &str) -> BoundTable {
    let BoundTable { relation, target, mut columns, .. } = table;
    for column in columns.iter_mut().filter(|column| column.name == name) {
        column.identity = ColumnIdentity::Always;
    }
    BoundTable::new(relation, target, columns)
}

#[test]
fn a_value_of_a_generated_always_identity_is_inserted_and_never_named_by_an_update() {
    let table = with_identity_always(table(ReplicaIdentity::Default, &["id"], &["id"]), "id");
    let new = row([text("1"), UNCHANGED, text("2")]);
    let insert =
        table.bind(&RowChange::Insert { new: row([text("1"), text("a"), text("2")]) }).expect("it binds");
    assert!(table.sql(&insert.key).contains("OVERRIDING SYSTEM VALUE"));
    let update = table.bind(&RowChange::Update { old: None, new: new.clone() }).expect("it binds");
    assert!(!table.sql(&update.key).contains("SET \"id\""), "trap 22");
    let old = Some(OldTuple::Key(row([text("7"), TupleValue::Null, TupleValue::Null])));
    let moved = table.bind(&RowChange::Update { old, new }).expect("it binds");
    assert_eq!(
        table.sql(&moved.key),
        "WITH gone AS (DELETE FROM ONLY \"public\".\"items\" WHERE \"id\" = $3::int4 RETURNING *) \
         INSERT INTO \"public\".\"items\" (\"id\", \"name\", \"price\") OVERRIDING SYSTEM VALUE \
         SELECT $1::int4, gone.\"name\", $2::float8 FROM gone"
    );
    assert_eq!(values(&moved), [bound("1"), bound("2"), bound("7")]);
}

#[test]
fn an_identity_that_is_no_key_is_written_because_the_source_does_not_say_whether_it_changed() {
    let table = with_identity_always(table(ReplicaIdentity::Default, &["name"], &["name"]), "id");
    let new = row([text("1"), text("a"), text("2")]);
    let update = table.bind(&RowChange::Update { old: None, new }).expect("it binds");
    assert!(table.sql(&update.key).starts_with("WITH gone"), "{}", table.sql(&update.key));
}

#[test]
fn rows_of_a_partitioned_table_without_a_key_are_found_by_partition_and_place() {
    let mut table = table(ReplicaIdentity::Full, &["id", "name", "price"], &[]);
    table.target.kind = TableKind::Partitioned;
    let old = OldTuple::Full(row([text("1"), TupleValue::Null, text("2")]));
    let change = table.bind(&RowChange::Delete { old }).expect("it binds");
    assert!(
        table.sql(&change.key).contains("(tableoid, ctid) = (SELECT tableoid, ctid FROM \"public\""),
        "trap 11"
    );
}

#[test]
fn a_key_is_compared_by_its_types_own_equality() {
    let mut table = table(ReplicaIdentity::Default, &["name"], &["name"]);
    for column in table.columns.iter_mut().filter(|column| column.name == "name") {
        column.equality = "OPERATOR(public.=)".into();
    }
    let old = OldTuple::Key(row([TupleValue::Null, text("a"), TupleValue::Null]));
    let change = table.bind(&RowChange::Delete { old }).expect("it binds");
    assert!(table.sql(&change.key).ends_with(r#"WHERE "name" OPERATOR(public.=) $1::text"#));
}
