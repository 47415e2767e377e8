//! Progress bars for a person at a terminal: the copy as a whole, the largest tables in flight, and the lag once
//! changes are streamed. Draws what the status board says, a few times a second, and decides nothing.

use std::fmt::Write as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::MissedTickBehavior;

use super::logging::Console;
use crate::migration::{Phase, Status, StatusBoard, TableState};
use crate::runtime::Shutdown;

const REDRAW_EVERY: Duration = Duration::from_millis(250);
const BAR_TEMPLATE: &str =
    "{msg:28!} {wide_bar} {binary_bytes:>10} of {binary_total_bytes:<10} {binary_bytes_per_sec:>12} {eta:>4}";
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
    label: String,
    bytes_copied: u64,
    bytes_estimated: u64,
}

impl View {
    fn of(status: &Status) -> Self {
        let bars = if status.phase == Phase::Snapshot { copy_bars(status) } else { Vec::new() };
        Self { line: line(status), bars }
    }
}

fn copy_bars(status: &Status) -> Vec<Bar> {
    let mut copying: Vec<Bar> = status
        .tables
        .iter()
        .filter(|(_, table)| table.state == TableState::Copying)
        .map(|(name, table)| Bar {
            label: name.plain(),
            bytes_copied: table.bytes_copied,
            bytes_estimated: table.bytes_estimated,
        })
        .collect();
    copying.sort_by(|a, b| b.bytes_estimated.cmp(&a.bytes_estimated).then_with(|| a.label.cmp(&b.label)));
    copying.truncate(TABLES_MAX);

    let joined = status.tables.values().filter(|table| table.state == TableState::Joined).count();
    let total = Bar {
        label: format!("{joined} of {} tables", status.tables.len()),
        bytes_copied: status.tables.values().map(|table| table.bytes_copied).sum(),
        bytes_estimated: status.tables.values().map(|table| table.bytes_estimated).sum(),
    };
    std::iter::once(total).chain(copying).collect()
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
            self.copies
                .push(self.bars.insert_before(&self.line, ProgressBar::new(0).with_style(bar_style())));
        }
        for (bar, wanted) in self.copies.iter().zip(&view.bars) {
            // The estimate comes from statistics; a bar must not run past its end.
            bar.set_length(wanted.bytes_estimated.max(wanted.bytes_copied));
            bar.set_position(wanted.bytes_copied);
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

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template(BAR_TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::migration::{LagView, TableProgress};
    use crate::model::TableName;

    fn table(state: TableState, bytes_estimated: u64) -> TableProgress {
        TableProgress { state, rows_copied: 1, bytes_copied: 10, rows_estimated: 5, bytes_estimated }
    }

    #[test]
    fn the_copy_shows_the_total_and_the_largest_tables_in_flight() {
        let board = StatusBoard::new(Timestamp::UNIX_EPOCH);
        board.update(|status| {
            status.phase = Phase::Snapshot;
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
        assert_eq!(view.bars.first().map(|bar| (bar.bytes_copied, bar.bytes_estimated)), Some((80, 3800)));
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
    fn the_template_of_the_bars_is_valid() {
        assert!(ProgressStyle::with_template(BAR_TEMPLATE).is_ok());
    }
}
