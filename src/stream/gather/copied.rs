//! Changes of tables that are being copied: what becomes of each is asked of the board where copy and stream meet. What the
//! copy has, or will have, is passed over; what cannot be known yet waits, with what was gathered of its transaction, for no
//! longer than the chunk takes; what makes a chunk worthless has it copied again.

use std::time::Duration;

use pgsluice_proto::pgoutput::{OldTuple, Relation, Tuple, TupleValue};

use super::Gatherer;
use crate::model::{Oid, Xid};
use crate::snapshot::{ChunkId, CopyBoard, Effect, Key, RangedBy, Touched, pending_again_sql};
use crate::stream::assemble::RowChange;
use crate::stream::bind::Known;
use crate::stream::error::StreamError;
use crate::stream::lanes::lane_of;
use crate::target::relations;

/// The board is looked at again at the latest after this long; it tells of every change.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What becomes of a change of a table that may be being copied.
pub(super) enum Fate {
    /// It is made on the target as it is.
    AsItIs,
    /// Nothing.
    Passes,
    /// It waits until the board has changed.
    Holds,
    /// This is made on the target instead.
    Instead(RowChange),
    /// Nothing; the chunk is to be copied again.
    Condemns(Vec<usize>),
}

/// Finds out what becomes of a change, and remembers what later snapshots must contain.
pub(super) fn fate(
    board: &CopyBoard,
    relation: &Relation,
    change: &RowChange,
    xid: Xid,
) -> Result<Fate, StreamError> {
    let Some(ranged_by) = board.routing(relation.id) else { return Ok(Fate::AsItIs) };
    let touched = touched(relation, ranged_by.as_ref(), change)?;
    let unknown = || StreamError::ChunkUnknown { table: relation.name.clone() };
    Ok(match board.effect(relation.id, touched, xid).ok_or_else(unknown)? {
        Effect::Apply => Fate::AsItIs,
        Effect::Discard { .. } => Fate::Passes,
        Effect::Hold => Fate::Holds,
        Effect::RowGone { .. } => match change {
            RowChange::Update { old: Some(old), .. } => Fate::Instead(RowChange::Delete { old: old.clone() }),
            _ => return Err(unknown()),
        },
        Effect::RowNew { chunk, .. } => match change {
            RowChange::Update { new, .. } if is_whole(new) => {
                Fate::Instead(RowChange::Insert { new: new.clone() })
            }
            // The value out of line is in no message: only the source has it.
            _ => Fate::Condemns(vec![chunk]),
        },
        Effect::Condemn(chunks) => Fate::Condemns(chunks),
    })
}

fn is_whole(tuple: &Tuple) -> bool {
    tuple.iter().all(|value| !matches!(value, TupleValue::UnchangedToast))
}

fn touched(
    relation: &Relation,
    ranged_by: Option<&RangedBy>,
    change: &RowChange,
) -> Result<Touched, StreamError> {
    let Some(by) = ranged_by else { return Ok(Touched::One(None)) };
    let unknown = || StreamError::ChunkUnknown { table: relation.name.clone() };
    let place = relation.columns.iter().position(|column| column.name == by.column).ok_or_else(unknown)?;
    let key_in = |tuple: &Tuple| -> Result<Option<Key>, StreamError> {
        let key = tuple.get(place).and_then(|value| by.kind.of_value(value));
        key.map(Some).ok_or_else(unknown)
    };
    Ok(match change {
        RowChange::Insert { new } | RowChange::Update { old: None, new } => Touched::One(key_in(new)?),
        RowChange::Update { old: Some(old), new } => Touched::Moved(key_in(old_row(old))?, key_in(new)?),
        RowChange::Delete { old } => Touched::One(key_in(old_row(old))?),
    })
}

/// Columns that are not part of the identity are NULL in it.
const fn old_row(old: &OldTuple) -> &Tuple {
    match old {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
    }
}

impl Gatherer {
    /// The target's tables have their indexes and constraints now: what was bound before did not know them.
    pub(super) fn copy_is_over(&mut self) {
        self.is_copying = false;
        self.prefetch.forget();
        self.known.values_mut().for_each(Known::table_has_changed);
    }

