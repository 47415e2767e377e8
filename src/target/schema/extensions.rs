//! Which extensions the dump creates on the target: those the target's server offers and the database does not have
//! yet. One that is there already may belong to somebody else, and is taken as it is.

use super::SchemaError;
use crate::connection::SqlSession;
use crate::model::Side;

/// `CREATE EXTENSION` for these only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtensionChoice {
    /// The source has none to speak of: nothing to choose.
    All,
    /// These.
    Only(Vec<String>),
}

/// An extension every database has, for want of an option that says "none" (pg_dump refuses a pattern without
/// match).
const ALWAYS_THERE: &str = "plpgsql";

pub(super) async fn choose(source: &SqlSession, target: &SqlSession) -> Result<ExtensionChoice, SchemaError> {
    let rows = source
        .query("SELECT extname::text FROM pg_extension ORDER BY 1", &[])
        .await
        .map_err(SchemaError::on(Side::Source))?;
    let on_source: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let rows = target
        .query(
            "SELECT name::text FROM pg_available_extensions WHERE name = ANY ($1) AND installed_version IS NULL
              ORDER BY 1",
            &[&on_source],
        )
        .await
        .map_err(SchemaError::on(Side::Target))?;
    Ok(decide(&on_source, rows.iter().map(|row| row.get(0)).collect()))
}

fn decide(on_source: &[String], creatable: Vec<String>) -> ExtensionChoice {
    let has_fallback = on_source.iter().any(|name| name == ALWAYS_THERE);
    if creatable.len() == on_source.len() || (creatable.is_empty() && !has_fallback) {
        ExtensionChoice::All
    } else if creatable.is_empty() {
        ExtensionChoice::Only(vec![ALWAYS_THERE.to_owned()])
    } else {
        ExtensionChoice::Only(creatable)
    }
}

impl ExtensionChoice {
    pub(super) fn dump_options(&self) -> Vec<String> {
        match self {
            Self::All => Vec::new(),
            // A pattern in double quotes is taken literally, as in psql.
            Self::Only(names) => {
                names.iter().map(|name| format!("--extension=\"{}\"", name.replace('"', "\"\""))).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_that_exist_or_are_not_offered_are_not_created() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let source = names(&["plpgsql", "citext", "hstore"]);
        let choice = decide(&source, names(&["citext"]));
        assert_eq!(choice.dump_options(), ["--extension=\"citext\""]);
        assert_eq!(decide(&source, Vec::new()).dump_options(), ["--extension=\"plpgsql\""]);
        assert_eq!(decide(&[], Vec::new()).dump_options(), Vec::<String>::new());
    }
}
