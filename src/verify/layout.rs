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

/// Tables compared under one pair at most: each is locked, and asked for by a statement of its own.
const TABLES_MAX: usize = 50;
/// What a server hashes in a second at the very least, and again when rows that differ are looked for in it.
const BYTES_A_SECOND: u64 = 16 << 20;
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
        if table.can_be_ranged() { table.bytes.div_ceil(bytes.max(1)) } else { 1 }
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
            if ranges.len() > 1 { ranges.into_iter().map(Portion::Range).collect() } else { Vec::new() }
        }
        None => slice.portion.in_parts(),
    };
    if portions.is_empty() {
        return Ok(vec![Slice { is_indivisible: true, ..slice.clone() }]);
    }
    let bytes = slice.bytes / portions.len() as u64;
    Ok(portions.into_iter().map(|portion| Slice::new(slice.table, portion, bytes)).collect())
}

/// Cuts a range of so many bytes into about so many of equal size, by values of a sample.
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
    let sql = format!(
        "BEGIN; SET LOCAL statement_timeout = {timeout}; SET LOCAL lock_timeout = {timeout}; \
         SELECT * FROM (SELECT {values}, row_number() OVER (ORDER BY {order}) AS place, count(*) OVER () AS all_of_them \
           FROM {table} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1){condition}) sample \
          WHERE place % greatest(all_of_them / {wanted}, 1) = 0 ORDER BY place; COMMIT",
        timeout = held_max.as_millis(),
        values = values.join(", "),
        order = order.join(", "),
        table = table.rows_of(crate::model::Side::Source),
        percent = percent(table, bytes, wanted),
        condition = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        },
    );
    let rows = source.rows(&sql).await.map_err(VerifyError::source)?;
    let values =
        |row: &TextRow| row.values().iter().take(table.ranged.len()).cloned().collect::<Option<Bound>>();
    let mut bounds: Vec<Bound> = rows.iter().filter_map(values).collect();
    bounds.dedup();
    bounds.retain(|bound| range.first.as_ref() != Some(bound));
    Ok(range.cut(bounds))
}

/// The part of the table that has to be looked into for so many values within so many bytes of it, in percent.
#[expect(clippy::cast_precision_loss, reason = "a part of a table need not be exact")]
fn percent(table: &ComparedTable, bytes: u64, wanted: u64) -> f64 {
    let blocks = (table.heap_bytes / BLOCK_BYTES).max(1) as f64;
    let whole = table.bytes as f64 / bytes.max(1) as f64;
    let looked_into = ((wanted * BLOCKS_PER_PIECE) as f64 * whole.max(1.0)).min(BLOCKS_MAX as f64);
    (100.0 * looked_into / blocks).clamp(0.000_1, 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Oid, TableName};

    #[test]
    fn a_table_is_cut_by_its_size_and_into_few_ranges_if_each_reads_much_of_it() {
        let sizes = Sizes::new(32 << 20, Duration::from_secs(60));
        let table = |ranged: &[&str], is_scattered| ComparedTable {
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
        };
        assert_eq!(sizes.ranges_of(&table(&["id"], false)), 320);
        assert_eq!(sizes.ranges_of(&table(&["id"], true)), 11);
        assert_eq!(sizes.ranges_of(&table(&[], false)), 1, "it is cut into parts");
        let short = Sizes::new(1 << 30, Duration::from_secs(1));
        assert_eq!(short.ranges_of(&table(&["id"], false)), 640, "no more than fits into the time");
    }
}
