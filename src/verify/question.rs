//! What the servers are asked of a table, as SQL that is the same for both sides but for the table's name: sums over rows, sums over
//! parts of them, the hashes of single rows, and what is told of a row that differs. Pure: text to text, and rows of text to values.

use pgsluice_proto::command::{quote_ident, quote_literal};

use super::difference::{Entry, Hash, Sums};
use super::portion::Portion;
use super::row_text::{ComparedColumn, RowForm};
use super::table::{ComparedTable, Shape};
use crate::connection::TextRow;
use crate::model::Side;

/// A name that no column has.
const KEY_TEXT: &str = "\"pgsluice key\"";
const KEY_HASH: &str = "\"pgsluice hash\"";
const PLACE: &str = "\"pgsluice place\"";
const ROW_TEXT: &str = "\"pgsluice row\"";
/// Seeds of the hashes of rows and of keys.
const ROW_SEEDS: (u8, u8) = (1, 2);
const KEY_SEEDS: (u8, u8) = (3, 4);

/// Some rows of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) form: RowForm,
    pub(super) table: &'a ComparedTable,
    pub(super) shape: &'a Shape,
    pub(super) portion: &'a Portion,
}

/// Which of these rows.
#[derive(Clone, Debug)]
pub(super) enum Selection {
    /// All.
    All,
    /// Those whose key's hash ends like one of these numbers, all smaller than `parts`, a power of two.
    Parts { parts: u64, chosen: Vec<u64> },
    /// Those of these keys.
    Keys(Vec<KnownKey>),
}

/// A key that was looked at before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownKey {
    pub(super) hash: Hash,
    /// Its values, in the order of the key's columns; empty if rows have to be found without an index.
    pub(super) values: Vec<String>,
}

/// What is told of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) key: Hash,
    /// The key's values in the order of its columns; of a row without key its place.
    pub(super) values: Vec<String>,
    /// A hash for each column; `None` for NULL.
    pub(super) columns: Vec<Option<i64>>,
}

