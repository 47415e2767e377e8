//! What the demo found out, as JSON for scripts and as text for people. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

/// The longest write pause the demo accepts, in milliseconds: the default of `cutover.max_pause_ms`.
const PAUSE_MS_MAX: f64 = 1_000.0;

/// The whole result. The fields up to `row_differences` are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    /// Rows of the initial copy.
    pub rows_copied: u64,
    /// Source transactions applied to the target by the stream.
    pub transactions_applied: u64,
    /// How long writers waited, as the cutover measured it, in milliseconds.
    pub pause_ms: f64,
    /// Errors that clients saw, the fence's own included.
    pub client_errors: u64,
    /// Transactions that some client saw committed, on either side.
    pub acknowledged_transactions: u64,
    /// Acknowledged transactions that the target does not have.
    pub missing_transactions: u64,
    /// Transactions that the target has more than once.
    pub duplicate_transactions: u64,
    /// Rows compared between both sides at the fence.
    pub rows_compared: u64,
    /// Rows that only one side had.
    pub row_differences: u64,
    /// Rows that the program itself compared while the clients wrote, before the cutover.
    pub verified_rows: u64,
    /// Rows that it found different.
    pub verified_differences: u64,
    /// How long that took, in seconds.
    pub verification_seconds: f64,
    /// What of the judges' requirements is not met; empty is success.
    pub failures: Vec<String>,
    /// What the source printed as its version.
    pub source_version: String,
    /// What the target printed as its version.
    pub target_version: String,
    /// Tables compared.
    pub tables_compared: usize,
    /// By table, the differences.
    pub differing_tables: BTreeMap<String, super::compare::TableDifference>,
    /// Errors that clients saw, by SQLSTATE, or `connection`.
    pub client_errors_by_code: BTreeMap<String, u64>,
    /// The longest time any client waited between two acknowledged transactions, in milliseconds.
    pub client_longest_wait_ms: f64,
    /// Cutovers asked for; those before the last rolled back by themselves.
    pub cutover_attempts: u32,
    /// The cutover's steps.
    pub cutover_steps: Vec<StepShare>,
    /// Lag, about once a second.
    pub lag: Vec<LagSample>,
    /// How long the copy took, until streaming, in seconds.
    pub copy_seconds: f64,
    /// How long the whole demo took, in seconds.
    pub total_seconds: f64,
}

/// One step of the cutover.
#[derive(Clone, Debug, Serialize)]
pub struct StepShare {
    /// Its name.
    pub name: String,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// Its part of the pause, 0 to 1; `None` outside the pause.
    pub share_of_pause: Option<f64>,
}

/// Lag at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LagSample {
    /// Seconds since streaming began.
    pub at_seconds: f64,
    /// Bytes of WAL not yet applied.
    pub bytes: u64,
    /// Age of the oldest of them, in seconds.
    pub seconds: f64,
    /// Transactions applied so far.
    pub transactions_applied: u64,
}

impl DemoReport {
    /// Holds the figures against what the demo promises.
    pub(super) fn judge(&mut self, transactions_wanted: u64) {
        let mut demand = |met: bool, what: String| {
            if !met {
                self.failures.push(what);
            }
        };
        demand(self.rows_copied > 0, "no rows were copied".into());
        demand(
            self.transactions_applied >= transactions_wanted,
            format!(
                "{} transactions were applied, {transactions_wanted} were wanted",
                self.transactions_applied
            ),
        );
        demand(
            self.pause_ms <= PAUSE_MS_MAX,
            format!("writers waited {:.0} ms, {PAUSE_MS_MAX:.0} ms are allowed", self.pause_ms),
        );
        demand(self.acknowledged_transactions > 0, "no client saw a commit".into());
        demand(
            self.missing_transactions == 0,
            format!("{} transactions are missing", self.missing_transactions),
        );
        demand(
            self.duplicate_transactions == 0,
            format!("{} transactions were applied twice", self.duplicate_transactions),
        );
        demand(
            self.verified_rows > 0 && self.verified_differences == 0,
            format!("{} of {} rows differ under load", self.verified_differences, self.verified_rows),
        );
        demand(self.rows_compared > 0, "no rows were compared".into());
        demand(self.row_differences == 0, format!("{} rows differ", self.row_differences));
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "  {label:<28} {value}");
        };
        line("source", self.source_version.clone());
        line("target", self.target_version.clone());
        line("rows copied", format!("{} in {:.1} s", grouped(self.rows_copied), self.copy_seconds));
        line("transactions applied", grouped(self.transactions_applied));
        line("lag, median / highest", self.lag_summary());
        line(
            "rows verified under load",
            format!("{} in {:.1} s", grouped(self.verified_rows), self.verification_seconds),
        );
        line("  different", grouped(self.verified_differences));
        line("write pause", format!("{:.1} ms", self.pause_ms));
        for step in self.cutover_steps.iter().filter(|step| step.share_of_pause.is_some()) {
            let share = 100.0 * step.share_of_pause.unwrap_or_default();
            line(
                &format!("  {}", step.name.replace('_', " ")),
                format!("{:.1} ms  {share:.0} %", step.duration_ms),
            );
        }
        line("longest wait of a client", format!("{:.1} ms", self.client_longest_wait_ms));
        let errors: Vec<String> =
            self.client_errors_by_code.iter().map(|(code, count)| format!("{code}: {count}")).collect();
        line("errors seen by clients", format!("{} {}", self.client_errors, errors.join(", ")));
        line("transactions acknowledged", grouped(self.acknowledged_transactions));
        line("  missing on the target", grouped(self.missing_transactions));
        line("  more than once", grouped(self.duplicate_transactions));
        line(
            "rows compared at the fence",
            format!("{} in {} tables", grouped(self.rows_compared), self.tables_compared),
        );
        line("  different", grouped(self.row_differences));
        for (table, difference) in &self.differing_tables {
            line(table, format!("{} missing, {} extra", difference.missing, difference.extra));
        }
        text
    }

    fn lag_summary(&self) -> String {
        let mut by_bytes = self.lag.clone();
        by_bytes.sort_by_key(|sample| sample.bytes);
        let Some(highest) = by_bytes.last() else { return "not measured".into() };
        let median = by_bytes.get(by_bytes.len() / 2).unwrap_or(highest);
        let longest = self.lag.iter().map(|sample| sample.seconds).fold(0.0, f64::max);
        format!(
            "{} / {}, at most {longest:.1} s",
            indicatif::HumanBytes(median.bytes),
            indicatif::HumanBytes(highest.bytes)
        )
    }
}

fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}
