//! `kubernetes-scale`: scales workloads to zero for the pause, and back once clients have another database to go to, or when it
//! is undone. A pause is over only when the pods have ended: a Deployment reports no replicas from the moment they are told
//! to. How many replicas there were is kept in an annotation of each workload, and never counted from a workload that stands
//! at zero because of us.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;
use serde_json::{Value, json};

use super::super::trouble::{Trouble, Waiting, within};
use super::super::{Notes, Step, TrafficAdapter, TrafficContext, TrafficError};
use super::annotation::{self, Before};
use super::{Change, change, merged, put_back, said};
use crate::config::{KubernetesScaleConfig, Workload, WorkloadKind};
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
            Step::Retarget => Ok(Notes::new()),
            Step::Resume | Step::Undo => {
                // Whatever fails, as many as possible come back.
                let each = workloads.iter().map(|workload| self.bring_back(step, workload, epoch));
                let notes: Vec<_> = join_all(each).await.into_iter().collect::<Result<_, _>>()?;
                Ok(said(notes))
            }
        }
    }

    async fn named(&self, workload: &Workload) -> Result<ResourceName, Trouble> {
        let resource = match workload.kind {
            WorkloadKind::Deployment => Resource::Deployment,
            WorkloadKind::StatefulSet => Resource::StatefulSet,
        };
        Ok(self.api.named(resource, &workload.name).await?)
    }

    async fn prepare(
        &self,
        workload: &Workload,
        epoch: i64,
        autoscalers: &[Value],
    ) -> Result<Notes, Trouble> {
        let what = self.named(workload).await?;
        let object = self.api.get(&what).await?;
        selector(&what, &object)?;
        change(&self.api, &what, Effect::Trial, |object| plan(Step::Pause, &what, object, epoch)).await?;
        let mut notes = vec![match replicas(&object) {
            1 => format!("{what} has 1 replica"),
            count => format!("{what} has {count} replicas"),
        }];
        notes.extend(autoscaled(&what, autoscalers)?);
        Ok(notes)
    }

    async fn pause(
        &self,
        workload: &Workload,
        epoch: i64,
        waiting: &Waiting,
    ) -> Result<Option<String>, Trouble> {
        let what = self.named(workload).await?;
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

    async fn bring_back(
        &self,
        step: Step,
        workload: &Workload,
        epoch: i64,
    ) -> Result<Option<String>, Trouble> {
        let what = self.named(workload).await?;
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
            now => Change {
                patch: annotation::removal(),
                note: format!("{what} stays at {now}: somebody has scaled it since"),
            },
        }),
    })
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

/// An autoscaler leaves alone what stands at zero, unless it may scale to zero itself.
fn autoscaled(what: &ResourceName, autoscalers: &[Value]) -> Result<Option<String>, Trouble> {
    let is_its = |autoscaler: &&Value| {
        let scaled = &autoscaler["spec"]["scaleTargetRef"];
        let kind = scaled["kind"].as_str().unwrap_or_default();
        kind.eq_ignore_ascii_case(what.resource.singular()) && scaled["name"] == what.name.as_str()
    };
    let Some(autoscaler) = autoscalers.iter().find(is_its) else { return Ok(None) };
    let name = autoscaler["metadata"]["name"].as_str().unwrap_or_default();
    if autoscaler["spec"]["minReplicas"] == 0 {
        return Err(Trouble::new(
            format!(
                "the HorizontalPodAutoscaler {name} may scale {what} to zero, and so from zero in the middle of the pause"
            ),
            format!("Set minReplicas of {name} to at least 1 until the cutover is over."),
        ));
    }
    Ok(Some(format!("the HorizontalPodAutoscaler {name} rests while {what} is at zero")))
}

#[cfg(test)]
mod tests;
