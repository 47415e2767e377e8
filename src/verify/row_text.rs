//! What a row is compared by: SQL that prints the columns that are compared into one text, equal exactly if every column prints the same
//! under the pinned settings, and its hash. Values are separated by a character that only free text can contain; where several columns
//! have free text, the lengths of all but the last go before. Columns that are NULL are left out, and which they are is said first.
//! Pure: text to text.

use pgsluice_proto::command::quote_ident;

/// Between two values. JSON and XML do not allow it, and no type but text prints it.
const SEPARATOR: &str = r"E'\x01'";
/// A function takes 100 arguments (`FUNC_MAX_ARGS`); longer lists are nested.
const ARGUMENTS_MAX: usize = 90;
/// Types whose values never print the separator, nor anything a person could have typed into them as it is.
const PLAIN_TYPES: &[&str] = &[
    "_char",
    "bit",
    "bool",
    "box",
    "bytea",
    "char",
    "cidr",
    "circle",
    "date",
    "float4",
    "float8",
    "inet",
    "int2",
    "int2vector",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "numeric",
    "oid",
    "oidvector",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "tid",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "uuid",
    "varbit",
    "xid",
    "xid8",
    "xml",
];
/// The same of ranges over them.
const PLAIN_RANGES: &[&str] = &[
    "datemultirange",
    "daterange",
    "int4multirange",
    "int4range",
    "int8multirange",
    "int8range",
    "nummultirange",
    "numrange",
    "tsmultirange",
    "tsrange",
    "tstzmultirange",
    "tstzrange",
];
/// Of these, and domains over them, `octet_length` takes a value as it is.
const TEXT_TYPES: &[&str] = &["text", "varchar", "bpchar"];

/// A column that both sides have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedColumn {
    /// Its name, the same on both sides.
    pub name: String,
    /// The type it is stored as: `typname` if built in, else `schema.typname`; of a domain the type below.
    pub base_type: String,
    /// Whether either side lets it be NULL.
    pub is_nullable: bool,
    /// Whether it is of an enum none of whose labels has the separator in it, on either side.
    pub has_plain_labels: bool,
}

/// How texts are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// By the function behind hash partitioning (`hashtextextended`), which gives the same on every version and every machine of the
    /// same byte order, or partitions could not be dumped and restored.
    Native,
    /// By MD5, between machines of different byte order.
    Md5,
}

/// How rows are printed and hashed, the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowForm {
    /// How texts are hashed.
    pub hashing: Hashing,
    /// Whether both databases have the same encoding; otherwise texts are hashed in UTF-8.
    pub is_same_encoding: bool,
}

impl ComparedColumn {
    fn is_plain(&self) -> bool {
        let name = self.base_type.as_str();
        let is_plain = |name: &str| PLAIN_TYPES.contains(&name);
        is_plain(name)
            || PLAIN_RANGES.contains(&name)
            || self.has_plain_labels
            || name.strip_prefix('_').is_some_and(is_plain)
    }

    fn is_text(&self) -> bool {
        TEXT_TYPES.contains(&self.base_type.as_str())
    }

    /// Whether values of it can be compared with a literal, whatever the search path.
    #[must_use]
    pub fn has_equality(&self) -> bool {
        let has_none = [
            "_char", "box", "char", "circle", "json", "line", "lseg", "path", "point", "polygon", "xml",
            "xid",
        ];
        (PLAIN_TYPES.contains(&self.base_type.as_str()) || self.is_text())
            && !has_none.contains(&self.base_type.as_str())
    }

    /// Whether values of it are equal exactly if they print alike.
    #[must_use]
    pub fn is_equal_only_if_printed_alike(&self) -> bool {
        const EXACT_TYPES: &[&str] = &[
            "bool",
            "bytea",
            "date",
            "int2",
            "int4",
            "int8",
            "oid",
            "text",
            "timestamp",
            "timestamptz",
            "uuid",
            "varchar",
        ];
        EXACT_TYPES.contains(&self.base_type.as_str())
    }

    fn quoted(&self) -> String {
        quote_ident(&self.name)
    }

    /// Its value, printed alike by every version: up to 14, `"char"` is printed as the byte that it is.
    #[must_use]
    pub fn value(&self) -> String {
        let cast = match self.base_type.as_str() {
            "char" => "::int4",
            "_char" => "::int4[]",
            _ => "",
        };
        format!("{}{cast}", self.quoted())
    }
}

impl RowForm {
    /// The columns of a row as one text.
    #[must_use]
    pub fn text(self, columns: &[&ComparedColumn]) -> String {
        let free = || columns.iter().filter(|column| !column.is_plain());
        // The one that is printed last needs no length: the one whose length would cost most.
        let last = free().find(|column| !column.is_text()).or_else(|| free().next_back());
        let is_last = |column: &&ComparedColumn| last.is_some_and(|last| last.name == column.name);
        let lengths = free().filter(|column| !is_last(column)).map(|column| self.length(column));
        let others = columns.iter().filter(|column| !is_last(column));
        let values = others.chain(last).map(|column| column.value());
        let text = joined(nulls(columns).into_iter().chain(lengths).chain(values).collect());
        if self.is_same_encoding {
            // Hashing has to know a collation, and this one compares bytes.
            format!("{text} COLLATE \"C\"")
        } else {
            format!("encode(convert_to({text}, 'UTF8'), 'hex') COLLATE \"C\"")
        }
    }

