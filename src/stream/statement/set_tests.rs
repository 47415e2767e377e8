//! Statements over sets: their texts, and the arrays and COPY data they take.

use bytes::BytesMut;
use pgsluice_proto::pgoutput::RelationColumn;
use tokio_postgres::types::{Kind, ToSql, Type};

use super::set_sql::{RowColumn, SetParameter};
use super::*;
use crate::target::ArrayForm;

const COMMA: ArrayForm = ArrayForm::OfType { delimiter: b',' };

fn column(number: i16, name: &str, cast: &str, array: ArrayForm) -> TargetColumn {
    TargetColumn {
        name: name.into(),
        number,
        cast: cast.into(),
        type_oid: 100 + u32::try_from(number).expect("positive"),
        array,
        equality: "=".into(),
        base_type: cast.into(),
        type_modifier: -1,
        is_domain: false,
        generated: false,
        identity: ColumnIdentity::None,
        fills_itself: true,
    }
}

/// Its key is the columns 2 and 0.
fn table(columns: Vec<TargetColumn>) -> BoundTable {
    let relation = Relation {
        id: Oid(7),
        schema: "public".into(),
        name: "items".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns
            .iter()
            .enumerate()
            .map(|(index, column)| RelationColumn {
                key: index == 0 || index == 2,
                name: column.name.clone(),
                type_oid: Oid(25),
                type_modifier: -1,
            })
            .collect(),
    };
    let target = TargetTable {
        oid: 1,
        name: TableName::new("public", "items"),
        kind: TableKind::Ordinary,
        primary_key: Vec::new(),
        unique: vec![vec![3, 1]],
        columns: columns.clone(),
    };
    BoundTable::new(relation, target, columns)
}

fn usual() -> BoundTable {
    table(vec![
        column(1, "id", "integer", COMMA),
        column(2, "my \"b\"", "box", ArrayForm::OfType { delimiter: b';' }),
        column(3, "k", "text", COMMA),
        column(4, "list", "integer[]", ArrayForm::OfText),
    ])
}

fn sql(table: &BoundTable, key: &StatementKey, form: ValueForm) -> String {
    table.set_statement(key, form).expect("a statement").sql
}

#[test]
fn an_update_of_a_set_writes_no_key_and_finds_each_row_by_it() {
    let table = usual();
    let set = table.set_statement(&table.usual_update(), ValueForm::Text).expect("a statement");
    assert_eq!(
        set.sql,
        "UPDATE ONLY \"public\".\"items\" AS t SET \"my \"\"b\"\"\" = v.c1, \"list\" = v.c2::integer[] FROM (SELECT \
         pg_catalog.unnest($1::box[]) AS c1, pg_catalog.unnest($2::pg_catalog.text[]) AS c2, \
         pg_catalog.unnest($3::integer[]) AS c3, pg_catalog.unnest($4::text[]) AS c4) AS v \
         WHERE t.\"id\" = v.c3 AND t.\"k\" = v.c4"
    );
    let expected = [(1, b';'), (3, b','), (4, b','), (5, b',')]
        .map(|(position, delimiter)| SetParameter::Column { position, delimiter });
    assert_eq!(set.parameters, expected);
    assert_eq!(set.received_types(), []);
}

/// INV-6: the rows must be there all the same.
#[test]
fn an_update_of_the_key_alone_still_touches_its_rows() {
    let table = usual();
    assert_eq!(
        sql(&table, &table.update_key(vec![0, 2]), ValueForm::Text),
        "UPDATE ONLY \"public\".\"items\" AS t SET \"id\" = t.\"id\" FROM (SELECT pg_catalog.unnest($1::integer[]) AS c1, \
         pg_catalog.unnest($2::text[]) AS c2) AS v WHERE t.\"id\" = v.c1 AND t.\"k\" = v.c2"
    );
    assert_eq!(table.set_statement(&table.update_key(Vec::new()), ValueForm::Text), None);
}

#[test]
fn a_delete_compares_by_the_types_own_equality_and_a_domain_as_what_it_is_made_of() {
    let BoundTable { relation, mut target, mut columns, .. } = usual();
    columns[0].is_domain = true;
    columns[2].equality = "OPERATOR(public.=)".into();
    target.kind = TableKind::Partitioned;
    let table = BoundTable::new(relation, target, columns);
    assert_eq!(
        sql(&table, &table.usual_delete(), ValueForm::Binary),
        "DELETE FROM \"public\".\"items\" AS t USING (SELECT pg_catalog.unnest($1::integer[]) AS c1, \
         pg_catalog.unnest($2::text[]) AS c2) AS v \
         WHERE t.\"id\"::integer = v.c1 AND t.\"k\" OPERATOR(public.=) v.c2"
    );
}

