//! Every type, on every way a value can take: copied as text and in binary, inserted, changed, set to NULL and back,
//! deleted, as part of the key, as all there is to find a row by, alone and in arrays; with settings on both sides that
//! would print it otherwise. The types and their values are data (`cases.rs`); what happens to them is SQL.

mod cases;
mod coverage;
mod settings;

use std::io::Write as _;
use std::time::Duration;

use pgsluice::control::dto::StatusRecord;
use pgsluice::demo::compare::{ComparedSide, Comparison, compare_rows};
use pgsluice::demo::replicator::Replicator;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::stage::{Pair, Stage, text};
use crate::harness::wait::until;
use crate::verification::{FAST, verify};
use cases::{BinaryForm, TypeCases};

const OBJECTS: &str = include_str!("objects.sql");
const BANK: &str = include_str!("bank.sql");
const COPIED: &str = include_str!("copied.sql");
const STREAMED: &str = include_str!("streamed.sql");
const KEY_COPIED: &str = include_str!("key_copied.sql");
const KEY_STREAMED: &str = include_str!("key_streamed.sql");

/// Longest way from nothing to streaming, and then through all changes: several hundred tables on a busy machine.
const STREAM_WAIT: Duration = Duration::from_secs(300);

/// How values travel in the stream (`source.binary`). In binary all columns of all tables must have types that mean the
/// same on both sides, so the types that do have a database of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Text,
    Binary,
}

/// How changes are written to the target (`apply.coalesce`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// As the program would by itself: few rows at once, so mostly one by one.
    Usual,
    /// In sets of however few rows.
    Sets,
}

/// Traps 10, 11, 15, 16, 31.
pub(crate) async fn every_type_arrives_unchanged_on_every_way(pair: Pair) {
    every_type_arrives(pair, Writing::Usual).await;
}

/// The same where every change that can be is one of a set: in an array parameter or a COPY.
pub(crate) async fn every_type_arrives_unchanged_in_sets(pair: Pair) {
    every_type_arrives(pair, Writing::Sets).await;
}

async fn every_type_arrives(pair: Pair, writing: Writing) {
    let stage = settings::odd_stage(pair).await;
    let (text, binary) = tokio::join!(
        Box::pin(Matrix::run(&stage, pair, Mode::Text, writing)),
        Box::pin(Matrix::run(&stage, pair, Mode::Binary, writing)),
    );
    coverage::assert_both_formats_of_copy_were_used(&stage.source);
    let cases = text.rows + binary.rows;
    let differences = text.comparison.row_differences() + binary.comparison.row_differences();
    let Pair { source, target, .. } = pair;
    {
        // Past the test runner's capture: the summary of a run reads it.
        let mut said = std::io::stderr().lock();
        let head = match writing {
            Writing::Usual => format!("matrix {source} -> {target}:"),
            Writing::Sets => format!("matrix in sets {source} -> {target}:"),
        };
        let _ = writeln!(said, "{head} {} types, {cases} cases, {differences} differences", text.types);
        let (of_text, of_binary, types) = (text.rows, binary.rows, binary.types);
        let _ = writeln!(
            said,
            "{head} of them {of_text} with a stream of text, {of_binary} of {types} types in binary"
        );
        for name in &text.not_covered {
            let _ = writeln!(said, "{head} NOT covered: extension {name}, which a server does not have");
        }
    }
    for comparison in [text.comparison, binary.comparison] {
        assert!(comparison.rows_are_identical(), "{comparison:#?}");
    }
}

