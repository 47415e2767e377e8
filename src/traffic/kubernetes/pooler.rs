//! `cnpg-pooler`: pauses a Pooler of CloudNativePG, which always fronts the cluster that is the configured target. On the way
//! forward it holds clients that are sent there early, and opens. On the way back it is what clients are held by: it is
//! paused when no pod has a connection to the database any more by its own metrics, since the Pooler's status only repeats
//! what was asked for; and it stays paused, because what is behind it is fenced.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::super::trouble::{Trouble, Waiting, within};
use super::super::{InRehearsals, Notes, Step, TrafficAdapter, TrafficContext, TrafficError, webhook};
use super::annotation::{self, Before};
use super::interference::{Field, changed_by, keepers};
use super::metrics::{Pools, pools};
use super::{Change, change, glance, merged, put_back, said};
use crate::config::{CnpgPoolerConfig, SessionPools};
use crate::kubernetes::{Effect, Kubernetes, KubernetesError, Resource, ResourceName};
use crate::model::{Direction, counted};

/// How often the pods are asked.
const POLL: Duration = Duration::from_millis(100);
/// How often in a row no pod must have a connection: an instant without one is not a pause.
const QUIET_ROUNDS: u32 = 2;
/// How long one pod may take to tell its metrics.
const METRICS_BOUND: Duration = Duration::from_secs(2);
/// The label of a pooler's pods.
const POOLER_LABEL: &str = "cnpg.io/poolerName";

/// The adapter.
#[derive(Debug)]
pub(in super::super) struct Pooler {
    config: CnpgPoolerConfig,
    api: Kubernetes,
    http: reqwest::Client,
}

/// What a pod says.
type Told = (String, Result<Pools, String>);

#[async_trait]
impl TrafficAdapter for Pooler {
    fn name(&self) -> String {
        format!("cnpg-pooler {}", self.config.pooler)
    }

    async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError> {
        let waiting = Waiting::default();
        let work = self.run(step, context, &waiting);
        let outcome = within(self.config.timeout, work, &waiting).await;
        outcome.map_err(|trouble| trouble.of(self.name(), step))
    }

    fn in_rehearsals(&self) -> InRehearsals {
        InRehearsals::Prepares
    }
}

impl Pooler {
    pub(in super::super) fn new(config: CnpgPoolerConfig) -> Result<Self, TrafficError> {
        // Pods are asked directly: a proxy for the way out of the cluster does not know them.
        let http =
            webhook::client().and_then(|client| client.no_proxy().build().map_err(|error| error.to_string()));
        let http = http.map_err(|problem| {
            let remedy = "Check the certificates that are installed in the container or on the machine.";
            Trouble::new(problem, remedy).of(format!("cnpg-pooler {}", config.pooler), Step::Prepare)
        })?;
        let api = Kubernetes::new(config.access.clone());
        Ok(Self { config, api, http })
    }

    async fn run(&self, step: Step, context: &TrafficContext, waiting: &Waiting) -> Result<Notes, Trouble> {
        let what = self.api.named(Resource::Pooler, &self.config.pooler).await?;
        let TrafficContext { direction, epoch, .. } = *context;
        let plan = |object: &Value| plan(step, direction, &what, object, epoch);
        match step {
            Step::Prepare => self.prepare(&what, context).await,
            Step::Retarget => Ok(Notes::new()),
            Step::Pause => {
                let note = change(&self.api, &what, Effect::Change, plan).await?;
                if direction == Direction::Back {
                    self.quiet(&what, waiting).await?;
                }
                Ok(said([note]))
            }
            Step::Resume | Step::Undo => {
                let note = put_back(&self.api, &what, step, plan).await?;
                let object = match self.api.get(&what).await {
                    Ok(object) => object,
                    // That is said already, or happened just now.
                    Err(KubernetesError::Missing { .. }) => return Ok(said([note])),
                    Err(error) => return Err(error.into()),
                };
                let open = if is_paused(&object) {
                    let is_meant = step == Step::Resume;
                    is_meant.then(|| format!("{what} stays paused: the database behind it is closed"))
                } else if leads_to_an_open_side(step, direction) {
                    self.served(waiting).await?
                } else {
                    None
                };
                Ok(said([note, open]))
            }
        }
    }

