//! Walks through the plain text of a dump: statements, the titles between them, psql's own commands. Pure. It knows every
//! way in which PostgreSQL quotes, so that nothing inside a literal, a quoted name or a comment is taken for a title;
//! of the statements it understands nothing but where they end.

use std::ops::Range;

/// What a title begins with, after its first line of two dashes.
const TITLES: [&str; 3] = ["-- Name: ", "-- Data for Name: ", "-- Statistics for Name: "];
/// What comes after the last object.
const COMPLETE: &str = "-- PostgreSQL database dump complete\n";
/// The first and the last line of a title.
const RULE: &str = "--\n";

/// A part of a dump. Blanks and other comments stand between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Three lines that name the object whose statements follow.
    Title(Range<usize>),
    /// Three lines that say that there is no further object.
    Complete(Range<usize>),
    /// `\restrict …`, up to the end of its line.
    MetaCommand(Range<usize>),
    /// Up to and with its semicolon. A semicolon inside a body (BEGIN ATOMIC) ends a statement too: who puts the pieces
    /// together again does not notice.
    Statement(Range<usize>),
}

/// The parts of a dump, in their order.
pub(super) struct Pieces<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Pieces<'a> {
    pub(super) const fn of(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn is_at_line_start(&self) -> bool {
        self.text.get(..self.at).is_some_and(|before| before.is_empty() || before.ends_with('\n'))
    }

    fn take(&mut self, length: usize) -> Range<usize> {
        let start = self.at;
        self.at = (start + length).min(self.text.len());
        start..self.at
    }

    fn statement_length(&self) -> usize {
        let rest = self.rest();
        let mut length = 0;
        while let Some(left) = rest.get(length..).filter(|left| !left.is_empty()) {
            length += token_length(left);
            if left.starts_with(';') {
                break;
            }
        }
        length
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            let rest = self.rest();
            let first = rest.chars().next()?;
            if first.is_whitespace() {
                self.take(first.len_utf8());
            } else if let Some(length) = title_length(rest).filter(|_| self.is_at_line_start()) {
                return Some(Piece::Title(self.take(length)));
            } else if let Some(length) = complete_length(rest).filter(|_| self.is_at_line_start()) {
                return Some(Piece::Complete(self.take(length)));
            } else if rest.starts_with("--") || rest.starts_with("/*") {
                self.take(token_length(rest));
            } else if first == '\\' {
                return Some(Piece::MetaCommand(self.take(line_length(rest))));
            } else {
                let length = self.statement_length();
                return Some(Piece::Statement(self.take(length)));
            }
        }
    }
}

fn title_length(text: &str) -> Option<usize> {
    let after = text.strip_prefix(RULE)?;
    let line = after.get(..line_length(after))?;
    let is_title = TITLES.iter().any(|title| line.starts_with(title)) && line.contains("; Type: ");
    (is_title && after.get(line.len()..)?.starts_with(RULE)).then_some(line.len() + 2 * RULE.len())
}

fn complete_length(text: &str) -> Option<usize> {
    text.strip_prefix(RULE)?
        .strip_prefix(COMPLETE)?
        .starts_with(RULE)
        .then_some(COMPLETE.len() + 2 * RULE.len())
}

/// With its line end.
fn line_length(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |at| at + 1)
}

/// The first token: a literal, a quoted name, a comment or a word as a whole, or one character. What is not closed goes
/// to the end.
fn token_length(text: &str) -> usize {
    let mut characters = text.chars();
    let (first, second) = (characters.next(), characters.next());
    match (first, second) {
        (None, _) => 0,
        (Some('-'), Some('-')) => line_length(text),
        (Some('/'), Some('*')) => comment_length(text),
        (Some('\''), _) => quoted_length(text, '\'', Backslash::IsItself),
        (Some('"'), _) => quoted_length(text, '"', Backslash::IsItself),
        (Some('E' | 'e'), Some('\'')) => {
            1 + quoted_length(text.get(1..).unwrap_or_default(), '\'', Backslash::Escapes)
        }
        (Some('$'), _) => dollar_quoted_length(text).unwrap_or(1),
        (Some(first), _) if is_word(first) => {
            text.find(|character| !(is_word(character) || character == '$')).unwrap_or(text.len())
        }
        (Some(first), _) => first.len_utf8(),
    }
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || !character.is_ascii()
}

