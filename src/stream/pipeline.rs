//! Statements on their way: sent without waiting, answered in order, each answer held against what was expected.
//! tokio-postgres writes a request when its future is first polled; polling each once in order is the pipeline.

use std::collections::VecDeque;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio_postgres::Statement;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::connection::SqlSession;
use crate::model::Lsn;

use super::error::StreamError;
use super::statement::{ArrayValue, BindValue, BoundTable, RowOp, Values};

/// Statements under way at once (INV-11).
const IN_FLIGHT_MAX: usize = 1_024;
/// Bytes of parameters under way at once (INV-11, INV-12).
const IN_FLIGHT_BYTES_MAX: usize = 2 * 1_024 * 1_024;

/// Bytes of a COPY handed over at once.
const COPY_PIECE_BYTES: usize = 64 * 1_024;

/// What an answer must say.
#[derive(Clone, Debug)]
pub(super) enum Expectation {
    /// Nothing but success.
    Success,
    /// Exactly so many rows (INV-6).
    Rows {
        /// The table, for the report.
        table: Arc<BoundTable>,
        /// What was done.
        op: RowOp,
        /// How many.
        rows: u64,
        /// The source transaction's commit position, for the report.
        commit_lsn: Lsn,
    },
    /// Exactly the progress record.
    ProgressRecord,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, tokio_postgres::Error>> + Send>>;

struct InFlight {
    answer: Sent<u64>,
    expectation: Expectation,
    bytes: usize,
}

/// A request that has been written, and its answer if that was known at once.
enum Sent<T> {
    Waiting(Answer<T>),
    Answered(Result<T, tokio_postgres::Error>),
}

impl<T> Sent<T> {
    fn new(mut answer: Answer<T>) -> Self {
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Self::Waiting(answer),
            Poll::Ready(result) => Self::Answered(result),
        }
    }

    async fn answer(self) -> Result<T, tokio_postgres::Error> {
        match self {
            Self::Waiting(answer) => answer.await,
            Self::Answered(result) => result,
        }
    }
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
    pub(super) fn send_values(&mut self, statement: &Statement, values: Values, expectation: Expectation) {
        let bytes = values.size();
        let (session, statement) = (Arc::clone(&self.session), statement.clone());
        let answer = Box::pin(async move { session.execute_raw(&statement, values.iter()).await });
        self.send(answer, expectation, bytes);
    }

    /// Sends a prepared statement with texts of our own.
    pub(super) fn send_text(&mut self, statement: &Statement, values: Vec<String>, expectation: Expectation) {
        let bytes = values.iter().map(String::len).sum();
        let (session, statement) = (Arc::clone(&self.session), statement.clone());
        self.send(Box::pin(async move { session.execute_raw(&statement, values).await }), expectation, bytes);
    }

    /// Sends a prepared statement with whole columns.
    pub(super) fn send_arrays(
        &mut self,
        statement: &Statement,
        arrays: Vec<ArrayValue>,
        expectation: Expectation,
    ) {
        let bytes = arrays.iter().map(ArrayValue::len).sum();
        let (session, statement) = (Arc::clone(&self.session), statement.clone());
        self.send(Box::pin(async move { session.execute_raw(&statement, arrays).await }), expectation, bytes);
    }

    /// Sends rows to a prepared COPY, once everything before it is answered: a COPY that is refused because something failed
    /// before it gets one answer more than its client counts, and all later answers would be taken for others' (tokio-postgres
    /// up to 0.7).
    ///
    /// # Errors
    /// What the target answered before the rows were sent, or while they were.
    pub(super) async fn send_copy(
        &mut self,
        statement: &Statement,
        mut data: Bytes,
        expectation: Expectation,
    ) -> Result<(), StreamError> {
        self.drain().await?;
        let bytes = data.len();
        let copying = async {
            let mut sink = Box::pin(self.session.copy_in::<_, Bytes>(statement).await?);
            while !data.is_empty() {
                sink.feed(data.split_to(data.len().min(COPY_PIECE_BYTES))).await?;
            }
            sink.flush().await?;
            Ok(sink)
        };
        match copying.await {
            Ok(mut sink) => {
                self.send(Box::pin(async move { sink.as_mut().finish().await }), expectation, bytes);
                Ok(())
            }
            Err(error) => expectation.check(Err(error)),
        }
    }

    /// Sends a statement without parameters, of which nothing but success is expected.
    pub(super) fn send_simple(&mut self, sql: &str) {
        self.send_expecting(sql, Expectation::Success);
    }

    /// Sends a statement without parameters that touches no rows.
    pub(super) fn send_expecting(&mut self, sql: &str, expectation: Expectation) {
        let (session, sql) = (Arc::clone(&self.session), sql.to_owned());
        let bytes = sql.len();
        let answer = Box::pin(async move { session.batch_execute(&sql).await.map(|()| 0) });
        self.send(answer, expectation, bytes);
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

    /// Gives up waiting for answers: what they are does not matter any more.
    pub(super) fn forget(&mut self) {
        self.in_flight.clear();
        self.bytes = 0;
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

    fn send(&mut self, answer: Answer<u64>, expectation: Expectation, bytes: usize) {
        self.bytes += bytes;
        self.in_flight.push_back(InFlight { answer: Sent::new(answer), expectation, bytes });
    }

    async fn take_answer(&mut self) -> Result<(), StreamError> {
        let Some(next) = self.in_flight.pop_front() else { return Ok(()) };
        self.bytes -= next.bytes;
        next.expectation.check(next.answer.answer().await)
    }
}

impl Expectation {
    fn check(self, answer: Result<u64, tokio_postgres::Error>) -> Result<(), StreamError> {
        match (self, answer) {
            (Self::Success, Ok(_)) | (Self::ProgressRecord, Ok(1)) => Ok(()),
            (Self::Rows { rows, .. }, Ok(found)) if found == rows => Ok(()),
            (Self::Rows { table, op, commit_lsn, .. }, Ok(rows)) => Err(StreamError::Divergence {
                table: table.name().clone(),
                op: op.as_str(),
                rows,
                commit_lsn,
            }),
            (Self::ProgressRecord, Ok(_)) => Err(StreamError::ProgressMoved),
            (Self::Rows { table, op, commit_lsn, .. }, Err(error)) => {
                let (relation, table, op) = (table.relation(), table.name().clone(), op.as_str());
                Err(StreamError::Apply { relation, table, op, commit_lsn, error })
            }
            (Self::Success | Self::ProgressRecord, Err(error)) => Err(StreamError::Target(error)),
        }
    }
}

/// COMMIT on its way, and behind it the question where the target's WAL ends.
pub(super) struct Committing(Sent<String>);

impl Committing {
    /// Sends both.
    pub(super) fn send(session: &Arc<SqlSession>, wal_end: &Statement) -> Self {
        let (session, wal_end) = (Arc::clone(session), wal_end.clone());
        Self(Sent::new(Box::pin(async move {
            let (committed, wal_end) = tokio::join!(
                biased;
                session.batch_execute("COMMIT"),
                session.query_one(&wal_end, &[]),
            );
            committed?;
            Ok(wal_end?.get::<_, String>(0))
        })))
    }

    /// A position of the target's WAL behind the commit record.
    ///
    /// # Errors
    /// The target refused to commit, or its answer did not arrive.
    pub(super) async fn answer(self) -> Result<Lsn, StreamError> {
        let text = self.0.answer().await?;
        text.parse().map_err(|_| StreamError::MalformedLsn)
    }
}

impl ToSql for BindValue<'_> {
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
