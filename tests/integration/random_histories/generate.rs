//! A random history from a seed: the same seed, the same history. Pure.
//!
//! Sessions get their transactions first; then one order over all sessions is drawn, with the start of the program and
//! the faults at chosen places in it.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::changes::Style;
use super::history::{Fault, History, HistoryTable, Kind, Statement, Step};
use super::tables::{Palette, Table, pick};

/// Source and target of the seeds in turn.
pub(super) const PAIRS: [(u32, u32); 4] = [(14, 15), (15, 17), (17, 18), (14, 18)];

/// Beside the published tables: nothing of it may arrive.
const UNPUBLISHED: &str = "one.unpublished";

pub(super) fn generate(seed: u64) -> History {
    let mut random = StdRng::seed_from_u64(seed);
    let (source, target) = PAIRS[(seed % PAIRS.len() as u64) as usize];
    let palette = Palette { portable: random.random_bool(0.3) };
    let in_progress = random.random_bool(0.4);
    let (truncate, attacks) = (random.random_bool(0.5), random.random_bool(0.6));
    let style = Style { bulk: in_progress, truncate, attacks };
    let (mut tables, definitions) = tables(&mut random, &palette);
    let mut history_tables = Vec::new();
    for (index, definition) in definitions.into_iter().enumerate() {
        let (before, rest) = tables.split_at_mut(index);
        let Some(table) = rest.first_mut() else { continue };
        let rows = table.first_rows(&mut random, before);
        history_tables.push(HistoryTable { name: table.name.clone(), definition, rows });
    }
    let sessions = random.random_range(2..=6);
    let mut writer = Writer { random: &mut random, tables, transaction: 0, prepared: 0, style };
    let sessions: Vec<Vec<Statement>> = (0..sessions).map(|session| writer.session(session)).collect();
    let steps = interleave(&mut random, sessions);
    History {
        seed,
        source,
        target,
        configuration: configuration(&mut random, in_progress),
        source_settings: source_settings(in_progress),
        setup: vec![
            "CREATE SCHEMA one".into(),
            "CREATE SCHEMA \"Two.\"".into(),
            "CREATE TYPE one.mood AS ENUM ('sad', 'ok', 'happy, \"very\"')".into(),
            format!("CREATE TABLE {UNPUBLISHED} (n int)"),
        ],
        tables: history_tables,
        steps,
    }
}

fn tables(random: &mut StdRng, palette: &Palette) -> (Vec<Table>, Vec<Vec<String>>) {
    let (mut tables, mut definitions) = (Vec::new(), Vec::new());
    for index in 0..random.random_range(2..=5) {
        let (table, definition) = Table::random(random, index, &mut tables, palette);
        tables.push(table);
        definitions.push(definition);
    }
    if random.random_bool(0.3)
        && let Some(parent) = tables.iter().find(|table| table.can_have_children())
    {
        let (child, definition) = parent.child();
        tables.push(child);
        definitions.push(definition);
    }
    (tables, definitions)
}

fn configuration(random: &mut StdRng, in_progress: bool) -> Vec<String> {
    let mut lines = vec![format!("source.tables.exclude = [\"{UNPUBLISHED}\"]")];
    if random.random_bool(0.5) {
        lines.push("apply.max_batch_bytes = \"64KiB\"".into());
    }
    if random.random_bool(0.4) {
        lines.push(format!("apply.max_batch_delay_ms = {}", random.random_range(1..60)));
    }
    if random.random_bool(0.5) {
        lines.push("snapshot.jobs = 1".into());
    }
    if random.random_bool(0.5) {
        lines.push("source.binary = \"auto\"".into());
    }
    if in_progress {
        lines.push("source.stream_in_progress = \"on\"".into());
    }
    lines
}

/// As little memory as the server allows: transactions are then sent while they run.
fn source_settings(in_progress: bool) -> Vec<String> {
    if in_progress { vec!["logical_decoding_work_mem = '64kB'".into()] } else { Vec::new() }
}

/// Writes the transactions of sessions.
struct Writer<'a> {
    random: &'a mut StdRng,
    tables: Vec<Table>,
    transaction: u32,
    prepared: u32,
    style: Style,
}