/// Comments of this kind stand inside each other.
fn comment_length(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(left) = text.get(at..).filter(|left| !left.is_empty()) {
        if left.starts_with("/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if left.starts_with("*/") {
            (at, depth) = (at + 2, depth.saturating_sub(1));
        } else {
            at += left.chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// What a backslash is in a literal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    /// `standard_conforming_strings`; where a source has it off, `pg_dump` writes two for one, and still `''` for a quote.
    IsItself,
    /// `E'…'`.
    Escapes,
}

/// A doubled quote ends one literal and begins another: the same in the end.
fn quoted_length(text: &str, quote: char, backslash: Backslash) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if character == '\\' && backslash == Backslash::Escapes {
            is_escaped = true;
        } else if character == quote {
            let end = at + quote.len_utf8();
            // The second half of a doubled quote knows no backslash, if it is lexed alone.
            let is_doubled = text.get(end..).is_some_and(|left| left.starts_with(quote));
            if !(is_doubled && backslash == Backslash::Escapes) {
                return end;
            }
            is_escaped = true;
        }
    }
    text.len()
}

/// `$tag$…$tag$`; nothing if it is a parameter or a lone sign.
fn dollar_quoted_length(text: &str) -> Option<usize> {
    let (tag, _) = text.strip_prefix('$')?.split_once('$')?;
    let is_tag = tag.chars().all(is_word) && !tag.starts_with(|first: char| first.is_ascii_digit());
    if !is_tag {
        return None;
    }
    let tag = text.get(..tag.len() + 2)?;
    let body = text.get(tag.len()..)?;
    Some(body.find(tag).map_or(text.len(), |end| tag.len() + end + tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<&str> {
        let statement = |piece| match piece {
            Piece::Statement(range) => text.get(range),
            _ => None,
        };
        Pieces::of(text).filter_map(statement).collect()
    }

    #[test]
    fn semicolons_inside_whatever_quotes_them_end_no_statement() {
        for quoted in [
            "SELECT 'a;b''c;';",
            r"SELECT E'a\';''\\';",
            r"SELECT 'a\';",
            r#"SELECT "a;""b;";"#,
            "SELECT $$a;b$$;",
            "SELECT $tag$a;$$;$tag$;",
            "SELECT /* a; /* b; */ c; */ 1;",
            "SELECT -- a; 'b\n 1;",
            "SELECT a$b$c, 1;",
            "SELECT $1, U&'a;' , B'1;';",
            "SELECT 'ü;' , \"ß;\", $ä$;$ä$;",
        ] {
            assert_eq!(statements(quoted), [quoted]);
        }
        assert_eq!(statements("a; b;\n-- c;\nd"), ["a;", "b;", "d"]);
    }

    #[test]
    fn a_parameter_opens_no_dollar_quote_and_a_word_with_a_dollar_neither() {
        assert_eq!(statements("SELECT $1; SELECT $2;"), ["SELECT $1;", "SELECT $2;"]);
        assert_eq!(statements("SELECT a$x$; SELECT b$x$;"), ["SELECT a$x$;", "SELECT b$x$;"]);
    }

    #[test]
    fn titles_are_found_between_statements_and_at_the_beginning_of_a_line_only() {
        let title = "--\n-- Name: a; Type: INDEX; Schema: s; Owner: -\n--\n";
        let titles = |text: &str| Pieces::of(text).filter(|piece| matches!(piece, Piece::Title(_))).count();
        assert_eq!(titles(&format!("{title}SELECT 1;\n{title}")), 2);
        assert_eq!(titles(&format!("SELECT '\n{title}';")), 0);
        assert_eq!(titles(&format!("SELECT $x$\n{title}$x$;")), 0);
        assert_eq!(titles(&format!("SELECT \"\n{title}\";")), 0);
        assert_eq!(titles(&format!("/*\n{title}*/")), 0);
        assert_eq!(titles(&format!("SELECT 1; {title}")), 0);
        assert_eq!(titles("--\n-- Name: a\n--\n"), 0);
    }
}
