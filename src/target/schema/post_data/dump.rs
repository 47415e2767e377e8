//! The text of a dump as its objects. Pure, and without loss: preamble, entries and trailer together are the text again.

use super::lexer::{Piece, Pieces};

/// The post-data section of the source as `pg_dump` writes it, cut into its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostData {
    /// What stands before the first object: the session's settings, in recent versions `\restrict`.
    pub preamble: String,
    /// The objects.
    pub entries: Vec<Entry>,
    /// What stands after the last object: in recent versions `\unrestrict`.
    pub trailer: String,
}

/// One object of the dump: what its title says, and its SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object's name; for a constraint or a trigger its table's, a blank, and its own. Line ends are blanks.
    pub name: String,
    /// `INDEX`, `CONSTRAINT`, `FK CONSTRAINT`, `TRIGGER`, …
    pub kind: String,
    /// Its schema; `-` where it has none.
    pub schema: String,
    /// The whole text in the dump, with its title and with the settings that stand before it.
    pub sql: String,
    /// Where in the dump it stands.
    pub(super) position: usize,
}

/// A way to read a title. Names may contain what separates them from the next word, so there can be several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading<'a> {
    pub(super) name: &'a str,
    pub(super) kind: &'a str,
    pub(super) schema: &'a str,
}

/// Settings that `pg_dump` writes in front of the title of the object they are for.
const SETTING: &str = "SET default_";

impl PostData {
    /// Cuts a dump into its objects.
    #[must_use]
    pub fn parse(dump: &str) -> Self {
        let mut parsed = Self { preamble: String::new(), entries: Vec::new(), trailer: String::new() };
        let part = |from: usize, to: usize| dump.get(from..to).unwrap_or_default();
        let (mut cut, mut settings) = (0, None);
        let mut is_complete = false;
        for piece in Pieces::of(dump) {
            match piece {
                Piece::Statement(range) if part(range.start, range.end).starts_with(SETTING) => {
                    settings.get_or_insert(range.start);
                }
                Piece::Statement(_) | Piece::MetaCommand(_) => settings = None,
                Piece::Title(range) => {
                    let begin = settings.take().unwrap_or(range.start);
                    parsed.append(part(cut, begin));
                    let position = parsed.entries.len();
                    parsed.entries.push(Entry::titled(part(range.start, range.end), position));
                    cut = begin;
                }
                Piece::Complete(range) => {
                    parsed.append(part(cut, range.start));
                    (cut, is_complete) = (range.start, true);
                }
            }
        }
        let last = part(cut, dump.len());
        if is_complete {
            parsed.trailer = last.to_owned();
        } else {
            parsed.append(last);
        }
        parsed
    }

    fn append(&mut self, text: &str) {
        match self.entries.last_mut() {
            Some(entry) => entry.sql.push_str(text),
            None => self.preamble.push_str(text),
        }
    }
}

impl Entry {
    /// Without SQL yet.
    fn titled(title: &str, position: usize) -> Self {
        let reading = readings(title).next();
        let part = |part: Option<&str>| part.unwrap_or_default().to_owned();
        Self {
            name: part(reading.map(|reading| reading.name)),
            kind: part(reading.map(|reading| reading.kind)),
            schema: part(reading.map(|reading| reading.schema)),
            sql: String::new(),
            position,
        }
    }

    /// The entry of which these are title and statements ([`Entry::alone`]).
    pub(super) fn again(title: &str, statements: &str, position: usize) -> Self {
        Self { sql: format!("{title}\n{statements}\n\n\n"), ..Self::titled(title, position) }
    }

    /// Its title, and its statements alone; nothing where settings stand before the title, which later objects may
    /// rely on.
    pub(super) fn alone(&self) -> Option<(&str, &str)> {
        let mut pieces = Pieces::of(&self.sql);
        let Some(Piece::Title(title)) = pieces.next() else { return None };
        // Everything of psql's own needs psql.
        if pieces.any(|piece| !matches!(piece, Piece::Statement(_))) {
            return None;
        }
        Some((self.sql.get(title.clone())?, self.sql.get(title.end..)?.trim()))
    }
}

/// The statements of a text, without what only psql understands.
pub(super) fn statements(text: &str) -> String {
    let mut statements = String::new();
    for piece in Pieces::of(text) {
        if let Piece::Statement(range) = piece {
            statements.push_str(text.get(range).unwrap_or_default());
            statements.push('\n');
        }
    }
    statements
}

/// `-- Name: orders_pkey; Type: INDEX; Schema: public; Owner: app`, in every way in which it can be read.
pub(super) fn readings(title: &str) -> impl Iterator<Item = Reading<'_>> {
    let line = title.split_once("Name: ").map_or("", |(_, after)| after);
    splits(line, "; Type: ").flat_map(|(name, after)| {
        splits(after, "; Schema: ")
            .filter(|(kind, _)| kind.chars().all(|letter| letter.is_ascii_uppercase() || letter == ' '))
            .flat_map(move |(kind, after)| {
                splits(after, "; Owner: ").map(move |(schema, _)| Reading { name, kind, schema })
            })
    })
}

