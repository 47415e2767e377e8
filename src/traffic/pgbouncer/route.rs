//! The two sides as PgBouncer knows them, and which of its databases lead there.

use std::fmt;

use super::Trouble;
use super::console::Console;
use super::rows::Database;
use crate::config::{Address, PgbouncerConfig};
use crate::model::Direction;
use crate::traffic::{Endpoint, TrafficContext};

/// Where one of PgBouncer's databases leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Empty: the default Unix socket.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: String,
}

/// The two sides as PgBouncer knows them.
pub(super) struct Route {
    pub(super) left: Place,
    pub(super) reached: Place,
}

impl Route {
    pub(super) fn of(config: &PgbouncerConfig, context: &TrafficContext) -> Self {
        let (left, reached) = match context.direction {
            Direction::Forward => (&config.source_address, &config.target_address),
            Direction::Back => (&config.target_address, &config.source_address),
        };
        Self {
            left: Place::of(&context.source, left.as_ref()),
            reached: Place::of(&context.target, reached.as_ref()),
        }
    }
}

impl Place {
    fn of(endpoint: &Endpoint, address: Option<&Address>) -> Self {
        let (host, port) = match address {
            Some(address) => (address.host.clone(), address.port),
            None => (endpoint.host.clone(), endpoint.port),
        };
        Self { host, port, database: endpoint.database.clone() }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint { host: self.host.clone(), port: self.port, database: self.database.clone() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// Those of the configured names.
pub(super) fn named(all: &[Database], names: &[String], console: &Console) -> Result<Vec<Database>, Trouble> {
    let pick = |name: &String| {
        all.iter().find(|database| database.name == *name).cloned().ok_or_else(|| {
            Trouble::new(
                format!("PgBouncer at {} has no database {name}; it has: {}", console.name(), listed(all)),
                "Correct `databases`. One that PgBouncer makes by its `*` line needs a line of its own.",
            )
        })
    };
    names.iter().map(pick).collect()
}

/// Those that lead to one of `places`.
pub(super) fn leading_to(
    all: &[Database],
    places: &[&Place],
    console: &Console,
) -> Result<Vec<Database>, Trouble> {
    let found: Vec<_> = all.iter().filter(|database| places.contains(&&database.place)).cloned().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let wanted: Vec<String> = places.iter().map(ToString::to_string).collect();
    Err(Trouble::new(
        format!(
            "no database of PgBouncer at {} leads to {}; it has: {}",
            console.name(),
            wanted.join(" or "),
            listed(all)
        ),
        "Name them in `databases`, or set `source_address` and `target_address` to the addresses that PgBouncer uses.",
    ))
}

fn listed(all: &[Database]) -> String {
    let all: Vec<String> =
        all.iter().map(|database| format!("{} ({})", database.name, database.place)).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