#[test]
fn an_insert_of_a_set_names_what_it_gives() {
    let table = usual();
    let insert = sql(&table, &table.usual_insert(), ValueForm::Text);
    assert!(
        insert.starts_with(
            "INSERT INTO \"public\".\"items\" (\"id\", \"my \"\"b\"\"\", \"k\", \"list\") OVERRIDING SYSTEM VALUE \
             SELECT v.c1, v.c2, v.c3, v.c4::integer[] FROM (SELECT pg_catalog.unnest("
        ),
        "{insert}"
    );
}

fn in_row(number: i16, position: Option<usize>) -> RowColumn {
    RowColumn { number, type_oid: 100 + u32::try_from(number).expect("positive"), position }
}

/// What is computed or unknown to the source is NULL in the row, and read by nobody.
#[test]
fn binary_values_that_have_no_array_come_in_rows_of_the_table() {
    let BoundTable { relation, mut target, columns, .. } = usual();
    target.columns.push(TargetColumn { generated: true, ..column(6, "computed", "integer", COMMA) });
    target.columns.push(column(7, "own", "public.pair", ArrayForm::None));
    let table = BoundTable::new(relation, target, columns);
    let set = table.set_statement(&table.usual_update(), ValueForm::Binary).expect("a statement");
    assert_eq!(
        set.sql,
        "UPDATE ONLY \"public\".\"items\" AS t SET \"my \"\"b\"\"\" = v.c1, \"list\" = (v.r).\"list\" FROM (SELECT \
         pg_catalog.unnest($1::box[]) AS c1, pg_catalog.unnest($2::integer[]) AS c2, \
         pg_catalog.unnest($3::text[]) AS c3, pg_catalog.unnest($4::\"public\".\"items\"[]) AS r) AS v \
         WHERE t.\"id\" = v.c2 AND t.\"k\" = v.c3"
    );
    let row = [(1, None), (2, None), (3, None), (4, Some(3)), (6, None), (7, None)];
    let row = row.map(|(number, position)| in_row(number, position)).to_vec();
    assert_eq!(set.parameters.last(), Some(&SetParameter::Rows(row)));
    assert_eq!(set.received_types(), [(4, 104)]);
    let insert = sql(&table, &table.usual_insert(), ValueForm::Binary);
    assert!(insert.contains("SELECT v.c1, v.c2, v.c3, (v.r).\"list\" FROM"), "{insert}");
    for without in [table.update_key(vec![0, 1, 2]), table.usual_delete()] {
        assert!(!sql(&table, &without, ValueForm::Binary).contains("items\"[]"), "{without:?}");
    }
}

#[test]
fn a_row_is_found_by_what_has_no_array_too() {
    let BoundTable { relation, target, mut columns, .. } = usual();
    columns[2].array = ArrayForm::OfText;
    columns[2].is_domain = true;
    let target = TargetTable { columns: columns.clone(), ..target };
    let table = BoundTable::new(relation, target, columns);
    assert_eq!(
        sql(&table, &table.usual_delete(), ValueForm::Binary),
        "DELETE FROM ONLY \"public\".\"items\" AS t USING (SELECT pg_catalog.unnest($1::integer[]) AS c1, \
         pg_catalog.unnest($2::\"public\".\"items\"[]) AS r) AS v \
         WHERE t.\"id\" = v.c1 AND t.\"k\"::text = (v.r).\"k\"::text"
    );
}

/// A domain that refuses NULL refuses it in a row as well.
#[test]
fn a_domain_is_in_every_row_of_the_table_or_there_are_none() {
    let BoundTable { relation, target, mut columns, .. } = usual();
    columns[1].is_domain = true;
    let target = TargetTable { columns: columns.clone(), ..target };
    let table = BoundTable::new(relation, target, columns);
    let set = table.set_statement(&table.usual_update(), ValueForm::Binary).expect("a statement");
    assert!(set.sql.contains("SET \"my \"\"b\"\"\" = v.c1, \"list\" = (v.r).\"list\" FROM"), "{}", set.sql);
    let row = [(1, None), (2, Some(1)), (3, None), (4, Some(3))];
    let row = row.map(|(number, position)| in_row(number, position)).to_vec();
    assert_eq!(set.parameters.last(), Some(&SetParameter::Rows(row)));
    assert_eq!(table.set_statement(&table.update_key(vec![0, 2, 3]), ValueForm::Binary), None);
    assert!(table.set_statement(&table.usual_delete(), ValueForm::Binary).is_some());
}

