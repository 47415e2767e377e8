//! `kubernetes-scale`: scales workloads to zero for the pause, and back once clients have another database to go to, or when it
//! is undone. A pause is over only when the pods have ended: a Deployment reports no replicas from the moment they are told
//! to. How many replicas there were is kept in an annotation of each workload, and never counted from a workload that stands
//! at zero because of us. A workload that somebody scales up in between stays as they want it; who that was is told.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;
use serde_json::{Value, json};

use super::super::trouble::{Trouble, Waiting, within};
use super::super::{InRehearsals, Notes, Step, TrafficAdapter, TrafficContext, TrafficError};
use super::annotation::{self, Before};
use super::interference::{Field, autoscaled, changed_by, keepers};
use super::{Change, change, glance, merged, named, put_back, said};
use crate::config::{KubernetesScaleConfig, Workload};
use crate::kubernetes::{Effect, Kubernetes, Resource, ResourceName};
use crate::model::counted;

/// How often the pods are looked for while they end.
const POLL: Duration = Duration::from_millis(200);
/// How many of them are named.
const SHOWN_MAX: usize = 3;

/// The adapter.
#[derive(Debug)]
pub(in super::super) struct Scale {
    config: KubernetesScaleConfig,
    api: Kubernetes,
}

#[async_trait]
impl TrafficAdapter for Scale {
    fn name(&self) -> String {
        let names: Vec<&str> = self.config.workloads.iter().map(|workload| workload.name.as_str()).collect();
        format!("kubernetes-scale {}", names.join(", "))
    }

    async fn perform(&self, step: Step, context: &TrafficContext) -> Result<Notes, TrafficError> {
        let waiting = Waiting::default();
        let work = self.run(step, context.epoch, &waiting);
        let outcome = within(self.config.timeout, work, &waiting).await;
        outcome.map_err(|trouble| trouble.of(self.name(), step))
    }

    fn in_rehearsals(&self) -> InRehearsals {
        InRehearsals::Prepares
    }
}

impl Scale {
    pub(in super::super) fn new(config: KubernetesScaleConfig) -> Self {
        let api = Kubernetes::new(config.access.clone());
        Self { config, api }
    }

    async fn run(&self, step: Step, epoch: i64, waiting: &Waiting) -> Result<Notes, Trouble> {
        let workloads = &self.config.workloads;
        match step {
            Step::Prepare => {
                let autoscalers = self.api.list(Resource::HorizontalPodAutoscaler, None).await?;
                let each = workloads.iter().map(|workload| self.prepare(workload, epoch, &autoscalers));
                Ok(try_join_all(each).await?.concat())
            }
            Step::Pause => {
                let each = workloads.iter().map(|workload| self.pause(workload, epoch, waiting));
                Ok(said(try_join_all(each).await?))
            }
            Step::Retarget => {
                let each = workloads.iter().map(|workload| self.look(workload, epoch));
                Ok(said(join_all(each).await))
            }
            Step::Resume | Step::Undo => {
                // Whatever fails, as many as possible come back.
                let each = workloads.iter().map(|workload| self.bring_back(step, workload, epoch));
                let notes: Vec<_> = join_all(each).await.into_iter().collect::<Result<_, _>>()?;
                Ok(said(notes))
            }
        }
    }

    async fn prepare(
        &self,
        workload: &Workload,
        epoch: i64,
        autoscalers: &[Value],
    ) -> Result<Notes, Trouble> {
        let what = named(&self.api, workload).await?;
        let object = self.api.get(&what).await?;
        selector(&what, &object)?;
        change(&self.api, &what, Effect::Trial, |object| plan(Step::Pause, &what, object, epoch)).await?;
        let mut notes = vec![match replicas(&object) {
            1 => format!("{what} has 1 replica"),
            count => format!("{what} has {count} replicas"),
        }];
        notes.extend(autoscaled(&what, autoscalers)?);
        notes.extend(keepers(&what, &object, &[field()]));
        Ok(notes)
    }

