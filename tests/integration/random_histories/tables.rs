//! Random tables: how they are made, and what a generator of statements has to know about them. Pure.
//!
//! A row is named by a small number `n`, from which its key is made; the rest of it is random. Statements are about
//! rows that are likely to exist, not about rows that do.

use rand::RngExt;
use rand::rngs::StdRng;

/// Rows are wider than a page by this, so that they are kept out of line; at least 2,048 bytes.
const LONG_REPEATS: std::ops::Range<u32> = 80..200;

pub(super) fn pick<'a, T>(random: &mut StdRng, of: &'a [T]) -> &'a T {
    &of[random.random_range(0..of.len())]
}

/// A type and what its values are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    Int,
    Bigint,
    Text,
    Numeric,
    Uuid,
    Timestamp,
    Float,
    Json,
    Jsonb,
    Bool,
    Ints,
    Bytes,
    Mood,
}

impl Values {
    const KEYS: [Self; 7] =
        [Self::Int, Self::Bigint, Self::Text, Self::Numeric, Self::Uuid, Self::Timestamp, Self::Bytes];
    /// Their binary form means the same everywhere.
    const PORTABLE: [Self; 6] =
        [Self::Int, Self::Text, Self::Numeric, Self::Float, Self::Bool, Self::Timestamp];
    const ALL: [Self; 13] = [
        Self::Int,
        Self::Bigint,
        Self::Text,
        Self::Numeric,
        Self::Uuid,
        Self::Timestamp,
        Self::Float,
        Self::Json,
        Self::Jsonb,
        Self::Bool,
        Self::Ints,
        Self::Bytes,
        Self::Mood,
    ];

    pub(super) const fn sql(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Bigint => "bigint",
            Self::Text => "text",
            Self::Numeric => "numeric",
            Self::Uuid => "uuid",
            Self::Timestamp => "timestamptz",
            Self::Float => "float8",
            Self::Json => "json",
            Self::Jsonb => "jsonb",
            Self::Bool => "boolean",
            Self::Ints => "int[]",
            Self::Bytes => "bytea",
            Self::Mood => "one.mood",
        }
    }

    /// The `n`th value: another one for every `n`, where the type has that many.
    pub(super) fn literal(self, n: i64) -> String {
        match self {
            Self::Int | Self::Bigint => n.to_string(),
            Self::Text => format!("'ключ ''{n}'' \\t'"),
            Self::Numeric => format!("{n}.{}", if n % 2 == 0 { "50" } else { "5" }),
            Self::Uuid => format!("'00000000-0000-4000-8000-{n:012}'"),
            Self::Timestamp => {
                format!("('2024-02-28 23:00:00+00'::timestamptz + {n} * interval '1 hour 1 us')")
            }
            Self::Float => match n % 7 {
                0 => "'NaN'".into(),
                1 => "'-0'".into(),
                2 => "'-Infinity'".into(),
                _ => format!("{n}::float8 / 3"),
            },
            Self::Json => format!("'{{\"a\" : {n},\"a\":[null, \"\\u00e9\"]}}'"),
            Self::Jsonb => format!("'{{\"a\": [1.10, {n}], \"b\": null}}'"),
            Self::Bool => (n % 2 == 0).to_string(),
            Self::Ints => format!("'{{{n},NULL,-1}}'"),
            Self::Bytes => format!("'\\x00ff27{n:08x}'"),
            Self::Mood => ["'sad'", "'ok'", "'happy, \"very\"'"][n.rem_euclid(3) as usize].into(),
        }
    }
}

/// What is unique beside the key, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uniqueness {
    Plain,
    Partial,
    Expression,
    Exclusion,
    Deferred,
    DeferrableImmediate,
}

impl Uniqueness {
    const ALL: [Self; 6] = [
        Self::Plain,
        Self::Partial,
        Self::Expression,
        Self::Exclusion,
        Self::Deferred,
        Self::DeferrableImmediate,
    ];