impl Writer<'_> {
    fn session(&mut self, session: usize) -> Vec<Statement> {
        (0..self.random.random_range(5..14)).flat_map(|_| self.transaction(session)).collect()
    }

    fn transaction(&mut self, session: usize) -> Vec<Statement> {
        self.transaction += 1;
        let mut sql = Vec::new();
        if self.random.random_bool(0.2) {
            sql.extend(self.change().into_iter().take(1));
        } else {
            let begin = match self.random.random_range(0..10) {
                0 => "BEGIN ISOLATION LEVEL REPEATABLE READ",
                1 => "BEGIN ISOLATION LEVEL SERIALIZABLE",
                _ => "BEGIN",
            };
            sql.push((Kind::Begin, begin.to_owned()));
            let mut depth = 0;
            for _ in 0..self.random.random_range(1..7) {
                self.statement(&mut sql, &mut depth);
            }
            sql.push(self.end());
        }
        let transaction = self.transaction;
        sql.into_iter().map(|(kind, sql)| Statement { session, transaction, kind, sql }).collect()
    }

    fn end(&mut self) -> (Kind, String) {
        match self.random.random_range(0..20) {
            0..2 => (Kind::Rollback, "ROLLBACK".into()),
            2..4 => {
                self.prepared += 1;
                (Kind::Prepare, format!("PREPARE TRANSACTION 'p{}'", self.prepared))
            }
            _ => (Kind::Commit, "COMMIT".into()),
        }
    }

    fn statement(&mut self, sql: &mut Vec<(Kind, String)>, depth: &mut u32) {
        match self.random.random_range(0..40) {
            0..5 => {
                *depth += 1;
                sql.push((Kind::Savepoint, format!("SAVEPOINT s{depth}")));
                sql.extend(self.change());
            }
            5..8 if *depth > 0 => {
                let to = self.random.random_range(1..=*depth);
                *depth = to;
                sql.push((Kind::RollbackTo, format!("ROLLBACK TO s{to}")));
            }
            8..10 if *depth > 0 => {
                let from = self.random.random_range(1..=*depth);
                *depth = from - 1;
                sql.push((Kind::Release, format!("RELEASE s{from}")));
            }
            10..12 => {
                let transactional = self.random.random_bool(0.6);
                let length = self.random.random_range(0..200);
                sql.push((
                    Kind::Message,
                    format!(
                        "SELECT pg_logical_emit_message({transactional}, 'other', repeat('x', {length}))"
                    ),
                ));
            }
            12..14 => sql.push((
                Kind::Unpublished,
                format!(
                    "INSERT INTO {UNPUBLISHED} SELECT generate_series(1, {})",
                    self.random.random_range(1..40)
                ),
            )),
            14..17 => {
                let failing = self.failing();
                sql.push((Kind::Savepoint, "SAVEPOINT failing".into()));
                if self.random.random_bool(0.5) {
                    sql.extend(self.change());
                }
                sql.push((Kind::Failing, failing));
                sql.push((Kind::RollbackTo, "ROLLBACK TO failing".into()));
            }
            17..21 => {
                // What may fail does not take the rest with it.
                sql.push((Kind::Savepoint, "SAVEPOINT risky".into()));
                sql.extend(self.change());
                let (kind, end) = if self.random.random_bool(0.3) {
                    (Kind::RollbackTo, "ROLLBACK TO risky")
                } else {
                    (Kind::Release, "RELEASE risky")
                };
                sql.push((kind, end.into()));
            }
            _ => sql.extend(self.change()),
        }
    }

    fn change(&mut self) -> super::changes::Change {
        let others = self.tables.clone();
        let index = self.random.random_range(0..self.tables.len());
        self.tables[index].change(self.random, &others, self.style)
    }

    /// A statement that cannot succeed, after it has begun to write.
    fn failing(&mut self) -> String {
        let table = pick(self.random, &self.tables);
        let (name, number) = (&table.name, &table.number);
        match self.random.random_range(0..3) {
            0 => format!("UPDATE {name} SET {number} = 1 / ({number} - {number})"),
            1 => format!("UPDATE {name} SET {number} = {number} + 2147483647"),
            _ => format!(
                "INSERT INTO {name} ({number}) SELECT CASE WHEN i < 3 THEN i ELSE 1 / (i - i) END FROM generate_series(1, 3) i"
            ),
        }
    }
}

