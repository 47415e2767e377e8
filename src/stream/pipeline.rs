//! Statements on their way: sent without waiting, answered in order, each answer held against what was expected.
//! tokio-postgres writes a request when its future is first polled; polling each once in order is the pipeline.

use std::collections::VecDeque;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, BytesMut};
use tokio_postgres::Statement;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::connection::SqlSession;
use crate::model::Lsn;

use super::error::StreamError;
use super::statement::{BindValue, BoundTable, RowOp};

/// Statements under way at once (INV-11).
const IN_FLIGHT_MAX: usize = 1_024;
/// Bytes of parameters under way at once (INV-11, INV-12).
const IN_FLIGHT_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// What an answer must say.
#[derive(Clone, Debug)]
pub(super) enum Expectation {
    /// Nothing but success.
    Success,
    /// Exactly one row (INV-6).
    OneRow {
        /// The table, for the report.
        table: Arc<BoundTable>,
        /// What was done.
        op: RowOp,
        /// The source transaction's commit position, for the report.
        commit_lsn: Lsn,
    },
    /// Exactly the progress record.
    ProgressRecord,
}

type Answer = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send>>;

struct InFlight {
    answer: Sent,
    expectation: Expectation,
    bytes: usize,
}

enum Sent {
    Waiting(Answer),
    Answered(Result<u64, tokio_postgres::Error>),
}

/// The pipeline of one session. Not answered statements are dropped with it.
pub(super) struct Pipeline {
    session: Arc<SqlSession>,
    in_flight: VecDeque<InFlight>,
    bytes: usize,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pipeline({} statements, {} bytes in flight)", self.in_flight.len(), self.bytes)
    }
}

impl Pipeline {
    /// An empty pipeline.
    #[must_use]
    pub(super) const fn new(session: Arc<SqlSession>) -> Self {
        Self { session, in_flight: VecDeque::new(), bytes: 0 }
    }

    /// Sends a prepared statement with values as the source sent them.
    pub(super) fn send_values(
        &mut self,
        statement: &Statement,
        values: Vec<BindValue>,
        expectation: Expectation,
    ) {
        let bytes = values.iter().map(BindValue::len).sum();
        let (session, statement) = (Arc::clone(&self.session), statement.clone());
        self.send(Box::pin(async move { session.execute_raw(&statement, values).await }), expectation, bytes);
    }

    /// Sends a prepared statement with texts of our own.
    pub(super) fn send_text(&mut self, statement: &Statement, values: Vec<String>, expectation: Expectation) {
        let bytes = values.iter().map(String::len).sum();
        let (session, statement) = (Arc::clone(&self.session), statement.clone());
        self.send(Box::pin(async move { session.execute_raw(&statement, values).await }), expectation, bytes);
    }

    /// Sends a statement without parameters.
    pub(super) fn send_simple(&mut self, sql: &str) {
        let (session, sql) = (Arc::clone(&self.session), sql.to_owned());
        let bytes = sql.len();
        let answer = Box::pin(async move { session.batch_execute(&sql).await.map(|()| 0) });
        self.send(answer, Expectation::Success, bytes);
    }

    /// Waits for answers while too much is under way.
    ///
    /// # Errors
    /// The first answer that is not as expected.
    pub(super) async fn relieve(&mut self) -> Result<(), StreamError> {
        if self.in_flight.len() < IN_FLIGHT_MAX && self.bytes < IN_FLIGHT_BYTES_MAX {
            return Ok(());
        }
        while self.in_flight.len() > IN_FLIGHT_MAX / 2 || self.bytes > IN_FLIGHT_BYTES_MAX / 2 {
            self.take_answer().await?;
        }
        Ok(())
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// The first answer that is not as expected.
    pub(super) async fn drain(&mut self) -> Result<(), StreamError> {
        while !self.in_flight.is_empty() {
            self.take_answer().await?;
        }
        Ok(())
    }

    fn send(&mut self, mut answer: Answer, expectation: Expectation, bytes: usize) {
        let answer = match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Sent::Waiting(answer),
            Poll::Ready(result) => Sent::Answered(result),
        };
        self.bytes += bytes;
        self.in_flight.push_back(InFlight { answer, expectation, bytes });
    }

    async fn take_answer(&mut self) -> Result<(), StreamError> {
        let Some(next) = self.in_flight.pop_front() else { return Ok(()) };
        self.bytes -= next.bytes;
        let rows = match next.answer {
            Sent::Waiting(answer) => answer.await,
            Sent::Answered(result) => result,
        };
        next.expectation.check(rows)
    }
}

impl Expectation {
    fn check(self, answer: Result<u64, tokio_postgres::Error>) -> Result<(), StreamError> {
        match (self, answer) {
            (Self::Success, Ok(_)) | (Self::OneRow { .. } | Self::ProgressRecord, Ok(1)) => Ok(()),
            (Self::OneRow { table, op, commit_lsn }, Ok(rows)) => Err(StreamError::Divergence {
                table: table.name().clone(),
                op: op.as_str(),
                rows,
                commit_lsn,
            }),
            (Self::ProgressRecord, Ok(_)) => Err(StreamError::ProgressMoved),
            (Self::OneRow { table, op, commit_lsn }, Err(error)) => {
                let (relation, table, op) = (table.relation(), table.name().clone(), op.as_str());
                Err(StreamError::Apply { relation, table, op, commit_lsn, error })
            }
            (Self::Success | Self::ProgressRecord, Err(error)) => Err(StreamError::Target(error)),
        }
    }
}

impl ToSql for BindValue {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Text(bytes) | Self::Binary(bytes) => {
                out.put_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        // The server parses the value by the column's own type; we never do.
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self {
            Self::Null | Self::Text(_) => Format::Text,
            Self::Binary(_) => Format::Binary,
        }
    }

    to_sql_checked!();
}