impl Question<'_> {
    fn key(&self) -> Vec<&ComparedColumn> {
        let columns = if self.shape.key.is_empty() { &self.shape.columns } else { &self.shape.key };
        columns.iter().collect()
    }

    /// Whether a row of one side may be in another range on the other: versions of a collation may differ.
    pub(super) const fn may_be_elsewhere(&self) -> bool {
        self.table.is_collated && matches!(self.portion, Portion::Range(_))
    }

    fn row_text(&self) -> String {
        self.form.text(&self.shape.columns.iter().collect::<Vec<_>>())
    }

    fn condition(&self, selection: &Selection) -> String {
        let mut conditions = match self.portion {
            Portion::Range(range) if !self.shape.key.is_empty() => range.conditions(&self.table.ranged),
            _ => Vec::new(),
        };
        if let Selection::Keys(keys) = selection {
            conditions.extend(self.among(keys));
        }
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
    }

    /// A condition by which an index finds the keys.
    fn among(&self, keys: &[KnownKey]) -> Option<String> {
        let key = &self.shape.key;
        if key.is_empty() || !key.iter().all(ComparedColumn::has_equality) {
            return None;
        }
        let rows: Option<Vec<String>> = keys
            .iter()
            .map(|known| {
                let values: Vec<String> = known.values.iter().map(|value| quote_literal(value)).collect();
                (values.len() == key.len()).then(|| format!("({})", values.join(", ")))
            })
            .collect();
        let columns: Vec<String> = key.iter().map(ComparedColumn::value).collect();
        Some(format!("({}) IN ({})", columns.join(", "), rows?.join(", ")))
    }

    /// How many rows, and the sums of their hashes.
    /// `number` comes back with them.
    pub(super) fn sums(&self, side: Side, number: usize) -> String {
        let text = self.row_text();
        let (first, second) = (self.form.hash(ROW_TEXT, ROW_SEEDS.0), self.form.hash(ROW_TEXT, ROW_SEEDS.1));
        let rows = match self.portion {
            Portion::Part { .. } => self.selected(side, &Selection::All),
            _ => format!("{}{}", self.table.rows_of(side), self.condition(&Selection::All)),
        };
        format!(
            "SELECT {number} AS number, count(*) AS rows, coalesce(sum({first}), 0) AS first, coalesce(sum({second}), 0) AS second \
             FROM (SELECT {text} AS {ROW_TEXT} FROM {rows} OFFSET 0) r"
        )
    }

    /// The rows with their key's text and the first half of its hash, selected.
    fn selected(&self, side: Side, selection: &Selection) -> String {
        let columns: Vec<String> =
            self.shape.columns.iter().map(|column| quote_ident(&column.name)).collect();
        let columns = columns.join(", ");
        let comma = if columns.is_empty() { "" } else { ", " };
        let place = match side {
            Side::Target if self.table.is_spread => "tableoid::regclass::text || ' ' || ctid::text",
            _ => "ctid::text",
        };
        let mut chosen = Vec::new();
        if let Portion::Part { number, of } = self.portion {
            chosen.push(format!("{KEY_HASH} & {} = {number}", of - 1));
        }
        match selection {
            Selection::All => {}
            Selection::Parts { parts, chosen: numbers } => {
                let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
                chosen.push(format!("{KEY_HASH} & {} IN ({})", parts - 1, numbers.join(", ")));
            }
            Selection::Keys(keys) => {
                let hashes: Vec<String> = keys.iter().map(|known| known.hash.0.to_string()).collect();
                chosen.push(format!("{KEY_HASH} IN ({})", hashes.join(", ")));
            }
        }
        let chosen =
            if chosen.is_empty() { String::new() } else { format!(" WHERE {}", chosen.join(" AND ")) };
        format!(
            "(SELECT * FROM (SELECT {columns}{comma}{KEY_TEXT}, {PLACE}, {key_hash} AS {KEY_HASH} \
              FROM (SELECT {columns}{comma}{place} AS {PLACE}, {key_text} AS {KEY_TEXT} FROM {from}{condition} OFFSET 0) a \
              OFFSET 0) b{chosen} OFFSET 0) c",
            key_hash = self.form.hash(KEY_TEXT, KEY_SEEDS.0),
            key_text = self.form.text(&self.key()),
            from = self.table.rows_of(side),
            condition = self.condition(selection),
        )
    }

    /// The sums for each part of the rows.
    pub(super) fn sums_of_parts(&self, side: Side, parts: u64) -> String {
        let (first, second) = (self.form.hash(ROW_TEXT, ROW_SEEDS.0), self.form.hash(ROW_TEXT, ROW_SEEDS.1));
        format!(
            "SELECT part, count(*) AS rows, sum({first}) AS first, sum({second}) AS second \
             FROM (SELECT {KEY_HASH} & {} AS part, {} AS {ROW_TEXT} FROM {} OFFSET 0) r GROUP BY part",
            parts - 1,
            self.row_text(),
            self.selected(side, &Selection::All),
        )
    }

    /// The hashes of single rows.
    pub(super) fn entries(&self, side: Side, selection: &Selection) -> String {
        let (first, second) = (self.form.hash(ROW_TEXT, ROW_SEEDS.0), self.form.hash(ROW_TEXT, ROW_SEEDS.1));
        format!(
            "SELECT k1, k2, first, second, count(*) AS rows \
             FROM (SELECT {KEY_HASH} AS k1, {} AS k2, {first} AS first, {second} AS second \
                     FROM (SELECT *, {} AS {ROW_TEXT} FROM {} OFFSET 0) d) e GROUP BY 1, 2, 3, 4",
            self.form.hash(KEY_TEXT, KEY_SEEDS.1),
            self.row_text(),
            self.selected(side, selection),
        )
    }

    /// What is told of single rows.
    pub(super) fn told(&self, side: Side, selection: &Selection) -> String {
        let mut output =
            vec![format!("{KEY_HASH} AS k1"), format!("{} AS k2", self.form.hash(KEY_TEXT, KEY_SEEDS.1))];
        if self.shape.key.is_empty() {
            output.push(format!("{PLACE} AS key0"));
        }
        for (number, column) in self.shape.key.iter().enumerate() {
            output.push(format!("concat({}) AS key{number}", column.value()));
        }
        for (number, column) in self.shape.columns.iter().enumerate() {
            output.push(format!("{} AS column{number}", self.form.column_hash(column)));
        }
        // Without a key there may be any number of equal rows: one stands for all.
        let distinct = if self.shape.key.is_empty() { "DISTINCT ON (1, 2) " } else { "" };
        format!("SELECT {distinct}{} FROM {}", output.join(", "), self.selected(side, selection))
    }

    /// Decodes an answer to [`Self::told`].
    pub(super) fn decode_told(&self, row: &TextRow) -> Option<Told> {
        let values = row.values();
        let number = |index: usize| values.get(index)?.as_deref()?.parse().ok();
        let keys = self.shape.key.len().max(1);
        Some(Told {
            key: (number(0)?, number(1)?),
            values: values.get(2..2 + keys)?.iter().map(|value| value.clone().unwrap_or_default()).collect(),
            columns: (0..self.shape.columns.len()).map(|index| number(2 + keys + index)).collect(),
        })
    }
}

/// Decodes an answer to [`Question::sums`] or one of [`Question::sums_of_parts`].
pub(super) fn decode_sums(row: &TextRow) -> Option<Sums> {
    Some(Sums {
        rows: row.get("rows")?.parse().ok()?,
        first: row.get("first")?.to_owned(),
        second: row.get("second")?.to_owned(),
    })
}

/// Decodes an answer to [`Question::entries`].
pub(super) fn decode_entry(row: &TextRow) -> Option<Entry> {
    let number = |column: &str| row.get(column)?.parse().ok();
    Some(Entry {
        key: (number("k1")?, number("k2")?),
        row: (number("first")?, number("second")?),
        count: row.get("rows")?.parse().ok()?,
    })
}