/// One order over all sessions, and everything else that happens in it.
fn interleave(random: &mut StdRng, sessions: Vec<Vec<Statement>>) -> Vec<Step> {
    let resolver = sessions.len();
    let total: usize = sessions.iter().map(Vec::len).sum();
    let start = total * random.random_range(5..30) / 100;
    let streaming = (start + random.random_range(5..40)).min(total * 6 / 10);
    let mut faults = faults(random, start, total);
    let mut bursts = bursts(random, streaming, total);
    let mut queues: Vec<_> = sessions.into_iter().map(|each| each.into_iter().peekable()).collect();
    let mut ends: Vec<(usize, Statement)> = Vec::new();
    let mut steps = Vec::new();
    for place in 0..total {
        if place == start {
            steps.push(Step::Start);
        }
        if place == streaming {
            steps.push(Step::AwaitStreaming);
        }
        while let Some((_, step)) = bursts.pop_if(|(at, _)| *at <= place) {
            if step != Step::GoOn {
                steps.push(Step::AwaitStreaming);
            }
            steps.push(step);
        }
        while let Some((_, fault)) = faults.pop_if(|(at, _)| *at <= place) {
            steps.push(Step::Fault(fault));
            if random.random_bool(0.6) && place > streaming {
                steps.push(Step::AwaitStreaming);
            }
        }
        while let Some(due) = ends.iter().position(|(at, _)| *at <= place) {
            steps.push(Step::Statement(ends.swap_remove(due).1));
        }
        let open: Vec<usize> =
            (0..queues.len()).filter(|session| queues[*session].peek().is_some()).collect();
        let Some(statement) = queues[*pick(random, &open)].next() else { continue };
        if statement.kind == Kind::Prepare {
            ends.push((place + random.random_range(3..40), end_of_prepared(random, resolver, &statement)));
        }
        steps.push(Step::Statement(statement));
        if place > start && place < streaming {
            // The copy takes a while: not everything is to happen at its very beginning.
            steps.push(Step::Pause(random.random_range(0..40)));
        } else if place > streaming && random.random_bool(0.1) {
            steps.push(Step::Pause(random.random_range(1..30)));
        }
    }
    steps.extend(ends.into_iter().map(|(_, end)| Step::Statement(end)));
    steps
}

/// COMMIT or ROLLBACK PREPARED, by a session that does nothing else.
fn end_of_prepared(random: &mut StdRng, resolver: usize, prepare: &Statement) -> Statement {
    let id = prepare.sql.trim_start_matches("PREPARE TRANSACTION ");
    let (kind, sql) = if random.random_bool(0.7) {
        (Kind::CommitPrepared, format!("COMMIT PREPARED {id}"))
    } else {
        (Kind::RollbackPrepared, format!("ROLLBACK PREPARED {id}"))
    };
    Statement { session: resolver, transaction: prepare.transaction, kind, sql }
}

/// When the program or the target stands still and what is committed gathers, the last first.
fn bursts(random: &mut StdRng, streaming: usize, total: usize) -> Vec<(usize, Step)> {
    let mut bursts = Vec::new();
    let mut place = streaming + random.random_range(1..30);
    while place < total && random.random_bool(0.7) {
        bursts.push((place, if random.random_bool(0.3) { Step::StopProgram } else { Step::HoldTarget }));
        place += random.random_range(10..60);
        bursts.push((place, Step::GoOn));
        place += random.random_range(1..60);
    }
    bursts.reverse();
    bursts
}

/// What happens when, the last first.
fn faults(random: &mut StdRng, start: usize, total: usize) -> Vec<(usize, Fault)> {
    let mut faults: Vec<(usize, Fault)> = (0..random.random_range(0..=3))
        .map(|_| {
            let fault = match random.random_range(0..20) {
                0..8 => Fault::Kill,
                8..11 => Fault::Terminate,
                11..14 => Fault::CutWalsender,
                14..17 => Fault::CutApply,
                17 => Fault::CrashSource,
                _ => Fault::CrashTarget,
            };
            (random.random_range(start + 1..total.max(start + 2)), fault)
        })
        .collect();
    faults.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_history() {
        assert_eq!(generate(7), generate(7));
        assert_ne!(generate(7).steps, generate(11).steps);
    }

    #[test]
    fn a_thousand_seeds_have_every_kind_of_statement_and_fault_in_them() {
        let (mut kinds, mut faults) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for seed in 0..1_000 {
            for step in generate(seed).steps {
                match step {
                    Step::Statement(statement) => drop(kinds.insert(statement.kind)),
                    Step::Fault(fault) => drop(faults.insert(fault)),
                    _ => {}
                }
            }
        }
        assert_eq!((kinds.len(), faults.len()), (Kind::ALL.len(), Fault::ALL.len()));
    }
}
