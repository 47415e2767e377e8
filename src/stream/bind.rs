//! Which table of the target takes a relation's changes now, or what they wait for: the record of accepted shapes, the
//! target's table and the announcement are held against one another when the first change of a relation is due, never
//! earlier. What is accepted is recorded in the target transaction that first applies it (INV-2).

use std::sync::Arc;
use std::time::Instant;

use pgsluice_proto::pgoutput::Relation;

use crate::model::{Lsn, Oid, RecordedColumn, TableName};
use crate::source::definition::{self, TableDefinition};
use crate::target::relations::{self, JoinState, RelationRecord};
use crate::target::{self, TargetTable};

use super::assemble::TransactionStart;
use super::batch::Bound;
use super::error::StreamError;
use super::existing_rows::column_in_doubt;
use super::gather::Gatherer;
use super::hold::{Cause, HoldBefore, REFUSED_INTERVAL, Reason};
use super::lanes::lane_of;
use super::remedy::{Told, explain_refusal};
use super::shape::{Announced, Change, Demand, Matched, announced, compare};
use super::statement::BoundTable;

/// A relation of the stream as last announced.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) relation: Relation,
    binding: Binding,
    /// The binding of the same announcement before this one, which each piece of a backlog repeats: it stands if the record
    /// and the target's table do.
    before: Option<Standing>,
    /// Whether another announcement may be the same: no type has changed since this one.
    may_stand: bool,
    /// Commit position of the transaction that last wrote to it.
    written_by: Option<Lsn>,
}

/// A binding, and what was recorded of the relation with it.
#[derive(Clone, Debug)]
struct Standing {
    bound: Bound,
    record: RelationRecord,
}

/// What a relation's changes go to.
#[derive(Clone, Debug)]
enum Binding {
    /// Not found out yet.
    None,
    /// This table.
    Table(Box<Standing>),
    /// This table for the rest of one transaction, which has dropped a column that it wrote before.
    TableUntilCommit(Bound, Lsn),
    /// Nothing, for transactions committed before this position: the table's copy has them.
    CopyHasThem(Lsn),
}

impl Known {
    /// A relation just announced, in place of what was known of it.
    pub(super) fn announced(relation: Relation, before: Option<Self>) -> Self {
        let written_by = before.as_ref().and_then(|known| known.written_by);
        let is_the_same = |known: &Self| known.may_stand && known.relation == relation;
        let before = before.filter(is_the_same).and_then(|known| match known.binding {
            Binding::Table(standing) => Some(*standing),
            Binding::None => known.before,
            Binding::TableUntilCommit(..) | Binding::CopyHasThem(_) => None,
        });
        Self { relation, binding: Binding::None, before, may_stand: true, written_by }
    }

    /// A type that it may use is another one now: the next announcement is not the same, whatever it says.
    pub(super) const fn type_has_changed(&mut self) {
        self.may_stand = false;
    }

    /// The target's table is to be looked at again before the next change.
    pub(super) fn table_has_changed(&mut self) {
        (self.binding, self.before) = (Binding::None, None);
    }

    /// What is to be done with a change of a transaction that commits there, if that is known already.
    pub(super) fn ready(&mut self, commit_lsn: Lsn) -> Option<KnownReady<'_>> {
        let ready = match &self.binding {
            Binding::Table(standing) => KnownReady::Table(&standing.bound),
            Binding::TableUntilCommit(bound, until) if *until == commit_lsn => KnownReady::Table(bound),
            Binding::CopyHasThem(until) if commit_lsn < *until => KnownReady::Passes,
            _ => return None,
        };
        self.written_by = Some(commit_lsn);
        Some(ready)
    }
}

/// What is to be done with a change of a relation that is bound already.
pub(super) enum KnownReady<'a> {
    /// It goes to this table.
    Table(&'a Bound),
    /// Nothing: the copy has it.
    Passes,
}

/// What is to be done with a change.
#[derive(Debug)]
pub(super) enum Ready {
    /// It goes to this table.
    Table(Bound),
    /// Nothing: the copy has it.
    Passes,
    /// It waits.
    Waits(Reason),
}

/// A shape that a batch on its way accepts.
#[derive(Debug)]
pub(super) struct Accepted {
    name: TableName,
    columns: Vec<RecordedColumn>,
    target_oid: u32,
    batch: u64,
}

/// The table for a relation, what goes where in it, and what is recorded of the relation.
struct Found {
    target: TargetTable,
    matched: Matched,
    record: RelationRecord,
}

