use super::*;
use crate::model::Lsn;
use crate::target::relations::JoinState;
use crate::target::{ArrayForm, ColumnIdentity, TableKind};
use pgsluice_proto::pgoutput::{RelationColumn, ReplicaIdentity};

const INT4: u32 = 23;

/// `name type [modifier] [#number]`, as the stream or the catalog says it.
fn column(text: &str) -> RecordedColumn {
    let mut words = text.split(' ');
    let mut column = RecordedColumn {
        name: words.next().unwrap_or_default().into(),
        type_name: words.next().unwrap_or_default().into(),
        modifier: -1,
        number: None,
        target_number: None,
    };
    for word in words {
        match word.strip_prefix('#') {
            Some(number) => column.number = number.parse().ok(),
            None => column.modifier = word.parse().expect("a modifier"),
        }
    }
    column
}

fn now(columns: &[&str]) -> Announced {
    Announced {
        name: TableName::new("public", "t"),
        columns: columns.iter().map(|text| column(text)).collect(),
    }
}

/// As accepted: the target's columns have the source's numbers plus ten.
fn record(columns: &[&str]) -> RelationRecord {
    let columns = columns.iter().map(|text| {
        let column = column(text);
        RecordedColumn { target_number: column.number.map(|number| number + 10), ..column }
    });
    RelationRecord {
        source_oid: Oid(1),
        name: TableName::new("public", "t"),
        columns: columns.collect(),
        target_oid: Some(7),
        state: JoinState::Joined,
        join_lsn: Some(Lsn::new(1)),
        membership: String::new(),
    }
}

/// `name type [modifier] #number [!]`: `!` accepts no row without a value.
fn target(columns: &[&str]) -> TargetTable {
    let columns = columns.iter().map(|text| {
        let (text, fills_itself) = match text.strip_suffix(" !") {
            Some(text) => (text, false),
            None => (*text, true),
        };
        let column = column(text);
        TargetColumn {
            number: column.number.unwrap_or_default(),
            cast: format!("pg_catalog.{}", column.type_name),
            equality: "=".into(),
            type_oid: 0,
            array: ArrayForm::OfType { delimiter: b',' },
            base_type: column.type_name,
            type_modifier: column.modifier,
            is_domain: column.name.starts_with("domain"),
            generated: column.name.starts_with("generated"),
            identity: ColumnIdentity::None,
            fills_itself,
            name: column.name,
        }
    });
    TargetTable {
        oid: 7,
        name: TableName::new("public", "t"),
        kind: TableKind::Ordinary,
        primary_key: vec!["id".into()],
        unique: vec![vec![1]],
        columns: columns.collect(),
    }
}

/// The target's columns by name, or the differences.
fn names(
    announced: &[&str],
    recorded: &[&str],
    present: &[&str],
    demand: Demand,
) -> Result<Vec<String>, Vec<Change>> {
    let matched = compare(&now(announced), &record(recorded), Some(&target(present)), demand)?;
    Ok(matched.columns.iter().map(|column| column.name.clone()).collect())
}

fn check(announced: &[&str], recorded: &[&str], present: &[&str]) -> Result<Vec<String>, Vec<Change>> {
    names(announced, recorded, present, Demand::Everything)
}

fn renamed(from: &str, to: &str) -> Change {
    Change::Renamed { from: from.into(), to: to.into() }
}

fn added(column: &str) -> Change {
    Change::Added { column: column.into(), type_name: "text".into() }
}

fn dropped(column: &str) -> Change {
    Change::Dropped { column: column.into() }
}

const ABC: [&str; 3] = ["id int4 #1", "a text #2", "b text #3"];
const TARGET_ABC: [&str; 3] = ["id int4 #11", "a text #12", "b text #13"];
const PLAIN_ABC: [&str; 3] = ["id int4", "a text", "b text"];

#[test]
fn columns_are_matched_in_any_order_and_those_of_the_target_alone_are_left_out() {
    let present = ["generated numeric #21", "extra text #22", "b text #13", "a text #12", "id int4 #11"];
    assert_eq!(check(&PLAIN_ABC, &ABC, &present), Ok(vec!["id".into(), "a".into(), "b".into()]));
}

