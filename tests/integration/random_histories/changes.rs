//! Random statements about one table. Each is about rows that are likely to exist; whether it finds any, and whether a
//! constraint objects, is for the server to say. Pure.

use rand::RngExt;
use rand::rngs::StdRng;

use super::history::Kind;
use super::tables::{AlwaysOrDefault, Identity, Partitioning, Table, Uniqueness, pick};

/// Statements that belong together, in their order.
pub(super) type Change = Vec<(Kind, String)>;

/// What the changes of a history are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Some transactions exceed the source's memory for decoding.
    pub(super) bulk: bool,
    pub(super) truncate: bool,
    /// Much of it is about the same few rows, keys and unique values.
    pub(super) attacks: bool,
}

/// Unique values are drawn from as many, so that they are taken now and then.
const UNIQUE_VALUES: i64 = 40;
/// Rows of an INSERT that is to exceed the source's memory for decoding.
const BULK_ROWS: std::ops::Range<i64> = 150..500;

impl Table {
    /// A change of this table; `likely` and `next` follow it.
    pub(super) fn change(&mut self, random: &mut StdRng, tables: &[Self], style: Style) -> Change {
        if style.bulk && random.random_bool(0.3) {
            return self.insert_bulk(random);
        }
        if style.attacks && random.random_bool(0.35) {
            return self.attack(random, tables);
        }
        match random.random_range(0..100) {
            0..16 => vec![(Kind::Insert, self.insert(random, tables, 1, ""))],
            16..24 => {
                let rows = if random.random_bool(0.3) {
                    random.random_range(8..30)
                } else {
                    random.random_range(2..6)
                };
                vec![(Kind::InsertMany, self.insert(random, tables, rows, ""))]
            }
            24..32 => self.upsert(random, tables),
            32..46 => self.update(random),
            46..52 => self.update_range(random),
            52..60 => self.update_key(random),
            60..68 => self.update_hot(),
            68..78 => self.update_unique(random, tables),
            78..83 => self.move_partition(random).unwrap_or_else(|| self.update(random)),
            83..94 => self.delete(random),
            94..97 => self.delete_range(random),
            // It leaves little to compare: not in every history.
            _ if style.truncate => self.truncate(random, tables),
            _ => self.update(random),
        }
    }

    /// Rows before anything else happens.
    pub(super) fn first_rows(&mut self, random: &mut StdRng, tables: &[Self]) -> Vec<String> {
        (0..random.random_range(0..12)).map(|_| self.insert(random, tables, 1, "")).collect()
    }

    /// A row that is likely to exist.
    pub(super) fn likely_row(&self, random: &mut StdRng) -> i64 {
        if self.likely.is_empty() { random.random_range(1..6) } else { *pick(random, &self.likely) }
    }

    pub(super) fn other_row(&self, random: &mut StdRng, than: i64) -> i64 {
        (0..5).map(|_| self.likely_row(random)).find(|n| *n != than).unwrap_or(than + 1)
    }

