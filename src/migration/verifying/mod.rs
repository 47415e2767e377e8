//! The migration task's side of verification: it owns at most one, starts the scheduled ones, records each on the target, and says
//! whether the last one vouches for the rows that a cutover is about to move clients to.

mod recording;
mod voucher;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::recording::{note_differences, record_persistently};
use self::voucher::{Voucher, age_of, certified, trouble_with, valid_until};
use super::command::{Refusal, VerificationRequest};
use super::status::{StatusBoard, Vouched};
use super::task::Migration;
use crate::config::Config;
use crate::connection::connect_sql;
use crate::model::{Direction, Side, counted};
use crate::runtime::Shutdown;
use crate::target::records::RecordError;
use crate::telemetry::Metrics;
use crate::verify::{
    self, Meeting, RowDifference, VerificationOutcome, VerificationReport, VerifyContext, VerifyError,
    Writing,
    records::{self, Which},
};

/// A scheduled verification that could not begin is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// How long the last verification may take to be read at the start.
const RECORDS_WAIT: Duration = Duration::from_secs(5);

/// The verification's part of the operation.
pub(super) struct Verifying {
    config: Arc<Config>,
    board: StatusBoard,
    metrics: Arc<Metrics>,
    meeting: Meeting,
    shutdown: Shutdown,
    running: Option<(Shutdown, JoinSet<VerificationReport>)>,
    /// The last one that has ended.
    last: Option<VerificationReport>,
    /// The last that says whether rows are the same, since the stream goes this way.
    conclusive: Option<VerificationReport>,
    /// When one is to be started; `None`: not by itself.
    due: Option<Instant>,
}

impl Verifying {
    /// Nothing is known yet.
    pub(super) fn new(migration: &Migration, meeting: Meeting) -> Self {
        Self {
            config: Arc::clone(&migration.config),
            board: migration.board.clone(),
            metrics: Arc::clone(&migration.metrics),
            meeting,
            shutdown: migration.shutdown.child(),
            running: None,
            last: None,
            conclusive: None,
            due: None,
        }
    }

    /// Reads what an earlier process has recorded, and knows from then on when the next one is due.
    pub(super) async fn begin(&mut self) {
        let read = async {
            let target = connect_sql(&self.config.target.connection, Side::Target, "verify records")
                .await
                .map_err(VerifyError::from)?;
            let of = async |which| records::read(&target, self.config.direction, which).await;
            let (last, conclusive) = (of(Which::Last).await?, of(Which::LastConclusive).await?);
            target.close().await;
            Ok::<_, VerifyError>((last, conclusive))
        };
        match tokio::time::timeout(RECORDS_WAIT, read).await {
            Ok(Ok((last, conclusive))) => {
                self.board.update(|status| status.verification.clone_from(&last));
                (self.last, self.conclusive) = (last, conclusive);
            }
            Ok(Err(error)) => tracing::warn!(%error, "what was verified before cannot be read"),
            Err(_) => tracing::warn!("what was verified before cannot be read in time"),
        }
        self.publish_validity();
        self.due = self.config.verify.every.map(|every| {
            let ended_at = self.last.as_ref().and_then(|last| last.ended_at);
            let age = ended_at.map_or(every, |at| age_of(at, Timestamp::now()));
            Instant::now() + every.saturating_sub(age)
        });
    }

