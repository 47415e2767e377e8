//! What is recorded of relations, and the target's tables for them: asked one by one, or all at once when many are
//! announced in a short time. What was read ahead is used once, and only while it is new: the target may be altered.
//! A record never turns from joined to copying behind the stream's back: a table that is joined is only marked to be copied
//! again by the gatherer, which has taken its record out, or while no stream runs (`join::mark::demote`,
//! `join::request::record`).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::connection::SqlSession;
use crate::model::{Oid, TableName};
use crate::target::relations::{self, RelationRecord};
use crate::target::{self, TargetTable};

use super::error::StreamError;

/// So many are asked for one by one in [`WINDOW`], before all are read at once.
const SINGLY_MAX: u32 = 8;
const WINDOW: Duration = Duration::from_secs(1);
/// How long what was read ahead counts as new.
const AGE_MAX: Duration = Duration::from_secs(2);

/// What was read ahead.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    records: BTreeMap<Oid, RelationRecord>,
    by_oid: HashMap<u32, TargetTable>,
    by_name: HashMap<TableName, TargetTable>,
    read_at: Option<Instant>,
    asked: Asked,
}

/// What was asked for since all were read.
#[derive(Debug, Default)]
struct Asked {
    /// How many of those read ahead.
    found: u32,
    /// How many one by one, and since when.
    singly: Option<(Instant, u32)>,
}

impl Prefetch {
    /// What is recorded of a relation.
    ///
    /// # Errors
    /// What the target answered.
    pub(super) async fn record(
        &mut self,
        catalog: &SqlSession,
        relation: Oid,
    ) -> Result<Option<RelationRecord>, StreamError> {
        self.forget_what_is_old();
        if let Some(record) = self.records.remove(&relation) {
            self.asked.found += 1;
            return Ok(Some(record));
        }
        if self.asked.is_for_many() {
            self.read_all(catalog).await?;
            if let Some(record) = self.records.remove(&relation) {
                return Ok(Some(record));
            }
        }
        Ok(relations::read_one(catalog, relation).await?)
    }

    /// The target's table of a record: by its OID, or by the relation's name before it is known.
    ///
    /// # Errors
    /// What the target answered.
    pub(super) async fn table(
        &mut self,
        catalog: &SqlSession,
        record: &RelationRecord,
    ) -> Result<Option<TargetTable>, StreamError> {
        self.forget_what_is_old();
        let read_ahead = match record.target_oid {
            Some(oid) => self.by_oid.remove(&oid),
            None => self.by_name.remove(&record.name),
        };
        if read_ahead.is_some() {
            return Ok(read_ahead);
        }
        Ok(match record.target_oid {
            Some(oid) => target::read_by_oid(catalog, oid).await?,
            None => target::read_table(catalog, &record.name).await?,
        })
    }

    fn forget_what_is_old(&mut self) {
        if self.read_at.is_some_and(|at| at.elapsed() >= AGE_MAX) {
            self.forget();
        }
    }

    /// Whatever was read ahead is not how it is any more.
    pub(super) fn forget(&mut self) {
        self.read_at = None;
        self.records.clear();
        self.by_oid.clear();
        self.by_name.clear();
    }

    async fn read_all(&mut self, catalog: &SqlSession) -> Result<(), StreamError> {
        (self.read_at, self.asked) = (Some(Instant::now()), Asked::default());
        self.records = relations::read(catalog).await?;
        let (mut oids, mut names) = (Vec::new(), Vec::new());
        for record in self.records.values() {
            match record.target_oid {
                Some(oid) => oids.push(oid),
                None => names.push(&record.name),
            }
        }
        let tables = target::read_tables(catalog, &oids, &names).await?;
        self.by_name = tables.iter().map(|table| (table.name.clone(), table.clone())).collect();
        self.by_oid = tables.into_iter().map(|table| (table.oid, table)).collect();
        Ok(())
    }
}

impl Asked {
    /// Whether it is time to read all: one more is asked for, which was not read ahead.
    fn is_for_many(&mut self) -> bool {
        let (since, count) = self.singly.get_or_insert((Instant::now(), 0));
        if since.elapsed() >= WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        // When many were asked for the last time, as many will be now: each piece of a backlog announces its tables again.
        self.found > SINGLY_MAX || *count > SINGLY_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_asked_for_one_by_one_and_more_than_that_all_at_once() {
        let mut asked = Asked::default();
        let answers: Vec<bool> = (0..=SINGLY_MAX).map(|_| asked.is_for_many()).collect();
        assert_eq!(answers.iter().position(|many| *many), Some(8));
    }

    #[test]
    fn where_many_were_used_the_next_one_asks_for_all_and_where_few_were_it_does_not() {
        let of = |found| Asked { found, ..Asked::default() }.is_for_many();
        assert!(of(SINGLY_MAX + 1));
        assert!(!of(SINGLY_MAX));
    }
}
