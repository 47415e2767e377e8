//! `status --watch` on a terminal: one picture that is drawn over again, with the course of the lag, and a bar for every table
//! that is being copied. Pure but for the clock: what was heard in, a frame of text out.

use std::collections::VecDeque;
use std::time::Instant;

use indicatif::{BinaryBytes, HumanDuration};
use jiff::Timestamp;

use super::render::status_text;
use crate::control::dto::StatusRecord;

/// Values of the lag that are kept, one a second.
const LAGS_MAX: usize = 600;
/// Tables with a bar of their own.
const BARS_MAX: usize = 8;
/// Width of a bar, and of the widest table name before it.
const BAR_WIDTH: usize = 24;
const NAME_WIDTH: usize = 32;
/// Of a chart one line high, from nothing to the largest value.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Top left, without clearing: what is drawn over does not flicker.
const HOME: &str = "\x1b[H";
const CLEAR_TO_END_OF_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// The whole terminal, before the first frame.
pub(super) const CLEAR: &str = "\x1b[2J";

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// What was heard of an instance so far.
pub(super) struct Watched {
    address: String,
    lags: VecDeque<u64>,
    last: Option<(StatusRecord, Instant)>,
    /// Why nothing is heard now.
    silence: Option<String>,
}

impl Watched {
    pub(super) fn new(address: String) -> Self {
        Self { address, lags: VecDeque::new(), last: None, silence: None }
    }

    /// It has answered.
    pub(super) fn heard(&mut self, status: StatusRecord) {
        if let Some(bytes) = status.lag.bytes {
            self.lags.push_back(bytes);
            if self.lags.len() > LAGS_MAX {
                self.lags.pop_front();
            }
        }
        self.silence = None;
        self.last = Some((status, Instant::now()));
    }

    /// It has not answered.
    pub(super) fn silent(&mut self, reason: String) {
        self.silence = Some(reason);
    }

    /// The picture for a terminal of this size.
    pub(super) fn frame(&self, size: Size) -> String {
        let mut lines =
            vec![format!("pgsluice at {} (Ctrl-C ends this view, not the migration)", self.address)];
        if let Some(reason) = &self.silence {
            let since = self.last.as_ref().map_or_else(
                || "never answered".to_owned(),
                |(_, at)| format!("silent for {}", HumanDuration(at.elapsed())),
            );
            lines.push(format!("NO ANSWER, {since}: {reason}"));
        }
        if let Some((status, _)) = &self.last {
            lines.extend(self.lag_line(size.columns));
            lines.extend(bars(status));
            lines.extend(verification_bar(status));
            lines.extend(status_text(status, Timestamp::now()).lines().map(str::to_owned));
        }
        // The last line of a terminal is left free, so that it does not scroll.
        let room = size.rows.saturating_sub(1).max(2);
        if lines.len() > room {
            let hidden = lines.len() - (room - 1);
            lines.truncate(room - 1);
            lines
                .push(format!("… and {hidden} more lines: make the window taller, or see `pgsluice status`"));
        }
        let mut frame = HOME.to_owned();
        for line in lines {
            frame.extend(line.chars().take(size.columns));
            frame.push_str(CLEAR_TO_END_OF_LINE);
            frame.push('\n');
        }
        frame.push_str(CLEAR_BELOW);
        frame
    }

    /// The course of the lag, the newest value last.
    fn lag_line(&self, columns: usize) -> Option<String> {
        const LABEL: &str = "lag so far  ";
        let room = columns.saturating_sub(LABEL.len() + 20).min(self.lags.len());
        let shown: Vec<u64> = self.lags.iter().skip(self.lags.len() - room).copied().collect();
        let highest = shown.iter().copied().max()?;
        let chart: String = shown.iter().map(|value| level(*value, highest)).collect();
        Some(format!("{LABEL}{chart} max {}", BinaryBytes(highest)))
    }
}

fn level(value: u64, highest: u64) -> char {
    let top = LEVELS.len() as u64 - 1;
    let index = value.saturating_mul(top).checked_div(highest).unwrap_or(0);
    LEVELS[usize::try_from(index.min(top)).unwrap_or(0)]
}

/// A bar for every table that is being copied, the largest first.
fn bars(status: &StatusRecord) -> Vec<String> {
    let mut copying: Vec<_> = status.tables.iter().filter(|table| table.state == "copying").collect();
    copying.sort_by_key(|table| std::cmp::Reverse(table.bytes_estimated));
    copying
        .iter()
        .take(BARS_MAX)
        .map(|table| {
            bar(&format!("{}.{}", table.schema, table.name), table.bytes_copied, table.bytes_estimated)
        })
        .collect()
}

/// A bar for the verification that runs.
fn verification_bar(status: &StatusRecord) -> Option<String> {
    let running = status.verification.as_ref().filter(|verification| verification.ended_at.is_none())?;
    let label = format!("verification {}", running.number);
    (running.bytes_total > 0).then(|| bar(&label, running.bytes_compared, running.bytes_total))
}