    const fn column_type(self) -> &'static str {
        match self {
            Self::Exclusion => "int4range",
            _ => "int",
        }
    }

    pub(super) fn literal(self, value: i64) -> String {
        match self {
            Self::Exclusion => format!("int4range({}, {})", value * 10, value * 10 + 10),
            _ => value.to_string(),
        }
    }

    /// `expression` moved far away from every value in use, or back.
    pub(super) fn moved(self, expression: &str, sign: char) -> String {
        match self {
            Self::Exclusion => {
                format!("int4range(lower({expression}) {sign} 1000000, upper({expression}) {sign} 1000000)")
            }
            _ => format!("{expression} {sign} 1000000"),
        }
    }
}

/// How the source names the rows it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    Default,
    Index,
    FullWithKey,
    /// No key at all: equal rows are usual.
    FullWithoutKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partitioning {
    Range,
    List,
    Hash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AlwaysOrDefault {
    Always,
    ByDefault,
}

impl AlwaysOrDefault {
    const fn sql(self) -> &'static str {
        match self {
            Self::Always => "GENERATED ALWAYS AS IDENTITY (START WITH 100000)",
            Self::ByDefault => "GENERATED BY DEFAULT AS IDENTITY (START WITH 100000)",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Quoted.
    pub(super) name: String,
    pub(super) values: Values,
}

/// A reference to another table's one-column key.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) column: Column,
    pub(super) table: usize,
}

/// A table as a generator of statements sees it.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Quoted and qualified.
    pub(super) name: String,
    pub(super) identity: Identity,
    /// Also without a key in the schema: then these are ordinary columns.
    pub(super) keys: Vec<Column>,
    /// The first key column, when the server makes its values.
    pub(super) key_made: Option<AlwaysOrDefault>,
    /// A counter.
    pub(super) number: String,
    pub(super) unique: Option<(String, Uniqueness)>,
    pub(super) long: Option<String>,
    pub(super) others: Vec<Column>,
    /// A column beside the key whose values the server makes.
    pub(super) made: Option<(String, AlwaysOrDefault)>,
    pub(super) partitioning: Option<(String, Partitioning)>,
    pub(super) reference: Option<Reference>,
    /// Others refer to it: only CASCADE truncates it.
    pub(super) is_referenced: bool,
    /// Rows that are likely to exist.
    pub(super) likely: Vec<i64>,
    pub(super) next: i64,
}

/// What is to be made of tables for one history.
pub(super) struct Palette {
    pub(super) portable: bool,
}

/// A name by its plain letters: sometimes one that has to be quoted.
fn name(random: &mut StdRng, plain: &str) -> String {
    let quoted = match random.random_range(0..24) {
        0 => format!("{plain} \"\"x\"\""),
        1 => format!("{plain}\nline"),
        2 => format!("Ünï€ {plain}"),
        3 => format!("{plain}.a'b"),
        4 => format!("${plain}\\n"),
        5 => format!("{plain:_<63}"),
        _ => return plain.to_owned(),
    };
    format!("\"{quoted}\"")
}

