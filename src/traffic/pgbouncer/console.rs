//! One PgBouncer by its admin console: what it says of its databases and pools, and the commands that change them. Every
//! command is given by what the console shows, never by what was done before or by the text of an error, so that whoever
//! comes after a crash does the same.
//!
//! A connection that PgBouncer was just making when its database was paused is closed, and PgBouncer takes that for a
//! server that fails: it tries again only after `server_login_retry`, 15 s by default, while clients wait. So that time
//! is made a millionth of what it was before clients go on, and what it was before once they are served. What it was can
//! be read from the millionth.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryRow;

use super::{Place, Trouble, Waiting};
use crate::connection::{ConnectFailure, ConnectionSettings, ConsoleError, ConsoleSession, connect_console};

/// How often a console is asked while something is waited for.
const POLL: Duration = Duration::from_millis(2);
/// How long clients that waited may take to be served before the console is left as it was.
const SERVED_BOUND: Duration = Duration::from_secs(2);
/// The setting, and how many times smaller it is made.
const RETRY: &str = "server_login_retry";
const RETRY_DIVISOR: f64 = 1e6;
/// Seconds. At least this is made smaller; at most that is what was made smaller. Nobody wants a millisecond.
const RETRY_USUAL_MIN: f64 = 1.0;
const RETRY_QUICK_MAX: f64 = 0.001;

/// One instance.
#[derive(Debug)]
pub(super) struct Console {
    settings: ConnectionSettings,
    /// Sessions that wait for their next use, so that none has to be made while clients wait.
    idle: Mutex<Vec<ConsoleSession>>,
}

/// A row of `SHOW DATABASES`.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) is_paused: bool,
    /// `None`: as the whole instance.
    pub(super) pool_mode: Option<String>,
}

/// A row of `SHOW POOLS`.
#[derive(Debug)]
struct Pool {
    database: String,
    clients_waiting: u64,
    /// Server connections in use by a client, or about to be.
    servers_busy: u64,
    /// Server connections that work.
    servers_ready: u64,
    mode: Option<String>,
}

impl Console {
    pub(super) const fn new(settings: ConnectionSettings) -> Self {
        Self { settings, idle: Mutex::new(Vec::new()) }
    }

