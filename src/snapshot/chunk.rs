//! Copies one chunk: COPY data from the source is relayed to the target byte for byte, in one target transaction
//! that also records the chunk as done (trap 13). Never looks into a value, never holds more than a relay buffer.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use pgsluice_proto::command::quote_ident;
use tokio_postgres::CopyInSink;

use super::SnapshotError;
use super::plan::Chunk;
use super::progress::{Beginning, CopyProgress};
use super::records;
use crate::connection::SqlSession;
use crate::model::{Side, TableName};
use crate::source::SourceTable;

/// Rows are gathered into pieces of this size: one packet a row would cost more than the row.
const RELAY_BYTES: usize = 64 * 1024;

/// Copies chunks of known tables.
pub(super) struct ChunkCopier {
    statements: BTreeMap<TableName, CopyStatements>,
}

/// The two ends of a table's COPY.
#[derive(Debug, PartialEq, Eq)]
struct CopyStatements {
    /// `SELECT … FROM ONLY …`, without condition.
    select: String,
    /// `table (columns)`.
    into: String,
    /// `text` or `binary`.
    format: &'static str,
}

/// Decides for each table how it is copied, from the columns on both sides.
pub(super) async fn prepare(
    target: &SqlSession,
    tables: &[SourceTable],
) -> Result<Arc<ChunkCopier>, SnapshotError> {
    let mut columns = read_target_columns(target, tables).await?;
    let statements = tables
        .iter()
        .map(|table| {
            let on_target = columns.remove(&table.name).unwrap_or_default();
            (table.name.clone(), CopyStatements::new(table, &on_target))
        })
        .collect();
    Ok(Arc::new(ChunkCopier { statements }))
}

/// Type names by column name, by table.
type TargetColumns = BTreeMap<TableName, BTreeMap<String, String>>;

async fn read_target_columns(
    target: &SqlSession,
    tables: &[SourceTable],
) -> Result<TargetColumns, SnapshotError> {
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    let rows = target
        .query(
            "SELECT n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod)
               FROM pg_attribute a
               JOIN pg_class c ON c.oid = a.attrelid
               JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE a.attnum > 0 AND NOT a.attisdropped
                AND c.oid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)",
            &[&names],
        )
        .await
        .map_err(SnapshotError::target)?;
    let mut columns = TargetColumns::new();
    for row in rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        columns.entry(table).or_default().insert(row.get(2), row.get(3));
    }
    Ok(columns)
}

impl CopyStatements {
    /// Binary where every type is portable and the same on both sides; the types' input and output functions
    /// translate otherwise. Columns are named on both ends, so their order may differ.
    fn new(table: &SourceTable, on_target: &BTreeMap<String, String>) -> Self {
        let is_same = table
            .copied_columns()
            .all(|column| column.binary_portable && on_target.get(&column.name) == Some(&column.type_name));
        let columns: Vec<String> = table.copied_columns().map(|column| quote_ident(&column.name)).collect();
        let columns = columns.join(", ");
        // An empty list is not valid here; without a list COPY expects the columns that are not generated: none.
        let list = if columns.is_empty() { String::new() } else { format!(" ({columns})") };
        Self {
            select: format!("SELECT {columns} FROM ONLY {}", table.name),
            into: format!("{}{list}", table.name),
            format: if is_same { "binary" } else { "text" },
        }
    }
}

impl ChunkCopier {
    /// Copies a chunk and commits it, with its record.
    pub(super) async fn copy(
        &self,
        source: &SqlSession,
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
        let into = format!("COPY {} FROM STDIN (FORMAT {})", statements.into, statements.format);
        let sink = transaction.copy_in(&into).await.map_err(&at_target)?;
        let relayed = relay(source, sink, statements, chunk, progress).await?;
        let join = records::join_chunk_sql(chunk, relayed.rows, relayed.bytes);
        transaction.batch_execute(&join).await.map_err(&at_target)?;
        transaction.commit().await.map_err(&at_target)?;
        progress.joined(table, relayed.rows, relayed.messages);
        Ok(())
    }
}

/// What went over in one COPY.
struct Relayed {
    /// As the target counted them.
    rows: u64,
    /// COPY data.
    bytes: u64,
    /// CopyData messages of the source: a row each, and in binary format one more.
    messages: u64,
}

/// Relays until the source has no more.
///
/// Memory is bounded by the relay buffer and one row: each side's connection holds back what the other does not
/// take (INV-12).
async fn relay(
    source: &SqlSession,
    sink: CopyInSink<Bytes>,
    statements: &CopyStatements,
    chunk: &Chunk,
    progress: &CopyProgress,
) -> Result<Relayed, SnapshotError> {
    let at_source = SnapshotError::copying(Side::Source, &chunk.table);
    let at_target = SnapshotError::copying(Side::Target, &chunk.table);
    let CopyStatements { select, format, .. } = statements;
    let from = format!("COPY ({select}{}) TO STDOUT (FORMAT {format})", chunk.blocks.condition());
    let mut messages = pin!(source.copy_out(&from).await.map_err(&at_source)?);
    let mut sink = pin!(sink);
    let mut piece = BytesMut::with_capacity(RELAY_BYTES);
    let (mut piece_messages, mut relayed) = (0, Relayed { rows: 0, bytes: 0, messages: 0 });
    loop {
        let message = messages.next().await.transpose().map_err(&at_source)?;
        if let Some(message) = &message {
            piece.extend_from_slice(message);
            piece_messages += 1;
        }
        if message.is_none() || piece.len() >= RELAY_BYTES {
            relayed.bytes += piece.len() as u64;
            relayed.messages += piece_messages;
            progress.relayed(&chunk.table, piece_messages, piece.len() as u64);
            piece_messages = 0;
            sink.send(piece.split().freeze()).await.map_err(&at_target)?;
            piece.reserve(RELAY_BYTES);
        }
        if message.is_none() {
            relayed.rows = sink.finish().await.map_err(&at_target)?;
            return Ok(relayed);
        }
    }
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
        let statements = CopyStatements::new(&table, &on_target(&[("note", "text"), ("id", "bigint")]));
        assert_eq!(statements.select, r#"SELECT "id", "note" FROM ONLY "public"."orders""#);
        assert_eq!(statements.into, r#""public"."orders" ("id", "note")"#);
        assert_eq!(statements.format, "binary");
    }

    #[test]
    fn another_type_on_the_target_travels_as_text() {
        let table = SourceTable::sample(TableName::new("public", "orders"));
        let statements = CopyStatements::new(&table, &on_target(&[("note", "text"), ("id", "integer")]));
        assert_eq!(statements.format, "text");
    }

    #[test]
    fn generated_columns_are_left_to_the_target_and_a_table_without_columns_has_no_list() {
        let mut table = SourceTable::sample(TableName::new("public", "orders"));
        for column in &mut table.columns {
            column.generated = Generated::Stored;
        }
        let statements = CopyStatements::new(&table, &on_target(&[]));
        assert_eq!(statements.select, r#"SELECT  FROM ONLY "public"."orders""#);
        assert_eq!(statements.into, r#""public"."orders""#);
    }
}
