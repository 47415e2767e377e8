//! Every type, on every way a value can take: copied as text and in binary, inserted, changed, set to NULL and back,
//! deleted, as part of the key, as all there is to find a row by, alone and in arrays; with settings on both sides that
//! would print it otherwise. The types and their values are data (`cases.rs`); what happens to them is SQL.

mod cases;
mod coverage;
mod settings;

use std::io::Write as _;
use std::time::Duration;

use pgsluice::demo::replicator::Replicator;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::stage::{Pair, Stage};
use cases::TypeCases;

const OBJECTS: &str = include_str!("objects.sql");
const BANK: &str = include_str!("bank.sql");
const COPIED: &str = include_str!("copied.sql");
const COPIED_FOR_MODE: &str = include_str!("copied_for_mode.sql");
const STREAMED: &str = include_str!("streamed.sql");
const KEY_COPIED: &str = include_str!("key_copied.sql");
const KEY_STREAMED: &str = include_str!("key_streamed.sql");

/// How values travel in the stream: `source.binary`, and what the rows of its cases are called.
const MODES: [&str; 1] = ["text"];

/// How long a stream may take that has nothing wrong with it.
const STREAM_WAIT: Duration = Duration::from_secs(120);

/// Traps 10, 11, 15, 16, 31.
pub(crate) async fn every_type_arrives_unchanged_on_every_way(pair: Pair) {
    let stage = settings::odd_stage(pair).await;
    let source = settings::plain_session(&stage).await;
    source.batch_execute(OBJECTS).await.expect("objects");
    let mut matrix = Matrix { pair, tables: Vec::new(), not_covered: Vec::new(), rows: 0 };
    matrix.make_tables(&source).await;
    coverage::assert_every_built_in_type_is_here(&source).await;
    matrix.fill(&source).await;

    for mode in MODES {
        let mut replicator = stage.streaming().await;
        matrix.stream(&source, mode).await;
        caught_up(&stage, &mut replicator).await;
    }
    coverage::assert_both_formats_of_copy_were_used(&stage.source);
    let comparison = stage.compare().await;
    matrix.report(&source, comparison.row_differences()).await;
    assert!(comparison.rows_are_identical(), "{comparison:#?}");
}

struct Matrix {
    pair: Pair,
    tables: Vec<TypeTable>,
    /// Extensions that a server does not have.
    not_covered: Vec<&'static str>,
    /// Rows copied and changes of rows streamed: each is a case.
    rows: u64,
}

/// A type with the tables that are called like it, and the temporary table with its values.
struct TypeTable {
    cases: &'static TypeCases,
    name: String,
    bank: String,
    /// Schema, column of the bank and column with the bank's numbers, for each table with the value in its key.
    keys: Vec<[&'static str; 3]>,
}

impl Matrix {
    async fn make_tables(&mut self, source: &Client) {
        source.batch_execute("CREATE SCHEMA ext; SET search_path = pg_catalog, ext").await.expect("schema");
        self.not_covered = coverage::make_extensions(source, self.pair, cases::OF_EXTENSIONS).await;
        let all = cases::BUILT_IN.iter().chain(cases::OWN).chain(cases::OF_EXTENSIONS);
        for cases in all {
            let wanted = cases.since <= self.pair.source
                && cases.extension.is_none_or(|name| !self.not_covered.contains(&name));
            if wanted {
                let table = TypeTable::make(cases, self.tables.len(), source).await;
                self.tables.push(table);
            }
        }
    }

    async fn fill(&mut self, source: &Client) {
        let modes = format!("ARRAY['{}']", MODES.join("', '"));
        for table in &self.tables {
            let mut sql = table.fill_in(COPIED);
            for mode in MODES {
                sql += &table.fill_in(COPIED_FOR_MODE).replace("{mode}", mode);
            }
            sql += &table.fill_in_keys(KEY_COPIED).replace("{modes}", &modes);
            self.rows += run(source, table, &sql).await;
        }
    }

    async fn stream(&mut self, source: &Client, mode: &str) {
        for table in &self.tables {
            let sql = table.fill_in(STREAMED) + &table.fill_in_keys(KEY_STREAMED);
            self.rows += run(source, table, &sql.replace("{mode}", mode)).await;
        }
    }

    /// Past the test runner's capture: the summary of a run reads it.
    async fn report(&self, source: &Client, differences: u64) {
        let types = coverage::types_in_tables(source).await;
        let (Pair { source, target }, rows) = (self.pair, self.rows);
        let mut said = std::io::stderr().lock();
        let _ = writeln!(
            said,
            "matrix {source} -> {target}: {types} types, {rows} cases, {differences} differences"
        );
        for name in &self.not_covered {
            let _ = writeln!(
                said,
                "matrix {source} -> {target}: NOT covered: extension {name}, which a server does not have"
            );
        }
    }
}

impl TypeTable {
    async fn make(cases: &'static TypeCases, number: usize, source: &Client) -> Self {
        let TypeCases { sql, .. } = cases;
        let name = match cases.since {
            0 => sql.replace('"', "'"),
            since => format!("{} from {since}", sql.replace('"', "'")),
        };
        let (name, bank) = (format!("\"{name}\""), format!("pg_temp.bank_{number}"));
        let mut table = Self { cases, name, bank, keys: Vec::new() };
        let bank = "CREATE TEMP TABLE {bank} (n int PRIMARY KEY, val {type}, list {type}[], prev int, key_n int, list_key_n int);
             INSERT INTO {bank} (n, val) VALUES ";
        let values: Vec<_> =
            cases.values.iter().zip(1..).map(|(value, n)| format!("({n}, ({value})::{sql})")).collect();
        let bank = table.fill_in(bank) + &values.join(", ") + ";" + &table.fill_in(BANK);
        run(source, &table, &bank).await;
        run(source, &table, &table.fill_in(TABLES)).await;
        for (schema, value, number, suffix) in
            [("as_key", "val", "key_n", ""), ("as_list_key", "list", "list_key_n", "[]")]
        {
            let numbers = format!("SELECT count({number}) FROM {}", table.bank);
            if source.query_one(&numbers, &[]).await.expect("numbers").get::<_, i64>(0) > 1 {
                let create = format!(
                    "CREATE TABLE {schema}.{{table}} (fate text, val {{type}}{suffix}, at text, PRIMARY KEY (val, fate))"
                );
                run(source, &table, &table.fill_in(&create)).await;
                table.keys.push([schema, value, number]);
            }
        }
        table
    }

    fn fill_in(&self, template: &str) -> String {
        template
            .replace("{table}", &self.name)
            .replace("{bank}", &self.bank)
            .replace("{type}", self.cases.sql)
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

/// A column that travels as text keeps the table from being copied in binary.
const TABLES: &str = "
    CREATE TABLE keyed.{table} (at text PRIMARY KEY, val {type}, list {type}[], forced \"odd types\".mood[]);
    CREATE TABLE whole_row.{table} (at text, val {type}, list {type}[]);
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

/// Waits for the target; a stream that stops says at once which table, and with it which type, it stopped at.
async fn caught_up(stage: &Stage, replicator: &mut Replicator) {
    let stopped = replicator.wait_for_status("a problem", STREAM_WAIT, |status| status.problem.is_some());
    tokio::select! {
        () = stage.caught_up() => {}
        status = stopped => match status {
            Ok(status) => panic!("the stream stopped: {:#?}", status.problem),
            Err(error) => panic!("{error}"),
        },
    }
}
