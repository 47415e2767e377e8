//! What several rehearsals say together: percentiles of the write pause and of each step in it. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::render::Table;
use crate::control::dto::CutoverRecord;
use crate::model::counted;

/// Rehearsals that are over.
#[derive(Clone, Debug, Default)]
pub(super) struct Forecast {
    pauses_ms: Vec<f64>,
    /// By step, in the order in which steps came first: durations, and shares of the pause.
    steps: Vec<(String, Vec<f64>, Vec<f64>)>,
    aborted: BTreeMap<String, usize>,
}

impl Forecast {
    /// Adds one.
    pub(super) fn add(&mut self, rehearsal: &CutoverRecord) {
        let (Some(pause_ms), "completed") = (rehearsal.pause_ms, rehearsal.outcome.as_str()) else {
            let reason = rehearsal.reason.clone().unwrap_or_else(|| rehearsal.outcome.clone());
            *self.aborted.entry(reason).or_default() += 1;
            return;
        };
        self.pauses_ms.push(pause_ms);
        for step in rehearsal.steps.iter().filter(|step| step.in_pause) {
            let at = self.steps.iter().position(|(name, ..)| *name == step.name).unwrap_or_else(|| {
                self.steps.push((step.name.clone(), Vec::new(), Vec::new()));
                self.steps.len() - 1
            });
            if let Some((_, durations, shares)) = self.steps.get_mut(at) {
                durations.push(step.duration_ms);
                shares.extend(step.share_of_pause);
            }
        }
    }

    /// Whether each of them came to its end.
    pub(super) fn all_completed(&self) -> bool {
        self.aborted.is_empty()
    }

    /// A table for a person.
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(&["", "P50 MS", "P95 MS", "MAX MS", "SHARE"]);
        let line = |values: &[f64]| [0.5, 0.95, 1.0].map(|part| format!("{:.1}", percentile(values, part)));
        let [p50, p95, max] = line(&self.pauses_ms);
        table.row(["write pause".to_owned(), p50, p95, max, String::new()]);
        for (name, durations, shares) in &self.steps {
            let [p50, p95, max] = line(durations);
            let share = format!("{:.0} %", percentile(shares, 0.5) * 100.0);
            table.row([format!("  {name}"), p50, p95, max, share]);
        }
        let mut text = format!(
            "\n{} completed\n{}",
            counted(self.pauses_ms.len(), "rehearsal", "rehearsals"),
            table.text()
        );
        for (reason, times) in &self.aborted {
            text.push_str(&format!("{times} rolled back: {reason}\n"));
        }
        text
    }

    /// The same as JSON; durations in milliseconds, shares of the pause from 0 to 1.
    pub(super) fn json(&self) -> Value {
        let figures = |values: &[f64]| json!({ "p50": percentile(values, 0.5), "p95": percentile(values, 0.95), "max": percentile(values, 1.0) });
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|(name, durations, shares)| {
                json!({ "name": name, "duration_ms": figures(durations), "share_of_pause": percentile(shares, 0.5) })
            })
            .collect();
        json!({
            "completed": self.pauses_ms.len(), "aborted": self.aborted, "pause_ms": figures(&self.pauses_ms), "steps": steps,
        })
    }
}

/// The smallest value that at least `part` (0 to 1) of `values` do not exceed; 0 where there is none.
fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a short list")]
    let place = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!([0.5, 0.95, 1.0].map(|part| percentile(&values, part)), [10.0, 19.0, 20.0]);
        assert_eq!(percentile(&[7.0], 0.5), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
