//! Restarting a workload, once for a step of an operation, or once for each time that the step is due: which one that was stands in
//! an annotation of the pods' template, beside the one that kubectl sets, so that a step which is repeated finds its work done.
//! It stays there: taking it off would be another restart. And how far a rollout has come, as `kubectl rollout status` sees it. Pure.

use serde_json::{Value, json};

use super::super::super::Step;
use super::super::Change;
use super::Trouble;
use crate::kubernetes::{Resource, ResourceName};

/// As `kubectl rollout restart` sets it.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// Which operation and step restarted it last.
const RESTARTED_FOR: &str = "pgsluice.io/restarted-for";

/// Whether the pods are new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rollout {
    /// All of them.
    Complete,
    /// How far it is.
    Incomplete(String),
    /// It has been given up.
    Failed(String),
}

/// Restarts it, unless that was done for this step already, as many `times` as it is due. Marks stay, and epochs begin again with
/// another migration: so `operation` must be a name that no other operation ever has.
pub(super) fn plan(
    step: Step,
    what: &ResourceName,
    object: &Value,
    (operation, times): (&str, u32),
    at: &str,
) -> Option<Change> {
    if times_for(object, step, operation) >= times {
        return None;
    }
    let annotations = json!({ RESTARTED_AT: at, RESTARTED_FOR: mark(step, operation, times) });
    let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
    Some(Change { patch, note: format!("{what} restarted") })
}

/// Whether it was restarted for this step last.
pub(super) fn was_for(object: &Value, step: Step, operation: &str) -> bool {
    times_for(object, step, operation) > 0
}

/// How often it was restarted for this step; never, if it was for another one last.
fn times_for(object: &Value, step: Step, operation: &str) -> u32 {
    let found = object["spec"]["template"]["metadata"]["annotations"][RESTARTED_FOR].as_str();
    let once = mark(step, operation, 1);
    match found.and_then(|found| found.strip_prefix(&once)) {
        None => 0,
        Some("") => 1,
        Some(more) => more.strip_prefix('-').and_then(|times| times.parse().ok()).unwrap_or(0),
    }
}

/// The number only from the second time on.
fn mark(step: Step, operation: &str, times: u32) -> String {
    let step = step.as_str();
    if times > 1 { format!("{operation}-{step}-{times}") } else { format!("{operation}-{step}") }
}

/// Whether another template means other pods.
pub(super) fn check(what: &ResourceName, object: &Value) -> Result<(), Trouble> {
    let spec = &object["spec"];
    if what.resource == Resource::Deployment && spec["paused"] == true {
        return Err(Trouble::new(
            format!("the rollout of {what} is paused: it would not be restarted"),
            format!("kubectl rollout resume deployment/{} -n {}.", what.name, what.namespace),
        ));
    }
    let strategy = &spec["updateStrategy"];
    if what.resource == Resource::StatefulSet
        && (strategy["type"] == "OnDelete"
            || strategy["rollingUpdate"]["partition"].as_u64().is_some_and(|first| first > 0))
    {
        return Err(Trouble::new(
            format!(
                "the update strategy of {what} keeps old pods (OnDelete, or a partition): they would not be restarted"
            ),
            "Let it be RollingUpdate without a partition until the cutover is over, or restart it yourself and take it out of `restart`.",
        ));
    }
    Ok(())
}

/// How far it is.
pub(super) fn rollout(object: &Value) -> Rollout {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    if number(&status["observedGeneration"]) < number(&object["metadata"]["generation"]) {
        return Rollout::Incomplete("its controller has not seen it yet".into());
    }
    let gave_up = |condition: &&Value| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    };
    if status["conditions"].as_array().is_some_and(|all| all.iter().any(|each| gave_up(&each))) {
        return Rollout::Failed("ProgressDeadlineExceeded".into());
    }
    let wanted = spec["replicas"].as_u64().unwrap_or(1);
    let (updated, available) = (number(&status["updatedReplicas"]), number(&status["availableReplicas"]));
    let old = number(&status["replicas"]).saturating_sub(updated);
    if updated < wanted {
        return Rollout::Incomplete(format!("{updated} of {wanted} pods are new"));
    }
    if old > 0 {
        return Rollout::Incomplete(format!("old pods that have not ended: {old}"));
    }
    if available < wanted {
        return Rollout::Incomplete(format!("{available} of {wanted} new pods are available"));
    }
    Rollout::Complete
}