    async fn prepare(&self, what: &ResourceName, context: &TrafficContext) -> Result<Notes, Trouble> {
        let TrafficContext { direction, epoch, .. } = *context;
        let object = self.api.get(what).await?;
        check_mode(what, &object, self.config.session_pools)?;
        let later = |object: &Value| {
            let paused = plan(Step::Pause, direction, what, object, epoch)?;
            Ok(match paused {
                None => plan(Step::Resume, direction, what, object, epoch)?,
                some => some,
            })
        };
        change(&self.api, what, Effect::Trial, later).await?;
        // Asked in both directions: a right or a way that is missing is to be noticed before anybody waits.
        let told = self.told().await?;
        if direction == Direction::Back {
            let silent =
                told.iter().find_map(|(pod, told)| told.as_ref().err().map(|problem| (pod, problem)));
            if let Some((pod, problem)) = silent {
                return Err(Trouble::new(
                    format!(
                        "pod {pod} of {what} does not tell its metrics, which are the proof of a pause: {problem}"
                    ),
                    format!(
                        "Let pgsluice reach port {} of the pooler's pods (NetworkPolicy), or set `metrics_port`.",
                        self.config.metrics_port
                    ),
                ));
            }
        }
        let paused = is_paused(&object).then(|| format!("{what} is paused already"));
        Ok(paused.into_iter().chain(keepers(what, &object, &[field()])).collect())
    }

