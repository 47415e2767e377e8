//! Cuts what is compared into pieces: small tables together, large ones by ranges of their key, or by their keys' hash where both sides
//! may order keys differently; and what turns out to take too long into smaller ones. Where a range begins and ends need not be exact:
//! every row of either side is in at least one, and one that is in a range of one side alone, because versions of a collation differ, is
//! found equal when its key is looked at. Pure, but for the sample.

use std::time::Duration;

use pgsluice_proto::command::quote_ident;

use super::error::VerifyError;
use super::piece::Slice;
use super::portion::{Bound, CUT_INTO, PARTS_MAX, Portion, Range};
use super::table::ComparedTable;
use crate::connection::{SqlSession, TextQuery, TextRow};
use crate::model::Side;

/// Tables compared under one pair at most: each is locked, and asked for by a statement of its own.
const TABLES_MAX: usize = 50;
/// What a server hashes in a second at the very least, and again when rows that differ are looked for in it.
const BYTES_A_SECOND: u64 = 16 << 20;
/// Ranges of a table at most; beyond, they are larger.
const RANGES_MAX: u64 = 20_000;
/// How long a table may be locked by others before it is not cut: less than `deadlock_timeout`.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// Blocks that are looked into for each piece of a table.
const BLOCKS_PER_PIECE: u64 = 20;
const BLOCKS_MAX: u64 = 20_000;
const BLOCK_BYTES: u64 = 8_192;

/// How large pieces are to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    piece_bytes: u64,
    part_bytes: u64,
    held_max: Duration,
}

impl Sizes {
    /// Pieces of this size; what has to be read as a whole in parts that are done while a pair of snapshots may be held.
    pub(super) const fn new(piece_bytes: u64, held_max: Duration) -> Self {
        Self { piece_bytes, part_bytes: held_max.as_secs().saturating_mul(BYTES_A_SECOND), held_max }
    }

    /// Into how many ranges a table is cut: into as few as may be where each of them reads much of it.
    fn ranges_of(self, table: &ComparedTable) -> u64 {
        let bytes = if table.is_scattered { self.part_bytes } else { self.piece_bytes.min(self.part_bytes) };
        if table.can_be_ranged() { table.bytes.div_ceil(bytes.max(1)).min(RANGES_MAX) } else { 1 }
    }
}

/// The pieces, the largest first.
///
/// # Errors
/// [`VerifyError`]: the source could not be asked for a sample.
pub(super) async fn cut(
    source: &SqlSession,
    tables: &[ComparedTable],
    sizes: Sizes,
) -> Result<Vec<Vec<Slice>>, VerifyError> {
    let mut pieces = Vec::new();
    let mut together: Vec<Slice> = Vec::new();
    let mut together_bytes = 0;
    for (index, table) in tables.iter().enumerate() {
        let wanted = sizes.ranges_of(table);
        if wanted > 1 {
            let ranges =
                in_ranges(source, table, &Range::default(), table.bytes, wanted, sizes.held_max).await?;
            let bytes = table.bytes / ranges.len() as u64;
            let slice = |range| vec![Slice::new(index, Portion::Range(range), bytes)];
            pieces.extend(ranges.into_iter().map(slice));
            continue;
        }
        let parts = table.bytes.div_ceil(sizes.part_bytes.max(1)).next_power_of_two().min(PARTS_MAX);
        if parts > 1 {
            let portion = |number| Portion::Part { number, of: parts };
            let slice = |number| Slice::new(index, portion(number), table.bytes / parts);
            pieces.extend((0..parts).map(|number| vec![slice(number)]));
            continue;
        }
        if !together.is_empty()
            && (together_bytes + table.bytes > sizes.piece_bytes || together.len() >= TABLES_MAX)
        {
            pieces.push(std::mem::take(&mut together));
            together_bytes = 0;
        }
        together_bytes += table.bytes;
        together.push(Slice::new(index, Portion::All, table.bytes));
    }
    if !together.is_empty() {
        pieces.push(together);
    }
    Ok(pieces)
}

/// The same rows in smaller slices; in the same if they cannot be cut.
///
/// # Errors
/// [`VerifyError`]: the source could not be asked for a sample.
pub(super) async fn cut_smaller(
    source: &SqlSession,
    table: &ComparedTable,
    slice: &Slice,
    held_max: Duration,
) -> Result<Vec<Slice>, VerifyError> {
    let range = match &slice.portion {
        Portion::Range(range) => Some(range.clone()),
        Portion::All if table.can_be_ranged() => Some(Range::default()),
        Portion::All | Portion::Part { .. } => None,
    };
    let portions: Vec<Portion> = match range {
        Some(range) => {
            let ranges = in_ranges(source, table, &range, slice.bytes, CUT_INTO, held_max).await?;
            ranges.into_iter().map(Portion::Range).collect()
        }
        None => slice.portion.in_parts(),
    };
    if portions.len() < 2 {
        return Ok(vec![slice.as_it_is()]);
    }
    let bytes = slice.bytes / portions.len() as u64;
    let smaller = |portion| Slice { cuts: slice.cuts + 1, ..Slice::new(slice.table, portion, bytes) };
    Ok(portions.into_iter().map(smaller).collect())
}

