//! `pgbouncer.ini` from text to text: leads databases elsewhere by changing host, port and name in their lines, and nothing
//! else. Above each changed line stays a comment with the line as it was, marked with the operation's epoch, so that
//! whoever comes later can put it back without having been there. Reads and writes no file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use super::Place;

/// The section in which databases stand.
const SECTION: &str = "databases";
/// What PgBouncer takes where no port is given.
const DEFAULT_PORT: u16 = 5432;
/// How a comment that keeps a line begins; the epoch follows, then a colon and a blank.
const KEPT: &str = ";pgsluice ";

/// The databases of the file, and where they lead.
pub(super) fn entries(text: &str) -> BTreeMap<String, Place> {
    let entries = Lines::of(text).filter_map(|line| line.entry);
    entries.map(|entry| (entry.name.clone(), entry.place())).collect()
}

/// Leads the databases called `names` to `place`. Lines that lead there already stay as they are, so that a repetition
/// changes nothing.
pub(super) fn lead_to(text: &str, names: &[String], place: &Place, epoch: i64) -> String {
    let mut written = String::with_capacity(text.len() + 256);
    for line in Lines::of(text) {
        let entry =
            line.entry.as_ref().filter(|entry| names.contains(&entry.name) && entry.place() != *place);
        let Some(entry) = entry else {
            written.push_str(line.content);
            written.push_str(line.ending);
            continue;
        };
        let ending = if line.ending.is_empty() { "\n" } else { line.ending };
        // Writing to a String cannot fail.
        let _ = write!(written, "{KEPT}{epoch}: {}{ending}", line.content);
        written.push_str(&entry.leading_to(line.content, place));
        written.push_str(line.ending);
    }
    written
}

/// Puts back every line that was kept in the operation `epoch`, byte for byte.
pub(super) fn put_back(text: &str, epoch: i64) -> String {
    let mut written = String::with_capacity(text.len());
    let mut kept = None;
    for line in Lines::of(text) {
        if let Some((_, original)) = line.kept().filter(|(of, _)| *of == epoch) {
            kept = Some(original);
            continue;
        }
        // Only the line below a kept one is what became of it.
        let content = kept.take().filter(|_| line.entry.is_some()).unwrap_or(line.content);
        written.push_str(content);
        written.push_str(line.ending);
    }
    written
}

/// Drops the lines that were kept, whichever operation kept them: where clients are now is where they stay.
pub(super) fn forget(text: &str) -> String {
    let lines = Lines::of(text).filter(|line| line.kept().is_none());
    lines.flat_map(|line| [line.content, line.ending]).collect()
}

/// The lines of a file, with the section they stand in known.
struct Lines<'a> {
    rest: &'a str,
    in_databases: bool,
}

struct Line<'a> {
    content: &'a str,
    /// A line feed, one with a carriage return, or nothing at the file's end.
    ending: &'a str,
    in_databases: bool,
    entry: Option<Entry>,
}

/// A database's line.
struct Entry {
    name: String,
    /// Keyword, value, and where the value stands, quotes included.
    pairs: Vec<(String, String, Range<usize>)>,
}

impl<'a> Lines<'a> {
    const fn of(text: &'a str) -> Self {
        Self { rest: text, in_databases: false }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        let content = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
        let ending = line.get(content.len()..).unwrap_or_default();
        let trimmed = content.trim();
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            self.in_databases = name.trim() == SECTION;
        }
        let is_entry = self.in_databases && !trimmed.starts_with([';', '#', '[', '%']);
        let entry = if is_entry { Entry::parse(content) } else { None };
        Some(Line { content, ending, in_databases: self.in_databases, entry })
    }
}

impl<'a> Line<'a> {
    /// The epoch and the line that a comment keeps.
    fn kept(&self) -> Option<(i64, &'a str)> {
        let (epoch, original) = self.content.strip_prefix(KEPT)?.split_once(": ")?;
        Some((epoch.parse().ok()?, original)).filter(|_| self.in_databases)
    }
}