/// What was found out about a relation.
enum Resolved {
    Table(Box<Found>),
    CopyHasThem(Lsn),
    /// It is copied again, as it is now.
    IsCopiedAgain,
    Waits(Reason),
}

/// What a refused change's table looked like when the wait for it began.
#[derive(Debug)]
pub(super) struct RefusedSince {
    at: Instant,
    target: Option<TableDefinition>,
}

impl Gatherer {
    /// Where a change of the transaction under way goes.
    pub(super) async fn ready(&mut self, relation: Oid, commit_lsn: Lsn) -> Result<Ready, StreamError> {
        let known = self.known.get_mut(&relation).ok_or(StreamError::UnknownRelation { relation })?;
        match known.ready(commit_lsn) {
            Some(KnownReady::Table(bound)) => return Ok(Ready::Table(bound.clone())),
            Some(KnownReady::Passes) => return Ok(Ready::Passes),
            None => {}
        }
        if let Some(bound) = self.bound_before(relation, commit_lsn).await? {
            return Ok(Ready::Table(bound));
        }
        let known = self.known.get_mut(&relation).ok_or(StreamError::UnknownRelation { relation })?;
        let has_written = known.written_by == Some(commit_lsn);
        let demand = if has_written { Demand::DroppedMayStay } else { Demand::Everything };
        let announced = known.relation.clone();
        let (binding, ready) = match self.resolve(&announced, commit_lsn, demand).await? {
            Resolved::Waits(reason) => return Ok(Ready::Waits(reason)),
            Resolved::CopyHasThem(until) => (Binding::CopyHasThem(until), Ready::Passes),
            Resolved::IsCopiedAgain => return Ok(Ready::Passes),
            Resolved::Table(found) => {
                let Found { target, matched, record } = *found;
                self.format.check(&announced, &matched.columns)?;
                let stays_open = matched.has_leftovers;
                let record =
                    if stays_open { record } else { self.accept(&announced, &target, &matched, record) };
                let table = self.format.bind(BoundTable::new(announced, target, matched.columns));
                self.bindings += 1;
                let bound = Bound { table: Arc::new(table), number: self.bindings };
                let ready = Ready::Table(bound.clone());
                let binding = if stays_open {
                    Binding::TableUntilCommit(bound, commit_lsn)
                } else {
                    Binding::Table(Box::new(Standing { bound, record }))
                };
                (binding, ready)
            }
        };
        if let Some(known) = self.known.get_mut(&relation) {
            known.binding = binding;
            known.written_by = Some(commit_lsn);
        }
        Ok(ready)
    }

    /// The table that the same announcement was bound to before, if the record and the table are still what they were then.
    async fn bound_before(&mut self, relation: Oid, commit_lsn: Lsn) -> Result<Option<Bound>, StreamError> {
        let Some(standing) = self.known.get_mut(&relation).and_then(|known| known.before.take()) else {
            return Ok(None);
        };
        if self.record_of(relation).await?.as_ref() != Some(&standing.record) {
            return Ok(None);
        }
        // What finds a row depends on the target's keys, too.
        let target = self.prefetch.table(&self.catalog, &standing.record).await?;
        if target.as_ref() != Some(standing.bound.table.target()) {
            return Ok(None);
        }
        let bound = standing.bound.clone();
        if let Some(known) = self.known.get_mut(&relation) {
            known.binding = Binding::Table(Box::new(standing));
            known.written_by = Some(commit_lsn);
        }
        Ok(Some(bound))
    }

    /// The change of a transaction that cannot go on although it has begun: all of it is rolled back, because its locks
    /// would keep the operator from altering the target, and the next attempt waits before it.
    pub(super) fn held_midway(&self, relation: Oid, commit_lsn: Lsn, reason: Reason) -> StreamError {
        let Some(known) = self.known.get(&relation) else {
            return StreamError::UnknownRelation { relation };
        };
        let has_written = known.written_by == Some(commit_lsn);
        let cause = Cause::Shape {
            relation: known.relation.clone(),
            types: self.types.clone(),
            demand: if has_written { Demand::DroppedMayStay } else { Demand::Everything },
        };
        StreamError::HeldMidway { before: Box::new(HoldBefore { commit_lsn, cause }), reason }
    }

