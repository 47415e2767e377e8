//! What is asked for while the stream runs, and why it is refused. Each command is answered at once; what it starts goes on beside the
//! stream.

use jiff::Timestamp;

use super::Operation;
use crate::cutover::{self, CutoverReport, RunningCutover};
use crate::join::Wanted;
use crate::migration::command::{Command, CutoverMode, CutoverRequest, Refusal, VerificationRequest};
use crate::migration::cut_over::known_by_key;
use crate::model::{Direction, TableName};
use crate::runtime::Supervisor;
use crate::stream::StreamHalted;
use crate::verify::VerificationReport;

impl Operation {
    pub(super) async fn answer(&mut self, command: Command) {
        match command {
            Command::StartCutover { request, reply } => {
                let _ = reply.send(self.start_cutover(request).await);
            }
            Command::AbortCutover { reply } => {
                let _ = reply.send(self.with_running(RunningCutover::abort));
            }
            Command::ConfirmTraffic { reply } => {
                let _ = reply.send(self.with_running(RunningCutover::confirm));
            }
            Command::StartVerification { request, reply } => {
                let _ = reply.send(self.start_verification(request).await);
            }
            Command::StopVerification { reply } => {
                let _ = reply.send(self.verifying.stop());
            }
            // It may restart the stream, which is not ours here.
            Command::AddTables { .. } => {}
        }
    }

    async fn start_verification(
        &mut self,
        request: VerificationRequest,
    ) -> Result<VerificationReport, Refusal> {
        if let Some(running) = &self.running {
            return Err(Refusal::Conflict {
                message: format!(
                    "operation {} is running: the stream must not halt meanwhile",
                    running.report().epoch
                ),
                remedy: "Wait for its end (GET /v1/cutover), then start the verification again.".into(),
            });
        }
        if self.copy.is_active() {
            return Err(Refusal::NotReady {
                message: "the initial copy is not over: nothing can be compared yet".into(),
                remedy: "Wait until GET /v1/status shows phase \"streaming\", then try again.".into(),
            });
        }
        self.verifying.start(request).await
    }

    pub(super) async fn add_tables(
        &mut self,
        tasks: &mut Supervisor<StreamHalted>,
        tables: &[String],
    ) -> Result<Vec<TableName>, Refusal> {
        if let Some(running) = &self.running {
            return Err(Refusal::Conflict {
                message: format!("operation {} is running: no table can join meanwhile", running.report().epoch),
                remedy: "Follow it with GET /v1/cutover, or end it with POST /v1/cutover/abort; then add the tables.".into(),
            });
        }
        let wanted = self.joining.check(tables).await?;
        let names = wanted.iter().map(|each| each.name.clone()).collect();
        let new: Vec<Wanted> = wanted.into_iter().filter(|each| !each.is_known).collect();
        if new.iter().any(|each| each.was_joined) {
            self.restart_stream(tasks, &new).await?;
        } else {
            self.joining.record(&new).await?;
        }
        self.joining.look_now().await;
        Ok(names)
    }

    async fn start_cutover(&mut self, mut request: CutoverRequest) -> Result<CutoverReport, Refusal> {
        if let Some(known) = known_by_key(&self.migration.board, &request) {
            return Ok(known);
        }
        if request.direction != self.migration.config.direction {
            return Err(wrong_way(request.direction));
        }
        if self.copy.is_active() {
            return Err(Refusal::NotReady {
                message: "the initial copy is not over: nothing can be cut over yet".into(),
                remedy:
                    "Wait until GET /v1/status shows phase \"streaming\" and a small lag, then try again."
                        .into(),
            });
        }
        if self.statistics.are_due() {
            return Err(Refusal::NotReady {
                message: "statistics are being gathered on the target: without them its queries would be slow".into(),
                remedy: "Wait for the line \"the target has its statistics\" in the log (seconds, or minutes for many large tables), then try again."
                    .into(),
            });
        }
        if self.joining.is_busy() {
            return Err(Refusal::Conflict {
                message: "tables are joining the migration".into(),
                remedy: "Wait until they have (`pgsluice tables`), then start the cutover again.".into(),
            });
        }
        if let Some(running) = &self.running {
            return Err(Refusal::Conflict {
                message: format!("operation {} is running", running.report().epoch),
                remedy: "Follow it with GET /v1/cutover, or end it with POST /v1/cutover/abort.".into(),
            });
        }
        if request.mode == CutoverMode::Cutover && request.direction == Direction::Forward {
            request.verification = self.verifying.voucher(request.unverified, Timestamp::now()).await?;
        }
        let is_rehearsal = request.mode == CutoverMode::Rehearsal;
        let (report, running) = cutover::start(self.migration.cutover_context(), request).await?;
        self.running = Some(running);
        if !is_rehearsal && let Ok(verification) = self.verifying.stop() {
            tracing::info!(
                number = verification.number,
                "the verification is stopped: clients are about to be moved"
            );
        }
        Ok(report)
    }

    fn with_running(
        &self,
        act: impl FnOnce(&RunningCutover) -> Result<(), Refusal>,
    ) -> Result<CutoverReport, Refusal> {
        let Some(running) = &self.running else { return Err(nothing_runs()) };
        act(running)?;
        Ok(running.report())
    }
}

/// The primary is not where the request thinks it is.
fn wrong_way(wanted: Direction) -> Refusal {
    match wanted {
        Direction::Forward => Refusal::PastThePointOfNoReturn {
            message: "the migration is cut over: the target is the primary".into(),
            remedy: "GET /v1/cutover shows the certificate. `pgsluice rollback` moves the primary back without loss, \
                     `pgsluice cleanup` ends the way back."
                .into(),
        },
        Direction::Back => Refusal::Conflict {
            message: "there is nothing to roll back: the source is the primary".into(),
            remedy: "A cutover that runs is ended by `pgsluice abort`.".into(),
        },
    }
}

fn nothing_runs() -> Refusal {
    Refusal::Conflict {
        message: "no cutover or rehearsal is running".into(),
        remedy: "GET /v1/cutover shows how the last one ended.".into(),
    }
}