impl Table {
    /// The `index`th table of a history, and the statements that make it.
    pub(super) fn random(
        random: &mut StdRng,
        index: usize,
        before: &mut [Self],
        palette: &Palette,
    ) -> (Self, Vec<String>) {
        let partitioned = random.random_bool(0.25);
        let identity = match random.random_range(0..10) {
            0..5 => Identity::Default,
            5..7 => Identity::Index,
            7 => Identity::FullWithKey,
            _ => Identity::FullWithoutKey,
        };
        let types: &[Values] = if palette.portable { &Values::PORTABLE } else { &Values::ALL };
        let keys = (0..random.random_range(1..=3)).map(|place| Column {
            name: name(random, &format!("k{place}")),
            values: *pick(
                random,
                if palette.portable { &[Values::Int, Values::Text] } else { &Values::KEYS },
            ),
        });
        let mut keys: Vec<Column> = keys.collect();
        let key_made = (!partitioned && random.random_bool(0.2)).then(|| {
            keys.truncate(1);
            keys[0].values = Values::Bigint;
            *pick(random, &[AlwaysOrDefault::Always, AlwaysOrDefault::ByDefault])
        });
        let table_name = name(random, &format!("t{index}"));
        let mut table = Self {
            name: format!("{}.{table_name}", pick(random, &["one", "\"Two.\""])),
            identity,
            keys,
            key_made,
            number: name(random, "n"),
            unique: (!partitioned && random.random_bool(0.6))
                .then(|| (name(random, "u"), *pick(random, &Uniqueness::ALL))),
            long: random.random_bool(0.5).then(|| name(random, "long")),
            others: Vec::new(),
            made: (!partitioned && random.random_bool(0.15)).then(|| {
                let how = *pick(random, &[AlwaysOrDefault::Always, AlwaysOrDefault::ByDefault]);
                (name(random, "made"), how)
            }),
            partitioning: partitioned.then(|| {
                let how = *pick(random, &[Partitioning::Range, Partitioning::List, Partitioning::Hash]);
                (name(random, "part"), how)
            }),
            reference: None,
            is_referenced: false,
            likely: Vec::new(),
            next: 1,
        };
        for place in 0..random.random_range(0..=3) {
            let column = Column { name: name(random, &format!("c{place}")), values: *pick(random, types) };
            table.others.push(column);
        }
        table.reference = Self::reference(random, before);
        let definition = table.definition(random, before);
        (table, definition)
    }

    fn reference(random: &mut StdRng, before: &mut [Self]) -> Option<Reference> {
        if !random.random_bool(0.5) {
            return None;
        }
        let (table, referred) = before.iter_mut().enumerate().find(|(_, table)| {
            table.keys.len() == 1
                && table.partitioning.is_none()
                && matches!(table.identity, Identity::Default | Identity::FullWithKey)
        })?;
        referred.is_referenced = true;
        let column = Column { name: name(random, "ref"), values: referred.keys[0].values };
        Some(Reference { column, table })
    }

