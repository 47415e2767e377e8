//! The journal of cutovers and rehearsals, on the target: what was asked for, how far it came, each step's time,
//! the certificate. It says what to put back after a crash; it is *not* the truth about whether the cutover
//! happened (that is the fence row on the source). Inside the pause it is written behind the operation's back,
//! except for what must be durable before COMMIT.

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::report::{CutoverReport, Outcome, StepOutcome, StepReport};
use super::state::{Action, State};
use super::{Nonce, SqlFailure};
use crate::connection::SqlSession;
use crate::migration::CutoverMode;
use crate::model::{Direction, Side};

/// Entries that may wait to be written; an operation has fewer than this in all, so the bound is never felt.
const QUEUE_ENTRIES_MAX: usize = 256;

const OBJECTS: &str = "\
BEGIN;
DO $$ BEGIN
  IF to_regnamespace('pgsluice') IS NULL THEN CREATE SCHEMA pgsluice; END IF;
END $$;
CREATE TABLE IF NOT EXISTS pgsluice.cutover (
  epoch bigint PRIMARY KEY,
  mode text NOT NULL CHECK (mode IN ('cutover', 'rehearsal')),
  nonce text NOT NULL,
  idempotency_key text UNIQUE,
  state text NOT NULL,
  outcome text NOT NULL,
  reason text,
  remedy text,
  started_at timestamptz NOT NULL,
  ended_at timestamptz,
  pause_ms double precision,
  certificate jsonb
);
CREATE TABLE IF NOT EXISTS pgsluice.cutover_step (
  epoch bigint NOT NULL REFERENCES pgsluice.cutover ON DELETE CASCADE,
  position integer NOT NULL,
  name text NOT NULL,
  started_at timestamptz NOT NULL,
  duration_ms double precision NOT NULL,
  in_pause boolean NOT NULL,
  outcome text NOT NULL,
  detail text,
  PRIMARY KEY (epoch, position)
);
COMMIT";

/// An operation as the journal has it.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    /// Its report.
    pub(super) report: CutoverReport,
    /// Its attempt.
    pub(super) nonce: Nonce,
}

fn failed(step: &'static str) -> impl Fn(tokio_postgres::Error) -> SqlFailure {
    SqlFailure::of(Side::Target, step)
}

/// Creates the journal's tables, as far as they are missing.
pub(super) async fn prepare(target: &Client) -> Result<(), SqlFailure> {
    target.batch_execute(OBJECTS).await.map_err(failed("create the cutover journal"))
}

/// Whether there is a journal at all.
pub(super) async fn exists(target: &Client) -> Result<bool, SqlFailure> {
    let row = target
        .query_typed_one("SELECT to_regclass('pgsluice.cutover') IS NOT NULL", &[])
        .await
        .map_err(failed("look for the cutover journal"))?;
    Ok(row.get(0))
}

/// Records a new operation and gives it the next epoch, after `epoch_before`: the last of the other direction.
pub(super) async fn open_operation(
    target: &Client,
    mode: CutoverMode,
    nonce: &Nonce,
    idempotency_key: Option<&str>,
    now: Timestamp,
    epoch_before: i64,
) -> Result<i64, SqlFailure> {
    let row = target
        .query_typed_one(
            "INSERT INTO pgsluice.cutover (epoch, mode, nonce, idempotency_key, state, outcome, started_at)
             SELECT greatest(coalesce(max(epoch), 0), $5) + 1, $1, $2, $3, 'arming', 'running', $4::text::timestamptz
             FROM pgsluice.cutover RETURNING epoch",
            &[
                (&mode_name(mode), Type::TEXT),
                (&nonce.as_str(), Type::TEXT),
                (&idempotency_key, Type::TEXT),
                (&now.to_string(), Type::TEXT),
                (&epoch_before, Type::INT8),
            ],
        )
        .await
        .map_err(failed("record the operation"))?;
    Ok(row.get(0))
}

