//! `pgbouncer`: pauses PgBouncer's databases, leads them to the other side, and lets them go on. Clients wait meanwhile and
//! see no error. Any number of instances is worked on at the same time. What is to be done follows from what the consoles
//! show and from the file, never from memory, so that a fresh process can do any step, and undo in any state.

mod console;
mod file;
mod ini;
mod route;
mod rows;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};

use self::console::{Console, Served};
use self::route::{Place, Route, leading_to, named};
use self::rows::{Database, Moved, Scope};
use super::exec::Exec;
use super::trouble::{Trouble, Waiting, within};
use super::{Notes, Step, TrafficAdapter, TrafficContext, TrafficError};
use crate::config::{PgbouncerConfig, PgbouncerRewrite, SessionPools};

/// How often the consoles are asked whether they lead where they should.
const POLL: Duration = Duration::from_millis(5);

/// The adapter.
#[derive(Debug)]
pub(super) struct Pgbouncer {
    config: PgbouncerConfig,
    consoles: Vec<Console>,
}

#[async_trait]
impl TrafficAdapter for Pgbouncer {
    fn name(&self) -> String {
        let names: Vec<String> = self.consoles.iter().map(Console::name).collect();
        format!("pgbouncer {}", names.join(", "))
    }

    async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError> {
        let waiting = Waiting::default();
        let work = self.run(step, context, &waiting);
        within(self.config.timeout, work, &waiting)
            .await
            .map(|()| Notes::new())
            .map_err(|trouble| trouble.of(self.name(), step))
    }
}

impl Pgbouncer {
    pub(super) fn new(config: PgbouncerConfig) -> Self {
        let consoles = config.consoles.iter().cloned().map(Console::new).collect();
        Self { config, consoles }
    }

    async fn run(&self, step: Step, context: &TrafficContext, waiting: &Waiting) -> Result<(), Trouble> {
        let route = Route::of(&self.config, context);
        match step {
            Step::Prepare => self.prepare(&route, context).await,
            Step::Pause => {
                let each = self.consoles.iter().map(async |console| {
                    let moved = self.moved(console, &[&route.left]).await?;
                    console.pause(&moved, waiting).await
                });
                try_join_all(each).await.map(drop)
            }
            Step::Retarget => self.retarget(&route, context, waiting).await,
            Step::Resume => self.resume(&route, waiting).await,
            Step::Undo => self.undo(&route, context, waiting).await,
        }
    }

    async fn prepare(&self, route: &Route, context: &TrafficContext) -> Result<(), Trouble> {
        if route.left == route.reached {
            return Err(Trouble::new(
                format!("for PgBouncer both sides are {}", route.left),
                "Set `source_address` and `target_address` to the two addresses at which PgBouncer reaches them.",
            ));
        }
        let mut names = Vec::new();
        for console in &self.consoles {
            let moved = self.moved(console, &[&route.left]).await?;
            self.prepare_console(console, &moved, route).await?;
            names.extend(moved.names());
            if let PgbouncerRewrite::File(path) = &self.config.rewrite {
                file::is_writable(path).map_err(|error| unusable(path, &error))?;
                check_entries(path, &read(path)?, console, &moved.databases)?;
            }
        }
        if let PgbouncerRewrite::Command(command) = &self.config.rewrite {
            self.run_command(command, Step::Prepare, route, &names, context).await?;
        }
        Ok(())
    }

    async fn prepare_console(&self, console: &Console, moved: &Moved, route: &Route) -> Result<(), Trouble> {
        let databases = &moved.databases;
        let version = console.version().await?;
        console.lift_limit().await?;
        // Changes nothing, unless a predecessor left something, and shows that we may change something.
        console.retry_logins_as_usual().await?;
        for database in databases {
            let at = format!("the database {} of PgBouncer at {}", database.name, console.name());
            if database.place == route.reached {
                let remedy = "Lead it to the side that is left, or take it out of `databases`.";
                return Err(Trouble::new(format!("{at} leads to {} already", database.place), remedy));
            }
            if database.is_paused {
                let remedy =
                    format!("Find out who paused it, then `RESUME {}` on the console.", database.name);
                return Err(Trouble::new(format!("{at} is paused already"), remedy));
            }
            if database.min_pool_size > 0 && moved.scope == Scope::Databases {
                return Err(Trouble::new(
                    format!(
                        "{at} has min_pool_size = {}, and there are other databases: clients would see errors while it alone is paused",
                        database.min_pool_size
                    ),
                    "Set min_pool_size = 0 until the clients are moved, or give the database a PgBouncer of its own.",
                ));
            }
        }
        let in_session_mode = console.in_session_mode(databases).await?;
        if !in_session_mode.is_empty() && self.config.session_pools == SessionPools::Refuse {
            return Err(Trouble::new(
                format!(
                    "PgBouncer at {} has pools in session mode ({}): a pause would wait until each of their clients disconnects",
                    console.name(),
                    in_session_mode.join(", ")
                ),
                "Use pool_mode = transaction where the applications allow it, or set session_pools = \"wait\" if their sessions are short.",
            ));
        }
        tracing::info!(console = %console.name(), %version, databases = databases.len(), "pgbouncer is ready to be paused");
        Ok(())
    }