/// Trap 31. A byte of type `"char"` that is no text: PostgreSQL 14 prints it as it is, and no later one reads that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_of_type_char_beyond_ascii_keeps_its_value() {
    let stage = Stage::new(Pair::of(14, 15)).await;
    let source = stage.source_client().await;
    source
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, c \"char\"); CREATE TABLE whole (id int, c \"char\");
             ALTER TABLE whole REPLICA IDENTITY FULL; CREATE TABLE k (c \"char\" PRIMARY KEY, v text);
             INSERT INTO t SELECT i, i::\"char\" FROM generate_series(-128, 127) i;
             INSERT INTO whole TABLE t; INSERT INTO k SELECT c, 'copied' FROM t",
        )
        .await
        .expect("schema");
    let mut replicator = stage.streaming_with("source.binary = \"off\"\n").await;
    for change in [
        "INSERT INTO t SELECT i + 1000, i::\"char\" FROM generate_series(-128, 127) i",
        "UPDATE t SET c = (id + 1)::\"char\" WHERE id BETWEEN -128 AND 126",
        "UPDATE whole SET id = id + 1000 WHERE id < 64",
        "DELETE FROM whole WHERE id < 127",
        "UPDATE k SET v = 'changed'",
        "DELETE FROM k WHERE c::int % 3 = 0",
    ] {
        source.batch_execute(change).await.expect(change);
    }
    tokio::select! {
        () = stage.caught_up() => {}
        ended = replicator.wait_for_end(STREAM_WAIT) => panic!("{ended:?}\n{}", replicator.log()),
    }
    stage.assert_same_rows().await;
}

struct Matrix {
    pair: Pair,
    mode: Mode,
    tables: Vec<TypeTable>,
    /// Extensions that a server does not have.
    not_covered: Vec<&'static str>,
    /// Rows copied and changes of rows streamed: each is a case.
    rows: u64,
    /// Types of the tables' columns, arrays included.
    types: i64,
    comparison: Comparison,
}

/// A type with the tables that are called like it, and the temporary table with its values.
struct TypeTable {
    cases: &'static TypeCases,
    mode: Mode,
    name: String,
    bank: String,
    /// Schema, column of the bank and column with the bank's numbers, for each table with the value in its key.
    keys: Vec<[&'static str; 3]>,
}

impl Matrix {
    /// All of it with one kind of stream, in the database of that name.
    async fn run(stage: &Stage, pair: Pair, mode: Mode, writing: Writing) -> Self {
        let (source_url, target_url) = (stage.source.url(mode.database()), stage.target.url(mode.database()));
        let source = settings::plain_session(&source_url).await;
        source.batch_execute(OBJECTS).await.expect("objects");
        let mut matrix = Self::with_tables(&source, pair, mode).await;
        if mode == Mode::Text {
            coverage::assert_every_built_in_type_is_here(&source).await;
        }
        matrix.fill(&source).await;

        let folder = tempfile::tempdir().expect("folder");
        let mut command = stage.command(&(mode.configuration().to_owned() + writing.configuration()));
        (command.directory, command.source_url, command.target_url) =
            (folder.path().to_owned(), source_url.clone(), target_url.clone());
        let mut replicator = command.start().expect("the program");
        let streams = |status: &StatusRecord| status.phase == "streaming" && status.lag.bytes.is_some();
        if let Err(error) =
            replicator.wait_for_status("streaming with a known lag", STREAM_WAIT, streams).await
        {
            panic!("{error}");
        }
        matrix.stream(&source).await;
        matrix.caught_up(&source, &mut replicator).await;
        let log = replicator.log();
        let starts: Vec<_> = log.lines().filter(|line| line.contains("start_lsn")).collect();
        assert!(starts.iter().all(|line| line.contains(mode.name())), "not {}: {starts:?}", mode.name());
        writing.assert_seen(&replicator, mode).await;

        let (source_side, target_side) = (ComparedSide::now(source_url), ComparedSide::now(target_url));
        matrix.comparison = compare_rows(&source_side, &target_side).await.expect("comparison");
        let verified = verify(&replicator, FAST).await;
        assert_eq!(verified.outcome, "clean", "{verified:#?}\n{}", replicator.log());
        assert_eq!(verified.rows_compared, matrix.comparison.rows_compared, "{verified:#?}");
        matrix.types = coverage::types_in_tables(&source).await;
        matrix
    }

