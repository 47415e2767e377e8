//! Why a command ended without a result: two lines for a person on standard error, and with `--output json` one object on
//! standard output besides. A script then finds one JSON document there whatever happens, and never has to search the log.

use std::io::{self, Write as _};

use serde_json::{Value, json};

use super::{Exit, OutputFormat};

/// What is told of a command that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    error: String,
    remedy: String,
}

impl Failure {
    /// Of an error, and what to do about it.
    #[must_use]
    pub fn new(exit: Exit, error: impl ToString, remedy: impl Into<String>) -> Self {
        Self { exit, error: error.to_string(), remedy: remedy.into() }
    }

    /// `{"error", "remedy", "exit_code"}`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({ "error": self.error, "remedy": self.remedy, "exit_code": self.exit.code() })
    }

    /// Tells it. With [`OutputFormat::Json`] the object is one line, so that it fits behind the lines of `status --watch`.
    pub fn tell(&self, output: OutputFormat) -> Exit {
        let mut told = format!("pgsluice: {}\n", self.error);
        if !self.remedy.is_empty() {
            told.push_str(&self.remedy);
            told.push('\n');
        }
        // Who has closed these has no place where it could be told.
        let _ = io::stderr().write_all(told.as_bytes());
        if output == OutputFormat::Json {
            let _ = writeln!(io::stdout(), "{}", self.json());
        }
        self.exit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_object_on_one_line() {
        let failure = Failure::new(Exit::Decision, "two\nlines", "Decide.");
        let line = failure.json().to_string();
        assert_eq!(line.lines().count(), 1, "{line}");
        assert_eq!(failure.json(), json!({ "error": "two\nlines", "remedy": "Decide.", "exit_code": 4 }));
    }
}
