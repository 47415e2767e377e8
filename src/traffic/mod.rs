//! How clients are moved: one trait, several adapters, in the order of the configuration. An adapter does what it
//! is told for one step of the cutover, within a bound of time, and any number of times; it never decides when a
//! step is due, and never learns a password.

mod exec;
mod kubernetes;
mod manual;
mod pgbouncer;
mod trouble;
mod webhook;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde::Serialize;

use crate::config::TrafficConfig;
use crate::connection::ConnectionSettings;
use crate::migration::CutoverMode;
use crate::model::Direction;

use self::trouble::Trouble;

pub use manual::OperatorsWord;

/// A step of the cutover, as the adapters see it.
///
/// `Prepare` comes while arming, without effect on clients; `Pause` right before the fence; `Retarget` after the
/// fence is committed and the target is open; `Resume` after every adapter has retargeted; `Undo` instead of the
/// last two when the cutover is rolled back, and once more by the next start after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Find out whether the later steps can work.
    Prepare,
    /// Hold clients back.
    Pause,
    /// Send clients to the target.
    Retarget,
    /// Let clients go on.
    Resume,
    /// Put everything back: clients go on at the source.
    Undo,
}

impl Step {
    /// The name that programs and webhooks are given.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Pause => "pause",
            Self::Retarget => "retarget",
            Self::Resume => "resume",
            Self::Undo => "undo",
        }
    }
}

/// Where a database is, without who connects and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Host name, address, or directory of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: String,
}

impl From<&ConnectionSettings> for Endpoint {
    fn from(settings: &ConnectionSettings) -> Self {
        Self { host: settings.host(), port: settings.port(), database: settings.database().to_owned() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// What an adapter may know of the operation.
#[derive(Clone, Debug)]
pub struct TrafficContext {
    /// The operation: the same in every step, and in a repetition of it.
    pub epoch: i64,
    /// Real or rehearsal.
    pub mode: CutoverMode,
    /// Which of the configured databases is left, and which is reached.
    pub direction: Direction,
    /// The attempt.
    pub nonce: String,
    /// The database that is left.
    pub source: Endpoint,
    /// The database that is reached.
    pub target: Endpoint,
}

impl TrafficContext {
    const fn mode_name(&self) -> &'static str {
        match self.mode {
            CutoverMode::Cutover => "cutover",
            CutoverMode::Rehearsal => "rehearsal",
        }
    }
}

/// An adapter could not do a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the traffic adapter {adapter} could not {}: {problem}", .step.as_str())]
pub struct TrafficError {
    /// Which one.
    pub adapter: String,
    /// Which step.
    pub step: Step,
    /// What went wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// What a step did, in a few words each, for the step's detail in the journal: `deployment shop/web 3 → 0`. No secrets.
pub type Notes = Vec<String>;

/// One way to move clients.
#[async_trait]
pub trait TrafficAdapter: Send + Sync + fmt::Debug {
    /// Its kind and what tells it from others, for messages: `exec /usr/local/bin/switch`. No secrets.
    fn name(&self) -> String;

    /// Does `step`. Repeating a step that was done changes nothing. Returns within the adapter's bound; dropping
    /// the future stops whatever was started for it.
    async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError>;

    /// What a rehearsal makes of its `prepare`. An adapter that runs something of the operator's is not told of one.
    fn in_rehearsals(&self) -> InRehearsals {
        InRehearsals::NotTold
    }
}

/// Whether an adapter takes part in a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InRehearsals {
    /// It is told nothing.
    NotTold,
    /// It prepares, which is certain to change nothing.
    Prepares,
}

/// The adapters of a configuration.
#[derive(Debug, Default)]
pub struct Traffic {
    adapters: Vec<Box<dyn TrafficAdapter>>,
}

impl Traffic {
    /// Builds them. `word` is what `manual` adapters wait for.
    ///
    /// # Errors
    /// A token file cannot be read, or TLS cannot be set up.
    pub fn new(configured: &[TrafficConfig], word: &OperatorsWord) -> Result<Self, TrafficError> {
        let adapters = configured.iter().map(|each| adapter(each, word)).collect::<Result<_, _>>()?;
        Ok(Self { adapters })
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.adapters.is_empty()
    }

    /// Has every adapter do `step`: `Retarget` one after the other in the configured order, everything else at
    /// the same time. All are tried even if one fails.
    ///
    /// # Errors
    /// The first adapter's that failed.
    pub async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError> {
        if step == Step::Retarget {
            let mut notes = Notes::new();
            for adapter in &self.adapters {
                notes.extend(adapter.perform(step, context).await?);
            }
            return Ok(notes);
        }
        let all = self.adapters.iter().map(|adapter| adapter.perform(step, context));
        let each: Vec<Notes> = join_all(all).await.into_iter().collect::<Result<_, _>>()?;
        Ok(each.concat())
    }
}

impl Traffic {
    /// What a cutover would be told while it is arming, by those adapters whose `prepare` only looks. That one of them would refuse is
    /// no reason against a rehearsal, and worth knowing before the cutover.
    pub async fn rehearse(&self, context: &TrafficContext) -> Notes {
        let looking =
            self.adapters.iter().filter(|adapter| adapter.in_rehearsals() == InRehearsals::Prepares);
        let each = join_all(looking.map(|adapter| adapter.perform(Step::Prepare, context))).await;
        let told = |outcome: Result<Notes, TrafficError>| {
            outcome
                .unwrap_or_else(|error| vec![format!("a cutover would end here: {error}. {}", error.remedy)])
        };
        each.into_iter().flat_map(told).collect()
    }
}

fn adapter(
    configured: &TrafficConfig,
    word: &OperatorsWord,
) -> Result<Box<dyn TrafficAdapter>, TrafficError> {
    Ok(match configured {
        TrafficConfig::Exec { command, timeout } => Box::new(exec::Exec::new(command.clone(), *timeout)),
        TrafficConfig::Webhook { url, token_file, timeout } => {
            let token = token_file.as_ref().map(read_token).transpose()?;
            Box::new(webhook::Webhook::new(url.clone(), token, *timeout)?)
        }
        TrafficConfig::Manual { instruction, timeout } => {
            Box::new(manual::Manual::new(instruction.clone(), *timeout, word.clone()))
        }
        TrafficConfig::Pgbouncer(config) => Box::new(pgbouncer::Pgbouncer::new(config.clone())),
        TrafficConfig::KubernetesService(config) => Box::new(kubernetes::Service::new(config.clone())),
        TrafficConfig::KubernetesScale(config) => Box::new(kubernetes::Scale::new(config.clone())),
        TrafficConfig::KubernetesSecret(config) => Box::new(kubernetes::Secret::new(config.clone())),
        TrafficConfig::CnpgPooler(config) => Box::new(kubernetes::Pooler::new(config.clone())?),
    })
}

fn read_token(path: &PathBuf) -> Result<String, TrafficError> {
    let failed = |problem: String| TrafficError {
        adapter: "webhook".into(),
        step: Step::Prepare,
        problem,
        remedy: format!("Check the file {} that `traffic.token_file` names.", path.display()),
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| failed(format!("its token file cannot be read ({error})")))?;
    let token = text.trim();
    if token.is_empty() { Err(failed("its token file is empty".into())) } else { Ok(token.to_owned()) }
}

/// An error whose bound has passed.
fn too_late(adapter: String, step: Step, bound: Duration) -> TrafficError {
    Trouble::too_late(bound).of(adapter, step)
}

#[cfg(test)]
mod tests;