    async fn with_tables(source: &Client, pair: Pair, mode: Mode) -> Self {
        source.batch_execute("CREATE SCHEMA ext; SET search_path = pg_catalog, ext").await.expect("schema");
        let not_covered = coverage::make_extensions(source, pair, cases::OF_EXTENSIONS).await;
        let comparison = Comparison::default();
        let mut matrix = Self { pair, mode, tables: Vec::new(), not_covered, rows: 0, types: 0, comparison };
        for cases in cases::BUILT_IN.iter().chain(cases::OWN).chain(cases::OF_EXTENSIONS) {
            if matrix.wants(cases) {
                let table = TypeTable::make(cases, mode, matrix.tables.len(), source).await;
                matrix.tables.push(table);
            }
        }
        matrix
    }

    fn wants(&self, cases: &TypeCases) -> bool {
        cases.since <= self.pair.source
            && cases.extension.is_none_or(|name| !self.not_covered.contains(&name))
            && (self.mode == Mode::Text || cases.binary != BinaryForm::No)
    }

    async fn fill(&mut self, source: &Client) {
        for table in &self.tables {
            let sql = table.fill_in(COPIED) + &table.fill_in_keys(KEY_COPIED);
            self.rows += run(source, table, &sql).await;
        }
    }

    async fn stream(&mut self, source: &Client) {
        for table in &self.tables {
            let sql = table.fill_in(STREAMED) + &table.fill_in_keys(KEY_STREAMED);
            self.rows += run(source, table, &sql).await;
        }
    }

    /// Waits for the target; a stream that stops says at once which table, and with it which type, it stopped at.
    async fn caught_up(&self, source: &Client, replicator: &mut Replicator) {
        let end = text(source, "SELECT pg_current_wal_lsn()::text").await;
        let confirmed = format!(
            "SELECT coalesce(bool_and(confirmed_flush_lsn >= '{end}'), false)::text FROM pg_replication_slots \
             WHERE database = current_database()"
        );
        let stopped = replicator.wait_for_status("a problem", STREAM_WAIT, |status| status.problem.is_some());
        tokio::select! {
            () = until("the target", || async { text(source, &confirmed).await == "true" }) => {}
            status = stopped => match status {
                Ok(status) => panic!("the stream stopped: {:#?}", status.problem),
                Err(error) => panic!("{error}"),
            },
        }
    }
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Binary => "binary",
        }
    }

    const fn database(self) -> &'static str {
        match self {
            Self::Text => "app",
            Self::Binary => "portable",
        }
    }

    const fn configuration(self) -> &'static str {
        match self {
            Self::Text => "source.binary = \"off\"\n",
            Self::Binary => "source.binary = \"auto\"\nsource.slot = \"portable\"\n",
        }
    }
}

impl Writing {
    const fn configuration(self) -> &'static str {
        match self {
            Self::Usual => "",
            Self::Sets => "apply.coalesce = \"always\"\n",
        }
    }

    /// Fails unless the rows were written as they were to be.
    async fn assert_seen(self, replicator: &Replicator, mode: Mode) {
        let metrics = METRICS.map(|name| async move { (name, replicator.api().metric(name).await) });
        let mut seen = Vec::new();
        for metric in metrics {
            let (name, value) = metric.await;
            seen.push((name, value.expect("a metric").unwrap_or_default()));
        }
        eprintln!("{} {seen:?}", mode.name());
        if self == Self::Sets {
            let [set, copy, _, refused, miscounted, ..] = seen.as_slice() else { panic!("{seen:?}") };
            // What is found by all it holds goes one by one.
            assert!(set.1 > 2_000.0 && copy.1 > 5_000.0, "{seen:?}");
            assert!(refused.1 + miscounted.1 < 1.0, "{seen:?}");
        }
    }
}

const METRICS: [&str; 7] = [
    "pgsluice_apply_written_rows_total{way=\"set\"}",
    "pgsluice_apply_written_rows_total{way=\"copy\"}",
    "pgsluice_apply_written_rows_total{way=\"row\"}",
    "pgsluice_apply_fallbacks_total{reason=\"refused\"}",
    "pgsluice_apply_fallbacks_total{reason=\"row_count\"}",
    "pgsluice_apply_fallbacks_total{reason=\"unique_violation\"}",
    "pgsluice_apply_fallbacks_total{reason=\"exclusion_violation\"}",
];

