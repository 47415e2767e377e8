use super::*;
use crate::model::RecordedColumn;

fn name(name: &str) -> TableName {
    TableName::new("public", name)
}

fn published(oid: u32, table: &str, membership: &str, root: Option<&str>) -> PublishedRelation {
    PublishedRelation {
        oid: Oid(oid),
        name: name(table),
        columns: Vec::new(),
        membership: membership.into(),
        root: root.map(name),
    }
}

fn table(table: &str, is_published: bool) -> UserTable {
    UserTable { name: name(table), root: name(table), parent: None, partition_key: None, is_published }
}

fn partition(table: &str, root: &str) -> UserTable {
    UserTable {
        name: name(table),
        root: name(root),
        parent: Some((name(root), "FOR VALUES IN (1)".into())),
        partition_key: None,
        is_published: true,
    }
}

fn record(oid: u32, table: &str, state: JoinState, membership: &str) -> (Oid, RelationRecord) {
    let record = RelationRecord {
        source_oid: Oid(oid),
        name: name(table),
        columns: Vec::new(),
        target_oid: Some(oid),
        state,
        join_lsn: None,
        membership: membership.into(),
    };
    (Oid(oid), record)
}

fn on_target(oid: u32, table: &str, parent: Option<&str>) -> (TableName, TargetPlace) {
    (name(table), TargetPlace { oid, is_partitioned: false, parent: parent.map(name) })
}

fn judged(view: &View) -> Assessment {
    assess(view, &TableFilter::default())
}

fn reason(assessment: &Assessment, table: &str) -> Option<OutsideReason> {
    let standing = assessment.standings.iter().find(|standing| standing.table == name(table))?;
    standing.outside.as_ref().map(|outside| outside.reason)
}

#[test]
fn a_column_dropped_and_added_in_the_same_place_has_the_table_copied_again() {
    let columns = |number| {
        vec![RecordedColumn {
            name: "v".into(),
            type_name: "text".into(),
            modifier: -1,
            number: Some(number),
            target_number: Some(2),
        }]
    };
    let (oid, mut known) = record(1, "t", JoinState::Joined, "7");
    known.columns = columns(2);
    for (number, expected) in [(2, None), (3, Some(OutsideReason::ColumnMadeAnew))] {
        let mut seen = published(1, "t", "7", None);
        seen.columns = columns(number);
        let view = View {
            published: vec![seen],
            tables: [(Oid(1), table("t", true))].into(),
            records: Some([(oid, known.clone())].into()),
            on_target: [on_target(1, "t", None)].into(),
            ..View::default()
        };
        let assessment = judged(&view);
        assert_eq!(reason(&assessment, "t"), expected);
        assert_eq!(assessment.needs_stream_to_stop(), expected.is_some());
    }
}

#[test]
fn a_new_table_is_outside_and_blocks_and_a_known_one_is_joined() {
    let view = View {
        published: vec![published(1, "t", "7", None)],
        tables: [(Oid(1), table("t", true)), (Oid(2), table("late", false))].into(),
        records: Some([record(1, "t", JoinState::Joined, "7")].into()),
        ..View::default()
    };
    let assessment = judged(&view);
    assert_eq!(reason(&assessment, "late"), Some(OutsideReason::NotPublished));
    assert_eq!(reason(&assessment, "t"), None);
    assert_eq!(assessment.first_obstacle().map(|(table, _)| table.plain()).as_deref(), Some("public.late"));
    assert!(assessment.joinable.is_empty());
}

#[test]
fn a_partition_joins_once_the_target_has_it_and_says_what_creates_it_before() {
    let mut view = View {
        published: vec![published(1, "p1", "7<1", Some("p"))],
        tables: [(Oid(1), partition("p1", "p"))].into(),
        records: Some(BTreeMap::new()),
        on_target: [on_target(5, "p", None)].into(),
        ..View::default()
    };
    let assessment = judged(&view);
    assert!(assessment.joinable.is_empty());
    let remedy = assessment.first_obstacle().map(|(_, outside)| outside.remedy.clone()).unwrap_or_default();
    let statement = r#"CREATE TABLE "public"."p1" PARTITION OF "public"."p" FOR VALUES IN (1);"#;
    assert!(remedy.contains(statement), "{remedy}");
    view.on_target.extend([on_target(6, "p1", Some("p"))]);
    assert_eq!(judged(&view).joinable.len(), 1);
}

#[test]
fn another_membership_means_missing_changes_and_stops_the_stream_for_the_correction() {
    let view = View {
        published: vec![published(1, "p1", "7<9", Some("p"))],
        tables: [(Oid(1), partition("p1", "p"))].into(),
        records: Some([record(1, "p1", JoinState::Joined, "7<1")].into()),
        ..View::default()
    };
    let assessment = judged(&view);
    assert_eq!(reason(&assessment, "p1"), Some(OutsideReason::AttachedAgain));
    assert!(assessment.needs_stream_to_stop());
}

#[test]
fn a_dropped_table_blocks_only_where_its_rows_would_come_back() {
    let view = |parent| View {
        dropped: [Oid(1)].into(),
        records: Some([record(1, "gone", JoinState::Joined, "7")].into()),
        on_target: [on_target(1, "gone", parent)].into(),
        ..View::default()
    };
    let alone = judged(&view(None));
    assert_eq!(reason(&alone, "gone"), Some(OutsideReason::Dropped));
    assert!(alone.first_obstacle().is_none() && !alone.needs_stream_to_stop());
    assert!(judged(&view(Some("p"))).first_obstacle().is_some());
}

#[test]
fn a_table_made_again_under_its_name_stops_the_stream_before_it_can_join() {
    let view = View {
        tables: [(Oid(2), table("t", false))].into(),
        dropped: [Oid(1)].into(),
        records: Some([record(1, "t", JoinState::Joined, "7")].into()),
        on_target: [on_target(1, "t", None)].into(),
        ..View::default()
    };
    let assessment = judged(&view);
    assert_eq!(reason(&assessment, "t"), Some(OutsideReason::NotPublished));
    assert!(assessment.needs_stream_to_stop());
}

#[test]
fn what_was_asked_for_joins_and_what_left_before_it_had_joined_is_let_pass() {
    let view = View {
        tables: [(Oid(1), table("asked", false)), (Oid(2), table("left", false))].into(),
        records: Some(
            [record(1, "asked", JoinState::Copying, REQUESTED), record(2, "left", JoinState::Copying, "7<3")]
                .into(),
        ),
        ..View::default()
    };
    let assessment = judged(&view);
    assert_eq!(assessment.joinable.len(), 1);
    assert_eq!(assessment.joinable.first().map(|each| each.origin), Some(Origin::Requested));
    assert_eq!(assessment.gone, [(Oid(2), name("left"), LEFT)]);
}

#[test]
fn names_are_given_as_a_shell_takes_them() {
    assert_eq!(argument(&name("orders")), "public.orders");
    assert_eq!(argument(&name("O'Hara")), r#"'"public"."O'\''Hara"'"#);
}
