//! The judge of a migration: compares two databases row for row, as text, in bounded memory. It knows PostgreSQL only, and
//! nothing of how the rows got there.
//!
//! Every user table of the source is read from both sides in the same order and merged. Rows are compared as PostgreSQL
//! prints them under pinned settings, so two rows are equal exactly when every column prints the same.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt};
use serde::Serialize;
use tokio_postgres::{Client, NoTls};

use crate::model::TableName;

/// The schema the program under judgement keeps its own records in.
const BOOKKEEPING_SCHEMA: &str = "pgsluice";
/// Differing rows named per table in the report.
const EXAMPLES_MAX: usize = 5;

/// What can stop a comparison; it then says nothing about the rows.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A statement failed on one side.
    #[error("comparing rows: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    /// A table of the source does not exist on the target, or has other columns.
    #[error("comparing rows: the target has no table {table} with the columns of the source: {source}")]
    Table {
        /// The source's table.
        table: TableName,
        /// What the target said.
        source: tokio_postgres::Error,
    },
}

/// One side of a comparison: where, and as of when.
#[derive(Clone, Debug)]
pub struct ComparedSide {
    /// Connection string.
    pub url: String,
    /// A snapshot exported by a transaction that is still open (`pg_export_snapshot()`); `None`: as of now.
    pub snapshot: Option<String>,
}

impl ComparedSide {
    /// A side as it is at the moment of the comparison.
    pub fn now(url: impl Into<String>) -> Self {
        Self { url: url.into(), snapshot: None }
    }

    /// A side as an exported snapshot sees it.
    pub fn at_snapshot(url: impl Into<String>, snapshot: impl Into<String>) -> Self {
        Self { url: url.into(), snapshot: Some(snapshot.into()) }
    }
}

/// What the comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Tables of the source; a partitioned table counts once.
    pub tables: usize,
    /// Rows of the source.
    pub rows_compared: u64,
    /// Rows of the source that the target does not have.
    pub missing: u64,
    /// Rows of the target that the source does not have.
    pub extra: u64,
    /// By table, where anything differs.
    pub differing_tables: BTreeMap<String, TableDifference>,
}

/// What the comparison of sequences found. Sequences do not follow snapshots: meaningful while nobody uses them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SequenceComparison {
    /// Sequences of the source.
    pub sequences: usize,
    /// Those whose `last_value` or `is_called` differ, with what was read on both sides.
    pub differing: Vec<String>,
}

/// The differences of one table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TableDifference {
    /// Rows of the source that the target does not have.
    pub missing: u64,
    /// Rows of the target that the source does not have.
    pub extra: u64,
    /// The first few, as `missing|extra <start of the row's text>`; made-up data only ever gets here.
    pub examples: Vec<String>,
}

impl Comparison {
    /// Missing and extra rows together.
    #[must_use]
    pub const fn row_differences(&self) -> u64 {
        self.missing + self.extra
    }

    /// Whether both sides hold the same rows, and there were any.
    #[must_use]
    pub const fn rows_are_identical(&self) -> bool {
        self.rows_compared > 0 && self.row_differences() == 0
    }
}

/// Compares every user table of the source, row for row, with the target's table of the same name.
///
/// # Errors
/// When a side cannot be read, or the target misses a table or column.
pub async fn compare_rows(source: &ComparedSide, target: &ComparedSide) -> Result<Comparison, CompareError> {
    compare_selected(source, target, |_| true).await
}

/// As [`compare_rows`], for the tables that `selected` accepts.
///
/// # Errors
/// As [`compare_rows`].
pub async fn compare_selected(
    source: &ComparedSide,
    target: &ComparedSide,
    selected: impl Fn(&TableName) -> bool,
) -> Result<Comparison, CompareError> {
    let source_client = open(source).await?;
    let target_client = open(target).await?;
    let mut comparison = Comparison::default();
    for (table, columns) in tables(&source_client).await? {
        if !selected(&table) {
            continue;
        }
        let source_rows = sorted_rows(&source_client, &table, &columns).await?;
        let target_rows = sorted_rows(&target_client, &table, &columns)
            .await
            .map_err(|source| CompareError::Table { table: table.clone(), source })?;
        let (rows, difference) = merge(source_rows, target_rows).await?;
        comparison.tables += 1;
        comparison.rows_compared += rows;
        comparison.missing += difference.missing;
        comparison.extra += difference.extra;
        if difference.missing + difference.extra > 0 {
            comparison.differing_tables.insert(table.plain(), difference);
        }
    }
    Ok(comparison)
}

