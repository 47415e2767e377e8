//! Makes the plan: looks at the source's large tables, by which key each could be cut and in which order it is stored, and at what
//! the target's tables would refuse. Reads only; nothing depends on how current it is.

use tokio_postgres::Row;

use super::SnapshotError;
use super::board::RangedBy;
use super::key::{Key, KeyKind, KeyRange};
use super::layout::{PlannedTable, SAMPLES_PER_CHUNK, chunks_wanted, cut};
use crate::connection::SqlSession;
use crate::model::{Oid, TableName};
use crate::source::SourceTable;
use pgsluice_proto::command::quote_ident;

/// Keys sampled of a table at most.
const SAMPLES_MAX: u64 = 4096;

/// A key that a table could be cut by, and its size.
struct Candidate {
    by: RangedBy,
    blocks: i64,
}

/// The plan for these tables: those whose rows and changes are copied.
///
/// # Errors
/// [`SnapshotError::Source`], [`SnapshotError::Target`].
pub async fn make_plan(
    source: &SqlSession,
    target: &SqlSession,
    tables: &[SourceTable],
    chunk_bytes: u64,
) -> Result<Vec<PlannedTable>, SnapshotError> {
    let mut plan = Vec::with_capacity(tables.len());
    for table in tables.iter().filter(|table| table.is_copied()) {
        let wanted = chunks_wanted(table.total_bytes, chunk_bytes);
        let candidate = if wanted > 1 { candidate(source, table).await? } else { None };
        let (mut ranged_by, mut ranges) = (None, vec![KeyRange::ALL]);
        if let Some(candidate) = candidate
            && !has_other_unique(target, &table.name, &candidate.by.column).await?
        {
            let samples = sample(source, table, &candidate, wanted).await?;
            ranges = cut(&samples, wanted);
            ranged_by = (ranges.len() > 1).then_some(candidate.by);
        }
        if wanted > 1 {
            tracing::info!(
                table = %table.name.plain(),
                bytes = table.total_bytes,
                chunks = ranges.len(),
                by = ranged_by.as_ref().map_or("blocks, under one snapshot", |by| by.column.as_str()),
                "a large table is copied in chunks"
            );
        }
        plan.push(PlannedTable { oid: table.oid, name: table.name.clone(), ranged_by, ranges });
    }
    Ok(plan)
}

/// The leading column of what tells rows apart in the stream: a change names it, and an index finds its ranges. With a full
/// replica identity a change names every column, and the primary key's will do.
async fn candidate(source: &SqlSession, table: &SourceTable) -> Result<Option<Candidate>, SnapshotError> {
    let row = source
        .query_opt(
            "SELECT a.attname::text, a.atttypid, pg_relation_size(c.oid) / current_setting('block_size')::int8
               FROM pg_class c
               JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
                AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END
               JOIN pg_class x ON x.oid = i.indexrelid
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = (i.indkey::int2[])[0]
              WHERE c.oid = $1 AND a.attnotnull
                AND x.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')
                AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'heap')",
            &[&table.oid.0],
        )
        .await
        .map_err(SnapshotError::source)?;
    let candidate = |row: Row| {
        let kind = KeyKind::of(Oid(row.get(1)))?;
        Some(Candidate { by: RangedBy { column: row.get(0), kind }, blocks: row.get(2) })
    };
    Ok(row.and_then(candidate))
}

/// Whether the target's table has something unique whose leading column is another. Chunks have snapshots of their own: until the
/// stream has passed them all, two rows of different chunks may have the same value there.
async fn has_other_unique(
    target: &SqlSession,
    table: &TableName,
    column: &str,
) -> Result<bool, SnapshotError> {
    let row = target
        .query_one(
            "SELECT EXISTS (
                 SELECT FROM pg_index i
                   LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = (i.indkey::int2[])[0]
                  WHERE i.indrelid = to_regclass($1) AND (i.indisunique OR i.indisexclusion)
                    AND a.attname::text IS DISTINCT FROM $2)",
            &[&table.to_string(), &column],
        )
        .await
        .map_err(SnapshotError::target)?;
    Ok(row.get(0))
}

/// Keys of rows all over the table, in the order in which they are stored.
async fn sample(
    source: &SqlSession,
    table: &SourceTable,
    candidate: &Candidate,
    wanted: u64,
) -> Result<Vec<Key>, SnapshotError> {
    let samples = wanted.saturating_mul(SAMPLES_PER_CHUNK).clamp(1, SAMPLES_MAX);
    let step = (candidate.blocks / i64::try_from(samples).unwrap_or(i64::MAX)).max(1);
    let sql = format!(
        "SELECT (SELECT {column}::text FROM ONLY {name}
                  WHERE ctid >= format('(%s,0)', block)::tid AND ctid < format('(%s,0)', block + $2)::tid LIMIT 1)
           FROM generate_series(0, $1::int8 - 1, $2::int8) AS block ORDER BY block",
        column = quote_ident(&candidate.by.column),
        name = table.name,
    );
    let rows = source.query(&sql, &[&candidate.blocks, &step]).await.map_err(SnapshotError::source)?;
    let key = |row: &Row| row.get::<_, Option<String>>(0).and_then(|text| candidate.by.kind.parse(&text));
    Ok(rows.iter().filter_map(key).collect())
}
