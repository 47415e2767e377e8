//! Copies rows: COPY data from the source is relayed to the target byte for byte. Never looks into a row, never holds more
//! than a piece. Tables that are copied together under one snapshot are copied here chunk by chunk, each in one target
//! transaction that also records it as done (trap 13).

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::SinkExt as _;
use pgsluice_proto::command::quote_ident;
use tokio_postgres::CopyInSink;

use super::SnapshotError;
use super::plan::Chunk;
use super::progress::{Beginning, CopyProgress};
use super::rate::RateLimit;
use super::records;
use crate::connection::{SqlSession, WireConnection, WirePiece};
use crate::model::{Side, TableName};
use crate::source::SourceTable;

/// Data is gathered into pieces of this size: one packet a row would cost more than the row.
const PIECE_BYTES: usize = 64 * 1024;

/// Copies chunks of known tables.
pub(super) struct ChunkCopier {
    statements: BTreeMap<TableName, CopyStatements>,
    rate: RateLimit,
}

/// The two ends of a table's COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopyStatements {
    /// `SELECT … FROM ONLY …`, without condition.
    select: String,
    /// `table (columns)` of the source, which is faster to read than a query where there is no condition.
    whole: String,
    /// `table (columns)` of the target.
    into: String,
    /// `text` or `binary`.
    format: &'static str,
}

/// Decides for each table how it is copied, from the columns on both sides.
pub(super) async fn prepare(
    target: &SqlSession,
    tables: &[SourceTable],
    rate: RateLimit,
) -> Result<Arc<ChunkCopier>, SnapshotError> {
    let names: Vec<&TableName> = tables.iter().map(|table| &table.name).collect();
    let mut columns = read_target_columns(target, &names).await?;
    let statements = tables
        .iter()
        .map(|table| {
            let on_target = columns.remove(&table.name).unwrap_or_default();
            (table.name.clone(), CopyStatements::new(table, &table.name, &on_target))
        })
        .collect();
    Ok(Arc::new(ChunkCopier { statements, rate }))
}

/// Type names by column name, by table.
pub(super) type TargetColumns = BTreeMap<TableName, BTreeMap<String, String>>;

/// Reads them of those of these tables that are there.
pub(super) async fn read_target_columns(
    target: &SqlSession,
    tables: &[&TableName],
) -> Result<TargetColumns, SnapshotError> {
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let rows = target
        .query(
            "SELECT n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
               FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace
               LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              WHERE c.oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)",
            &[&names],
        )
        .await
        .map_err(SnapshotError::target)?;
    let mut columns = TargetColumns::new();
    for row in rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let of_table = columns.entry(table).or_default();
        // A table may have none.
        if let Some(column) = row.get(2) {
            of_table.insert(column, row.get(3));
        }
    }
    Ok(columns)
}

impl CopyStatements {
    /// Binary where every type is portable and the same on both sides; the types' input and output functions
    /// translate otherwise. Columns are named on both ends, so their order may differ.
    pub(super) fn new(
        table: &SourceTable,
        target_name: &TableName,
        on_target: &BTreeMap<String, String>,
    ) -> Self {
        let is_same = table
            .copied_columns()
            .all(|column| column.binary_portable && on_target.get(&column.name) == Some(&column.type_name));
        let columns: Vec<String> = table.copied_columns().map(|column| quote_ident(&column.name)).collect();
        let columns = columns.join(", ");
        // An empty list is not valid here; without a list COPY expects the columns that are not generated: none.
        let list = if columns.is_empty() { String::new() } else { format!(" ({columns})") };
        Self {
            select: format!("SELECT {columns} FROM ONLY {}", table.name),
            whole: format!("{}{list}", table.name),
            into: format!("{target_name}{list}"),
            format: if is_same { "binary" } else { "text" },
        }
    }

    /// What the source is asked for, with a condition as ` WHERE …`, or nothing.
    pub(super) fn copy_out(&self, condition: &str) -> String {
        let Self { select, whole, format, .. } = self;
        if condition.is_empty() {
            format!("COPY {whole} TO STDOUT (FORMAT {format})")
        } else {
            format!("COPY ({select}{condition}) TO STDOUT (FORMAT {format})")
        }
    }

    /// What the target is told, with more options as `, …`, or nothing.
    pub(super) fn copy_in(&self, options: &str) -> String {
        format!("COPY {} FROM STDIN (FORMAT {}{options})", self.into, self.format)
    }
}