    /// Why the transaction must not begin yet; `None` if it may.
    pub(super) async fn waits_before(
        &mut self,
        start: TransactionStart,
    ) -> Result<Option<Reason>, StreamError> {
        let Some(hold) = self.hold_before.take() else { return Ok(None) };
        if start.commit_lsn < hold.commit_lsn {
            self.hold_before = Some(hold);
            return Ok(None);
        }
        if start.commit_lsn > hold.commit_lsn {
            return Ok(None);
        }
        // What is asked below may wait for the locks of what came before.
        self.settle().await?;
        let reason = match &hold.cause {
            Cause::Shape { relation, types, demand } => {
                let own = std::mem::replace(&mut self.types, types.clone());
                let resolved = self.resolve(relation, start.commit_lsn, *demand).await;
                self.types = own;
                match resolved? {
                    Resolved::Waits(reason) => Some(reason),
                    Resolved::Table(_) | Resolved::CopyHasThem(_) | Resolved::IsCopiedAgain => None,
                }
            }
            Cause::Refused { relation, table, message } => {
                self.still_refused(*relation, table, message).await?
            }
        };
        if reason.is_some() {
            self.hold_before = Some(hold);
        }
        Ok(reason)
    }

    /// What is recorded of a relation, or will be when what is on its way is committed.
    async fn record_of(&mut self, relation: Oid) -> Result<Option<RelationRecord>, StreamError> {
        let record = self.prefetch.record(&self.catalog, relation).await?;
        let lane = self.lanes.get(lane_of(relation, self.lanes.len()));
        let Some(accepted) = self.accepted.get(&relation) else { return Ok(record) };
        if lane.is_none_or(|lane| lane.has_done(accepted.batch)) {
            self.accepted.remove(&relation);
            // It may have been committed after the record was read.
            return Ok(relations::read_one(&self.catalog, relation).await?);
        }
        let overlay = |record: RelationRecord| RelationRecord {
            name: accepted.name.clone(),
            columns: accepted.columns.clone(),
            target_oid: Some(accepted.target_oid),
            ..record
        };
        Ok(record.map(overlay))
    }

    async fn resolve(
        &mut self,
        relation: &Relation,
        commit_lsn: Lsn,
        demand: Demand,
    ) -> Result<Resolved, StreamError> {
        let name = TableName::new(&relation.schema, &relation.name);
        let Some(record) = self.record_of(relation.id).await? else {
            return Ok(Resolved::Waits(self.unknown(relation.id, &name).await?));
        };
        match (record.state, record.join_lsn) {
            (_, Some(join_lsn)) if commit_lsn < join_lsn => return Ok(Resolved::CopyHasThem(join_lsn)),
            (JoinState::Copying, _) => return Ok(Resolved::Waits(Reason::copying(&name))),
            (JoinState::Joined, _) => {}
        }
        if self.copy.is_active() {
            // Keys and indexes are being built.
            self.prefetch.forget();
        }
        let found = self.prefetch.table(&self.catalog, &record).await?;
        let mut now = announced(relation, &self.types);
        if !now.is_as_recorded(&record)
            && let Some(definition) = self.source.definition(relation.id).await
        {
            now.learn_numbers(definition.streamed());
        }
        match (compare(&now, &record, found.as_ref(), demand), found) {
            (Ok(matched), Some(target)) => {
                if let Some(reason) = self.existing_rows_in_doubt(&record, &target, &matched).await? {
                    // What is on its way may be of the old shape, and joins first.
                    let waits = self.copy.is_under_way(relation.id);
                    if self.copy.has(relation.id) && self.is_in_transaction() && !waits {
                        tracing::warn!(table = %record.name, "a schema change gave existing rows values that are not in the stream: what is copied of the table is copied again");
                        self.accept_and_condemn(relation.id, &name, &matched.accepted, target.oid);
                        return Ok(Resolved::IsCopiedAgain);
                    }
                    return Ok(Resolved::Waits(reason));
                }
                Ok(Resolved::Table(Box::new(Found { target, matched, record })))
            }
            (Ok(_), None) => {
                Ok(Resolved::Waits(self.tell(&now, None, relation.id, &[Change::NoTable]).await?))
            }
            (Err(changes), found) => {
                Ok(Resolved::Waits(self.tell(&now, found.as_ref(), relation.id, &changes).await?))
            }
        }
    }

