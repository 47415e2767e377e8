//! `kubernetes-secret`: leads applications to the other side by keys of a Secret, and restarts the workloads that read it when they
//! start. The values of both sides are in Secrets of their own, so what was before is said by the name of a side: no
//! value is ever kept, told or compared anywhere but in memory, and none has a place in an error. It is no fence, and `pause`
//! does nothing: applications that still run with the old values get the fence's error.

mod restart;
mod values;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use serde_json::Value;
use tokio::time::{Duration, Instant, timeout_at};

use super::super::trouble::{Trouble, Waiting, within};
use super::super::{InRehearsals, Notes, Step, TrafficAdapter, TrafficContext, TrafficError};
use super::{Change, change, named, put_back, said};
use crate::config::{KubernetesSecretConfig, Workload};
use crate::kubernetes::{Effect, Kubernetes, KubernetesError, Resource, ResourceName};
use crate::model::Direction;

use self::restart::Rollout;
use self::values::{Side, Values};

/// How often a rollout is looked at.
const POLL: Duration = Duration::from_millis(500);
/// The part of a step's bound in which rollouts are waited for: one that takes longer is to be told, and is no failure.
const PATIENCE: f64 = 0.9;

/// The adapter.
#[derive(Debug)]
pub(in super::super) struct Secret {
    config: KubernetesSecretConfig,
    api: Kubernetes,
}

/// One step of one operation.
struct Operation {
    epoch: i64,
    /// As no other one is called.
    name: String,
    left: Side,
    reached: Side,
    what: ResourceName,
}

#[async_trait]
impl TrafficAdapter for Secret {
    fn name(&self) -> String {
        format!("kubernetes-secret {}", self.config.secret)
    }

    async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError> {
        let work = self.run(step, context);
        let outcome = within(self.config.timeout, work, &Waiting::default()).await;
        outcome.map_err(|trouble| trouble.of(self.name(), step))
    }

    fn in_rehearsals(&self) -> InRehearsals {
        InRehearsals::Prepares
    }
}

impl Secret {
    pub(in super::super) fn new(config: KubernetesSecretConfig) -> Self {
        let api = Kubernetes::new(config.access.clone());
        Self { config, api }
    }

    async fn run(&self, step: Step, context: &TrafficContext) -> Result<Notes, Trouble> {
        let begun = Instant::now();
        let (left, reached) = match context.direction {
            Direction::Forward => (Side::Source, Side::Target),
            Direction::Back => (Side::Target, Side::Source),
        };
        let what = self.api.named(Resource::Secret, &self.config.secret).await?;
        let name = format!("{}-{}", context.epoch, context.nonce);
        let operation = Operation { epoch: context.epoch, name, left, reached, what };
        match step {
            Step::Prepare => self.prepare(&operation).await,
            Step::Pause => Ok(Notes::new()),
            Step::Retarget => self.retarget(&operation).await,
            Step::Resume => {
                let told = self.settle(&operation).await?;
                let until = begun + self.config.timeout.mul_f64(PATIENCE);
                let rollouts = self.config.restart.iter().map(|each| self.rolled_out(each, until));
                Ok(said(std::iter::once(told).chain(join_all(rollouts).await)))
            }
            Step::Undo => self.undo(&operation).await,
        }
    }

    /// Tries everything that comes later, without effect.
    async fn prepare(&self, operation: &Operation) -> Result<Notes, Trouble> {
        let Operation { epoch, left, what, .. } = operation;
        let (of_left, of_reached) =
            (self.values(operation.left).await?, self.values(operation.reached).await?);
        let checked = |object: &Value| {
            values::check(what, object, (*left, &of_left), (operation.reached, &of_reached))?;
            let planned = values::retarget(what, object, *epoch, *left, (operation.reached, &of_reached))?;
            let mut notes = vec![format!("{what} has the values of the {left}")];
            notes.extend(super::interference::keepers(what, object, &of_reached.fields()));
            Ok(planned.map(|Change { patch, .. }| Change { patch, note: notes.join("; ") }))
        };
        let note = change(&self.api, what, Effect::Trial, checked).await?;
        let at = now();
        let restarts = self.config.restart.iter().map(async |workload| -> Result<(), Trouble> {
            let what = named(&self.api, workload).await?;
            let tried = |object: &Value| {
                restart::check(&what, object)?;
                Ok(restart::plan(Step::Retarget, &what, object, (&operation.name, 1), &at))
            };
            change(&self.api, &what, Effect::Trial, tried).await?;
            Ok(())
        });
        try_join_all(restarts).await?;
        Ok(said([note]))
    }