    /// The databases that are moved: the configured ones, or those that lead to one of `places`.
    async fn moved(&self, console: &Console, places: &[&Place]) -> Result<Moved, Trouble> {
        let all = console.databases().await?;
        let databases = match &self.config.databases {
            Some(names) => named(&all, names, console)?,
            None => leading_to(&all, places, console)?,
        };
        let scope = if databases.len() == all.len() { Scope::Instance } else { Scope::Databases };
        Ok(Moved { databases, scope })
    }

    /// As [`Self::moved`] for every console; the names of all of them.
    async fn names_moved(&self, route: &Route) -> Result<Vec<String>, Trouble> {
        let places = [&route.left, &route.reached];
        let each = try_join_all(self.consoles.iter().map(|console| self.moved(console, &places))).await?;
        let mut names: Vec<String> = each.iter().flat_map(Moved::names).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn retarget(
        &self,
        route: &Route,
        context: &TrafficContext,
        waiting: &Waiting,
    ) -> Result<(), Trouble> {
        let names = self.names_moved(route).await?;
        match &self.config.rewrite {
            PgbouncerRewrite::File(path) => {
                rewrite(path, |text| ini::lead_to(text, &names, &route.reached, context.epoch))?;
            }
            PgbouncerRewrite::Command(command) => {
                self.run_command(command, Step::Retarget, route, &names, context).await?;
            }
        }
        let each = self.consoles.iter().map(async |console| {
            let moved = self.moved(console, &[&route.left, &route.reached]).await?;
            match moved.scope {
                Scope::Instance => led(console, &moved.names(), &route.reached, waiting).await,
                // From the reload on a client that comes anew makes PgBouncer try in vain to connect, unless all of it is
                // paused: so it comes right before clients go on.
                Scope::Databases => Ok(()),
            }
        });
        try_join_all(each).await.map(drop)
    }

    async fn resume(&self, route: &Route, waiting: &Waiting) -> Result<(), Trouble> {
        let each = self.consoles.iter().map(async |console| {
            let mut moved = self.moved(console, &[&route.left, &route.reached]).await?;
            if moved.databases.iter().any(|database| database.place != route.reached) {
                led(console, &moved.names(), &route.reached, waiting).await?;
                moved = self.moved(console, &[&route.reached]).await?;
            }
            match console.resume(&moved, waiting).await? {
                Served::Yes => Ok(()),
                Served::NotYet => Err(Trouble::new(
                    format!("PgBouncer at {} does not reach {}, and its clients wait", console.name(), route.reached),
                    "Look into PgBouncer's log; check addresses, network policies and pg_hba.conf between it and that server.",
                )),
            }
        });
        all(join_all(each).await)?;
        match &self.config.rewrite {
            PgbouncerRewrite::File(path) => rewrite(path, ini::forget),
            PgbouncerRewrite::Command(_) => Ok(()),
        }
    }

    /// Whatever fails, as many clients as possible go on.
    async fn undo(&self, route: &Route, context: &TrafficContext, waiting: &Waiting) -> Result<(), Trouble> {
        let back = match &self.config.rewrite {
            PgbouncerRewrite::File(path) => rewrite(path, |text| ini::put_back(text, context.epoch)),
            PgbouncerRewrite::Command(command) => {
                // A console that is down must not keep the others from their way back.
                let names = self.names_moved(route).await.unwrap_or_default();
                self.run_command(command, Step::Undo, route, &names, context).await
            }
        };
        let each = self.consoles.iter().map(async |console| {
            let moved = self.moved(console, &[&route.left, &route.reached]).await?;
            let names = moved.names();
            let expected = self.expected_after_undo(&names, route);
            let is_back = |database: &Database| expected.get(&database.name) == Some(&database.place);
            if !moved.databases.iter().all(is_back) {
                console.reload().await?;
                leads_to(console, &names, |name| expected.get(name), waiting).await?;
            }
            if console.resume(&moved, waiting).await? == Served::NotYet {
                tracing::warn!(console = %console.name(), "clients go on, and pgbouncer has not reached the server yet");
            }
            Ok(())
        });
        let resumed = all(join_all(each).await);
        back.and(resumed)
    }

    /// Where the databases lead once everything is put back: as the file says, or to the side that was to be left.
    fn expected_after_undo(&self, names: &[String], route: &Route) -> BTreeMap<String, Place> {
        let in_file = match &self.config.rewrite {
            PgbouncerRewrite::File(path) => read(path).map(|text| ini::entries(&text)).unwrap_or_default(),
            PgbouncerRewrite::Command(_) => BTreeMap::new(),
        };
        let place = |name: &String| in_file.get(name).unwrap_or(&route.left).clone();
        names.iter().map(|name| (name.clone(), place(name))).collect()
    }

    async fn run_command(
        &self,
        command: &[String],
        step: Step,
        route: &Route,
        names: &[String],
        context: &TrafficContext,
    ) -> Result<(), Trouble> {
        let context = TrafficContext {
            source: route.left.endpoint(),
            target: route.reached.endpoint(),
            ..context.clone()
        };
        let program = Exec::new(command.to_owned(), self.config.timeout);
        let outcome = program.run(step, &context, &[("PGSLUICE_DATABASES", names.join(","))]).await;
        outcome.map_err(|error| {
            Trouble::new(format!("{} failed: {}", error.adapter, error.problem), error.remedy)
        })
    }
}

/// Has PgBouncer read its configuration again, and waits until `names` lead to `place`.
async fn led(console: &Console, names: &[String], place: &Place, waiting: &Waiting) -> Result<(), Trouble> {
    console.reload().await?;
    leads_to(console, names, |_| Some(place), waiting).await
}

/// Waits until every one of `names` leads where it should.
async fn leads_to<'a>(
    console: &Console,
    names: &[String],
    expected: impl Fn(&str) -> Option<&'a Place>,
    waiting: &Waiting,
) -> Result<(), Trouble> {
    loop {
        let databases = console.databases().await?;
        let mut moved = databases.iter().filter(|database| names.contains(&database.name));
        let Some(astray) = moved.find(|database| expected(&database.name) != Some(&database.place)) else {
            return Ok(());
        };
        waiting.is(format!(
            "after RELOAD, {} of PgBouncer at {} still leads to {}; does it read the file that was rewritten? its log may say more",
            astray.name,
            console.name(),
            astray.place
        ));
        tokio::time::sleep(POLL).await;
    }
}