    /// Who it is, for people; no secret.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.settings.host(), self.settings.port())
    }

    /// Sends one command on a session of its own. Cancel safe: a session whose answer is outstanding is not used again.
    async fn ask(&self, command: &str) -> Result<Vec<SimpleQueryRow>, Trouble> {
        let kept = self.idle.lock().ok().and_then(|mut idle| idle.pop()).filter(|kept| !kept.is_closed());
        let session = match kept {
            Some(session) => session,
            None => connect_console(&self.settings).await.map_err(|failure| self.unreachable(&failure))?,
        };
        let answer = session.ask(command).await;
        match &answer {
            Ok(_) | Err(ConsoleError::Refused(_)) => {
                if let Ok(mut idle) = self.idle.lock() {
                    idle.push(session);
                }
            }
            Err(ConsoleError::Lost(_)) => {}
        }
        answer.map_err(|error| self.refused(command, &error))
    }

    fn unreachable(&self, failure: &ConnectFailure) -> Trouble {
        use ConnectFailure as F;
        let remedy = match failure {
            F::PasswordMissing | F::AuthenticationFailed(_) | F::NotAllowed(_) | F::Server(_) => {
                "Check the user in `consoles` and the password in `password_file`; the user must be among PgBouncer's admin_users."
            }
            _ => {
                "Check the address in `consoles`, that PgBouncer is running, and that it can be reached from here."
            }
        };
        Trouble::new(format!("the console at {} cannot be reached: {failure}", self.name()), remedy)
    }

    fn refused(&self, command: &str, error: &ConsoleError) -> Trouble {
        Trouble::new(
            format!("PgBouncer at {} did not do `{command}`: {error}", self.name()),
            "Look into PgBouncer's log; the user in `consoles` must be among its admin_users.",
        )
    }

    /// The databases, without the console itself.
    pub(super) async fn databases(&self) -> Result<Vec<Database>, Trouble> {
        let rows = self.ask("SHOW DATABASES").await?;
        let found: Option<Vec<_>> = rows.iter().map(Database::of_row).collect();
        let mut found = found.ok_or_else(|| self.not_understood("SHOW DATABASES"))?;
        found.retain(|database| database.name != "pgbouncer");
        Ok(found)
    }

    async fn pools(&self, names: &[String]) -> Result<Vec<Pool>, Trouble> {
        let rows = self.ask("SHOW POOLS").await?;
        let pools: Option<Vec<_>> = rows.iter().map(Pool::of_row).collect();
        let mut pools = pools.ok_or_else(|| self.not_understood("SHOW POOLS"))?;
        pools.retain(|pool| names.contains(&pool.database));
        Ok(pools)
    }

    /// One of the instance's settings.
    async fn setting(&self, name: &str) -> Result<String, Trouble> {
        let rows = self.ask("SHOW CONFIG").await?;
        let row = rows.iter().find(|row| text(row, "key") == Some(name));
        let value = row.and_then(|row| text(row, "value")).map(str::to_owned);
        value.ok_or_else(|| self.not_understood("SHOW CONFIG"))
    }

    fn not_understood(&self, command: &str) -> Trouble {
        Trouble::new(
            format!("the answer of {} to `{command}` is not understood", self.name()),
            "Check that `consoles` leads to PgBouncer itself, 1.12 or later.",
        )
    }

    /// What PgBouncer says it is, e.g. `PgBouncer 1.18.0`.
    pub(super) async fn version(&self) -> Result<String, Trouble> {
        let rows = self.ask("SHOW VERSION").await?;
        let version = rows.first().and_then(|row| row.get(0)).unwrap_or("unknown");
        Ok(version.to_owned())
    }

    /// Those of `databases` that have a pool in session mode.
    pub(super) async fn in_session_mode(&self, databases: &[Database]) -> Result<Vec<String>, Trouble> {
        let usual = self.setting("pool_mode").await?;
        let names: Vec<String> = databases.iter().map(|database| database.name.clone()).collect();
        let pools = self.pools(&names).await?;
        let is_session = |mode: Option<&str>| mode.unwrap_or(&usual) == "session";
        let has_session_pool = |database: &&Database| {
            is_session(database.pool_mode.as_deref())
                // A user may have a mode of its own; then the pool says so.
                || pools.iter().any(|pool| pool.database == database.name && pool.mode.as_deref() == Some("session"))
        };
        Ok(databases.iter().filter(has_session_pool).map(|database| database.name.clone()).collect())
    }

    /// Pauses those that are not paused, and returns once no server connection of theirs is in use.
    pub(super) async fn pause(&self, databases: &[Database], waiting: &Waiting) -> Result<(), Trouble> {
        let names: Vec<String> = databases.iter().map(|database| database.name.clone()).collect();
        let to_pause = databases.iter().filter(|database| !database.is_paused);
        // PAUSE answers when the last transaction has ended; meanwhile other sessions look.
        let commands = to_pause.map(|database| self.command("PAUSE", &database.name));
        let all = futures_util::future::try_join_all(commands);
        let (_, ()) = futures_util::future::try_join(all, self.quiet(&names, waiting)).await?;
        Ok(())
    }

    async fn quiet(&self, names: &[String], waiting: &Waiting) -> Result<(), Trouble> {
        loop {
            let databases = self.databases().await?;
            let all_paused = names
                .iter()
                .all(|name| databases.iter().any(|database| database.name == *name && database.is_paused));
            let busy: u64 = self.pools(names).await?.iter().map(|pool| pool.servers_busy).sum();
            if all_paused && busy == 0 {
                return Ok(());
            }
            waiting.is(format!("{busy} server connections of {} are in use", self.name()));
            tokio::time::sleep(POLL).await;
        }
    }

    /// Has it read its configuration again.
    pub(super) async fn reload(&self) -> Result<(), Trouble> {
        self.ask("RELOAD").await.map(drop)
    }

    /// Lets clients of those that are paused go on, without the wait that a broken-off login causes. Returns whether they
    /// are served.
    pub(super) async fn resume(&self, databases: &[Database], waiting: &Waiting) -> Result<Served, Trouble> {
        self.retry_logins_at_once().await?;
        for database in databases.iter().filter(|database| database.is_paused) {
            self.command("RESUME", &database.name).await?;
        }
        let names: Vec<String> = databases.iter().map(|database| database.name.clone()).collect();
        let served = self.served(&names, waiting).await?;
        self.retry_logins_as_usual().await?;
        Ok(served)
    }

    async fn served(&self, names: &[String], waiting: &Waiting) -> Result<Served, Trouble> {
        let begun_at = Instant::now();
        loop {
            let still_paused = |database: &Database| names.contains(&database.name) && database.is_paused;
            let any_paused = self.databases().await?.iter().any(still_paused);
            // A pool that has a connection has forgotten the login that failed.
            let stuck = |pool: &Pool| pool.clients_waiting > 0 && pool.servers_ready == 0;
            let any_stuck = self.pools(names).await?.iter().any(stuck);
            if !any_paused && !any_stuck {
                return Ok(Served::Yes);
            }
            if !any_paused && begun_at.elapsed() > SERVED_BOUND {
                return Ok(Served::NotYet);
            }
            waiting.is(format!("clients of {} are not served yet", self.name()));
            tokio::time::sleep(POLL).await;
        }
    }

    async fn retry_logins_at_once(&self) -> Result<(), Trouble> {
        let value = self.login_retry().await?;
        if value < RETRY_USUAL_MIN {
            return Ok(());
        }
        self.set_login_retry((value.round() / RETRY_DIVISOR).min(RETRY_QUICK_MAX)).await
    }

    /// Also finishes what a predecessor left.
    pub(super) async fn retry_logins_as_usual(&self) -> Result<(), Trouble> {
        let value = self.login_retry().await?;
        let is_quick = value > 0.0 && value <= RETRY_QUICK_MAX;
        self.set_login_retry(if is_quick { (value * RETRY_DIVISOR).round() } else { value }).await
    }

    /// In seconds.
    async fn login_retry(&self) -> Result<f64, Trouble> {
        let value = self.setting(RETRY).await?;
        value.parse().map_err(|_| self.not_understood("SHOW CONFIG"))
    }

    async fn set_login_retry(&self, seconds: f64) -> Result<(), Trouble> {
        self.ask(&format!("SET {RETRY} = '{seconds}'")).await.map(drop)
    }

    async fn command(&self, verb: &str, database: &str) -> Result<(), Trouble> {
        let outcome = self.ask(&format!("{verb} \"{}\"", database.replace('"', "\"\""))).await;
        outcome.map(drop)
    }
}