impl ChunkCopier {
    /// Copies a chunk and commits it, with its record.
    pub(super) async fn copy(
        &self,
        source: &mut WireConnection,
        target: &mut SqlSession,
        chunk: &Chunk,
        progress: &CopyProgress,
    ) -> Result<(), SnapshotError> {
        let table = &chunk.table;
        let statements = self
            .statements
            .get(table)
            .ok_or_else(|| SnapshotError::TargetTableMissing { table: table.clone() })?;
        if progress.begin(table) == Beginning::FirstChunk {
            records::mark_copying(target, table).await?;
        }
        let at_target = SnapshotError::copying(Side::Target, table);
        let transaction = target.transaction().await.map_err(&at_target)?;
        let (from, into) = (statements.copy_out(&chunk.blocks.condition()), statements.copy_in(""));
        let mut under_way = UnderWay::new(table, progress, &self.rate);
        let relayed = relay((source, &from), transaction.copy_in(&into), &mut under_way).await?;
        let join = records::join_chunk_sql(chunk, relayed.rows, relayed.bytes);
        transaction.batch_execute(&join).await.map_err(&at_target)?;
        transaction.commit().await.map_err(&at_target)?;
        under_way.joined(relayed.rows);
        Ok(())
    }
}

/// What went over in one COPY.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Relayed {
    /// As the target counted them.
    pub(super) rows: u64,
    /// COPY data.
    pub(super) bytes: u64,
}

/// What of a table was announced and is not committed: it does not count when this is dropped before it has joined.
pub(super) struct UnderWay<'a> {
    table: &'a TableName,
    progress: &'a CopyProgress,
    rate: &'a RateLimit,
    /// CopyData messages of the source: a row each, and in binary format one more.
    messages: u64,
    bytes: u64,
}

impl<'a> UnderWay<'a> {
    pub(super) const fn new(table: &'a TableName, progress: &'a CopyProgress, rate: &'a RateLimit) -> Self {
        Self { table, progress, rate, messages: 0, bytes: 0 }
    }

    async fn relayed(&mut self, messages: u64, bytes: u64) {
        self.messages += messages;
        self.bytes += bytes;
        self.progress.relayed(self.table, messages, bytes);
        self.rate.pass(bytes).await;
    }

    /// It is committed, with so many rows.
    pub(super) fn joined(mut self, rows: u64) {
        self.progress.joined(self.table, rows, self.messages);
        (self.messages, self.bytes) = (0, 0);
    }

    /// It is committed, and goes on with another part of the same chunk.
    pub(super) fn committed_part(mut self) {
        (self.messages, self.bytes) = (0, 0);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.messages > 0 || self.bytes > 0 {
            self.progress.undone(self.table, self.bytes, self.messages);
        }
    }
}

/// Relays until the source has no more. After an error neither session is of use any more.
///
/// Memory is bounded by two pieces: each side's connection holds back what the other does not take (INV-12).
pub(super) async fn relay(
    (source, copy_out): (&mut WireConnection, &str),
    sink: impl Future<Output = Result<CopyInSink<Bytes>, tokio_postgres::Error>>,
    under_way: &mut UnderWay<'_>,
) -> Result<Relayed, SnapshotError> {
    let at_source = SnapshotError::copying(Side::Source, under_way.table);
    let at_target = SnapshotError::copying(Side::Target, under_way.table);
    // Neither waits for the other: of a small table the answers take longer than the rows.
    let (mut pieces, sink) = tokio::try_join!(
        async { source.copy_out(copy_out, PIECE_BYTES).await.map_err(&at_source) },
        async { sink.await.map_err(&at_target) },
    )?;
    let mut sink = pin!(sink);
    let mut bytes = 0;
    while let Some(WirePiece { data, messages }) = pieces.next_piece().await.map_err(&at_source)? {
        bytes += data.len() as u64;
        under_way.relayed(messages, data.len() as u64).await;
        sink.send(data).await.map_err(&at_target)?;
    }
    let rows = sink.finish().await.map_err(&at_target)?;
    Ok(Relayed { rows, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Generated;

    fn on_target(columns: &[(&str, &str)]) -> BTreeMap<String, String> {
        columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
    }

    #[test]
    fn portable_columns_of_the_same_type_on_both_sides_travel_in_binary() {
        let table = SourceTable::sample(TableName::new("public", "orders"));
        let statements =
            CopyStatements::new(&table, &table.name, &on_target(&[("note", "text"), ("id", "bigint")]));
        assert_eq!(statements.select, r#"SELECT "id", "note" FROM ONLY "public"."orders""#);
        assert_eq!(statements.into, r#""public"."orders" ("id", "note")"#);
        assert_eq!(statements.format, "binary");
    }

    #[test]
    fn another_type_on_the_target_travels_as_text() {
        let table = SourceTable::sample(TableName::new("public", "orders"));
        let statements =
            CopyStatements::new(&table, &table.name, &on_target(&[("note", "text"), ("id", "integer")]));
        assert_eq!(statements.format, "text");
    }

    #[test]
    fn generated_columns_are_left_to_the_target_and_a_table_without_columns_has_no_list() {
        let mut table = SourceTable::sample(TableName::new("public", "orders"));
        for column in &mut table.columns {
            column.generated = Generated::Stored;
        }
        let statements = CopyStatements::new(&table, &table.name, &on_target(&[]));
        assert_eq!(statements.select, r#"SELECT  FROM ONLY "public"."orders""#);
        assert_eq!(statements.into, r#""public"."orders""#);
    }
}
