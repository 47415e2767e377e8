//! The tree of known keys, taken from the raw records' own schema, so that it cannot disagree with them. It finds a
//! key's kind, checks a table against the tree, and names the nearest known key for a mistyped one. Errors name keys
//! and kinds, never values (INV-10).

use schemars::schema_for;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::error::ConfigError;
use super::raw::RawConfig;
use super::{byte_size, error::Origins};
use crate::model::nearest;

/// The schema of the whole configuration.
pub(super) struct KeyTree {
    root: Json,
}

/// A place in the tree.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    tree: &'a KeyTree,
    schema: &'a Json,
}

impl KeyTree {
    pub(super) fn new() -> Self {
        Self { root: schema_for!(RawConfig).to_value() }
    }

    pub(super) fn root(&self) -> Key<'_> {
        Key { tree: self, schema: &self.root }
    }
}

impl<'a> Key<'a> {
    /// The key below this one.
    pub(super) fn child(self, name: &str) -> Option<Self> {
        let schema = self.resolved().get("properties")?.get(name)?;
        Some(Self { tree: self.tree, schema })
    }

    /// Names and places of the keys below this one, the required first.
    pub(super) fn children(self) -> Vec<(&'a str, Self)> {
        let properties = self.resolved().get("properties").and_then(Json::as_object);
        let mut children: Vec<_> = properties
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.as_str(), Self { tree: self.tree, schema }))
            .collect();
        children.sort_by_key(|(_, key)| !key.is_required());
        children
    }

    /// What the elements of this list are.
    pub(super) fn element(self) -> Option<Self> {
        let schema = self.resolved().get("items")?;
        Some(Self { tree: self.tree, schema })
    }

    /// The doc comment.
    pub(super) fn description(self) -> &'a str {
        self.schema.get("description").and_then(Json::as_str).unwrap_or_default()
    }

    /// The default, if there is one to write down.
    pub(super) fn default_value(self) -> Option<&'a Json> {
        self.schema.get("default").filter(|value| !value.is_null())
    }

    /// Marked in its description.
    pub(super) fn is_required(self) -> bool {
        self.description().starts_with("Required.") || self.description().contains(": required.")
    }

    /// The only words allowed, with their descriptions, if it is a choice.
    pub(super) fn choices(self) -> Vec<(&'a str, &'a str)> {
        let described = self.resolved().get("oneOf").and_then(Json::as_array).into_iter().flatten();
        let described = described.filter_map(|choice| {
            let description = choice.get("description").and_then(Json::as_str).unwrap_or_default();
            Some((choice.get("const")?.as_str()?, description))
        });
        let plain = self.resolved().get("enum").and_then(Json::as_array).into_iter().flatten();
        described.chain(plain.filter_map(|word| Some((word.as_str()?, "")))).collect()
    }

    pub(super) fn is_byte_size(self) -> bool {
        self.resolved().get("format").and_then(Json::as_str) == Some("byte-size")
    }

    pub(super) fn accepts(self, kind: &str) -> bool {
        if !self.choices().is_empty() {
            return kind == "string";
        }
        match self.resolved().get("type") {
            Some(Json::String(only)) => only == kind,
            Some(Json::Array(several)) => several.iter().any(|one| one.as_str() == Some(kind)),
            _ => false,
        }
    }

    /// For people: what belongs here.
    pub(super) fn expectation(self) -> String {
        let choices = self.choices();
        if !choices.is_empty() {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            return format!("one of {}", words.join(", "));
        }
        if self.is_byte_size() {
            return byte_size::ALLOWED.to_owned();
        }
        if self.accepts("array") {
            let element = self.element();
            return match element {
                Some(element) if element.accepts("object") => "a list of tables",
                _ => "a list of strings, as [\"a\", \"b\"]",
            }
            .to_owned();
        }
        for (kind, text) in [
            ("string", "a string"),
            ("integer", "a whole number, not negative"),
            ("boolean", "true or false"),
            ("object", "a section"),
        ] {
            if self.accepts(kind) {
                return text.to_owned();
            }
        }
        "something else".to_owned()
    }

    /// Follows `$ref`, and looks through "or null".
    fn resolved(self) -> &'a Json {
        let mut schema = self.schema;
        if let Some(alternatives) = schema.get("anyOf").and_then(Json::as_array) {
            let present = |one: &&Json| one.get("type").and_then(Json::as_str) != Some("null");
            schema = alternatives.iter().find(present).unwrap_or(schema);
        }
        let name = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
        name.and_then(|name| self.tree.root.get("$defs")?.get(name)).unwrap_or(schema)
    }

    /// Checks that a table has only known keys, with values of their kind.
    pub(super) fn check_table(self, path: &str, table: &Table, origins: &Origins) -> Result<(), ConfigError> {
        for (name, value) in table {
            let full = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let Some(key) = self.child(name) else {
                return Err(self.unknown(path, name, &origins.of(&full)));
            };
            key.check_value(&full, value, origins)?;
        }
        let required = self.resolved().get("required").and_then(Json::as_array).into_iter().flatten();
        match required.filter_map(Json::as_str).find(|name| !table.contains_key(*name)) {
            None => Ok(()),
            Some(name) => Err(ConfigError::Missing {
                key: format!("{path}.{name}"),
                remedy: match self.child(name) {
                    Some(key) => format!("it must be {}.", key.expectation()),
                    None => "add it.".to_owned(),
                },
            }),
        }
    }

    /// The greatest whole number that fits.
    fn integer_max(self) -> i64 {
        match self.resolved().get("format").and_then(Json::as_str) {
            Some("uint32") => i64::from(u32::MAX),
            _ => i64::MAX,
        }
    }

    fn check_value(self, path: &str, value: &Value, origins: &Origins) -> Result<(), ConfigError> {
        let wrong = |found: &'static str| ConfigError::WrongKind {
            key: path.to_owned(),
            origin: origins.of(path),
            expected: self.expectation(),
            found,
        };
        match value {
            Value::Table(table) if self.accepts("object") => self.check_table(path, table, origins),
            Value::Array(values) if self.accepts("array") => {
                let element = self.element().ok_or_else(|| wrong("a list"))?;
                let mut numbered = values.iter().enumerate();
                numbered.try_for_each(|(index, value)| {
                    element.check_value(&format!("{path}[{index}]"), value, origins)
                })
            }
            Value::String(text) if self.accepts("string") => {
                let choices = self.choices();
                let allowed = choices.is_empty() || choices.iter().any(|(word, _)| word == text);
                let size = !self.is_byte_size() || text.parse::<byte_size::ByteSize>().is_ok();
                if allowed && size { Ok(()) } else { Err(wrong("something else")) }
            }
            Value::Integer(number)
                if self.accepts("integer") && (0..=self.integer_max()).contains(number) =>
            {
                Ok(())
            }
            Value::Boolean(_) if self.accepts("boolean") => Ok(()),
            Value::Integer(number) if *number < 0 => Err(wrong("a negative number")),
            Value::Integer(_) if self.accepts("integer") => Err(wrong("too large a number")),
            other => Err(wrong(kind_of(other))),
        }
    }

    /// The error for a key that does not exist below this one.
    pub(super) fn unknown(self, path: &str, name: &str, origin: &str) -> ConfigError {
        let siblings: Vec<&str> = self.children().into_iter().map(|(name, _)| name).collect();
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        ConfigError::UnknownKey {
            key: format!("{prefix}{name}"),
            origin: origin.to_owned(),
            nearest: nearest(name, siblings.iter().copied()).map(|known| format!("{prefix}{known}")),
            known: siblings.iter().map(|known| format!("{prefix}{known}")).collect(),
        }
    }
}

const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
