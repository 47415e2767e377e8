//! Environment variables over the file: `PGSLUICE_SECTION__KEY`, nested by two underscores. Only variables with two
//! underscores in a row count, because Kubernetes puts `PGSLUICE_PORT` and the like into every pod beside a service of
//! that name. It changes a table; what the values mean is decided later, as for the file.

use toml::{Table, Value};

use super::error::{ConfigError, Origins};
use super::keys::{Key, KeyTree};

const PREFIX: &str = "PGSLUICE_";
const SEPARATOR: &str = "__";

/// The variables of this process that could be ours. Variables that are not UTF-8 are nobody's configuration.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(PREFIX))
}

/// Puts every override into the table.
pub(super) fn apply(
    tree: &KeyTree,
    table: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
    origins: &mut Origins,
) -> Result<(), ConfigError> {
    for (variable, text) in variables {
        let Some(path) = variable.strip_prefix(PREFIX).filter(|rest| rest.contains(SEPARATOR)) else {
            continue;
        };
        let path: Vec<String> = path.split(SEPARATOR).map(str::to_ascii_lowercase).collect();
        let key = find(tree, &path, &variable)?;
        let full = path.join(".");
        let value = interpret(key, &full, &text, &variable)?;
        insert(table, &path, value, &full)?;
        origins.set(full, variable);
    }
    Ok(())
}

fn find<'a>(tree: &'a KeyTree, path: &[String], variable: &str) -> Result<Key<'a>, ConfigError> {
    let mut key = tree.root();
    let mut above = String::new();
    for name in path {
        let origin = format!("the environment variable {variable}");
        key = key.child(name).ok_or_else(|| key.unknown(&above, name, &origin))?;
        above = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
    }
    Ok(key)
}

/// A string where a string fits, a TOML literal otherwise.
fn interpret(key: Key<'_>, full: &str, text: &str, variable: &str) -> Result<Value, ConfigError> {
    if key.accepts("string") {
        return Ok(Value::String(text.to_owned()));
    }
    let literal = toml::from_str::<Table>(&format!("value = {text}")).ok();
    // More than one key means that the text held a line break and went on with keys of its own.
    let literal = literal.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    literal.ok_or_else(|| ConfigError::WrongKind {
        key: full.to_owned(),
        origin: format!("the environment variable {variable}"),
        expected: key.expectation(),
        found: "something else",
    })
}

fn insert(table: &mut Table, path: &[String], value: Value, full: &str) -> Result<(), ConfigError> {
    let Some((last, above)) = path.split_last() else { return Ok(()) };
    let mut place = table;
    for name in above {
        let section = place.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(section) = section else {
            return Err(ConfigError::Invalid {
                key: full.to_owned(),
                problem: format!("`{name}` is not a section in the configuration file"),
                remedy: "Make it one, or remove it there.".to_owned(),
            });
        };
        place = section;
    }
    place.insert(last.clone(), value);
    Ok(())
}