/// Whether clients that waited have a server connection again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    Yes,
    /// They go on, but PgBouncer has not reached the server.
    NotYet,
}

impl Database {
    fn of_row(row: &SimpleQueryRow) -> Option<Self> {
        Some(Self {
            name: text(row, "name")?.to_owned(),
            place: Place {
                host: text(row, "host").unwrap_or_default().to_owned(),
                port: text(row, "port")?.parse().ok()?,
                database: text(row, "database")?.to_owned(),
            },
            is_paused: text(row, "paused")? != "0",
            pool_mode: text(row, "pool_mode").filter(|mode| !mode.is_empty()).map(str::to_owned),
        })
    }
}

impl Pool {
    fn of_row(row: &SimpleQueryRow) -> Option<Self> {
        let count = |name: &str| text(row, name).and_then(|text| text.parse::<u64>().ok());
        // Newer versions tell cancel requests apart.
        let optional = |name: &str| count(name).unwrap_or(0);
        let busy = count("sv_active")? + count("sv_tested")?;
        Some(Self {
            database: text(row, "database")?.to_owned(),
            clients_waiting: count("cl_waiting")?,
            servers_busy: busy + optional("sv_active_cancel") + optional("sv_being_canceled"),
            servers_ready: busy + count("sv_idle")? + count("sv_used")?,
            mode: text(row, "pool_mode").map(str::to_owned),
        })
    }
}

fn text<'a>(row: &'a SimpleQueryRow, column: &str) -> Option<&'a str> {
    row.try_get(column).ok().flatten()
}
