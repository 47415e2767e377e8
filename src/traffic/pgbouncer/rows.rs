//! What a console shows: rows of `SHOW DATABASES` and `SHOW POOLS`, by the names of their columns, because versions differ
//! in how many there are.

use tokio_postgres::SimpleQueryRow;

use super::Place;

/// A row of `SHOW DATABASES`.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) is_paused: bool,
    /// `None`: as the whole instance.
    pub(super) pool_mode: Option<String>,
    /// Connections that PgBouncer keeps for clients that do nothing.
    pub(super) min_pool_size: u64,
}

/// What is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of PgBouncer: it has no databases but those that are moved.
    Instance,
    /// The databases that are moved, because it has others.
    Databases,
}

/// The databases that are moved.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) databases: Vec<Database>,
    pub(super) scope: Scope,
}

impl Moved {
    pub(super) fn names(&self) -> Vec<String> {
        self.databases.iter().map(|database| database.name.clone()).collect()
    }
}

/// A row of `SHOW POOLS`.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) database: String,
    pub(super) clients_waiting: u64,
    /// Server connections in use by a client, or about to be.
    pub(super) servers_busy: u64,
    /// Server connections that work.
    pub(super) servers_ready: u64,
    /// Server connections that are being made.
    pub(super) servers_in_login: u64,
    pub(super) mode: Option<String>,
}

impl Database {
    pub(super) fn of_row(row: &SimpleQueryRow) -> Option<Self> {
        Some(Self {
            name: text(row, "name")?.to_owned(),
            place: Place {
                host: text(row, "host").unwrap_or_default().to_owned(),
                port: text(row, "port")?.parse().ok()?,
                database: text(row, "database")?.to_owned(),
            },
            is_paused: text(row, "paused")? != "0",
            pool_mode: text(row, "pool_mode").filter(|mode| !mode.is_empty()).map(str::to_owned),
            min_pool_size: text(row, "min_pool_size").and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }
}

impl Pool {
    pub(super) fn of_row(row: &SimpleQueryRow) -> Option<Self> {
        let count = |name: &str| text(row, name).and_then(|text| text.parse::<u64>().ok());
        // Newer versions tell cancel requests apart.
        let optional = |name: &str| count(name).unwrap_or(0);
        let busy = count("sv_active")? + count("sv_tested")?;
        Some(Self {
            database: text(row, "database")?.to_owned(),
            clients_waiting: count("cl_waiting")?,
            servers_busy: busy + optional("sv_active_cancel") + optional("sv_being_canceled"),
            servers_ready: busy + count("sv_idle")? + count("sv_used")?,
            servers_in_login: count("sv_login")?,
            mode: text(row, "pool_mode").map(str::to_owned),
        })
    }
}

/// The value of a column; `None` if there is no such column, or no value.
pub(super) fn text<'a>(row: &'a SimpleQueryRow, column: &str) -> Option<&'a str> {
    row.try_get(column).ok().flatten()
}
