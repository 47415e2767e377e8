//! A history: tables with their first rows, the steps of several sessions in one global order, and what happens to the
//! program and the servers in between. All of it is SQL text, so that a history can be shrunk, kept as a file and
//! replayed without the generator. Pure: knows neither servers nor randomness.

use std::fmt::Write as _;

/// First line of a file; counts up when the format changes.
const HEADING: &str = "pgsluice history 1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    /// What it was generated from; says nothing once it has been shrunk.
    pub(super) seed: u64,
    /// Major versions.
    pub(super) source: u32,
    pub(super) target: u32,
    /// Lines of the program's configuration.
    pub(super) configuration: Vec<String>,
    /// `name = value`, set for the source's database.
    pub(super) source_settings: Vec<String>,
    /// What the tables need: schemas, types.
    pub(super) setup: Vec<String>,
    pub(super) tables: Vec<HistoryTable>,
    pub(super) steps: Vec<Step>,
}

/// A table as it is made, and its first rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HistoryTable {
    /// Quoted and qualified: a step concerns the table when its text contains this.
    pub(super) name: String,
    pub(super) definition: Vec<String>,
    pub(super) rows: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Statement(Statement),
    /// The program is started for the first time.
    Start,
    /// Waits until the program streams, if nothing that is still open can keep it from that.
    AwaitStreaming,
    /// Milliseconds.
    Pause(u64),
    /// The program does nothing until [`Step::GoOn`]: what the sessions commit meanwhile comes to it at once.
    StopProgram,
    /// The target takes no commit until [`Step::GoOn`]: batches grow meanwhile.
    HoldTarget,
    GoOn,
    Fault(Fault),
}

/// One statement of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) session: usize,
    /// Statements of one transaction have the same number, from BEGIN to its end.
    pub(super) transaction: u32,
    pub(super) kind: Kind,
    pub(super) sql: String,
}

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum $name { $($variant),+ }

        impl $name {
            pub(super) const ALL: &[Self] = &[$(Self::$variant),+];

            pub(super) const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            fn of_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// What may happen to the program and the servers.
    Fault {
        Kill => "kill",
        Terminate => "terminate",
        CutWalsender => "cut-walsender",
        CutApply => "cut-apply",
        CrashSource => "crash-source",
        CrashTarget => "crash-target",
    }
}

words! {
    /// Kinds of statement, as counted.
    Kind {
        Begin => "begin",
        Commit => "commit",
        Rollback => "rollback",
        Prepare => "prepare",
        CommitPrepared => "commit-prepared",
        RollbackPrepared => "rollback-prepared",
        Savepoint => "savepoint",
        RollbackTo => "rollback-to",
        Release => "release",
        Insert => "insert",
        InsertMany => "insert-many",
        InsertBulk => "insert-bulk",
        Upsert => "upsert",
        UpsertNothing => "upsert-nothing",
        Update => "update",
        UpdateRange => "update-range",
        UpdateKey => "update-key",
        UpdateHot => "update-hot",
        UpdateUnique => "update-unique",
        Swap => "swap",
        MovePartition => "move-partition",
        UpdateOneOfEqual => "update-one-of-equal",
        Delete => "delete",
        DeleteRange => "delete-range",
        DeleteOneOfEqual => "delete-one-of-equal",
        Truncate => "truncate",
        Message => "message",
        Unpublished => "unpublished",
        Failing => "failing",
        Recycle => "recycle",
        HandOn => "hand-on",
        SwapKeys => "swap-keys",
        UpdateKeyImage => "update-key-image",
    }
}

