//! The report: every single operation, and what they amount to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgsluice::control::dto::{CutoverRecord, StepRecord};
use pgsluice::demo::workload::WorkloadRecord;
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::figures::{Spread, longest_gap, longest_gap_within};
use super::judge::Judgement;
use super::operations::{Completed, Series, reason_of};
use super::options::Options;
use super::statistics::median;

/// A run of `make bench-cutover`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When it began.
    pub(crate) made_at: String,
    /// What it ran on.
    pub(crate) machine: BTreeMap<String, String>,
    /// Versions and settings of both servers, and what was on them.
    pub(crate) servers: BTreeMap<String, String>,
    /// What was asked for.
    pub(crate) asked: Options,
    /// Transactions a second that the clients did, over the whole run, pauses and waits included.
    pub(crate) transactions_per_second: f64,
    /// On the source, rolled back each time.
    pub(crate) rehearsals: Figures,
    /// From the source to the target.
    pub(crate) cutovers: Figures,
    /// And back.
    pub(crate) rollbacks: Figures,
    /// Whether anything was lost.
    pub(crate) judgement: Judgement,
    /// Why the run failed; empty if it did not.
    pub(crate) failures: Vec<String>,
}

/// All operations of one kind.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// How many completed; all other figures are of these.
    pub(crate) completed: usize,
    /// Those that were rolled back by themselves, and were repeated.
    pub(crate) aborted: Vec<Aborted>,
    /// Reasons of those that were refused with nothing done, and were repeated.
    pub(crate) refused: Vec<String>,
    /// The write pause that the API reports.
    pub(crate) pause_ms: Option<Spread>,
    /// How often the fence's locks were asked for.
    pub(crate) lock_tries: Option<Spread>,
    /// The steps within the pause, in their order.
    pub(crate) steps: Vec<StepFigures>,
    /// The longest time during an operation in which no client's commit was acknowledged.
    pub(crate) nobody_committed_ms: Option<Spread>,
    /// The longest time during an operation that one client waited for an acknowledgement.
    pub(crate) client_waited_ms: Option<Spread>,
    /// The same, and wholly, while there was no operation, just before each.
    pub(crate) client_waited_before_ms: Option<Spread>,
    /// One by one.
    pub(crate) operations: Vec<OperationFigures>,
}

/// One that did not complete.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Aborted {
    /// As the API says it.
    pub(crate) reason: String,
    /// How long writers waited for nothing.
    pub(crate) pause_ms: Option<f64>,
}

/// One step of all operations.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StepFigures {
    /// As in the API.
    pub(crate) name: String,
    /// How long it took.
    pub(crate) ms: Option<Spread>,
    /// Its part of the pause, 0 to 1: the median over the operations.
    pub(crate) share_of_pause: f64,
}

/// One operation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OperationFigures {
    /// As in the API.
    pub(crate) epoch: i64,
    /// As in the API.
    pub(crate) pause_ms: f64,
    /// How often the fence's locks were asked for; null if the API did not say.
    pub(crate) lock_tries: Option<f64>,
    /// Steps within the pause, and how long each took.
    pub(crate) steps_ms: Vec<(String, f64)>,
    /// From the request to the end that was seen, arming included.
    pub(crate) took_ms: f64,
    /// As in [`Figures`].
    pub(crate) nobody_committed_ms: Option<f64>,
    /// As in [`Figures`].
    pub(crate) client_waited_ms: Option<f64>,
    /// As in [`Figures`].
    pub(crate) client_waited_before_ms: Option<f64>,
}

/// What the clients remember, ready to be asked about a time.
pub(crate) struct Acknowledgements {
    by_client: Vec<Vec<Instant>>,
    of_all: Vec<Instant>,
}

impl Acknowledgements {
    /// Of all clients.
    pub(crate) fn of(record: &WorkloadRecord) -> Self {
        let by_client: Vec<_> = record.clients.iter().map(|client| client.acknowledged_at.clone()).collect();
        let mut of_all = by_client.concat();
        of_all.sort_unstable();
        Self { by_client, of_all }
    }

    /// Over the whole run.
    pub(crate) fn per_second(&self) -> f64 {
        match (self.of_all.first(), self.of_all.last()) {
            (Some(first), Some(last)) => self.of_all.len() as f64 / last.duration_since(*first).as_secs_f64(),
            _ => 0.0,
        }
    }

    fn nobody_committed(&self, from: Instant, to: Instant) -> Option<f64> {
        longest_gap(&self.of_all, from, to).map(milliseconds)
    }