    /// The names of the columns that find a row.
    pub(super) fn key_names(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.name.clone()).collect()
    }

    fn definition(&self, random: &mut StdRng, before: &[Self]) -> Vec<String> {
        let mut columns = Vec::new();
        for (place, key) in self.keys.iter().enumerate() {
            let made = if place == 0 { self.key_made.map_or("", AlwaysOrDefault::sql) } else { "" };
            let null = if self.identity == Identity::FullWithoutKey { "" } else { "NOT NULL" };
            columns.push(format!("{} {} {null} {made}", key.name, key.values.sql()));
        }
        if let Some((name, _)) = &self.partitioning {
            columns.push(format!("{name} int NOT NULL"));
        }
        columns.push(format!("{} int", self.number));
        if let Some((name, how)) = &self.unique {
            columns.push(format!("{name} {}", how.column_type()));
        }
        if let Some(name) = &self.long {
            columns.push(format!("{name} text"));
        }
        columns.extend(self.others.iter().map(|column| format!("{} {}", column.name, column.values.sql())));
        if let Some((name, how)) = &self.made {
            columns.push(format!("{name} bigint {}", how.sql()));
        }
        if random.random_bool(0.25) {
            columns.push(format!("generated int GENERATED ALWAYS AS ({} * 2) STORED", self.number));
        }
        if let Some(Reference { column, table }) = &self.reference {
            let action = pick(
                random,
                &[
                    "ON DELETE CASCADE ON UPDATE CASCADE",
                    "ON DELETE SET NULL ON UPDATE CASCADE",
                    "ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
                ],
            );
            columns.push(format!(
                "{} {} REFERENCES {} ({}) {action}",
                column.name,
                column.values.sql(),
                before[*table].name,
                before[*table].keys[0].name
            ));
        }
        if matches!(self.identity, Identity::Default | Identity::FullWithKey) {
            columns.push(format!("PRIMARY KEY ({})", self.identifying_columns().join(", ")));
        }
        let mut statements = vec![format!("CREATE TABLE {} ({})", self.name, columns.join(", "))];
        if let Some((column, how)) = &self.partitioning {
            statements[0].push_str(&partition_by(column, *how));
            statements.extend(self.partitions(random, column, *how));
        }
        statements.extend(self.unique_constraint());
        if let Some(name) = &self.long {
            statements.push(format!("ALTER TABLE {} ALTER {name} SET STORAGE EXTERNAL", self.name));
        }
        statements.extend(self.replica_identity());
        statements
    }

    /// The columns of a key: with the one that partitions, without which it could not be unique.
    pub(super) fn identifying_columns(&self) -> Vec<String> {
        let partition = self.partitioning.iter().map(|(name, _)| name.clone());
        self.key_names().into_iter().chain(partition).collect()
    }

    fn unique_constraint(&self) -> Option<String> {
        let (column, how) = self.unique.as_ref()?;
        let (table, number) = (&self.name, &self.number);
        Some(match how {
            Uniqueness::Plain => format!("ALTER TABLE {table} ADD UNIQUE ({column})"),
            Uniqueness::Partial => {
                format!("CREATE UNIQUE INDEX ON {table} ({column}) WHERE {number} % 3 <> 0")
            }
            Uniqueness::Expression => format!("CREATE UNIQUE INDEX ON {table} (({column} * 2))"),
            Uniqueness::Exclusion => {
                format!("ALTER TABLE {table} ADD EXCLUDE USING gist ({column} WITH &&)")
            }
            Uniqueness::Deferred => {
                format!("ALTER TABLE {table} ADD UNIQUE ({column}) DEFERRABLE INITIALLY DEFERRED")
            }
            Uniqueness::DeferrableImmediate => {
                format!("ALTER TABLE {table} ADD UNIQUE ({column}) DEFERRABLE INITIALLY IMMEDIATE")
            }
        })
    }

    fn partitions(&self, random: &mut StdRng, column: &str, how: Partitioning) -> Vec<String> {
        let bounds: [&str; 3] = match how {
            Partitioning::Range => {
                ["FOR VALUES FROM (MINVALUE) TO (3)", "FOR VALUES FROM (3) TO (6)", "DEFAULT"]
            }
            Partitioning::List => ["FOR VALUES IN (0, 3, 6)", "FOR VALUES IN (1, 4)", "DEFAULT"],
            Partitioning::Hash => [
                "FOR VALUES WITH (MODULUS 3, REMAINDER 0)",
                "FOR VALUES WITH (MODULUS 3, REMAINDER 1)",
                "FOR VALUES WITH (MODULUS 3, REMAINDER 2)",
            ],
        };
        let root = &self.name;
        let partition = |suffix: &str| self.beside(&format!(" part {suffix}"));
        let mut statements = Vec::new();
        for (place, bound) in bounds.iter().enumerate() {
            let name = partition(&place.to_string());
            if place == 0 && random.random_bool(0.4) {
                statements.push(format!(
                    "CREATE TABLE {name} PARTITION OF {root} {bound} PARTITION BY HASH ({column})"
                ));
                for remainder in 0..2 {
                    let below = partition(&format!("{place} {remainder}"));
                    statements.push(format!(
                        "CREATE TABLE {below} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {remainder})"
                    ));
                }
            } else {
                statements.push(format!("CREATE TABLE {name} PARTITION OF {root} {bound}"));
            }
        }
        statements
    }

    /// The name of another table in the same schema.
    pub(super) fn beside(&self, suffix: &str) -> String {
        let (schema, name) =
            if self.name.starts_with("one.") { self.name.split_at(4) } else { self.name.split_at(7) };
        // At most 63 bytes, and never the same ones.
        let plain: String = name.trim_matches('"').replace("\"\"", "~").chars().take(3).collect();
        let number: String = name.chars().filter(char::is_ascii_digit).collect();
        format!("{schema}\"{plain}{number}{suffix}\"")
    }

    /// On partitions too: an index or FULL of the root says nothing about them.
    fn replica_identity(&self) -> Vec<String> {
        let key = self.identifying_columns().join(", ");
        let on_all = |what: &str| {
            format!(
                "DO $$ DECLARE each regclass; index text; BEGIN
                   FOR each IN SELECT relid FROM pg_partition_tree('{}') UNION SELECT '{}'::regclass LOOP {what} END LOOP; END $$",
                self.name.replace('\'', "''"),
                self.name.replace('\'', "''"),
            )
        };
        match self.identity {
            Identity::Default => Vec::new(),
            Identity::FullWithKey | Identity::FullWithoutKey => {
                vec![on_all("EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', each);")]
            }
            Identity::Index => vec![
                format!("CREATE UNIQUE INDEX ON {} ({key})", self.name),
                on_all(
                    "SELECT relname INTO STRICT index FROM pg_index JOIN pg_class ON oid = indexrelid
                       WHERE indrelid = each AND indisunique AND indimmediate AND indpred IS NULL AND indexprs IS NULL
                       AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = indrelid AND a.attnum = ANY (indkey) AND NOT a.attnotnull)
                       LIMIT 1;
                     EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', each, index);",
                ),
            ],
        }
    }

    /// A table that inherits from this one, and the statements that make it.
    pub(super) fn child(&self) -> (Self, Vec<String>) {
        let mut child = Self {
            name: self.beside(" child"),
            unique: self.unique.clone().filter(|(_, how)| *how == Uniqueness::Plain),
            reference: None,
            is_referenced: false,
            likely: Vec::new(),
            ..self.clone()
        };
        let key = if matches!(child.identity, Identity::Default | Identity::FullWithKey) {
            format!("PRIMARY KEY ({})", child.identifying_columns().join(", "))
        } else {
            String::new()
        };
        let mut statements = vec![format!("CREATE TABLE {} ({key}) INHERITS ({})", child.name, self.name)];
        statements.extend(child.unique_constraint());
        statements.extend(child.replica_identity());
        child.next = 500;
        (child, statements)
    }

    /// Whether another table may inherit from it: columns whose values the server makes are not inherited as such.
    pub(super) fn can_have_children(&self) -> bool {
        self.partitioning.is_none()
            && self.key_made.is_none()
            && self.made.is_none()
            && !self.is_referenced
            && self.reference.is_none()
    }

    /// `k0 = …` of the `n`th row.
    pub(super) fn condition(&self, n: i64, alias: &str) -> String {
        let terms: Vec<_> = self
            .keys
            .iter()
            .zip(self.key_literals(n))
            .map(|(key, literal)| format!("{alias}{} = {literal}", key.name))
            .collect();
        terms.join(" AND ")
    }

    /// The key of the `n`th row: its last column tells the rows apart.
    pub(super) fn key_literals(&self, n: i64) -> Vec<String> {
        let last = self.keys.len().saturating_sub(1);
        let place = |place: usize| if place == last { n } else { n % 3 };
        self.keys.iter().enumerate().map(|(each, key)| key.values.literal(place(each))).collect()
    }

    /// A value out of line that is long but does not compress.
    pub(super) fn long_value(random: &mut StdRng) -> String {
        let (letter, repeats) = (random.random_range(0..100), random.random_range(LONG_REPEATS));
        format!("repeat(md5('{letter}'), {repeats})")
    }
}

fn partition_by(column: &str, how: Partitioning) -> String {
    let how = match how {
        Partitioning::Range => "RANGE",
        Partitioning::List => "LIST",
        Partitioning::Hash => "HASH",
    };
    format!(" PARTITION BY {how} ({column})")
}
