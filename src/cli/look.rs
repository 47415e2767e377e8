//! How text looks where it is printed: the width of a terminal, and colours on it. Everywhere else text is as wide as it is,
//! without any escape sequence, so that it can be searched and kept.

use std::env;
use std::io::IsTerminal as _;

use console::{Style, Term, measure_text_width};

/// Narrower than this nothing is wrapped: words would stand alone.
const WIDTH_MIN: usize = 40;

/// Where text is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    columns: Option<usize>,
    colours: Colours,
}

/// Whether text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// On a terminal.
    Yes,
    /// Anywhere else, and where `NO_COLOR` is set.
    No,
}

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Heading,
    Blocker,
    Warning,
    Good,
    Pasted,
}

impl Look {
    /// No terminal.
    pub const PLAIN: Self = Self { columns: None, colours: Colours::No };

    /// A terminal of so many columns.
    #[must_use]
    pub const fn of_terminal(columns: usize, colours: Colours) -> Self {
        Self { columns: Some(columns), colours }
    }

    /// That of this process's standard output, with regard to `NO_COLOR` (no-color.org) and `TERM=dumb`.
    #[must_use]
    pub fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::PLAIN;
        }
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let colours = if is_set("NO_COLOR") || is_dumb { Colours::No } else { Colours::Yes };
        let (_, columns) = Term::stdout().size();
        Self::of_terminal(columns.into(), colours)
    }

    pub(super) fn paint(self, paint: Paint, text: &str) -> String {
        if self.colours == Colours::No {
            return text.to_owned();
        }
        let style = match paint {
            Paint::Heading => Style::new().bold(),
            Paint::Blocker => Style::new().red().bold(),
            Paint::Warning => Style::new().yellow().bold(),
            Paint::Good => Style::new().green(),
            Paint::Pasted => Style::new().cyan(),
        };
        style.force_styling(true).apply_to(text).to_string()
    }

    /// `line` in pieces that fit behind an indent of so many columns. A word that is wider stays whole.
    pub(super) fn wrapped(self, line: &str, indent: usize) -> Vec<String> {
        let Some(room) = self.columns.filter(|columns| *columns >= WIDTH_MIN).map(|columns| columns - indent)
        else {
            return vec![line.to_owned()];
        };
        let mut pieces: Vec<String> = Vec::new();
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            match pieces.last_mut() {
                Some(piece) if measure_text_width(piece) + 1 + measure_text_width(word) <= room => {
                    piece.push(' ');
                    piece.push_str(word);
                }
                _ => pieces.push(word.to_owned()),
            }
        }
        pieces
    }
}