    fn client_waited(&self, from: Instant, to: Instant) -> Option<f64> {
        self.by_client.iter().filter_map(|client| longest_gap(client, from, to)).max().map(milliseconds)
    }

    /// Not what reaches into that time from the operation before it.
    fn client_waited_within(&self, from: Instant, to: Instant) -> Option<f64> {
        self.by_client
            .iter()
            .filter_map(|client| longest_gap_within(client, from, to))
            .max()
            .map(milliseconds)
    }
}

impl Figures {
    /// Of a series, as the program and as the clients saw it.
    pub(crate) fn of(series: &Series, seen: &Acknowledgements) -> Self {
        let operations: Vec<_> =
            series.completed.iter().map(|completed| OperationFigures::of(completed, seen)).collect();
        let spread = |value: fn(&OperationFigures) -> Option<f64>| {
            Spread::of(&operations.iter().filter_map(value).collect::<Vec<_>>())
        };
        let aborted =
            |record: &CutoverRecord| Aborted { reason: reason_of(record), pause_ms: record.pause_ms };
        Self {
            completed: operations.len(),
            aborted: series.aborted.iter().map(aborted).collect(),
            refused: series.refused.clone(),
            pause_ms: spread(|operation| Some(operation.pause_ms)),
            lock_tries: spread(|operation| operation.lock_tries),
            steps: steps_of(&operations),
            nobody_committed_ms: spread(|operation| operation.nobody_committed_ms),
            client_waited_ms: spread(|operation| operation.client_waited_ms),
            client_waited_before_ms: spread(|operation| operation.client_waited_before_ms),
            operations,
        }
    }
}

impl OperationFigures {
    fn of(completed: &Completed, seen: &Acknowledgements) -> Self {
        let record = &completed.record;
        let (rested, asked, ended) = (completed.rested_from, completed.asked_at, completed.ended_at);
        let in_pause = record.steps.iter().filter(|step| step.in_pause);
        Self {
            epoch: record.epoch,
            pause_ms: record.pause_ms.unwrap_or(f64::NAN),
            lock_tries: record.steps.iter().find_map(lock_tries),
            steps_ms: in_pause.map(|step| (step.name.clone(), step.duration_ms)).collect(),
            took_ms: milliseconds(ended.duration_since(asked)),
            nobody_committed_ms: seen.nobody_committed(asked, ended),
            client_waited_ms: seen.client_waited(asked, ended),
            client_waited_before_ms: seen.client_waited_within(rested, asked),
        }
    }
}

/// `132 tables, 3 tries`
fn lock_tries(step: &StepRecord) -> Option<f64> {
    step.detail.as_ref()?.strip_suffix(" tries")?.rsplit(' ').next()?.parse().ok()
}

/// What is measured between the steps' ends and the next one's beginnings comes last, under a name of its own.
fn steps_of(operations: &[OperationFigures]) -> Vec<StepFigures> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in operations.iter().flat_map(|operation| &operation.steps_ms) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let took = |operation: &OperationFigures, name: &str| -> f64 {
        operation.steps_ms.iter().filter(|(step, _)| step == name).map(|(_, ms)| ms).sum()
    };
    let between = |operation: &OperationFigures| {
        operation.pause_ms - operation.steps_ms.iter().map(|(_, ms)| ms).sum::<f64>()
    };
    let step = |name: &str, value: &dyn Fn(&OperationFigures) -> f64| StepFigures {
        name: name.to_owned(),
        ms: Spread::of(&operations.iter().map(value).collect::<Vec<_>>()),
        share_of_pause: median(
            &operations.iter().map(|operation| value(operation) / operation.pause_ms).collect::<Vec<_>>(),
        ),
    };
    let mut steps: Vec<_> = names.iter().map(|name| step(name, &|operation| took(operation, name))).collect();
    if !operations.is_empty() {
        steps.push(step("between steps", &between));
    }
    steps
}

impl Report {
    /// Where it is written.
    pub(crate) fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench/cutover.json")
    }

    /// Writes it.
    pub(crate) fn write(&self) -> Outcome<()> {
        let path = Self::path();
        std::fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        Ok(std::fs::write(path, serde_json::to_string_pretty(self)?)?)
    }

    /// Reads the last one.
    pub(crate) fn read() -> Outcome<Self> {
        let text =
            std::fs::read(Self::path()).map_err(|_| "there is no report yet: run `make bench-cutover`")?;
        Ok(serde_json::from_slice(&text)?)
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