    /// Waits until the board has changed. What is gathered of whole transactions is committed meanwhile, where that does not
    /// need the end of the one under way.
    pub(in crate::stream) async fn wait_for_the_copy(&mut self) -> Result<(), StreamError> {
        let under_way = self.transaction.as_ref().map(|transaction| transaction.start.commit_lsn);
        for lane in &mut self.lanes {
            let is_part = under_way.is_some_and(|commit_lsn| lane.has_some_of(commit_lsn));
            if !is_part && lane.is_ready() && (lane.has_work() || lane.is_behind(self.position)) {
                lane.hand_over(crate::stream::batch::End::Commit(self.position), self.way).await?;
            }
        }
        if tokio::time::timeout(LOOK_INTERVAL, self.copy_changed.changed()).await.is_err() {
            // Nothing else is asked of the target meanwhile. If it is gone, the copy waits for another stream, and this one would
            // wait for the copy.
            self.catalog.batch_execute("SELECT 1").await?;
        }
        Ok(())
    }

    /// Chunks of a relation (all that are in, for `None`) have to be copied again because of the transaction under way: that is
    /// recorded with it.
    pub(in crate::stream) fn condemn(&mut self, relation: Oid, chunks: Option<&[usize]>) {
        let Some(transaction) = &mut self.transaction else { return };
        let condemned = self.copy.condemn(relation, chunks, transaction.start.xid);
        if condemned.is_empty() {
            return;
        }
        let numbers: Vec<usize> = condemned.iter().map(|chunk| chunk.number).collect();
        let lane = lane_of(relation, self.lanes.len());
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.building.record_at_commit(pending_again_sql(relation, &numbers));
        }
        transaction.condemned.extend(condemned);
    }

    /// Records a table's new columns together with its being copied again under them.
    pub(in crate::stream) fn accept_and_condemn(
        &mut self,
        relation: Oid,
        name: &crate::model::TableName,
        columns: &[crate::model::RecordedColumn],
        target_oid: u32,
    ) {
        let lane = lane_of(relation, self.lanes.len());
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.building.record(relations::accept_sql(relation, name, columns, Some(target_oid)));
        }
        self.condemn(relation, None);
    }

    /// What the transaction has condemned is committed with it; then it can be copied.
    pub(super) async fn settle_condemned(&mut self, condemned: &[ChunkId]) -> Result<(), StreamError> {
        self.settle().await?;
        self.copy.condemned(condemned);
        Ok(())
    }

    /// Stands still if the copy asks for it: between two transactions, with everything before applied on all connections.
    pub(in crate::stream) async fn stand_still_if_asked(&mut self) -> Result<bool, StreamError> {
        if self.transaction.is_some() || !self.copy.wants_standstill() {
            return Ok(false);
        }
        self.settle().await?;
        self.copy.stands_still();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::KeyKind;
    use pgsluice_proto::pgoutput::{Relation, RelationColumn, ReplicaIdentity};

    fn relation() -> Relation {
        let column = |name: &str| RelationColumn {
            key: true,
            name: name.to_owned(),
            type_oid: Oid(20),
            type_modifier: -1,
        };
        Relation {
            id: Oid(7),
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column("note"), column("id")],
        }
    }

    fn tuple(values: &[TupleValue<'_>]) -> Tuple {
        Tuple::new(values.iter().copied()).unwrap()
    }

    #[test]
    fn a_row_is_found_by_the_key_it_had_and_the_one_it_has() {
        let by = RangedBy { column: "id".into(), kind: KeyKind::Integer };
        let new = tuple(&[TupleValue::UnchangedToast, TupleValue::Text(b"5")]);
        let old = OldTuple::Key(tuple(&[TupleValue::Null, TupleValue::Text(b"3")]));
        let key = |value| Some(Key::Integer(value));
        let of = |change| touched(&relation(), Some(&by), &change).unwrap();
        assert_eq!(of(RowChange::Update { old: None, new: new.clone() }), Touched::One(key(5)));
        let moved = RowChange::Update { old: Some(old.clone()), new: new.clone() };
        assert_eq!(of(moved), Touched::Moved(key(3), key(5)));
        assert_eq!(of(RowChange::Delete { old }), Touched::One(key(3)));
        assert!(!is_whole(&new));
        let without = tuple(&[TupleValue::Text(b"x"), TupleValue::Null]);
        assert!(touched(&relation(), Some(&by), &RowChange::Insert { new: without }).is_err());
    }
}