#[test]
fn an_extra_column_that_refuses_rows_without_it_is_a_difference() {
    let present = ["id int4 #11", "a text #12", "b text #13", "extra text #14 !"];
    assert_eq!(check(&PLAIN_ABC, &ABC, &present), Err(vec![Change::NeedsValue { column: "extra".into() }]));
}

#[test]
fn a_column_renamed_on_the_target_before_its_time_still_gets_its_values() {
    let present = ["id int4 #11", "early text #12", "b text #13"];
    assert_eq!(check(&PLAIN_ABC, &ABC, &present), Ok(vec!["id".into(), "early".into(), "b".into()]));
}

#[test]
fn an_added_column_is_waited_for_by_name_with_and_without_numbers() {
    for numbered in
        [["id int4 #1", "a text #2", "b text #3", "c text #4"], ["id int4", "a text", "b text", "c text"]]
    {
        assert_eq!(check(&numbered, &ABC, &TARGET_ABC), Err(vec![added("c")]));
        let with = ["id int4 #11", "a text #12", "b text #13", "c text #14"];
        assert_eq!(check(&numbered, &ABC, &with).map(|names| names.len()), Ok(4));
    }
}

#[test]
fn a_dropped_column_is_waited_for_unless_the_transaction_wrote_it() {
    for announced in [["id int4 #1", "b text #3"], ["id int4", "b text"]] {
        assert_eq!(check(&announced, &ABC, &TARGET_ABC), Err(vec![dropped("a")]));
        assert_eq!(
            names(&announced, &ABC, &TARGET_ABC, Demand::DroppedMayStay),
            Ok(vec!["id".into(), "b".into()])
        );
        assert!(check(&announced, &ABC, &["id int4 #11", "b text #13"]).is_ok());
    }
}

#[test]
fn a_renamed_column_is_no_new_one_and_must_be_renamed() {
    let announced = ["id int4 #1", "x text #2", "b text #3"];
    assert_eq!(check(&announced, &ABC, &TARGET_ABC), Err(vec![renamed("a", "x")]));
    assert!(check(&announced, &ABC, &["id int4 #11", "x text #12", "b text #13"]).is_ok());
}

#[test]
fn exchanged_names_put_no_value_into_the_other_column() {
    let announced = ["id int4 #1", "b text #2", "a text #3"];
    assert_eq!(check(&announced, &ABC, &TARGET_ABC), Err(vec![renamed("a", "b"), renamed("b", "a")]));
    let exchanged = ["id int4 #11", "b text #12", "a text #13"];
    assert_eq!(check(&announced, &ABC, &exchanged), Ok(vec!["id".into(), "b".into(), "a".into()]));
    // Without numbers the place alone says that something is wrong, and the target must show that it was seen to.
    let announced = ["id int4", "b text", "a text"];
    let moved = Change::Moved { column: "a".into(), type_name: "text".into() };
    assert_eq!(check(&announced, &ABC, &TARGET_ABC), Err(vec![moved]));
    assert!(check(&announced, &ABC, &exchanged).is_ok());
    assert!(check(&announced, &ABC, &["id int4 #11", "b text #13", "a text #14"]).is_ok());
}

#[test]
fn a_column_dropped_and_added_again_is_another_one() {
    let announced = ["id int4 #1", "b text #3", "a text #4"];
    assert_eq!(check(&announced, &ABC, &TARGET_ABC), Err(vec![added("a"), dropped("a")]));
    assert!(check(&announced, &ABC, &["id int4 #11", "b text #13", "a text #14"]).is_ok());
}

#[test]
fn a_new_column_does_not_take_the_place_of_a_renamed_one() {
    // a is b's old name now, and there is a new a.
    let announced = ["id int4 #1", "x text #2", "b text #3", "a text #4"];
    assert_eq!(check(&announced, &ABC, &TARGET_ABC), Err(vec![renamed("a", "x"), added("a")]));
}