/// The highest epoch that a side knows, of operations whose journal it has and of fences that it has had; 0 if none.
pub(super) async fn highest_epoch(session: &Client, side: Side) -> Result<i64, SqlFailure> {
    let mut highest = 0;
    for table in ["pgsluice.cutover", "pgsluice.fence"] {
        let failed = SqlFailure::of(side, "read the last operation's epoch");
        let known = session
            .query_typed_one("SELECT to_regclass($1) IS NOT NULL", &[(&table, Type::TEXT)])
            .await
            .map_err(&failed)?;
        if known.get::<_, bool>(0) {
            let sql = format!("SELECT coalesce(max(epoch), 0) FROM {table}");
            highest = highest.max(session.query_typed_one(&sql, &[]).await.map_err(&failed)?.get(0));
        }
    }
    Ok(highest)
}

/// The last operation. `direction` is that of all operations with this journal.
pub(super) async fn last(target: &Client, direction: Direction) -> Result<Option<Recorded>, SqlFailure> {
    load(target, direction, "ORDER BY epoch DESC LIMIT 1", &[]).await
}

/// The last operation of which the journal does not have the end; others may have been started and ended since.
pub(super) async fn unfinished(
    target: &Client,
    direction: Direction,
) -> Result<Option<Recorded>, SqlFailure> {
    let which = "WHERE outcome NOT IN ('completed', 'aborted') ORDER BY epoch DESC LIMIT 1";
    load(target, direction, which, &[]).await
}

/// The operation that was started with this key.
pub(super) async fn by_key(
    target: &Client,
    direction: Direction,
    key: &str,
) -> Result<Option<Recorded>, SqlFailure> {
    load(target, direction, "WHERE idempotency_key = $1", &[(&key, Type::TEXT)]).await
}

async fn load(
    target: &Client,
    direction: Direction,
    which: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Option<Recorded>, SqlFailure> {
    let reading = "read the cutover journal";
    let sql = format!(
        "SELECT epoch, mode, nonce, idempotency_key, state, outcome, reason, remedy,
                (extract(epoch FROM started_at) * 1000000)::bigint, (extract(epoch FROM ended_at) * 1000000)::bigint,
                pause_ms, certificate
         FROM pgsluice.cutover {which}"
    );
    let Some(row) = target.query_typed_opt(&sql, parameters).await.map_err(failed(reading))? else {
        return Ok(None);
    };
    let epoch: i64 = row.get(0);
    let steps = target
        .query_typed(
            "SELECT name, (extract(epoch FROM started_at) * 1000000)::bigint, duration_ms, in_pause, outcome, detail
             FROM pgsluice.cutover_step WHERE epoch = $1 ORDER BY position",
            &[(&epoch, Type::INT8)],
        )
        .await
        .map_err(failed(reading))?;
    let state: String = row.get(4);
    let report = CutoverReport {
        epoch,
        mode: if row.get::<_, &str>(1) == "cutover" { CutoverMode::Cutover } else { CutoverMode::Rehearsal },
        direction,
        idempotency_key: row.get(3),
        state: State::NAMES.into_iter().find(|name| *name == state).unwrap_or("unknown"),
        outcome: outcome(&row),
        started_at: timestamp(row.get(8)),
        ended_at: row.get::<_, Option<i64>>(9).map(timestamp),
        steps: steps.iter().map(step).collect(),
        pause: row.get::<_, Option<f64>>(10).map(milliseconds),
        certificate: row.get(11),
    };
    Ok(Some(Recorded { report, nonce: Nonce::from(row.get::<_, String>(2)) }))
}

fn outcome(row: &Row) -> Outcome {
    let reason = row.get::<_, Option<String>>(6).unwrap_or_default();
    let remedy = row.get::<_, Option<String>>(7).unwrap_or_default();
    match row.get(5) {
        "completed" => Outcome::Completed,
        "aborted" => Outcome::Aborted { reason, remedy },
        "in_doubt" => Outcome::InDoubt { reason, remedy },
        _ => Outcome::Running,
    }
}

fn step(row: &Row) -> StepReport {
    let name: String = row.get(0);
    StepReport {
        name: Action::ALL.into_iter().map(Action::as_str).find(|known| *known == name).unwrap_or("unknown"),
        started_at: timestamp(row.get(1)),
        duration: milliseconds(row.get(2)),
        in_pause: row.get(3),
        outcome: match row.get(4) {
            "done" => StepOutcome::Done,
            "failed" => StepOutcome::Failed,
            "undone" => StepOutcome::Undone,
            _ => StepOutcome::Running,
        },
        detail: row.get(5),
    }
}

const fn step_outcome_name(outcome: StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Running => "running",
        StepOutcome::Done => "done",
        StepOutcome::Failed => "failed",
        StepOutcome::Undone => "undone",
    }
}

