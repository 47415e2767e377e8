//! What is recorded of relations, and the target's tables for them: asked one by one, or all at once when many are
//! announced in a short time. What was read ahead is used once, and only while it is new: the target may be altered.

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
    /// How many were asked for one by one, and since when.
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
        if self.read_at.is_some_and(|at| at.elapsed() >= AGE_MAX) {
            *self = Self::default();
        }
        if let Some(record) = self.records.remove(&relation) {
            return Ok(Some(record));
        }
        if self.read_at.is_none() && self.is_asked_often() {
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
        let is_new = self.read_at.is_some_and(|at| at.elapsed() < AGE_MAX);
        let ahead = match record.target_oid {
            Some(oid) => self.by_oid.remove(&oid),
            None => self.by_name.remove(&record.name),
        };
        if let Some(table) = ahead.filter(|_| is_new) {
            return Ok(Some(table));
        }
        Ok(match record.target_oid {
            Some(oid) => target::read_by_oid(catalog, oid).await?,
            None => target::read_table(catalog, &record.name).await?,
        })
    }

    fn is_asked_often(&mut self) -> bool {
        let (since, count) = self.singly.get_or_insert((Instant::now(), 0));
        if since.elapsed() >= WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        *count > SINGLY_MAX
    }

    async fn read_all(&mut self, catalog: &SqlSession) -> Result<(), StreamError> {
        let read_at = Instant::now();
        let records = relations::read(catalog).await?;
        let (mut oids, mut names) = (Vec::new(), Vec::new());
        for record in records.values() {
            match record.target_oid {
                Some(oid) => oids.push(oid),
                None => names.push(&record.name),
            }
        }
        for table in target::read_tables(catalog, &oids, &names).await? {
            self.by_name.insert(table.name.clone(), table.clone());
            self.by_oid.insert(table.oid, table);
        }
        self.records = records;
        self.read_at = Some(read_at);
        Ok(())
    }
}