    /// Waits until no pod has a connection to the database any more.
    async fn quiet(&self, what: &ResourceName, waiting: &Waiting) -> Result<(), Trouble> {
        let mut rounds = 0;
        loop {
            let object = self.api.get(what).await?;
            let told = self.told().await?;
            match in_the_way(what, &object, &told) {
                None => rounds += 1,
                Some(text) => {
                    rounds = 0;
                    waiting.is(text);
                }
            }
            if rounds == QUIET_ROUNDS {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until no client waits at a pod that has no connection to the database. Whether PgBouncer has been resumed is not to
    /// be seen while nobody uses it; what cannot be seen is said, and held against nobody.
    async fn served(&self, waiting: &Waiting) -> Result<Option<String>, Trouble> {
        loop {
            let Some(Ok(pods)) = glance(self.config.timeout, self.pods()).await else {
                return Ok(Some("whether its clients are served could not be seen".into()));
            };
            let (told, mut stuck) = (self.told_by(pods).await, None);
            for (pod, told) in &told {
                match told {
                    Ok(Pools { servers: 0, waiting: clients @ 1.. }) => stuck = Some((pod, clients)),
                    Ok(_) => {}
                    Err(problem) => {
                        return Ok(Some(format!(
                            "whether clients of pod {pod} are served could not be seen: {problem}"
                        )));
                    }
                }
            }
            let Some((pod, clients)) = stuck else { return Ok(None) };
            waiting.is(format!(
                "{} of pod {pod} waiting and not served; a PAUSE that has not ended keeps PgBouncer from being resumed",
                counted(*clients, "client", "clients")
            ));
            tokio::time::sleep(POLL).await;
        }
    }

    /// What each pod that has not ended says of its pools now.
    async fn told(&self) -> Result<Vec<Told>, Trouble> {
        Ok(self.told_by(self.pods().await?).await)
    }

    async fn pods(&self) -> Result<Vec<Value>, KubernetesError> {
        let labels = format!("{POOLER_LABEL}={}", self.config.pooler);
        self.api.list(Resource::Pod, Some(&labels)).await
    }

    async fn told_by(&self, pods: Vec<Value>) -> Vec<Told> {
        let has_ended =
            |pod: &&Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let each = pods.iter().filter(|pod| !has_ended(pod)).map(async |pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            (name, self.metrics_of(pod).await.and_then(|text| pools(&text)))
        });
        join_all(each).await
    }

    async fn metrics_of(&self, pod: &Value) -> Result<String, String> {
        let address = pod["status"]["podIP"].as_str().ok_or("it has no address yet")?;
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let url = format!("http://{host}:{}/metrics", self.config.metrics_port);
        let answer = async {
            let answer = self.http.get(&url).send().await?.error_for_status()?;
            answer.text().await
        };
        match tokio::time::timeout(METRICS_BOUND, answer).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => {
                let cause =
                    std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                Err(format!("{error}{cause}"))
            }
            Err(_) => Err(format!("{url} does not answer")),
        }
    }
}

/// What a step does to the Pooler as it is found.
fn plan(
    step: Step,
    direction: Direction,
    what: &ResourceName,
    object: &Value,
    epoch: i64,
) -> Result<Option<Change>, Trouble> {
    // Absent, false and true are three different things to put back.
    let before: Option<Before<Option<bool>>> = annotation::read(object)?;
    let found = object["spec"]["pgbouncer"]["paused"].as_bool();
    let is_paused = found == Some(true);
    let forget = || Change { patch: annotation::removal(), note: String::new() };
    Ok(match (step, direction) {
        (Step::Prepare | Step::Retarget, _) => None,
        // By us, or by somebody before us: what was before is written down already, or it is this.
        (Step::Pause, _) if is_paused => None,
        (Step::Pause, _) => {
            let patch = merged(Before { epoch, was: found }.patch(), paused(Some(true)));
            Some(Change { patch, note: format!("{what} paused") })
        }
        (Step::Resume, Direction::Forward) if is_paused => {
            let patch = merged(annotation::removal(), paused(Some(false)));
            Some(Change { patch, note: format!("{what} open") })
        }
        (Step::Resume, _) => before.map(|before| {
            // Nothing is lost by it: who was let through is refused by the fence, or served by the side that is open by now.
            let told =
                || format!("{what} was set to go on in between, by {}", changed_by(object, &[field()]));
            let note = if before.epoch == epoch && !is_paused { told() } else { String::new() };
            Change { note, ..forget() }
        }),
        // Whichever operation wrote it down: one that was broken off left the Pooler paused.
        (Step::Undo, _) => before.map(|before| {
            let patch = merged(annotation::removal(), paused(before.was));
            let note = if is_paused { format!("{what} open as before") } else { String::new() };
            Change { patch, note }
        }),
    })
}

/// Whether clients are to be served behind the Pooler when the step is done: it always fronts the configured target. On the other
/// two ways that is closed, and who waits there would be waited for without end.
const fn leads_to_an_open_side(step: Step, direction: Direction) -> bool {
    matches!((step, direction), (Step::Resume, Direction::Forward) | (Step::Undo, Direction::Back))
}

/// What is changed.
fn field() -> Field {
    Field::of(&["spec", "pgbouncer", "paused"])
}

fn paused(paused: Option<bool>) -> Value {
    json!({ "spec": { "pgbouncer": { "paused": paused } } })
}

fn is_paused(object: &Value) -> bool {
    object["spec"]["pgbouncer"]["paused"] == true
}

/// In session mode a pause waits for clients to disconnect. It is the mode of a Pooler that names none.
fn check_mode(what: &ResourceName, object: &Value, session_pools: SessionPools) -> Result<(), Trouble> {
    let mode = object["spec"]["pgbouncer"]["poolMode"].as_str().unwrap_or("session");
    if mode != "session" || session_pools == SessionPools::Wait {
        return Ok(());
    }
    Err(Trouble::new(
        format!("{what} is in session mode: a pause would wait until each of its clients disconnects"),
        "Set spec.pgbouncer.poolMode to transaction where the applications allow it, or set session_pools = \"wait\" if their \
         sessions are short.",
    ))
}

/// Why it is not proven that the Pooler is paused.
fn in_the_way(what: &ResourceName, object: &Value, told: &[Told]) -> Option<String> {
    if !is_paused(object) {
        return Some(format!("{what} was set to go on, by {}", changed_by(object, &[field()])));
    }
    let wanted = object["spec"]["instances"].as_u64().unwrap_or(1);
    // A pod that is only coming starts unpaused, and may have clients before it has read what it is to be.
    if (told.len() as u64) < wanted {
        return Some(format!("{what} has {} of {wanted}", counted(told.len(), "pod", "pods")));
    }
    told.iter().find_map(|(pod, told)| match told {
        Ok(Pools { servers: 0, .. }) => None,
        Ok(Pools { servers, .. }) => Some(format!(
            "pod {pod} still has {} to the database",
            counted(*servers, "connection", "connections")
        )),
        Err(problem) => Some(format!("pod {pod} does not tell its metrics: {problem}")),
    })
}

#[cfg(test)]
mod tests;