pub(super) const fn mode_name(mode: CutoverMode) -> &'static str {
    match mode {
        CutoverMode::Cutover => "cutover",
        CutoverMode::Rehearsal => "rehearsal",
    }
}

fn timestamp(microseconds: i64) -> Timestamp {
    Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn milliseconds(value: f64) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(value / 1_000.0).unwrap_or_default()
}

/// What is written behind the operation's back.
#[derive(Debug)]
enum Entry {
    State {
        epoch: i64,
        state: &'static str,
    },
    Step {
        epoch: i64,
        position: usize,
        step: StepReport,
    },
    /// Durable when answered, and everything before it.
    Intent {
        epoch: i64,
        draft: Value,
        written: oneshot::Sender<Result<(), String>>,
    },
    /// Durable when answered.
    End {
        report: Box<CutoverReport>,
        written: oneshot::Sender<Result<(), String>>,
    },
}

/// The operation's end of the queue.
#[derive(Clone, Debug)]
pub(super) struct JournalQueue(mpsc::Sender<Entry>);

/// The journal's end: [`run`](Self::run) it beside the operation.
#[derive(Debug)]
pub(super) struct JournalWriter(mpsc::Receiver<Entry>);

/// Both ends.
pub(super) fn queue() -> (JournalQueue, JournalWriter) {
    let (sender, receiver) = mpsc::channel(QUEUE_ENTRIES_MAX);
    (JournalQueue(sender), JournalWriter(receiver))
}

impl JournalQueue {
    /// The operation enters a state.
    pub(super) fn state(&self, epoch: i64, state: &'static str) {
        self.put(Entry::State { epoch, state });
    }

    /// A step began or ended.
    pub(super) fn step(&self, epoch: i64, position: usize, step: StepReport) {
        self.put(Entry::Step { epoch, position, step });
    }

    fn put(&self, entry: Entry) {
        // What does not fit is missing from the history of steps and from nothing else; `intent` and `end` wait.
        if self.0.try_send(entry).is_err() {
            tracing::warn!("the cutover journal does not keep up; a step is missing in it");
        }
    }