    async fn retarget(&self, operation: &Operation) -> Result<Notes, Trouble> {
        let Operation { epoch, left, what, .. } = operation;
        let reached = self.values(operation.reached).await?;
        let led = AtomicU32::new(1);
        let plan = |object: &Value| {
            let planned = values::retarget(what, object, *epoch, *left, (operation.reached, &reached))?;
            let so_far = values::times_led(object, *epoch)?;
            led.store(so_far.saturating_add(u32::from(planned.is_some())).max(1), Ordering::Relaxed);
            Ok(planned)
        };
        // One that is gone leads nobody to the target: that is told until it is there, or taken out of the configuration.
        let note = change(&self.api, what, Effect::Change, plan).await?;
        // Once for each time that the Secret was led: what has started after somebody put it back reads the wrong values.
        let restart = (operation.name.as_str(), led.load(Ordering::Relaxed));
        let restarted = self
            .restart(&|what, object, at| restart::plan(Step::Retarget, what, object, restart, at))
            .await?;
        Ok(said(std::iter::once(note).chain(restarted)))
    }

    /// Forgets what was before. Somebody who has changed the values back meanwhile is named.
    async fn settle(&self, operation: &Operation) -> Result<Option<String>, Trouble> {
        let Operation { epoch, what, .. } = operation;
        let reached = self.values(operation.reached).await;
        let plan = |object: &Value| match &reached {
            Ok(values) => values::resume(what, object, *epoch, (operation.reached, values)),
            Err(trouble) => values::resume_unseen(what, object, &trouble.problem),
        };
        put_back(&self.api, what, Step::Resume, plan).await
    }

    async fn undo(&self, operation: &Operation) -> Result<Notes, Trouble> {
        let Operation { epoch, left, what, .. } = operation;
        let values = self.values(*left).await;
        let was_changed = AtomicBool::new(false);
        let plan = |object: &Value| {
            if !values::is_of(object, *epoch)? {
                return Ok(None);
            }
            let values = values.as_ref().map_err(Trouble::again)?;
            was_changed.store(true, Ordering::Relaxed);
            Ok(Some(values::undo(what, (*left, values))))
        };
        let note = put_back(&self.api, what, Step::Undo, plan).await?;
        let was_changed = was_changed.load(Ordering::Relaxed);
        // Also when an undo before this one was broken off between the Secret and the workloads.
        let plan = |what: &ResourceName, object: &Value, at: &str| {
            let is_due = was_changed || restart::was_for(object, Step::Retarget, &operation.name);
            is_due.then(|| restart::plan(Step::Undo, what, object, (&operation.name, 1), at)).flatten()
        };
        let restarted = self.restart(&plan).await?;
        Ok(said(std::iter::once(note).chain(restarted)))
    }

    /// The values of a side, from the Secret that holds them.
    async fn values(&self, side: Side) -> Result<Values, Trouble> {
        let name = match side {
            Side::Source => &self.config.source_from,
            Side::Target => &self.config.target_from,
        };
        let what = self.api.named(Resource::Secret, name).await?;
        Values::of(&what, &self.api.get(&what).await?, &self.config.keys)
    }

    /// Restarts each workload, as `plan` says. As many as possible, whatever fails; one that is gone has nobody to be led anywhere.
    async fn restart(
        &self,
        plan: &(dyn Fn(&ResourceName, &Value, &str) -> Option<Change> + Sync),
    ) -> Result<Vec<Option<String>>, Trouble> {
        let at = now();
        let each = self.config.restart.iter().map(async |workload| -> Result<Option<String>, Trouble> {
            let what = named(&self.api, workload).await?;
            let planned = |object: &Value| Ok(plan(&what, object, &at));
            match change(&self.api, &what, Effect::Change, planned).await {
                Err(super::Unchanged::Api(KubernetesError::Missing { .. })) => {
                    Ok(Some(format!("{what} is gone, and not restarted")))
                }
                done => Ok(done?),
            }
        });
        join_all(each).await.into_iter().collect()
    }

    /// Waits until the pods of a workload are new ones. What takes too long, fails or cannot be seen is told: clients that are still
    /// old get the fence's error, and nobody is helped by a step that does not end.
    async fn rolled_out(&self, workload: &Workload, until: Instant) -> Option<String> {
        let what = match named(&self.api, workload).await {
            Ok(what) => what,
            Err(error) => return Some(format!("the rollout of {workload} could not be seen: {error}")),
        };
        loop {
            let object = match timeout_at(until, self.api.get(&what)).await {
                Ok(Ok(object)) => object,
                Ok(Err(KubernetesError::Missing { .. })) => return None,
                Ok(Err(error)) => return Some(format!("the rollout of {what} could not be seen: {error}")),
                Err(_) => {
                    return Some(format!(
                        "the rollout of {what} could not be seen: the API server does not answer"
                    ));
                }
            };
            let is_late = Instant::now() + POLL >= until;
            match restart::rollout(&object) {
                Rollout::Complete => return None,
                Rollout::Failed(why) => {
                    return Some(format!(
                        "the rollout of {what} has failed ({why}): pods that are still old find the side that is closed; `kubectl rollout status`, `kubectl describe`"
                    ));
                }
                Rollout::Incomplete(how) if is_late => {
                    return Some(format!(
                        "the rollout of {what} is not complete yet ({how}): pods that are still old find the side that is closed"
                    ));
                }
                Rollout::Incomplete(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// For people: as kubectl writes it.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
