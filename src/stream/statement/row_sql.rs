//! The text of a statement that does one change: one row written, found by its key or by all it holds.

use pgsluice_proto::command::quote_ident;

use crate::target::{TableKind, TargetColumn};

use super::{BoundTable, RowMatch, RowOp, StatementKey, WrittenValues};

/// Types, by `pg_type.typname`, whose stored image follows from what they print, whichever way a value came in; so it is
/// with their arrays. Others print alike and differ: NaN has many images, a query's operands stand in any order, `0` is
/// equal to `-0`.
const ONE_IMAGE_PER_PRINT: [&str; 32] = [
    "bit",
    "bool",
    "bpchar",
    "bytea",
    "char",
    "cid",
    "cidr",
    "date",
    "inet",
    "int2",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "oid",
    "pg_lsn",
    "text",
    "tid",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "uuid",
    "varbit",
    "varchar",
    "xid8",
];

impl BoundTable {
    /// The text of the statement for `key`.
    #[must_use]
    pub(in crate::stream) fn sql(&self, key: &StatementKey) -> String {
        match key.op {
            RowOp::Insert => self.insert_sql(&key.written),
            RowOp::Update => self.update_sql(&key.written),
            RowOp::Delete => format!("DELETE FROM {} WHERE {}", self.only(), self.find_sql(1)),
        }
    }

    fn insert_sql(&self, written: &[u16]) -> String {
        let table = &self.target.name;
        if written.is_empty() {
            return format!("INSERT INTO {table} DEFAULT VALUES");
        }
        let names: Vec<_> = written.iter().map(|index| quote_ident(self.column_name(*index))).collect();
        let places: Vec<_> =
            written.iter().zip(1..).map(|(index, place)| self.written_place(*index, place)).collect();
        format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            names.join(", "),
            places.join(", ")
        )
    }

    fn update_sql(&self, written: &[u16]) -> String {
        let found = self.find_sql(written.len() + 1);
        if written.is_empty() {
            // Nothing to write, but the row must be there all the same (INV-6).
            return format!("SELECT 1 FROM {} WHERE {found} FOR UPDATE", self.only());
        }
        if self.replaces_row(written) {
            return self.replace_sql(written, &found);
        }
        let assignments: Vec<_> = written
            .iter()
            .zip(1..)
            .map(|(index, place)| {
                format!("{} = {}", quote_ident(self.column_name(*index)), self.written_place(*index, place))
            })
            .collect();
        format!("UPDATE {} SET {} WHERE {found}", self.only(), assignments.join(", "))
    }

    /// No UPDATE may name a GENERATED ALWAYS AS IDENTITY column (trap 22), so the row is taken out and put in again, with
    /// what was not sent as it was. One statement: a row that is not there puts none in (INV-6).
    fn replace_sql(&self, written: &[u16], found: &str) -> String {
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for column in self.target.columns.iter().filter(|column| !column.generated) {
            let name = quote_ident(&column.name);
            let place = written.iter().zip(1..).find(|(index, _)| self.column_name(**index) == column.name);
            values.push(match place {
                Some((_, place)) => format!("${place}::{}", column.cast),
                None => format!("gone.{name}"),
            });
            names.push(name);
        }
        format!(
            "WITH gone AS (DELETE FROM {} WHERE {found} RETURNING *) \
             INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone",
            self.only(),
            self.target.name,
            names.join(", "),
            values.join(", ")
        )
    }

    fn written_place(&self, index: u16, place: usize) -> String {
        match (self.written, self.column(index)) {
            (WrittenValues::AsAnnounced, Some(column)) => format!("${place}::{}", column.cast),
            _ => format!("${place}"),
        }
    }

    /// The condition that finds the row, with parameters numbered from `first`.
    fn find_sql(&self, first: usize) -> String {
        match self.row_match {
            RowMatch::None => "false".into(),
            RowMatch::Key => {
                let terms: Vec<_> = self
                    .key_terms(first)
                    .map(|(column, name, value)| {
                        if is_equal_to_others(column) {
                            format!("ROW({name})::text = ROW({value})::text")
                        } else {
                            format!("{name} {} {value}", column.equality)
                        }
                    })
                    .collect();
                terms.join(" AND ")
            }
            RowMatch::WholeRow => {
                // Partitions number their rows each for itself (trap 11).
                let place = match self.target.kind {
                    TableKind::Ordinary => "ctid",
                    TableKind::Partitioned => "tableoid, ctid",
                };
                let (only, found) = (self.only(), self.whole_row_sql(first));
                format!("({place}) = (SELECT {place} FROM {only} WHERE {found} LIMIT 1)")
            }
        }
    }

    /// Rows are compared by the binary image of their values, which every type has (json has no equality, that of citext
    /// is too wide), or by what they print where a value has more than one image. A cast to text would not do: types may
    /// have casts of their own, a row prints its values by their output functions and tells NULL from an empty text.
    fn whole_row_sql(&self, first: usize) -> String {
        let (mut by_image, mut by_print) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (column, name, value) in self.key_terms(first) {
            let (names, values) =
                if has_one_image(&column.base_type) { &mut by_image } else { &mut by_print };
            names.push(name);
            values.push(value);
        }
        let mut terms = Vec::new();
        if !by_image.0.is_empty() {
            let (names, values) = (by_image.0.join(", "), by_image.1.join(", "));
            terms.push(format!("ROW({names})::record OPERATOR(pg_catalog.*=) ROW({values})::record"));
        }
        if !by_print.0.is_empty() {
            let (names, values) = (by_print.0.join(", "), by_print.1.join(", "));
            terms.push(format!("ROW({names})::text = ROW({values})::text"));
        }
        if terms.is_empty() { "true".into() } else { terms.join(" AND ") }
    }

    /// The columns that find the row: each with its quoted name and its parameter, both of the type that has the operators.
    fn key_terms(&self, first: usize) -> impl Iterator<Item = (&TargetColumn, String, String)> {
        self.key.iter().zip(first..).filter_map(|(index, place)| {
            let column = self.column(*index)?;
            let name = self.compared(column);
            Some((column, name, format!("${place}::{}", column.cast)))
        })
    }
}

/// Whether a type's equality holds between values that are not the same, so that not even its own index finds a value
/// reliably: a `cube` with NaN is equal to every cube.
pub(super) fn is_equal_to_others(column: &TargetColumn) -> bool {
    column.base_type.rsplit('.').next() == Some("cube")
}

/// Whether values of a built-in type, or the elements of its array, have one image each.
fn has_one_image(base_type: &str) -> bool {
    let element = base_type.strip_prefix('_').unwrap_or(base_type);
    ONE_IMAGE_PER_PRINT.contains(&element)
}
