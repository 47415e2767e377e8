//! `pgsluice verify`: starts a verification of the running instance, follows it and tells its report; or shows or stops one. It holds no
//! state: a command that is interrupted leaves the verification running.

use std::io::{IsTerminal as _, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::Method;
use tokio::signal::unix::{SignalKind, signal};

use super::http::NO_BODY;
use super::{ApiClient, ClientError, FOLLOW_EVERY, SILENCE_MAX, json};
use crate::cli::look::Look;
use crate::cli::verification::{exit_of, progress_text, report_text};
use crate::cli::{Exit, OutputFormat};
use crate::control::dto::{VerificationRecord, VerificationRequestRecord};

/// Where no bar can be drawn a line says how far it is, so often.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// It is shown by size; a table of nothing but keys and one of pictures are compared at about the same rate.
const TEMPLATE: &str = "{elapsed:>4} {wide_bar} {binary_bytes:>10} of {binary_total_bytes:<10} {msg}";

/// What is asked about verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerificationAsked {
    /// Start one, and follow it.
    Start(VerificationRequestRecord),
    /// Show the current or last one.
    Show,
    /// Stop the one that runs, and follow it to its end.
    Stop,
}

impl ApiClient {
    pub(super) async fn verify(
        &self,
        asked: VerificationAsked,
        out: &mut (dyn Write + Send),
    ) -> Result<Exit, ClientError> {
        // From now on an interrupt is noticed, and not lost between the question and its answer.
        let mut interrupts = signal(SignalKind::interrupt())?;
        let interrupted = async move {
            interrupts.recv().await;
        };
        let (path, request) = match asked {
            VerificationAsked::Show => {
                let record: VerificationRecord = self.http.ask(Method::GET, "v1/verify", NO_BODY).await?;
                self.print_report(&record, out)?;
                return Ok(exit_of(&record));
            }
            VerificationAsked::Start(request) => ("v1/verify", Some(request)),
            VerificationAsked::Stop => ("v1/verify/stop", None),
        };
        let accepted: VerificationRecord = self.http.ask(Method::POST, path, request.as_ref()).await?;
        if self.output == OutputFormat::Table {
            let what = if request.is_some() { "begins" } else { "is stopped" };
            writeln!(out, "verification {} {what}", accepted.number)?;
            out.flush()?;
        }
        let ended = self.follow_verification(accepted.number, interrupted, out).await?;
        self.print_report(&ended, out)?;
        Ok(match (asked, exit_of(&ended)) {
            // That is what was asked for.
            (VerificationAsked::Stop, Exit::Failed) => Exit::Success,
            (_, exit) => exit,
        })
    }

    /// Shows how far it is until it has ended, or until `interrupted`.
    pub(in crate::cli) async fn follow_verification(
        &self,
        number: i64,
        interrupted: impl Future<Output = ()> + Send,
        out: &mut (dyn Write + Send),
    ) -> Result<VerificationRecord, ClientError> {
        let mut view = View::new(self.output);
        tokio::select! {
            ended = self.watch_verification(number, &mut view, out) => ended,
            () = interrupted => Err(ClientError::Interrupted { number }),
        }
    }

    async fn watch_verification(
        &self,
        number: i64,
        view: &mut View,
        out: &mut (dyn Write + Send),
    ) -> Result<VerificationRecord, ClientError> {
        let lost = |reason: String| ClientError::LostVerification { number, reason };
        let mut last_heard = Instant::now();
        loop {
            match self.http.ask::<VerificationRecord>(Method::GET, "v1/verify", NO_BODY).await {
                Ok(seen) if seen.number == number && seen.outcome != "running" => return Ok(seen),
                Ok(seen) if seen.number == number => {
                    last_heard = Instant::now();
                    view.draw(&seen, out)?;
                }
                Ok(seen) if seen.number > number => {
                    return Err(lost(format!("verification {} has begun meanwhile", seen.number)));
                }
                Ok(_) => return Err(lost("the instance has been started again".to_owned())),
                Err(ClientError::Refused(problem)) if problem.status == 404 => {
                    return Err(lost("the instance has been started again".to_owned()));
                }
                // It may be starting again; how a verification ended that it was asked to end is recorded.
                Err(ClientError::Refused(problem)) if problem.status == 503 => {}
                Err(ClientError::Unreachable { .. }) => {}
                Err(error) => return Err(lost(error.to_string())),
            }
            if last_heard.elapsed() > SILENCE_MAX {
                return Err(lost(format!("nothing was heard of it for {} s", SILENCE_MAX.as_secs())));
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }

    fn print_report(
        &self,
        record: &VerificationRecord,
        out: &mut (dyn Write + Send),
    ) -> Result<(), ClientError> {
        match self.output {
            OutputFormat::Table => write!(out, "{}", report_text(record, Look::of_stdout()))?,
            OutputFormat::Json => writeln!(out, "{:#}", json(record)?)?,
        }
        Ok(out.flush()?)
    }
}

/// How it is shown that something happens: a bar on a terminal, a line now and then elsewhere, nothing for a script.
enum View {
    Bar(ProgressBar),
    Lines { last_at: Instant },
    Nothing,
}

impl View {
    fn new(output: OutputFormat) -> Self {
        match (output, std::io::stderr().is_terminal()) {
            (OutputFormat::Json, _) => Self::Nothing,
            (OutputFormat::Table, false) => Self::Lines { last_at: Instant::now() },
            (OutputFormat::Table, true) => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template(TEMPLATE);
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                Self::Bar(bar)
            }
        }
    }

    fn draw(
        &mut self,
        seen: &VerificationRecord,
        out: &mut (dyn Write + Send),
    ) -> Result<(), std::io::Error> {
        match self {
            Self::Bar(bar) => {
                // Sizes are estimates: a bar must not run past its end.
                bar.set_length(seen.bytes_total.max(seen.bytes_compared));
                bar.set_position(seen.bytes_compared);
                bar.set_message(match seen.differences {
                    0 => format!("{} of {} tables", seen.tables_compared, seen.tables_total),
                    differences => format!("{differences} rows DIFFER so far"),
                });
                Ok(())
            }
            Self::Lines { last_at } if last_at.elapsed() >= LINE_EVERY => {
                *last_at = Instant::now();
                writeln!(out, "{}", progress_text(seen))?;
                out.flush()
            }
            Self::Lines { .. } | Self::Nothing => Ok(()),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