    /// The operation is about to commit: durable on the target when this returns (the step before the point of no
    /// return).
    pub(super) async fn intent(&self, epoch: i64, draft: Value) -> Result<(), String> {
        let (written, answer) = oneshot::channel();
        let gone = || "the journal's writer has ended".to_owned();
        self.0.send(Entry::Intent { epoch, draft, written }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The operation has ended.
    pub(super) async fn end(&self, report: CutoverReport) -> Result<(), String> {
        let (written, answer) = oneshot::channel();
        let gone = || "the journal's writer has ended".to_owned();
        self.0.send(Entry::End { report: Box::new(report), written }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl JournalWriter {
    /// Writes what comes until the operation drops its end. A failure is told to the next who waits for an answer,
    /// so that nothing is committed on a journal with holes.
    pub(super) async fn run(mut self, session: SqlSession) {
        let mut broken: Option<String> = None;
        if let Err(error) = session.batch_execute("SET synchronous_commit = off").await {
            broken = Some(failed("prepare the journal")(error).to_string());
        }
        while let Some(entry) = self.0.recv().await {
            let outcome = write(&session, &entry).await.map_err(|failure| failure.to_string());
            match entry {
                Entry::Intent { written, .. } | Entry::End { written, .. } => {
                    let answer = broken.clone().map_or(outcome, Err);
                    // Whoever asked may have been stopped meanwhile.
                    let _ = written.send(answer);
                }
                Entry::State { .. } | Entry::Step { .. } => {
                    if let Err(problem) = outcome {
                        tracing::warn!(%problem, "the cutover journal could not be written");
                        broken = Some(problem);
                    }
                }
            }
        }
    }
}

async fn write(target: &Client, entry: &Entry) -> Result<(), SqlFailure> {
    match entry {
        Entry::State { epoch, state } => {
            let sql = "UPDATE pgsluice.cutover SET state = $2 WHERE epoch = $1";
            let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(epoch, Type::INT8), (state, Type::TEXT)];
            target.execute_typed(sql, &parameters).await
        }
        Entry::Step { epoch, position, step } => write_step(target, *epoch, *position, step).await,
        Entry::Intent { epoch, draft, .. } => {
            // `set_config` inside the statement: this one commit, and with it all before it, is flushed.
            let sql = "WITH flushed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))
                UPDATE pgsluice.cutover SET state = 'committing', certificate = $2
                FROM flushed WHERE epoch = $1";
            target.execute_typed(sql, &[(epoch, Type::INT8), (draft, Type::JSONB)]).await
        }
        Entry::End { report, .. } => write_end(target, report).await,
    }
    .map(drop)
    .map_err(failed("write the cutover journal"))
}

async fn write_step(
    target: &Client,
    epoch: i64,
    position: usize,
    step: &StepReport,
) -> Result<u64, tokio_postgres::Error> {
    let sql = "INSERT INTO pgsluice.cutover_step AS s
          (epoch, position, name, started_at, duration_ms, in_pause, outcome, detail)
        VALUES ($1, $2, $3, $4::text::timestamptz, $5, $6, $7, $8)
        ON CONFLICT (epoch, position) DO UPDATE
        SET duration_ms = excluded.duration_ms, outcome = excluded.outcome, detail = excluded.detail";
    target
        .execute_typed(
            sql,
            &[
                (&epoch, Type::INT8),
                (&i32::try_from(position).unwrap_or(i32::MAX), Type::INT4),
                (&step.name, Type::TEXT),
                (&step.started_at.to_string(), Type::TEXT),
                (&(step.duration.as_secs_f64() * 1_000.0), Type::FLOAT8),
                (&step.in_pause, Type::BOOL),
                (&step_outcome_name(step.outcome), Type::TEXT),
                (&step.detail, Type::TEXT),
            ],
        )
        .await
}

async fn write_end(target: &Client, report: &CutoverReport) -> Result<u64, tokio_postgres::Error> {
    let (reason, remedy) = match &report.outcome {
        Outcome::Aborted { reason, remedy } | Outcome::InDoubt { reason, remedy } => {
            (Some(reason.as_str()), Some(remedy.as_str()))
        }
        Outcome::Running | Outcome::Completed => (None, None),
    };
    let sql = "WITH flushed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))
        UPDATE pgsluice.cutover SET state = $2, outcome = $3, reason = $4, remedy = $5,
            ended_at = $6::text::timestamptz, pause_ms = $7, certificate = $8
        FROM flushed WHERE epoch = $1";
    target
        .execute_typed(
            sql,
            &[
                (&report.epoch, Type::INT8),
                (&report.state, Type::TEXT),
                (&report.outcome.as_str(), Type::TEXT),
                (&reason, Type::TEXT),
                (&remedy, Type::TEXT),
                (&report.ended_at.map(|at| at.to_string()), Type::TEXT),
                (&report.pause.map(|pause| pause.as_secs_f64() * 1_000.0), Type::FLOAT8),
                (&report.certificate, Type::JSONB),
            ],
        )
        .await
}
