//! Progress bars for a person at a terminal: the copy as a whole with its rate and the time left, the largest tables in
//! flight, the indexes, the lag once changes are streamed, and a verification. Draws what the status board says, a few times a second, and decides nothing.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::MissedTickBehavior;

use super::logging::Console;
use crate::migration::{CopyView, Phase, Status, StatusBoard, TableState};
use crate::runtime::Shutdown;

const REDRAW_EVERY: Duration = Duration::from_millis(250);
/// What stands behind a bar is worked out from the status: the bars' own rates would begin anew with each table that takes
/// another's place, and count what an earlier run has copied.
const BYTES_TEMPLATE: &str =
    "{msg:28!} {wide_bar} {binary_bytes:>10} of {binary_total_bytes:<10} {prefix:<24}";
const COUNT_TEMPLATE: &str = "{msg:28!} {wide_bar} {pos:>10} of {len:<10} {prefix:<24}";
/// Tables shown at the same time.
const TABLES_MAX: usize = 5;

/// Draws until shutdown. When standard error is not a terminal it draws nothing, and waits all the same.
pub async fn show(console: Console, board: StatusBoard, shutdown: Shutdown) {
    if !console.is_terminal() {
        shutdown.requested().await;
        return;
    }
    let mut screen = Screen::new(console.bars());
    let mut ticks = tokio::time::interval(REDRAW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            _ = ticks.tick() => {}
        }
        let view = board.with(View::of);
        screen.draw(&view);
    }
    screen.clear();
}

/// What is to be seen, without how it is drawn.
#[derive(Debug, PartialEq, Eq)]
struct View {
    line: String,
    bars: Vec<Bar>,
}

#[derive(Debug, PartialEq, Eq)]
struct Bar {
    unit: Unit,
    label: String,
    done: u64,
    total: u64,
    /// What stands behind it.
    note: String,
}

/// What a bar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    Indexes,
}

impl View {
    fn of(status: &Status) -> Self {
        let bars = match status.phase {
            Phase::Snapshot | Phase::Indexes => copy_bars(status),
            _ => verification_bar(status).into_iter().collect(),
        };
        Self { line: line(status), bars }
    }
}

/// A restart in phase `indexes` copies nothing, and has no bars.
fn copy_bars(status: &Status) -> Vec<Bar> {
    let Some(copy) = &status.copy else { return Vec::new() };
    let mut copying: Vec<_> =
        status.tables.iter().filter(|(_, table)| table.state == TableState::Copying).collect();
    copying.sort_by(|(a_name, a), (b_name, b)| {
        b.bytes_estimated.cmp(&a.bytes_estimated).then_with(|| a_name.cmp(b_name))
    });
    let copying = copying.into_iter().take(TABLES_MAX).map(|(name, table)| {
        // The estimate comes from statistics; a bar must not run past its end.
        let total = table.bytes_estimated.max(table.bytes_copied);
        let percent = u128::from(table.bytes_copied) * 100 / u128::from(total.max(1));
        let note = format!("{percent} %");
        Bar { unit: Unit::Bytes, label: name.plain(), done: table.bytes_copied, total, note }
    });
    std::iter::once(total_bar(copy)).chain(copying).chain(index_bar(copy)).collect()
}

fn total_bar(copy: &CopyView) -> Bar {
    let is_done = copy.tables_joined == copy.tables_total;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate in whole bytes")]
    let mut note = format!("{}/s", indicatif::BinaryBytes(copy.bytes_per_second as u64));
    if let Some(seconds) = copy.eta_seconds {
        let _ = write!(note, " {:#} left", HumanDuration(Duration::from_secs(seconds)));
    }
    Bar {
        unit: Unit::Bytes,
        label: format!("{} of {} tables", copy.tables_joined, copy.tables_total),
        done: copy.bytes_copied,
        // COPY sends less than the tables take on disk, or more.
        total: if is_done { copy.bytes_copied } else { copy.bytes_estimated.max(copy.bytes_copied) },
        note: if is_done { String::new() } else { note },
    }
}

/// Of the verification that runs.
fn verification_bar(status: &Status) -> Option<Bar> {
    let running = status.verification.as_ref().filter(|report| report.ended_at.is_none())?;
    let note = match running.differences {
        0 => format!("{} of {} tables", running.tables_compared, running.tables_total),
        differences => format!("{differences} rows DIFFER"),
    };
    (running.bytes_total > 0).then(|| Bar {
        unit: Unit::Bytes,
        label: format!("verification {}", running.number),
        done: running.bytes_compared,
        // Sizes are estimates.
        total: running.bytes_total.max(running.bytes_compared),
        note,
    })
}

fn index_bar(copy: &CopyView) -> Option<Bar> {
    let CopyView { indexes_built, indexes_total, .. } = *copy;
    (indexes_total > 0).then(|| Bar {
        unit: Unit::Indexes,
        label: "indexes".to_owned(),
        done: indexes_built,
        total: indexes_total.max(indexes_built),
        note: String::new(),
    })
}

fn line(status: &Status) -> String {
    let mut line = status.phase.as_str().replace('_', " ");
    if let (Some(bytes), Some(seconds)) = (status.lag.bytes, status.lag.seconds) {
        let _ = write!(line, "  lag {} / {seconds:.1} s", indicatif::BinaryBytes(bytes));
    }
    if status.phase == Phase::Streaming {
        let throughput = status.throughput;
        let _ = write!(
            line,
            "  {:.0} tx/s  {:.0} rows/s  {} transactions",
            throughput.transactions_per_second, throughput.rows_per_second, throughput.transactions_total
        );
    }
    if let Some(cutover) = &status.cutover {
        let _ = write!(line, "  cutover {}: {}", cutover.epoch, cutover.state);
    }
    if let Some(problem) = &status.problem {
        let first = problem.message.lines().next().unwrap_or_default();
        let _ = write!(line, "  problem: {first}");
    }
    line
}