#[test]
fn what_has_no_array_in_text_form_goes_one_by_one() {
    let BoundTable { relation, target, mut columns, .. } = usual();
    columns[2].array = ArrayForm::None;
    let table = BoundTable::new(relation, target, columns);
    assert_eq!(table.set_statement(&table.usual_delete(), ValueForm::Text), None);
    assert!(table.set_statement(&table.usual_delete(), ValueForm::Binary).is_some());
}

/// INV-6: two rows with one key and none with another would look like one each.
#[test]
fn rows_are_found_in_sets_only_where_an_index_allows_no_two_of_one_key() {
    for (unique, allowed) in [
        (vec![vec![1, 3]], true),
        (vec![vec![4], vec![3]], true),
        (vec![], false),
        (vec![vec![1, 3, 4]], false),
    ] {
        let BoundTable { relation, mut target, columns, .. } = usual();
        target.unique.clone_from(&unique);
        let table = BoundTable::new(relation, target, columns);
        assert_eq!(table.finds_one_row(), allowed, "{unique:?}");
        let update = table.update_key(vec![0, 1, 2]);
        assert_eq!(table.set_statement(&update, ValueForm::Text).is_some(), allowed, "{unique:?}");
        assert_eq!(table.set_statement(&table.usual_delete(), ValueForm::Text).is_some(), allowed);
        assert!(table.set_statement(&table.usual_insert(), ValueForm::Text).is_some());
    }
}

/// A cube with NaN is equal to every cube, and an index of cubes is in no order then.
#[test]
fn a_key_whose_equality_means_nothing_is_found_by_what_it_prints() {
    let BoundTable { relation, target, mut columns, .. } = usual();
    columns[2].base_type = "ext.cube".into();
    let table = BoundTable::new(relation, target, columns);
    assert!(!table.finds_one_row());
    assert_eq!(
        table.sql(&table.usual_delete()),
        "DELETE FROM ONLY \"public\".\"items\" WHERE \"id\" = $1::integer AND ROW(\"k\")::text = ROW($2::text)::text"
    );
}