/// Cuts a range of so many bytes into about so many of equal size, by values of a sample; of a small part of a large table by all of its
/// keys, which an index has together. It stays one if that takes too long, or the table is locked, or gone: whoever compares it finds
/// out, and other tables need not suffer for it.
async fn in_ranges(
    source: &SqlSession,
    table: &ComparedTable,
    range: &Range,
    bytes: u64,
    wanted: u64,
    held_max: Duration,
) -> Result<Vec<Range>, VerifyError> {
    let columns = table.ranged.iter().map(|name| quote_ident(name));
    let (values, order): (Vec<String>, Vec<String>) = columns
        .enumerate()
        .map(|(number, column)| (format!("{column}::text AS value{number}"), column))
        .unzip();
    let conditions = range.conditions(&table.ranged);
    let condition =
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let sample = percent(table, bytes, wanted)
        .map_or_else(String::new, |percent| format!(" TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)"));
    let rows = format!("{}{sample}{condition}", table.rows_of(Side::Source));
    let sql = format!(
        "BEGIN; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
         SELECT * FROM (SELECT {}, row_number() OVER (ORDER BY {}) AS place FROM {rows}) some_rows \
          WHERE place % greatest((SELECT count(*) FROM {rows}) / {wanted}, 1) = 0 ORDER BY place; COMMIT",
        held_max.as_millis(),
        LOCK_TIMEOUT.min(held_max / 2).as_millis(),
        values.join(", "),
        order.join(", "),
    );
    let rows = match source.rows(&sql).await.map_err(VerifyError::source) {
        Ok(rows) => rows,
        Err(error) if error.is_about_tables() => {
            tracing::debug!(%error, table = table.source_name.plain(), "a table is not cut");
            source.rows("ROLLBACK").await.map_err(VerifyError::source)?;
            return Ok(vec![range.clone()]);
        }
        Err(error) => return Err(error),
    };
    let values =
        |row: &TextRow| row.values().iter().take(table.ranged.len()).cloned().collect::<Option<Bound>>();
    let mut bounds: Vec<Bound> = rows.iter().filter_map(values).collect();
    bounds.dedup();
    bounds.retain(|bound| range.first.as_ref() != Some(bound));
    Ok(range.cut(bounds))
}

/// The part of the table that has to be looked into for so many values within so many bytes of it, in percent; `None` if that is too much.
#[expect(clippy::cast_precision_loss, reason = "a part of a table need not be exact")]
fn percent(table: &ComparedTable, bytes: u64, wanted: u64) -> Option<f64> {
    let blocks = (table.heap_bytes / BLOCK_BYTES).max(1) as f64;
    let wanted = wanted.saturating_mul(BLOCKS_PER_PIECE) as f64;
    let part = (bytes.max(1) as f64 / table.bytes.max(1) as f64).min(1.0);
    let is_whole = bytes >= table.bytes;
    let looked_into = if is_whole { wanted.min(BLOCKS_MAX as f64) } else { wanted / part };
    let is_too_much = looked_into > BLOCKS_MAX as f64 && blocks > BLOCKS_MAX as f64;
    (!is_too_much).then(|| (100.0 * looked_into / blocks).clamp(0.000_1, 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Oid, TableName};

    fn table(ranged: &[&str], is_scattered: bool) -> ComparedTable {
        ComparedTable {
            source_oid: Oid(1),
            source_name: TableName::new("public", "t"),
            target_oid: Oid(2),
            target_name: TableName::new("public", "t"),
            is_spread: false,
            bytes: 10 << 30,
            heap_bytes: 10 << 30,
            key: vec!["id".into()],
            ranged: ranged.iter().map(|name| (*name).to_owned()).collect(),
            is_collated: false,
            is_scattered,
        }
    }

    /// 1,310,720 blocks: 1,000 of them, 20,000 at most.
    #[test]
    fn a_sample_is_as_large_as_the_number_of_pieces_and_none_is_taken_of_a_small_part() {
        let whole = table(&["id"], false);
        let blocks = |bytes, wanted| percent(&whole, bytes, wanted).map(|percent| percent * 13_107.2);
        assert!((blocks(10 << 30, 50).unwrap() - 1_000.0).abs() < 1.0);
        assert!((blocks(10 << 30, 100_000).unwrap() - 20_000.0).abs() < 1.0);
        assert!((blocks(1 << 30, 4).unwrap() - 800.0).abs() < 1.0, "a tenth has 80 of them");
        assert_eq!(blocks(10 << 20, 4), None);
        let small = ComparedTable { bytes: 100 << 20, heap_bytes: 100 << 20, ..whole };
        assert_eq!(percent(&small, 1 << 10, 4), Some(100.0));
    }

    #[test]
    fn a_table_is_cut_by_its_size_and_into_few_ranges_if_each_reads_much_of_it() {
        let sizes = Sizes::new(32 << 20, Duration::from_secs(60));
        assert_eq!(sizes.ranges_of(&table(&["id"], false)), 320);
        assert_eq!(sizes.ranges_of(&table(&["id"], true)), 11);
        assert_eq!(sizes.ranges_of(&table(&[], false)), 1, "it is cut into parts");
        let short = Sizes::new(1 << 30, Duration::from_secs(1));
        assert_eq!(short.ranges_of(&table(&["id"], false)), 640, "no more than fits into the time");
        let tiny = Sizes::new(1, Duration::from_secs(60));
        assert_eq!(tiny.ranges_of(&table(&["id"], false)), RANGES_MAX);
    }
}