    /// Whether one is under way.
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Resolves when one has ended, or is due. Cancel safe.
    pub(super) async fn happens(&mut self) -> Happens {
        let ended = async {
            match &mut self.running {
                Some((_, task)) => task.join_next().await,
                None => pending().await,
            }
        };
        let due = async {
            match self.due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => pending().await,
            }
        };
        tokio::select! {
            ended = ended => {
                self.running = None;
                Happens::Ended(ended.and_then(Result::ok).map(Box::new))
            }
            () = due => Happens::Due,
        }
    }

    /// Takes note of what [`happens`](Self::happens) told.
    pub(super) async fn account_for(&mut self, happened: Happens) {
        match happened {
            Happens::Ended(report) => {
                self.due = self.config.verify.every.map(|every| Instant::now() + every);
                let report = report.map_or_else(|| self.broken_down(), |report| Some(*report));
                let Some(report) = report else { return };
                tell(&report);
                self.board.update(|status| status.verification = Some(report.clone()));
                if report.is_conclusive() {
                    self.conclusive = Some(report.clone());
                }
                self.last = Some(report);
                self.publish_validity();
            }
            Happens::Due => {
                self.due = None;
                if let Err(refusal) = self.start(VerificationRequest::default()).await {
                    tracing::warn!(reason = %refusal, "a scheduled verification could not begin; it is tried again");
                    self.due = Some(Instant::now() + RETRY_AFTER);
                }
            }
        }
    }

    /// The one that ended without a report.
    fn broken_down(&self) -> Option<VerificationReport> {
        let mut report = self.board.with(|status| status.verification.clone())?;
        let reason =
            ("it broke down".to_owned(), "Start it again. Please report this with the log.".to_owned());
        report.end(Timestamp::now(), Some(reason));
        Some(report)
    }

    /// What [`voucher`](Self::voucher) goes by, for whoever plans a cutover.
    fn vouching(&self) -> Option<&VerificationReport> {
        self.conclusive.as_ref().or(self.last.as_ref())
    }

    fn publish_validity(&self) {
        let vouched = match (self.config.direction, self.config.verify.age_max) {
            (Direction::Forward, Some(age_max)) => {
                valid_until(self.vouching(), age_max).map_or(Vouched::No, Vouched::Until)
            }
            (Direction::Back, _) | (_, None) => Vouched::NotNeeded,
        };
        self.board.update(|status| status.vouched = vouched);
    }

    /// The one that is due begins later.
    pub(super) fn put_off(&mut self) {
        self.due = Some(Instant::now() + RETRY_AFTER);
    }

    /// Starts one.
    pub(super) async fn start(
        &mut self,
        request: VerificationRequest,
    ) -> Result<VerificationReport, Refusal> {
        if self.is_running() {
            return Err(Refusal::Conflict {
                message: "a verification is running".into(),
                remedy: "See how far it is with `pgsluice verify --show` (GET /v1/verify), or stop it with `pgsluice verify --stop` \
                         (POST /v1/verify/stop)."
                    .into(),
            });
        }
        let repair = if request.repair { self.repairable()? } else { Vec::new() };
        let verify = &self.config.verify;
        let shutdown = self.shutdown.child();
        let share = request.share.unwrap_or(verify.share);
        let context = VerifyContext {
            config: Arc::clone(&self.config),
            meeting: self.meeting.clone(),
            share,
            piece_bytes: verify.piece_bytes.unwrap_or_else(|| share.piece_bytes()),
            jobs: request.jobs.unwrap_or(verify.jobs),
            held_max: verify.snapshot_max,
            repair: repair.into(),
            shutdown: shutdown.clone(),
        };
        let now = Timestamp::now();
        let refused = |error: VerifyError| Refusal::NotReady {
            message: format!("the verification could not begin: {error}"),
            remedy: error.remedy(),
        };
        let connecting = connect_sql(&self.config.target.connection, Side::Target, "verify records");
        let target = connecting.await.map_err(|error| refused(error.into()))?;
        let opened = records::open(&target, self.config.direction, request.scope, now).await;
        let number = opened.map_err(|error: RecordError| refused(error.into()))?;
        drop(target);
        let report = VerificationReport::begun(number, self.config.direction, request.scope, now);
        tracing::info!(number, "verification begins");
        let (board, metrics, config) =
            (self.board.clone(), Arc::clone(&self.metrics), Arc::clone(&self.config));
        let (differs, differs_seen) = watch::channel(false);
        let (mut rows, mut bytes) = (0, 0);
        let writing = Writing::new(report.clone(), move |report| {
            metrics.verified(report.rows_compared - rows, report.bytes_compared - bytes);
            (rows, bytes) = (report.rows_compared, report.bytes_compared);
            differs.send_if_modified(|known| {
                !std::mem::replace(known, report.differences > 0) && report.differences > 0
            });
            board.update(|status| status.verification = Some(report.clone()));
        });
        let mut task = JoinSet::new();
        task.spawn(async move {
            let report = tokio::select! {
                report = verify::run(context, writing) => report,
                never = note_differences(&config, number, differs_seen) => match never {},
            };
            record_persistently(&config, &report).await;
            report
        });
        self.running = Some((shutdown, task));
        Ok(report)
    }

    /// The rows that the last one has named.
    fn repairable(&self) -> Result<Vec<RowDifference>, Refusal> {
        if !self.config.verify.repair {
            return Err(Refusal::Unsuitable {
                message: "repair is off".into(),
                remedy: "Find out first what has changed the target. Then set verify.repair = true, start pgsluice again, and ask for the \
                         repair again."
                    .into(),
            });
        }
        let rows = self.last.as_ref().map(|last| last.rows.clone()).unwrap_or_default();
        if rows.is_empty() {
            return Err(Refusal::Unsuitable {
                message: "the last verification has named no row that differs".into(),
                remedy: "Run `pgsluice verify`; if it finds differences, ask for the repair again.".into(),
            });
        }
        Ok(rows)
    }

    /// Ends the one that runs, without waiting for it.
    pub(super) fn stop(&self) -> Result<VerificationReport, Refusal> {
        let report = self.board.with(|status| status.verification.clone());
        match (&self.running, report) {
            (Some((shutdown, _)), Some(report)) => {
                shutdown.request();
                Ok(report)
            }
            _ => Err(Refusal::Conflict {
                message: "no verification is running".into(),
                remedy: "`pgsluice verify --show` (GET /v1/verify) tells how the last one ended.".into(),
            }),
        }
    }

    /// Why a verification does not speak for all tables; `None` if it does.
    async fn joined_since(&self, last: Option<&VerificationReport>) -> Option<String> {
        let (number, (first_lsn, _)) = (last?.number, last?.lsn?);
        let ask = async {
            let target = connect_sql(&self.config.target.connection, Side::Target, "verify records").await?;
            Ok::<_, VerifyError>(records::joined_since(&target, first_lsn).await?)
        };
        match tokio::time::timeout(RECORDS_WAIT, ask).await {
            Ok(Ok(0)) => None,
            Ok(Ok(tables)) => Some(format!(
                "{} joined after the last verification ({number}) began",
                counted(usize::try_from(tables).unwrap_or(usize::MAX), "table has", "tables have")
            )),
            Ok(Err(error)) => Some(format!(
                "it cannot be told which tables the last verification ({number}) speaks for: {error}"
            )),
            Err(_) => Some(format!(
                "it cannot be told in time which tables the last verification ({number}) speaks for"
            )),
        }
    }

    /// Ends the one that runs, and waits for it.
    pub(super) async fn end(&mut self, grace: Duration) {
        self.due = None;
        if let Some((shutdown, mut task)) = self.running.take() {
            shutdown.request();
            let _ = tokio::time::timeout(grace, task.join_next()).await;
        }
    }

    /// What vouches for the rows now; or why nothing does.
    pub(super) async fn voucher(&self, unverified: bool, now: Timestamp) -> Result<Option<Voucher>, Refusal> {
        let last = self.vouching();
        let mut trouble = self.config.verify.age_max.and_then(|age_max| trouble_with(last, age_max, now));
        if self.config.verify.age_max.is_some() && trouble.is_none() {
            trouble = self.joined_since(last).await;
        }
        match trouble {
            Some(message) if !unverified => Err(Refusal::NotReady {
                message: format!("the cutover did not begin: {message}"),
                remedy: "Run `pgsluice verify` (POST /v1/verify) and try again once it is clean. To cut over without, at your own risk: \
                         `pgsluice cutover --unverified`; the certificate will say so."
                    .into(),
            }),
            trouble => Ok(Some(certified(trouble, last))),
        }
    }
}

/// What has happened to a verification.
pub(super) enum Happens {
    /// It has ended; without a report if it broke down.
    Ended(Option<Box<VerificationReport>>),
    /// One is to be started.
    Due,
}

fn tell(report: &VerificationReport) {
    let (number, rows, tables) = (report.number, report.rows_compared, report.tables_compared);
    match &report.outcome {
        VerificationOutcome::Running => {}
        VerificationOutcome::Clean => {
            tracing::info!(number, rows, tables, "verification is clean");
        }
        VerificationOutcome::Differences => {
            let differences = report.differences;
            tracing::error!(
                number,
                rows,
                tables,
                differences,
                "verification found differences: see GET /v1/verify"
            );
        }
        VerificationOutcome::Incomplete { reason, remedy } => {
            tracing::warn!(number, rows, tables, %reason, %remedy, "verification is not complete");
        }
    }
}