    /// What a shape waits for that cannot be accepted as it is, because existing rows may hold other values on the source now:
    /// the table is copied again. Recorded outside of any batch: the caller commits what is open, and asks again.
    async fn existing_rows_in_doubt(
        &mut self,
        record: &RelationRecord,
        target: &TargetTable,
        matched: &Matched,
    ) -> Result<Option<Reason>, StreamError> {
        if matched.accepted == record.columns {
            return Ok(None);
        }
        let Some(source) = self.source.definition(record.source_oid).await else {
            // Dropped by now: nobody needs its rows.
            let gone = self.source.answers();
            return Ok((!gone).then(|| Reason::source_silent(&record.name)));
        };
        let on_target = definition::read_columns(&self.catalog, target.oid).await?;
        let Some(column) = column_in_doubt(&matched.accepted, record, &source, &on_target) else {
            return Ok(None);
        };
        if self.is_settled() && !self.copy.has(record.source_oid) {
            tracing::warn!(table = %record.name, column, "a schema change gave existing rows values that are not in the stream: the table is copied again");
            self.catalog.batch_execute(&relations::copy_again_sql(record.source_oid)).await?;
        }
        Ok(Some(Reason::copying(&record.name)))
    }

    /// Records a shape in the batch that applies it, unless it is recorded like that; the record as it is then.
    fn accept(
        &mut self,
        announced: &Relation,
        target: &TargetTable,
        matched: &Matched,
        record: RelationRecord,
    ) -> RelationRecord {
        let relation = announced.id;
        let now = RelationRecord {
            name: TableName::new(&announced.schema, &announced.name),
            columns: matched.accepted.clone(),
            target_oid: Some(target.oid),
            ..record.clone()
        };
        if now == record {
            return now;
        }
        if !now.columns.iter().zip(&record.columns).all(|(now, before)| now.looks_like(before))
            || now.columns.len() != record.columns.len()
            || now.name != record.name
        {
            tracing::info!(table = %now.name, "a changed table is accepted");
        }
        let lane = lane_of(relation, self.lanes.len());
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.building.record(relations::accept_sql(relation, &now.name, &now.columns, now.target_oid));
            let accepted = Accepted {
                name: now.name.clone(),
                columns: now.columns.clone(),
                target_oid: target.oid,
                batch: lane.next_number(),
            };
            self.accepted.insert(relation, accepted);
        }
        now
    }

    async fn tell(
        &mut self,
        now: &Announced,
        target: Option<&TargetTable>,
        relation: Oid,
        changes: &[Change],
    ) -> Result<Reason, StreamError> {
        let name_is_taken = changes.contains(&Change::TableRenamed)
            && target::read_table(&self.catalog, &now.name).await?.is_some();
        let definition = self.source.definition(relation).await;
        let told = Told {
            source: &now.name,
            target: target.map_or(&now.name, |target| &target.name),
            name_is_taken,
            definition: definition.as_ref(),
        };
        Ok(told.tell(changes).into())
    }

    async fn unknown(&mut self, relation: Oid, name: &TableName) -> Result<Reason, StreamError> {
        // It may be gone already: whoever watches the tables lets its changes pass then.
        self.publisher.met_unknown(relation, name.clone());
        if target::read_table(&self.catalog, name).await?.is_some() {
            return Ok(Reason::unknown(None, name));
        }
        let definition = self.source.definition(relation).await;
        let told = Told { source: name, target: name, name_is_taken: false, definition: definition.as_ref() };
        Ok(Reason::unknown(Some(told.tell(&[Change::NoTable])), name))
    }

    /// Waits until the table's definition on the target is another one, or it is time to try all the same.
    async fn still_refused(
        &mut self,
        relation: Oid,
        table: &TableName,
        message: &str,
    ) -> Result<Option<Reason>, StreamError> {
        let target = match target::read_table(&self.catalog, table).await? {
            Some(found) => definition::read(&self.catalog, found.oid).await?,
            None => None,
        };
        let since = self
            .refused_since
            .get_or_insert_with(|| RefusedSince { at: Instant::now(), target: target.clone() });
        if since.target != target || since.at.elapsed() >= REFUSED_INTERVAL {
            self.refused_since = None;
            return Ok(None);
        }
        let source = self.source.definition(relation).await;
        let (words, sql) = match (&source, &target) {
            (Some(source), Some(target)) => explain_refusal(table, source, target),
            _ => (Vec::new(), Vec::new()),
        };
        if sql.is_empty() {
            return Ok(Some(Reason::waits_for_operator(
                message.to_owned(),
                format!(
                    "Nothing after this change was applied and nothing is lost: the slot keeps it. Compare the definition and \
                     the constraints of {table} on both sides and correct the target's; the stream goes on by itself then."
                ),
            )));
        }
        Ok(Some(Reason::waits_for_operator(format!("{message}: {}", words.join("; ")), sql.join("\n"))))
    }
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