    /// `INSERT` of rows that do not exist, or now and then of one that does.
    fn insert(&mut self, random: &mut StdRng, tables: &[Self], rows: usize, suffix: &str) -> String {
        let mut columns = None;
        let mut values = Vec::new();
        let made_by_server = self.key_made.is_some() && random.random_bool(0.5);
        for _ in 0..rows {
            let n = if random.random_bool(0.06) || self.equal_rows_wanted(random) {
                self.likely_row(random)
            } else {
                self.next += 1;
                self.likely.push(self.next);
                self.next
            };
            let row = self.row(random, tables, n, made_by_server);
            columns.get_or_insert_with(|| row.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
            let literals: Vec<_> = row.into_iter().map(|(_, literal)| literal).collect();
            values.push(format!("({})", literals.join(", ")));
        }
        let overriding = if self.key_made.is_some() { "OVERRIDING SYSTEM VALUE " } else { "" };
        format!(
            "INSERT INTO {} ({}) {overriding}VALUES {}{suffix}",
            self.name,
            columns.unwrap_or_default().join(", "),
            values.join(", ")
        )
    }

    fn equal_rows_wanted(&self, random: &mut StdRng) -> bool {
        self.identity == Identity::FullWithoutKey && random.random_bool(0.4)
    }

    /// The columns of the `n`th row and their values; always the same columns for a table.
    fn row(
        &self,
        random: &mut StdRng,
        tables: &[Self],
        n: i64,
        key_made_by_server: bool,
    ) -> Vec<(String, String)> {
        let mut row = Vec::new();
        for (key, literal) in self.keys.iter().zip(self.key_literals(n)) {
            let is_made = self.key_made.is_some() && key_made_by_server;
            let null = self.identity == Identity::FullWithoutKey
                && self.key_made.is_none()
                && random.random_bool(0.2);
            let literal = if null { "NULL".into() } else { literal };
            row.push((key.name.clone(), if is_made { "DEFAULT".into() } else { literal }));
        }
        if let Some((name, _)) = &self.partitioning {
            row.push((name.clone(), random.random_range(0..9).to_string()));
        }
        let simple = self.identity == Identity::FullWithoutKey;
        row.push((self.number.clone(), random.random_range(0..if simple { 3 } else { 100 }).to_string()));
        if let Some((name, how)) = &self.unique {
            let value = match random.random_range(0..10) {
                0..2 => "NULL".into(),
                2..4 => how.literal(random.random_range(0..UNIQUE_VALUES)),
                _ => how.literal(UNIQUE_VALUES + n),
            };
            row.push((name.clone(), value));
        }
        if let Some(name) = &self.long {
            let value = if random.random_bool(0.2) { "NULL".into() } else { Self::long_value(random) };
            row.push((name.clone(), value));
        }
        for column in &self.others {
            row.push((column.name.clone(), Self::other_value(random, column.values)));
        }
        if let Some(reference) = &self.reference {
            let value = match tables.get(reference.table) {
                Some(table) if random.random_bool(0.7) => {
                    reference.column.values.literal(table.likely_row(random))
                }
                _ => "NULL".into(),
            };
            row.push((reference.column.name.clone(), value));
        }
        row
    }

    fn other_value(random: &mut StdRng, values: super::tables::Values) -> String {
        if random.random_bool(0.25) { "NULL".into() } else { values.literal(random.random_range(0..6)) }
    }

    fn insert_bulk(&mut self, random: &mut StdRng) -> Change {
        let (first, rows) = (self.next + 1, random.random_range(BULK_ROWS));
        self.next += rows;
        if self.key_made.is_some() || self.keys.iter().any(|key| key.values != super::tables::Values::Int) {
            // Values of other types are not made by arithmetic: the same rows again, far away.
            let mut change = self.update_range(random);
            change.extend(self.update_range(random));
            return change;
        }
        let last = self.keys.len().saturating_sub(1);
        let mut columns = self.key_names();
        let mut values: Vec<_> = (0..columns.len())
            .map(|place| if place == last { "i".to_owned() } else { "i % 3".to_owned() })
            .collect();
        if let Some((name, _)) = &self.partitioning {
            columns.push(name.clone());
            values.push("i % 9".into());
        }
        columns.push(self.number.clone());
        values.push("i % 50".into());
        if let Some(name) = &self.long {
            columns.push(name.clone());
            values.push("repeat(md5(i::text), CASE WHEN i % 20 = 0 THEN 90 ELSE 12 END)".into());
        }
        let insert = format!(
            "INSERT INTO {} ({}) SELECT {} FROM generate_series({first}, {}) i",
            self.name,
            columns.join(", "),
            values.join(", "),
            first + rows - 1
        );
        let mut change = vec![(Kind::InsertBulk, insert)];
        if random.random_bool(0.6) {
            let key = &self.keys[last].name;
            let keep = first + random.random_range(0..20);
            self.likely.extend(first..keep);
            change.push((Kind::DeleteRange, format!("DELETE FROM {} WHERE {key} >= {keep}", self.name)));
        }
        change
    }

    fn upsert(&mut self, random: &mut StdRng, tables: &[Self]) -> Change {
        // With a key made by the server there is nothing to conflict with, and nothing is deferrable in an arbiter.
        let arbiter = self.identity != Identity::FullWithoutKey && self.key_made.is_none();
        if !arbiter || random.random_bool(0.4) {
            let deferrable =
                matches!(self.unique, Some((_, Uniqueness::Deferred | Uniqueness::DeferrableImmediate)));
            let suffix = match (deferrable, arbiter) {
                (false, _) => " ON CONFLICT DO NOTHING".to_owned(),
                (true, true) => {
                    format!(" ON CONFLICT ({}) DO NOTHING", self.identifying_columns().join(", "))
                }
                (true, false) => String::new(),
            };
            return vec![(Kind::UpsertNothing, self.insert_again(random, tables, &suffix))];
        }
        let long = self.long.as_ref().filter(|_| random.random_bool(0.3));
        let long = long.map_or(String::new(), |long| format!(", {long} = excluded.{long}"));
        let suffix = format!(
            " ON CONFLICT ({}) DO UPDATE SET {number} = excluded.{number} + 1{long}",
            self.identifying_columns().join(", "),
            number = self.number
        );
        vec![(Kind::Upsert, self.insert_again(random, tables, &suffix))]
    }

    /// An INSERT of a row that probably exists.
    fn insert_again(&self, random: &mut StdRng, tables: &[Self], suffix: &str) -> String {
        let n = self.likely_row(random);
        self.insert_of(random, tables, n, suffix)
    }

    /// An INSERT of the `n`th row.
    pub(super) fn insert_of(&self, random: &mut StdRng, tables: &[Self], n: i64, suffix: &str) -> String {
        let row = self.row(random, tables, n, false);
        let (names, literals): (Vec<_>, Vec<_>) = row.into_iter().unzip();
        let overriding = if self.key_made.is_some() { "OVERRIDING SYSTEM VALUE " } else { "" };
        format!(
            "INSERT INTO {} ({}) {overriding}VALUES ({}){suffix}",
            self.name,
            names.join(", "),
            literals.join(", ")
        )
    }

    fn update(&self, random: &mut StdRng) -> Change {
        if self.identity == Identity::FullWithoutKey && random.random_bool(0.7) {
            let number = random.random_range(0..3);
            let set = format!("{} = {}", self.number, random.random_range(0..3));
            return vec![(
                Kind::UpdateOneOfEqual,
                format!("UPDATE {} SET {set} WHERE {}", self.name, self.one_of_equal(number)),
            )];
        }
        let n = self.likely_row(random);
        let sql =
            format!("UPDATE {} SET {} WHERE {}", self.name, self.assignments(random), self.condition(n, ""));
        vec![(Kind::Update, sql)]
    }

    /// One of the rows with this number, whichever comes first.
    fn one_of_equal(&self, number: i64) -> String {
        format!(
            "(tableoid, ctid) = (SELECT tableoid, ctid FROM {} WHERE {} = {number} ORDER BY 1, 2 LIMIT 1)",
            self.name, self.number
        )
    }

    /// What an UPDATE writes; a long value is usually not among it.
    pub(super) fn assignments(&self, random: &mut StdRng) -> String {
        let mut set = Vec::new();
        for column in &self.others {
            if random.random_bool(0.5) {
                set.push(format!("{} = {}", column.name, Self::other_value(random, column.values)));
            }
        }
        if let Some(long) = self.long.as_ref().filter(|_| random.random_bool(0.2)) {
            let value = if random.random_bool(0.2) { "NULL".into() } else { Self::long_value(random) };
            set.push(format!("{long} = {value}"));
        }
        if let Some((made, _)) = self.made.as_ref().filter(|_| random.random_bool(0.3)) {
            set.push(format!("{made} = DEFAULT"));
        }
        if set.is_empty() || random.random_bool(0.5) {
            set.push(format!("{} = {}", self.number, random.random_range(0..100)));
        }
        set.join(", ")
    }

    fn update_range(&self, random: &mut StdRng) -> Change {
        let from = random.random_range(0..60);
        let sql = format!(
            "UPDATE {name} SET {number} = {number} + 1 WHERE {number} BETWEEN {from} AND {}",
            from + random.random_range(5..60),
            name = self.name,
            number = self.number,
        );
        vec![(Kind::UpdateRange, sql)]
    }

    fn update_key(&mut self, random: &mut StdRng) -> Change {
        let n = self.likely_row(random);
        let set = if self.key_made == Some(AlwaysOrDefault::Always) {
            format!("{} = DEFAULT", self.keys[0].name)
        } else {
            let to = if random.random_bool(0.2) { self.other_row(random, n) } else { self.next + 1 };
            self.next = self.next.max(to);
            self.likely.push(to);
            let pairs = self.keys.iter().zip(self.key_literals(to));
            pairs.map(|(key, literal)| format!("{} = {literal}", key.name)).collect::<Vec<_>>().join(", ")
        };
        let more =
            if random.random_bool(0.5) { format!(", {}", self.assignments(random)) } else { String::new() };
        vec![(
            Kind::UpdateKey,
            format!("UPDATE {} SET {set}{more} WHERE {}", self.name, self.condition(n, "")),
        )]
    }

    pub(super) fn hot_row(&self) -> i64 {
        self.likely.first().copied().unwrap_or(2)
    }

    /// The row that everybody changes.
    pub(super) fn update_hot(&self) -> Change {
        let hot = self.hot_row();
        let sql = format!(
            "UPDATE {name} SET {number} = coalesce({number}, 0) + 1 WHERE {}",
            self.condition(hot, ""),
            name = self.name,
            number = self.number
        );
        vec![(Kind::UpdateHot, sql)]
    }

    /// Unique values that are swapped, freed and taken again in one transaction.
    fn update_unique(&mut self, random: &mut StdRng, tables: &[Self]) -> Change {
        let Some((column, how)) = self.unique.clone() else { return self.update(random) };
        let table = self.name.clone();
        let one = self.likely_row(random);
        let other = self.other_row(random, one);
        let both =
            |alias: &str| format!("(({}) OR ({}))", self.condition(one, alias), self.condition(other, alias));
        let crossed = format!(
            "(({} AND {}) OR ({} AND {}))",
            self.condition(one, "a."),
            self.condition(other, "b."),
            self.condition(other, "a."),
            self.condition(one, "b.")
        );
        match (random.random_range(0..4), how) {
            (0..2, Uniqueness::Deferred | Uniqueness::DeferrableImmediate) => {
                vec![(
                    Kind::Swap,
                    format!(
                        "UPDATE {table} AS a SET {column} = b.{column} FROM {table} AS b WHERE {crossed}"
                    ),
                )]
            }
            (0..2, _) => {
                let away = how.moved(&column, '+');
                let back = how.moved(&format!("b.{column}"), '-');
                vec![
                    (Kind::Swap, format!("UPDATE {table} SET {column} = {away} WHERE {}", both(""))),
                    (
                        Kind::Swap,
                        format!(
                            "UPDATE {table} AS a SET {column} = {back} FROM {table} AS b WHERE {crossed}"
                        ),
                    ),
                ]
            }
            (2, _) => {
                let value = how.literal(random.random_range(0..UNIQUE_VALUES));
                self.next += 1;
                self.likely.push(self.next);
                let mut row = self.row(random, tables, self.next, false);
                row.iter_mut()
                    .filter(|(name, _)| *name == column)
                    .for_each(|(_, literal)| literal.clone_from(&value));
                let (names, literals): (Vec<_>, Vec<_>) = row.into_iter().unzip();
                let overriding = if self.key_made.is_some() { "OVERRIDING SYSTEM VALUE " } else { "" };
                vec![
                    (Kind::Delete, format!("DELETE FROM {table} WHERE {column} = {value}")),
                    (
                        Kind::Insert,
                        format!(
                            "INSERT INTO {table} ({}) {overriding}VALUES ({})",
                            names.join(", "),
                            literals.join(", ")
                        ),
                    ),
                ]
            }
            _ => {
                let value = how.literal(random.random_range(0..UNIQUE_VALUES));
                vec![
                    (
                        Kind::UpdateUnique,
                        format!("UPDATE {table} SET {column} = NULL WHERE {column} = {value}"),
                    ),
                    (
                        Kind::UpdateUnique,
                        format!("UPDATE {table} SET {column} = {value} WHERE {}", self.condition(one, "")),
                    ),
                ]
            }
        }
    }

    fn move_partition(&self, random: &mut StdRng) -> Option<Change> {
        let (column, how) = self.partitioning.as_ref()?;
        let n = self.likely_row(random);
        // Of LIST and HASH every step moves; of RANGE those across a bound.
        let step = if *how == Partitioning::Range { 3 } else { 1 };
        let more =
            if random.random_bool(0.3) { format!(", {}", self.assignments(random)) } else { String::new() };
        let sql = format!(
            "UPDATE {} SET {column} = ({column} + {step}) % 9{more} WHERE {}",
            self.name,
            self.condition(n, "")
        );
        Some(vec![(Kind::MovePartition, sql)])
    }

    fn delete(&mut self, random: &mut StdRng) -> Change {
        if self.identity == Identity::FullWithoutKey && random.random_bool(0.7) {
            let condition = self.one_of_equal(random.random_range(0..3));
            return vec![(Kind::DeleteOneOfEqual, format!("DELETE FROM {} WHERE {condition}", self.name))];
        }
        let n = self.likely_row(random);
        let delete = (Kind::Delete, format!("DELETE FROM {} WHERE {}", self.name, self.condition(n, "")));
        self.likely.retain(|likely| *likely != n);
        vec![delete]
    }

    fn delete_range(&self, random: &mut StdRng) -> Change {
        let from = random.random_range(0..100);
        let sql = format!("DELETE FROM {} WHERE {} BETWEEN {from} AND {}", self.name, self.number, from + 15);
        vec![(Kind::DeleteRange, sql)]
    }

    fn truncate(&mut self, random: &mut StdRng, tables: &[Self]) -> Change {
        let mut names = vec![self.name.clone()];
        let mut cascade = self.is_referenced || random.random_bool(0.2);
        if !tables.is_empty() && random.random_bool(0.3) {
            let second = pick(random, tables);
            if second.name != self.name {
                cascade |= second.is_referenced;
                names.push(second.name.clone());
            }
        }
        self.likely.clear();
        let restart = if random.random_bool(0.3) { " RESTART IDENTITY" } else { "" };
        let cascade = if cascade { " CASCADE" } else { "" };
        vec![(Kind::Truncate, format!("TRUNCATE {}{restart}{cascade}", names.join(", ")))]
    }
}
