//! What holds the stream at one point, and how that is told: a reason with its remedy on the status board, and what the
//! next attempt has to wait for when the point is in the middle of a transaction. While it is held nothing is locked on the
//! target and nothing later is confirmed (INV-3); the reader goes on sending feedback (INV-7).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgsluice_proto::pgoutput::{Relation, TypeInfo};

use crate::config::Config;
use crate::connection::{SqlSession, connect_sql};
use crate::migration::{Blocking, Problem, StatusBoard};
use crate::model::{Lsn, Oid, Side, TableName};
use crate::source::definition::{self, TableDefinition};
use crate::telemetry::Metrics;

use super::error::StreamError;
use super::remedy::ShapeDifference;
use super::shape::Demand;

/// How often both sides are looked at again.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A change that the target refused is tried again this often, or as soon as the table's definition there has changed.
pub(super) const REFUSED_INTERVAL: Duration = Duration::from_secs(10);
/// How long a definition of the source is taken for new.
const DEFINITION_AGE_MAX: Duration = Duration::from_secs(2);
/// How long the source may take to answer what it is asked for a message's sake.
const SOURCE_ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why the stream does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Reason {
    /// What happened and what it means.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// Whether a person has to do it.
    pub blocking: Blocking,
}

impl Reason {
    /// A person has to change the target.
    pub(super) const fn waits_for_operator(message: String, remedy: String) -> Self {
        Self { message, remedy, blocking: Blocking::WaitingForOperator }
    }

    /// The source's catalog is needed to tell what a change did.
    pub(super) fn source_silent(table: &TableName) -> Self {
        Self {
            message: format!(
                "changes of table {table} wait until the source's catalog can be asked what a schema change did to existing rows"
            ),
            remedy:
                "See that the source takes one more connection of pgsluice; the stream goes on by itself."
                    .into(),
            blocking: Blocking::Retrying,
        }
    }

    /// The table's rows are still being copied.
    pub(super) fn copying(table: &TableName) -> Self {
        Self {
            message: format!("changes of table {table} wait until its copy is complete"),
            remedy: "Nothing is to be done: the stream goes on by itself.".into(),
            blocking: Blocking::Retrying,
        }
    }

    /// The stream has changes of a table that is not part of the migration (yet).
    pub(super) fn unknown(difference: Option<ShapeDifference>, table: &TableName) -> Self {
        match difference {
            Some(difference) => Self::waits_for_operator(
                format!("table {table} is new on the source, and the target does not have it"),
                difference.remedy,
            ),
            None => Self::waits_for_operator(
                format!("table {table} is new on the source, and its rows are not on the target yet"),
                format!(
                    "-- It has to join the migration: pgsluice tables add {}\n-- A partition of a migrated table joins by itself.",
                    table.plain()
                ),
            ),
        }
    }
}

impl From<ShapeDifference> for Reason {
    fn from(difference: ShapeDifference) -> Self {
        Self::waits_for_operator(difference.to_string(), difference.remedy)
    }
}

/// The next attempt waits before it begins the transaction committed at `commit_lsn`, so that everything before it is
/// applied and confirmed, and nothing of it locks the target.
#[derive(Clone, Debug)]
pub struct HoldBefore {
    /// Commit position of the transaction.
    pub(super) commit_lsn: Lsn,
    /// What to wait for.
    pub(super) cause: Cause,
}

/// What a transaction waits for.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// The target must match a shape that is announced in the middle of it.
    Shape { relation: Relation, types: HashMap<Oid, TypeInfo>, demand: Demand },
    /// The target refused one of its changes.
    Refused { relation: Oid, table: TableName, message: String },
}

impl HoldBefore {
    /// What the next attempt has to wait for after this error; `None` if it can go on where it was.
    pub(super) fn after(error: &StreamError) -> Option<Self> {
        match error {
            StreamError::HeldMidway { before, .. } => Some((**before).clone()),
            StreamError::Apply { relation, table, commit_lsn, error: cause, .. }
            | StreamError::Prepare { relation, table, commit_lsn, error: cause, .. }
                if is_about_the_definition(cause) =>
            {
                Some(Self {
                    commit_lsn: *commit_lsn,
                    cause: Cause::Refused {
                        relation: *relation,
                        table: table.clone(),
                        message: error.to_string(),
                    },
                })
            }
            _ => None,
        }
    }

