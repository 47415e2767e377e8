//! How the demo shows that it is alive: a bar on a terminal, lines otherwise. On standard error; the report goes to
//! standard output.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// Without a terminal a line says how far the stream is, so often.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    wanted: u64,
    last_line: Cell<Option<Instant>>,
}

impl Progress {
    pub(super) fn new(wanted: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(wanted);
            if let Ok(style) =
                ProgressStyle::with_template("{elapsed:>4} {wide_bar} {human_pos}/{human_len} {msg}")
            {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, wanted, last_line: Cell::new(None) }
    }

    /// The next thing happens.
    pub(super) fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(what),
            None => eprintln!("{what}"),
        }
    }

    /// How far the stream is.
    pub(super) fn streaming(&self, applied: u64, lag_bytes: u64, lag_seconds: f64) {
        let lag = match lag_bytes {
            u64::MAX => "unknown".to_owned(),
            bytes => format!("{} / {lag_seconds:.1} s", HumanBytes(bytes)),
        };
        if let Some(bar) = &self.bar {
            bar.set_position(applied.min(self.wanted));
            bar.set_message(format!("transactions applied, lag {lag}"));
        } else if self.last_line.get().is_none_or(|last| last.elapsed() > LINE_EVERY) {
            eprintln!(
                "{} of {} transactions applied, lag {lag}",
                HumanCount(applied),
                HumanCount(self.wanted)
            );
            self.last_line.set(Some(Instant::now()));
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
