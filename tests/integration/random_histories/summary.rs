//! What a run of many histories says in the end: how many there were and what was in them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use super::history::Kind;
use super::path::Path;
use super::run::{Outcome, Verdict};
use super::session::Tally;
use super::ways::Ways;

#[derive(Debug)]
pub(super) struct Summary {
    first: u64,
    wanted: u64,
    begun: Instant,
    by_path: BTreeMap<Path, u64>,
    run: u64,
    restarts: u64,
    faults: u64,
    rows: u64,
    differences: u64,
    undecodable: Vec<String>,
    tally: Tally,
    ways: Ways,
    failures: Vec<String>,
}

impl Summary {
    pub(super) fn new(first: u64, wanted: u64) -> Self {
        Self {
            first,
            wanted,
            begun: Instant::now(),
            by_path: BTreeMap::new(),
            run: 0,
            restarts: 0,
            faults: 0,
            rows: 0,
            differences: 0,
            undecodable: Vec::new(),
            tally: Tally::default(),
            ways: Ways::default(),
            failures: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, path: Path, outcome: Outcome, failure: Option<String>) {
        self.run += 1;
        *self.by_path.entry(path).or_default() += 1;
        self.restarts += outcome.restarts;
        self.faults += outcome.faults;
        self.rows += outcome.rows;
        self.differences += u64::from(matches!(outcome.verdict, Verdict::Failed(_)));
        if let Verdict::Undecodable(error) = &outcome.verdict {
            self.undecodable.push(error.clone());
        }
        self.tally.add(outcome.tally);
        self.ways.add(outcome.ways);
        self.failures.extend(failure);
    }

    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: BTreeMap<Kind, (u64, u64)> = self.tally.by_kind.clone();
        let kinds = kinds.iter().map(|(kind, (succeeded, all))| format!("{} {succeeded}/{all}", kind.word()));
        writeln!(f, "soak: statements that succeeded, of all: {}", kinds.collect::<Vec<_>>().join(", "))?;
        let refusals = self.tally.refusals.iter().map(|(code, count)| format!("{code} {count}"));
        writeln!(f, "soak: refused by the source, by SQLSTATE: {}", refusals.collect::<Vec<_>>().join(", "))?;
        writeln!(f, "soak: rows and reasons: {}", self.ways)?;
        if self.run < self.wanted {
            writeln!(
                f,
                "soak: stopped after {} of {} histories: the time was over, or enough had failed",
                self.run, self.wanted
            )?;
        }
        for error in &self.undecodable {
            writeln!(f, "soak: one history was left, because the source cannot decode it: {error}")?;
        }
        let paths = self.by_path.iter().map(|(path, count)| format!("{} {count}", path.word()));
        let paths = paths.collect::<Vec<_>>().join(", ");
        let seconds = self.begun.elapsed().as_secs();
        writeln!(
            f,
            "soak: {} histories ({paths}), {} transactions ({} aborted), {} restarts, {} faults, {} rows compared, {} differences \
             (seeds {}..{}, {} min {} s)",
            self.run,
            self.tally.committed,
            self.tally.aborted,
            self.restarts,
            self.faults,
            self.rows,
            self.differences,
            self.first,
            self.first + self.wanted - 1,
            seconds / 60,
            seconds % 60
        )
    }
}
