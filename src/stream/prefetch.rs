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
    records_read: Reading,
    by_oid: HashMap<u32, TargetTable>,
    by_name: HashMap<TableName, TargetTable>,
    tables_read: Reading,
}

/// When all were read, and how often one was asked for since.
#[derive(Debug, Default)]
struct Reading {
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
        if !self.records_read.is_new() {
            self.records.clear();
        }
        if let Some(record) = self.records.remove(&relation) {
            return Ok(Some(record));
        }
        if self.records_read.is_worth_it() {
            self.records_read = Reading::now();
            self.records = relations::read(catalog).await?;
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
        if !self.tables_read.is_new() {
            self.by_oid.clear();
            self.by_name.clear();
        }
        if let Some(table) = self.take_table(record) {
            return Ok(Some(table));
        }
        if self.tables_read.is_worth_it() {
            self.read_tables(catalog).await?;
            if let Some(table) = self.take_table(record) {
                return Ok(Some(table));
            }
        }
        Ok(match record.target_oid {
            Some(oid) => target::read_by_oid(catalog, oid).await?,
            None => target::read_table(catalog, &record.name).await?,
        })
    }

    fn take_table(&mut self, record: &RelationRecord) -> Option<TargetTable> {
        match record.target_oid {
            Some(oid) => self.by_oid.remove(&oid),
            None => self.by_name.remove(&record.name),
        }
    }

    async fn read_tables(&mut self, catalog: &SqlSession) -> Result<(), StreamError> {
        self.tables_read = Reading::now();
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
        Ok(())
    }
}

impl Reading {
    fn now() -> Self {
        Self { read_at: Some(Instant::now()), singly: None }
    }

    fn is_new(&self) -> bool {
        self.read_at.is_some_and(|at| at.elapsed() < AGE_MAX)
    }

    /// Whether it is time to read all: one more is asked for.
    fn is_worth_it(&mut self) -> bool {
        let (since, count) = self.singly.get_or_insert((Instant::now(), 0));
        if since.elapsed() >= WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        *count > SINGLY_MAX
    }
}