/// The bars on the terminal.
struct Screen<'a> {
    bars: &'a MultiProgress,
    line: ProgressBar,
    copies: Vec<ProgressBar>,
}

impl<'a> Screen<'a> {
    fn new(bars: &'a MultiProgress) -> Self {
        let line = bars.add(ProgressBar::new_spinner());
        Self { bars, line, copies: Vec::new() }
    }

    fn draw(&mut self, view: &View) {
        self.line.set_message(view.line.clone());
        self.line.tick();
        while self.copies.len() > view.bars.len() {
            if let Some(bar) = self.copies.pop() {
                self.bars.remove(&bar);
            }
        }
        while self.copies.len() < view.bars.len() {
            self.copies.push(self.bars.insert_before(&self.line, ProgressBar::new(0)));
        }
        for (bar, wanted) in self.copies.iter().zip(&view.bars) {
            bar.set_style(bar_style(wanted.unit));
            bar.set_length(wanted.total);
            bar.set_position(wanted.done);
            bar.set_prefix(wanted.note.clone());
            bar.set_message(wanted.label.clone());
        }
    }

    fn clear(&self) {
        for bar in &self.copies {
            bar.finish_and_clear();
        }
        self.line.finish_and_clear();
    }
}

fn bar_style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => BYTES_TEMPLATE,
        Unit::Indexes => COUNT_TEMPLATE,
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::migration::{LagView, TableProgress};
    use crate::model::TableName;

    fn table(state: TableState, bytes_estimated: u64) -> TableProgress {
        TableProgress { state, bytes_copied: 10, bytes_estimated, ..TableProgress::default() }
    }

    fn copy(tables_joined: u64) -> CopyView {
        CopyView {
            bytes_copied: 80,
            bytes_estimated: 3800,
            tables_joined,
            tables_total: 8,
            bytes_per_second: 2048.0,
            eta_seconds: Some(180),
            ..CopyView::default()
        }
    }

    #[test]
    fn the_copy_shows_the_total_and_the_largest_tables_in_flight() {
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        board.update(|status| {
            status.phase = Phase::Snapshot;
            status.copy = Some(copy(1));
            status.tables.insert(TableName::new("public", "done"), table(TableState::Joined, 1000));
            for size in 1..=7_u64 {
                let name = TableName::new("public", format!("t{size}"));
                status.tables.insert(name, table(TableState::Copying, size * 100));
            }
        });
        let view = board.with(View::of);
        let labels: Vec<&str> = view.bars.iter().map(|bar| bar.label.as_str()).collect();
        assert_eq!(
            labels,
            ["1 of 8 tables", "public.t7", "public.t6", "public.t5", "public.t4", "public.t3"]
        );
        let total = view.bars.first().expect("the total");
        assert_eq!((total.done, total.total, total.note.as_str()), (80, 3800, "2.00 KiB/s 3m left"));
        assert_eq!(view.bars.last().map(|bar| bar.note.as_str()), Some("3 %"));
    }

    #[test]
    fn the_bars_stay_while_indexes_are_built_and_one_counts_them() {
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        board.update(|status| {
            status.phase = Phase::Indexes;
            status.copy = Some(CopyView { indexes_built: 3, indexes_total: 10, ..copy(8) });
            status.tables.insert(TableName::new("public", "done"), table(TableState::Joined, 1000));
        });
        let view = board.with(View::of);
        let seen: Vec<_> = view.bars.iter().map(|bar| (bar.label.as_str(), bar.done, bar.total)).collect();
        assert_eq!(seen, [("8 of 8 tables", 80, 80), ("indexes", 3, 10)]);
        assert_eq!(view.bars.last().map(|bar| bar.unit), Some(Unit::Indexes));
        board.update(|status| status.copy = None);
        assert!(board.with(View::of).bars.is_empty(), "nothing is known of a copy of an earlier run");
    }

    #[test]
    fn streaming_shows_the_lag_and_no_bars() {
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        board.update(|status| {
            status.phase = Phase::Streaming;
            status.lag = LagView { bytes: Some(2048), seconds: Some(0.25) };
        });
        let view = board.with(View::of);
        assert!(view.line.starts_with("streaming  lag 2.00 KiB / 0.2 s"), "{}", view.line);
        assert!(view.bars.is_empty());
    }

    #[test]
    fn a_verification_has_a_bar_while_it_runs() {
        use crate::model::Direction;
        use crate::verify::{Scope, VerificationReport};
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        let begun = VerificationReport::begun(3, Direction::Forward, Scope::Rows, Timestamp::UNIX_EPOCH);
        let running = VerificationReport { tables_total: 4, bytes_total: 900, bytes_compared: 90, ..begun };
        board.update(|status| {
            status.phase = Phase::Streaming;
            status.verification = Some(running.clone());
        });
        let view = board.with(View::of);
        let seen: Vec<_> = view.bars.iter().map(|bar| (bar.label.as_str(), bar.done, bar.total)).collect();
        assert_eq!(seen, [("verification 3", 90, 900)]);
        assert_eq!(view.bars.first().map(|bar| bar.note.as_str()), Some("0 of 4 tables"));
        let mut ended = running;
        ended.end(Timestamp::UNIX_EPOCH, None);
        board.update(|status| status.verification = Some(ended));
        assert!(board.with(View::of).bars.is_empty());
    }

    #[test]
    fn the_templates_of_the_bars_are_valid() {
        for template in [BYTES_TEMPLATE, COUNT_TEMPLATE] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
