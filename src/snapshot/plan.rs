//! Cuts tables into chunks that several connections copy at the same time: ranges of heap blocks, exact under one
//! snapshot. Pure. A table's last chunk has no upper end, so that nothing depends on how current the size is
//! (trap 14).

use std::cmp::Reverse;

use crate::model::TableName;

/// How large a table is, as of under its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Which table.
    pub table: TableName,
    /// Size of its main fork, in blocks.
    pub heap_blocks: u64,
    /// Whether its rows have physical positions that can be ranged over.
    pub storage: Storage,
}

/// How a table keeps its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// PostgreSQL's own heap: `ctid` is a block number and an index in it.
    Heap,
    /// Another table access method, whose `ctid` means something else: the table is one chunk.
    Other,
}

/// A part of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which table.
    pub table: TableName,
    /// Counted from 0 within the table.
    pub number: u32,
    /// Which blocks.
    pub blocks: BlockRange,
}

/// Blocks from `first` up to and without `end`; `None` is without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The first block.
    pub first: u32,
    /// The block after the last one.
    pub end: Option<u32>,
}

impl BlockRange {
    /// Everything.
    pub const ALL: Self = Self { first: 0, end: None };

    /// The condition that selects exactly these blocks' rows; empty for all of them.
    #[must_use]
    pub fn condition(self) -> String {
        let lower = (self.first > 0).then(|| format!("ctid >= '({},0)'::tid", self.first));
        let upper = self.end.map(|end| format!("ctid < '({end},0)'::tid"));
        match (lower, upper) {
            (None, None) => String::new(),
            (Some(one), None) | (None, Some(one)) => format!(" WHERE {one}"),
            (Some(lower), Some(upper)) => format!(" WHERE {lower} AND {upper}"),
        }
    }
}

/// Chunks a table is cut into at most: each costs a transaction and a record (INV-11). Larger tables get larger
/// chunks.
pub(super) const CHUNKS_PER_TABLE_MAX: u64 = 4096;

/// All chunks of all tables, in the order in which they are to be copied: largest tables first, since whatever is
/// begun last decides when the copy ends.
#[must_use]
pub fn plan(tables: &[TableSize], chunk_bytes: u64, block_bytes: u64) -> Vec<Chunk> {
    let mut tables: Vec<&TableSize> = tables.iter().collect();
    tables.sort_by_key(|size| (Reverse(size.heap_blocks), size.table.clone()));
    let blocks_wanted = (chunk_bytes / block_bytes.max(1)).max(1);
    tables.into_iter().flat_map(|size| chunks_of(size, blocks_wanted)).collect()
}

/// Ranges of so many blocks that cover a heap of `heap_blocks`; the last has no upper end.
pub(super) fn blocks_of(heap_blocks: u64, blocks_wanted: u64) -> Vec<BlockRange> {
    let blocks_per_chunk = blocks_wanted.max(heap_blocks.div_ceil(CHUNKS_PER_TABLE_MAX));
    let count = heap_blocks.div_ceil(blocks_per_chunk).max(1);
    // Block numbers are 32 bits; a range that would begin beyond them cannot exist.
    let boundary = |index: u64| u32::try_from(index.saturating_mul(blocks_per_chunk)).ok();
    (0..count)
        .filter_map(|index| {
            let end = if index + 1 == count { None } else { boundary(index + 1) };
            Some(BlockRange { first: boundary(index)?, end })
        })
        .collect()
}

fn chunks_of(size: &TableSize, blocks_wanted: u64) -> Vec<Chunk> {
    let blocks = match size.storage {
        Storage::Heap => blocks_of(size.heap_blocks, blocks_wanted),
        Storage::Other => vec![BlockRange::ALL],
    };
    let chunk = |(blocks, number)| Chunk { table: size.table.clone(), number, blocks };
    blocks.into_iter().zip(0_u32..).map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(name: &str, heap_blocks: u64, storage: Storage) -> TableSize {
        TableSize { table: TableName::new("public", name), heap_blocks, storage }
    }

    #[test]
    fn an_empty_table_is_one_chunk_without_bounds() {
        let chunks = plan(&[size("t", 0, Storage::Heap)], 1 << 20, 8192);
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].blocks, BlockRange::ALL);
        assert_eq!(chunks[0].blocks.condition(), "");
    }

    #[test]
    fn another_access_method_is_not_ranged_over() {
        let chunks = plan(&[size("t", 1_000_000, Storage::Other)], 1 << 20, 8192);
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].blocks, BlockRange::ALL);
    }

    #[test]
    fn the_largest_table_comes_first() {
        let sizes = [size("small", 1, Storage::Heap), size("large", 300, Storage::Heap)];
        let chunks = plan(&sizes, 128 * 8192, 8192);
        let names: Vec<_> = chunks.iter().map(|chunk| (chunk.table.name.as_str(), chunk.number)).collect();
        assert_eq!(names, [("large", 0), ("large", 1), ("large", 2), ("small", 0)]);
        assert_eq!(chunks[1].blocks.condition(), " WHERE ctid >= '(128,0)'::tid AND ctid < '(256,0)'::tid");
    }

    proptest! {
        #[test]
        fn every_block_is_in_exactly_one_chunk_and_the_last_has_no_end(
            heap_blocks in 0_u64..u64::from(u32::MAX),
            chunk_bytes in 1_u64..(1 << 34),
        ) {
            let chunks = plan(&[size("t", heap_blocks, Storage::Heap)], chunk_bytes, 8192);
            prop_assert!(chunks.len() as u64 <= CHUNKS_PER_TABLE_MAX);
            let mut next = Some(0);
            for (index, chunk) in chunks.iter().enumerate() {
                prop_assert_eq!(chunk.number as usize, index);
                prop_assert_eq!(Some(chunk.blocks.first), next);
                next = chunk.blocks.end;
            }
            prop_assert_eq!(next, None);
        }
    }
}