    /// Whether the target refused a change.
    pub(super) const fn is_of_a_refusal(&self) -> bool {
        matches!(self.cause, Cause::Refused { .. })
    }
}

/// Whether a refusal says that the target's definition does not allow what the source's did: a value that the column's
/// type does not take (class 22), NOT NULL, CHECK and domains, or something missing (class 42).
pub(super) fn is_about_the_definition(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        let code = code.code();
        code.starts_with("22") || code.starts_with("42") || code == "23502" || code == "23514"
    })
}

/// Tells on the status board and in a metric that, and why, the stream is held.
#[derive(Debug)]
pub(super) struct Holding {
    board: StatusBoard,
    metrics: Arc<Metrics>,
    told: Option<Reason>,
    /// The board still says why the attempt before ended.
    inherited: bool,
}

impl Holding {
    /// Nothing is held yet; `before` is what this attempt will wait for.
    pub(super) const fn new(board: StatusBoard, metrics: Arc<Metrics>, before: Option<&HoldBefore>) -> Self {
        Self { board, metrics, told: None, inherited: before.is_some() }
    }

    /// The stream is held.
    pub(super) fn by(&mut self, reason: Reason) {
        if self.told.as_ref() == Some(&reason) {
            return;
        }
        let (message, remedy) = (&reason.message, &reason.remedy);
        let known = self
            .board
            .with(|status| status.problem.as_ref().is_some_and(|problem| problem.message == *message));
        match reason.blocking {
            _ if known => {}
            Blocking::WaitingForOperator => {
                tracing::error!(problem = %message, %remedy, "stream waits for an operator");
            }
            _ => tracing::info!(reason = %message, "stream waits"),
        }
        let problem = Problem {
            message: message.clone(),
            remedy: remedy.clone(),
            at: Timestamp::now(),
            blocking: reason.blocking,
        };
        self.board.update(|status| status.problem = Some(problem));
        self.metrics.set_stream_held(true);
        self.told = Some(reason);
    }

    /// The stream goes on, if it was held.
    pub(super) fn over(&mut self) {
        let was_inherited = std::mem::take(&mut self.inherited);
        if self.told.take().is_some() || was_inherited {
            tracing::info!("stream goes on");
            self.board.update(|status| status.problem = None);
            self.metrics.set_stream_held(false);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.metrics.set_stream_held(false);
    }
}

/// The source's catalog, asked only when there is a difference to be told. Whatever goes wrong with it, the stream waits all
/// the same, and the message says less.
#[derive(Debug)]
pub(super) struct SourceView {
    config: Arc<Config>,
    session: Option<SqlSession>,
    known: Option<(Oid, Instant, Option<TableDefinition>)>,
}

impl SourceView {
    pub(super) const fn new(config: Arc<Config>) -> Self {
        Self { config, session: None, known: None }
    }

    /// A table's definition as it is now; `None` if it is gone, or the source does not answer.
    pub(super) async fn definition(&mut self, relation: Oid) -> Option<TableDefinition> {
        if let Some((known, at, definition)) = &self.known
            && *known == relation
            && at.elapsed() < DEFINITION_AGE_MAX
        {
            return definition.clone();
        }
        let asked = tokio::time::timeout(SOURCE_ANSWER_MAX, self.ask(relation)).await;
        let definition = match asked {
            Ok(Ok(definition)) => definition,
            Ok(Err(problem)) => {
                tracing::debug!(%problem, "the source's catalog cannot be asked");
                self.session = None;
                None
            }
            Err(_) => {
                self.session = None;
                None
            }
        };
        self.known = Some((relation, Instant::now(), definition.clone()));
        definition
    }

    /// Whether the source answered when it was asked last.
    pub(super) const fn answers(&self) -> bool {
        self.session.is_some()
    }

    async fn ask(&mut self, relation: Oid) -> Result<Option<TableDefinition>, StreamError> {
        if self.session.as_ref().is_none_or(|session| session.is_closed()) {
            let session = connect_sql(&self.config.source.connection, Side::Source, "definitions")
                .await
                .map_err(|error| StreamError::Connect { side: Side::Source, error: Box::new(error) })?;
            self.session = Some(session);
        }
        match &self.session {
            Some(session) => Ok(definition::read(session, relation.0).await?),
            None => Ok(None),
        }
    }
}