fn text(value: &'static str) -> BindValue<'static> {
    BindValue::Text(value.as_bytes())
}

fn binary(value: &'static [u8]) -> BindValue<'static> {
    BindValue::Binary(value)
}

fn packed(rows: &[&[BindValue<'_>]]) -> Vec<Values> {
    rows.iter().map(|row| Values::new(row)).collect()
}

fn all_have_form(form: ValueForm, rows: &[&[BindValue<'_>]]) -> bool {
    have_form(form, &packed(rows).iter().collect::<Vec<_>>())
}

fn deletes(form: ValueForm, rows: &[&[BindValue<'_>]]) -> Option<Vec<BytesMut>> {
    let table = usual();
    let set = table.set_statement(&table.usual_delete(), form).expect("a statement");
    let values = arrays(&set, &packed(rows).iter().collect::<Vec<_>>())?;
    let types = [Type::INT4_ARRAY, Type::TEXT_ARRAY];
    let encoded = values.iter().zip(types).map(|(value, array)| {
        let mut out = BytesMut::new();
        value.to_sql(&array, &mut out).expect("encoded");
        out
    });
    Some(encoded.collect())
}

/// Trap 31: an empty text, one that says NULL, and one of nothing but what an array is made of.
#[test]
fn every_element_of_a_text_array_is_quoted() {
    let rows: [&[_]; 5] = [
        &[text("1"), text("")],
        &[text("2"), text("NULL")],
        &[text("3"), BindValue::Null],
        &[text("4"), text(r#"\"{a,b}\"#)],
        &[text("5"), text("ü; \n")],
    ];
    let found = deletes(ValueForm::Text, &rows).expect("arrays");
    assert_eq!(found[0], r#"{"1","2","3","4","5"}"#);
    assert_eq!(found[1], "{\"\",\"NULL\",NULL,\"\\\\\\\"{a,b}\\\\\",\"ü; \n\"}");
}

#[test]
fn a_binary_array_is_the_values_with_the_elements_type_before_them() {
    let rows: [&[_]; 2] = [&[binary(&[0, 0, 0, 9]), BindValue::Null], &[binary(&[0, 0, 0, 8]), binary(b"x")]];
    let found = deletes(ValueForm::Binary, &rows).expect("arrays");
    let numbers = [1, 0, 23, 2, 1, 4, 9, 4, 8].map(i32::to_be_bytes).concat();
    assert_eq!(found[0], numbers.as_slice());
    let mut texts = [1, 1, 25, 2, 1, -1, 1].map(i32::to_be_bytes).concat();
    texts.push(b'x');
    assert_eq!(found[1], texts.as_slice());
}

#[test]
fn a_row_of_the_table_is_its_columns_with_their_types_and_lengths() {
    let table = usual();
    let set = table.set_statement(&table.update_key(vec![3]), ValueForm::Binary).expect("a statement");
    let id = || binary(&[0, 0, 0, 9]);
    let rows: [&[_]; 2] = [&[binary(b"list"), id(), binary(b"k")], &[BindValue::Null, id(), binary(b"l")]];
    let values = arrays(&set, &packed(&rows).iter().collect::<Vec<_>>()).expect("arrays");
    let mut out = BytesMut::new();
    let array = Type::new("_items".into(), 9, Kind::Array(Type::RECORD), "public".into());
    values.last().expect("rows").to_sql(&array, &mut out).expect("encoded");
    let record = i32::try_from(Type::RECORD.oid()).expect("small");
    let mut expected = [1, 0, record, 2, 1].map(i32::to_be_bytes).concat();
    expected.extend([40, 4, 101, -1, 102, -1, 103, -1, 104, 4].map(i32::to_be_bytes).concat());
    expected.extend(b"list");
    expected.extend([36, 4, 101, -1, 102, -1, 103, -1, 104, -1].map(i32::to_be_bytes).concat());
    assert_eq!(out, expected.as_slice());
    let as_text = Values::new(&[text("{}"), id(), binary(b"k")]);
    assert!(arrays(&set, &[&as_text]).is_none());
}

/// A byte of type `"char"` that is no text comes in binary form in a stream of text.
#[test]
fn a_value_in_another_form_than_the_others_is_in_no_array_and_no_copy() {
    let rows: [&[_]; 2] = [&[text("1"), text("a")], &[text("2"), binary(b"\x80")]];
    assert!(deletes(ValueForm::Text, &rows).is_none());
    assert!(deletes(ValueForm::Binary, &rows).is_none());
    assert!(!all_have_form(ValueForm::Text, &rows));
    assert!(all_have_form(ValueForm::Text, &rows[..1]));
    assert!(all_have_form(ValueForm::Binary, &[&[BindValue::Null, binary(b"\x80")]]));
    // A row of another table's width never panics.
    assert!(deletes(ValueForm::Text, &[&[text("1")]]).is_none());
}

fn copied(form: ValueForm, rows: &[&[BindValue<'_>]]) -> BytesMut {
    let mut out = BytesMut::new();
    put_copy_header(form, &mut out);
    put_copy_rows(form, &packed(rows).iter().collect::<Vec<_>>(), &mut out);
    put_copy_trailer(form, &mut out);
    out
}

#[test]
fn a_copy_takes_inserts_only_and_names_its_columns() {
    let table = usual();
    assert_eq!(
        table.copy_statement(&table.usual_insert(), ValueForm::Binary).as_deref(),
        Some(r#"COPY "public"."items" ("id", "my ""b""", "k", "list") FROM STDIN (FORMAT binary)"#)
    );
    assert_eq!(table.copy_statement(&table.usual_update(), ValueForm::Text), None);
    assert_eq!(table.copied_types(&table.usual_insert()), [(1, 101), (2, 102), (3, 103), (4, 104)]);
}

#[test]
fn the_text_of_a_copy_escapes_what_ends_a_value_or_a_row() {
    let rows: [&[_]; 2] =
        [&[text("a\tb\\N"), BindValue::Null, text("")], &[text("\\."), text("\r\n"), text("ü")]];
    assert_eq!(copied(ValueForm::Text, &rows), "a\\tb\\\\N\t\\N\t\n\\\\.\t\\r\\n\tü\n");
}

#[test]
fn a_binary_copy_counts_its_values() {
    let rows: [&[_]; 1] = [&[binary(&[0, 0, 0, 9]), BindValue::Null, binary(b"")]];
    let mut expected = b"PGCOPY\n\xff\r\n\0".to_vec();
    expected.extend([0; 8]);
    expected.extend([0, 3, 0, 0, 0, 4, 0, 0, 0, 9, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255]);
    assert_eq!(copied(ValueForm::Binary, &rows), expected.as_slice());
}