    async fn pause(
        &self,
        workload: &Workload,
        epoch: i64,
        waiting: &Waiting,
    ) -> Result<Option<String>, Trouble> {
        let what = named(&self.api, workload).await?;
        let note = change(&self.api, &what, Effect::Change, |object| plan(Step::Pause, &what, object, epoch))
            .await?;
        loop {
            let object = self.api.get(&what).await?;
            let pods = self.api.list(Resource::Pod, Some(&selector(&what, &object)?)).await?;
            match still_there(&what, &object, &pods) {
                None => return Ok(note),
                Some(text) => waiting.is(text),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether somebody has brought it back too early. It is only told: the fence refuses what it would write on the side that
    /// is left, and what cannot be seen, or not soon, is no reason to keep the others waiting.
    async fn look(&self, workload: &Workload, epoch: i64) -> Option<String> {
        let seen = glance(self.config.timeout, async {
            let what = named(&self.api, workload).await.ok()?;
            let object = self.api.get(&what).await.ok()?;
            brought_back(&what, &object, epoch)
        });
        seen.await.flatten()
    }

    async fn bring_back(
        &self,
        step: Step,
        workload: &Workload,
        epoch: i64,
    ) -> Result<Option<String>, Trouble> {
        let what = named(&self.api, workload).await?;
        put_back(&self.api, &what, step, |object| plan(step, &what, object, epoch)).await
    }
}

/// What a step does to a workload as it is found.
fn plan(step: Step, what: &ResourceName, object: &Value, epoch: i64) -> Result<Option<Change>, Trouble> {
    let before: Option<Before<u32>> = annotation::read(object)?;
    let now = replicas(object);
    Ok(match step {
        Step::Prepare | Step::Retarget => None,
        // At zero because of us, or because somebody wants it there: in either case there is nothing to be counted.
        Step::Pause if now == 0 => None,
        Step::Pause => {
            let patch = merged(Before { epoch, was: now }.patch(), scaled(0));
            Some(Change { patch, note: format!("{what} {now} → 0") })
        }
        // Whichever operation wrote it down: one that was broken off left the workload at zero.
        Step::Resume | Step::Undo => before.map(|Before { was, .. }| match now {
            0 => Change {
                patch: merged(annotation::removal(), scaled(was)),
                note: format!("{what} 0 → {was}, not waited for"),
            },
            now => {
                let who = changed_by(object, &[field()]);
                let note = format!("{what} stays at {now}: it was scaled since, by {who}");
                Change { patch: annotation::removal(), note }
            }
        }),
    })
}

/// A workload that has replicas although this operation has scaled it to zero, and who did that.
fn brought_back(what: &ResourceName, object: &Value, epoch: i64) -> Option<String> {
    let before: Option<Before<u32>> = annotation::read(object).ok()?;
    let now = replicas(object);
    (now > 0 && before?.epoch == epoch).then(|| {
        format!(
            "{what} was scaled to {now} in the middle of the pause, by {}: its pods may have found the side that is closed",
            changed_by(object, &[field()])
        )
    })
}

/// What is changed.
fn field() -> Field {
    Field::of(&["spec", "replicas"])
}

fn scaled(replicas: u32) -> Value {
    json!({ "spec": { "replicas": replicas } })
}

/// Without a number Kubernetes takes it for one.
fn replicas(object: &Value) -> u32 {
    object["spec"]["replicas"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(1)
}

/// As a list of pods is asked for.
fn selector(what: &ResourceName, object: &Value) -> Result<String, Trouble> {
    let unusable = |problem: String| {
        Trouble::new(
            format!("the selector of {what} is not understood ({problem})"),
            "Look at its spec.selector.",
        )
    };
    let labels: LabelSelector = serde_json::from_value(object["spec"]["selector"].clone())
        .map_err(|error| unusable(error.to_string()))?;
    let selector = Selector::try_from(labels).map_err(|error| unusable(error.to_string()))?;
    // An empty one would list every pod of the namespace.
    if selector.selects_all() { Err(unusable("it is empty".into())) } else { Ok(selector.to_string()) }
}

/// What the pause still waits for.
fn still_there(what: &ResourceName, object: &Value, pods: &[Value]) -> Option<String> {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    if number(&object["status"]["observedGeneration"]) < number(&object["metadata"]["generation"]) {
        return Some(format!("its controller has not seen yet that {what} is to have no replicas"));
    }
    if object["spec"]["replicas"].as_u64().is_some_and(|count| count > 0) {
        return Some(format!("{what} was scaled up again, by {}", changed_by(object, &[field()])));
    }
    let has_ended = |pod: &&Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let names: Vec<&str> = pods
        .iter()
        .filter(|pod| !has_ended(pod))
        .filter_map(|pod| pod["metadata"]["name"].as_str())
        .collect();
    let replicas = number(&object["status"]["replicas"]);
    if names.is_empty() && replicas <= 0 {
        return None;
    }
    let shown: Vec<&str> = names.iter().take(SHOWN_MAX).copied().collect();
    let more = if names.len() > SHOWN_MAX { ", …" } else { "" };
    Some(format!("{what} still has {}: {}{more}", counted(names.len(), "pod", "pods"), shown.join(", ")))
}

#[cfg(test)]
mod tests;