/// The total is an estimate, and may be too small.
fn bar(label: &str, done: u64, total: u64) -> String {
    let label: String = label.chars().take(NAME_WIDTH).collect();
    let total = total.max(done).max(1);
    let percent = u128::from(done) * 100 / u128::from(total);
    let filled = usize::try_from(percent).unwrap_or(100) * BAR_WIDTH / 100;
    format!(
        "{label:<NAME_WIDTH$} [{}{}] {percent:>3} % of about {}",
        "#".repeat(filled),
        ".".repeat(BAR_WIDTH - filled),
        BinaryBytes(total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::dto::{ConfiguredRecord, TableRecord, TablesListed};
    use crate::migration::StatusBoard;

    const SIZE: Size = Size { rows: 24, columns: 80 };

    fn status(lag: u64) -> StatusRecord {
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        let configured = ConfiguredRecord::of(&crate::control::fixture::config(), "token");
        let mut status = board.with(|status| StatusRecord::of(status, TablesListed::All, configured));
        status.lag.bytes = Some(lag);
        status.lag.seconds = Some(0.5);
        status
    }

    fn plain(frame: &str) -> String {
        [HOME, CLEAR_TO_END_OF_LINE, CLEAR_BELOW]
            .iter()
            .fold(frame.to_owned(), |text, code| text.replace(code, ""))
    }

    #[test]
    fn the_course_of_the_lag_is_drawn_with_its_largest_value() {
        let mut watched = Watched::new("http://127.0.0.1:8080/".into());
        for lag in [0, 1 << 20, 512 << 10, 0] {
            watched.heard(status(lag));
        }
        let frame = plain(&watched.frame(SIZE));
        assert!(frame.contains("lag so far  ▁█▄▁ max 1.00 MiB"), "{frame}");
    }

    #[test]
    fn a_verification_that_runs_has_a_bar_and_one_that_has_ended_a_line() {
        use crate::control::dto::VerificationSummaryRecord;
        use crate::model::Direction;
        use crate::verify::{Scope, VerificationReport};
        let begun = VerificationReport::begun(3, Direction::Forward, Scope::Rows, Timestamp::now());
        let running =
            VerificationReport { tables_total: 2, bytes_total: 4 << 20, bytes_compared: 1 << 20, ..begun };
        let mut watched = Watched::new("http://127.0.0.1:8080/".into());
        let mut seen = status(7);
        seen.verification = Some(VerificationSummaryRecord::from(&running));
        watched.heard(seen.clone());
        let frame = plain(&watched.frame(Size { columns: 100, ..SIZE }));
        assert!(frame.contains("[######..................]  25 % of about 4.00 MiB"), "{frame}");
        assert!(frame.contains("verifying   25 % of 4.00 MiB"), "{frame}");
        let mut ended = VerificationReport { rows_compared: 9, ..running };
        ended.end(Timestamp::now(), None);
        seen.verification = Some(VerificationSummaryRecord::from(&ended));
        watched.heard(seen);
        let frame = plain(&watched.frame(Size { columns: 100, ..SIZE }));
        assert!(frame.contains("verified    just now: clean, 9 rows") && !frame.contains("[##"), "{frame}");
    }

    #[test]
    fn an_instance_that_is_silent_is_said_to_be_and_what_was_known_stays() {
        let mut watched = Watched::new("http://127.0.0.1:8080/".into());
        watched.silent("connection refused".into());
        assert!(watched.frame(SIZE).contains("NO ANSWER, never answered: connection refused"));
        watched.heard(status(7));
        watched.silent("connection refused".into());
        let frame = watched.frame(SIZE);
        assert!(frame.contains("NO ANSWER, silent for") && frame.contains("lag so far"), "{frame}");
        watched.heard(status(7));
        assert!(!watched.frame(SIZE).contains("NO ANSWER"));
    }

    #[test]
    fn it_never_is_larger_than_the_terminal_and_says_what_is_hidden() {
        let mut watched = Watched::new("http://127.0.0.1:8080/".into());
        let mut large = status(1);
        large.tables = (0..5_000)
            .map(|number| TableRecord {
                schema: "public".into(),
                name: format!("a_table_with_a_long_name_so_that_it_is_cut_off_{number}"),
                state: "copying".into(),
                bytes_copied: 50,
                bytes_estimated: 100,
                rows_copied: 5,
                rows_estimated: 10,
                indexes_built: 0,
                indexes_total: 0,
            })
            .collect();
        watched.heard(large);
        for size in
            [Size { rows: 10, columns: 40 }, Size { rows: 3, columns: 1 }, Size { rows: 0, columns: 0 }]
        {
            let frame = watched.frame(size);
            assert!(frame.lines().count() <= size.rows.max(3), "{size:?}");
        }
        let frame = watched.frame(Size { rows: 12, columns: 100 });
        assert!(frame.contains("[############............]  50 % of about 100 B"), "{frame}");
        assert!(frame.contains("more lines: make the window taller"), "{frame}");
    }
}
