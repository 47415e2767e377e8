//! One PgBouncer by its admin console: what it says of its databases and pools, and the commands that change them. Every
//! command is given by what the console shows, never by what was done before or by the text of an error, so that whoever
//! comes after a crash does the same.
//!
//! A connection that PgBouncer is just making to a server when it pauses is broken off, and PgBouncer takes that for a
//! server that fails: it tries again only after `server_login_retry`, 15 s by default, and until then refuses clients by
//! an error. So a pause begins while no connection is being made, and none may be; where PgBouncer has no other databases all of it is
//! paused, which keeps it from making any; and before clients go on that time is made a millionth of what it was, and what
//! it was once they are served. What it was can be read from the millionth.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryRow;

use super::rows::{Database, Moved, Pool, Scope, text};
use super::{Trouble, Waiting};
use crate::connection::{ConnectFailure, ConnectionSettings, ConsoleError, ConsoleSession, connect_console};

/// How often a console is asked while something is waited for.
const POLL: Duration = Duration::from_millis(2);
/// The setting that keeps PgBouncer from opening connections while a pause begins, and its value then.
const LIMIT: &str = "max_db_connections";
const LIMIT_WHILE_PAUSING: &str = "1";
const SHOW_POOLS: &str = "SHOW POOLS";
/// How often a pause is begun anew because it broke a connection off that was being made.
const PAUSE_TRIES: usize = 5;
/// How long is waited for a moment in which none is being made.
const LOGIN_BOUND: Duration = Duration::from_millis(500);
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
        let session = self.session().await?;
        let answer = session.ask(command).await;
        self.keep(session);
        answer.map_err(|error| self.refused(command, &error))
    }

    async fn session(&self) -> Result<ConsoleSession, Trouble> {
        while let Some(kept) = self.idle.lock().ok().and_then(|mut idle| idle.pop()) {
            if !kept.is_closed() {
                return Ok(kept);
            }
        }
        connect_console(&self.settings).await.map_err(|failure| self.unreachable(&failure))
    }

    fn keep(&self, session: ConsoleSession) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(session);
        }
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
        let rows = self.ask(SHOW_POOLS).await?;
        self.pools_of(&rows, names)
    }

    fn pools_of(&self, rows: &[SimpleQueryRow], names: &[String]) -> Result<Vec<Pool>, Trouble> {
        let pools: Option<Vec<_>> = rows.iter().map(Pool::of_row).collect();
        let mut pools = pools.ok_or_else(|| self.not_understood(SHOW_POOLS))?;
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

    /// Pauses, and returns once no server connection is in use, with none broken off if that can be had.
    pub(super) async fn pause(&self, moved: &Moved, waiting: &Waiting) -> Result<(), Trouble> {
        // A database that has a connection gets no second one now.
        let limit = self.setting(LIMIT).await?;
        self.ask(&format!("SET {LIMIT} = '{LIMIT_WHILE_PAUSING}'")).await?;
        self.pause_untouched(moved, waiting).await?;
        self.ask(&format!("SET {LIMIT} = '{limit}'")).await.map(drop)
    }

    async fn pause_untouched(&self, moved: &Moved, waiting: &Waiting) -> Result<(), Trouble> {
        for _ in 0..PAUSE_TRIES {
            self.no_login_under_way(&moved.names()).await?;
            if self.pause_once(moved, waiting).await? == Logins::Untouched {
                return Ok(());
            }
            // Clients of that pool would be refused until the end of the pause.
            let databases = self.databases().await?;
            let names = moved.names();
            let paused = databases.into_iter().filter(|database| names.contains(&database.name)).collect();
            self.go_on(&Moved { databases: paused, scope: moved.scope }, waiting).await?;
        }
        tracing::warn!(console = %self.name(), "pgbouncer is opening connections all the time; the pause breaks one off");
        self.pause_once(moved, waiting).await.map(drop)
    }

    /// Waits for a moment in which no server connection is being made; not for long.
    async fn no_login_under_way(&self, names: &[String]) -> Result<(), Trouble> {
        let begun_at = Instant::now();
        while self.pools(names).await?.iter().any(|pool| pool.servers_in_login > 0)
            && begun_at.elapsed() < LOGIN_BOUND
        {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn pause_once(&self, moved: &Moved, waiting: &Waiting) -> Result<Logins, Trouble> {
        let names = moved.names();
        let to_pause = moved.databases.iter().filter(|database| !database.is_paused);
        let commands = match moved.scope {
            Scope::Instance => vec!["PAUSE".to_owned()],
            Scope::Databases => to_pause.map(|database| with_name("PAUSE", &database.name)).collect(),
        };
        // PAUSE answers when the last transaction has ended; meanwhile other sessions look.
        let all = futures_util::future::try_join_all(
            commands.into_iter().map(|command| self.pause_by(command, &names)),
        );
        let (logins, ()) = futures_util::future::try_join(all, self.quiet(moved, waiting)).await?;
        Ok(if logins.contains(&Logins::BrokenOff) { Logins::BrokenOff } else { Logins::Untouched })
    }

    /// Both commands at once, so that PgBouncer does nothing else in between: what it shows is what the pause meets.
    async fn pause_by(&self, command: String, names: &[String]) -> Result<Logins, Trouble> {
        let session = self.session().await?;
        let (shown, paused) = futures_util::join!(session.ask(SHOW_POOLS), session.ask(&command));
        self.keep(session);
        let shown = shown.map_err(|error| self.refused(SHOW_POOLS, &error))?;
        match paused {
            // All of it is paused already: there is no other way to ask that.
            Err(ConsoleError::Refused(_)) if command == "PAUSE" => {}
            outcome => drop(outcome.map_err(|error| self.refused(&command, &error))?),
        }
        let any = self.pools_of(&shown, names)?.iter().any(|pool| pool.servers_in_login > 0);
        Ok(if any { Logins::BrokenOff } else { Logins::Untouched })
    }

    async fn quiet(&self, moved: &Moved, waiting: &Waiting) -> Result<(), Trouble> {
        let names = moved.names();
        loop {
            let databases = self.databases().await?;
            let is_paused = |name: &String| databases.iter().any(|each| each.name == *name && each.is_paused);
            // Of the whole instance it is not shown; there the answer of PAUSE must do.
            let all_paused = moved.scope == Scope::Instance || names.iter().all(is_paused);
            let busy: u64 = self.pools(&names).await?.iter().map(|pool| pool.servers_busy).sum();
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
    pub(super) async fn resume(&self, moved: &Moved, waiting: &Waiting) -> Result<Served, Trouble> {
        self.lift_limit().await?;
        self.go_on(moved, waiting).await
    }

    /// What a pause that was broken off has set is forgotten with everything else that is not in the configuration.
    pub(super) async fn lift_limit(&self) -> Result<(), Trouble> {
        if self.setting(LIMIT).await? == LIMIT_WHILE_PAUSING { self.reload().await } else { Ok(()) }
    }

    async fn go_on(&self, moved: &Moved, waiting: &Waiting) -> Result<Served, Trouble> {
        self.retry_logins_at_once().await?;
        for database in moved.databases.iter().filter(|database| database.is_paused) {
            self.ask(&with_name("RESUME", &database.name)).await?;
        }
        self.resume_instance().await?;
        let served = self.served(&moved.names(), waiting).await?;
        self.retry_logins_as_usual().await?;
        Ok(served)
    }

    /// Whether all of it is paused is not shown. Asked to go on, it does so, or refuses because it was not paused: that we
    /// may ask it was shown by the command before.
    async fn resume_instance(&self) -> Result<(), Trouble> {
        let session = self.session().await?;
        let answer = session.ask("RESUME").await;
        self.keep(session);
        match answer {
            Ok(_) | Err(ConsoleError::Refused(_)) => Ok(()),
            Err(error) => Err(self.refused("RESUME", &error)),
        }
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
}

fn with_name(verb: &str, database: &str) -> String {
    format!("{verb} \"{}\"", database.replace('"', "\"\""))
}

/// Whether a pause has met connections that were being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logins {
    Untouched,
    BrokenOff,
}

/// Whether clients that waited have a server connection again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    Yes,
    /// They go on, but PgBouncer has not reached the server.
    NotYet,
}