/// Whether the file is the one this PgBouncer has read.
fn check_entries(path: &Path, text: &str, console: &Console, databases: &[Database]) -> Result<(), Trouble> {
    let entries = ini::entries(text);
    for Database { name, place, .. } in databases {
        match entries.get(name) {
            Some(found) if found == place => {}
            Some(found) => {
                return Err(Trouble::new(
                    format!(
                        "{name} leads to {found} in {}, and to {place} in PgBouncer at {}",
                        path.display(),
                        console.name()
                    ),
                    "Check that `config_file` is the file this PgBouncer reads; RELOAD it if the file was changed.",
                ));
            }
            None => {
                return Err(Trouble::new(
                    format!("the file {} has no line for {name} in [databases]", path.display()),
                    "Name the file in which it stands in `config_file`, or give the database a line of its own if it goes by the `*` line.",
                ));
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Trouble> {
    file::read(path).map_err(|error| unusable(path, &error))
}

/// Writes the file only if `change` changes it. On this very thread: a write that went on elsewhere after the step was
/// given up could overtake the undo.
fn rewrite(path: &Path, change: impl FnOnce(&str) -> String) -> Result<(), Trouble> {
    let text = read(path)?;
    let changed = change(&text);
    if changed == text {
        return Ok(());
    }
    file::write(path, &changed).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &std::io::Error) -> Trouble {
    Trouble::new(
        format!("the file {} cannot be read or written ({error})", path.display()),
        "Check `config_file`, and that pgsluice may read and write it and its directory.",
    )
}

/// The first failure, after all were tried.
fn all(outcomes: Vec<Result<(), Trouble>>) -> Result<(), Trouble> {
    outcomes.into_iter().collect()
}