    /// The length of a free text. Of a value out of line it is known without reading it.
    fn length(self, column: &ComparedColumn) -> String {
        let function = if self.is_same_encoding { "octet_length" } else { "char_length" };
        if column.is_text() {
            return format!("{function}({})", column.quoted());
        }
        // A cast to text may be somebody's own, and be on one side alone.
        format!("{function}(concat({}))", column.quoted())
    }

    /// 64 bits of the hash of a text, another 64 for each `seed`.
    #[must_use]
    pub fn hash(self, text: &str, seed: u8) -> String {
        match self.hashing {
            Hashing::Native => format!("hashtextextended({text}, {seed})"),
            Hashing::Md5 => format!("('x' || left(md5({text} || '{seed}'), 16))::bit(64)::bigint"),
        }
    }

    /// 64 bits of the hash of one column; NULL if that is NULL.
    #[must_use]
    pub fn column_hash(self, column: &ComparedColumn) -> String {
        let text = self.text(&[column]);
        format!("CASE WHEN {} IS DISTINCT FROM NULL THEN {} END", column.quoted(), self.hash(&text, 1))
    }
}

/// Which columns are NULL, if any is: a row without NULL does not pay for it, and has an empty text in its place.
fn nulls(columns: &[&ComparedColumn]) -> Option<String> {
    let tests: Vec<String> = columns
        .iter()
        .filter(|column| column.is_nullable)
        // Of a composite, `IS NULL` asks its fields.
        .map(|column| format!("{} IS NOT DISTINCT FROM NULL", column.quoted()))
        .collect();
    if tests.is_empty() {
        return None;
    }
    let any = tests.join(" OR ");
    let flags: Vec<String> = tests.iter().map(|test| format!("({test})::int")).collect();
    Some(format!("CASE WHEN {any} THEN {} ELSE '' END", joined(flags)))
}

/// The arguments with separators between them.
fn joined(arguments: Vec<String>) -> String {
    if arguments.is_empty() {
        return "''".to_owned();
    }
    if arguments.len() <= ARGUMENTS_MAX {
        return format!("concat_ws({SEPARATOR}, {})", arguments.join(", "));
    }
    joined(arguments.chunks(ARGUMENTS_MAX).map(|chunk| joined(chunk.to_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: RowForm = RowForm { hashing: Hashing::Native, is_same_encoding: true };

    fn column(name: &str, base_type: &str, is_nullable: bool) -> ComparedColumn {
        ComparedColumn {
            name: name.into(),
            base_type: base_type.into(),
            is_nullable,
            has_plain_labels: false,
        }
    }

    #[test]
    fn values_are_separated_and_what_is_null_is_said() {
        let (id, note) = (column("id", "int8", false), column("no\"te", "text", true));
        assert_eq!(FORM.text(&[&id]), r#"concat_ws(E'\x01', "id") COLLATE "C""#);
        assert_eq!(
            FORM.text(&[&id, &note]),
            r#"concat_ws(E'\x01', CASE WHEN "no""te" IS NOT DISTINCT FROM NULL THEN concat_ws(E'\x01', ("no""te" IS NOT DISTINCT FROM NULL)::int) ELSE '' END, "id", "no""te") COLLATE "C""#
        );
    }

    #[test]
    fn lengths_of_free_texts_go_before_all_but_the_last() {
        let (a, b, c) =
            (column("a", "text", false), column("b", "public.mood", false), column("c", "varchar", false));
        assert_eq!(
            FORM.text(&[&a, &b, &c]),
            r#"concat_ws(E'\x01', octet_length("a"), octet_length("c"), "a", "c", "b") COLLATE "C""#
        );
        let other = RowForm { is_same_encoding: false, ..FORM };
        assert!(other.text(&[&a, &c]).contains(r#"char_length("a")"#));
    }

    #[test]
    fn a_length_that_would_have_to_be_printed_is_left_to_the_last() {
        let (a, b, c) =
            (column("a", "public.mood", false), column("b", "_text", false), column("c", "_int4", false));
        let labels = ComparedColumn { has_plain_labels: true, ..a.clone() };
        assert_eq!(
            FORM.text(&[&a, &b, &c]),
            r#"concat_ws(E'\x01', octet_length(concat("b")), "b", "c", "a") COLLATE "C""#
        );
        assert_eq!(FORM.text(&[&labels, &b, &c]), r#"concat_ws(E'\x01', "a", "c", "b") COLLATE "C""#);
    }

    #[test]
    fn what_can_contain_anything_somebody_types_needs_a_length() {
        let free = [
            "text",
            "varchar",
            "bpchar",
            "name",
            "_text",
            "_name",
            "tsvector",
            "jsonpath",
            "refcursor",
            "public.mood",
            "public._int4",
        ];
        for name in free {
            assert!(!column("a", name, false).is_plain(), "{name}");
        }
        for name in ["int8", "_int8", "jsonb", "tstzrange"] {
            assert!(column("a", name, false).is_plain(), "{name}");
        }
    }

    #[test]
    fn a_row_without_columns_and_one_with_1600_have_a_text() {
        assert_eq!(FORM.text(&[]), "'' COLLATE \"C\"");
        let columns: Vec<_> = (0..1600).map(|number| column(&format!("c{number}"), "int4", true)).collect();
        let text = FORM.text(&columns.iter().collect::<Vec<_>>());
        let deepest = text.split("concat_ws(").map(|part| part.matches(", ").count()).max();
        assert!(deepest <= Some(ARGUMENTS_MAX * 2), "{deepest:?}");
    }
}