fn splits<'a>(text: &'a str, separator: &'static str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.match_indices(separator)
        .filter_map(move |(at, _)| Some((text.get(..at)?, text.get(at + separator.len()..)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREAMBLE: &str =
        "--\n-- PostgreSQL database dump\n--\n\n\\restrict aB1\n\nSET client_encoding = 'UTF8';\n\n";
    const TRAILER: &str = "--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict aB1\n\n";

    fn title(name: &str, kind: &str) -> String {
        format!("--\n-- Name: {name}; Type: {kind}; Schema: public; Owner: -\n--\n\n")
    }

    fn whole(parsed: &PostData) -> String {
        let entries: String = parsed.entries.iter().map(|entry| entry.sql.as_str()).collect();
        format!("{}{entries}{}", parsed.preamble, parsed.trailer)
    }

    #[test]
    fn a_dump_is_cut_at_its_titles_and_nowhere_else() {
        let literal =
            format!("CREATE INDEX i ON t (a) WHERE a <> '\n{}';\n\n\n", title("not an object", "TABLE"));
        let dump = format!(
            "{PREAMBLE}{}{literal}{}CREATE TRIGGER x;\n\n\n{TRAILER}",
            title("i", "INDEX"),
            title("t x", "TRIGGER"),
        );
        let parsed = PostData::parse(&dump);
        let names: Vec<_> =
            parsed.entries.iter().map(|entry| (entry.name.as_str(), entry.kind.as_str())).collect();
        assert_eq!(names, [("i", "INDEX"), ("t x", "TRIGGER")]);
        assert_eq!((parsed.preamble.as_str(), parsed.trailer.as_str()), (PREAMBLE, TRAILER));
        assert_eq!(statements(&parsed.preamble), "SET client_encoding = 'UTF8';\n");
        assert_eq!(whole(&parsed), dump);
    }

    #[test]
    fn settings_belong_to_the_object_they_stand_before_which_is_then_none_to_be_built_alone() {
        let setting = "SET default_table_access_method = heap;\n\n";
        let dump = format!(
            "{PREAMBLE}{}CREATE INDEX i;\n\n{setting}{}CREATE MATERIALIZED VIEW m;\n\n{TRAILER}",
            title("i", "INDEX"),
            title("m", "MATERIALIZED VIEW"),
        );
        let parsed = PostData::parse(&dump);
        assert_eq!(parsed.entries[0].alone().map(|(_, sql)| sql), Some("CREATE INDEX i;"));
        assert!(parsed.entries[1].sql.starts_with(setting), "{}", parsed.entries[1].sql);
        assert_eq!(parsed.entries[1].alone(), None);
        assert_eq!(whole(&parsed), dump);
    }

    #[test]
    fn a_title_whose_names_contain_its_own_words_is_read_in_every_way() {
        let line = "-- Name: a; Type: INDEX; Schema: b; Owner: c; Type: INDEX; Schema: s; Owner: -";
        let read: Vec<_> = readings(line).map(|reading| (reading.name, reading.schema)).collect();
        assert!(read.contains(&("a; Type: INDEX; Schema: b; Owner: c", "s")), "{read:?}");
        assert!(read.contains(&("a", "b")), "{read:?}");
        let usual: Vec<_> = readings("-- Name: a; Type: FK CONSTRAINT; Schema: s; Owner: -").collect();
        assert_eq!(usual, [Reading { name: "a", kind: "FK CONSTRAINT", schema: "s" }]);
    }

    /// Statements as a dump could contain them, each with what could be mistaken.
    fn statement() -> impl Strategy<Value = String> {
        let inside = prop_oneof![
            Just(title("x", "INDEX")),
            Just("\n\\restrict x\n".to_owned()),
            Just("SET default_x = 1;\n".to_owned()),
            "[a-z;:$ü\\\\/*\n-]{0,12}",
        ];
        (inside, 0_usize..6).prop_map(|(inside, quoting)| match quoting {
            0 => format!("SELECT '{inside}';\n"),
            1 => format!("SELECT \"{inside}\";\n"),
            2 => format!("SELECT $q${}$q$;\n", inside.replace('$', "")),
            3 => format!("SELECT E'{}';\n", inside.replace('\\', "\\\\")),
            4 => format!("SELECT /*{}*/ 1;\n", inside.replace(['*', '/'], "")),
            _ => "SET default_table_access_method = heap;\n\n".to_owned(),
        })
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_titles_inside_literals_are_not_cut_at(
            objects in proptest::collection::vec(
                ("[a-z ;:\"']{1,10}", proptest::collection::vec(statement(), 0..4)),
                0..8,
            ),
        ) {
            let objects_text: String =
                objects.iter().map(|(name, sql)| format!("{}{}\n\n", title(name, "INDEX"), sql.concat())).collect();
            let dump = format!("{PREAMBLE}{objects_text}{TRAILER}");
            let parsed = PostData::parse(&dump);
            prop_assert_eq!(whole(&parsed), dump);
            prop_assert_eq!(parsed.entries.len(), objects.len());
        }

        #[test]
        fn any_text_is_cut_without_loss(text in "(?s)[-\\\\'\"$/*;a-zE \n]{0,60}|.{0,60}") {
            prop_assert_eq!(whole(&PostData::parse(&text)), text);
        }
    }
}