impl TypeTable {
    async fn make(cases: &'static TypeCases, mode: Mode, number: usize, source: &Client) -> Self {
        let TypeCases { sql, .. } = cases;
        let name = match cases.since {
            0 => sql.replace('"', "'"),
            since => format!("{} from {since}", sql.replace('"', "'")),
        };
        let (name, bank) = (format!("\"{name}\""), format!("pg_temp.bank_{number}"));
        let mut table = Self { cases, mode, name, bank, keys: Vec::new() };
        let bank = "CREATE TEMP TABLE {bank} (n int PRIMARY KEY, val {type}, list {type}[], prev int, key_n int, list_key_n int);
             INSERT INTO {bank} (n, val) VALUES ";
        let values: Vec<_> =
            cases.values.iter().zip(1..).map(|(value, n)| format!("({n}, ({value})::{sql})")).collect();
        let bank = table.fill_in(bank) + &values.join(", ") + ";" + &table.fill_in(BANK);
        run(source, &table, &bank).await;
        run(source, &table, &table.fill_in(TABLES)).await;
        let as_text = mode == Mode::Binary && cases.binary != BinaryForm::WithArray;
        let with_list =
            [("as_key", "val", "key_n", "{type}"), ("as_list_key", "list", "list_key_n", "{list}")];
        for (schema, value, number, column_type) in with_list.into_iter().take(if as_text { 1 } else { 2 }) {
            let numbers = format!("SELECT count({number}) FROM {}", table.bank);
            if source.query_one(&numbers, &[]).await.expect("numbers").get::<_, i64>(0) > 1 {
                let create = format!(
                    "CREATE TABLE {schema}.{{table}} (fate text, val {column_type}, at text, PRIMARY KEY (val, fate))"
                );
                run(source, &table, &table.fill_in(&create)).await;
                table.keys.push([schema, value, number]);
            }
        }
        table
    }

    fn fill_in(&self, template: &str) -> String {
        // Where all is to travel in binary, a column that does not is replaced by one that prints the same.
        let array = format!("{}[]", self.cases.sql);
        let (list, forced) = match self.mode {
            Mode::Text => (array.as_str(), "\"odd types\".mood[]"),
            Mode::Binary if self.cases.binary == BinaryForm::WithArray => (array.as_str(), "integer[]"),
            Mode::Binary => ("text", "integer[]"),
        };
        template
            .replace("{table}", &self.name)
            .replace("{bank}", &self.bank)
            .replace("{type}", self.cases.sql)
            .replace("{list}", list)
            .replace("{forced}", forced)
            .replace("{mode}", self.mode.name())
    }

    fn fill_in_keys(&self, template: &str) -> String {
        let one = |[schema, value, number]: &[&str; 3]| {
            let table = format!("{schema}.{}", self.name);
            let sql =
                template.replace("{table}", &table).replace("{value}", value).replace("{number}", number);
            self.fill_in(&sql)
        };
        self.keys.iter().map(one).collect()
    }
}

/// `forced` travels as text in a stream of text, and keeps the table from being copied in binary.
const TABLES: &str = "
    CREATE TABLE keyed.{table} (at text PRIMARY KEY, val {type}, list {list}, forced {forced});
    CREATE TABLE whole_row.{table} (at text, val {type}, list {list});
    ALTER TABLE whole_row.{table} REPLICA IDENTITY FULL;";

/// Runs statements in one round trip; returns how many rows they made, changed and deleted.
async fn run(source: &Client, table: &TypeTable, sql: &str) -> u64 {
    let answers = match source.simple_query(sql).await {
        Ok(answers) => answers,
        Err(error) => {
            panic!("type {}: {:?} in\n{sql}", table.name, error.as_db_error().map(DbError::message))
        }
    };
    let rows = |answer: &SimpleQueryMessage| match answer {
        SimpleQueryMessage::CommandComplete(rows) => *rows,
        _ => 0,
    };
    answers.iter().map(rows).sum()
}
