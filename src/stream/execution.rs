//! How a batch is sent: the statements of its rounds, prepared where they are new, each with what its answer must say.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;

use crate::model::{Disposition, Lsn};
use crate::target;

use super::batch::{Bound, PreparedBatch, PreparedTable, Round, Work};
use super::error::StreamError;
use super::executor::{Application, Executor};
use super::pipeline::Expectation;
use super::statement::{StatementKey, ValueForm};
use super::statement_cache::{CacheKey, Form};

/// One row if the columns of a table are still of these types. COPY in binary form, or a row of the table, would otherwise
/// have a value read as one of another type; asked after it, when a lock keeps the columns from changing.
pub(super) const TYPES_UNCHANGED_SQL: &str = "SELECT 1 WHERE $2::text = (
    SELECT string_agg(attnum || ' ' || atttypid, ',' ORDER BY attnum) FROM pg_attribute
     WHERE attrelid = $1::text::oid AND NOT attisdropped AND attnum = ANY ($3::text::int2[]))";

/// Whether the same changes may be taken when they come one by one, or tell better what is wrong.
pub(super) fn may_succeed_row_by_row(error: &StreamError) -> bool {
    matches!(error, StreamError::Divergence { .. })
        || (error.sqlstate().is_some() && error.disposition() != Disposition::Retry)
}

/// The reason where neither the order nor the number of rows is.
pub(super) const REFUSED: &str = "refused";

/// Why sets did not do, for `pgsluice_apply_fallbacks_total{reason}`: a closed set of words.
pub(super) fn reason(error: &StreamError) -> &'static str {
    match error.sqlstate() {
        None => "row_count",
        Some(code) if *code == SqlState::UNIQUE_VIOLATION => "unique_violation",
        Some(code) if *code == SqlState::EXCLUSION_VIOLATION => "exclusion_violation",
        Some(_) => REFUSED,
    }
}

impl Executor {
    /// Sends all of a batch; answers are taken only where too much is under way.
    pub(super) async fn send(
        &mut self,
        batch: &mut PreparedBatch,
        how: Application,
    ) -> Result<(), StreamError> {
        for record in &batch.records {
            self.pipeline.send_simple(record);
        }
        for round in &mut batch.rounds {
            match round {
                Round::Changes(tables) => self.send_changes(tables, how).await?,
                Round::Truncate(tables) => self.send_truncate(tables).await?,
            }
        }
        Ok(())
    }

    async fn send_changes(
        &mut self,
        tables: &mut [PreparedTable],
        how: Application,
    ) -> Result<(), StreamError> {
        self.prepare(tables, how).await?;
        if how == Application::RowByRow {
            for table in tables {
                self.send_logged(table, 0..table.log.len()).await?;
            }
            return Ok(());
        }
        // A COPY waits until the server is ready for it: those that can begin at once come first.
        tables.sort_by_key(|table| !matches!(table.work.first(), Some(Work::Copy { .. })));
        for table in tables {
            if self.without_sets.contains(&table.bound.number) {
                self.send_logged(table, 0..table.log.len()).await?;
                continue;
            }
            for work in std::mem::take(&mut table.work) {
                self.send_work(table, work).await?;
            }
        }
        Ok(())
    }

    async fn send_work(&mut self, table: &PreparedTable, work: Work) -> Result<(), StreamError> {
        match work {
            Work::Logged(range) => self.send_logged(table, range).await,
            Work::Net { key, rows } => {
                let statement = self.statement(table, Form::Row, &key).await?;
                for row in &rows {
                    let expectation = expectation(table, &key, 1, table.last_commit_lsn());
                    self.pipeline.send_values(&statement, row.values(&table.log).clone(), expectation);
                    self.written.row += 1;
                    self.pipeline.relieve().await?;
                }
                Ok(())
            }
            Work::Set { key, arrays, rows, received } => {
                let statement = self.statement(table, Form::Set, &key).await?;
                let expected = |rows| expectation(table, &key, rows, table.last_commit_lsn());
                if !received.is_empty() {
                    // The server reads rows of the table before the statement locks it. Were the table altered in
                    // between, they would be taken for rows of the new shape.
                    let lock = format!("LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE", table.target().name);
                    self.pipeline.send_expecting(&lock, expected(0));
                }
                self.pipeline.send_arrays(&statement, arrays, expected(rows));
                if !received.is_empty() {
                    self.pipeline.send_text(
                        &self.types_unchanged,
                        typed_columns(table, received),
                        expected(1),
                    );
                }
                self.written.set += rows;
                self.pipeline.relieve().await
            }
            Work::Copy { key, data, rows } => {
                let statement = self.statement(table, Form::Copy, &key).await?;
                let expected = expectation(table, &key, rows, table.last_commit_lsn());
                self.pipeline.send_copy(&statement, data, expected).await?;
                self.written.copy += rows;
                if table.bound.table.value_form() == ValueForm::Binary {
                    let unchanged = expectation(table, &key, 1, table.last_commit_lsn());
                    let types = typed_columns(table, table.bound.table.copied_types(&key));
                    self.pipeline.send_text(&self.types_unchanged, types, unchanged);
                }
                Ok(())
            }
        }
    }