impl History {
    /// The text of a file that [`Self::parse`] reads.
    pub(super) fn print(&self) -> String {
        let mut text = format!("{HEADING}\nseed {}\nservers {} {}\n", self.seed, self.source, self.target);
        let mut line = |keyword: &str, rest: &str| {
            let _ = writeln!(text, "{}", format!("{keyword} {}", escape(rest)).trim_end());
        };
        self.configuration.iter().for_each(|each| line("configuration", each));
        self.source_settings.iter().for_each(|each| line("source-setting", each));
        self.setup.iter().for_each(|each| line("setup", each));
        for table in &self.tables {
            line("table", &table.name);
            table.definition.iter().for_each(|each| line("  define", each));
            table.rows.iter().for_each(|each| line("  row", each));
        }
        for step in &self.steps {
            match step {
                Step::Statement(Statement { session, transaction, kind, sql }) => {
                    line(&format!("step {session} {transaction} {}", kind.word()), sql);
                }
                Step::Start => line("start", ""),
                Step::AwaitStreaming => line("await-streaming", ""),
                Step::Pause(milliseconds) => line("pause", &milliseconds.to_string()),
                Step::StopProgram => line("stop-program", ""),
                Step::HoldTarget => line("hold-target", ""),
                Step::GoOn => line("go-on", ""),
                Step::Fault(fault) => line("fault", fault.word()),
            }
        }
        text
    }

    /// Reads what [`Self::print`] wrote; empty lines and those that begin with `#` do not count.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        if lines.next() != Some(HEADING) {
            return Err(format!("the first line is not `{HEADING}`"));
        }
        let mut history = Self {
            seed: 0,
            source: 0,
            target: 0,
            configuration: Vec::new(),
            source_settings: Vec::new(),
            setup: Vec::new(),
            tables: Vec::new(),
            steps: Vec::new(),
        };
        for line in lines {
            history.take(line).ok_or_else(|| format!("not understood: {line}"))?;
        }
        if history.source == 0 || history.target == 0 {
            return Err("no line `servers SOURCE TARGET`".into());
        }
        Ok(history)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let (keyword, rest) = line.trim_start().split_once(' ').unwrap_or((line, ""));
        let text = || unescape(rest);
        match keyword {
            "seed" => self.seed = rest.parse().ok()?,
            "servers" => {
                let (source, target) = rest.split_once(' ')?;
                (self.source, self.target) = (source.parse().ok()?, target.parse().ok()?);
            }
            "configuration" => self.configuration.push(text()),
            "source-setting" => self.source_settings.push(text()),
            "setup" => self.setup.push(text()),
            "table" => {
                let (definition, rows) = (Vec::new(), Vec::new());
                self.tables.push(HistoryTable { name: text(), definition, rows });
            }
            "define" => self.tables.last_mut()?.definition.push(text()),
            "row" => self.tables.last_mut()?.rows.push(text()),
            _ => self.steps.push(step(keyword, rest)?),
        }
        Some(())
    }

    /// How many statements of sessions it has.
    pub(super) fn statements(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Statement(_))).count()
    }
}

fn step(keyword: &str, rest: &str) -> Option<Step> {
    Some(match keyword {
        "step" => {
            let mut words = rest.splitn(4, ' ');
            let session = words.next()?.parse().ok()?;
            let transaction = words.next()?.parse().ok()?;
            let kind = Kind::of_word(words.next()?)?;
            Step::Statement(Statement { session, transaction, kind, sql: unescape(words.next()?) })
        }
        "start" => Step::Start,
        "await-streaming" => Step::AwaitStreaming,
        "pause" => Step::Pause(rest.parse().ok()?),
        "stop-program" => Step::StopProgram,
        "hold-target" => Step::HoldTarget,
        "go-on" => Step::GoOn,
        "fault" => Step::Fault(Fault::of_word(rest)?),
        _ => return None,
    })
}

/// One item, one line: names may have line breaks in them.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => plain.push(if letters.next() == Some('n') { '\n' } else { '\\' }),
            (letter, false) => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_histories::generate::generate;

    #[test]
    fn what_is_printed_is_read_again_as_it_was() {
        for seed in 0..300 {
            let history = generate(seed);
            assert_eq!(History::parse(&history.print()).as_ref(), Ok(&history), "seed {seed}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let text = format!("{HEADING}\nseed 1\nservers 15 17\n\n# a remark\nfault lightning\n");
        assert_eq!(History::parse(&text), Err("not understood: fault lightning".into()));
        assert!(History::parse("seed 1").is_err());
    }
}