impl Entry {
    /// `None` for what PgBouncer would not take for a database either.
    fn parse(line: &str) -> Option<Self> {
        let mut cursor = Cursor { line, at: 0 };
        cursor.skip_blanks();
        let (name, _) = if cursor.rest().starts_with('"') { cursor.quoted('"')? } else { cursor.word() };
        cursor.expect('=').filter(|()| !name.is_empty())?;
        let mut pairs = Vec::new();
        loop {
            cursor.skip_blanks();
            if cursor.rest().is_empty() {
                return Some(Self { name, pairs });
            }
            let (keyword, _) = cursor.word();
            cursor.expect('=')?;
            cursor.skip_blanks();
            let is_quoted = cursor.rest().starts_with('\'');
            let (value, range) = if is_quoted { cursor.quoted('\'')? } else { cursor.value() };
            pairs.push((keyword, value, range));
        }
    }

    /// The last one counts, as for PgBouncer.
    fn value(&self, keyword: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(name, ..)| name == keyword).map(|(_, value, _)| value.as_str())
    }

    fn place(&self) -> Place {
        Place {
            host: self.value("host").unwrap_or_default().to_owned(),
            port: self.value("port").and_then(|port| port.parse().ok()).unwrap_or(DEFAULT_PORT),
            database: self.value("dbname").unwrap_or(&self.name).to_owned(),
        }
    }

    /// Its line, with `place` in it.
    fn leading_to(&self, line: &str, place: &Place) -> String {
        let wanted = [
            ("host", place.host.clone()),
            ("port", place.port.to_string()),
            ("dbname", place.database.clone()),
        ];
        let mut changes: Vec<(Range<usize>, String)> = Vec::new();
        let mut appended = String::new();
        let now = self.place();
        let is = [("host", now.host), ("port", now.port.to_string()), ("dbname", now.database)];
        for ((keyword, wanted), (_, is)) in wanted.into_iter().zip(is) {
            if wanted == is {
                continue;
            }
            let standing: Vec<_> = self.pairs.iter().filter(|(name, ..)| name == keyword).collect();
            for (_, _, range) in &standing {
                let was_quoted = line.get(range.clone()).is_some_and(|text| text.starts_with('\''));
                changes.push((range.clone(), written(&wanted, was_quoted.into())));
            }
            if standing.is_empty() {
                let _ = write!(appended, " {keyword}={}", written(&wanted, Quotes::IfNeeded));
            }
        }
        changes.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
        let mut line = line.to_owned();
        for (range, text) in changes {
            line.replace_range(range, &text);
        }
        let end = line.trim_end().len();
        line.insert_str(end, &appended);
        line
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    IfNeeded,
    Always,
}

impl From<bool> for Quotes {
    fn from(were_there: bool) -> Self {
        if were_there { Self::Always } else { Self::IfNeeded }
    }
}

fn written(value: &str, quotes: Quotes) -> String {
    let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'');
    if plain && quotes == Quotes::IfNeeded {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "''"))
}

/// A place in a line.
struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.skip_blanks();
        self.rest().starts_with(wanted).then(|| self.at += wanted.len_utf8())
    }

    /// Up to a blank or `=`.
    fn word(&mut self) -> (String, Range<usize>) {
        self.up_to(|c| c.is_whitespace() || c == '=')
    }

    /// Up to a blank.
    fn value(&mut self) -> (String, Range<usize>) {
        self.up_to(char::is_whitespace)
    }

    fn up_to(&mut self, ends: impl Fn(char) -> bool) -> (String, Range<usize>) {
        let start = self.at;
        self.at += self.rest().find(ends).unwrap_or(self.rest().len());
        (self.line.get(start..self.at).unwrap_or_default().to_owned(), start..self.at)
    }

    /// A text in quotes, in which two quotes stand for one. `None` if it does not end.
    fn quoted(&mut self, quote: char) -> Option<(String, Range<usize>)> {
        let mut text = String::new();
        let mut rest = self.rest().strip_prefix(quote)?;
        loop {
            let (piece, after) = rest.split_once(quote)?;
            text.push_str(piece);
            match after.strip_prefix(quote) {
                Some(after) => {
                    text.push(quote);
                    rest = after;
                }
                None => {
                    let start = self.at;
                    self.at = self.line.len() - after.len();
                    return Some((text, start..self.at));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "ini_tests.rs"]
mod tests;
