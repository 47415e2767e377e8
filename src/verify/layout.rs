//! Cuts what is compared into pieces: small tables together, large ones by ranges of their key's first column, or by their keys' hash
//! where both sides may order keys differently. Where a range begins and ends need not be exact: every row of either side is in at
//! least one, and one that is in a range of one side alone, because versions of a collation differ, is found equal when its key is
//! looked at. Pure, but for the sample.

use std::time::Duration;

use pgsluice_proto::command::quote_ident;

use super::error::VerifyError;
use super::piece::Slice;
use super::table::{ComparedTable, Portion, Range};
use crate::connection::{SqlSession, TextQuery};

/// Tables compared under one pair at most: each is locked, and asked for by a statement of its own.
const TABLES_MAX: usize = 50;
/// A table whose keys cannot be ranged over is read once for each of its parts, and not more often than that.
const PARTS_MAX: u64 = 16;
/// What a server hashes in a second at the very least, two times over.
const BYTES_A_SECOND: u64 = 32 << 20;
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
        let wanted = table.bytes.div_ceil(sizes.piece_bytes.max(1));
        if wanted > 1 && table.can_be_ranged {
            let bounds = sample(source, table, wanted, sizes.held_max).await?;
            let bytes = table.bytes / (bounds.len() as u64 + 1);
            pieces.extend(
                ranges(bounds)
                    .into_iter()
                    .map(|range| vec![Slice { table: index, portion: Portion::Range(range), bytes }]),
            );
            continue;
        }
        let parts = table.bytes.div_ceil(sizes.part_bytes.max(1)).next_power_of_two().min(PARTS_MAX);
        if parts > 1 {
            let portion = |number| Portion::Part { number, of: parts };
            let slice = |number| Slice { table: index, portion: portion(number), bytes: table.bytes / parts };
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
        together.push(Slice { table: index, portion: Portion::All, bytes: table.bytes });
    }
    if !together.is_empty() {
        pieces.push(together);
    }
    Ok(pieces)
}

/// The ranges between these bounds, and beyond them.
fn ranges(bounds: Vec<String>) -> Vec<Range> {
    let mut ranges = Vec::with_capacity(bounds.len() + 1);
    let mut first = None;
    for bound in bounds {
        ranges.push(Range { first: first.replace(bound.clone()), end: Some(bound) });
    }
    ranges.push(Range { first, end: None });
    ranges
}

/// Values of the key's first column that cut the table into about so many pieces of equal size.
async fn sample(
    source: &SqlSession,
    table: &ComparedTable,
    wanted: u64,
    held_max: Duration,
) -> Result<Vec<String>, VerifyError> {
    let Some(column) = table.key.first().map(|name| quote_ident(name)) else { return Ok(Vec::new()) };
    let blocks = (table.heap_bytes / BLOCK_BYTES).max(1);
    #[expect(clippy::cast_precision_loss, reason = "a part of a table need not be exact")]
    let percent =
        (100.0 * (wanted * BLOCKS_PER_PIECE).min(BLOCKS_MAX) as f64 / blocks as f64).clamp(0.000_1, 100.0);
    let sql = format!(
        "BEGIN; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; SELECT value FROM (SELECT {column}::text AS value, row_number() OVER (ORDER BY {column}) AS place, count(*) OVER () AS all_of_them \
           FROM {table} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)) sample \
          WHERE place % greatest(all_of_them / {wanted}, 1) = 0 ORDER BY place; COMMIT",
        held_max.as_millis(),
        held_max.as_millis(),
        table = table.rows_of(crate::model::Side::Source),
    );
    let rows = source.rows(&sql).await.map_err(VerifyError::source)?;
    let mut bounds: Vec<String> = rows.iter().filter_map(|row| row.get("value").map(str::to_owned)).collect();
    bounds.dedup();
    Ok(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_leave_no_row_out() {
        let of = |first: Option<&str>, end: Option<&str>| Range {
            first: first.map(str::to_owned),
            end: end.map(str::to_owned),
        };
        assert_eq!(ranges(Vec::new()), [Range::default()]);
        assert_eq!(
            ranges(vec!["5".into(), "9".into()]),
            [of(None, Some("5")), of(Some("5"), Some("9")), of(Some("9"), None)]
        );
    }
}