/// A session in one read-only transaction, which sees the side's snapshot and prints values the same way everywhere.
async fn open(side: &ComparedSide) -> Result<Client, tokio_postgres::Error> {
    let client = connect(&side.url).await?;
    client
        .batch_execute(
            "SET application_name = 'row comparison';
             SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3;
             SET timezone = 'UTC'; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmloption = 'content';
             SET search_path = pg_catalog; SET statement_timeout = 0;
             BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        )
        .await?;
    if let Some(snapshot) = &side.snapshot {
        client.batch_execute(&format!("SET TRANSACTION SNAPSHOT '{}'", snapshot.replace('\'', "''"))).await?;
    }
    Ok(client)
}

/// A session whose connection ends with the returned client.
pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // How a connection ends shows in its client's calls.
        let _ = connection.await;
    });
    Ok(client)
}

/// The user tables, partitioned ones as a whole, and their columns quoted and comma separated.
///
/// A byte of type `"char"` beyond ASCII prints in one way up to version 14 and in another from 15 on, so its number counts.
///
/// Foreign, unlogged and temporary tables are left out: none of them is in the WAL.
async fn tables(client: &Client) -> Result<Vec<(TableName, String)>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT n.nspname, c.relname,
                    coalesce((SELECT string_agg(quote_ident(a.attname) || CASE a.atttypid
                                                    WHEN '\"char\"'::regtype THEN '::int4'
                                                    WHEN '\"char\"[]'::regtype THEN '::int4[]' ELSE '' END,
                                                ', ' ORDER BY a.attname COLLATE \"C\")
                                FROM pg_attribute a
                               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '')
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
                AND n.nspname NOT IN ('pg_catalog', 'information_schema', $1) AND n.nspname !~ '^pg_'
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                                          AND d.deptype = 'e')
              ORDER BY 1, 2",
            &[&BOOKKEEPING_SCHEMA],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| (TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get(2)))
        .collect())
}

type RowStream = Pin<Box<dyn Stream<Item = Result<Bytes, tokio_postgres::Error>> + Send>>;

/// A table's rows as COPY prints them, in byte order. Columns go by name: their order may differ between the sides.
async fn sorted_rows(
    client: &Client,
    table: &TableName,
    columns: &str,
) -> Result<SortedRows, tokio_postgres::Error> {
    // `ROW(...)::text` quotes every value, so neighbouring columns cannot run into each other. A row constructor takes at
    // most 1,664 entries, more than a table has columns.
    let query = format!(
        "COPY (SELECT r FROM (SELECT ROW({columns})::text COLLATE \"C\" AS r FROM {table}) AS rows ORDER BY r) TO STDOUT"
    );
    let stream: RowStream = Box::pin(client.copy_out(query.as_str()).await?);
    Ok(SortedRows { stream, buffer: BytesMut::new() })
}

/// Splits COPY data into rows. The server sorted them by their *unescaped* bytes, so that is what they are given out as.
struct SortedRows {
    stream: RowStream,
    buffer: BytesMut,
}

impl SortedRows {
    async fn next(&mut self) -> Result<Option<Bytes>, tokio_postgres::Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                return Ok(Some(unescape(line)));
            }
            match self.stream.try_next().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

/// Undoes COPY's text escapes (PostgreSQL documentation, COPY, "Text Format").
fn unescape(line: Bytes) -> Bytes {
    if !line.contains(&b'\\') {
        return line;
    }
    let mut plain = BytesMut::with_capacity(line.len());
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'\\' {
            match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => other,
                None => b'\\',
            }
        } else {
            byte
        };
        plain.extend_from_slice(&[byte]);
    }
    plain.freeze()
}

