//! Prepared statements of one session, by everything their text depends on. Bounded: what was not used for a while is
//! given back to the server (INV-11).

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Statement;

use super::statement::StatementKey;

/// Statements kept at most; at least half as many are.
const STATEMENTS_MAX: usize = 6_000;

/// In which form a key's statement is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// For one row.
    Row,
    /// For many rows, by arrays.
    Set,
    /// For many new rows, by COPY.
    Copy,
}

/// What makes two statements the same: the number of the table's binding (another shape has another number), the form,
/// and what it does. Compared whole (trap 29).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    pub(super) binding: u64,
    pub(super) form: Form,
    pub(super) key: Arc<StatementKey>,
}

/// Two generations: when the young one is full it becomes the old one, and what is used of the old one is young again.
#[derive(Debug, Default)]
pub(super) struct StatementCache {
    young: HashMap<CacheKey, Statement>,
    old: HashMap<CacheKey, Statement>,
}

impl StatementCache {
    /// The statement, if it is there.
    pub(super) fn get(&mut self, key: &CacheKey) -> Option<Statement> {
        if let Some(statement) = self.young.get(key) {
            return Some(statement.clone());
        }
        let (key, statement) = self.old.remove_entry(key)?;
        self.insert(key, statement.clone());
        Some(statement)
    }

    /// Keeps a statement.
    pub(super) fn insert(&mut self, key: CacheKey, statement: Statement) {
        if self.young.len() >= STATEMENTS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, statement);
    }
}