    async fn send_logged(
        &mut self,
        table: &PreparedTable,
        range: std::ops::Range<usize>,
    ) -> Result<(), StreamError> {
        let mut last: Option<(Arc<StatementKey>, Statement)> = None;
        for logged in table.log.get(range).unwrap_or_default() {
            let key = &logged.change.key;
            let statement = match &last {
                Some((known, statement)) if known == key => statement.clone(),
                _ => self.statement(table, Form::Row, key).await?,
            };
            let expectation = expectation(table, key, 1, logged.commit_lsn);
            self.pipeline.send_values(&statement, logged.change.values.clone(), expectation);
            self.written.row += 1;
            last = Some((Arc::clone(key), statement));
            self.pipeline.relieve().await?;
        }
        Ok(())
    }

    async fn send_truncate(&mut self, tables: &[Bound]) -> Result<(), StreamError> {
        // The source has worked the cascade out and named every table; identities are set by the cutover.
        let targets: Vec<_> = tables.iter().map(|bound| bound.table.target()).collect();
        let sql = target::emptying_sql(&self.session, &targets).await?;
        self.pipeline.send_simple(&sql);
        self.pipeline.relieve().await
    }

    /// Prepares what is not prepared yet, all at once: one round trip, however many tables there are.
    async fn prepare(&mut self, tables: &[PreparedTable], how: Application) -> Result<(), StreamError> {
        let mut wanted: HashSet<CacheKey> = HashSet::new();
        let mut missing = Vec::new();
        for table in tables {
            for (form, key) in self.needed(table, how) {
                let cache_key = CacheKey { binding: table.bound.number, form, key };
                if wanted.contains(&cache_key) || self.statements.get(&cache_key).is_some() {
                    continue;
                }
                wanted.insert(cache_key.clone());
                missing.push((table, cache_key));
            }
        }
        if missing.len() < 2 {
            return Ok(());
        }
        let session = &self.session;
        let prepared = join_all(missing.iter().map(|(table, cache_key)| async {
            let sql = text(table, cache_key.form, &cache_key.key);
            session.prepare(&sql).await
        }))
        .await;
        for ((table, cache_key), statement) in missing.into_iter().zip(prepared) {
            match statement {
                Ok(statement) => self.statements.insert(cache_key, statement),
                Err(error) => return Err(self.refused(table, &cache_key, error)),
            }
        }
        Ok(())
    }

    fn needed(&self, table: &PreparedTable, how: Application) -> Vec<(Form, Arc<StatementKey>)> {
        let mut needed = Vec::new();
        let logged = |range: std::ops::Range<usize>, needed: &mut Vec<(Form, Arc<StatementKey>)>| {
            let mut last: Option<&Arc<StatementKey>> = None;
            for logged in table.log.get(range).unwrap_or_default() {
                if last != Some(&logged.change.key) {
                    needed.push((Form::Row, Arc::clone(&logged.change.key)));
                    last = Some(&logged.change.key);
                }
            }
        };
        if how == Application::RowByRow || self.without_sets.contains(&table.bound.number) {
            logged(0..table.log.len(), &mut needed);
            return needed;
        }
        for work in &table.work {
            match work {
                Work::Logged(range) => logged(range.clone(), &mut needed),
                Work::Net { key, .. } => needed.push((Form::Row, Arc::clone(key))),
                Work::Set { key, .. } => needed.push((Form::Set, Arc::clone(key))),
                Work::Copy { key, .. } => needed.push((Form::Copy, Arc::clone(key))),
            }
        }
        needed
    }

    async fn statement(
        &mut self,
        table: &PreparedTable,
        form: Form,
        key: &Arc<StatementKey>,
    ) -> Result<Statement, StreamError> {
        let cache_key = CacheKey { binding: table.bound.number, form, key: Arc::clone(key) };
        if let Some(known) = self.statements.get(&cache_key) {
            return Ok(known);
        }
        match self.session.prepare(&text(table, form, key)).await {
            Ok(statement) => {
                self.statements.insert(cache_key, statement.clone());
                Ok(statement)
            }
            Err(error) => Err(self.refused(table, &cache_key, error)),
        }
    }

    fn refused(
        &mut self,
        table: &PreparedTable,
        cache_key: &CacheKey,
        error: tokio_postgres::Error,
    ) -> StreamError {
        let bound = &table.bound.table;
        StreamError::Prepare {
            relation: bound.relation(),
            table: bound.name().clone(),
            op: cache_key.key.op.as_str(),
            commit_lsn: table.first_with(&cache_key.key),
            error,
        }
    }
}

fn text(table: &PreparedTable, form: Form, key: &StatementKey) -> String {
    let bound = &table.bound.table;
    match form {
        Form::Row => bound.sql(key),
        Form::Set => {
            bound.set_statement(key, bound.value_form()).map(|statement| statement.sql).unwrap_or_default()
        }
        Form::Copy => bound.copy_statement(key, bound.value_form()).unwrap_or_default(),
    }
}

/// The parameters of [`TYPES_UNCHANGED_SQL`] for these columns, by `attnum` and `atttypid`.
fn typed_columns(table: &PreparedTable, mut types: Vec<(i16, u32)>) -> Vec<String> {
    types.sort_unstable();
    let listed: Vec<String> = types.iter().map(|(number, oid)| format!("{number} {oid}")).collect();
    let numbers: Vec<String> = types.iter().map(|(number, _)| number.to_string()).collect();
    vec![table.target().oid.to_string(), listed.join(","), format!("{{{}}}", numbers.join(","))]
}

fn expectation(table: &PreparedTable, key: &StatementKey, rows: u64, commit_lsn: Lsn) -> Expectation {
    Expectation::Rows { table: Arc::clone(&table.bound.table), op: key.op, rows, commit_lsn }
}
