//! Makes a history that fails smaller while it goes on failing. Pure but for the question whether a history fails, which
//! is given. Bounded in questions and in time, because each is answered by real servers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::history::{History, Statement, Step};

/// How much a shrinking may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) runs: u32,
    pub(super) time: Duration,
}

/// A smaller history that still fails, and how many were tried.
#[derive(Debug)]
pub(super) struct Shrunk {
    pub(super) history: History,
    pub(super) runs: u32,
}

/// Takes things away, the largest first, until nothing more can go or the budget is used up.
pub(super) async fn shrink(
    history: History,
    budget: Budget,
    fails: impl AsyncFnMut(&History) -> bool,
) -> Shrunk {
    let mut shrinking = Shrinking {
        smallest: history,
        fails,
        runs: 0,
        runs_max: budget.runs,
        deadline: Instant::now() + budget.time,
    };
    loop {
        let before = shrinking.smallest.clone();
        shrinking.sessions().await;
        shrinking.transactions().await;
        shrinking.tables().await;
        shrinking.others().await;
        shrinking.statements().await;
        shrinking.rows().await;
        if shrinking.smallest == before || shrinking.is_over() {
            return Shrunk { history: shrinking.smallest, runs: shrinking.runs };
        }
    }
}

struct Shrinking<F> {
    smallest: History,
    fails: F,
    runs: u32,
    runs_max: u32,
    deadline: Instant,
}

impl<F: AsyncFnMut(&History) -> bool> Shrinking<F> {
    fn is_over(&self) -> bool {
        self.runs >= self.runs_max || Instant::now() > self.deadline
    }

    async fn sessions(&mut self) {
        let sessions: BTreeSet<_> = statements(&self.smallest).map(|statement| statement.session).collect();
        self.without_parts(sessions.into_iter().collect(), |history, gone| {
            retain_statements(history, |statement| !gone.contains(&statement.session));
        })
        .await;
    }

    async fn transactions(&mut self) {
        let numbers: BTreeSet<_> =
            statements(&self.smallest).map(|statement| statement.transaction).collect();
        self.without_parts(numbers.into_iter().collect(), |history, gone| {
            retain_statements(history, |statement| !gone.contains(&statement.transaction));
        })
        .await;
    }

    /// A table goes with everything that mentions it, other tables too.
    async fn tables(&mut self) {
        let names = self.smallest.tables.iter().map(|table| table.name.clone()).collect();
        self.without_parts(names, |history, gone| {
            let mentions = |text: &str| gone.iter().any(|name| text.contains(name.as_str()));
            history.tables.retain(|table| !table.definition.iter().any(|statement| mentions(statement)));
            for table in &mut history.tables {
                table.rows.retain(|row| !mentions(row));
            }
            retain_statements(history, |statement| !mentions(&statement.sql));
        })
        .await;
    }

    /// Faults, pauses, waits, lines of configuration.
    async fn others(&mut self) {
        let places: Vec<usize> = self
            .smallest
            .steps
            .iter()
            .enumerate()
            .filter(|(_, step)| !matches!(step, Step::Statement(_) | Step::Start))
            .map(|(place, _)| place)
            .collect();
        self.without_parts(places, without_steps).await;
        let configuration = self.smallest.configuration.clone();
        self.without_parts(configuration, |history, gone| {
            history.configuration.retain(|line| !gone.contains(line));
        })
        .await;
        let settings = self.smallest.source_settings.clone();
        self.without_parts(settings, |history, gone| {
            history.source_settings.retain(|line| !gone.contains(line));
        })
        .await;
    }

    async fn statements(&mut self) {
        let places: Vec<usize> = self
            .smallest
            .steps
            .iter()
            .enumerate()
            .filter(|(_, step)| matches!(step, Step::Statement(_)))
            .map(|(place, _)| place)
            .collect();
        self.without_parts(places, without_steps).await;
    }

    async fn rows(&mut self) {
        let rows: Vec<(usize, usize)> = self
            .smallest
            .tables
            .iter()
            .enumerate()
            .flat_map(|(table, each)| (0..each.rows.len()).map(move |row| (table, row)))
            .collect();
        self.without_parts(rows, |history, gone| {
            for (place, table) in history.tables.iter_mut().enumerate() {
                let mut row = 0;
                table.rows.retain(|_| {
                    row += 1;
                    !gone.contains(&(place, row - 1))
                });
            }
        })
        .await;
    }