/// Walks both sorted sides at once; returns the source's rows and what differs. Duplicate rows count as often as they are.
async fn merge(
    mut source: SortedRows,
    mut target: SortedRows,
) -> Result<(u64, TableDifference), tokio_postgres::Error> {
    let mut rows = 0;
    let mut difference = TableDifference::default();
    let (mut left, mut right) = (source.next().await?, target.next().await?);
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok((rows, difference)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.cmp(right),
        };
        match order {
            Ordering::Less => {
                difference.missing += 1;
                note(&mut difference, "missing", left.as_deref());
            }
            Ordering::Greater => {
                difference.extra += 1;
                note(&mut difference, "extra", right.as_deref());
            }
            Ordering::Equal => {}
        }
        if order != Ordering::Greater {
            rows += 1;
            left = source.next().await?;
        }
        if order != Ordering::Less {
            right = target.next().await?;
        }
    }
}

fn note(difference: &mut TableDifference, kind: &str, row: Option<&[u8]>) {
    if difference.examples.len() < EXAMPLES_MAX {
        let start: String = String::from_utf8_lossy(row.unwrap_or_default()).chars().take(80).collect();
        difference.examples.push(format!("{kind} {start}"));
    }
}

/// Compares `last_value` and `is_called` of every user sequence as of now.
///
/// # Errors
/// When a side cannot be read.
pub async fn compare_sequences(
    source_url: &str,
    target_url: &str,
) -> Result<SequenceComparison, tokio_postgres::Error> {
    let source = sequences(&connect(source_url).await?).await?;
    let target = sequences(&connect(target_url).await?).await?;
    let mut comparison = SequenceComparison { sequences: source.len(), differing: Vec::new() };
    for (name, state) in source {
        let other = target.get(&name).map_or("none", String::as_str);
        if state != other {
            comparison.differing.push(format!("{name}: source {state}, target {other}"));
        }
    }
    Ok(comparison)
}

/// `last_value/is_called` of every user sequence, by quoted name.
async fn sequences(client: &Client) -> Result<BTreeMap<String, String>, tokio_postgres::Error> {
    let names = client
        .query(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'S' AND c.relpersistence = 'p'
                AND n.nspname NOT IN ('pg_catalog', 'information_schema', $1) AND n.nspname !~ '^pg_'",
            &[&BOOKKEEPING_SCHEMA],
        )
        .await?;
    let mut states = BTreeMap::new();
    for row in names {
        let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)).to_string();
        let state = client.query_one(&format!("SELECT last_value, is_called FROM {name}"), &[]).await?;
        let (last_value, is_called): (i64, bool) = (state.get(0), state.get(1));
        states.insert(name, format!("{last_value}/{}", if is_called { "called" } else { "not called" }));
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(lines: &[&str]) -> SortedRows {
        let chunks: Vec<Result<Bytes, tokio_postgres::Error>> =
            lines.iter().map(|line| Ok(Bytes::from(format!("{line}\n")))).collect();
        SortedRows { stream: Box::pin(futures_util::stream::iter(chunks)), buffer: BytesMut::new() }
    }

    #[tokio::test]
    async fn duplicates_on_one_side_are_differences() {
        let (rows, difference) = merge(side(&["a", "b", "b"]), side(&["a", "a", "b"])).await.expect("merge");
        assert_eq!((rows, difference.missing, difference.extra), (3, 1, 1));
    }

    #[tokio::test]
    async fn rows_are_merged_in_the_order_of_their_unescaped_bytes() {
        // A tab (0x09) sorts before any letter, its escape `\t` (0x5c) after the capitals.
        let (rows, difference) = merge(side(&["\\t", "A"]), side(&["A"])).await.expect("merge");
        assert_eq!((rows, difference.missing, difference.extra), (2, 1, 0));
    }

    #[test]
    fn an_empty_comparison_is_not_a_success() {
        assert!(!Comparison::default().rows_are_identical());
    }
}
