//! Undoing what the adapters did. It comes when the fence is released already and the source accepts writes, so it may take the
//! time that the rest of a rollback may not. What cannot be undone now is left to the next start, and never forgotten:
//! for the journal the operation is not over then.

use std::time::{Duration, Instant};

use super::CutoverError;
use super::actions::{RETRY_FIRST, RETRY_LONGEST};
use super::operation::Operation;
use super::report::Outcome;
use super::state::{Event, Why};
use crate::migration::Blocking;
use crate::runtime::{Backoff, Shutdown};
use crate::traffic::{Notes, Step, Traffic, TrafficContext, TrafficError};

/// How long new tries are begun; each has the adapters' own bounds. What restarts or is rolled out is mostly back by then.
const UNDO_BOUND: Duration = Duration::from_secs(60);
/// How much longer it is tried once pgsluice is told to stop, which may take five seconds in all.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(2);

impl Operation {
    pub(super) async fn undo_traffic(&mut self) -> Result<Event, CutoverError> {
        // What was said while arming is no word about this.
        self.notes.clear();
        self.not_undone = None;
        if !self.traffic_touched {
            return Ok(Event::RolledBack);
        }
        let log = &mut self.log;
        let failed = |error: &TrafficError| {
            let message = format!("The source accepts writes, and clients may still be held back: {error}.");
            log.trouble(&message, &error.remedy, Blocking::Retrying);
        };
        let undone =
            until_undone(&self.traffic, &self.traffic_context, &self.ctx.shutdown, UNDO_BOUND, failed).await;
        match undone {
            Ok(notes) => {
                self.notes = notes;
                self.log.no_trouble();
                Ok(Event::RolledBack)
            }
            Err(error) => {
                let not_undone = NotUndone::because_of(&error);
                // Not as if the stream waited for an operator: the next cutover may be what puts it back.
                self.log.trouble(&not_undone.message, &not_undone.remedy, Blocking::Retrying);
                self.not_undone = Some(not_undone);
                Err(error)
            }
        }
    }

    /// How an operation ends that was rolled back.
    pub(super) fn aborted(&self, why: &Why) -> Outcome {
        match &self.not_undone {
            None => Outcome::Aborted { reason: why.reason(), remedy: why.remedy() },
            Some(NotUndone { message, remedy }) => Outcome::Aborted {
                reason: format!("{} {message}", why.reason()),
                // Those of `why` say that nothing is to be repaired.
                remedy: remedy.clone(),
            },
        }
    }
}

/// What is to be said of an undo that was given up.
pub(super) struct NotUndone {
    message: String,
    remedy: String,
}

impl NotUndone {
    fn because_of(error: &CutoverError) -> Self {
        Self {
            message: format!(
                "The source accepts writes, but clients may still be held back, and pgsluice has stopped trying: {error}."
            ),
            remedy: format!("{} Then restart pgsluice: it tries again.", error.remedy()),
        }
    }
}

/// Tries until it succeeds, `bound` has passed or pgsluice is stopped. It is tried once in any case.
async fn until_undone(
    traffic: &Traffic,
    context: &TrafficContext,
    shutdown: &Shutdown,
    bound: Duration,
    mut failed: impl FnMut(&TrafficError),
) -> Result<Notes, CutoverError> {
    let begun = Instant::now();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    let mut last = None;
    let trying = async {
        loop {
            let error = match traffic.perform(Step::Undo, context).await {
                Ok(notes) => return Ok(notes),
                Err(error) => error,
            };
            failed(&error);
            let pause = backoff.next_delay();
            if begun.elapsed() + pause >= bound {
                return Err(error);
            }
            last = Some(error);
            tokio::time::sleep(pause).await;
        }
    };
    let stopping = async {
        shutdown.requested().await;
        tokio::time::sleep(SHUTDOWN_BOUND).await;
    };
    tokio::select! {
        biased;
        undone = trying => Ok(undone?),
        () = stopping => Err(last.map_or_else(cut_off, CutoverError::from)),
    }
}

fn cut_off() -> CutoverError {
    CutoverError::refuted(
        "pgsluice was stopped before the traffic adapters had undone what they did",
        "Find out what they were waiting for.",
    )
}

#[cfg(test)]
mod tests;
