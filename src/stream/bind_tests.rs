use super::*;
use crate::target::TableKind;
use pgsluice_proto::pgoutput::{RelationColumn, ReplicaIdentity};

const COMMIT: Lsn = Lsn::new(7);

/// A relation `t` with columns of type text.
fn relation(columns: &[&str]) -> Relation {
    let column = |name: &&str| RelationColumn {
        key: true,
        name: (*name).into(),
        type_oid: Oid(25),
        type_modifier: -1,
    };
    Relation {
        id: Oid(1),
        schema: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Full,
        columns: columns.iter().map(column).collect(),
    }
}

/// What a relation without columns is bound to; nothing here looks into it.
fn bound() -> Bound {
    let target = TargetTable {
        oid: 2,
        name: TableName::new("public", "t"),
        kind: TableKind::Ordinary,
        primary_key: Vec::new(),
        unique: Vec::new(),
        columns: Vec::new(),
    };
    Bound { table: Arc::new(BoundTable::new(relation(&[]), target, Vec::new())), number: 3 }
}

fn standing() -> Binding {
    let record = RelationRecord {
        source_oid: Oid(1),
        name: TableName::new("public", "t"),
        columns: Vec::new(),
        target_oid: Some(2),
        state: JoinState::Joined,
        join_lsn: None,
        membership: String::new(),
    };
    Binding::Table(Box::new(Standing { bound: bound(), record }))
}

/// `t` with one column, announced and bound.
fn known(binding: Binding) -> Known {
    Known { binding, written_by: Some(COMMIT), ..Known::announced(relation(&["a"]), None) }
}

fn stands(known: &Known) -> bool {
    // It is asked for again in any case.
    assert!(known.clone().ready(COMMIT).is_none(), "{known:?}");
    known.before.is_some()
}

#[test]
fn a_binding_may_stand_after_the_same_announcement_however_often_it_is_repeated() {
    let mut known = known(standing());
    for _ in 0..3 {
        known = Known::announced(relation(&["a"]), Some(known));
        assert!(stands(&known));
        assert_eq!(known.written_by, Some(COMMIT), "the transaction under way is the same");
    }
    assert_eq!(known.before.map(|standing| standing.bound.number), Some(3));
}

#[test]
fn after_another_shape_no_binding_stands_not_even_for_the_first_shape_again() {
    for other in [&["b"][..], &["a", "b"], &[]] {
        let changed = Known::announced(relation(other), Some(known(standing())));
        assert!(!stands(&changed), "{other:?}");
        let back = Known::announced(relation(&["a"]), Some(changed));
        assert!(!stands(&back), "{other:?}");
        assert_eq!(back.written_by, Some(COMMIT));
    }
    let identity = Relation { replica_identity: ReplicaIdentity::Default, ..relation(&["a"]) };
    assert!(!stands(&Known::announced(identity, Some(known(standing())))));
}

#[test]
fn after_a_type_has_changed_the_same_words_are_another_announcement() {
    let mut changed = known(standing());
    changed.type_has_changed();
    let again = Known::announced(relation(&["a"]), Some(changed));
    assert!(!stands(&again));

    // The announcement was repeated before, and not yet bound again.
    let mut repeated = Known::announced(relation(&["a"]), Some(known(standing())));
    repeated.type_has_changed();
    assert!(!stands(&Known::announced(relation(&["a"]), Some(repeated))));

    // What is bound after the change may stand again.
    let bound_again = Known { binding: standing(), ..again };
    assert!(stands(&Known::announced(relation(&["a"]), Some(bound_again))));
}

#[test]
fn what_holds_for_some_transactions_only_does_not_stand() {
    for binding in [Binding::TableUntilCommit(bound(), COMMIT), Binding::CopyHasThem(Lsn::new(9))] {
        assert!(!stands(&Known::announced(relation(&["a"]), Some(known(binding)))));
    }
}