#[test]
fn a_target_that_was_exact_has_to_be_exact_again_and_a_wider_one_may_stay() {
    let retyped = |announced: &str, recorded: &str, present: &str| {
        check(&[announced], &[recorded], &[present]).is_err()
    };
    assert!(retyped("v int8 #1", "v int4 #1", "v int4 #11"));
    assert!(!retyped("v int8 #1", "v int4 #1", "v int8 #11"));
    assert!(!retyped("v int8 #1", "v int4 #1", "v numeric #11"), "it was wider before");
    assert!(retyped("v int4 #1", "v int8 #1", "v int8 #11"), "narrower is a change too");
    assert!(retyped("v varchar 14 #1", "v varchar 24 #1", "v varchar 24 #11"));
    assert!(retyped("v varchar 24 #1", "v varchar 14 #1", "v varchar 14 #11"));
    assert!(!retyped("v varchar 14 #1", "v varchar 24 #1", "v varchar 44 #11"));
    assert!(retyped("v jsonb #1", "v text #1", "v text #11"));
    assert!(!retyped("v jsonb #1", "v text #1", "v jsonb #11"));
    assert!(!retyped("domain varchar #1", "domain varchar 14 #1", "domain varchar #11"));
}

#[test]
fn values_that_would_be_rounded_or_cut_are_a_difference() {
    let fits = |source: &str, present: &str| check(&[source], &[source], &[present]).is_ok();
    assert!(fits("v int4", "v int8 #1") && fits("v varchar 14", "v varchar 24 #1"));
    assert!(fits("v varchar 14", "v varchar #1") && fits("v varchar", "v text #1"));
    assert!(!fits("v varchar 14", "v varchar 9 #1") && !fits("v varchar", "v varchar 24 #1"));
    assert!(!fits("v numeric", "v numeric 655366 #1") && !fits("v numeric", "v float8 #1"));
    assert!(!fits("generated_there int4", "generated_there int4 #1"));
}

#[test]
fn a_renamed_table_is_followed_by_its_oid_and_an_early_rename_is_no_difference() {
    let mut announced = now(&PLAIN_ABC);
    let mut present = target(&TARGET_ABC);
    announced.name = TableName::new("public", "u");
    let compared = |announced: &Announced, present: &TargetTable| {
        compare(announced, &record(&ABC), Some(present), Demand::Everything).map(|_| ())
    };
    assert_eq!(compared(&announced, &present), Err(vec![Change::TableRenamed]));
    present.name = TableName::new("public", "u");
    assert_eq!(compared(&announced, &present), Ok(()));
    assert_eq!(compared(&now(&PLAIN_ABC), &present), Ok(()), "the operator was early");
}

#[test]
fn a_missing_table_is_told_from_one_that_is_gone() {
    let mut record = record(&ABC);
    let compared = compare(&now(&PLAIN_ABC), &record, None, Demand::Everything);
    assert_eq!(compared, Err(vec![Change::TableGone]));
    record.target_oid = None;
    assert_eq!(compare(&now(&PLAIN_ABC), &record, None, Demand::Everything), Err(vec![Change::NoTable]));
}

#[test]
fn numbers_are_learned_only_from_a_catalog_that_is_where_the_stream_is() {
    let catalog: Vec<_> = ABC.iter().map(|text| column(text)).collect();
    let mut here = now(&PLAIN_ABC);
    here.learn_numbers(catalog.iter());
    assert_eq!(
        here.columns.iter().map(|column| column.number).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
    let mut behind = now(&["id int4", "a text"]);
    behind.learn_numbers(catalog.iter());
    assert!(behind.columns.iter().all(|column| column.number.is_none()));
}

#[test]
fn what_is_accepted_keeps_the_numbers_and_a_type_that_nobody_named() {
    let announced = ["id int4", "a text", "b"];
    let matched = compare(&now(&announced), &record(&ABC), Some(&target(&TARGET_ABC)), Demand::Everything)
        .expect("a match");
    assert_eq!(matched.accepted, record(&ABC).columns);
}

#[test]
fn a_domain_is_announced_as_what_it_is_made_of() {
    let relation = Relation {
        id: Oid(16_400),
        schema: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: [("id", INT4), ("d", 20_000), ("m", 20_001), ("x", 9_999_999)]
            .map(|(name, oid)| RelationColumn {
                key: false,
                name: name.into(),
                type_oid: Oid(oid),
                type_modifier: -1,
            })
            .into(),
    };
    let type_info = |oid, schema: &str, name: &str| {
        (Oid(oid), TypeInfo { oid: Oid(oid), schema: schema.into(), name: name.into() })
    };
    let types = HashMap::from([type_info(20_000, "pg_catalog", "text"), type_info(20_001, "public", "mood")]);
    let types: Vec<_> =
        announced(&relation, &types).columns.into_iter().map(|column| column.type_name).collect();
    assert_eq!(types, ["int4", "text", "public.mood", ""]);
}