    /// Tries to do without `parts`: first all of them, then halves, and so on down to each by itself. Places stay those
    /// of the history as it is now, so that what is gone once stays gone.
    async fn without_parts<P: Clone + PartialEq>(
        &mut self,
        parts: Vec<P>,
        take_away: impl Fn(&mut History, &[P]),
    ) {
        let whole = self.smallest.clone();
        let mut gone: Vec<P> = Vec::new();
        let mut length = parts.len();
        while length > 0 {
            for part in parts.chunks(length) {
                if self.is_over() {
                    return;
                }
                if part.iter().all(|each| gone.contains(each)) {
                    continue;
                }
                let tried: Vec<P> = gone.iter().chain(part).cloned().collect();
                let mut candidate = whole.clone();
                take_away(&mut candidate, &tried);
                self.runs += 1;
                if (self.fails)(&candidate).await {
                    self.smallest = candidate;
                    gone = tried;
                }
            }
            length = if length == 1 { 0 } else { length.div_ceil(2) };
        }
    }
}

fn statements(history: &History) -> impl Iterator<Item = &Statement> {
    history.steps.iter().filter_map(|step| match step {
        Step::Statement(statement) => Some(statement),
        _ => None,
    })
}

fn retain_statements(history: &mut History, keep: impl Fn(&Statement) -> bool) {
    history.steps.retain(|step| match step {
        Step::Statement(statement) => keep(statement),
        _ => true,
    });
}

fn without_steps(history: &mut History, gone: &[usize]) {
    let mut place = 0;
    history.steps.retain(|_| {
        place += 1;
        !gone.contains(&(place - 1))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_histories::generate::generate;
    use crate::random_histories::history::{Fault, Kind};

    const PLENTY: Budget = Budget { runs: 10_000, time: Duration::from_secs(60) };

    #[tokio::test]
    async fn what_does_not_matter_goes_and_what_does_stays() {
        let history = generate(12);
        let two: Vec<String> = statements(&history)
            .filter(|statement| statement.kind == Kind::Update)
            .map(|statement| statement.sql.clone())
            .take(2)
            .collect();
        let has_both = async |history: &History| {
            two.iter().all(|sql| statements(history).any(|statement| statement.sql == *sql))
        };
        let shrunk = shrink(history.clone(), PLENTY, has_both).await;
        assert_eq!(shrunk.history.statements(), 2, "{}", shrunk.history.print());
        assert!(shrunk.history.tables.iter().all(|table| table.rows.is_empty()));
        assert!(shrunk.history.steps.contains(&Step::Start) && shrunk.history.steps.len() == 3);
        assert!(shrunk.runs < 400, "{} runs", shrunk.runs);
    }

    #[tokio::test]
    async fn a_failure_that_needs_a_fault_and_a_row_keeps_them() {
        let seed = (0..).find(|seed| {
            let history = generate(*seed);
            history.steps.contains(&Step::Fault(Fault::Kill)) && !history.tables[0].rows.is_empty()
        });
        let needs = async |history: &History| {
            history.steps.contains(&Step::Fault(Fault::Kill))
                && history.tables.first().is_some_and(|table| !table.rows.is_empty())
        };
        let shrunk = shrink(generate(seed.expect("a seed")), PLENTY, needs).await;
        assert_eq!(shrunk.history.tables.len(), 1);
        assert_eq!(shrunk.history.tables[0].rows.len(), 1);
        assert_eq!(shrunk.history.steps, [Step::Start, Step::Fault(Fault::Kill)]);
    }

    #[tokio::test]
    async fn it_ends_with_its_budget() {
        let budget = Budget { runs: 5, time: Duration::from_secs(60) };
        let shrunk = shrink(generate(3), budget, async |_: &History| false).await;
        assert_eq!((shrunk.runs, shrunk.history), (5, generate(3)));
        let late = Budget { runs: 100, time: Duration::ZERO };
        assert_eq!(shrink(generate(3), late, async |_: &History| true).await.runs, 0);
    }
}
